import itertools

import pytest
import torch
from helpers import arrays, directional_derivative, hinge, normal, one_hot, simplex_points
from hypothesis import given
from hypothesis import strategies as st

from implicitlayers.losses import MulticlassHinge, Squared

N, K = 3, 4
MASK = torch.tensor([True, True, True, False])
SCORES = arrays(N, K, bound=5.0)
SMOOTHINGS = st.sampled_from([0.0, 0.01, 1.0]) | st.floats(0.01, 10)


def make_hinge(smoothing, mask=None):
    mask = torch.ones(K, dtype=torch.bool) if mask is None else mask
    return MulticlassHinge(torch.tensor(smoothing, dtype=torch.float64), mask)


@st.composite
def hinges(draw):
    """A hinge, targets in its simplex, and a dual point in its domain."""
    mask = draw(st.sampled_from([MASK, torch.ones(K, dtype=torch.bool)]))
    Y, Lambda = (_within(draw(simplex_points(N, K)), mask) for _ in range(2))
    if draw(st.booleans()):
        Y = one_hot(Y.argmax(-1), K)
    return make_hinge(draw(SMOOTHINGS), mask), Y, Y - Lambda


def _within(points, mask):
    points = torch.where(mask, points, 0.0)
    points = torch.where(points.sum(-1, keepdim=True) > 0, points, mask.to(points.dtype))
    return points / points.sum(-1, keepdim=True)


@st.composite
def squares(draw):
    return Squared(), draw(arrays(N, K, bound=5.0)), draw(arrays(N, K, bound=5.0))


CASES = squares() | hinges()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@given(CASES, SCORES)
def test_fenchel_young_is_its_definition_and_not_negative(case, Z):
    loss, Y, Theta = case
    term = loss.fenchel_young(Z, Theta, Y)
    close(term, loss.value(Z, Y) + loss.conjugate(Theta, Y) + (Theta * Z).sum(-1))
    assert (term >= 0).all()


@given(CASES, SCORES)
def test_fenchel_young_vanishes_at_the_dual_point(case, Z):
    loss, Y, _ = case
    close(loss.fenchel_young(Z, loss.dual_point(Z, Y), Y), torch.zeros(N, dtype=torch.float64))


@given(CASES, SCORES, SCORES)
def test_dual_point_is_minus_a_subgradient(case, Z, other):
    loss, Y, _ = case
    tangent = loss.value(Z, Y) - (loss.dual_point(Z, Y) * (other - Z)).sum(-1)
    assert (loss.value(other, Y) >= tangent - 1e-9).all()


@given(CASES)
def test_conjugate_is_attained(case):
    """The supremum that the conjugate is, is reached: at z = the conjugate's gradient, less 1 for the hinge."""
    loss, Y, Theta = case
    Z = loss.conjugate_gradient(Y - Theta, Y) - (0 if isinstance(loss, Squared) else 1)
    close(loss.fenchel_young(Z, Theta, Y), torch.zeros(N, dtype=torch.float64))


@given(CASES, SCORES)
def test_conjugate_gradient_and_curvature_match_finite_differences(case, D):
    loss, Y, Theta = case
    Lambda = Y - Theta
    D = D - D.mean(-1, keepdim=True)
    slope = directional_derivative(lambda L: loss.conjugate(Y - L, Y), Lambda, D)
    torch.testing.assert_close((loss.conjugate_gradient(Lambda, Y) * D).sum(-1), slope, rtol=1e-8, atol=1e-8)
    bent = directional_derivative(lambda L: loss.conjugate_gradient(L, Y), Lambda, D)
    curvature = loss.conjugate_curvature(torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(bent, curvature * D, rtol=1e-8, atol=1e-8)


@given(hinges(), SCORES)
def test_hinge_is_the_largest_margin_violation(case, Z):
    loss, Y, _ = case
    sharp = make_hinge(0.0, loss.class_mask)
    allowed = loss.class_mask.nonzero().flatten().tolist()
    expected = [max(1 - Y[i, c] + Z[i, c] for c in allowed) - (Y[i] * Z[i]).sum() for i in range(N)]
    close(sharp.value(Z, Y), torch.stack(expected))


@given(hinges(), SCORES)
def test_hinge_looks_at_the_classes_of_the_mask_only(case, Z):
    loss, Y, _ = case
    mask = loss.class_mask
    alone = MulticlassHinge(loss.smoothing, torch.ones(int(mask.sum()), dtype=torch.bool))
    close(loss.value(Z, Y), alone.value(Z[:, mask], Y[:, mask]))
    Theta = loss.dual_point(Z, Y)
    assert (Theta[:, ~mask] == 0).all()
    close(loss.fenchel_young(Z, Theta, Y), alone.fenchel_young(Z[:, mask], Theta[:, mask], Y[:, mask]))


@given(hinges(), SCORES)
def test_smoothed_hinge_approaches_the_hinge_from_below(case, Z):
    """hinge − γ ≤ smoothed ≤ hinge, since ‖λ − y‖² ≤ 2; and smaller γ is closer."""
    loss, Y, _ = case
    sharp = make_hinge(0.0, loss.class_mask).value(Z, Y)
    before = torch.full_like(sharp, -torch.inf)
    for gamma in (1.0, 0.1, 1e-3, 1e-6):
        smooth = make_hinge(gamma, loss.class_mask).value(Z, Y)
        assert (smooth <= sharp + 1e-7).all()
        assert (smooth >= sharp - gamma - 1e-7).all()
        assert (smooth >= before - 1e-7).all()
        before = smooth


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_hinge_against_independent_code(smoothing):
    Z, Y = normal(20, K), one_hot(torch.arange(20) % K, K)
    expected = torch.from_numpy(hinge(Z.numpy(), Y.numpy(), smoothing))
    close(make_hinge(smoothing).value(Z, Y), expected)


def test_hinge_is_zero_beyond_the_margin():
    Y = one_hot(torch.arange(K), K)
    assert (make_hinge(0.0).value(1.001 * Y, Y) == 0).all()
    assert (make_hinge(0.0).value(0.999 * Y, Y) > 0).all()


@pytest.mark.parametrize("loss", [Squared(), make_hinge(0.0), make_hinge(0.7)], ids=["squared", "hinge", "smooth"])
def test_dual_point_is_minus_the_gradient_of_the_value(loss):
    Z, Y = normal(5, K, seed=3).requires_grad_(), one_hot(torch.arange(5) % K, K)
    (gradient,) = torch.autograd.grad(loss.value(Z, Y).sum(), Z)
    close(loss.dual_point(Z, Y), -gradient)


def test_losses_broadcast_over_batches():
    Z, Y = normal(2, 3, 5, K), one_hot(torch.arange(5) % K, K)
    smoothing = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64).expand(2, 3)
    mask = torch.ones(2, 3, K, dtype=torch.bool)
    whole = MulticlassHinge(smoothing, mask).value(Z, Y.expand_as(Z))
    for a, b in itertools.product(range(2), range(3)):
        close(whole[a, b], make_hinge(float(smoothing[a, b])).value(Z[a, b], Y))
