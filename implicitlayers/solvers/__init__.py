"""Find the argmin of a `Problem`; know nothing of derivatives. Plain tensors, float64, one leading batch dimension."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..constraints import Cardinality
from ..losses import MulticlassHinge, Squared
from ..penalties import L1, NoPenalty
from ..problem import Problem
from . import direct, hinge, proximal_point, subset
from .result import Result


class Start(NamedTuple):
    """Where to begin: coefficients W (b, m, k) and a dual point Θ (b, n, k) of a similar problem."""

    coef: Tensor
    theta: Tensor


def solve(
    problem: Problem, start: Start | None, tol: float, max_iter: int, precision: torch.dtype, differentiated: bool
) -> Result:
    """Pick the algorithm by the problem's loss and penalty.

    ``precision`` is that in which features came; ``differentiated``, whether anybody asks for derivatives.
    """
    if isinstance(problem.loss, MulticlassHinge):
        return hinge.solve(problem, start and start.theta, tol, max_iter, precision, differentiated)
    if isinstance(problem.loss, Squared) and isinstance(problem.penalty, NoPenalty):
        return direct.solve(problem)
    if isinstance(problem.penalty, Cardinality):
        return subset.solve(problem, start and start.theta, tol, max_iter)
    coef = start and start.coef
    if isinstance(problem.loss, Squared) and isinstance(problem.penalty, L1):
        return proximal_point.solve_entrywise(problem, coef, tol, max_iter, differentiated)
    return proximal_point.solve(problem, coef, tol, max_iter, differentiated)
