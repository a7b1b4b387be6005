"""A bad element of a batch, and a loss that looks at the others alone: its NaN must not come back to anyone."""

import torch
from torch import Tensor

from .batches import spoilt
from .example import Example
from .failures import Inapplicable, failure, reproducible
from .subject import LayerError, Subject, blamed
from .terms import Coefficients


@reproducible
def check_isolated_losses(subject: Subject, example: Example) -> None:
    """A loss on the good elements' coefficients, or intercepts, has the gradient that it has without the bad one.

    For the bad element that is zero: of an encoder that both come from, one NaN there spoils every weight.

    Args:
        subject: what is tested.
        example: one leading dimension of at least two elements; the first is made bad.

    Raises:
        AssertionError: the bad element shows.
        Inapplicable: it fails the whole batch.
    """
    example = subject.shared(example)
    expected = _gradients(subject, example[1:], 0)
    for what, X, Y in spoilt(example):
        try:
            found = _gradients(subject, example.replace(X=X, Y=Y), 1)
        except LayerError:
            raise Inapplicable("one bad element fails the whole batch: see isolation") from None
        for part in found:
            _check_zero(found[part][0], part, what)
            error = _error(found[part][1:], expected[part])
            if not error <= 1e-8:
                raise failure(
                    f"{what} in one element not to change the gradient of a loss on the others' {part}",
                    f"a relative difference of {error:.1e}",
                    "what is computed beside the solve, means or an intercept, is not masked as the solve is",
                )


def _check_zero(gradient: Tensor, part: str, what: str) -> None:
    if bool((gradient == 0).all()):
        return
    raise failure(
        f"a loss on the other elements' {part} to have no gradient with respect to one with {what}",
        f"{float(gradient[gradient != 0][0])}",
        "0·NaN: a mask is applied after the NaN has entered a product, and not before",
    )


def _gradients(subject: Subject, example: Example, skipped: int) -> dict[str, Tensor]:
    """With respect to X of a projection of the coefficients, and of the intercepts, of all elements but the first."""
    X = example.X.clone().requires_grad_()
    found: Coefficients = subject.call(X, example.Y, example.strengths, example.sample_weight)
    parts = dict(zip(("coefficients", "intercepts"), found if isinstance(found, tuple) else (found,), strict=False))
    gradient = {}
    for name, part in parts.items():
        C = torch.randn(part.shape[1:], generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(part)
        value = (part[skipped:] * C).sum()
        with blamed():
            (gradient[name],) = torch.autograd.grad(value, [X], retain_graph=True)
    return gradient


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max().nan_to_num(torch.inf)) / max(float(expected.abs().max()), 1e-12)
