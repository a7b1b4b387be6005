"""Find the argmin of a `Problem`; know nothing of derivatives. Plain tensors, float64, one leading batch dimension.

| name | problems | what it costs |
|---|---|---|
| ``primal`` | squared loss, no penalty | one factorisation m×m |
| ``dual`` | squared loss, no penalty | one factorisation n×n |
| ``subset`` | at most so many features | a ridge per guess, a bound per branch |
| ``dual_newton`` | the hinge | a few factorisations n×n for each class, and products with X |
| ``working_set`` | smooth loss, a penalty that selects | systems on few features, and one product with X a round |
| ``proximal_point`` | smooth loss, any penalty | systems on all features not zero, and products with X |

What an algorithm will cost is estimated beforehand (`effort`), and what costs least is tried first. With many samples
``dual_newton`` takes gradient steps on the dual (`accelerated`) as long as these promise to end sooner; where few
features are in use it hands over to an interior point (`interior`), with systems of n(k − 1) or S(k − 1) unknowns,
whichever are fewer. The last two solve least squares on few features in their Gram matrix (`reduced`), targets that
share nothing one by one, and by gradient steps alone (`gradient`) what would need too large systems.

`candidates` names those that solve a problem, the one that suits its shape first: that one is taken unless a layer's
``solver`` is another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..constraints import Cardinality
from ..hinges import Hinge
from ..losses import Squared
from ..penalties import NoPenalty
from ..problem import Problem
from . import direct, hinge, proximal_point, subset, working_set
from .primal import searched
from .result import Result

# All of them, whatever the problem.
NAMES = ("primal", "dual", "subset", "dual_newton", "working_set", "proximal_point")

# Below float64, what rounding the coefficients may not use up of the tolerance.
ROOM = 1e-3


class Start(NamedTuple):
    """Where to begin: coefficients W (b, m, k) and a dual point Θ (b, n, k) of a similar problem."""

    coef: Tensor
    theta: Tensor


class Limits(NamedTuple):
    """When to stop; ``precision`` is that in which features came, ``differentiated``, whether derivatives are asked."""

    tol: float
    max_iter: int
    precision: torch.dtype
    differentiated: bool


def candidates(problem: Problem) -> tuple[str, ...]:
    """The algorithms that solve a problem, by its loss, its penalty and its shape; the first is the best guess."""
    if isinstance(problem.loss, Hinge):
        return ("dual_newton",)
    if isinstance(problem.loss, Squared) and isinstance(problem.penalty, NoPenalty):
        return ("dual", "primal") if direct.dual_is_smaller(problem) else ("primal", "dual")
    if isinstance(problem.penalty, Cardinality):
        return ("subset",)
    if working_set.selects(problem.penalty):
        few = working_set.pays(problem)
        return ("working_set", "proximal_point") if few else ("proximal_point", "working_set")
    return ("proximal_point",)


def solve(problem: Problem, start: Start | None, solver: str, limits: Limits) -> Result:
    """Run one of the `candidates`."""
    tol, max_iter, precision, differentiated = limits
    if solver == "dual_newton":
        return hinge.solve(problem, start and start.theta, tol, max_iter, precision, differentiated)
    if solver in ("primal", "dual"):
        return direct.solve(problem, dual=solver == "dual")
    if solver == "subset":
        return subset.solve(problem, start and start.theta, tol, max_iter)
    search = working_set.search if solver == "working_set" else proximal_point.search
    # Coefficients are rounded to the precision of the features before they are judged.
    exact = tol if precision == torch.float64 else ROOM * tol
    return searched(search, problem, start and start.coef, exact, max_iter, differentiated)
