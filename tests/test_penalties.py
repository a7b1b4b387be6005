import pytest
import torch
from helpers import arrays, normal
from hypothesis import given
from hypothesis import strategies as st

from implicitlayers.constraints import Box, Cardinality, ColumnSimplex
from implicitlayers.features import Support
from implicitlayers.penalties import L1, GroupL2, NoPenalty, Partly, SparseGroup

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


def box(lower, upper, l1=0.0):
    return Box(*(torch.tensor(x, dtype=torch.float64) for x in (lower, upper, l1)))


def simplex(total, allowed=(True,) * M):
    return ColumnSimplex(torch.tensor(total, dtype=torch.float64), torch.tensor(allowed))


def partly(penalty):
    """The second row is an intercept."""
    return Partly(penalty, torch.tensor([True, False, True, True]))


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
CONSTRAINTS = {
    "box": box(-0.5, 0.8),
    "box_l1": box(-0.5, 0.8, 0.3),
    "nonnegative": box(0.0, torch.inf, 0.2),
    "unbounded_box": box(-torch.inf, torch.inf, 0.2),
    "simplex": simplex(1.5),
    "simplex_of_some": simplex(0.7, (True, False, True, True)),
    "partly_l1": partly(l1(0.5)),
    "partly_group": partly(group(1.0)),
    "partly_box": partly(box(-0.3, 0.2, 0.1)),
    "two_rows": Cardinality(torch.tensor(2)),
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


@pytest.mark.parametrize("penalty", (EXAMPLES | CONSTRAINTS).values(), ids=EXAMPLES | CONSTRAINTS)
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


BOUNDS = st.sampled_from([0.0, 1.0, torch.inf]) | st.floats(0.01, 3)
BOXES = st.tuples(BOUNDS, BOUNDS, STRENGTHS).map(lambda b: box(-b[0], b[1], b[2]))
SIMPLICES = st.tuples(st.floats(0.1, 3), st.sampled_from([(True,) * M, (True, False, True, False)])).map(
    lambda s: simplex(*s)
)
CONVEX = BOXES | SIMPLICES | BOXES.map(partly) | NORMS.map(partly)


def inside(penalty, W):
    """A point of the constraint set near W; every W where there is none."""
    if isinstance(penalty, Partly):
        return torch.where(penalty.penalised[:, None], inside(penalty.penalty, W), W)
    if isinstance(penalty, Box):
        return W.clamp(penalty.lower, penalty.upper)
    if isinstance(penalty, ColumnSimplex):
        positive = torch.where(penalty.allowed[:, None], W.abs() + 1e-3, 0.0)
        return penalty.total * positive / positive.sum(0)
    return W


CONVEX_CONSTRAINTS = {name: penalty for name, penalty in CONSTRAINTS.items() if name != "two_rows"}
convex_constraints = pytest.mark.parametrize("penalty", CONVEX_CONSTRAINTS.values(), ids=CONVEX_CONSTRAINTS)


@convex_constraints
@pytest.mark.parametrize("seed", range(5))
def test_generic_points_under_constraints(penalty, seed):
    """All entries differ from zero, as hypothesis hardly tries."""
    check_prox(penalty, 3 * normal(M, K, seed=seed), normal(M, K, seed=seed + 9), 0.5)
    check_conjugate(penalty, 3 * normal(M, K, seed=seed), normal(M, K, seed=seed + 9))


@given(CONVEX, POINTS, POINTS, st.sampled_from([0.5, 1.0, 3.0]))
def test_prox_under_constraints_is_the_nearest_point(penalty, V, other, length):
    check_prox(penalty, V, other, length)


@given(CONVEX, POINTS, POINTS)
def test_conjugate_under_constraints_is_the_supremum(penalty, V, other):
    check_conjugate(penalty, V, other)


def check_prox(penalty, V, other, length):
    """P keeps the constraint, and (V − P)/step is a subgradient there: no other point inside lies below its tangent."""
    P, other = penalty.prox(V, step(length)), inside(penalty, other)
    constraint, constrained = (penalty, P) if not isinstance(penalty, Partly) else (penalty.penalty, P[[0, 2, 3]])
    if isinstance(constraint, Box):
        assert ((constraint.lower <= constrained) & (constrained <= constraint.upper)).all()
    if isinstance(constraint, ColumnSimplex):
        assert (P >= 0).all()
        assert (P[~constraint.allowed] == 0).all()
        torch.testing.assert_close(P.sum(0), constraint.total.expand(K))
    tangent = penalty.value(P) + ((V - P) / length * (other - P)).sum()
    assert penalty.value(other) >= tangent - 1e-8


def check_conjugate(penalty, V, other):
    """⟨V, W⟩ ≤ Ω(W) + Ω*(V) inside, for feasible V; with equality at the maximiser that a long prox step reaches."""
    V = penalty.feasible_scale(V) * V
    if isinstance(penalty, Partly):
        V = torch.where(penalty.penalised[:, None], V, 0.0)
    conjugate, other = penalty.conjugate(V), inside(penalty, other)
    assert conjugate.isfinite()
    assert (V * other).sum() <= penalty.value(other) + conjugate + 1e-8
    far = 1e7
    best = penalty.prox(far * V, step(far))
    assert float((V * best).sum() - penalty.value(best)) == pytest.approx(float(conjugate), abs=1e-5)


@given(BOXES, POINTS)
def test_only_directions_without_a_bound_limit_the_scale_of_a_box(penalty, V):
    c = penalty.feasible_scale(V)
    open_ended = ((V > 0) & penalty.upper.isinf()) | ((V < 0) & penalty.lower.isinf())
    largest = torch.where(open_ended, V.abs(), 0.0).max()
    assert c == (1.0 if largest <= penalty.l1 else penalty.l1 / largest)


def test_a_simplex_is_feasible_for_every_dual_point():
    V = normal(M, K)
    assert simplex(1.0).feasible_scale(1e6 * V) == 1
    torch.testing.assert_close(simplex(2.0).conjugate(V), 2 * V.amax(0).sum())
    some = simplex(2.0, (True, False, True, False))
    torch.testing.assert_close(some.conjugate(V), 2 * V[[0, 2]].amax(0).sum())


@given(POINTS, st.integers(1, M))
def test_cardinality_keeps_the_longest_rows(V, size):
    """Nearer than any other point with as few rows."""
    penalty = Cardinality(torch.tensor(size))
    P = penalty.prox(V, step())
    assert penalty.value(P) == 0
    assert ((P == V) | (P == 0)).all()
    lost = (V - P).square().sum()
    assert float(lost) == pytest.approx(float(V.square().sum(-1).sort().values[: M - size].sum()))
    if (V != 0).any(-1).sum() > size:
        assert penalty.value(V).isinf()


@pytest.mark.parametrize("name", ["l1", "group", "weighted_group", "sparse_group"])
def test_a_partial_penalty_leaves_the_other_rows_alone(name):
    V, penalty = 3 * normal(M, K, seed=4), EXAMPLES[name]
    whole, rest = partly(penalty), partly(penalty).penalised
    without = torch.where(rest[:, None], V, 0.0)
    P = whole.prox(V, step())
    assert torch.equal(P[1], V[1])
    torch.testing.assert_close(P[rest], penalty.prox(without, step())[rest])
    torch.testing.assert_close(whole.value(V), penalty.value(without))
    torch.testing.assert_close(whole.feasible_scale(V), penalty.feasible_scale(without))
    assert whole.kinks(V, step()).distance[1].isinf().all()
    torch.testing.assert_close(whole.kinks(V, step()).distance[rest], penalty.kinks(without, step()).distance[rest])


@pytest.mark.parametrize("name", [name for name in CONVEX_CONSTRAINTS if "simplex" not in name])
def test_kinks_are_where_the_curvature_jumps(name):
    """An entry moved across the nearest kink, and no less, changes the derivative of prox."""
    penalty, V = CONSTRAINTS[name], normal(M, K, seed=4)
    distance = penalty.kinks(V, step()).distance.expand_as(V)

    def curvature(V):
        return penalty.curvature(V, step()).across

    kinked = distance.isfinite() & (distance > 0)
    assert kinked.any()
    for i, j in kinked.nonzero().tolist():
        E = torch.zeros_like(V)
        E[i, j] = 1.0
        if "group" in name:
            E = torch.where(E.any(-1, keepdim=True), V / V.norm(dim=-1, keepdim=True), 0.0)
        near, far = (
            [curvature(V + sign * share * distance[i, j] * E) > 0 for sign in (-1, 1)] for share in (0.99, 1.01)
        )
        here = curvature(V) > 0
        assert all(torch.equal(face, here) for face in near), (i, j)
        assert not all(torch.equal(face, here) for face in far), (i, j)


def test_kinks_of_a_simplex_are_at_its_threshold():
    """(2, 1, 0) on the simplex of total two: threshold 0.5, entries 1.5, 0.5 and 0."""
    V = numbers([2.0], [1.0], [0.0], [5.0])
    penalty = simplex(2.0, (True, True, True, False))
    assert penalty.prox(V, step()).flatten().tolist() == [1.5, 0.5, 0.0, 0.0]
    assert penalty.kinks(V, step()).distance.flatten().tolist() == [1.5, 0.5, 0.5, torch.inf]


@given(arrays(2, M, K), st.integers(1, M - 1))
def test_padding_is_in_no_group(V, few):
    """An element with fewer features than its neighbour is as it is alone."""
    chosen = torch.tensor([[True] * M, [True] * few + [False] * (M - few)])
    penalty = SparseGroup(numbers(0.5, 0.5), numbers(1.0, 2.0, 2.0, 1.0).expand(2, M), GROUPS.expand(2, M))
    alone = SparseGroup(numbers(0.5), penalty.group_l1[1:, :few], GROUPS[None, :few])
    features = Support.of(chosen)
    scale = penalty.take(features).feasible_scale(features.take(V.mT).mT)
    assert scale[1] == alone.feasible_scale(V[1:, :few])[0]
