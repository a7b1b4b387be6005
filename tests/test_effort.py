"""Which algorithm is tried first, and what gradient steps must promise to go on."""

import math

import hypothesis.strategies as st
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error
from hypothesis import given, settings

import implicitlayers as il
from implicitlayers.hinges import MulticlassHinge, SmoothedHinge
from implicitlayers.losses import Squared
from implicitlayers.penalties import L1, GroupL2, NoPenalty
from implicitlayers.problem import Problem
from implicitlayers.solvers import accelerated, effort, gradient, proximal_point, simplex_qp
from implicitlayers.solvers.conjugate_part import PenalisedPart, conjugate_part


def machine(n, m, k, seed=0, l1=0.02, smoothing=0.0, l2=0.05):
    X, Y = normal(2, n, m, seed=seed), one_hot(labels(2, n, k=k, seed=seed), k)
    ones = torch.ones(2, dtype=torch.float64)
    mask = torch.ones(2, k, dtype=torch.bool)
    loss = SmoothedHinge(smoothing * ones, mask) if smoothing else MulticlassHinge(mask)
    penalty = GroupL2(l1 * ones[:, None]) if l1 else NoPenalty()
    return Problem(X, Y, torch.full((2, n), 1 / n, dtype=torch.float64), loss, penalty, l2 * ones)


@given(st.floats(1e-3, 0.9), st.integers(1, 100))
def test_gradient_steps_go_on_while_their_rate_leads_to_the_end_in_time(rate, most):
    """Of gaps that fall by a constant factor a look, the number of looks to the end is known."""
    seen = [1e6 * rate**i for i in range(4)]
    looks = 3 + math.log(seen[-1]) / -math.log(rate)
    goes_on = effort.promises(seen, 10, effort.Limits(0, 10 * most))
    if abs(looks - most) > 1e-6:
        assert goes_on == (most > 3 and looks <= most)


def test_a_trial_is_not_cut_short_and_nothing_that_grows_is_gone_on_with():
    assert effort.promises([1.0, 2.0], 10, effort.Limits(20, 20))
    assert not effort.promises([1.0, 2.0, 4.0], 10, effort.Limits(20, 1000))
    assert not effort.promises([1.0, math.nan], 10, effort.Limits(0, 1000))
    assert not effort.promises([1.0, math.inf], 10, effort.Limits(0, 1000))


@pytest.mark.parametrize(("n", "m", "k"), [(25, 640, 5), (75, 640, 5), (20, 40, 3)])
def test_few_samples_are_for_newton(n, m, k):
    problem = machine(n, m, k)
    small = torch.ones(2, dtype=torch.bool)
    work = effort.of_hinge(problem, torch.ones(2, m, dtype=torch.bool), small)
    assert work.trial() == effort.NO_STEPS


@pytest.mark.parametrize(("n", "m", "k"), [(600, 60, 5), (300, 30, 20)])
def test_many_samples_are_for_gradients(n, m, k):
    problem = machine(n, m, k)
    work = effort.of_hinge(problem, torch.ones(2, m, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))
    assert work.trial().trial >= effort.SHORTEST_TRIAL


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.02]), st.sampled_from([0.0, 0.3]), st.booleans())
def test_gradients_lead_to_the_gap_they_are_asked_for(seed, l1, smoothing, absent):
    problem = machine(20, 30, 4, seed=seed, l1=l1, smoothing=smoothing)
    if absent:
        weight = problem.weight.clone()
        weight[0, :5] = 0
        problem = problem._replace(weight=weight / weight.sum(-1, keepdim=True))
    part, tol = conjugate_part(problem), torch.tensor([1e-5, 1e-3], dtype=torch.float64)
    start = problem.Y.clone()
    found = accelerated.minimise(part, start, tol, effort.Limits(20000, 20000))
    assert (found.gap <= tol).all()
    assert (found.Lambda >= 0).all()
    assert (found.Lambda.sum(-1) - 1).abs().amax() <= 1e-12
    W = problem.coef_of(problem.correlation(problem.Y - found.Lambda))
    assert (problem.relative_gap(W, problem.Y - found.Lambda) <= tol * (1 + 1e-9)).all()


@pytest.mark.parametrize("l1", [0.0, 0.02])
def test_what_only_gradients_solve_is_solved_by_them(monkeypatch, l1):
    """As where everything else would need too much memory; derivatives are those of the exact solution."""
    X, y = normal(3, 24, 40, seed=1), labels(3, 24, k=3)
    layer = il.MulticlassSVM(0.05, l1)
    expected = layer(X, y)

    def too_large(*_):
        return effort.Effort(1.0, math.inf, 1, math.inf)

    monkeypatch.setattr(effort, "of_hinge", too_large)
    features = X.clone().requires_grad_()
    solution = layer.solve(features, y)
    assert solution.converged.all()
    assert relative_error(solution.coef, expected) <= 1e-3
    solution.coef.square().sum().backward()
    assert features.grad.abs().amax() > 0


def test_many_samples_without_a_penalty_have_no_matrix_of_samples(monkeypatch):
    monkeypatch.setattr("implicitlayers.solvers.conjugate_part.LARGEST", 0)
    problem = machine(40, 5, 3, l1=0.0)
    assert isinstance(conjugate_part(problem), PenalisedPart)
    X, y = normal(2, 40, 5, seed=2), labels(2, 40, k=3)
    found = il.MulticlassSVM(0.1).solve(X, y)
    monkeypatch.undo()
    expected = il.MulticlassSVM(0.1).solve(X, y)
    assert found.converged.all()
    assert relative_error(found.coef, expected.coef) <= 1e-6


def test_a_program_that_is_too_large_for_an_interior_point_is_lowered_all_the_same(monkeypatch):
    """Where M has low rank the active set cycles; the best feasible point is then lower than the start."""
    monkeypatch.setattr(simplex_qp, "LARGEST_INTERIOR", 0)
    A = normal(2, 30, 3, seed=1)
    C, total = normal(2, 4, 30, seed=2), torch.ones(2, 1, 30, dtype=torch.float64)
    allowed = torch.ones(2, 4, 30, dtype=torch.bool)
    program = simplex_qp.Program.of(A @ A.mT, C, total, allowed, allowed)
    start = total / 4 * allowed
    found = simplex_qp.minimise(program, start, allowed, 1)
    monkeypatch.undo()
    best = simplex_qp.minimise(program, start, allowed, 30).feasible
    assert (program.value(found.feasible) < program.value(start)).all()
    assert (program.value(found.feasible) - program.value(best)).amax() <= 1e-2 * program.value(best).abs().amax()
    assert (found.feasible >= 0).all()


@pytest.mark.parametrize("kind", ["logistic", "huber", "sparse group"])
def test_systems_that_are_too_large_leave_gradients(monkeypatch, kind):
    X = normal(2, 20, 15, seed=1)
    Y = labels(2, 20, k=3) if kind == "logistic" else normal(2, 20, 3, seed=2)
    layer = {
        "logistic": il.LogisticRegression(l1=0.02, tol=1e-6),
        "huber": il.HuberRegression(l1=0.05, tol=1e-6),
        "sparse group": il.SparseGroupLasso(0.02, 0.05, tol=1e-6),
    }[kind]
    expected = layer(X, Y)
    monkeypatch.setattr(effort, "LARGEST", 0)
    taken = []
    original = gradient.to_the_end
    monkeypatch.setattr(proximal_point, "to_the_end", lambda *a: taken.append(1) or original(*a))
    monkeypatch.setattr("implicitlayers.solvers.reduced.pays", lambda *_: False)
    monkeypatch.setattr("implicitlayers.solvers.primal.POLISH_BELOW", 0.0)
    found = layer.solve(X, Y)
    assert taken
    assert found.converged.all()
    assert relative_error(found.coef, expected) <= 1e-2


@pytest.mark.parametrize(
    "layer",
    [
        il.ElasticNet(0.1, 0.05),
        il.HuberRegression(0.05, delta=0.5),
        il.HuberRegression(0.05, delta=0.5, fit_intercept=True),
        il.NonNegativeRegression(0.05),
        il.BoxRegression(-0.1, 0.2),
        il.SimplexRegression(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_targets_that_share_nothing_are_solved_one_by_one(layer, monkeypatch):
    """All together and each alone; and however many at a time."""
    X, Y = normal(2, 15, 8, seed=1), normal(2, 15, 4, seed=2)
    monkeypatch.setattr(proximal_point, "TOGETHER", 0)
    layer.solver, layer.tol = "proximal_point", 1e-12
    together = layer.solve(X, Y)
    monkeypatch.setattr(effort, "LARGEST", 15 * 15 * 3)
    assert relative_error(layer.solve(X, Y).coef, together.coef) <= 1e-9
    for target in range(4):
        alone = layer.solve(X, Y[..., target : target + 1])
        assert relative_error(together.coef[..., target : target + 1], alone.coef) <= 1e-6


def test_penalties_that_share_features_do_not_split():
    l1 = torch.ones(2, dtype=torch.float64)
    assert GroupL2(l1[:, None]).by_target() is None
    assert isinstance(L1(l1).by_target(), GroupL2)
    assert Squared().splits()
