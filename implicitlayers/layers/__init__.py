"""One nn.Module per estimator."""

from .classification import BinarySVM, LogisticRegression, MulticlassSVM
from .regression import (
    BoxRegression,
    ElasticNet,
    GroupLasso,
    HuberRegression,
    Lasso,
    NonNegativeRegression,
    Ridge,
    SimplexRegression,
    SparseGroupLasso,
)
from .sparse_ridge import SparseRidge

__all__ = [
    "BinarySVM",
    "BoxRegression",
    "ElasticNet",
    "GroupLasso",
    "HuberRegression",
    "Lasso",
    "LogisticRegression",
    "MulticlassSVM",
    "NonNegativeRegression",
    "Ridge",
    "SimplexRegression",
    "SparseGroupLasso",
    "SparseRidge",
]
