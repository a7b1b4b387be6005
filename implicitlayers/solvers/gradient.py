"""Accelerated proximal gradient with restarts: cheap steps that come near enough to the support for Newton's.

(Beck and Teboulle, 2009; O'Donoghue and Candès, 2015.)
"""

import torch
from torch import Tensor

from ..penalties import Partly
from ..problem import Problem


def descend(problem: Problem, W: Tensor, step: Tensor, steps: int) -> Tensor:
    """Coefficients (b, m, k) after so many ``steps`` from W, of length ``step`` (b,), at most 1/L.

    L is that of the penalised rows. With an intercept beside them, for which L is that of the loss, both go half as
    far: two blocks bend together at most twice as much as each alone.
    """
    step = step / 2 if isinstance(problem.penalty, Partly) else step
    length = torch.where(problem.intercept, 0.5 / problem.smooth_loss.smoothness(), step[:, None, None])
    ahead, t = W, torch.ones_like(step)
    for _ in range(steps):
        theta = problem.loss.dual_point(problem.scores(ahead), problem.Y)
        slope = problem.slope(ahead, problem.correlation(theta))
        new = problem.penalty.prox(ahead - length * slope, step)
        moved = new - W
        uphill = ((ahead - new) * moved).sum((1, 2)) > 0
        later = (1 + (1 + 4 * t.square()).sqrt()) / 2
        momentum = torch.where(uphill, 0.0, (t - 1) / later)
        W, ahead, t = new, new + momentum[:, None, None] * moved, torch.where(uphill, 1.0, later)
    return W
