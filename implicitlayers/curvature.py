"""The derivative B of a proximal operator at a point, as an operator on coefficients; it is never formed.

Per group of entries B = E (a·I + (b − a)·uuᵀ) E: E the entries that are free to move, u a unit vector on them, a the
factor across u and b the factor along it. Entry by entry there is no u; a group Lasso has a = 1 − l1/‖v‖ and b = 1;
the projection on a simplex has a = 1 and b = 0. Powers of B have the same form, with powers of a and b.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Curvature(NamedTuple):
    """``across`` a (..., S, k), zero at entries that are not free; ``along`` b and ``unit`` u (..., S, k), u zero where
    there is no group; ``group`` (..., S, k), the number of each entry's group, below S·k.
    """

    across: Tensor
    along: Tensor
    unit: Tensor
    group: Tensor

    @classmethod
    def entrywise(cls, factor: Tensor) -> "Curvature":
        """A diagonal B."""
        zero = torch.zeros_like(factor)
        return cls(factor, zero, zero, zero.to(torch.int64))

    def on(self, rows: Tensor) -> "Curvature":
        """Zero outside ``rows`` (..., S)."""
        inside = rows[..., None]
        across, along, unit = (torch.where(inside, x, 0.0) for x in self[:3])
        return Curvature(across, along, unit, self.group)

    def apply(self, M: Tensor, power: float = 1.0) -> Tensor:
        """B^power M on the columns of M (..., S·k, r), entries in row-major order; 0^power = 0: a pseudo-inverse."""
        a, b = (_power(x, power).flatten(-2)[..., None] for x in (self.across, self.along))
        unit = self.unit.flatten(-2)[..., None]
        along = unit * M
        index = self.group.flatten(-2)[..., None].expand_as(along)
        sums = torch.zeros_like(along).scatter_add(-2, index, along).gather(-2, index)
        return a * M + (b - a) * unit * sums


def _power(x: Tensor, power: float) -> Tensor:
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).pow(power), 0.0)
