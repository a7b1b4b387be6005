"""Derivatives by central differences that know their own error.

Ridders (1982), Accurate computation of F′(x) and F′(x)F″(x): differences at a falling sequence of steps, extrapolated
to step zero; the entry of the table that changes least is returned with that change as its error, which includes both
truncation and the noise of the function. Steps that leave the smooth piece around zero take no part.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """f′(0) per element of the batch, its estimated largest error (...), the number of steps that took part (...)."""

    value: Tensor
    error: Tensor
    steps: Tensor


RATIO = 3.0


def difference(
    f: Callable[[Tensor], tuple[Tensor, Tensor | None]], batch: int = 0, step: float = 1e-2, levels: int = 8
) -> Difference:
    """f′(0) of a tensor-valued function of one number, its first ``batch`` dimensions being separate problems.

    Args:
        f: t (T,) ↦ (values (T, ..., *shape), kinks (T, ..., q) whose signs must not change, or None).
        batch: number of leading dimensions.
        step: largest step.
        levels: number of steps, each a third of the one before.
    """
    h = step / RATIO ** torch.arange(levels, dtype=torch.float64)
    values, kinks = f(torch.cat([torch.zeros(1, dtype=torch.float64), h, -h]))
    plus, minus = values[1 : levels + 1], values[levels + 1 :]
    slopes = (plus - minus) / (2 * h).reshape((-1, *[1] * (plus.dim() - 1)))
    valid = _largest(slopes, batch + 1).isfinite()
    if kinks is not None:
        same = ((kinks > 0) == (kinks[:1] > 0)).all(-1)
        valid &= same[1 : levels + 1] & same[levels + 1 :]
    # A step counts if all smaller ones stay on the same piece too.
    valid = valid.flip(0).to(torch.int64).cumprod(0).flip(0).bool()
    return _extrapolated(list(slopes), list(valid), batch)


def _extrapolated(rows: list[Tensor], valid: list[Tensor], batch: int) -> Difference:
    best, error = rows[-1], torch.full(valid[-1].shape, torch.inf, dtype=torch.float64)
    before: list[Tensor] = []
    for level, row in enumerate(rows):
        now = [torch.where(_shaped(valid[level], row), row, torch.nan)]
        for j, coarser in enumerate(before):
            factor = RATIO ** (2 * (j + 1))
            now.append((factor * now[j] - coarser) / (factor - 1))
            change = torch.maximum(_largest(now[-1] - now[-2], batch), _largest(now[-1] - coarser, batch))
            better = change < error
            best = torch.where(_shaped(better, best), now[-1], best)
            error = torch.where(better, change, error)
        before = now
    return Difference(best, error, torch.stack(valid).sum(0))


def _largest(t: Tensor, batch: int) -> Tensor:
    flat = t.abs().flatten(batch) if t.dim() > batch else t.abs()[..., None]
    return flat.amax(-1) if flat.shape[-1] else flat.new_zeros(flat.shape[:-1])


def _shaped(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape((*mask.shape, *[1] * (like.dim() - mask.dim())))
