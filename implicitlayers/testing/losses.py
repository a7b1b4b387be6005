"""Losses by their definition, in float64: what the checks hold a layer's output against.

Scores Z (..., n, k), targets Y (..., n, k), dual points Θ (..., n, k), strengths (...). Nothing here is shared with the
library's own losses, so that an error in one shows.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Loss(Protocol):
    """ℓ(z; y) of one sample; θ = −∂ℓ(z) is its dual point."""

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """ℓ(zᵢ; yᵢ), (..., n)."""

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """One θ of −∂ℓ(z), (..., n, k)."""

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """ℓ*(−θᵢ; yᵢ) at a point of its domain, (..., n)."""

    def feasible(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """The nearest simple point of the domain of the conjugate."""

    def kinks(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """Signed distances (..., n, q) to where θ(z) is not differentiable, in shares of the scores' scale."""

    @property
    def smoothness(self) -> float:
        """A bound on the eigenvalues of ∂²ℓ; infinite where there is none."""


class Squared(NamedTuple):
    """½‖z − y‖²."""

    @property
    def smoothness(self) -> float:
        """One."""
        return 1.0

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """½‖z − y‖²."""
        return (Z - Y).square().sum(-1) / 2

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Θ = y − z."""
        return Y - Z

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """½‖θ‖² − ⟨θ, y⟩."""
        return (Theta.square() / 2 - Theta * Y).sum(-1)

    def feasible(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """Everything is."""
        return Theta

    def kinks(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """None."""
        return torch.ones_like(Z[..., :1])


class Huber(NamedTuple):
    """Per target ½r² for |r| ≤ delta, else delta·|r| − ½delta², r = z − y; ``delta`` (...)."""

    delta: Tensor

    @property
    def smoothness(self) -> float:
        """One."""
        return 1.0

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Quadratic, then linear."""
        delta, r = self.delta[..., None, None], (Z - Y).abs()
        return torch.where(r <= delta, r.square() / 2, delta * r - delta.square() / 2).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Clipped residuals."""
        return self.feasible(Y - Z, Y)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """½‖θ‖² − ⟨θ, y⟩ where no |θ| exceeds delta."""
        return (Theta.square() / 2 - Theta * Y).sum(-1)

    def feasible(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """Clipped."""
        delta = self.delta[..., None, None]
        return torch.minimum(torch.maximum(Theta, -delta), delta)

    def kinks(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """|r| − delta."""
        r, delta = (Y - Z).abs(), self.delta[..., None, None]
        return (r - delta) / torch.maximum(r, delta)


class Multinomial(NamedTuple):
    """Log Σ exp z_l − ⟨y, z⟩, rows of Y in the simplex."""

    @property
    def smoothness(self) -> float:
        """Half: diag(p) − ppᵀ has no larger eigenvalue."""
        return 0.5

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Log-sum-exp less the target's score."""
        return Z.logsumexp(-1) - (Y * Z).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Θ = y − softmax(z)."""
        return Y - Z.softmax(-1)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """Σ p log p, p = y − θ."""
        return torch.special.xlogy(Y - Theta, Y - Theta).sum(-1)

    def feasible(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """With p = y − θ in the simplex."""
        return Y - normalised(Y - Theta)

    def kinks(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """None."""
        return torch.ones_like(Z[..., :1])


class Hinge(NamedTuple):
    """max over λ in the simplex of ⟨λ, 1 − y + z⟩ − (γ/2)‖λ − y‖², less ⟨y, z⟩, ``smoothing`` γ (...).

    Crammer and Singer's.

    With γ = 0 it is max_l (1 − y_l + z_l) − ⟨y, z⟩.
    """

    smoothing: Tensor

    @property
    def smoothness(self) -> float:
        """None that serves both kinds."""
        return torch.inf

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The maximum, at the λ of `dual_point`."""
        Lambda = Y - self.dual_point(Z, Y)
        bend = self.smoothing[..., None] / 2 * (Lambda - Y).square().sum(-1)
        return (Lambda * (1 - Y + Z)).sum(-1) - bend - (Y * Z).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Θ = y − λ, λ the maximiser; of several, the first class."""
        margin = 1 - Y + Z
        gamma = self.smoothing[..., None, None]
        smooth = simplex_projection(Y + margin / torch.where(gamma > 0, gamma, 1.0))
        first = torch.nn.functional.one_hot(margin.argmax(-1), Y.shape[-1]).to(Y)
        return Y - torch.where(gamma > 0, smooth, first)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """⟨λ, y⟩ − 1 + (γ/2)‖λ − y‖², λ = y − θ."""
        return ((Y - Theta) * Y).sum(-1) - 1 + self.smoothing[..., None] / 2 * Theta.square().sum(-1)

    def feasible(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """With λ = y − θ in the simplex."""
        return Y - normalised(Y - Theta)

    def kinks(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """λ less the distance of its margin from the largest: > 0 where active, < 0 where not, 0 where neither is
        strict. Smoothed: the distance of the point to project from the threshold.
        """
        margin, Lambda = 1 - Y + Z, Y - Theta
        gamma = self.smoothing[..., None, None]
        strict = Lambda - (margin.amax(-1, keepdim=True) - margin)
        centre = Y + margin / torch.where(gamma > 0, gamma, 1.0)
        smooth = (centre - simplex_threshold(centre)) / (1 + centre.abs().amax(-1, keepdim=True))
        return torch.where(gamma > 0, smooth, strict)


class BinaryHinge(NamedTuple):
    """max over a in [0, 1] of a(1 − yz) − (γ/2)a², y = ±1, one column; ``smoothing`` γ (...). Its θ is a·y."""

    smoothing: Tensor

    @property
    def smoothness(self) -> float:
        """None that serves both kinds."""
        return torch.inf

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The maximum, at the a of `dual_point`."""
        a = self.dual_point(Z, Y) * Y
        return (a * (1 - Y * Z) - self.smoothing[..., None, None] / 2 * a.square()).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Θ = a·y."""
        violation, gamma = 1 - Y * Z, self.smoothing[..., None, None]
        smooth = (violation / torch.where(gamma > 0, gamma, 1.0)).clamp(0, 1)
        return Y * torch.where(gamma > 0, smooth, (violation > 0).to(Z))

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """(γ/2)a² − a."""
        a = Theta * Y
        return (self.smoothing[..., None, None] / 2 * a.square() - a).sum(-1)

    def feasible(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """With a in [0, 1]."""
        return Y * (Theta * Y).clamp(0, 1)

    def kinks(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """Violation of the margin where it is strict, else min(a, 1 − a) as a distance from the ends."""
        violation, a = 1 - Y * Z, Theta * Y
        gamma = self.smoothing[..., None, None]
        sharp = torch.cat([a - (-violation).clamp_min(0), (1 - a) - violation.clamp_min(0)], -1)
        smooth = torch.cat([violation, gamma - violation], -1) / (1 + gamma + violation.abs())
        return torch.where(gamma > 0, smooth, sharp)


def normalised(P: Tensor) -> Tensor:
    """Rows made non-negative with sum one."""
    P = P.clamp_min(0)
    total = P.sum(-1, keepdim=True)
    return torch.where(total > 0, P / torch.where(total > 0, total, 1.0), 1 / P.shape[-1])


def simplex_threshold(P: Tensor, total: Tensor | float = 1.0) -> Tensor:
    """The t with Σ max(p − t, 0) = total for every row, (..., 1), by sorting."""
    descending = P.sort(-1, descending=True).values
    count = torch.arange(1, P.shape[-1] + 1, dtype=P.dtype)
    return ((descending.cumsum(-1) - total) / count).amax(-1, keepdim=True)


def simplex_projection(P: Tensor, total: Tensor | float = 1.0) -> Tensor:
    """The nearest point with non-negative entries and rows of sum ``total``."""
    return (P - simplex_threshold(P, total)).clamp_min(0)
