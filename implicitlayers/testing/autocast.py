"""`torch.autocast` around a layer: what networks train under must not reach into an argmin."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from .example import Example
from .failures import Inapplicable, failure, reproducible
from .subject import LayerError, Subject, gradients

# bfloat16 has eight bits: whatever passes through it is off by more than a thousandth.
TOLERANCE = 1e-4


class Found(NamedTuple):
    """Coefficients, the gradient of a projection of them, and that of a projection of the gradient, if it has one."""

    W: Tensor
    first: Tensor
    second: Tensor


@reproducible
def check_autocast(subject: Subject, example: Example) -> None:
    """With bfloat16 autocast around forward, around backward and around both: the same values and derivatives.

    Args:
        subject: what is tested; features and targets become float32, which is what autocast takes hold of.
        example: any leading dimensions.

    Raises:
        AssertionError: they differ, or the layer fails.
        Inapplicable: the layer does not work in float32.
    """
    X = example.X.to(torch.float32)
    Y = example.Y.to(torch.float32) if example.Y.is_floating_point() else example.Y
    single = example.replace(X=X, Y=Y)
    try:
        expected = _found(subject, single, nullcontext(), nullcontext())
    except LayerError:
        raise Inapplicable("the layer does not work in float32: see dtypes") from None
    for where, forward, backward in (("forward", 1, 0), ("backward", 0, 1), ("forward and backward", 1, 1)):
        try:
            found = _found(subject, single, _autocast(X, forward), _autocast(X, backward))
        except LayerError as error:
            raise failure(
                f"the layer to work with autocast around {where}", str(error), "products of two dtypes meet inside"
            ) from None
        for what, one, other in zip(("value", "first derivative", "second derivative"), found, expected, strict=True):
            _compare(one, other, f"the same {what} with autocast around {where}", float(expected.first.abs().max()))


def _autocast(X: Tensor, on: int) -> AbstractContextManager[None]:
    return torch.autocast(X.device.type, dtype=torch.bfloat16) if on else nullcontext()


def _found(
    subject: Subject, example: Example, forward: AbstractContextManager[None], backward: AbstractContextManager[None]
) -> Found:
    X = example.X.clone().requires_grad_()
    with forward:
        W = subject.W(example.replace(X=X))
    C = torch.randn(W.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(W)
    E = torch.randn(X.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(X)
    value = (W * C).sum()
    with backward:
        (first,) = gradients(value, [X], create_graph=True)
        try:
            (second,) = gradients((first * E).sum(), [X])
        except LayerError:
            # Not every layer has second derivatives; whether it should is for other checks.
            second = torch.zeros_like(X)
    return Found(W.detach(), first.detach(), second)


def _compare(found: Tensor, expected: Tensor, what: str, floor: float) -> None:
    if found.dtype != expected.dtype:
        raise failure(what, f"{found.dtype} for {expected.dtype}", "products inside are taken in half precision")
    if torch.equal(found.nan_to_num(), expected.nan_to_num()):
        return
    # A second derivative of zero is known to the rounding of what cancels in it.
    scale = max(float(expected.abs().max()), 1e-3 * floor, 1e-30)
    error = float((found - expected).abs().max()) / scale
    if not error <= TOLERANCE:
        raise failure(
            f"{what} (to {TOLERANCE:.0e})",
            f"a relative difference of {error:.1e}",
            "products inside are taken in half precision: torch.autocast(device, enabled=False) around the layer's"
            " forward covers its backward too only where that runs inside, or in an autograd.Function that says so",
        )
