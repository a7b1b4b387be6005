"""Squared loss with group Lasso, l2 ≥ 0: proximal points, each found by Newton on its dual.

    W ← argmin P(W′) + (σ/2)‖W′ − W‖²,    σ → 0

The proximal term makes the dual smooth where l2 is zero or small. Few outer steps are needed, since they converge the
faster the smaller σ is (Li, Sun and Toh, 2018). Once the support stands, Newton on it ends the search at rounding.
"""

import torch
from torch import Tensor

from ..penalties import L1, GroupL2
from ..problem import Problem
from ..products import row_squares
from . import dual_newton
from .primal import Point, better, point, polish, result, step_length
from .result import Result

# σ starts at this share of the mean squared norm of a sample, and shrinks down to a smaller one.
FIRST_SIGMA, SHRINK, LAST_SIGMA = 0.1, 0.1, 1e-5
# A proximal step ends at this share of the gap so far, and at a tenth of the gap at which the step before it ended.
REDUCTION = 0.01


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """Solve for all elements; ``start`` holds coefficients W (b, m, k)."""
    at, n_iter = _solve(problem, start, tol, max_iter)
    return result(problem, at, step_length(problem), n_iter)


def solve_entrywise(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """The Lasso: every target is a problem of its own, and its entries are groups of one."""
    assert isinstance(problem.penalty, L1)
    k = problem.Y.shape[-1]
    columns = Problem(
        X=problem.X.repeat_interleave(k, 0),
        Y=_to_columns(problem.Y),
        weight=problem.weight.repeat_interleave(k, 0),
        loss=problem.loss,
        penalty=GroupL2(problem.penalty.l1.repeat_interleave(k)[:, None]),
        l2=problem.l2.repeat_interleave(k),
    )
    at, n_iter = _solve(columns, None if start is None else _to_columns(start), tol / 2, max_iter)
    whole = point(problem, at.coef.unflatten(0, (-1, k))[..., 0].mT)
    step = step_length(problem)
    return result(problem, polish(problem, whole, step), step, n_iter)


def _to_columns(A: Tensor) -> Tensor:
    """(b, p, k) as (b·k, p, 1)."""
    return A.mT.flatten(0, 1)[..., None]


def _solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> tuple[Point, int]:
    square = _square(problem)
    scale = (row_squares(square.X) * square.weight).mean(-1)
    share, n_iter, step = FIRST_SIGMA, 0, step_length(square)
    W = torch.zeros_like(problem.correlation(problem.Y)) if start is None else start
    Lambda = square.scores(W)
    at = point(problem, W)
    at = at if start is None else polish(problem, at, step)
    accuracy = torch.full_like(scale, 0.1)
    while (at.gap > tol).any() and n_iter < max_iter:
        sigma = (share * scale - problem.l2).clamp_min(0)
        offset = sigma[:, None, None] * W
        inner = square._replace(l2=problem.l2 + sigma)
        accuracy = torch.minimum(REDUCTION * at.gap, 0.1 * accuracy).clamp_min(tol / 10)
        inner_tol = torch.where(at.gap > tol, accuracy, torch.inf)
        found = dual_newton.minimise(inner, Lambda, inner_tol, max_iter - n_iter, offset)
        Lambda, n_iter = found.Lambda, n_iter + max(found.n_iter, 1)
        W = inner.coef_of(inner.correlation(square.Y - Lambda) + offset)
        at = polish(problem, better(point(problem, W), at), step)
        share = max(SHRINK * share, LAST_SIGMA)
    return at, n_iter


def _square(problem: Problem) -> Problem:
    """With more samples than features, the problem of m samples that has the same solution, by a QR of √s̄X."""
    n, m = problem.X.shape[-2:]
    if n <= m:
        return problem
    root = problem.weight.sqrt()[..., None]
    Q, R = torch.linalg.qr(problem.X * root)
    return problem._replace(X=R, Y=Q.mT @ (root * problem.Y), weight=torch.ones_like(problem.weight[..., :m]))
