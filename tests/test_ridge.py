import pytest
import torch
from helpers import lasso_gap, lasso_objective, normal, relative_error, solve_alone, uniform
from hypothesis import given
from hypothesis import strategies as st
from sklearn import linear_model

import implicitlayers as il

SHAPES = pytest.mark.parametrize(("n", "m"), [(40, 10), (10, 40), (15, 15)])


@SHAPES
@pytest.mark.parametrize("l2", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_normal_equations(n, m, l2, weighted):
    X, Y = normal(n, m), normal(n, 3, seed=1)
    weight = uniform(n) if weighted else None
    s = (weight if weighted else torch.ones(n, dtype=torch.float64))[:, None]
    s = s / s.sum()
    expected = torch.linalg.solve(X.mT @ (s * X) + l2 * torch.eye(m, dtype=torch.float64), X.mT @ (s * Y))
    solution = solve_alone(il.Ridge(l2), X, Y, sample_weight=weight)
    assert relative_error(solution.coef, expected) <= 1e-9
    assert float(solution.objective) == pytest.approx(lasso_objective(X, Y, expected, 0.0, l2, weight), rel=1e-12)


@SHAPES
def test_agrees_with_scikit_learn(n, m):
    """Their alpha multiplies a sum of losses: alpha = Σs·l2."""
    X, Y, weight = normal(n, m), normal(n, 3, seed=1), uniform(n)
    peer = linear_model.Ridge(alpha=0.1 * float(weight.sum()), fit_intercept=False, solver="cholesky")
    expected = torch.from_numpy(peer.fit(X.numpy(), Y.numpy(), sample_weight=weight.numpy()).coef_.T.copy())
    assert relative_error(il.Ridge(0.1)(X, Y, sample_weight=weight), expected) <= 1e-9


@SHAPES
def test_without_l2_it_is_least_squares_of_least_norm(n, m):
    X, Y, weight = normal(n, m), normal(n, 3, seed=1), uniform(n)
    root = weight.sqrt()[:, None]
    solution = solve_alone(il.Ridge(0.0), X, Y, sample_weight=weight)
    assert relative_error(solution.coef, torch.linalg.pinv(root * X) @ (root * Y)) <= 1e-8
    assert relative_error(il.Ridge(0.0)(X, Y), torch.linalg.lstsq(X, Y, driver="gelsd").solution) <= 1e-8
    assert float(solution.gap) <= 1e-12


def test_least_squares_with_dependent_features_has_least_norm():
    X, Y = normal(20, 4), normal(20, 2, seed=1)
    X = torch.cat([X, X[:, :2] + X[:, 2:]], dim=1)
    solution = solve_alone(il.Ridge(0.0), X, Y)
    assert relative_error(solution.coef, torch.linalg.pinv(X) @ Y) <= 1e-8
    assert solution.status == il.Status.SINGULAR


@pytest.mark.parametrize(("n", "m"), [(20, 4), (6, 10)])
def test_dependent_features_do_not_cost_half_of_the_digits(n, m):
    """Small singular values count, though their squares drown in rounding."""
    U, V = torch.linalg.qr(normal(n, 3)).Q, torch.linalg.qr(normal(m, 3, seed=1)).Q
    X = U @ torch.diag(torch.tensor([1.0, 0.1, 1e-6], dtype=torch.float64)) @ V.mT
    Y = normal(n, 2, seed=2)
    expected = V @ torch.diag(torch.tensor([1.0, 10.0, 1e6], dtype=torch.float64)) @ (U.mT @ Y)
    assert relative_error(solve_alone(il.Ridge(0.0), X, Y).coef, expected) <= 1e-7


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.0, 1e-3, 1.0]), st.integers(0, 10**6))
def test_small_problems_are_certified(n, m, l2, seed):
    """Small integers for features: singular systems abound."""
    X, Y = normal(n, m, seed=seed).round(), normal(n, 2, seed=seed + 1)
    solution = solve_alone(il.Ridge(l2), X, Y)
    if l2:
        confirmed = lasso_gap(X, Y, solution.coef, 0.0, l2)
        assert confirmed <= 1e-9
        assert float(solution.gap) == pytest.approx(confirmed, abs=1e-12)
    else:
        assert relative_error(solution.coef, torch.linalg.pinv(X) @ Y) <= 1e-8


def test_one_row_more_changes_form_but_not_solution():
    """n ≤ m and n > m are solved in different spaces; an absent sample crosses the border."""
    X, Y = normal(8, 8), normal(8, 2, seed=1)
    taller, targets = torch.cat([X, normal(1, 8, seed=3)]), torch.cat([Y, normal(1, 2, seed=4)])
    weight = torch.tensor([1.0] * 8 + [0.0])
    assert relative_error(il.Ridge(0.1)(taller, targets, sample_weight=weight), il.Ridge(0.1)(X, Y)) <= 1e-10


@SHAPES
def test_weight_zero_means_absent(n, m):
    X, Y, weight = normal(n, m), normal(n, 3, seed=1), uniform(n)
    weight[[1, 4]] = 0
    there, C = weight > 0, normal(m, 3, seed=2)

    def derivatives(X, Y, weight):
        leaves = [t.clone().requires_grad_() for t in (X, Y, weight)]
        coef = il.Ridge(0.1)(*leaves[:2], sample_weight=leaves[2])
        return coef.detach(), *torch.autograd.grad((coef * C).sum(), leaves)

    whole, alone = derivatives(X, Y, weight), derivatives(X[there], Y[there], weight[there])
    assert relative_error(whole[0], alone[0]) <= 1e-10
    for among, expected in zip(whole[1:], alone[1:], strict=True):
        assert relative_error(among[there], expected) <= 1e-9
    assert (whole[1][~there] == 0).all()
    assert (whole[2][~there] == 0).all()


@SHAPES
def test_derivatives_with_respect_to_a_weight_of_zero(n, m):
    """First and second, against the differentiated normal equations: an absent sample may enter."""
    X, Y, weight, C = normal(n, m), normal(n, 2, seed=1), uniform(n), normal(m, 2, seed=2)
    weight[2] = 0

    def closed(X, weight):
        s = (weight / weight.sum())[:, None]
        H = X.mT @ (s * X) + 0.1 * torch.eye(m, dtype=torch.float64)
        return (torch.linalg.inv(H) @ (X.mT @ (s * Y)) * C).sum()

    def layer(X, weight):
        return (il.Ridge(0.1)(X, Y, sample_weight=weight) * C).sum()

    def derivatives(f):
        first = torch.func.grad(f, 1)
        mixed = torch.func.grad(lambda X: first(X, weight)[2])(X)
        return first(X, weight), torch.func.jacfwd(first, 1)(X, weight), mixed

    for of_layer, expected in zip(derivatives(layer), derivatives(closed), strict=True):
        assert relative_error(of_layer, expected) <= 1e-8


@SHAPES
def test_integer_weights_equal_repeated_samples(n, m):
    X, Y = normal(n, m), normal(n, 3, seed=1)
    counts = torch.arange(n) % 3 + 1
    repeated = il.Ridge(0.1)(X.repeat_interleave(counts, 0), Y.repeat_interleave(counts, 0))
    assert relative_error(il.Ridge(0.1)(X, Y, sample_weight=counts.to(torch.float64)), repeated) <= 1e-9


def test_a_box_without_bounds_is_ridge_and_with_one_it_is_non_negative():
    X, Y = normal(12, 5), normal(12, 2, seed=1)
    assert relative_error(il.BoxRegression(-torch.inf, torch.inf, 0.1)(X, Y), il.Ridge(0.1)(X, Y)) <= 1e-9
    positive = il.NonNegativeRegression(l2=0.1)(X, Y)
    for zero in (0, torch.zeros(())):
        assert relative_error(il.BoxRegression(zero, torch.inf, 0.1)(X, Y), positive) <= 1e-9
        assert relative_error(-il.BoxRegression(-torch.inf, zero, 0.1)(X, -Y), positive) <= 1e-9


def test_a_bound_of_a_box_can_be_learnt():
    X, Y = normal(12, 5), normal(12, 2, seed=1)
    lower = torch.nn.Parameter(torch.tensor(-0.1, dtype=torch.float64))
    layer = il.BoxRegression(lower, 0.1, 0.1)
    assert [p is lower for p in layer.parameters()] == [True]
    layer(X, Y).sum().backward()
    assert lower.grad >= 1
