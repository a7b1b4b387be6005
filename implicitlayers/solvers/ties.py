"""Kinks: where derivatives are one-sided, and how far from them a solution is known to be."""

import torch
from torch import Tensor

from ..linear import Conditioned
from ..penalties import Kinks

# A margin, an entry or a group this close to its threshold, relatively, is a tie.
TIE = 1e-7


def at_kink(kinks: Kinks) -> Tensor:
    """Elements (b,) with an entry or a group about to bend."""
    return (kinks.distance <= TIE * kinks.scale).flatten(1).any(-1)


def derivative_error(distance: Tensor, uncertainty: Tensor, factor: Conditioned) -> Tensor:
    """An estimate of the relative error of first derivatives, (b,).

    ``distance`` (b, ...) from kinks and the ``uncertainty`` of what is measured there, which broadcasts to it. Where an
    uncertainty reaches its distance the solution may lie beyond the kink: infinite. Else derivatives, which change by
    their own size over such a distance, are wrong by about the ratio of the two, plus what rounding does to the solve.
    """
    ratio = torch.where(distance.isinf(), 0.0, uncertainty / torch.where(distance > 0, distance, 1e-300))
    ratio = ratio.flatten(1).amax(-1)
    rounding = torch.finfo(factor.condition.dtype).eps * factor.condition
    return torch.where((ratio < 1) & ~factor.singular, ratio + rounding, torch.inf)
