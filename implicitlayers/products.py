"""Products with X in float64, whatever the dtype of X, without a copy of X in float64.

Where dtypes differ, X is converted in chunks along its longer side. Where derivatives with respect to X are asked for,
the product is taken in the dtype of X instead, because its backward pass would keep all chunks: the derivatives then
have the precision of X, as their result does. In plain reverse mode functions of our own make the gradients of X, which
cost one X in memory together, and are made of ordinary operations: they have derivatives of any order.

X may lie in memory row after row, column after column, or with gaps between its entries: it is read in the order of
memory, and what a linear algebra library would first copy as a whole is copied in chunks.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, graph
from torch.utils.weak import WeakTensorKeyDictionary

from .implicit import is_differentiated

# Entries of a chunk, over the batch: in float64 it stays in a processor's cache, so that conversion costs no pass over
# memory of its own; elsewhere many small products cost more than they save.
CHUNK, DEVICE_CHUNK = 2**17, 2**24


def product(A: Tensor, B: Tensor) -> Tensor:
    """A @ B for a wide A (X or Xᵀ) and a narrow B; columns contiguous in memory, several times faster in batches."""
    if is_differentiated(A):
        return _differentiable(A, B, transposed=False)
    if not is_differentiated(B) and not (A.dtype == B.dtype and _is_dense(A)):
        return _by_parts(A, B)
    return (B.mT @ A.to(B.dtype).mT).mT


def _by_parts(A: Tensor, B: Tensor) -> Tensor:
    """The same where A has another dtype, or gaps."""
    if A.shape[-2] > A.shape[-1]:
        wide = B.new_empty(*A.shape[:-2], B.shape[-1], A.shape[-2])
        for at, part in _parts(A, -2, B.dtype):
            wide[..., at] = B.mT @ part.mT
        return wide.mT
    narrow = B.new_zeros(*A.shape[:-2], B.shape[-1], A.shape[-2])
    for at, part in _parts(A, -1, B.dtype):
        narrow += B[..., at, :].mT @ part.mT
    return narrow.mT


def transposed_product(A: Tensor, B: Tensor) -> Tensor:
    """Aᵀ @ B."""
    return _differentiable(A, B, transposed=True) if is_differentiated(A) else product(A.mT, B)


def _differentiable(A: Tensor, B: Tensor, transposed: bool) -> Tensor:
    """A @ B or Aᵀ @ B in the dtype of A."""
    multiply = _Product.apply if _is_reverse_only(A, B) else _multiplied
    return multiply(A, B.to(A.dtype), transposed).to(B.dtype)


def _multiplied(A: Tensor, B: Tensor, transposed: bool) -> Tensor:
    return (B.mT @ (A if transposed else A.mT)).mT


class _Product(torch.autograd.Function):
    """A @ B, or Aᵀ @ B where ``transposed``; A and B share their leading dimensions.

    The gradient of A is new memory in the layout of A, and no view: to one like it autograd adds the others in place.
    That of `torch.matmul` in batches is a view, and every use of A would cost another A.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(A, B)
        ctx.transposed = transposed
        return transposed_product(A, B) if transposed else product(A, B)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        A, B = ctx.saved_tensors
        to_A, to_B = None, None
        if ctx.needs_input_grad[1]:
            to_B = product(A, G) if ctx.transposed else transposed_product(A, G)
        if ctx.needs_input_grad[0]:
            left, right = (B, G) if ctx.transposed else (G, B)
            to_A = (right @ left.mT).mT if _is_by_columns(A) else left @ right.mT
        return to_A, to_B, None


def gram(A: Tensor, weight: Tensor | None = None, precision: torch.dtype = torch.float64) -> Tensor:
    """A diag(weight) Aᵀ in float64, symmetric to the last digit; ``weight`` (..., columns of A).

    Sums over parts of the columns are in ``precision``.
    """
    if is_differentiated(A) or (weight is None and A.dtype == precision and _is_dense(A)):
        product = (A if weight is None else A * weight[..., None, :].to(A.dtype)) @ A.mT
    else:
        product = _gram_by_parts(A, weight, precision)
    product = product.to(torch.float64)
    # Products round differently on both sides of the diagonal; an unsymmetric model stalls at gaps of 1e-7.
    return (product + product.mT) / 2


def _gram_by_parts(A: Tensor, weight: Tensor | None, precision: torch.dtype) -> Tensor:
    """Part by part, so that neither a converted nor a weighted A is ever in memory as a whole."""
    product = torch.zeros(*A.shape[:-1], A.shape[-2], dtype=precision, device=A.device)
    for at, part in _parts(A, -1, precision):
        product += (part if weight is None else part * weight[..., None, at].to(precision)) @ part.mT
    return product


def known_gram(A: Tensor, value: Tensor) -> Tensor:
    """A Aᵀ, whose ``value`` in float64 is known, with its derivatives; in reverse mode one product, in backward."""
    if not is_differentiated(A):
        return value
    return _KnownGram.apply(A, value) if _is_reverse_only(A) else gram(A)


class _KnownGram(torch.autograd.Function):
    """The value of A Aᵀ; (G + Gᵀ) A is one product backward, where autograd takes G A and Gᵀ A.

    Its backward is made of ordinary operations, and so differentiable as often as one likes.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(A)
        # Not the argument itself: autograd would take it for one changed in place.
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        (A,) = ctx.saved_tensors
        G = (G + G.mT).to(A.dtype)
        return (A.mT @ G).mT if _is_by_columns(A) else G @ A, None


def saved_like(A: Tensor) -> AbstractContextManager[Any]:
    """Inside, autograd saves for backward in the dtype of A: derivatives with respect to A have no more digits.

    Values are not touched. Transforms take no hooks; there everything is saved as it is.
    """
    if A.dtype == torch.float64 or not is_differentiated(A) or torch._C._are_functorch_transforms_active():
        return nullcontext()
    kept = WeakTensorKeyDictionary()

    def pack(t: Tensor) -> tuple[torch.dtype, Tensor]:
        if t.dtype != torch.float64:
            return t.dtype, t
        # Several operations save the same tensor.
        if t not in kept:
            kept[t] = t.to(A.dtype)
        return t.dtype, kept[t]

    return graph.saved_tensors_hooks(pack, lambda packed: packed[1].to(packed[0]))


def row_squares(X: Tensor) -> Tensor:
    """‖xᵢ‖², (..., n), in float64, as exact as X; plain tensors."""
    return _square_sums(X, -1)


def column_norms(X: Tensor) -> Tensor:
    """‖x_j‖, (..., m), in float64, as exact as X; plain tensors."""
    return _square_sums(X, -2).sqrt()


def _square_sums(X: Tensor, dim: int) -> Tensor:
    """Sums of squares along one of the last two dimensions.

    On a CPU `torch.linalg.vector_norm` takes many times as long as a pass over memory, unless it runs along it and in
    the dtype of X.
    """
    if X.device.type != "cpu":
        return torch.linalg.vector_norm(X, dim=dim, dtype=torch.float64).square()
    if _is_by_columns(X) == (dim == -2):
        squares = torch.linalg.vector_norm(X, dim=dim).to(torch.float64).square()
    else:
        squares = torch.zeros_like(X.select(dim, 0))
        for _, part in _parts(X, dim, X.dtype):
            squares += part.square().sum(dim)
        squares = squares.to(torch.float64)
    if not squares.isfinite().all():
        return torch.linalg.vector_norm(X, dim=dim, dtype=torch.float64).square()
    return squares


def _is_reverse_only(*tensors: Tensor) -> bool:
    """Neither forward mode nor a transform: inside those a custom function loses second derivatives."""
    forward = any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    return not forward and not torch._C._are_functorch_transforms_active()


def _is_by_columns(A: Tensor) -> bool:
    """Whether the entries of a column are nearer to each other in memory than those of a row."""
    return A.shape[-1] > 1 and A.stride(-2) < A.stride(-1)


def _is_dense(A: Tensor) -> bool:
    """Whether every row, or every column, is without gaps, and none overlaps the next: BLAS takes nothing else."""
    step, between = sorted((A.stride(-1), A.stride(-2)))
    return (step == 1 and between >= A.shape[-2 if _is_by_columns(A) else -1]) or 1 in A.shape[-2:]


def _parts(A: Tensor, dim: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Parts of A along a dimension and where they are, in a dtype and dense; a copy takes the last one's place.

    New memory for each would cost more than the conversion.
    """
    size = CHUNK if A.device.type == "cpu" else DEVICE_CHUNK
    parts = A.split(max(1, size * A.shape[dim] // max(1, A.numel())), dim=dim)
    room = None if A.dtype == dtype and _is_dense(A) else torch.empty_like(parts[0], dtype=dtype)
    start = 0
    for part in parts:
        width = part.shape[dim]
        yield slice(start, start + width), part if room is None else room.narrow(dim, 0, width).copy_(part)
        start += width
