"""Accelerated proximal gradient with restarts: near enough to the support for Newton's steps, or to the end where these
cost more.

(Beck and Teboulle, 2009; O'Donoghue and Candès, 2015.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..penalties import Partly
from ..problem import Problem
from . import clock, effort
from .batch import few, pick, put
from .primal import Point, better, is_kronecker, point

# Steps of the start, which cost as much as one or two of Newton's, and between two looks at the gap.
LOOK = 40
# So many steps count as an iteration.
PER_ITERATION = 100


class _State(NamedTuple):
    """W and the point ``ahead`` of it (b, m, k), the momentum's t (b,), and the best that was seen at a look."""

    W: Tensor
    ahead: Tensor
    t: Tensor
    best: Point


def descend(problem: Problem, at: Point, step: Tensor, tol: Tensor) -> tuple[Point, int]:
    """From a point to a nearer one, by steps of length ``step`` (b,), at most 1/L; and how many there were.

    They go on beyond the first look until gaps are at most ``tol`` (b,) if that is expected to cost less than Newton's.
    """
    state = _State(at.coef, at.coef, torch.ones_like(step), at)
    seen = [float("inf")]
    state = _look(problem, state, step)
    used = int((state.best.coef != 0).any(-1).sum(-1).amax())
    work = effort.of_smooth(problem, used, is_kronecker(problem))
    state = _advance(problem, state, step, tol, work.trial(), seen)
    return state.best, LOOK * (len(seen) - 1)


def to_the_end(problem: Problem, at: Point, step: Tensor, tol: Tensor, most: int) -> tuple[Point, int]:
    """The same, in at most so many steps, where Newton's systems are too large for anybody."""
    state = _State(at.coef, at.coef, torch.ones_like(step), at)
    seen: list[float] = []
    state = _advance(problem, state, step, tol, effort.Limits(most, most), seen)
    return state.best, LOOK * (len(seen) - 1)


def _advance(
    problem: Problem, state: _State, step: Tensor, tol: Tensor, limits: effort.Limits, seen: list[float]
) -> _State:
    while True:
        seen.append(float((state.best.gap / tol).amax()))
        live = state.best.gap > tol
        if not live.any() or not effort.promises(seen, LOOK, limits) or clock.is_over():
            return state
        if (some := few(live)) is not None:
            seen.pop()
            return put(state, some, _advance(*pick((problem, state, step, tol), some), limits, seen))
        state = _look(problem, state, step)


def one_step(problem: Problem, W: Tensor, step: Tensor) -> Tensor:
    """Coefficients (b, m, k) after a single step from W."""
    return _steps(problem, W, W, torch.ones_like(step), step, 1)[0]


def _look(problem: Problem, state: _State, step: Tensor) -> _State:
    """So many steps, and what they led to."""
    W, ahead, t = _steps(problem, state.W, state.ahead, state.t, step, LOOK)
    return _State(W, ahead, t, better(point(problem, W), state.best))


def _steps(
    problem: Problem, W: Tensor, ahead: Tensor, t: Tensor, step: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """W, the point ahead of it and t after so many steps.

    L is that of the penalised rows. With an intercept beside them, for which L is that of the loss, both go half as
    far: two blocks bend together at most twice as much as each alone.
    """
    step = step / 2 if isinstance(problem.penalty, Partly) else step
    length = torch.where(problem.intercept, 0.5 / problem.smooth_loss.smoothness(), step[:, None, None])
    for _ in range(count):
        theta = problem.loss.dual_point(problem.scores(ahead), problem.Y)
        slope = problem.slope(ahead, problem.correlation(theta))
        new = problem.penalty.prox(ahead - length * slope, step)
        moved = new - W
        uphill = ((ahead - new) * moved).sum((1, 2)) > 0
        later = (1 + (1 + 4 * t.square()).sqrt()) / 2
        momentum = torch.where(uphill, 0.0, (t - 1) / later)
        W, ahead, t = new, new + momentum[:, None, None] * moved, torch.where(uphill, 1.0, later)
    return W, ahead, t
