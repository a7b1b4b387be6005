"""Problems whose optimality system is large: solved without it, and differentiated with it."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import directional_derivative, normal, relative_error
from hypothesis import given
from torch.func import jvp

import implicitlayers as il
from implicitlayers.losses import Squared
from implicitlayers.penalties import NoPenalty, Partly
from implicitlayers.problem import Problem
from implicitlayers.solvers import primal


def problem(k=4):
    X, Y = normal(12, 40, seed=1), normal(12, k, seed=2)
    return X, Y


def test_without_anybody_asking_for_derivatives_the_system_is_not_made(monkeypatch):
    X, Y = problem()
    expected = il.GroupLasso(il.Relative(0.2)).solve(X, Y)
    monkeypatch.setattr(primal, "MOST_BESIDE_KRONECKER", 8)

    def never(*_):
        raise AssertionError("a system was made")

    monkeypatch.setattr(primal, "normal_map", never)
    found = il.GroupLasso(il.Relative(0.2)).solve(X, Y)
    assert found.gap <= 1e-9
    assert found.derivative_error == torch.inf
    assert expected.derivative_error < 1
    assert relative_error(found.coef, expected.coef) <= 1e-4


def test_with_somebody_asking_it_is(monkeypatch):
    monkeypatch.setattr(primal, "MOST_BESIDE_KRONECKER", 8)
    X, Y = problem()
    D = normal(12, 40, seed=3)

    def solved(X):
        return il.GroupLasso(0.1, tol=1e-10)(X, Y)

    _, tangent = jvp(solved, (X,), (D,))
    assert relative_error(tangent, directional_derivative(solved, X, D)) <= 1e-3


@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 1000), st.booleans())
def test_the_step_of_a_large_problem_is_about_that_of_its_largest_eigenvalue(n, m, seed, intercept):
    X, Y = normal(2, n, m, seed=seed), normal(2, n, 2, seed=seed + 1)
    penalty, l2 = NoPenalty(), torch.tensor([0.0, 0.1], dtype=torch.float64)
    if intercept:
        X[..., -1] = 1
        penalty = Partly(penalty, (torch.arange(m) < m - 1).expand(2, -1))
    problem = Problem(X, Y, torch.full((2, n), 1 / n, dtype=torch.float64), Squared(), penalty, l2)
    exact = primal.step_length(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(primal, "EXACT_UP_TO", 0)
        rough = primal.step_length(problem)
    # Four steps of the power method, and a factor of one and a half.
    assert (rough >= exact / 1.5 - 1e-12).all()
    assert (rough <= 3 * exact).all()
