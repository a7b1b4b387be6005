import itertools

import numpy as np
import oracles
import pytest
import torch
from helpers import as_numpy, lasso_gap, lasso_objective, normal, relative_error, solve_alone, uniform
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import make_regression
from sklearn.linear_model import Lasso, MultiTaskElasticNet, MultiTaskLasso

import implicitlayers as il

SHAPES = pytest.mark.parametrize(("n", "m"), [(40, 10), (15, 40), (20, 20)])


def solved(X, Y, l1, l2=0.0, tol=1e-12, **arguments):
    return solve_alone(il.GroupLasso(l1, l2, tol=tol), X, Y, **arguments)


def l1_max(X, Y, sample_weight=None):
    """max_j ‖X_jᵀ s̄ Y‖, above which W = 0."""
    s = torch.ones(len(X), dtype=torch.float64) if sample_weight is None else sample_weight
    return float((X.mT @ ((s / s.sum())[:, None] * Y)).norm(dim=-1).max())


@SHAPES
@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("k", [1, 3])
def test_agrees_with_scikit_learn(n, m, k, l2):
    X, Y = normal(n, m), normal(n, k, seed=1)
    l1 = 0.2 * l1_max(X, Y)
    coef = solved(X, Y, l1, l2).coef
    options = {"fit_intercept": False, "tol": 1e-14, "max_iter": 200_000}
    if l2:
        peer = MultiTaskElasticNet(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), **options)
        expected = peer.fit(X.numpy(), Y.numpy()).coef_.T
    elif k == 1:
        expected = Lasso(alpha=l1, **options).fit(X.numpy(), Y[:, 0].numpy()).coef_[:, None]
    else:
        expected = MultiTaskLasso(alpha=l1, **options).fit(X.numpy(), Y.numpy()).coef_.T
    assert relative_error(coef, torch.from_numpy(expected.copy())) <= 1e-7
    assert ((coef != 0).any(-1).numpy() == (expected != 0).any(-1)).all()


@SHAPES
@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_agrees_with_cvxpy_under_sample_weights(n, m, l2, share):
    X, Y, weight = normal(n, m), normal(n, 3, seed=1), uniform(n, low=0.1, high=2)
    l1 = share * l1_max(X, Y, weight)
    solution = solved(X, Y, l1, l2, sample_weight=weight)
    W, value, error = oracles.group_lasso(X, Y, l1, l2, weight)
    assert np.abs(as_numpy(solution.coef) - W).max() <= error
    assert float(solution.objective) == pytest.approx(value, rel=1e-9)
    assert float(solution.objective) == pytest.approx(lasso_objective(X, Y, solution.coef, l1, l2, weight), rel=1e-12)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from([0.0, 0.1]), st.integers(0, 10**6))
def test_small_problems_are_certified(n, m, k, l2, seed):
    """Small integers for features: duplicates, zeros and degenerate supports abound."""
    X, Y = normal(n, m, seed=seed).round(), normal(n, k, seed=seed + 1)
    l1 = 0.1 * l1_max(X, Y) + 1e-3
    solution = solve_alone(il.GroupLasso(l1, l2), X, Y)
    confirmed = lasso_gap(X, Y, solution.coef, l1, l2)
    assert confirmed <= 1e-9
    assert float(solution.gap) == pytest.approx(confirmed, abs=1e-12)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("l2", [0.0, 0.1])
@SHAPES
def test_gap_is_confirmed_by_independent_float64_code(n, m, l2, dtype, tol):
    X, Y, weight = normal(n, m, dtype=dtype), normal(n, 3, seed=1, dtype=dtype), uniform(n)
    l1 = 0.1 * l1_max(X.double(), Y.double(), weight)
    solution = solve_alone(il.GroupLasso(l1, l2), X, Y, sample_weight=weight)
    assert solution.coef.dtype == dtype
    assert lasso_gap(X, Y, solution.coef, l1, l2, weight) <= (1 + 1e-6) * tol


@SHAPES
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_zero_at_l1_max_and_not_below(n, m, l2):
    X, Y, weight = normal(n, m), normal(n, 3, seed=1), uniform(n)
    largest = l1_max(X, Y, weight)
    for factor in (1.0, 1.5):
        solution = solved(X, Y, factor * largest * (1 + 1e-12), l2, sample_weight=weight)
        assert (solution.coef == 0).all()
        assert not solution.support.any()
    below = solved(X, Y, 0.999 * largest, l2, sample_weight=weight)
    assert int(below.support.sum()) == 1


def test_optimality_conditions_hold_per_row():
    X, Y = normal(15, 40), normal(15, 3, seed=1)
    l1, l2 = 0.1, 0.05
    coef = solved(X, Y, l1, l2).coef
    V = X.mT @ (Y - X @ coef) / 15 - l2 * coef
    support = (coef != 0).any(-1)
    assert (V[~support].norm(dim=-1) <= l1).all()
    row = coef[support]
    assert relative_error(V[support], l1 * row / row.norm(dim=-1, keepdim=True)) <= 1e-8


def test_rotating_the_targets_rotates_the_coefficients():
    """The group penalty sees norms only."""
    X, Y = normal(15, 30), normal(15, 4, seed=1)
    Q = torch.linalg.qr(normal(4, 4, seed=2)).Q
    assert relative_error(solved(X, Y @ Q, 0.1).coef, solved(X, Y, 0.1).coef @ Q) <= 1e-8


def test_scaling_the_targets_and_l1_scales_the_coefficients():
    X, Y = normal(15, 30), normal(15, 2, seed=1)
    for scale in (1e-6, 1e6):
        assert relative_error(solved(X, scale * Y, scale * 0.1).coef, scale * solved(X, Y, 0.1).coef) <= 1e-8


def test_l1_zero_as_a_tensor_is_ridge():
    X, Y = normal(30, 8), normal(30, 3, seed=1)
    zero = torch.tensor(0.0, dtype=torch.float64)
    assert relative_error(solved(X, Y, zero, 0.2).coef, il.Ridge(0.2)(X, Y)) <= 1e-8
    assert relative_error(solved(X, Y, 0.0, 0.2).coef, il.Ridge(0.2)(X, Y)) <= 1e-12


def test_derivative_lives_on_the_support():
    """scikit-learn's make_regression with a known derivative, dβ_S/dl1 = −n(X_SᵀX_S)⁻¹ sign(β_S) (jaxopt#274, #17)."""
    X, y = make_regression(100, 1000, n_informative=5, random_state=0)
    X, y = torch.from_numpy(X), torch.from_numpy(y)[:, None]
    cases = {
        0.1: [-0.644696, -0.728201, -0.871705, -0.766752],
        1e-3: [-0.681420, -0.973256, -0.874399, -0.659694, -1.138227],
    }
    for share, expected in cases.items():
        l1 = torch.tensor(share * l1_max(X, y), dtype=torch.float64)
        coef, tangent = torch.func.jvp(lambda l1: solved(X, y, l1).coef[:, 0], (l1,), (torch.ones_like(l1),))
        support = coef != 0
        torch.testing.assert_close(tangent[support], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
        assert (tangent[~support] == 0).all()
        X_S = X[:, support]
        formula = -len(X) * torch.linalg.solve(X_S.mT @ X_S, coef[support].sign())
        assert relative_error(tangent[support], formula) <= 1e-9


@pytest.mark.parametrize("layer", [il.GroupLasso(0.1), il.GroupLasso(0.1, 0.1), il.Ridge(0.1), il.Ridge(0.0)])
def test_nothing_to_learn(layer):
    """Features and targets of zeros: no warning, no coefficients, finite derivatives (scikit-learn#20144)."""
    X = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    Y = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    solution = layer.solve(X, Y)
    assert (solution.coef == 0).all()
    assert solution.gap == 0
    assert solution.objective == 0
    assert solution.converged
    gradients = torch.autograd.grad(solution.coef.sum(), (X, Y))
    assert all(torch.isfinite(g).all() for g in gradients)


def test_derivative_is_as_exact_as_its_solution():
    """The error of the derivative falls with tol (cvxpylayers#245, #85, #70)."""
    X, Y, C = normal(15, 30), normal(15, 3, seed=1), normal(30, 3, seed=2)

    def derivative(tol):
        return torch.func.grad(lambda X: (il.functional.group_lasso(X, Y, l1=0.1, tol=tol) * C).sum())(X)

    exact = derivative(1e-14)
    errors = [relative_error(derivative(tol), exact) for tol in (1e-2, 1e-4, 1e-8, 1e-12)]
    assert errors[-1] <= 1e-9
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))


def test_group_weights_can_be_learnt():
    """A heavier group shrinks; a tensor that is no parameter is none of the layer's, and not in its state."""
    X, Y, groups = normal(15, 4), normal(15, 2, seed=1), [[0, 1], [2, 3]]
    weights = torch.nn.Parameter(torch.tensor([0.5, 1.5], dtype=torch.float64))
    layer = il.GroupLasso(0.05, 0.1, groups=groups, group_weights=weights)
    assert [p is weights for p in layer.parameters()] == [True]
    layer(X, Y)[:2].norm().backward()
    assert weights.grad[0] < 0
    fixed = il.GroupLasso(0.05, 0.1, groups=groups, group_weights=weights.detach())
    assert not list(fixed.parameters())
    assert not fixed.state_dict()
    torch.testing.assert_close(fixed(X, Y), layer(X, Y).detach())


@pytest.mark.parametrize("groups", [None, [[0, 1], [2], [3]]], ids=["features", "groups"])
@pytest.mark.parametrize("batch", [(), (2, 1), (3,)], ids=["X alone", "across", "along"])
@pytest.mark.parametrize(
    "make", [il.GroupLasso, lambda l1, **options: il.SparseGroupLasso(l1, 0.1, **options)], ids=["group", "sparse"]
)
def test_group_weights_are_over_the_batch(make, groups, batch):
    """They broadcast like strengths, and each element is solved with its own."""
    X, Y = normal(*batch, 15, 4), normal(15, 2, seed=1)
    weights = uniform(3, len(groups or range(4)))
    options = {"groups": groups, "tol": 1e-12}
    shape = torch.broadcast_shapes(batch, (3,))
    layer = make(il.Relative(0.3), group_weights=weights, **options)
    found, largest = layer(X, Y), layer.l1_max(X, Y)
    assert found.shape == (*shape, 4, 2)
    assert largest.shape == shape
    many = X.expand(*shape, 15, 4)
    for index in itertools.product(*map(range, shape)):
        alone = make(il.Relative(0.3), group_weights=weights[index[-1]], **options)
        assert relative_error(found[index], alone(many[index], Y)) <= 1e-8
        assert relative_error(largest[index], alone.l1_max(many[index], Y)) <= 1e-12


def with_a_free_group(n, empty, intercept, **options):
    """Two features without penalty, zero if ``empty``, and four in two groups with; a layer of any l1."""
    X, Y, weight = normal(3, n, 6) + 0.3, normal(3, n, 2, seed=1), uniform(3, n)
    X[..., :2] *= not empty
    options = {"groups": [[0, 1], [2, 3], [4, 5]], "fit_intercept": intercept, "group_weights": FREE_FIRST} | options
    return X, Y, weight, lambda l1, **more: il.GroupLasso(l1, 0.1, **options | more)


FREE_FIRST = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
free_groups = pytest.mark.parametrize(
    ("n", "empty", "intercept"), [(12, False, False), (12, True, False), (4, False, True), (12, False, True)]
)


@free_groups
def test_groups_of_weight_zero_are_fitted_at_l1_max(n, empty, intercept):
    """There the others are zero, and not below; what is left is ridge regression."""
    X, Y, weight, make = with_a_free_group(n, empty, intercept)
    largest = make(1.0).l1_max(X, Y, sample_weight=weight)
    above = make(largest * (1 + 1e-9)).solve(X, Y, sample_weight=weight)
    below = make(largest * (1 - 1e-6), tol=1e-14, on_fail="ignore").solve(X, Y, sample_weight=weight)
    assert above.converged.all()
    assert not above.support[..., 2:].any()
    assert below.support[..., 2:].any(-1).all()
    ridge = il.Ridge(0.1, fit_intercept=intercept).solve(X[..., :2], Y, sample_weight=weight)
    assert relative_error(above.coef[..., :2, :], ridge.coef) <= 1e-6
    share, same = (make(l1).solve(X, Y, sample_weight=weight) for l1 in (il.Relative(0.3), 0.3 * largest))
    assert relative_error(share.coef, same.coef) <= 1e-9


@free_groups
def test_derivatives_of_l1_max_beside_groups_of_weight_zero(n, empty, intercept):
    X, Y, weight, make = with_a_free_group(n, empty, intercept)
    direction = normal(3, n, 6, seed=2)
    direction[..., :2] *= not empty

    def largest(X, weights):
        return make(1.0, group_weights=weights).l1_max(X, Y, sample_weight=weight).sum()

    by_X, by_weights = torch.func.grad(largest, (0, 1))(X, FREE_FIRST)
    step = 1e-6
    expected = (largest(X + step * direction, FREE_FIRST) - largest(X - step * direction, FREE_FIRST)) / (2 * step)
    torch.testing.assert_close((by_X * direction).sum(), expected, rtol=1e-5, atol=1e-7)
    # Twice the weights, half the strength: ⟨∂l1_max, w⟩ = −l1_max (Euler).
    torch.testing.assert_close((by_weights * FREE_FIRST).sum(), -largest(X, FREE_FIRST), rtol=1e-9, atol=0)


def test_l1_max_where_all_groups_or_none_have_weight_zero():
    X, Y = normal(12, 4), normal(12, 2, seed=1)
    free = il.GroupLasso(il.Relative(0.5), 0.1, group_weights=torch.zeros(4))
    assert relative_error(free(X, Y), il.Ridge(0.1)(X, Y)) <= 1e-9
    ones, without = (il.GroupLasso(1.0, group_weights=w) for w in (torch.ones(4), None))
    torch.testing.assert_close(ones.l1_max(X, Y), without.l1_max(X, Y))


def test_l1_max_of_the_sparse_group_lasso_leaves_nothing_in_groups_of_weight_zero():
    """l1 penalises their entries all the same."""
    X, Y, weight, _ = with_a_free_group(12, False, False)
    options = {"group_l1": 0.05, "groups": [[0, 1], [2, 3], [4, 5]], "group_weights": FREE_FIRST, "tol": 1e-14}
    largest = il.SparseGroupLasso(1.0, **options).l1_max(X, Y, sample_weight=weight)
    above, below = (
        il.SparseGroupLasso(largest * by, **options).solve(X, Y, sample_weight=weight) for by in (1 + 1e-9, 1 - 1e-6)
    )
    assert (above.coef == 0).all()
    assert below.support.any(-1).all()
