"""Argmin layers for PyTorch that come with a proof: minimiser, duality gap, exact first and second derivatives."""

from . import functional, implicit
from .layers import GroupLasso, MulticlassSVM, Ridge
from .solution import ConvergenceError, ConvergenceWarning, Solution, Status

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "GroupLasso",
    "MulticlassSVM",
    "Ridge",
    "Solution",
    "Status",
    "functional",
    "implicit",
]
