import numpy as np
import oracles
import pytest
import torch
from helpers import as_numpy, labels, normal, one_hot, relative_error, solve_alone, svm_gap, svm_objective, uniform
from hypothesis import given
from hypothesis import strategies as st

import implicitlayers as il
from implicitlayers.domains import Simplex

VARIANTS = [(0.0, 0.0), (0.05, 0.0), (0.0, 0.5), (0.05, 0.5)]
variants = pytest.mark.parametrize(("l1", "smoothing"), VARIANTS)


def solved(X, Y, l2=0.1, l1=0.0, smoothing=0.0, k=None, tol=1e-12, **arguments):
    return solve_alone(il.MulticlassSVM(l2, l1, smoothing, n_classes=k, tol=tol), X, Y, **arguments)


def random_problem(seed):
    """Sizes, strengths and data all random: n ≤ 30, m ≤ 60, k ≤ 6, half of them weighted, a third smoothed."""
    rng = np.random.default_rng(seed)
    n, m, k = rng.integers(4, 31), rng.integers(1, 61), rng.integers(2, 7)
    l2 = float(np.exp(rng.uniform(np.log(0.02), 0)))
    l1 = float(rng.choice([0.0, 0.02, 0.1]) * rng.uniform(0.5, 1.5))
    smoothing = float(rng.choice([0.0, 0.0, 0.5]))
    X, y = normal(n, m, seed=seed), labels(n, k=int(k), seed=seed)
    weight = uniform(n, seed=seed, low=0.1, high=2) if seed % 2 else None
    return X, one_hot(y, int(k)), {"l2": l2, "l1": l1, "smoothing": smoothing}, weight


@pytest.mark.parametrize("seed", range(50))
def test_agrees_with_cvxpy(seed):
    X, Y, strengths, weight = random_problem(seed)
    solution = solve_alone(il.MulticlassSVM(**strengths), X, Y, sample_weight=weight)
    W, value, error = oracles.svm(X, Y, **strengths, sample_weight=weight)
    assert np.abs(as_numpy(solution.coef) - W).max() <= error
    assert float(solution.objective) == pytest.approx(value, rel=1e-9)
    assert float(solution.objective) == pytest.approx(
        svm_objective(X, Y, solution.coef, **strengths, sample_weight=weight), rel=1e-12
    )


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("seed", range(8))
def test_gap_is_confirmed_by_independent_float64_code(seed, dtype, tol):
    X, Y, strengths, weight = random_problem(100 + seed)
    X = X.to(dtype)
    solution = solve_alone(il.MulticlassSVM(**strengths), X, Y.to(dtype), sample_weight=weight)
    assert solution.coef.dtype == dtype
    confirmed = svm_gap(X, Y, solution.coef, solution.dual, **strengths, sample_weight=weight)
    assert confirmed <= tol
    # The dual point is rounded to the dtype as well, so that the two gaps agree up to that rounding only.
    assert float(solution.gap) == pytest.approx(confirmed, abs=1e-13 if dtype == torch.float64 else 1e-6)


@given(
    st.integers(1, 8),
    st.integers(1, 12),
    st.integers(2, 4),
    st.sampled_from([1e-3, 0.1, 1.0]),
    st.sampled_from([0.0, 0.05]),
    st.integers(0, 10**6),
)
def test_small_problems_are_certified_or_flagged(n, m, k, l2, l1, seed):
    """Small integers for features: ties, duplicates, zeros, and separable problems abound."""
    X = normal(n, m, seed=seed).round()
    Y = one_hot(torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed)), k)
    solution = il.MulticlassSVM(l2, l1, on_fail="ignore").solve(X, Y)
    assert torch.isfinite(solution.coef).all()
    assert torch.isfinite(solution.dual).all()
    confirmed = svm_gap(X, Y, solution.coef, solution.dual, l2, l1)
    assert float(solution.gap) == pytest.approx(confirmed, abs=1e-12)
    assert bool(solution.converged) == (float(solution.gap) <= 1e-9)


HARD = {
    "fewer_features_than_samples": lambda: (normal(40, 3), labels(40, k=4), 4),
    "more_features_than_samples": lambda: (normal(10, 80), labels(10, k=4), 4),
    "two_classes": lambda: (normal(25, 10), labels(25, k=2), 2),
    "imbalance": lambda: (normal(40, 10), torch.tensor([0] * 38 + [1, 2]), 3),
    "one_sample_per_class": lambda: (normal(5, 20), torch.arange(5), 5),
    "one_sample": lambda: (normal(1, 5), torch.tensor([1]), 3),
    "one_class_only": lambda: (normal(12, 5), torch.zeros(12, dtype=torch.int64), 3),
    "duplicate_samples": lambda: (normal(8, 20).repeat(3, 1), labels(8, k=3).repeat(3), 3),
    "contradicting_duplicates": lambda: (normal(8, 20).repeat(3, 1), torch.arange(24) % 3, 3),
    "duplicate_features": lambda: (normal(20, 6).repeat(1, 4), labels(20, k=3), 3),
    "constant_feature": lambda: (torch.cat([normal(20, 6), torch.ones(20, 1)], 1), labels(20, k=3), 3),
    "large_scale": lambda: (100 * normal(20, 10), labels(20, k=3), 3),
    "small_scale": lambda: (1e-4 * normal(20, 10), labels(20, k=3), 3),
    "zeros": lambda: (torch.zeros(10, 4, dtype=torch.float64), labels(10, k=3), 3),
}


@pytest.mark.parametrize("l2", [1e-3, 0.1])
@pytest.mark.parametrize("l1", [0.0, 0.03])
@pytest.mark.parametrize("name", HARD)
def test_hard_problems_are_certified_or_flagged(name, l1, l2):
    X, y, k = HARD[name]()
    solution = il.MulticlassSVM(l2, l1, n_classes=k, on_fail="ignore").solve(X, y)
    confirmed = svm_gap(X, one_hot(y, k), solution.coef, solution.dual, l2, l1)
    assert float(solution.gap) == pytest.approx(confirmed, abs=1e-12 + 1e-9 * abs(confirmed))
    assert bool(solution.converged) == (float(solution.gap) <= 1e-9)
    if l2 >= 0.1 and name != "large_scale":
        assert solution.converged


@variants
def test_mask_equals_the_task_without_those_classes(l1, smoothing):
    """Tasks of four and of two classes in one batch equal the tasks alone, in value and derivative."""
    X, Y = normal(2, 16, 10), torch.zeros(2, 16, 4, dtype=torch.float64)
    Y[0], Y[1, :, [0, 2]] = one_hot(labels(16, k=4), 4), one_hot(labels(16, k=2), 2)
    mask = torch.tensor([[True] * 4, [True, False, True, False]])
    C = normal(10, 4, seed=1)

    def loss_of_two(X):
        coef = solved(X[None], Y[1:, :, [0, 2]], l1=l1, smoothing=smoothing).coef[0]
        return (coef * C[:, [0, 2]]).sum()

    batch = X.clone().requires_grad_()
    together = solved(batch, Y, l1=l1, smoothing=smoothing, class_mask=mask)
    alone = solved(X[1], Y[1][:, [0, 2]], l1=l1, smoothing=smoothing)
    assert (together.coef[1][:, [1, 3]] == 0).all()
    assert torch.equal(together.support[1], alone.support)
    assert relative_error(together.coef[1][:, [0, 2]], alone.coef) <= 1e-8
    assert relative_error(together.coef[0], solved(X[0], Y[0], l1=l1, smoothing=smoothing).coef) <= 1e-8
    (gradient,) = torch.autograd.grad((together.coef[1] * C).sum(), batch)
    assert (gradient[0] == 0).all()
    assert relative_error(gradient[1], torch.func.grad(loss_of_two)(X[1])) <= 1e-6


@variants
def test_weight_zero_means_absent(l1, smoothing):
    """Value and derivatives with respect to the samples that are there; nothing flows into the others' features."""
    X, y, weight = normal(14, 20), labels(14, k=3), uniform(14)
    weight[[4, 9]] = 0
    there = weight > 0
    C = normal(20, 3, seed=1)

    def derivatives(X, y, weight):
        X, weight = X.clone().requires_grad_(), weight.clone().requires_grad_()
        coef = solved(X, y, l1=l1, smoothing=smoothing, k=3, sample_weight=weight).coef
        return coef.detach(), *torch.autograd.grad((coef * C).sum(), (X, weight))

    coef, of_X, of_weight = derivatives(X, y, weight)
    coef_alone, of_X_alone, of_weight_alone = derivatives(X[there], y[there], weight[there])
    assert relative_error(coef, coef_alone) <= 1e-9
    assert relative_error(of_X[there], of_X_alone) <= 1e-7
    assert (of_X[~there] == 0).all()
    # Where all margins tie weights do not matter: zero, up to rounding.
    assert relative_error(of_weight[there], of_weight_alone, floor=1e-7) <= 1e-7
    assert torch.isfinite(of_weight).all()


@variants
def test_derivative_with_respect_to_a_weight_of_zero_is_that_of_entering(l1, smoothing):
    """One-sided differences of second order: no weight is negative."""
    X, y, weight, C = normal(14, 20), labels(14, k=3), uniform(14), normal(20, 3, seed=1)
    weight[4] = 0
    e = torch.zeros(14, dtype=torch.float64)
    e[4] = 1e-5

    def value(weight):
        return (solved(X, y, l2=0.3, l1=l1, smoothing=smoothing, k=3, sample_weight=weight).coef * C).sum()

    expected = (4 * value(weight + e) - 3 * value(weight) - value(weight + 2 * e)) / 2e-5
    assert abs(expected) > 1e-3
    assert relative_error(torch.func.grad(value)(weight)[4], expected) <= 1e-4


def test_label_of_an_absent_sample_is_not_looked_at():
    X, y, weight = normal(10, 6), labels(10, k=3), uniform(10)
    weight[3], other = 0, y.clone()
    other[3] = 99
    expected = solved(X, y, k=3, sample_weight=weight).coef
    assert torch.equal(solved(X, other, k=3, sample_weight=weight).coef, expected)


@variants
def test_integer_weights_equal_repeated_samples(l1, smoothing):
    X, y, counts = normal(9, 12), labels(9, k=3), torch.tensor([1, 2, 3, 1, 1, 2, 1, 4, 1])
    layer = il.MulticlassSVM(0.1, l1, smoothing)
    weighted = solve_alone(layer, X, y, sample_weight=counts.to(torch.float64))
    repeated = solve_alone(layer, X.repeat_interleave(counts, 0), y.repeat_interleave(counts))
    assert float(weighted.objective) == pytest.approx(float(repeated.objective), abs=2e-9)
    # Repeated samples make the dual singular: how far the two may be apart is what they certify.
    bound = weighted.coef_error + repeated.coef_error
    assert bound <= 1e-3 * weighted.coef.norm()
    assert (weighted.coef - repeated.coef).norm() <= bound + 1e-12


def test_weights_count_relatively():
    X, y, weight = normal(9, 12), labels(9, k=3), uniform(9)
    coef = solved(X, y, sample_weight=weight).coef
    assert relative_error(solved(X, y, sample_weight=7 * weight).coef, coef) <= 1e-9
    assert relative_error(solved(X, y, sample_weight=torch.ones(9)).coef, solved(X, y).coef) <= 1e-12


@variants
def test_equivariance_under_permutations(l1, smoothing):
    X, Y = normal(15, 20), one_hot(labels(15, k=4), 4)
    coef = solved(X, Y, l1=l1, smoothing=smoothing).coef
    generator = torch.Generator().manual_seed(3)
    samples, features, classes = (torch.randperm(size, generator=generator) for size in (15, 20, 4))
    changed = solved(X[samples][:, features], Y[samples][:, classes], l1=l1, smoothing=smoothing).coef
    assert relative_error(changed, coef[features][:, classes]) <= 1e-8


def test_coefficients_sum_to_zero_over_classes():
    """The scores' mean over classes does not act on the hinge, so that penalties remove it."""
    for l1, smoothing in VARIANTS:
        coef = solved(normal(15, 20), labels(15, k=4), l1=l1, smoothing=smoothing).coef
        assert coef.sum(-1).abs().max() <= 1e-10


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_zero_at_the_bound_on_l1(k, smoothing):
    """k/(k−1)·max_j ‖X_jᵀ s̄ (Y − 1/k)‖ is enough for W = 0; far below it is not."""
    X, y, weight = normal(20, 15), labels(20, k=k), uniform(20)
    s = weight / weight.sum()
    bound = float(k / (k - 1) * (X.mT @ (s[:, None] * (one_hot(y, k) - 1 / k))).norm(dim=-1).max())
    for factor in (1.0, 1.5):
        solution = solved(X, y, l1=factor * bound, smoothing=smoothing, sample_weight=weight)
        assert (solution.coef == 0).all()
        assert not solution.support.any()
    # Smoothing leaves more dual points with a gradient of zero out; the threshold can only be lower.
    assert solved(X, y, l1=0.3 * bound, smoothing=smoothing, sample_weight=weight).support.any()


def test_l1_selects_features():
    X, y = normal(20, 60), labels(20, k=4)
    sizes = [int(solved(X, y, l1=l1).support.sum()) for l1 in (0.0, 0.02, 0.1)]
    assert sizes[0] == 60 > sizes[1] > sizes[2] > 0


def test_small_smoothing_approaches_the_hinge():
    X, y = normal(20, 10), labels(20, k=3)
    sharp = solved(X, y).coef
    errors = [relative_error(solved(X, y, smoothing=gamma, tol=1e-9).coef, sharp) for gamma in (1.0, 0.1, 1e-2, 1e-4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-3


@variants
def test_soft_targets_agree_with_cvxpy(l1, smoothing):
    X = normal(12, 8)
    Y = normal(12, 3, seed=1).softmax(-1)
    solution = solved(X, Y, l1=l1, smoothing=smoothing)
    W, value, error = oracles.svm(X, Y, 0.1, l1, smoothing)
    assert np.abs(as_numpy(solution.coef) - W).max() <= error
    assert float(solution.objective) == pytest.approx(value, rel=1e-9)


def test_labels_and_one_hot_targets_are_the_same():
    X, y = normal(2, 12, 8), labels(2, 12, k=3)
    expected = solved(X, y).coef
    assert torch.equal(solved(X, one_hot(y, 3)).coef, expected)
    assert torch.equal(solved(X, y.to(torch.int32), k=3).coef, expected)
    assert torch.equal(solved(X, one_hot(y, 3).to(torch.float32)).coef, expected)


@pytest.mark.parametrize("max_iter", [1, 100])
def test_nothing_is_worse_than_zero(max_iter):
    """Features of quite different units and hardly a ridge: what is not found is flagged, and still no nonsense."""
    X, y = normal(4, 15, 40, seed=7), labels(4, 15, k=3)
    X = X * 10 ** (4 * uniform(4, 1, 40, low=0.0, high=1.0) - 2)
    layer = il.MulticlassSVM(1e-3, 0.3, max_iter=max_iter, on_fail="ignore")
    solution = layer.solve(X, y)
    assert (solution.gap <= 1).all()
    for i in range(4):
        objective = svm_objective(X[i], one_hot(y[i], 3), solution.coef[i], 1e-3, 0.3)
        assert objective <= 1 + 1e-12


def test_zeros_of_a_point_in_the_simplex_stay_zeros():
    """Rounding in the sum of the others must not make them positive: what is positive is the face."""
    Lambda = simplex_points_with_zeros(200, 5)
    projected = Simplex(torch.ones(1, 5, dtype=torch.bool)).project(Lambda)
    assert ((projected > 0) == (Lambda > 0)).all()
    assert (projected - Lambda).abs().max() <= 1e-15


def simplex_points_with_zeros(n, k):
    Lambda = uniform(n, k) * (normal(n, k) > 0)
    Lambda[:, 0] += 0.1
    return Lambda / Lambda.sum(-1, keepdim=True)


def test_coef_error_bounds_the_distance_to_the_solution():
    X, y = normal(20, 30), labels(20, k=4)
    exact = solved(X, y, l1=0.02).coef
    for max_iter in (1, 2, 3):
        layer = il.MulticlassSVM(0.1, 0.02, max_iter=max_iter, tol=1e-14, on_fail="ignore")
        rough = layer.solve(X, y)
        assert (rough.coef - exact).norm() <= float(rough.coef_error) + 1e-9


def test_predict_gives_scores():
    X, y = normal(20, 30), labels(20, k=4)
    solution = solved(X, y)
    assert torch.equal(solution.predict(X), X @ solution.coef)
    assert (solution.predict(X).argmax(-1) == y).all()
