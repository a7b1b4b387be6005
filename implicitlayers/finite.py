"""NaN, infinities and numbers whose products overflow are a property of their element of the batch.

It is solved as zeros, and reported.
"""

import torch
from torch import Tensor

from .implicit import is_transformed

# Up to here float64 holds squares of products of two numbers, and sums of them. No other dtype goes so far.
LARGEST = 1e70
# From here on a square is as exact as any other number.
SMALLEST = 1e-145


def finite_elements(X: Tensor, Y: Tensor) -> Tensor:
    """Elements (...) of X (..., n, m) and Y (..., n, k) without NaN, infinities or entries beyond `LARGEST`."""
    if not is_transformed(X) and not is_transformed(Y):
        # Ten times as fast as looking at every entry: no entry is larger than the norm of all.
        size = _norm(X.detach()) + _norm(Y.detach())
        if bool((size <= LARGEST).all()):
            return torch.ones_like(size, dtype=torch.bool)
    return _finite(X) & _finite(Y)


def underflows(X: Tensor, Y: Tensor, l2: Tensor) -> Tensor:
    """Elements (...) whose numbers are not zero, but so small that squares are: no gap can be computed there.

    Targets Y, what Xᵀ Y is made of, and in the inverse l2 beside it; plain tensors.
    """

    def too_small(x: Tensor, y: Tensor) -> Tensor:
        return (torch.minimum(y, x * y) < SMALLEST) | ((l2 > 0) & (l2 < SMALLEST * x * y))

    # No norm is below the largest entry, but where it underflows itself.
    x, y = _norm(X).to(torch.float64), _norm(Y).to(torch.float64)
    if not bool(too_small(x, y).any()):
        return torch.zeros_like(l2, dtype=torch.bool)
    x, y = (A.abs().flatten(-2).amax(-1).to(torch.float64) for A in (X, Y))
    return (x > 0) & (y > 0) & too_small(x, y)


def zeroed(A: Tensor, finite: Tensor) -> Tensor:
    """A (..., p, q) with zeros for the other elements: their derivatives are then zero too, and they harm nobody."""
    if not is_transformed(finite) and bool(finite.all()):
        return A
    return torch.where(finite[..., None, None], A, 0.0)


def _finite(A: Tensor) -> Tensor:
    # In a shorter dtype the bound itself is infinite.
    return (A.isfinite() & (A.abs() <= LARGEST)).flatten(-2).all(-1)


def _norm(A: Tensor) -> Tensor:
    return torch.linalg.vector_norm(A, dim=(-2, -1))
