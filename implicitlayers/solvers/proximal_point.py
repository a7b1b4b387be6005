"""Smooth losses, any penalty, l2 ≥ 0: proximal points, each found by Newton on its dual.

    W ← argmin P(W′) + (σ/2)‖W′ − W‖² [+ (τ/2) Σᵢ s̄ᵢ‖x_iᵀ(W′ − W)‖²],    σ, τ → 0

The proximal terms make the dual smooth where the ridge, or the loss's curvature, is zero or small. Few outer steps are
needed, since they converge the faster the smaller σ and τ are (Li, Sun and Toh, 2018). Once the support stands, Newton
on it ends the search at rounding.
"""

import torch
from torch import Tensor

from ..losses import Squared
from ..penalties import L1, GroupL2
from ..problem import Problem
from ..products import row_squares
from . import dual_newton, semismooth
from .conjugate_part import conjugate_part
from .primal import Point, better, point, polish, result, step_length
from .result import Result

# σ starts at this share of the mean squared norm of a sample, τ at this value; both shrink, down to the last one.
FIRST_SHARE, SHRINK, LAST_SHARE = 0.1, 0.1, 1e-7
# A proximal step ends at this share of the gap so far, and at a tenth of the gap at which the step before it ended.
REDUCTION, FINEST = 0.01, 1e-18
COARSE = 10
# Newton steps it may take, how many are few, and what its share is multiplied by where it was not reached.
STEPS, QUICK, GROW = 20, 5, 10


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int, differentiated: bool) -> Result:
    """Solve for all elements; ``start`` holds coefficients W (b, m, k)."""
    step = step_length(problem)
    at, n_iter = _solve(problem, start, step, tol, max_iter)
    return result(problem, at, step, n_iter, differentiated)


def solve_entrywise(problem: Problem, start: Tensor | None, tol: float, max_iter: int, differentiated: bool) -> Result:
    """The Lasso: every target is a problem of its own, and its entries are groups of one."""
    assert isinstance(problem.penalty, L1)
    k = problem.Y.shape[-1]
    columns = Problem(
        # A view, not k copies, where there is one element.
        X=problem.X[:, None].expand(-1, k, -1, -1).flatten(0, 1),
        Y=_to_columns(problem.Y),
        weight=problem.weight.repeat_interleave(k, 0),
        loss=problem.loss,
        penalty=GroupL2(problem.penalty.l1.repeat_interleave(k)[:, None]),
        l2=problem.l2.repeat_interleave(k),
    )
    step = step_length(problem)
    start = None if start is None else _to_columns(start)
    at, n_iter = _solve(columns, start, step.repeat_interleave(k), tol / 2, max_iter)
    whole = point(problem, at.coef.unflatten(0, (-1, k))[..., 0].mT)
    n_iter = n_iter.unflatten(0, (-1, k)).amax(-1)
    return result(problem, polish(problem, whole, step), step, n_iter, differentiated)


def _to_columns(A: Tensor) -> Tensor:
    """(b, p, k) as (b·k, p, 1)."""
    return A.mT.flatten(0, 1)[..., None]


class _Kronecker:
    """Squared loss and groups of one feature: n×n systems whatever k."""

    def __init__(self, problem: Problem, W: Tensor) -> None:
        self.problem = problem
        self.Lambda = problem.scores(W)

    def step(self, W: Tensor, sigma: Tensor, share: Tensor, tol: Tensor, max_iter: Tensor) -> semismooth.Minimum:
        problem, offset = self.problem, sigma[:, None, None] * W
        inner = problem._replace(l2=problem.l2 + sigma)
        found = dual_newton.minimise(conjugate_part(inner), self.Lambda, tol, max_iter, offset)
        self.Lambda = found.Lambda
        W = inner.coef_of(inner.correlation(problem.Y - found.Lambda) + offset)
        return semismooth.Minimum(W, found.gap, found.n_iter)


class _General:
    """Any smooth loss, any penalty: systems of size n·k or S·k."""

    def __init__(self, problem: Problem, W: Tensor) -> None:
        self.problem = problem
        # Where the curvature of the loss is constant it needs no help.
        self.flat = 0.0 if isinstance(problem.loss, Squared) else 1.0

    def step(self, W: Tensor, sigma: Tensor, share: Tensor, tol: Tensor, max_iter: Tensor) -> semismooth.Minimum:
        Z, tau = self.problem.scores(W), self.flat * share
        # The ridge does for the penalised rows what σ does; an intercept, a constant feature, has none.
        rows = torch.where(self.problem.intercept, share[:, None, None], sigma[:, None, None])
        return semismooth.minimise(semismooth.Proximal(self.problem, W, Z, rows, tau), tol, max_iter)


def _solve(problem: Problem, start: Tensor | None, step: Tensor, tol: float, max_iter: int) -> tuple[Point, Tensor]:
    square = _square(problem)
    scale = _scale(square)
    n_iter = torch.zeros_like(scale, dtype=torch.int64)
    W = torch.zeros_like(problem.correlation(problem.Y)) if start is None else start
    kronecker = isinstance(problem.loss, Squared) and isinstance(problem.penalty, GroupL2)
    steps = (_Kronecker if kronecker else _General)(square, W)
    at = point(problem, W)
    at = at if start is None else polish(problem, at, step)
    share, accuracy = torch.full_like(scale, FIRST_SHARE), torch.full_like(scale, 0.1)
    while (live := (at.gap > tol) & (n_iter < max_iter)).any():
        sigma = (share * scale - problem.l2).clamp_min(0)
        accuracy = torch.minimum(REDUCTION * at.gap, accuracy).clamp_min(FINEST if kronecker else tol / 10)
        inner_tol = torch.where(live, accuracy, torch.inf)
        found = steps.step(W, sigma, share, inner_tol, (max_iter - n_iter).clamp_max(STEPS))
        n_iter = n_iter + torch.where(live, found.n_iter.clamp_min(1), 0)
        reached = live & (found.gap <= inner_tol)
        W = torch.where(reached[:, None, None], found.W, W)
        at = polish(problem, better(point(problem, W), at), step)
        quick = found.n_iter <= QUICK
        # The gap grows with the distance from the minimum, that of a proximal step with its square: where the one is
        # about the root of the other, σ is small enough and the accuracy is not. Only n×n systems are solved as well
        # as that; where larger ones are, Newton on the support does the rest.
        coarse = kronecker & (at.gap.square() <= COARSE * found.gap)
        shrink = torch.where(coarse, 1.0, torch.where(quick, SHRINK, SHRINK**0.5))
        share = (share * torch.where(reached, shrink, GROW)).clamp(LAST_SHARE, FIRST_SHARE)
        accuracy = torch.where(reached, torch.where(coarse, 1e-3, 0.1) * accuracy, accuracy)
    return at, n_iter


def _scale(problem: Problem) -> Tensor:
    """The weighted mean of ‖xᵢ‖² over n, without an intercept's ones, (b,)."""
    ones = problem.intercept[..., 0].to(torch.float64).sum(-1)
    return ((row_squares(problem.X) - ones[:, None]).clamp_min(0) * problem.weight).mean(-1)


def _square(problem: Problem) -> Problem:
    """With more samples than features, the problem of m samples that has the same solution, by a QR of √s̄X."""
    n, m = problem.X.shape[-2:]
    if n <= m or not isinstance(problem.loss, Squared):
        return problem
    root = problem.weight.sqrt()[..., None]
    Q, R = torch.linalg.qr(problem.X * root)
    return problem._replace(X=R, Y=Q.mT @ (root * problem.Y), weight=torch.ones_like(problem.weight[..., :m]))
