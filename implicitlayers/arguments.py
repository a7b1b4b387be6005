"""Checks of arguments that are plain numbers, switches or names; each error names the argument, and what was given.

A number is any real one: Python's, numpy's, a fraction; a boolean is none.
"""

import math
import operator
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


def real(value: Any) -> float | None:
    """A real number as float, infinite where it is too large for one; None for anything else."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        # Only an integer, or a fraction of integers, is too large for a float.
        return math.inf if operator.gt(value, 0) else -math.inf


def tolerance(given: Any, default: str = "None") -> float | None:
    """``tol``: a number > 0, or None, which ``default`` describes."""
    if given is None:
        return None
    tol = real(given)
    if tol is None or not tol > 0:
        raise ValueError(f"tol: given {given!r}, expected a number > 0, or {default}")
    return tol


def seconds(name: str, given: Any) -> float | None:
    """A time > 0, or None for no limit."""
    time = real(given)
    if given is not None and (time is None or not time > 0):
        raise ValueError(f"{name}: given {given!r}, expected a number of seconds > 0, or None for no limit")
    return time


def integer(name: str, given: Any, least: int, otherwise: str = "") -> int:
    """An integer from ``least`` up; ``otherwise`` says what else may be given."""
    if isinstance(given, bool) or not isinstance(given, Integral) or given < least:
        raise ValueError(f"{name}: given {given!r}, expected an integer ≥ {least}{otherwise}")
    return operator.index(given)


def switch(name: str, given: Any) -> bool:
    """True or False."""
    if not isinstance(given, bool | np.bool_):
        raise ValueError(f"{name}: given {given!r}, expected True or False")
    return bool(given)


def one_of(name: str, given: Any, names: Sequence[str], otherwise: str = "") -> None:
    """One of some names; ``otherwise`` says what else may be given."""
    if not isinstance(given, str) or given not in names:
        *most, last = (repr(each) for each in names)
        raise ValueError(f"{name}: given {given!r}, expected {', '.join(most)} or {last}{otherwise}")
