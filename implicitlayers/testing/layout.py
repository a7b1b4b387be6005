"""How a tensor lies in memory is not part of its value: transposed, strided and expanded ones give the same."""

from collections.abc import Callable

import torch
from torch import Tensor

from .example import Example
from .failures import failure, reproducible
from .subject import Subject, gradients

Layout = Callable[[Tensor], Tensor]


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT if t.dim() > 1 else t


def _strided(t: Tensor) -> Tensor:
    """Every second number of twice as many; the others are NaN, to be noticed."""
    wide = torch.stack([t, torch.full_like(t, torch.nan if t.is_floating_point() else 0)], -1).flatten(-2)
    return wide[..., ::2]


def _offset(t: Tensor) -> Tensor:
    """Behind others in the same memory."""
    return torch.cat([t[:1], t])[1:]


LAYOUTS: dict[str, Layout] = {"transposed": _transposed, "strided": _strided, "an offset in memory": _offset}


@reproducible
def check_layout(subject: Subject, example: Example) -> None:
    """Transposed, strided and expanded features and targets give the solution and the gradient of contiguous ones.

    Args:
        subject: what is tested.
        example: any leading dimensions.

    Raises:
        AssertionError: they do not.
    """
    example = subject.shared(example)
    if not (example.batch and subject.batches(example[0])):
        example = example[0] if example.batch else example
    expected = _found(subject, example)
    for name, layout in LAYOUTS.items():
        for what in ("X", "Y"):
            changed = example.replace(**{what: layout(getattr(example, what))})
            _same(subject, _found(subject, changed), expected, f"{what} {name}")
    if not example.batch:
        return
    size = len(example.X)
    first = example.replace(X=example.X[:1].expand(example.X.shape), Y=example.Y[:1].expand(example.Y.shape))
    plain = first.replace(X=first.X.contiguous(), Y=first.Y.contiguous())
    _same(subject, _found(subject, first), _found(subject, plain), f"X and Y expanded to a batch of {size}")


def _found(subject: Subject, example: Example) -> tuple[Tensor, Tensor]:
    # Without a copy, which would be contiguous.
    X = example.X.detach().requires_grad_()
    W = subject.W(example.replace(X=X))
    C = torch.randn(W.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(W)
    return W.detach(), gradients((W * C).sum(), [X])[0]


def _same(subject: Subject, found: tuple[Tensor, ...], expected: tuple[Tensor, ...], what: str) -> None:
    tolerance = 10 * subject.coef_tol
    for one, other, part in zip(found, expected, ("coefficients", "gradient"), strict=True):
        scale = max(float(other.abs().max()), 1e-12)
        error = float((one - other).abs().max().nan_to_num(torch.inf)) / scale if one.shape == other.shape else None
        if error is None or not error <= tolerance:
            shown = f"the shape {tuple(one.shape)}" if error is None else f"a relative difference of {error:.1e}"
            raise failure(
                f"the {part} of {what} to be that of contiguous tensors (to {tolerance:.0e})",
                shown,
                "view, as_strided or data_ptr on an argument, where reshape or contiguous is due; or a write in place",
            )
