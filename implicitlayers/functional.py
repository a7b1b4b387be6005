"""One function per estimator: each returns what the layer of that name returns, and nothing of its own.

``ridge(X, Y, l2=0.1)`` is ``Ridge(l2=0.1)(X, Y)``. Keywords are the layer's, and those of its call: ``sample_weight``,
``init``, and ``class_mask`` for classification.
"""

from typing import Any

from torch import Tensor

from . import layers
from .ambient import entry
from .layers.base import ArgminLayer, Coefficients

_CALL_ARGUMENTS = ("sample_weight", "class_mask", "init")


@entry
def _call(layer: type[ArgminLayer], X: Tensor, Y: Tensor, keywords: dict[str, Any]) -> Coefficients:
    call = {name: keywords.pop(name) for name in _CALL_ARGUMENTS if name in keywords}
    return layer(**keywords)(X, Y, **call)


def ridge(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`Ridge`: (l2)."""
    return _call(layers.Ridge, X, Y, keywords)


def lasso(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`Lasso`: (l1)."""
    return _call(layers.Lasso, X, Y, keywords)


def elastic_net(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`ElasticNet`: (l1, l2)."""
    return _call(layers.ElasticNet, X, Y, keywords)


def group_lasso(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`GroupLasso`: (l1, l2=0, groups=None, group_weights=None)."""
    return _call(layers.GroupLasso, X, Y, keywords)


def sparse_group_lasso(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`SparseGroupLasso`: (l1, group_l1, l2=0, groups=None, group_weights=None)."""
    return _call(layers.SparseGroupLasso, X, Y, keywords)


def nonnegative_regression(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`NonNegativeRegression`: (l1=0, l2=0)."""
    return _call(layers.NonNegativeRegression, X, Y, keywords)


def box_regression(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`BoxRegression`: (lower, upper, l2=0)."""
    return _call(layers.BoxRegression, X, Y, keywords)


def simplex_regression(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`SimplexRegression`: (total=1, l2=0)."""
    return _call(layers.SimplexRegression, X, Y, keywords)


def sparse_ridge(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`SparseRidge`: (l2, n_nonzero)."""
    return _call(layers.SparseRidge, X, Y, keywords)


def huber_regression(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`HuberRegression`: (l1=0, l2=0, delta=1)."""
    return _call(layers.HuberRegression, X, Y, keywords)


def multiclass_svm(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`MulticlassSVM`: (l2, l1=0, smoothing=0, n_classes=None)."""
    return _call(layers.MulticlassSVM, X, Y, keywords)


def binary_svm(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`BinarySVM`: (l2, l1=0, smoothing=0)."""
    return _call(layers.BinarySVM, X, Y, keywords)


def logistic_regression(X: Tensor, Y: Tensor, **keywords: Any) -> Coefficients:
    """`LogisticRegression`: (l1=0, l2=0, n_classes=None)."""
    return _call(layers.LogisticRegression, X, Y, keywords)
