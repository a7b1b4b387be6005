"""The time a solve may take: asked between steps, in whatever loop of whatever solver."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_END: ContextVar[float] = ContextVar("end", default=math.inf)


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Inside, `is_over` tells whether so many seconds have passed; None: they never have.

    The end is known to the thread that solves, and to no other.
    """
    token = _END.set(math.inf if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def is_over() -> bool:
    """Whether the time is up."""
    return time.monotonic() >= _END.get()
