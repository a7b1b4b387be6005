"""NaN, infinities and numbers whose products overflow are a property of their element of the batch.

It is solved as zeros, and reported.
"""

import torch
from torch import Tensor

from .implicit import is_transformed

# Up to here float64 holds squares of products of two numbers, and sums of them. No other dtype goes so far.
LARGEST = 1e70


def finite_elements(X: Tensor, Y: Tensor) -> Tensor:
    """Elements (...) of X (..., n, m) and Y (..., n, k) without NaN, infinities or entries beyond `LARGEST`."""
    if not is_transformed(X) and not is_transformed(Y):
        # Ten times as fast as looking at every entry: no entry is larger than the norm of all.
        size = _norm(X.detach()) + _norm(Y.detach())
        if bool((size <= LARGEST).all()):
            return torch.ones_like(size, dtype=torch.bool)
    return _finite(X) & _finite(Y)


def zeroed(A: Tensor, finite: Tensor) -> Tensor:
    """A (..., p, q) with zeros for the other elements: their derivatives are then zero too, and they harm nobody."""
    if not is_transformed(finite) and bool(finite.all()):
        return A
    return torch.where(finite[..., None, None], A, 0.0)


def _finite(A: Tensor) -> Tensor:
    return (A.abs() <= LARGEST).flatten(-2).all(-1)


def _norm(A: Tensor) -> Tensor:
    return torch.linalg.vector_norm(A, dim=(-2, -1))
