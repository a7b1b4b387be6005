"""Products with X in float64, whatever the dtype of X, without a copy of X in float64.

Where dtypes differ, X is converted in chunks along its longer side. Where derivatives with respect to X are asked for,
the product is taken in the dtype of X instead, because its backward pass would keep all chunks: the derivatives then
have the precision of X, as their result does.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .implicit import is_differentiated

# Entries of a chunk, over the batch: in float64 it stays in a processor's cache, so that conversion costs no pass over
# memory of its own; elsewhere many small products cost more than they save.
CHUNK, DEVICE_CHUNK = 2**17, 2**24


def product(A: Tensor, B: Tensor) -> Tensor:
    """A @ B for a wide A (X or Xᵀ) and a narrow B; columns contiguous in memory, several times faster in batches."""
    if A.dtype == B.dtype:
        return (B.mT @ A.mT).mT
    if is_differentiated(A):
        return (B.to(A.dtype).mT @ A.mT).mT.to(B.dtype)
    if A.shape[-2] > A.shape[-1]:
        return torch.cat([product(part.to(B.dtype), B) for part in _chunks(A, -2)], dim=-2)
    parts = _chunks(A, -1)
    rows = B.split([part.shape[-1] for part in parts], dim=-2)
    return _sum([product(part.to(B.dtype), row) for part, row in zip(parts, rows, strict=True)])


def transposed_product(A: Tensor, B: Tensor) -> Tensor:
    """Aᵀ @ B. Its derivative with respect to A comes in the layout of A: autograd adds to it in place."""
    return (B.mT @ A).mT if A.dtype == B.dtype else product(A.mT, B)


def gram(A: Tensor, weight: Tensor | None = None, precision: torch.dtype = torch.float64) -> Tensor:
    """A diag(weight) Aᵀ in float64, symmetric to the last digit; ``weight`` (..., columns of A).

    Sums over parts of the columns are in ``precision``.
    """
    if is_differentiated(A) or (weight is None and A.dtype == precision):
        product = (A if weight is None else A * weight[..., None, :].to(A.dtype)) @ A.mT
    else:
        product = _sum(list(_partial_grams(A, weight, precision)))
    product = product.to(torch.float64)
    # Products round differently on both sides of the diagonal; an unsymmetric model stalls at gaps of 1e-7.
    return (product + product.mT) / 2


def _partial_grams(A: Tensor, weight: Tensor | None, precision: torch.dtype) -> Iterator[Tensor]:
    """Part by part, so that neither a converted nor a weighted A is ever in memory as a whole."""
    start = 0
    for part in _chunks(A, -1):
        end = start + part.shape[-1]
        part = part.to(precision)
        yield (part if weight is None else part * weight[..., None, start:end].to(precision)) @ part.mT
        start = end


def row_squares(X: Tensor) -> Tensor:
    """‖xᵢ‖², (..., n), as exact as X: sums in float64 of a large X in float32 take thirty times as long."""
    norms = torch.linalg.vector_norm(X, dim=-1)
    if not norms.isfinite().all():
        norms = torch.linalg.vector_norm(X, dim=-1, dtype=torch.float64)
    return norms.to(torch.float64).square()


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _chunks(A: Tensor, dim: int) -> tuple[Tensor, ...]:
    size = CHUNK if A.device.type == "cpu" else DEVICE_CHUNK
    return A.split(max(1, size * A.shape[dim] // max(1, A.numel())), dim=dim)
