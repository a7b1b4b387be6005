"""A known value whose derivatives are computed when a backward pass asks for them, under conditions of our own.

In plain reverse mode nothing but a value is needed until `backward`. So what attaches the derivatives runs there, with
everything that it records, and under what the caller says (without autocast, on one thread) whatever is set around the
backward pass. A pass that is differentiated in turn is a function like the first, so that this holds for all orders.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .newton import is_reverse_only, with_value

T = TypeVar("T")
Tensors = tuple[Tensor, ...]
# A function of tensors, and what surrounds each of its runs.
Function = Callable[..., Tensors]
Around = Callable[[], AbstractContextManager[None]]


def deferred(value: Tensor, function: Callable[[T], Tensor], tree: T, around: Around) -> Tensor:
    """``value`` with the derivatives of ``function(tree)``, of which all tensors must be part of ``tree``.

    Forward mode and transforms differentiate ordinary operations only: there the function runs at once.
    """
    leaves, spec = pytree.tree_flatten(tree)
    if not is_reverse_only(*leaves):
        with around():
            return with_value(value, function(tree))

    def flat(*tensors: Tensor) -> Tensors:
        return (function(pytree.tree_unflatten(list(tensors), spec)),)

    return _Deferred.apply(flat, around, (value,), *leaves)[0]


class _Deferred(torch.autograd.Function):
    """``values`` of ``function(*tensors)``; they are computed where they are None."""

    @staticmethod
    def forward(ctx: Any, function: Function, around: Around, values: Tensors | None, *tensors: Tensor) -> Tensors:
        ctx.function, ctx.around = function, around
        ctx.save_for_backward(*tensors)
        if values is not None:
            return values
        with around():
            return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        back = _pullback(ctx.function, wanted, len(gradients))
        given = (*gradients, *tensors)
        if torch.is_grad_enabled() and is_reverse_only(*given):
            found = _Deferred.apply(back, ctx.around, None, *given)
        else:
            with ctx.around():
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
            outputs = [(y, g) for y, g in zip(function(*tensors), gradients, strict=True) if y.requires_grad]
            inputs = [tensors[i] for i in wanted]
            if not outputs:
                return tuple(torch.zeros_like(t) for t in inputs)
            values, along = zip(*outputs, strict=True)
            return torch.autograd.grad(values, inputs, along, create_graph=again, materialize_grads=True)

    return back
