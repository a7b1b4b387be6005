"""Which problems can be judged: those whose least value some dual point, or a closed form, bounds from below."""

import torch
from torch import Tensor

from .example import Strengths
from .losses import Squared
from .penalties import Interval, Norms
from .terms import Data

ADVICE = (
    "l2=1e-8 is hardly a penalty, and will do; or give the objective as a function of (X, Y, W), which is searched for"
    " anything better"
)


SIGNS = {"lower": "≤ 0", "total": "> 0", "delta": "> 0"}


def refuse_meaningless(strengths: Strengths) -> None:
    """Raise ValueError for a strength of the wrong sign, and for NaN."""
    for name, value in strengths.items():
        sign, values = SIGNS.get(name, "≥ 0"), torch.as_tensor(value)
        if not bool({"≤ 0": values <= 0, "> 0": values > 0, "≥ 0": values >= 0}[sign].all()):
            raise ValueError(f"strengths: given {name}={_shown(value)}, expected a number {sign}")


def refuse_uncertifiable(name: str, data: Data, strengths: Strengths) -> None:
    """Raise ValueError, with the reason, where a right solution could not be told from a wrong one."""
    reason = unjudged(data)
    if reason:
        given = ", ".join(f"{key}={_shown(value)}" for key, value in strengths.items())
        raise ValueError(f"strengths: given {given or 'none'} for {name!r}, expected {reason}; {ADVICE}")


def unjudged(data: Data) -> str:
    """What would have to be for a right solution to be told from a wrong one; empty where it can be."""
    ridge = data.l2 > 0
    if data.n_nonzero is not None or bool(ridge.all()):
        return ""
    if data.loss.smoothness == torch.inf:
        return "l2 > 0: without it the dual of a hinge does not determine W"
    penalty = data.penalty
    if isinstance(penalty, Interval):
        open_ended = penalty.lower.isinf() | (penalty.upper.isinf() & ~(penalty.linear > 0))
        bounded = "l2 > 0, l1 > 0 where there is one, or finite bounds: an entry with neither has no dual point"
        return bounded + " that certifies it" if bool((open_ended & ~ridge).any()) else ""
    if isinstance(penalty, Norms):
        return _of_norms(penalty, ridge, isinstance(data.loss, Squared))
    return ""


def penalty_free(data: Data) -> Tensor:
    """Whether neither constraint nor strength is left, (...): least squares, or ridge regression."""
    if not isinstance(data.penalty, Norms) or not isinstance(data.loss, Squared):
        return torch.zeros_like(data.l2, dtype=torch.bool)
    return (data.penalty.entry == 0) & (data.penalty.group == 0).all(-1).expand(data.l2.shape)


def _of_norms(penalty: Norms, ridge: Tensor, squared: bool) -> str:
    """Where some feature has no penalty of its own, and l2 = 0, no multiple of a residual is a dual point."""
    free = (penalty.entry[..., None] == 0) & (penalty.group == 0)
    if not squared and bool((free.all(-1) & ~ridge).any()):
        return "l1 or l2 > 0: without either there may be no minimiser, and no dual point certifies one"
    if bool((free.any(-1) & ~free.all(-1) & ~ridge).any()):
        return "l2 > 0 beside groups of weight 0: no dual point certifies what has no penalty"
    return ""


def _shown(value: float | Tensor) -> str:
    return str(value.tolist()) if isinstance(value, Tensor) else f"{value:g}"
