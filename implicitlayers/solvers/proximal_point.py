"""Squared loss with group Lasso, l2 ≥ 0: proximal points, each found by Newton on its dual.

    W ← argmin P(W′) + (σ/2)‖W′ − W‖²,    σ → 0

The proximal term makes the dual smooth where l2 is zero or small. Few outer steps are needed, since they converge the
faster the smaller σ is (Li, Sun and Toh, 2018). Once the support stands, Newton on its rows, in the normal map, ends
the search at rounding.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..features import Support
from ..optimality import NormalMap, normal_map
from ..problem import Problem
from . import dual_newton
from .result import Result
from .ties import groups_tied

# σ starts at this share of the mean squared norm of a sample, and shrinks down to a smaller one.
FIRST_SIGMA, SHRINK, LAST_SIGMA = 0.1, 0.1, 1e-5
# The gap of a proximal step, relative to the gap so far, at which the next one begins.
INNER_REDUCTION = 0.01
# Newton on the support begins below this gap, and ends when the coefficients stand still to this precision.
POLISH_BELOW, POLISH_STEPS, SETTLED_STEP = 0.1, 4, 1e-10


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """Solve for all elements; ``start`` is a dual point Θ (b, n, k)."""
    square, Lambda = _square(problem, problem.Y if start is None else problem.Y - start)
    scale = (square.X.square().sum(-1) * square.weight).mean(-1)
    share, n_iter = FIRST_SIGMA, 0
    W = torch.zeros_like(problem.correlation(problem.Y))
    at = _point(problem, W)
    while (at.gap > tol).any() and n_iter < max_iter:
        sigma = (share * scale - problem.l2).clamp_min(0)
        offset = sigma[:, None, None] * W
        inner = square._replace(l2=problem.l2 + sigma)
        inner_tol = torch.where(at.gap > tol, (INNER_REDUCTION * at.gap.clamp_max(1)).clamp_min(tol / 10), torch.inf)
        found = dual_newton.minimise(inner, Lambda, inner_tol, max_iter - n_iter, offset)
        Lambda, n_iter = found.Lambda, n_iter + max(found.n_iter, 1)
        W = inner.coef_of(inner.correlation(square.Y - Lambda) + offset)
        at = _polish(problem, _better(_point(problem, W), at))
        share = max(SHRINK * share, LAST_SIGMA)
    return _result(problem, at, n_iter)


class _Point(NamedTuple):
    """Coefficients (b, m, k), their dual point Θ (b, n, k), and the relative gap (b,) of the two."""

    coef: Tensor
    theta: Tensor
    gap: Tensor


def _point(problem: Problem, W: Tensor) -> _Point:
    theta = problem.loss.dual_point(problem.scores(W), problem.Y)
    return _Point(W, theta, problem.relative_gap(W, theta))


def _better(new: _Point, old: _Point) -> _Point:
    """Element by element the point of smaller gap, the new one if they tie at rounding; NaN never wins."""
    use = new.gap <= old.gap + 1e-15
    return _Point(*(torch.where(use.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old, strict=True)))


def _square(problem: Problem, Lambda: Tensor) -> tuple[Problem, Tensor]:
    """With more samples than features, the problem of m samples that has the same solution, by a QR of √s̄X."""
    n, m = problem.X.shape[-2:]
    if n <= m:
        return problem, Lambda
    root = problem.weight.sqrt()[..., None]
    Q, R = torch.linalg.qr(problem.X * root)
    weight = torch.ones_like(problem.weight[..., :m])
    square = problem._replace(X=R, Y=Q.mT @ (root * problem.Y), weight=weight)
    return square, Q.mT @ (root * Lambda)


def _polish(problem: Problem, at: _Point) -> _Point:
    """Newton on the support's rows until W stands still, where that lowers the gap."""
    for _ in range(POLISH_STEPS if (at.gap < POLISH_BELOW).any() else 0):
        features, small, system, v = _linearised(problem, at.coef)
        v = v - system.solve(system.residual(small, v))
        new = _better(_point(problem, features.put(problem.penalty.prox(v), problem.X.shape[-1])), at)
        moved = (new.coef - at.coef).abs().amax((1, 2))
        at = new
        if (moved <= SETTLED_STEP * at.coef.abs().amax((1, 2))).all():
            break
    return at


def _linearised(problem: Problem, W: Tensor) -> tuple[Support, Problem, NormalMap, Tensor]:
    """The support of W, the problem on it, the normal map there and its unknown v."""
    features = Support.of((W != 0).any(-1))
    small = problem._replace(X=features.take(problem.X))
    v = problem.penalty.normal(features.take(W.mT).mT)
    return features, small, normal_map(small, v, features.real), v


def _result(problem: Problem, at: _Point, n_iter: int) -> Result:
    features, _, system, _ = _linearised(problem, at.coef)
    W = features.take(at.coef.mT).mT
    # At the solution V = l2·W + l1·∂Ω(W): rows outside the support show a tie in V, rows inside it in W.
    V = torch.where(
        (at.coef != 0).any(-1, keepdim=True), problem.penalty.normal(at.coef), problem.correlation(at.theta)
    )
    return Result(
        coef=at.coef,
        theta=problem.feasible(at.theta)[0],
        features=features,
        system=system,
        state=W,
        degenerate=groups_tied(problem.penalty, V),
        singular=system.factor.singular,
        n_iter=torch.full_like(problem.l2, n_iter, dtype=torch.int64),
    )
