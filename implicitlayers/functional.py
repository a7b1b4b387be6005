"""One function per estimator: each returns what the layer of that name returns, nothing of its own."""

from typing import Any

from torch import Tensor

from .layers import GroupLasso, MulticlassSVM, Ridge
from .layers.base import Strength


def ridge(X: Tensor, Y: Tensor, *, l2: Strength, sample_weight: Tensor | None = None, **options: Any) -> Tensor:
    """`Ridge`: coefficients (..., m, k); ``options`` are the layer's."""
    return Ridge(l2, **options)(X, Y, sample_weight=sample_weight)


def group_lasso(
    X: Tensor, Y: Tensor, *, l1: Strength, l2: Strength = 0.0, sample_weight: Tensor | None = None, **options: Any
) -> Tensor:
    """`GroupLasso`: coefficients (..., m, k); ``options`` are the layer's."""
    return GroupLasso(l1, l2, **options)(X, Y, sample_weight=sample_weight)


def multiclass_svm(
    X: Tensor,
    Y: Tensor,
    *,
    l2: Strength,
    l1: Strength = 0.0,
    smoothing: Strength = 0.0,
    sample_weight: Tensor | None = None,
    class_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`MulticlassSVM`: coefficients (..., m, k); ``options`` are the layer's."""
    layer = MulticlassSVM(l2, l1, smoothing, **options)
    return layer(X, Y, sample_weight=sample_weight, class_mask=class_mask)
