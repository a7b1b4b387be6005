"""Proximal points of the hinge: problems whose ridge is too small for Newton's method on the dual."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import labels, normal, one_hot, uniform
from hypothesis import given, settings

import implicitlayers as il
from implicitlayers.hinges import MulticlassHinge
from implicitlayers.penalties import GroupL2
from implicitlayers.problem import Problem
from implicitlayers.solvers import continuation, hinge, hinge_search, interior
from implicitlayers.solvers.certified import CertifiedPoint


def machines(seed, decades, b=2, n=20, m=40, k=3):
    """Features whose scales differ by so many powers of ten, and a ridge that is small beside them."""
    X = normal(b, n, m, seed=seed) * 10 ** (decades * uniform(m, seed=seed, low=-0.5, high=0.5))
    weight = torch.full((b, n), 1 / n, dtype=torch.float64)
    Y = one_hot(labels(b, n, k=k, seed=seed), k)
    largest = (X.mT @ Y).norm(dim=-1).amax(-1) / n
    l2 = 1e-7 * X.square().sum(-1).mean(-1)
    loss = MulticlassHinge(torch.ones(b, k, dtype=torch.bool))
    return Problem(X, Y, weight, loss, GroupL2(0.05 * largest[:, None]), l2)


def machine(problem):
    return il.MulticlassSVM(problem.l2, problem.penalty.l1[:, 0], on_fail="ignore")


@settings(max_examples=5)
@given(st.integers(0, 1000), st.sampled_from([0.0, 2.0, 4.0]))
def test_scales_of_features_do_not_stop_it(seed, decades):
    problem = machines(seed, decades)
    solution = machine(problem).solve(problem.X, problem.Y)
    assert (solution.gap <= 1e-9).all()
    assert (solution.n_iter <= 100).all()


def test_the_machine_goes_on_with_it_where_newton_gets_nowhere(monkeypatch):
    """And where the system of the interior point is too large."""
    problem = machines(0, 4.0)
    monkeypatch.setattr(interior, "LARGEST", 0)
    layer = machine(problem)
    assert layer.solve(problem.X, problem.Y).converged.all()
    monkeypatch.setattr(continuation, "minimise", lambda problem, Lambda, max_iter: (Lambda, 0 * max_iter))
    assert not layer.solve(problem.X, problem.Y).converged.all()


def test_points_that_are_not_exact_are_steps_ahead():
    """Case 28, arithmetic of another machine: near l1_max, where margins tie, a point that Newton's method could not
    solve was thrown away, and sought again from the same place with the same σ.
    """
    n, m, k = 20, 8, 4
    X, y = normal(2, n, m), labels(2, n, k=k)
    problem = machines(0, 0.0, n=n, m=m, k=k)
    l1 = 0.98 * il.MulticlassSVM(1e-3).l1_max(X, y)
    problem = problem._replace(X=X, Y=one_hot(y, k), penalty=GroupL2(l1[:, None]), l2=torch.full_like(l1, 1e-3))
    Lambda, _ = continuation.minimise(problem, torch.full_like(problem.Y, 1 / k), torch.full((2,), 60))
    coef = problem.coef_of(problem.correlation(problem.Y - Lambda))
    assert (problem.relative_gap(coef, problem.Y - Lambda) <= 1e-9).all()


def test_it_gives_up_where_no_point_is_solved(monkeypatch):
    problem, solved = machines(0, 0.0), []

    def nowhere(part, Lambda, *_):
        solved.append(part.problem.l2)
        no = torch.zeros_like(part.problem.l2)
        return hinge.dual_newton.DualPoint(Lambda, no + 1, no.to(torch.int64))

    monkeypatch.setattr(continuation.dual_newton, "minimise", nowhere)
    start = torch.full_like(problem.Y, 1 / 3)
    Lambda, points = continuation.minimise(problem, start, torch.full((2,), 60))
    assert torch.equal(Lambda, start)
    assert points.tolist() == [continuation.FAILURES] * 2


@pytest.mark.parametrize("max_iter", [0, 1])
def test_a_limit_is_one(max_iter):
    problem = machines(1, 4.0)
    points = continuation.minimise(problem, torch.full_like(problem.Y, 1 / 3), torch.full((2,), max_iter))[1]
    assert points.tolist() == [max_iter] * 2


def test_without_a_penalty_newton_goes_on_by_itself(monkeypatch):
    X, y = normal(3, 12, 30), labels(3, 12, k=3)
    monkeypatch.setattr(hinge_search, "DIRECT_STEPS", 0)
    monkeypatch.setattr(hinge, "_at_once", CertifiedPoint)
    assert il.MulticlassSVM(0.01).solve(X, y).converged.all()
