import numpy as np
import pytest
import torch
from helpers import arrays, hinge, lasso_gap, normal, shrunk_norms, simplex_points, svm_gap, uniform
from hypothesis import given
from hypothesis import strategies as st

from implicitlayers.hinges import MulticlassHinge, SmoothedHinge
from implicitlayers.losses import Squared
from implicitlayers.penalties import GroupL2, NoPenalty
from implicitlayers.problem import Problem

N, M, K = 5, 4, 3
X = normal(N, M, seed=5)
WEIGHT = uniform(N, seed=5) / uniform(N, seed=5).sum()


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def squared_problem(Y, l1, l2, weight=WEIGHT):
    return Problem(X, Y, weight, Squared(), GroupL2(scalar(l1)) if l1 else NoPenalty(), scalar(l2))


def hinge_problem(Y, l1, l2, smoothing=0.0):
    mask = torch.ones(K, dtype=torch.bool)
    loss = SmoothedHinge(scalar(smoothing), mask) if smoothing else MulticlassHinge(mask)
    return Problem(X, Y, WEIGHT, loss, GroupL2(scalar(l1)) if l1 else NoPenalty(), scalar(l2))


COEFS = arrays(M, K, bound=3.0)
POSITIVE = st.sampled_from([0.1, 1.0]) | st.floats(0.05, 3)
STRENGTHS = st.just(0.0) | POSITIVE


@given(arrays(N, K, bound=3.0), COEFS, STRENGTHS, STRENGTHS)
def test_objective_of_the_squared_loss(Y, W, l1, l2):
    data = sum(WEIGHT[i] * (X[i] @ W - Y[i]).square().sum() / 2 for i in range(N))
    expected = data + l1 * sum(row.norm() for row in W) + l2 / 2 * W.square().sum()
    problem = squared_problem(Y, l1, l2)
    torch.testing.assert_close(problem.objective(W), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(problem.null_objective(), problem.objective(0 * W), rtol=1e-12, atol=1e-12)


@given(simplex_points(N, K), COEFS, STRENGTHS, POSITIVE, STRENGTHS)
def test_objective_of_the_hinge(Y, W, l1, l2, smoothing):
    data = (WEIGHT.numpy() * hinge((X @ W).numpy(), Y.numpy(), smoothing)).sum()
    expected = data + l1 * W.norm(dim=-1).sum() + l2 / 2 * W.square().sum()
    problem = hinge_problem(Y, l1, l2, smoothing)
    torch.testing.assert_close(problem.objective(W), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(problem.null_objective(), problem.objective(0 * W), rtol=1e-11, atol=1e-11)


@given(arrays(N, K, bound=3.0), COEFS, arrays(N, K, bound=3.0), STRENGTHS, POSITIVE)
def test_gap_is_primal_minus_dual_for_squared_loss_and_ridge(Y, W, Theta, l1, l2):
    problem = squared_problem(Y, l1, l2)
    s, V = WEIGHT.numpy(), X.numpy().T @ (WEIGHT[:, None] * Theta).numpy()
    conjugates = (Theta.numpy() ** 2).sum(-1) / 2 - (Theta * Y).sum(-1).numpy()
    dual = -(s * conjugates).sum() - (shrunk_norms(V, l1) ** 2).sum() / (2 * l2)
    gap = float(problem.gap(W, Theta))
    assert gap >= 0
    assert gap == pytest.approx(float(problem.objective(W)) - dual, rel=1e-9, abs=1e-9)


@given(arrays(N, K, bound=3.0), COEFS, arrays(N, K, bound=3.0), POSITIVE)
def test_gap_without_ridge_is_that_of_the_scaled_dual_point(Y, W, Theta, l1):
    problem = squared_problem(Y, l1, 0.0)
    V = X.numpy().T @ (WEIGHT[:, None] * Theta).numpy()
    scale = min(1.0, l1 / max(np.linalg.norm(V, axis=-1).max(), 1e-300))
    feasible = scale * Theta.numpy()
    dual = -(WEIGHT.numpy() * ((feasible**2).sum(-1) / 2 - (feasible * Y.numpy()).sum(-1))).sum()
    gap = float(problem.gap(W, Theta))
    assert gap >= 0
    assert gap == pytest.approx(float(problem.objective(W)) - dual, rel=1e-9, abs=1e-9)


@given(arrays(N, K, bound=3.0), COEFS, arrays(N, K, bound=3.0))
def test_gap_of_least_squares_is_the_distance_to_its_minimum(Y, W, Theta):
    """Without penalty and ridge every W is certified against the least value, by the residual of the minimiser."""
    problem = squared_problem(Y, 0.0, 0.0)
    root = WEIGHT.sqrt()[:, None]
    best = torch.linalg.lstsq(root * X, root * Y).solution
    gap = float(problem.gap(W, Y - X @ best))
    assert gap == pytest.approx(float(problem.objective(W) - problem.objective(best)), rel=1e-9, abs=1e-9)
    assert float(problem.gap(W, Theta)) >= gap - 1e-9
    feasible, V = problem.feasible(Theta)
    assert (X.mT @ (WEIGHT[:, None] * feasible)).abs().max() <= 1e-9
    assert (V == 0).all()


@given(simplex_points(N, K), COEFS, simplex_points(N, K), STRENGTHS, POSITIVE, STRENGTHS)
def test_gap_is_primal_minus_dual_for_the_hinge(Y, W, Lambda, l1, l2, smoothing):
    problem = hinge_problem(Y, l1, l2, smoothing)
    gap, null = float(problem.gap(W, Y - Lambda)), float(problem.null_objective())
    assert gap >= 0
    naive = null * svm_gap(X, Y, W, Y - Lambda, l2, l1, smoothing, WEIGHT)
    assert gap == pytest.approx(naive, rel=1e-9, abs=1e-9)
    assert float(problem.relative_gap(W, Y - Lambda)) == pytest.approx(naive / null, rel=1e-9, abs=1e-9)


def test_gap_of_the_residual_against_independent_code():
    Y, W = normal(N, K, seed=6), normal(M, K, seed=7)
    for l1, l2 in ((0.1, 0.0), (0.1, 0.3)):
        problem = squared_problem(Y, l1, l2)
        given = float(problem.relative_gap(W, problem.loss.dual_point(problem.scores(W), Y)))
        assert given == pytest.approx(lasso_gap(X, Y, W, l1, l2, WEIGHT), rel=1e-12)


@given(COEFS, COEFS, STRENGTHS, POSITIVE)
def test_conjugate_is_the_supremum_and_coef_of_its_maximiser(V, other, l1, l2):
    """R*(V) = max_U ⟨V, U⟩ − R(U)."""
    problem = squared_problem(torch.zeros(N, K, dtype=torch.float64), l1, l2)

    def affine(U):
        return (V * U).sum() - l1 * U.norm(dim=-1).sum() - l2 / 2 * U.square().sum()

    value = problem.conjugate(V)
    torch.testing.assert_close(value, affine(problem.coef_of(V)), rtol=1e-10, atol=1e-10)
    assert value >= affine(other) - 1e-9


def test_scores_and_correlation_are_adjoint():
    problem = squared_problem(torch.zeros(N, K, dtype=torch.float64), 0.0, 1.0)
    W, Theta = normal(M, K, seed=8), normal(N, K, seed=9)
    torch.testing.assert_close(problem.scores(W), X @ W)
    left = (problem.correlation(Theta) * W).sum()
    torch.testing.assert_close(left, (WEIGHT[:, None] * Theta * (X @ W)).sum())


def test_relative_gap_where_there_is_nothing_to_learn():
    problem = squared_problem(torch.zeros(N, K, dtype=torch.float64), 0.1, 0.0)
    nothing, something = torch.zeros(M, K, dtype=torch.float64), normal(M, K)
    residual = torch.zeros(N, K, dtype=torch.float64)
    assert problem.relative_gap(nothing, residual) == 0
    assert problem.relative_gap(something, residual) > 0
