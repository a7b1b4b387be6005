import itertools

import pytest
import torch
from helpers import arrays, directional_derivative, hinge, normal, one_hot, simplex_points, uniform
from hypothesis import given
from hypothesis import strategies as st

from implicitlayers.hinges import MulticlassHinge, SmoothedHinge
from implicitlayers.losses import Huber, Multinomial, Squared, wright_omega

N, K = 3, 4
MASK = torch.tensor([True, True, True, False])
SCORES = arrays(N, K, bound=5.0)
SMOOTHINGS = st.sampled_from([0.0, 0.01, 1.0]) | st.floats(0.01, 10)


def make_hinge(smoothing, mask=None):
    mask = torch.ones(K, dtype=torch.bool) if mask is None else mask
    return SmoothedHinge(torch.tensor(smoothing, dtype=torch.float64), mask) if smoothing else MulticlassHinge(mask)


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


@st.composite
def multinomials(draw):
    """A softmax, targets in its simplex, and a dual point in its domain, vertices included."""
    mask = draw(st.sampled_from([MASK, torch.ones(K, dtype=torch.bool)]))
    Y, P = (_within(draw(simplex_points(N, K)), mask) for _ in range(2))
    return Multinomial(mask), Y, Y - P


@st.composite
def hubers(draw):
    delta = draw(st.sampled_from([0.5, 1.0]) | st.floats(0.1, 5))
    Theta = draw(arrays(N, K, bound=5.0)).clamp(-delta, delta)
    return Huber(torch.tensor(delta, dtype=torch.float64)), draw(arrays(N, K, bound=5.0)), Theta


SMOOTH = squares() | multinomials() | hubers()
QUADRATIC = squares() | hinges()
CASES = SMOOTH | hinges()


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


@given(QUADRATIC)
def test_conjugate_is_attained(case):
    """The supremum that the conjugate is, is reached: at z = the conjugate's gradient, less 1 for the hinge."""
    loss, Y, Theta = case
    Z = loss.conjugate_gradient(Y - Theta, Y) - (0 if isinstance(loss, Squared) else 1)
    close(loss.fenchel_young(Z, Theta, Y), torch.zeros(N, dtype=torch.float64))


@given(QUADRATIC, SCORES)
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
    alone = loss._replace(class_mask=torch.ones(int(mask.sum()), dtype=torch.bool))
    close(loss.value(Z, Y), alone.value(Z[:, mask], Y[:, mask]))
    Theta = loss.dual_point(Z, Y)
    assert (Theta[:, ~mask] == 0).all()
    close(loss.fenchel_young(Z, Theta, Y), alone.fenchel_young(Z[:, mask], Theta[:, mask], Y[:, mask]))


@given(hinges(), SCORES)
def test_a_smoothing_of_zero_is_the_hinge(case, Z):
    loss, Y, Theta = case
    sharp, smooth = MulticlassHinge(loss.class_mask), SmoothedHinge(torch.zeros(()).double(), loss.class_mask)
    for name, arguments in {
        "value": (Z, Y),
        "dual_point": (Z, Y),
        "conjugate": (Theta, Y),
        "fenchel_young": (Z, Theta, Y),
        "conjugate_gradient": (Y - Theta, Y),
        "conjugate_curvature": (torch.ones(()).double(),),
    }.items():
        close(getattr(sharp, name)(*arguments), getattr(smooth, name)(*arguments))


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
    whole = SmoothedHinge(smoothing, mask).value(Z, Y.expand_as(Z))
    for a, b in itertools.product(range(2), range(3)):
        close(whole[a, b], make_hinge(float(smoothing[a, b])).value(Z[a, b], Y))


@given(multinomials())
def test_conjugate_of_the_softmax_is_attained(case):
    """At z = log p, where p is not at the boundary."""
    loss, Y, Theta = case
    mixed = 0.9 * (Y - Theta) + 0.1 * loss.class_mask / loss.class_mask.sum()
    Z = torch.where(loss.class_mask, mixed, 1.0).log()
    close(loss.fenchel_young(Z, Y - mixed, Y), torch.zeros(N, dtype=torch.float64))


@given(hubers())
def test_conjugate_of_hubers_loss_is_attained(case):
    """At z = y − θ; and where |θ| = δ, anywhere beyond."""
    loss, Y, Theta = case
    close(loss.fenchel_young(Y - Theta, Theta, Y), torch.zeros(N, dtype=torch.float64))
    edge = loss.delta * Theta.sign()
    close(loss.fenchel_young(Y - 3 * edge, edge, Y), torch.zeros(N, dtype=torch.float64))


def test_hubers_loss_of_one_example():
    loss = Huber(torch.tensor(1.0, dtype=torch.float64))
    Z = torch.tensor([[0.5, -3.0]], dtype=torch.float64)
    assert float(loss.value(Z, torch.zeros_like(Z))) == 0.125 + 2.5
    assert loss.dual_point(Z, torch.zeros_like(Z)).tolist() == [[-0.5, 1.0]]


def test_softmax_looks_at_the_classes_of_the_mask_only():
    Z, Y = normal(5, K), one_hot(torch.arange(5) % 3, K)
    whole, alone = Multinomial(MASK), Multinomial(torch.ones(3, dtype=torch.bool))
    close(whole.value(Z, Y), alone.value(Z[:, :3], Y[:, :3]))
    close(whole.value(Z, Y), -torch.log_softmax(Z[:, :3], -1)[torch.arange(5), torch.arange(5) % 3])
    assert (whole.dual_point(Z, Y)[:, 3] == 0).all()
    assert (whole.curvature(Z, Y)[:, 3] == 0).all()


SMOOTH_EXAMPLES = {
    "squared": Squared(),
    "softmax": Multinomial(torch.ones(K, dtype=torch.bool)),
    "masked_softmax": Multinomial(MASK),
    "huber": Huber(torch.tensor(0.7, dtype=torch.float64)),
}
smooth_examples = pytest.mark.parametrize("loss", SMOOTH_EXAMPLES.values(), ids=SMOOTH_EXAMPLES)


def targets_of(loss, n, seed=0):
    """Targets that suit the loss; every class of the mask is there."""
    return one_hot(torch.arange(n) % 3, K) if isinstance(loss, Multinomial) else normal(n, K, seed=seed + 50)


@smooth_examples
@pytest.mark.parametrize("seed", range(3))
def test_curvature_is_the_derivative_of_the_gradient(loss, seed):
    Z, D, Y = normal(9, K, seed=seed), normal(9, K, seed=seed + 1), targets_of(loss, 9, seed)
    slope = directional_derivative(lambda Z: loss.value(Z, Y), Z, D, 1e-5)
    torch.testing.assert_close(-(loss.dual_point(Z, Y) * D).sum(-1), slope, rtol=1e-7, atol=1e-8)
    bent = directional_derivative(lambda Z: -loss.dual_point(Z, Y), Z, D, 1e-5)
    torch.testing.assert_close((loss.curvature(Z, Y) @ D[..., None])[..., 0], bent, rtol=1e-7, atol=1e-8)


@given(SMOOTH, SCORES)
def test_smoothness_bounds_the_curvature(case, Z):
    loss, Y, _ = case
    eigenvalues = torch.linalg.eigvalsh(loss.curvature(Z, Y))
    assert eigenvalues.min() >= -1e-12
    assert eigenvalues.max() <= loss.smoothness() + 1e-12


def test_smoothness_is_sharp():
    """Two classes, equally likely: an eigenvalue of ½."""
    Z = torch.tensor([[0.0, 0.0, -60.0, -60.0]], dtype=torch.float64)
    largest = torch.linalg.eigvalsh(SMOOTH_EXAMPLES["softmax"].curvature(Z, Z)).max()
    assert float(largest) == pytest.approx(SMOOTH_EXAMPLES["softmax"].smoothness())


@given(SMOOTH, SCORES, st.integers(0, 99))
def test_balanced_is_feasible_and_has_weighted_sum_zero(case, Z, seed):
    loss, Y, Theta = case
    weight = uniform(N, seed=seed) * (torch.arange(N) > 0 if seed % 3 == 0 else 1.0)
    weight = weight / weight.sum()
    for point in (Theta, loss.dual_point(Z, Y)):
        balanced = loss.balanced(point, Y, weight)
        assert (weight[:, None] * balanced).sum(0).abs().max() <= 1e-12
        if isinstance(loss, Huber):
            assert (balanced[weight > 0].abs() <= loss.delta * (1 + 1e-12)).all()
        if isinstance(loss, Multinomial):
            P = (Y - balanced)[weight > 0]
            assert P.min() >= 0
            close(P.sum(-1), torch.ones(len(P), dtype=torch.float64))
            assert (P[:, ~loss.class_mask] == 0).all()


@smooth_examples
def test_balanced_keeps_a_balanced_point(loss):
    Y, weight = targets_of(loss, 9), uniform(9) / uniform(9).sum()
    constant = loss.best_constant(Y, weight).expand_as(Y)
    Theta = loss.dual_point(constant, Y)
    close(loss.balanced(Theta, Y, weight), Theta)


@given(SMOOTH, arrays(1, K, bound=3.0), st.integers(0, 99))
def test_best_constant_minimises(case, D, seed):
    """No other constant does better; absent samples have no say."""
    loss, Y, _ = case
    weight = uniform(N, seed=seed) * (torch.arange(N) > 0 if seed % 3 == 0 else 1.0)
    weight = weight / weight.sum()

    def value(constant):
        return (weight * loss.value(constant.expand_as(Y), Y)).sum()

    best = loss.best_constant(Y, weight)
    for length in (1e-3, 1.0):
        assert value(best) <= value(best + length * D) + 1e-10


@smooth_examples
def test_gauge_is_the_projection_on_what_changes_no_loss(loss):
    """And all other constants do: curvature and gauge together are definite."""
    Z, Y = normal(9, K), targets_of(loss, 9)
    gauge = torch.zeros(K, K, dtype=torch.float64) if loss.gauge() is None else loss.gauge()
    torch.testing.assert_close(gauge @ gauge, gauge)
    torch.testing.assert_close(gauge, gauge.mT)
    close(loss.value(Z + normal(1, K, seed=3) @ gauge, Y), loss.value(Z, Y))
    assert torch.linalg.eigvalsh(loss.curvature(Z, Y).mean(0) + gauge).min() > 1e-3


def test_smooth_losses_broadcast_over_batches():
    Z, delta = normal(2, 5, K), torch.tensor([0.5, 2.0], dtype=torch.float64)
    Y = normal(2, 5, K, seed=1)
    masks = torch.stack([MASK, torch.ones(K, dtype=torch.bool)])
    P, weight = one_hot(torch.arange(5) % 3, K).expand(2, 5, K), torch.full((2, 5), 0.2, dtype=torch.float64)
    for b in range(2):
        for whole, alone, targets in (
            (Huber(delta), Huber(delta[b]), Y),
            (Multinomial(masks), Multinomial(masks[b]), P),
        ):
            close(whole.value(Z, targets)[b], alone.value(Z[b], targets[b]))
            close(whole.curvature(Z, targets)[b], alone.curvature(Z[b], targets[b]))
            close(whole.best_constant(targets, weight)[b], alone.best_constant(targets[b], weight[b]))
            Theta = whole.dual_point(Z, targets)
            close(whole.balanced(Theta, targets, weight)[b], alone.balanced(Theta[b], targets[b], weight[b]))


@given(SMOOTH, arrays(N, K, bound=5.0), SCORES, st.sampled_from([1e-5, 0.1, 1.0, 30.0]))
def test_proximal_scores_are_those_whose_dual_point_is_given(case, Z0, Z, tau):
    """z ↦ θ(z) = −∇ℓ(z) − τ(z − z⁰) and back, for scores that are met and dual points that no score without τ has."""
    loss, Y, Theta = case
    tau = torch.tensor(tau, dtype=torch.float64)
    met = loss.dual_point(Z, Y) - tau * (Z - Z0)
    torch.testing.assert_close(loss.proximal_scores(met, Z0, tau, Y), Z, rtol=1e-9, atol=1e-14 / float(tau) + 1e-9)
    for theta in (met, Theta, 3 * Theta):
        z = loss.proximal_scores(theta, Z0, tau, Y)
        close(loss.dual_point(z, Y) - tau * (z - Z0), theta)


def test_wright_omega_solves_its_equation():
    y = torch.cat([torch.linspace(-690, 1e5, 5001), torch.linspace(-5, 5, 5001)]).to(torch.float64)
    w = wright_omega(y)
    torch.testing.assert_close(w + w.log(), y, rtol=1e-14, atol=1e-13)
    assert wright_omega(torch.tensor([-torch.inf], dtype=torch.float64)).tolist() == [0.0]
