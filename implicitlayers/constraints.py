"""Constraints on coefficients, as penalties: 0 where they hold, kept by prox. Shapes as in `penalties`."""

from typing import NamedTuple

import torch
from torch import Tensor

from .curvature import Curvature, Entrywise, Grouped
from .features import Features
from .penalties import Kinks, NoPenalty, feasible_share, taken
from .prox import project_simplex, soft_threshold


class Box(NamedTuple):
    """lower ≤ W ≤ upper, with l1·Σ|W| if wished; lower ≤ 0 ≤ upper, both possibly infinite."""

    lower: Tensor
    upper: Tensor
    l1: Tensor

    def value(self, W: Tensor) -> Tensor:
        """l1·Σ|W|."""
        return self.l1 * W.abs().sum((-2, -1))

    def violation(self, W: Tensor) -> Tensor:
        """The largest excess over a bound, in units of that bound; infinite beyond a bound of zero."""
        lower, upper = self.lower[..., None, None], self.upper[..., None, None]
        return torch.maximum(_excess(-W, -lower), _excess(W, upper))

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """Soft-thresholding, then clipping: right because each entry's problem is convex in one dimension."""
        V = soft_threshold(V, (self.l1 * step)[..., None, None])
        return V.clamp(self.lower[..., None, None], self.upper[..., None, None])

    def conjugate(self, V: Tensor) -> Tensor:
        """Σ max over w in the box of v·w − l1·|w|, attained at 0 or at a bound."""
        V = soft_threshold(V, self.l1[..., None, None])
        bound = torch.where(V > 0, self.upper[..., None, None], self.lower[..., None, None])
        return torch.where(V == 0, 0.0, V * bound).sum((-2, -1))

    def feasible_scale(self, V: Tensor) -> Tensor:
        """Entries without a bound in their direction must not exceed l1."""
        unbounded = torch.where(V > 0, self.upper[..., None, None], -self.lower[..., None, None]).isinf()
        return feasible_share(self.l1, torch.where(unbounded, V.abs(), 0.0).amax((-2, -1)))

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """Rows with an entry that is not zero, or free."""
        return ((self.prox(V, step) != 0) | (self.curvature(V, step).across > 0)).any(-1)

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """One strictly between threshold and bound."""
        inner = soft_threshold(V, (self.l1 * step)[..., None, None])
        free = (inner > self.lower[..., None, None]) & (inner < self.upper[..., None, None])
        free &= (inner != 0) | (self.l1 == 0)[..., None, None]
        return Entrywise(free.to(V.dtype))

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """At l1 and upper + l1, if upper > 0, and −l1 and lower − l1, if lower < 0.

        What is free is measured against the largest |W|, what is not against the largest pull on it, |V − W|.
        """
        l1, lower, upper = ((x * 1.0)[..., None, None] for x in (self.l1 * step, self.lower, self.upper))
        smooth_at_zero = (l1 == 0) & (lower < 0) & (upper > 0)
        distances = [
            torch.where((upper > 0) & ~smooth_at_zero, (V - l1).abs(), torch.inf),
            torch.where((lower < 0) & ~smooth_at_zero, (V + l1).abs(), torch.inf),
            torch.where((upper > 0) & upper.isfinite(), (V - l1 - upper).abs(), torch.inf),
            torch.where((lower < 0) & lower.isfinite(), (V + l1 - lower).abs(), torch.inf),
        ]
        free = self.curvature(V, step).across > 0
        W = self.prox(V, step)
        size, pull = (x.abs().amax((-2, -1), keepdim=True).expand_as(V) for x in (W, V - W))
        scale = torch.where(free, size, pull)
        return Kinks(torch.stack(distances).amin(0), torch.where(scale > 0, scale, 1.0))

    def take(self, features: Features) -> "Box":
        """Itself."""
        return self

    def by_target(self) -> "Box":
        """Itself."""
        return self


class ColumnSimplex(NamedTuple):
    """Every target's coefficients are ≥ 0 and sum to ``total`` (...), > 0; zero where not ``allowed`` (..., m)."""

    total: Tensor
    allowed: Tensor

    def value(self, W: Tensor) -> Tensor:
        """Zero."""
        return W.new_zeros(W.shape[:-2])

    def violation(self, W: Tensor) -> Tensor:
        """The largest error of a column's sum, in units of the total; infinite with an entry that must not be."""
        total = self.total[..., None]
        wrong = ((W.sum(-2) - total).abs() / total).amax(-1)
        forbidden = (W < 0) | ((W != 0) & ~self.allowed[..., None])
        return torch.where(forbidden.flatten(-2).any(-1), torch.inf, wrong)

    def corners(self, gram: Tensor, V: Tensor) -> Tensor:
        """½⟨W, GW⟩ − ⟨V, W⟩ at the corners W = total·e_j of every column, (..., m, k).

        ``gram`` (..., m) is the diagonal of G.
        """
        total = self.total[..., None, None]
        values = total * (total / 2 * gram[..., None] - V)
        return torch.where(self.allowed[..., None], values, torch.inf)

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """The projection on the simplex, column by column."""
        total = self.total[..., None, None].expand(*V.shape[:-2], 1, V.shape[-1])
        return project_simplex(V, total, self.allowed[..., None].expand_as(V), dim=-2)

    def conjugate(self, V: Tensor) -> Tensor:
        """Σ_c total·max_j V_jc."""
        return self.total * torch.where(self.allowed[..., None], V, -torch.inf).amax(-2).sum(-1)

    def feasible_scale(self, V: Tensor) -> Tensor:
        """Always finite."""
        return torch.ones_like(self.total)

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """Rows with a positive entry."""
        return (self.prox(V, step) > 0).any(-1)

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """On the positive entries of a column, the projection along their mean."""
        free = (self.prox(V, step) > 0).to(V.dtype)
        unit = free / free.sum(-2, keepdim=True).sqrt()
        column = torch.arange(V.shape[-1], device=V.device).expand_as(V)
        return Grouped(free, torch.zeros_like(V), unit, column)

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """At the threshold of the projection: what is positive against the total, what is not against the farthest."""
        W = self.prox(V, step)
        inside = W > 0
        threshold = torch.where(inside, V - W, -torch.inf).amax(-2, keepdim=True)
        allowed = self.allowed[..., None]
        distance = torch.where(allowed, (V - threshold).abs(), torch.inf)
        farthest = torch.where(allowed & ~inside, distance, 0.0).amax((-2, -1), keepdim=True)
        total = self.total[..., None, None].expand_as(V)
        return Kinks(distance, torch.where(inside | (farthest <= 0), total, farthest))

    def take(self, features: Features) -> "ColumnSimplex":
        """On these features: those left out are zero."""
        return ColumnSimplex(self.total, taken(self.allowed, features))

    def by_target(self) -> "ColumnSimplex":
        """Itself."""
        return self


class Cardinality(NamedTuple):
    """At most ``size`` rows: 0 if there are no more, else ∞; ``size`` is an integer tensor (...).

    Not convex: a solution's lower bound comes from its solver, not from `Problem.gap`.
    """

    size: Tensor

    def value(self, W: Tensor) -> Tensor:
        """Zero, or infinity."""
        return torch.where((W != 0).any(-1).sum(-1) <= self.size, 0.0, torch.inf).to(W.dtype)

    def violation(self, W: Tensor) -> Tensor:
        """None: its value is infinite outside."""
        return W.new_zeros(W.shape[:-2])

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """The longest rows, the first ones in a tie; zero elsewhere."""
        place = V.norm(dim=-1).argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return torch.where((place < self.size[..., None])[..., None], V, 0.0)

    def conjugate(self, V: Tensor) -> Tensor:
        """Zero, at V = 0."""
        return NoPenalty().conjugate(V)

    def feasible_scale(self, V: Tensor) -> Tensor:
        """1 where V = 0, else 0."""
        return NoPenalty().feasible_scale(V)

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """The longest rows."""
        return (self.prox(V, step) != 0).any(-1)

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """The identity on the longest rows."""
        return Entrywise((self.prox(V, step) != 0).to(V.dtype))

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """Told by its solver, which compares supports."""
        return NoPenalty().kinks(V, step)

    def take(self, features: Features) -> "Cardinality":
        """Itself."""
        return self

    def by_target(self) -> None:
        """A feature serves all targets or none."""
        return


def _excess(W: Tensor, bound: Tensor) -> Tensor:
    """The largest (W − bound)₊/bound, (...), for bounds ≥ 0, possibly infinite; zero may come as −0."""
    return torch.where(bound < W, (W - bound) / bound.abs(), 0.0).amax((-2, -1))
