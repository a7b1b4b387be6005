"""Squared loss on few features, solved in their Gram matrix."""

import pytest
import torch
from helpers import normal, uniform
from hypothesis import given
from hypothesis import strategies as st

import implicitlayers as il
from implicitlayers.losses import Squared
from implicitlayers.penalties import L1, GroupL2
from implicitlayers.problem import Problem
from implicitlayers.solvers import proximal_point, reduced
from implicitlayers.solvers.primal import point, searched


def problem_of(penalty, n, m, k, ridge, seed, share=0.1):
    """Three problems, one sample absent; l1 a share of its bound, and a ridge in some of them, or in all, or none."""
    weight = uniform(3, n, seed=seed)
    weight[:, 0] = 0
    weight = weight / weight.sum(-1, keepdim=True)
    X, Y = normal(3, n, m, seed=seed), normal(3, n, k, seed=seed + 1)
    V = X.mT @ (weight[..., None] * Y)
    l1 = share * (V.abs().amax((1, 2)) if penalty is L1 else V.norm(dim=-1).amax(-1))
    l2 = 0.1 * torch.tensor(ridge, dtype=torch.float64)
    return Problem(X, Y, weight, Squared(), L1(l1) if penalty is L1 else GroupL2(l1[:, None]), l2)


def limits(tol):
    like = torch.ones(3, dtype=torch.float64)
    return tol * like, 0 * like, torch.full((3,), 100)


PENALTIES = st.sampled_from([L1, GroupL2])
RIDGES = st.sampled_from([(0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)])
SIZES = (st.integers(6, 30), st.integers(1, 60), st.integers(1, 4))


@given(PENALTIES, *SIZES, RIDGES, st.integers(0, 1000))
def test_the_gram_matrix_gives_the_gap_that_samples_give(penalty, n, m, k, ridge, seed):
    problem = problem_of(penalty, n, m, k, ridge, seed)
    W = normal(3, m, k, seed=seed + 2) * (uniform(3, m, 1, seed=seed) > 0.5)
    tol, enough, _ = limits(torch.inf)
    found = reduced.search(problem, W, tol, enough, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(found.coef, W, rtol=0, atol=0)
    torch.testing.assert_close(found.gap, point(problem, W).gap, rtol=1e-9, atol=1e-14)


@given(PENALTIES, *SIZES, RIDGES, st.sampled_from([0.01, 0.1, 0.5]), st.integers(0, 1000))
def test_gap_and_coefficients_are_those_of_the_solution(penalty, n, m, k, ridge, share, seed):
    problem = problem_of(penalty, n, m, k, ridge, seed, share)
    found = reduced.search(problem, torch.zeros(3, m, k, dtype=torch.float64), *limits(1e-10))
    at = point(problem, found.coef)
    torch.testing.assert_close(at.gap, found.gap, rtol=1e-6, atol=1e-13)
    coef, n_iter = proximal_point.coefficients(problem, None, *(limits(1e-10)[i] for i in (0, 2)))
    assert (point(problem, coef).gap <= 1.1e-10).all()
    assert (n_iter <= 101).all()


@given(PENALTIES, st.integers(10, 30), st.integers(1, 8), st.integers(1, 4), st.integers(0, 1000))
def test_newton_ends_at_rounding(penalty, n, m, k, seed):
    problem = problem_of(penalty, n, m, k, (0.0, 1.0, 0.0), seed)
    found = reduced.search(problem, torch.zeros(3, m, k, dtype=torch.float64), *limits(1e-6))
    assert (found.gap <= 1e-6).all()
    # Targets of the Lasso are problems of their own. The dual point of them all is scaled until the worst is feasible,
    # and what rounding has left of infeasibility in one costs the others up to the root of it.
    width = 1 if penalty is L1 else k
    for i in range(0, k, width):
        one = problem._replace(Y=problem.Y[..., i : i + width])
        assert (point(one, found.coef[..., i : i + width]).gap <= 1e-13).all()


def test_features_of_which_only_sums_matter_are_no_obstacle():
    problem = problem_of(GroupL2, 20, 12, 3, (0.0, 0.0, 0.0), 0)
    problem = problem._replace(X=torch.cat([problem.X, problem.X, torch.zeros_like(problem.X[..., :1])], -1))
    found = reduced.search(problem, torch.zeros(3, 25, 3, dtype=torch.float64), *limits(1e-10))
    assert (point(problem, found.coef).gap <= 1.1e-10).all()


@pytest.mark.parametrize("share", [0.002, 0.02, 0.3])
def test_a_small_ridge_and_units_far_apart(share):
    """The gap is then millions of times P(0) on the way, and no measure of progress; the objective is."""
    scales = 10 ** (4 * uniform(300, seed=3) - 2)
    X, Y = normal(4, 20, 300, seed=1) * scales, normal(4, 20, 1, seed=2)
    assert il.ElasticNet(il.Relative(share), 1e-6).solve(X, Y).converged.all()


@pytest.mark.parametrize("share", [0.001, 0.0063])
def test_a_gap_above_one_is_no_reason_to_stand_still(share):
    """With features that correlate as well, sets are solved to gaps of many times P(0), in proximal steps."""
    scales = 10 ** (4 * uniform(100, seed=3) - 2)
    X = (0.1**0.5 * normal(4, 10, 100, seed=7) + 0.9**0.5 * normal(4, 10, 1, seed=5)) * scales
    assert il.ElasticNet(il.Relative(share), 1e-6).solve(X, normal(4, 10, 1, seed=2)).converged.all()


def test_what_is_left_unsolved_has_all_steps_and_a_start_of_no_higher_objective(monkeypatch):
    problem, seen = problem_of(L1, 30, 20, 2, (0.0, 1.0, 0.0), 1), []
    monkeypatch.setattr(reduced, "NEWTON_STEPS", 0)
    monkeypatch.setattr(reduced, "ROUNDS", 1)
    fallback = proximal_point._search
    monkeypatch.setattr(proximal_point, "_search", lambda *given: seen.append(given) or fallback(*given))
    tol, _, max_iter = limits(1e-14)
    coef, n_iter = proximal_point.coefficients(problem, None, tol, max_iter)
    _, start, given = seen[0]
    assert (given.max_iter == 100).all()
    assert (n_iter < 30).all()
    assert (problem.objective(start) < problem.null_objective()).all()
    assert (point(problem, coef).gap <= 1e-13).all()


def test_newton_ends_what_rounding_leaves_where_derivatives_need_it():
    problem = problem_of(L1, 30, 60, 1, (1.0, 1.0, 1.0), 1)
    exact, _ = proximal_point.coefficients(problem, None, *(limits(1e-10)[i] for i in (0, 2)))
    near = point(problem, exact * (1 + 1e-6 * uniform(3, 60, 1, seed=2)))
    assert (near.gap > 1e-15).all()
    found = searched(lambda *_: (near, limits(1.0)[2]), problem, None, 1e-9, 100, True)
    assert (found.derivative_error < 1e-4).all()


@pytest.mark.parametrize("layer", [il.Lasso, il.GroupLasso])
def test_features_that_correlate_do_not_push_each_other_out_forever(layer):
    X = 0.1 * normal(4, 40, 400, seed=1) + normal(4, 40, 1, seed=2)
    assert layer(il.Relative(0.02)).solve(X, normal(4, 40, 2, seed=3)).converged.all()


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-9])
def test_a_target_far_smaller_than_the_others_does_not_spoil_their_certificate(tol):
    """Each is first solved to its own gap, where Newton's method may end as well."""
    problem = problem_of(L1, 30, 20, 3, (0.0, 0.0, 0.0), 1, 1e-5)
    problem = problem._replace(Y=problem.Y * torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64))
    like, _, max_iter = limits(tol)
    found = reduced.search(problem, torch.zeros(3, 20, 3, dtype=torch.float64), like, like, max_iter)
    assert (found.gap <= tol).all()


def test_the_largest_eigenvalue_may_be_missed(monkeypatch):
    """Steps that are too long at first are halved."""
    monkeypatch.setattr(reduced, "POWER_FACTOR", 0.0)
    problem = problem_of(L1, 30, 20, 1, (0.0, 0.0, 0.0), 4)
    problem = problem._replace(X=problem.X + 3)
    monkeypatch.setattr(reduced, "NEWTON_STEPS", 0)
    found = reduced.search(problem, torch.zeros(3, 20, 1, dtype=torch.float64), *limits(1e-2))
    at = point(problem, found.coef)
    assert (problem.objective(found.coef) <= problem.null_objective()).all()
    assert at.gap.isfinite().all()
