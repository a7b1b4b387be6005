"""A known value whose derivatives are attached when a backward pass asks for them: on few threads, like the solve.

Autograd runs what it has recorded on as many threads as torch uses. So what attaches the derivatives runs as a whole
within the backward pass, a pass of its own inside that; and where that is differentiated in turn, it is a function like
the first, so that this holds for all orders.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ambient import threads, without_autocast
from .newton import is_reverse_only, with_value

T = TypeVar("T")
Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]


def with_derivatives(value: Tensor, function: Callable[[T], Tensor], tree: T, count: int | None) -> Tensor:
    """``value`` with the derivatives of ``function(tree)``, on ``count`` threads; all tensors are part of ``tree``.

    Forward mode and transforms differentiate ordinary operations only: there the function runs at once. So it does
    where the number of threads is torch's own (None), which is for large problems: a gradient that comes in stays in
    memory until a pass within the pass is done with it.
    """
    leaves, spec = pytree.tree_flatten(tree)
    if count is None or not is_reverse_only(*leaves):
        with threads(count):
            return with_value(value, function(tree))

    def flat(*tensors: Tensor) -> Tensors:
        return (function(pytree.tree_unflatten(list(tensors), spec)),)

    return _Deferred.apply(flat, count, (value,), *leaves)[0]


class _Deferred(torch.autograd.Function):
    """``values`` of ``function(*tensors)``; they are computed where they are None."""

    @staticmethod
    def forward(ctx: Any, function: Function, count: int, values: Tensors | None, *tensors: Tensor) -> Tensors:
        ctx.function, ctx.count = function, count
        ctx.save_for_backward(*tensors)
        if values is not None:
            return values
        with without_autocast(), threads(count):
            return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        back = _pullback(ctx.function, wanted, len(gradients))
        given = (*gradients, *tensors)
        if torch.is_grad_enabled() and is_reverse_only(*given):
            found = _Deferred.apply(back, ctx.count, None, *given)
        else:
            with without_autocast(), threads(ctx.count):
                found = back(*given)
        results: list[Tensor | None] = [None] * len(tensors)
        for i, gradient in zip(wanted, found, strict=True):
            results[i] = gradient
        return None, None, None, *results


def _pullback(function: Function, wanted: Sequence[int], n_outputs: int) -> Function:
    """(gradients of the outputs, tensors) ↦ gradients of the tensors ``wanted``, itself differentiable."""

    def back(*given: Tensor) -> Tensors:
        gradients, tensors = given[:n_outputs], list(given[n_outputs:])
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            if not again:
                tensors = [t.detach() for t in tensors]
            for i in wanted:
                # Views are told apart although one tensor may be made of another.
                tensors[i] = tensors[i].view_as(tensors[i]) if again else tensors[i].requires_grad_()
            inputs = [tensors[i] for i in wanted]
            outputs = [(y, g) for y, g in zip(function(*tensors), gradients, strict=True) if y.requires_grad]
            if not outputs:
                return tuple(torch.zeros_like(t) for t in inputs)
            values, along = zip(*outputs, strict=True)
            return torch.autograd.grad(values, inputs, along, create_graph=again, materialize_grads=True)

    return back
