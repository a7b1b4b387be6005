"""Strengths over a batch: one for each problem, from what makes the layer."""

import torch

from .example import Example
from .failures import Inapplicable, failure, reproducible
from .subject import LayerError, Subject


@reproducible
def check_batched_strengths(subject: Subject, example: Example) -> None:
    """A layer made with strengths (...) over a batch solves each problem with its own.

    Args:
        subject: with ``make``.
        example: one leading dimension, with different strengths.

    Raises:
        AssertionError: it does not.
        Inapplicable: ``make``, or what it makes, raises an exception about them, or returns another shape.
    """
    size = len(example.X)
    shapes = ", ".join(f"{name} of shape ({size},)" for name in example.strengths)
    alone = torch.stack([subject.answer(example[i]).W for i in range(size)])
    try:
        together = subject.answer(example).W
    except LayerError as error:
        reason = f"make takes no {shapes}: {error}".splitlines()[0]
        raise Inapplicable(f"{reason}; in the other checks a batch shares its strengths") from None
    if together.shape != alone.shape:
        found = f"coefficients {tuple(together.shape)}, not {tuple(alone.shape)}"
        raise Inapplicable(f"make with {shapes} gives {found}; in the other checks a batch shares its strengths")
    off = float((together - alone).abs().max()) / max(float(alone.abs().max()), 1e-12)
    if not off <= 10 * subject.coef_tol:
        raise failure(
            f"a layer made with {shapes} to solve each problem of a batch of {size} with its own",
            f"a relative difference of {off:.1e} from layers made for each",
            "strengths (...) meet coefficients (..., m, k) without two more dimensions, and broadcast along the"
            " targets: l1[..., None, None]. A layer for single strengths should raise a ValueError about others",
        )
