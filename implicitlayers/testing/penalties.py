"""Penalties and constraints by their definition, in float64; see `losses`.

Coefficients W (..., m, k), correlations V = Xᵀ diag(s̄)Θ (..., m, k), strengths (...).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .losses import simplex_projection, simplex_threshold


class Penalty(Protocol):
    """Ω(W), infinite outside its domain."""

    def value(self, W: Tensor) -> Tensor:
        """Ω(W), (...)."""

    def distance(self, W: Tensor) -> Tensor:
        """How far W is from the domain of Ω, (...), in the units of W."""

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """Argmin over W of ½‖W − V‖² + step·Ω(W), ``step`` (...)."""

    def conjugate(self, V: Tensor) -> Tensor:
        """Ω*(V), (...), at a V that `feasible_scale` lets pass."""

    def feasible_scale(self, V: Tensor) -> Tensor:
        """The largest t ≤ 1 with Ω*(tV) finite, (...)."""

    def kinks(self, V: Tensor, step: Tensor) -> Tensor:
        """Signed distances (..., q) of V from where prox is not differentiable, in units of V."""


class Norms(NamedTuple):
    """Σ_jc entry·|W_jc| + Σ_g group_g·‖W_g‖.

    ``entry`` (...), ``group`` (..., G), ``number`` (m,) the group of each feature.
    """

    entry: Tensor
    group: Tensor
    number: Tensor

    def value(self, W: Tensor) -> Tensor:
        """Ω(W)."""
        return self.entry * W.abs().sum((-2, -1)) + (self.group * self._norms(W)).sum(-1)

    def distance(self, W: Tensor) -> Tensor:
        """Zero: all is allowed."""
        return torch.zeros_like(W[..., 0, 0])

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """Soft thresholding of the entries, then of the groups."""
        soft = self._soft(V, step)
        norm = self._norms(soft)
        positive = norm > 0
        shrunk = (1 - step[..., None] * self.group / torch.where(positive, norm, 1.0)).clamp_min(0)
        factor = torch.where(positive, shrunk, 0.0)
        return soft * factor.expand(*norm.shape)[..., self.number, None]

    def conjugate(self, V: Tensor) -> Tensor:
        """Zero within the dual ball."""
        return torch.zeros_like(V[..., 0, 0])

    def feasible_scale(self, V: Tensor) -> Tensor:
        """In closed form where there are entries or groups only; else by bisection, whose lower end is feasible."""
        if not bool((self.group > 0).any()):
            return (self.entry / V.abs().amax((-2, -1)).clamp_min(1e-300)).clamp_max(1.0)
        if not bool((self.entry > 0).any()):
            return (self.group / self._norms(V).clamp_min(1e-300)).amin(-1).clamp_max(1.0)
        low, high = torch.zeros_like(V[..., 0, 0]), torch.ones_like(V[..., 0, 0])
        whole = self._within(V, high)
        for _ in range(100):
            middle = (low + high) / 2
            good = self._within(V, middle)
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        return torch.where(whole, 1.0, low)

    def kinks(self, V: Tensor, step: Tensor) -> Tensor:
        """Entries and groups against their thresholds; no threshold, no kink."""
        scale = V.abs().amax((-2, -1), keepdim=True).clamp_min(1e-300)
        entry = (step * self.entry)[..., None, None]
        entries = torch.where(entry > 0, V.abs() - entry, scale).flatten(-2)
        group = (step[..., None] * self.group).expand(*V.shape[:-2], -1)
        groups = torch.where(group > 0, self._norms(self._soft(V, step)) - group, scale[..., 0])
        return torch.cat([entries, groups], -1)

    def _within(self, V: Tensor, scale: Tensor) -> Tensor:
        excess = self._norms(self._soft(V * scale[..., None, None], torch.ones_like(scale)))
        return (excess <= self.group).all(-1)

    def _soft(self, V: Tensor, step: Tensor) -> Tensor:
        return V.sign() * (V.abs() - (step * self.entry)[..., None, None]).clamp_min(0)

    def _norms(self, W: Tensor) -> Tensor:
        square = W.square().sum(-1)
        square = square.new_zeros(*square.shape[:-1], self.group.shape[-1]).index_add(-1, self.number, square)
        positive = square > 0
        return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


class Interval(NamedTuple):
    """linear·ΣW_jc for lower ≤ W ≤ upper, all (...); lower ≤ 0 ≤ upper."""

    lower: Tensor
    upper: Tensor
    linear: Tensor

    def value(self, W: Tensor) -> Tensor:
        """The linear part."""
        return self.linear * W.sum((-2, -1))

    def distance(self, W: Tensor) -> Tensor:
        """Largest violation of a bound."""
        return (W - self._clip(W)).abs().amax((-2, -1))

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """Shifted and clipped."""
        return self._clip(V - (step * self.linear)[..., None, None])

    def conjugate(self, V: Tensor) -> Tensor:
        """Σ max over the interval of w(v − linear)."""
        V = V - self.linear[..., None, None]
        above = torch.where(V > 0, V * self._finite(self.upper)[..., None, None], 0.0)
        return above.sum((-2, -1)) + torch.where(V < 0, V * self.lower[..., None, None], 0.0).sum((-2, -1))

    def feasible_scale(self, V: Tensor) -> Tensor:
        """Without an upper bound no entry may exceed ``linear``."""
        largest = V.amax((-2, -1)).clamp_min(1e-300)
        return torch.where(self.upper.isinf(), (self.linear / largest).clamp_max(1.0), 1.0)

    def kinks(self, V: Tensor, step: Tensor) -> Tensor:
        """Distances from the bounds."""
        V = V - (step * self.linear)[..., None, None]
        above = self._finite(self.upper)[..., None, None] - V
        above = torch.where(self.upper.isinf()[..., None, None], V.abs().amax((-2, -1), keepdim=True) + 1, above)
        return torch.cat([(V - self.lower[..., None, None]).flatten(-2), above.flatten(-2)], -1)

    def _clip(self, W: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(W, self.lower[..., None, None]), self.upper[..., None, None])

    @staticmethod
    def _finite(bound: Tensor) -> Tensor:
        return torch.where(bound.isinf(), 0.0, bound)


class Simplex(NamedTuple):
    """W ≥ 0 with Σ_j W_jc = total (...) for every column."""

    total: Tensor

    def value(self, W: Tensor) -> Tensor:
        """Zero on the simplex."""
        return torch.zeros_like(W[..., 0, 0])

    def distance(self, W: Tensor) -> Tensor:
        """Largest violation."""
        wrong = (W.sum(-2) - self.total[..., None]).abs().amax(-1)
        return torch.maximum(wrong, (-W).clamp_min(0).amax((-2, -1)))

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """The projection."""
        return simplex_projection(V.mT, self.total[..., None, None]).mT

    def conjugate(self, V: Tensor) -> Tensor:
        """total·Σ_c max_j V_jc."""
        return self.total * V.amax(-2).sum(-1)

    def feasible_scale(self, V: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(self.total)

    def kinks(self, V: Tensor, step: Tensor) -> Tensor:
        """Distances from the threshold."""
        return (V.mT - simplex_threshold(V.mT, self.total[..., None, None])).flatten(-2)
