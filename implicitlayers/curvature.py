"""The derivative B of a proximal operator at a point, as an operator on coefficients; it is never formed.

Per group of entries B = E (a·I + (b − a)·uuᵀ) E: E the entries that are free to move, u a unit vector on them, a the
factor across u and b the factor along it. Entry by entry there is no u; a group Lasso has a = 1 − l1/‖v‖ and b = 1;
the projection on a simplex has a = 1 and b = 0. Powers of B have the same form, with powers of a and b.

All three kinds offer the same: a ``across`` and b ``along`` (..., S, k), ``unit`` u, zero where there is no group, and
``group`` (..., S, k), the number of each entry's group, below S·k.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Entrywise(NamedTuple):
    """A diagonal B = diag(``factor``), (..., S, k)."""

    factor: Tensor

    @property
    def across(self) -> Tensor:
        """The factor."""
        return self.factor

    @property
    def along(self) -> Tensor:
        """The factor."""
        return self.factor

    @property
    def unit(self) -> Tensor:
        """No groups."""
        return torch.zeros_like(self.factor)

    @property
    def group(self) -> Tensor:
        """No groups."""
        return torch.zeros_like(self.factor, dtype=torch.int64)

    def on(self, rows: Tensor) -> "Entrywise":
        """Zero outside ``rows`` (..., S)."""
        return Entrywise(*_set(~rows, 0.0, self.factor))

    def free(self, rows: Tensor) -> "Entrywise":
        """The identity on ``rows`` (..., S)."""
        return Entrywise(*_set(rows, 1.0, self.factor))

    def apply(self, M: Tensor, power: float = 1.0) -> Tensor:
        """B^power M on the columns of M (..., S·k, r), entries in row-major order; 0^power = 0: a pseudo-inverse."""
        return _power(self.factor, power).flatten(-2)[..., None] * M

    def blocks(self, power: float = 1.0) -> Tensor:
        """B^power, whose rows do not mix: one (k, k) matrix for each, (..., S, k, k)."""
        return _power(self.factor, power).diag_embed()


class Rowwise(NamedTuple):
    """Every row is a group."""

    across: Tensor
    along: Tensor
    unit: Tensor

    @property
    def group(self) -> Tensor:
        """The number of the row."""
        rows = torch.arange(self.unit.shape[-2], device=self.unit.device)
        return rows[:, None].expand_as(self.unit)

    def on(self, rows: Tensor) -> "Rowwise":
        """Zero outside ``rows`` (..., S)."""
        return Rowwise(*_set(~rows, 0.0, *self))

    def free(self, rows: Tensor) -> "Rowwise":
        """The identity on ``rows`` (..., S)."""
        return Rowwise(*_set(rows, 1.0, self.across, self.along), *_set(rows, 0.0, self.unit))

    def apply(self, M: Tensor, power: float = 1.0) -> Tensor:
        """B^power M on the columns of M (..., S·k, r), entries in row-major order; 0^power = 0: a pseudo-inverse."""
        return (self.blocks(power) @ M.unflatten(-2, self.unit.shape[-2:])).flatten(-3, -2)

    def blocks(self, power: float = 1.0) -> Tensor:
        """B^power, whose rows do not mix: one (k, k) matrix for each, (..., S, k, k)."""
        a, b = _power(self.across, power), _power(self.along, power)
        return a.diag_embed() + ((b - a) * self.unit)[..., :, None] * self.unit[..., None, :]


class Grouped(NamedTuple):
    """Groups of any entries."""

    across: Tensor
    along: Tensor
    unit: Tensor
    group: Tensor

    def on(self, rows: Tensor) -> "Grouped":
        """Zero outside ``rows`` (..., S)."""
        across, along, unit = _set(~rows, 0.0, self.across, self.along, self.unit)
        return Grouped(across, along, unit, self.group)

    def free(self, rows: Tensor) -> "Grouped":
        """The identity on ``rows`` (..., S)."""
        across, along = _set(rows, 1.0, self.across, self.along)
        (unit,) = _set(rows, 0.0, self.unit)
        return Grouped(across, along, unit, self.group)

    def apply(self, M: Tensor, power: float = 1.0) -> Tensor:
        """B^power M on the columns of M (..., S·k, r), entries in row-major order; 0^power = 0: a pseudo-inverse."""
        a, b = (_power(x, power).flatten(-2)[..., None] for x in (self.across, self.along))
        unit = self.unit.flatten(-2)[..., None]
        along = unit * M
        index = self.group.flatten(-2)[..., None].expand_as(along)
        sums = torch.zeros_like(along).scatter_add(-2, index, along).gather(-2, index)
        return a * M + (b - a) * unit * sums


Curvature = Entrywise | Rowwise | Grouped


def _set(rows: Tensor, value: float, *factors: Tensor) -> tuple[Tensor, ...]:
    """The ``rows`` (..., S) of each set to a number."""
    return tuple(torch.where(rows[..., None], value, x) for x in factors)


def _power(x: Tensor, power: float) -> Tensor:
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).pow(power), 0.0)
