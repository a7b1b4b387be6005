"""The certificate against cvxpy, and the solver of our own making that it judges."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import normal

from benchmarks.peers import certificate
from benchmarks.peers.certificate import Answer, coefficients, relative_gaps
from benchmarks.peers.contenders import dual
from benchmarks.peers.contenders.accelerated import Accelerated, accelerated
from benchmarks.peers.contenders.dual import Dual
from benchmarks.peers.problems import Case, l1_bound, problem_of

SVM = Case("svm", "svm", 9, 14, 3, 2, 0.1, 0.1)
CASES = [
    SVM,
    Case("dense", "svm", 9, 14, 3, 2, 0.0, 0.1),
    Case("lasso", "lasso", 9, 14, 1, 2, 0.1),
    Case("group lasso", "group_lasso", 9, 14, 3, 2, 0.1),
]
by_name = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def minimiser(problem, i):
    """W, Θ and the optimal value from cvxpy, of element i, as the layers' documentation states the problem."""
    X, Y = problem.X[i].double().numpy(), problem.Y[i].numpy()
    n, k = Y.shape
    W, Z = cp.Variable((X.shape[1], k)), cp.Variable((n, k))
    penalty = problem.l1 * cp.sum(cp.norm(W, axis=1)) + problem.l2 / 2 * cp.sum_squares(W)
    if problem.kind == "svm":
        loss = cp.sum(cp.max(1 - Y + Z, axis=1) - cp.sum(cp.multiply(Y, Z), axis=1)) / n
    else:
        loss = cp.sum_squares(Z - Y) / (2 * n)
    scores = Z == X @ W
    solved = cp.Problem(cp.Minimize(loss + penalty), [scores])
    solved.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return W.value, n * scores.dual_value, solved.value


@by_name
def test_the_gap_of_an_independent_solution_vanishes(case):
    problem = problem_of(case)
    found = [minimiser(problem, i) for i in range(case.batch)]
    W = np.stack([each[0] for each in found])
    theta = -np.stack([each[1] for each in found])
    if case.kind != "svm":
        assert np.abs(relative_gaps(problem, Answer(coef=W))).max() < 1e-6
        return
    signed = min((theta, -theta), key=lambda each: np.abs(relative_gaps(problem, Answer(W, each))).max())
    assert np.abs(relative_gaps(problem, Answer(W, signed))).max() < 1e-6
    assert coefficients(problem, Answer(dual=signed)) == pytest.approx(W, abs=1e-5)


@by_name
def test_the_gap_bounds_how_far_the_objective_is_from_its_minimum(case):
    problem = problem_of(case)
    X, Y = problem.X[0].numpy(), problem.Y[0].numpy()
    W, theta, least = minimiser(problem, 0)
    one = problem._replace(X=problem.X[:1], Y=problem.Y[:1])
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1):
        moved = W + size * rng.standard_normal(W.shape)
        Z = X @ moved
        if case.kind == "svm":
            loss, at_zero = ((1 - Y + Z).max(-1) - (Y * Z).sum(-1)).mean(), 1.0
        else:
            loss, at_zero = ((Z - Y) ** 2).sum() / (2 * len(X)), (Y**2).sum() / (2 * len(X))
        value = loss + problem.l1 * np.linalg.norm(moved, axis=1).sum() + problem.l2 / 2 * (moved**2).sum()
        excess = (value - least) / at_zero
        dual = theta if case.kind == "svm" else None
        assert excess > 0
        assert relative_gaps(one, Answer(moved[None], dual if dual is None else dual[None]))[0] >= excess * (1 - 1e-6)


def test_a_worse_dual_point_has_a_larger_gap_and_any_dual_point_is_judged():
    problem = problem_of(SVM)
    uniform = problem.Y - 1 / 3
    wild = problem.Y - 10 * normal(*problem.Y.shape, dtype=torch.float32)
    found, _ = accelerated(Dual(problem, problem.X), torch.full_like(problem.Y, 1 / 3), 1e-10)
    solved, start, far = (
        relative_gaps(problem, Answer(dual=theta.numpy())).max() for theta in (problem.Y - found, uniform, wild)
    )
    assert 0 <= solved < 1e-9 < start < far


def test_an_answer_that_is_no_number_has_no_gap_and_leaves_the_others_alone():
    problem = problem_of(CASES[2])
    W = np.zeros((2, 14, 1))
    W[1, 3] = np.nan
    gaps = relative_gaps(problem, Answer(coef=W))
    assert np.isfinite(gaps[0])
    assert np.isnan(gaps[1])


def test_nothing_is_selected_from_the_bound_on():
    for case in CASES:
        problem = problem_of(case)
        problem = problem._replace(l1=1.0001 * l1_bound(case.kind, problem.X, problem.Y))
        U = (1 - problem.Y) / 2
        theta = (problem.Y - U).numpy() if case.kind == "svm" else problem.Y.numpy()
        assert np.abs(relative_gaps(problem, Answer(np.zeros((2, 14, case.k)), theta))).max() < 1e-12


def test_both_projections_onto_the_simplex_are_the_nearest_point():
    V = normal(50, 4)
    projected = certificate.project_simplex(V.numpy())
    assert dual.project_simplex(V).numpy() == pytest.approx(projected, abs=1e-15)
    assert projected.min() >= 0
    assert projected.sum(-1) == pytest.approx(1)
    # The nearest point: ⟨V − P, E − P⟩ ≤ 0 for every vertex E.
    assert ((V.numpy() - projected)[:, None] * (np.eye(4) - projected[:, None])).sum(-1).max() < 1e-12


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_accelerated_gradient_converges_and_its_own_gap_is_the_certificate(share):
    problem = problem_of(Case("svm", "svm", 9, 14, 3, 2, share, 0.1))
    smooth = Dual(problem, problem.X)
    start = torch.full_like(problem.Y, 1 / 3)
    found, steps = accelerated(smooth, start, 1e-9)
    few, _ = accelerated(smooth, start, 1e-9, max_iter=10)
    assert steps < 3000
    for point, bound in ((found, 1e-9), (few, 1.0)):
        gaps = relative_gaps(problem, Answer(dual=(problem.Y - point).numpy()))
        assert gaps == pytest.approx(smooth.gap(point).numpy(), abs=1e-12)
        assert gaps.max() <= bound
    assert relative_gaps(problem, Answer(dual=(problem.Y - few).numpy())).max() > 1e-9


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_accelerated_gradient_differentiates(share):
    problem = problem_of(Case("svm", "svm", 9, 14, 3, 2, share, 0.1))
    contender = Accelerated(problem)
    gradient = contender.total()
    direction = normal(*problem.X.shape, seed=2)

    def score(t):
        W, _ = Accelerated(problem._replace(X=problem.X + t * direction)).forward()
        return float((W * contender.C).sum())

    difference = (score(1e-4) - score(-1e-4)) / 2e-4
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-3)
