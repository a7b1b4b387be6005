"""NaN and infinities are a property of their element of the batch: it is solved as zeros, and reported."""

import torch
from torch import Tensor

from .implicit import is_transformed


def finite_elements(X: Tensor, Y: Tensor) -> Tensor:
    """Elements (...) of X (..., n, m) and Y (..., n, k) without NaN or infinities."""
    if not is_transformed(X) and not is_transformed(Y):
        # Ten times as fast as looking at every entry: a sum that is a number has no summand that is none.
        total = X.detach().sum((-2, -1)) + Y.detach().sum((-2, -1))
        if bool(total.isfinite().all()):
            return torch.ones_like(total, dtype=torch.bool)
    return _finite(X) & _finite(Y)


def zeroed(A: Tensor, finite: Tensor) -> Tensor:
    """A (..., p, q) with zeros for the other elements: their derivatives are then zero too, and they harm nobody."""
    if not is_transformed(finite) and bool(finite.all()):
        return A
    return torch.where(finite[..., None, None], A, 0.0)


def _finite(A: Tensor) -> Tensor:
    return A.isfinite().flatten(-2).all(-1)
