"""Argmin layers for PyTorch that come with a proof: minimiser, duality gap, exact first and second derivatives."""

from . import functional, implicit
from .layers import (
    BinarySVM,
    BoxRegression,
    ElasticNet,
    GroupLasso,
    HuberRegression,
    Lasso,
    LogisticRegression,
    MulticlassSVM,
    NonNegativeRegression,
    Ridge,
    SimplexRegression,
    SparseGroupLasso,
    SparseRidge,
)
from .relative import Relative
from .solution import ConvergenceError, ConvergenceWarning, EmptySolutionWarning, Solution, Status

__all__ = [
    "BinarySVM",
    "BoxRegression",
    "ConvergenceError",
    "ConvergenceWarning",
    "ElasticNet",
    "EmptySolutionWarning",
    "GroupLasso",
    "HuberRegression",
    "Lasso",
    "LogisticRegression",
    "MulticlassSVM",
    "NonNegativeRegression",
    "Relative",
    "Ridge",
    "SimplexRegression",
    "Solution",
    "SparseGroupLasso",
    "SparseRidge",
    "Status",
    "functional",
    "implicit",
]
