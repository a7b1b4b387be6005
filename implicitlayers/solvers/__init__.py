"""Find the argmin of a `Problem`; know nothing of derivatives. Plain tensors, float64, one leading batch dimension."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..constraints import Cardinality
from ..losses import MulticlassHinge, Squared
from ..penalties import NoPenalty
from ..problem import Problem
from . import direct, hinge, subset, working_set
from .result import Result

# Below float64, what rounding the coefficients may not use up of the tolerance.
ROOM = 1e-3


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
        return hinge.solve(problem, start and start.theta, tol, max_iter, precision)
    if isinstance(problem.loss, Squared) and isinstance(problem.penalty, NoPenalty):
        return direct.solve(problem)
    if isinstance(problem.penalty, Cardinality):
        return subset.solve(problem, start and start.theta, tol, max_iter)
    # Coefficients are rounded to the precision of the features before they are judged.
    exact = tol if precision == torch.float64 else ROOM * tol
    return working_set.solve(problem, start and start.coef, exact, max_iter, differentiated)
