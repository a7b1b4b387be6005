"""The one place where an argmin gets derivatives.

A solver is opaque: it runs on plain tensors, loops and branches as it likes, and returns constants. Derivatives are
attached afterwards, by the implicit function theorem written as Newton steps that do not move the value:

    x ← x − J⁻¹(r(x, p) − r(x, p).detach()),    J = ∂r/∂x at the solution, constant.

r is the optimality residual in ordinary differentiable operations. One step gives dx/dp = −J⁻¹ ∂r/∂p exactly; each
further step makes one more order exact, in reverse mode, forward mode, under `vmap`, and in every composition of them,
because nothing but ordinary operations is differentiated. (One custom Function for x(p) with `backward` and `jvp` would
not do: its second derivatives in nested forward mode are silently zero.)
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

T = TypeVar("T")


def attach(x: Tensor, residual: Callable[[Tensor], Tensor], solve: Callable[[Tensor], Tensor], order: int) -> Tensor:
    """``x`` with derivatives exact up to ``order``; the value is bit for bit the one given.

    ``residual(x)`` vanishes at the solution whatever the parameters, ``solve(r)`` is J⁻¹r with J = ∂residual/∂x.
    """
    for _ in range(order):
        r = residual(x)
        x = x - solve(r - r.detach())
    return x


def with_value(value: Tensor, x: Tensor) -> Tensor:
    """``value`` with the derivatives of ``x``."""
    return value + (x - x.detach())


def is_differentiated(tree: Any) -> bool:
    """True if anybody could ask for a derivative with respect to a tensor of ``tree``: else attaching is idle work."""
    return any(_is_tracked(leaf) for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def is_learnt(tree: Any) -> bool:
    """The same, where a `vmap` alone, which does not say whether there are derivatives, counts for nothing."""
    return any(_is_tracked(_without_vmap(leaf)) for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def _without_vmap(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def is_transformed(tensor: Tensor) -> bool:
    """True inside a transform of `torch.func`, where no value may be looked at."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _is_tracked(tensor: Tensor) -> bool:
    if is_transformed(tensor):
        return True
    if torch.is_grad_enabled() and tensor.requires_grad:
        return True
    return forward_ad.unpack_dual(tensor).tangent is not None


def opaque(run: Callable[[T], Any], tree: T, batch_ndim: int) -> Any:
    """``run(tree)`` on plain tensors with exactly one leading batch dimension, its result without derivatives.

    All tensors of ``tree`` share ``batch_ndim`` leading dimensions. ``run`` returns a tree of tensors with one leading
    batch dimension; their further dimensions may depend on the data, under `vmap` too.
    """
    leaves, inputs = pytree.tree_flatten(tree)
    outputs: list[pytree.TreeSpec] = []

    def flat(batch_ndim: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        batch = tensors[0].shape[:batch_ndim]
        one = [t.reshape(batch.numel(), *t.shape[batch_ndim:]) for t in tensors]
        results, spec = pytree.tree_flatten(run(pytree.tree_unflatten(one, inputs)))
        outputs[:] = [spec]
        return tuple(t.reshape(batch + t.shape[1:]) for t in results)

    results = _Opaque.apply(flat, batch_ndim, *leaves)
    return pytree.tree_unflatten(list(results), outputs[0])


class _Opaque(torch.autograd.Function):
    """Calls a function on plain tensors, declares its outputs constant, and lets `vmap` add to the batch."""

    @staticmethod
    def forward(flat: Callable[..., tuple[Tensor, ...]], batch_ndim: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return flat(batch_ndim, *(t.detach() for t in tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)
        ctx.set_materialize_grads(False)
        ctx.counts = len(inputs), len(output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        return (None,) * ctx.counts[0]

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> tuple[None, ...]:
        return (None,) * ctx.counts[1]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], flat: Callable[..., Any], batch_ndim: int, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        moved = [
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip(tensors, in_dims[2:], strict=True)
        ]
        results = _Opaque.apply(flat, batch_ndim + 1, *moved)
        return results, (0,) * len(results)
