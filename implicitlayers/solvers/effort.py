"""What the algorithms for the hinge are expected to cost, in multiply-adds, so that the cheapest is tried first.

Of measured times one core does 4 to 8·10⁹ multiply-adds a second. What a step costs beside them, in calls of torch, is
counted as so many of them; it matters for small problems only.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import Problem
from .newton_system import primal_is_smaller

# A step's calls: of the gradient method 0.2 ms, of Newton's 2 ms, of the interior point 3 ms.
GRADIENT_CALLS, NEWTON_CALLS, INTERIOR_CALLS = 10**6, 10**7, 15 * 10**6
# Steps until the end, as a rule; the faces a step of Newton's method looks at, and its conjugate gradients'.
NEWTON_STEPS, INTERIOR_STEPS, FACES, CG_STEPS = 12, 15, 5, 12
# Blocks of n×n for each class, over the batch, that may be in memory: three or so at a time, half a GiB in all.
LARGEST_BLOCKS = 2**24


class Effort(NamedTuple):
    """Multiply-adds of a step of the ``gradient`` method and of ``newton``'s, and of an ``interior`` point from its
    start to its end; infinite where what it keeps would be too large.
    """

    gradient: float
    newton: float
    interior: float

    @property
    def direct(self) -> float:
        """Of what ends in a number of steps that is known beforehand."""
        return min(NEWTON_STEPS * self.newton, self.interior)


def effort(problem: Problem, near: Tensor, small: Tensor) -> Effort:
    """With the features (b, m) ``near`` their threshold in use; ``small`` (b,) is where the interior point fits."""
    b, n, m = problem.X.shape
    k, S = problem.Y.shape[-1], int(near.sum(-1).amax())
    gradient = b * 2 * n * m * k + GRADIENT_CALLS
    newton = b * (FACES * 0.7 * k * n**3 + CG_STEPS * 2 * n * S * k + n**2 * S + 2 * n * m * k) + NEWTON_CALLS
    size, sums = (S, n) if primal_is_smaller(problem.Y, S) else (n, S)
    system = sums * (size * (k - 1)) ** 2 + (size * (k - 1)) ** 3 / 3
    interior = INTERIOR_STEPS * (b * (system + 4 * n * m * k) + INTERIOR_CALLS)
    return Effort(
        gradient,
        newton if b * k * n**2 <= LARGEST_BLOCKS else torch.inf,
        interior if bool(small.all()) else torch.inf,
    )
