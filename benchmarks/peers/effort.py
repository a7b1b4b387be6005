"""How much to measure."""

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[str], None]  # called with what is done next


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        repetitions: timed, after one that is not.
        budget: seconds for all repetitions of one function of one contender, see `interleave`.
        memory: whether to measure it, in a process for each case and contender.
        limit: seconds after which such a process is given up, and the contender with it.
    """

    repetitions: int = 7
    budget: float = 60.0
    memory: bool = True
    limit: float = 300.0


QUICK = Effort(repetitions=2, budget=1.0, memory=False)
