"""Any smooth loss with any penalty: accelerated proximal gradient until the support is found, then Newton on it.

W ← prox(W′ − τ∇f(W′), τ),    W′ extrapolated (Beck and Teboulle, 2009), restarted by the gradient
(O'Donoghue and Candès, 2015)
"""

import torch
from torch import Tensor

from ..problem import Problem
from .primal import better, point, polish, result, step_length
from .result import Result

# Gradient steps between two attempts of Newton; one iteration of this solver.
GRADIENT_STEPS = 25


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """Solve for all elements; ``start`` holds coefficients W (b, m, k)."""
    step = step_length(problem)
    W = torch.zeros_like(problem.correlation(problem.Y)) if start is None else start
    at = polish(problem, point(problem, problem.penalty.prox(W, step)), step)
    W, n_iter = at.coef, 0
    while (at.gap > tol).any() and n_iter < max_iter:
        W = _accelerated(problem, W, step)
        at = polish(problem, better(point(problem, W), at), step)
        W = torch.where((at.gap <= tol)[:, None, None], at.coef, W)
        n_iter += 1
    return result(problem, at, step, n_iter)


def _accelerated(problem: Problem, W: Tensor, step: Tensor) -> Tensor:
    """Some accelerated steps from W."""
    ahead, t = W, torch.ones_like(step)
    for _ in range(GRADIENT_STEPS):
        theta = problem.loss.dual_point(problem.scores(ahead), problem.Y)
        new = problem.penalty.prox(ahead - step[:, None, None] * problem.slope(ahead, theta), step)
        against = ((ahead - new) * (new - W)).sum((-2, -1)) > 0
        t_next = torch.where(against, 1.0, (1 + (1 + 4 * t.square()).sqrt()) / 2)
        momentum = torch.where(against, 0.0, (t - 1) / t_next)
        ahead, W, t = new + momentum[:, None, None] * (new - W), new, t_next
    return W
