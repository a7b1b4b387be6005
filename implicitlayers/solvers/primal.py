"""What solvers of smooth losses share: points with their certificate, and Newton on the support.

A point is a W with the gap that its own dual point Θ = −∂ℓ(XW) certifies. Newton works in the normal map (see
`NormalMap`): one proximal-gradient step from W gives v with W′ = prox(v) exactly, its support and its signs, and the
step from there is Newton's on the smooth system that holds as long as these do.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..features import Support
from ..optimality import NormalMap, normal_map
from ..problem import Problem
from ..products import gram
from .result import Result
from .ties import at_kink, derivative_error

# Newton begins below this gap, and ends when the coefficients stand still to this precision.
POLISH_BELOW, POLISH_STEPS, SETTLED_STEP = 0.3, 5, 1e-10
# Rows of a support that are never too many.
ALWAYS_SMALL = 100


class Point(NamedTuple):
    """Coefficients (b, m, k), their dual point Θ (b, n, k), and the relative gap (b,) of the two."""

    coef: Tensor
    theta: Tensor
    gap: Tensor


def point(problem: Problem, W: Tensor) -> Point:
    """W with its certificate."""
    theta = problem.loss.dual_point(problem.scores(W), problem.Y)
    return Point(W, theta, problem.relative_gap(W, theta))


def better(new: Point, old: Point) -> Point:
    """Element by element the point of smaller gap, the new one if they tie at rounding; NaN never wins."""
    use = new.gap <= old.gap + 1e-15
    return Point(*(torch.where(use.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old, strict=True)))


def step_length(problem: Problem) -> Tensor:
    """1/L with L the largest eigenvalue of the loss's and the ridge's Hessian, at most, (b,)."""
    n, m = problem.X.shape[-2:]
    root = problem.weight.sqrt()[..., None]
    G = root * gram(problem.X) * root.mT if n <= m else gram(problem.X.mT, problem.weight)
    largest = torch.linalg.eigvalsh(G)[..., -1].clamp_min(0)
    smoothness = problem.smooth_loss.smoothness() * largest + problem.l2 + (0.0 if problem.gauge is None else 1.0)
    return torch.where(smoothness > 0, 1 / torch.where(smoothness > 0, smoothness, 1.0), 1.0)


def polish(problem: Problem, at: Point, step: Tensor) -> Point:
    """Newton on the support until W stands still, where that lowers the gap.

    Elements far from their solution, which shows in the gap or in more features than n·k equations determine, wait.
    """
    size = max(problem.Y.shape[-2] * problem.Y.shape[-1], ALWAYS_SMALL)
    # Coefficients count by what they do to scores, whatever the units of their features.
    unit = torch.linalg.vector_norm(problem.X, dim=-2, dtype=at.coef.dtype)[..., None]
    for _ in range(POLISH_STEPS):
        chosen, v = _support(problem, at, step)
        ready = (at.gap < POLISH_BELOW) & (chosen.sum(-1) <= size)
        if not ready.any():
            break
        features, small, system, v = _linearised(problem, chosen & ready[:, None], v, step)
        v = v - system.solve(system.residual(small, v))
        W = features.put(small.penalty.prox(v, step), problem.X.shape[-1])
        new = better(point(problem, W), at)
        moved = (unit * (new.coef - at.coef)).abs().amax((1, 2))
        at = new
        if (moved <= SETTLED_STEP * (unit * at.coef).abs().amax((1, 2))).all():
            break
    return at


def _support(problem: Problem, at: Point, step: Tensor) -> tuple[Tensor, Tensor]:
    """The support (b, m) after a proximal-gradient step, and v (b, m, k), of which that is the prox."""
    v = at.coef - step[:, None, None] * problem.slope(at.coef, at.theta)
    return problem.penalty.support(v, step), v


def _linearised(
    problem: Problem, chosen: Tensor, v: Tensor, step: Tensor
) -> tuple[Support, Problem, NormalMap, Tensor]:
    """The problem on the ``chosen`` features, the normal map there and its unknown v."""
    features = Support.of(chosen)
    small, v = problem.restrict(features), features.take(v.mT).mT
    return features, small, normal_map(small, v, step, features.real), v


def result(problem: Problem, at: Point, step: Tensor, n_iter: Tensor) -> Result:
    """What the solver hands over."""
    chosen, V = _support(problem, at, step)
    features, small, system, v = _linearised(problem, chosen, V, step)
    kinks = problem.penalty.kinks(V, step)
    # How far V may be from its optimum: τ∇f moves by at most √(2τ(P − D)), since P − P* ≥ τ‖δ∇f‖²/2; W by about
    # Newton's next step.
    newton = system.solve(system.residual(small, v)).abs().flatten(1)
    moved = newton.amax(-1) if newton.shape[-1] else torch.zeros_like(step)
    uncertainty = moved + (2 * step * at.gap * problem.null_objective()).sqrt()
    return Result(
        coef=at.coef,
        theta=problem.feasible(at.theta)[0],
        features=features,
        system=system,
        state=v,
        degenerate=at_kink(kinks),
        singular=system.factor.singular,
        derivative_error=derivative_error(kinks.distance, uncertainty[:, None, None], system.factor),
        n_iter=n_iter,
    )
