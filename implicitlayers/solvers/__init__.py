"""Find the argmin of a `Problem`; know nothing of derivatives. Plain tensors, float64, one leading batch dimension."""

from torch import Tensor

from ..losses import MulticlassHinge
from ..penalties import NoPenalty
from ..problem import Problem
from . import direct, hinge, proximal_point
from .result import Result


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """Pick the algorithm by the problem's loss and penalty; ``start`` is a dual point Θ (b, n, k), or None."""
    if isinstance(problem.loss, MulticlassHinge):
        return hinge.solve(problem, start, tol, max_iter)
    if isinstance(problem.penalty, NoPenalty):
        return direct.solve(problem)
    return proximal_point.solve(problem, start, tol, max_iter)
