"""What algorithms are expected to cost, in multiply-adds, so that the cheapest is tried first.

Of measured times one core does 4 to 8·10⁹ multiply-adds a second. What a step costs beside them, in calls of torch, is
counted as so many of them; it matters for small problems only.
"""

import math
from typing import NamedTuple

from torch import Tensor

from ..penalties import NoPenalty
from ..problem import Problem
from .newton_system import primal_is_smaller

# A step's calls: of the gradient method 0.2 ms, of Newton's 2 ms, of the interior point 3 ms.
GRADIENT_CALLS, NEWTON_CALLS, INTERIOR_CALLS = 10**6, 10**7, 15 * 10**6
# Steps until the end, as a rule: of Newton's method on the hinge's dual with a penalty, without, where its model is
# exact, and on the duals of proximal points together; and of the interior point.
NEWTON_STEPS, EXACT_STEPS, PROXIMAL_STEPS, INTERIOR_STEPS = 12, 2, 15, 15
# Faces that a step of Newton's method looks at, and its conjugate gradients'.
FACES, CG_STEPS = 5, 12
# Entries that matrices of a step may have in memory, over the batch: three or so at a time, half a GiB in all.
LARGEST = 2**24
# Gradient steps are tried for this share of what the alternative is expected to cost, unless they are too few to tell
# how fast they lead to the end. The rate is that of so many looks: single ones go up and down with the momentum.
TRIAL, SHORTEST_TRIAL, RATE_LOOKS = 0.1, 30, 5


class Effort(NamedTuple):
    """Multiply-adds of a step of the ``gradient`` method and of ``newton``'s, of which it takes about ``steps``, and of
    an ``interior`` point from its start to its end; infinite where what it keeps would be too large.
    """

    gradient: float
    newton: float
    steps: int
    interior: float

    @property
    def direct(self) -> float:
        """Of what ends in a number of steps that is known beforehand."""
        return min(self.steps * self.newton, self.interior)

    def trial(self) -> "Limits":
        """Of gradient steps before anything else."""
        if self.direct == math.inf:
            return NO_STEPS
        most = int(self.direct / self.gradient)
        trial = int(TRIAL * most)
        return Limits(trial, most) if trial >= SHORTEST_TRIAL else NO_STEPS


class Limits(NamedTuple):
    """Of gradient steps: ``trial``, that are taken in any case, and ``most``, which are as dear as the alternative: the
    rate of convergence must promise the end before.
    """

    trial: int
    most: int


NO_STEPS = Limits(0, 0)


def promises(seen: list[float], look: int, limits: Limits) -> bool:
    """Whether gradient steps are to go on; ``seen`` are the largest gaps beside their tolerance, at the start and after
    every ``look`` steps.
    """
    steps = look * (len(seen) - 1)
    if steps < limits.trial:
        return True
    if steps >= limits.most or not math.isfinite(seen[-1]):
        return False
    looks = min(RATE_LOOKS, len(seen) - 1)
    if limits.trial == limits.most or not looks or not math.isfinite(seen[-1 - looks]):
        return True
    rate = math.log(seen[-1 - looks] / seen[-1]) / (looks * look)
    return rate > 0 and steps + math.log(seen[-1]) / rate <= limits.most


def of_hinge(problem: Problem, near: Tensor, small: Tensor) -> Effort:
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
        newton if b * k * n**2 <= LARGEST else math.inf,
        EXACT_STEPS if isinstance(problem.penalty, NoPenalty) else NEWTON_STEPS,
        interior if bool(small.all()) else math.inf,
    )


def of_smooth(problem: Problem, used: int, kronecker: bool) -> Effort:
    """With so many features ``used``; where proximal steps are ``kronecker``, their systems are n×n or m×m."""
    b, n, m = problem.X.shape
    k = problem.Y.shape[-1]
    gradient = b * 2 * n * m * k + GRADIENT_CALLS
    if kronecker:
        size, sums = min(n, m), used
    else:
        size, sums = (used * k, n * k) if used <= n else (n * k, used * k)
    newton = b * (size**3 / 3 + size**2 * sums / k + 2 * n * m * k) + NEWTON_CALLS
    return Effort(gradient, newton if b * size**2 <= LARGEST else math.inf, PROXIMAL_STEPS, math.inf)
