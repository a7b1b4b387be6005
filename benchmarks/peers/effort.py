"""How much to measure."""

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[str], None]  # called with what is done next


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        repetitions: timed, after one that is not.
        memory: whether to measure it, in a process for each case and contender.
        limit: seconds after which such a process is given up, and the contender with it.
    """

    repetitions: int = 5
    memory: bool = True
    limit: float = 300.0


QUICK = Effort(repetitions=2, memory=False)
