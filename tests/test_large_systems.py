"""Problems whose optimality system is large: solved without it, and differentiated with it."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import directional_derivative, labels, normal, relative_error
from hypothesis import given
from torch.func import jvp

import implicitlayers as il
from implicitlayers.losses import Squared
from implicitlayers.penalties import NoPenalty, Partly
from implicitlayers.problem import Problem
from implicitlayers.solvers import conjugate_part, hinge, primal


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
        return il.GroupLasso(0.1)(X, Y)

    _, tangent = jvp(solved, (X,), (D,))
    assert relative_error(tangent, directional_derivative(solved, X, D)) <= 1e-3


def test_a_support_vector_machine_makes_a_large_system_only_for_somebody(monkeypatch):
    X, y = normal(3, 20, 60, seed=1), labels(3, 20, k=4)
    layer = il.MulticlassSVM(0.1, 0.02)
    expected, made = layer.solve(X, y), []
    original = conjugate_part.dual_face

    def noted(*arguments, **options):
        made.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(conjugate_part, "dual_face", noted)
    monkeypatch.setattr(hinge, "LARGEST_IDLE", 0)
    found = layer.solve(X, y)
    assert not made
    assert (found.gap <= 1e-9).all()
    assert (found.status == 0).all()
    assert (found.derivative_error == torch.inf).all()
    assert (expected.derivative_error < 1).all()
    assert relative_error(found.coef, expected.coef) <= 1e-4
    layer(X.requires_grad_(), y)
    assert made


def test_where_a_support_vector_machine_is_undecided_the_system_is_made_all_the_same(monkeypatch):
    """Duplicated samples leave ties: whether they are any, and what is singular, only the system tells."""
    X, y = normal(3, 20, 8, seed=4), labels(3, 20, k=4)
    X[1, 10:], y[1, 10:] = X[1, :10].clone(), y[1, :10].clone()
    layer = il.MulticlassSVM(1e-3, 0.2)
    expected = layer.solve(X, y)
    assert expected.status.any()
    monkeypatch.setattr(hinge, "LARGEST_IDLE", 0)
    found = layer.solve(X, y)
    # Where ties leave several dual points, they are on different faces, some of which are singular.
    assert torch.equal(found.status > 0, expected.status > 0)
    assert (found.gap <= 1e-9).all()


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
