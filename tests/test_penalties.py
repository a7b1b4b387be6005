import pytest
import torch
from helpers import arrays, normal
from hypothesis import given
from hypothesis import strategies as st

from implicitlayers.penalties import L1, GroupL2, NoPenalty, SparseGroup

M, K = 4, 3
POINTS = arrays(M, K)
GROUPS = torch.tensor([0, 1, 1, 0])


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def l1(strength):
    return L1(torch.tensor(strength, dtype=torch.float64))


def group(*strengths):
    """One strength for all rows, or one per row."""
    return GroupL2(numbers(*strengths))


def sparse_group(strength, group_strength):
    strengths = group_strength * numbers(1.0, 2.0, 2.0, 1.0)
    return SparseGroup(torch.tensor(strength, dtype=torch.float64), strengths, GROUPS)


STRENGTHS = st.sampled_from([0.0, 1.0]) | st.floats(0.01, 5)
NORMS = (
    STRENGTHS.map(l1)
    | STRENGTHS.map(group)
    | st.tuples(*[STRENGTHS] * M).map(lambda s: group(*s))
    | st.tuples(STRENGTHS, STRENGTHS).map(lambda s: sparse_group(*s))
)
PENALTIES = st.just(NoPenalty()) | NORMS
EXAMPLES = {
    "none": NoPenalty(),
    "l1": l1(0.5),
    "group": group(1.0),
    "weighted_group": group(0.3, 0.9, 1.5, 0.0),
    "sparse_group": sparse_group(0.4, 0.5),
    "sparse_group_without_l1": sparse_group(0.0, 0.5),
}
examples = pytest.mark.parametrize("penalty", EXAMPLES.values(), ids=EXAMPLES)


def step(value=1.0):
    return torch.tensor(value, dtype=torch.float64)


@given(PENALTIES, POINTS, POINTS, st.sampled_from([0.5, 1.0, 3.0]))
def test_prox_belongs_to_the_value(penalty, V, other, length):
    """(V − P)/step is a subgradient of the value at P = prox(V, step): the value lies above that tangent."""
    P = penalty.prox(V, step(length))
    tangent = penalty.value(P) + ((V - P) / length * (other - P)).sum()
    assert penalty.value(other) >= tangent - 1e-9


@given(PENALTIES, POINTS, POINTS, st.floats(0, 5))
def test_value_is_a_norm(penalty, W, other, scale):
    torch.testing.assert_close(penalty.value(scale * W), scale * penalty.value(W), rtol=1e-12, atol=1e-12)
    assert penalty.value(W + other) <= penalty.value(W) + penalty.value(other) + 1e-9
    assert penalty.value(torch.zeros_like(W)) == 0


def test_values_of_one_example():
    W = numbers([3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -2.0], [0.0, 0.0, 12.0])
    assert NoPenalty().value(W) == 0
    assert l1(0.5).value(W) == 10.5
    assert group(0.5).value(W) == 9.5
    assert group(1.0, 2.0, 3.0, 4.0).value(W) == 59
    # Rows 0 and 3 form a group of norm 13, rows 1 and 2 one of norm 2, of twice the strength.
    assert float(sparse_group(0.5, 1.0).value(W)) == pytest.approx(10.5 + 13 + 4)


@given(NORMS, POINTS)
def test_feasible_scale_is_the_largest(penalty, V):
    """c·V is in the dual ball, which prox maps to zero; a little more is not, unless nothing had to be scaled."""
    c = penalty.feasible_scale(V)
    assert 0 <= c <= 1
    assert penalty.prox((1 - 1e-9) * c * V, step()).abs().max() <= 1e-7
    assert penalty.conjugate(c * V) == 0
    if c < 1:
        assert (penalty.prox((1.001 * c + 1e-6) * V, step()) != 0).any()


@pytest.mark.parametrize("name", ["l1", "group", "sparse_group", "sparse_group_without_l1"])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_feasible_scale_is_sharp(name, size):
    penalty, V = EXAMPLES[name], size * normal(M, K, seed=4)
    c = penalty.feasible_scale(V)
    assert 0 < c < 1
    assert (penalty.prox((1 - 1e-9) * c * V, step()) == 0).all()
    assert (penalty.prox((1 + 1e-9) * c * V, step()) != 0).any()


def test_only_zero_is_feasible_without_a_penalty():
    assert NoPenalty().feasible_scale(normal(M, K)) == 0
    assert NoPenalty().feasible_scale(torch.zeros(M, K)) == 1


@examples
@pytest.mark.parametrize("length", [0.3, 1.0])
def test_curvature_is_the_derivative_of_prox(penalty, length):
    V = normal(M, K, seed=4)
    expected = torch.autograd.functional.jacobian(lambda V: penalty.prox(V, step(length)), V).reshape(M * K, M * K)
    curvature = penalty.curvature(V, step(length))
    identity = torch.eye(M * K, dtype=torch.float64)
    torch.testing.assert_close(curvature.apply(identity), expected, rtol=1e-11, atol=1e-11)
    half = curvature.apply(curvature.apply(identity, 0.5), 0.5)
    torch.testing.assert_close(half, expected, rtol=1e-11, atol=1e-11)


@examples
def test_all_is_finite_at_zero(penalty):
    """Values, and derivatives of prox."""
    W = torch.zeros(M, K, dtype=torch.float64)
    assert (penalty.prox(W, step()) == 0).all()
    assert torch.isfinite(penalty.value(W))
    assert torch.isfinite(penalty.feasible_scale(W))
    assert torch.isfinite(penalty.curvature(W, step()).apply(torch.eye(M * K, dtype=torch.float64))).all()
    assert torch.isfinite(torch.func.jacrev(lambda W: penalty.prox(W, step()))(W)).all()
    assert torch.isfinite(torch.func.jacfwd(torch.func.jacrev(lambda W: penalty.prox(W, step())))(W)).all()


def test_kinks_are_at_the_threshold():
    V = numbers([3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -2.0], [0.0, 0.0, 12.0])
    distance, scale = group(5.0).kinks(V, step())
    assert distance.flatten().tolist() == [0.0, 5.0, 3.0, 7.0]
    assert (scale == 5).all()
    assert group(0.0).kinks(V, step()).distance.isinf().all()
    assert (l1(2.0).kinks(V, step()).distance == (V.abs() - 2).abs()).all()
    assert NoPenalty().kinks(V, step()).distance.isinf().all()


def test_every_element_of_a_batch_has_its_own_strength():
    V, strengths, length = normal(2, M, K), numbers(0.5, 2.0), numbers(1.0, 0.5)
    for whole, alone in ((L1(strengths), l1), (GroupL2(strengths[:, None]), group)):
        for b in range(2):
            one = alone(float(strengths[b]))
            torch.testing.assert_close(whole.value(V)[b], one.value(V[b]))
            torch.testing.assert_close(whole.feasible_scale(V)[b], one.feasible_scale(V[b]))
            torch.testing.assert_close(whole.prox(V, length)[b], one.prox(V[b], length[b]))
