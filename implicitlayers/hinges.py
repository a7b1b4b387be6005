"""The hinge of Crammer and Singer (2001), as it is and smoothed: losses (see `losses`) whose λ lies in a simplex.

The maximum in both runs over the classes of ``class_mask``, boolean (..., k).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .domains import Simplex
from .prox import project_simplex


class MulticlassHinge(NamedTuple):
    """ℓ(z; y) = max_l (1 − y_l + z_l) − ⟨y, z⟩."""

    class_mask: Tensor

    @property
    def domain(self) -> Simplex:
        """λ lies in the simplex of the classes in the mask."""
        return Simplex(self.class_mask[..., None, :])

    def _margins(self, Z: Tensor, Y: Tensor) -> Tensor:
        """What the maximum is taken of."""
        return torch.where(self.class_mask[..., None, :], 1 - Y + Z, -torch.inf)

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The formula above."""
        return self._margins(Z, Y).amax(-1) - (Y * Z).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """θ = y − λ, λ the vertex of a largest margin."""
        worst = self._margins(Z, Y).argmax(-1, keepdim=True)
        return Y - torch.zeros_like(Z).scatter(-1, worst, 1.0)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """⟨λ, y⟩ − 1, with λ = y − θ in the simplex."""
        return ((Y - Theta) * Y).sum(-1) - 1

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """Σ_l λ_l·(the largest margin less that of l), λ = y − θ."""
        margins = self._margins(Z, Y)
        missing = torch.where(self.class_mask[..., None, :], margins.amax(-1, keepdim=True) - margins, 0.0)
        # λ ≥ 0, but for what rounding does to y − θ.
        return ((Y - Theta) * missing).sum(-1).clamp_min(0)

    def best_constant(self, Y: Tensor, weight: Tensor) -> Tensor:
        """Zero: the hinge takes no intercept."""
        return torch.zeros_like(Y[..., :1, :])

    def conjugate_gradient(self, Lambda: Tensor, Y: Tensor) -> Tensor:
        """Gradient in λ of ⟨λ, y⟩."""
        return Y

    def conjugate_curvature(self, like: Tensor) -> Tensor:
        """The conjugate is linear."""
        return torch.zeros_like(like)


class SmoothedHinge(NamedTuple):
    """The same, smoothed by γ ≥ 0.

    ℓ(z; y) = max over λ in the simplex of ⟨λ, 1 − y + z⟩ − (γ/2)‖λ − y‖², less ⟨y, z⟩. ``smoothing`` is (...); it may
    be zero in some elements.
    """

    smoothing: Tensor
    class_mask: Tensor

    @property
    def domain(self) -> Simplex:
        """λ lies in the simplex of the classes in the mask."""
        return Simplex(self.class_mask[..., None, :])

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The maximum above."""
        worst = self.worst_case(Z, Y)
        smooth = self.smoothing[..., None] / 2 * (worst - Y).square().sum(-1)
        return (worst * (1 - Y + Z)).sum(-1) - (Y * Z).sum(-1) - smooth

    def worst_case(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The λ at which the maximum is attained: a vertex for γ = 0, else a projection on the simplex."""
        allowed = self.class_mask[..., None, :].expand_as(Z)
        margins = torch.where(allowed, 1 - Y + Z, -torch.inf)
        # Constants do not change the projection; without the largest margin a small γ divides no large number.
        margins = margins - margins.amax(-1, keepdim=True)
        vertex = torch.zeros_like(Z).scatter(-1, margins.argmax(-1, keepdim=True), 1.0)
        gamma = self.smoothing[..., None, None]
        smooth = gamma > 0
        centre = Y + torch.where(allowed, margins, 0.0) / torch.where(smooth, gamma, 1.0)
        return torch.where(smooth, project_simplex(centre, torch.ones_like(Z[..., :1]), allowed), vertex)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """θ = y − λ at the worst case."""
        return Y - self.worst_case(Z, Y)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """⟨λ, y⟩ − 1 + (γ/2)‖θ‖², with λ = y − θ in the simplex."""
        return ((Y - Theta) * Y).sum(-1) - 1 + self.smoothing[..., None] / 2 * Theta.square().sum(-1)

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """⟨λ* − λ, 1 − y + z⟩ − (γ/2)(‖λ* − y‖² − ‖λ − y‖²), λ* the worst case, λ = y − θ.

        The smooth part is a quadratic at its constrained maximum, so that the term splits into
        ⟨λ* − λ, 1 − y + z − γ(λ* − y)⟩ ≥ 0 (optimality of λ*) and (γ/2)‖λ* − λ‖².
        """
        worst, gamma = self.worst_case(Z, Y), self.smoothing[..., None, None]
        slope = torch.where(self.class_mask[..., None, :], 1 - Y + Z - gamma * (worst - Y), 0.0)
        step = worst - (Y - Theta)
        return (step * slope).sum(-1).clamp_min(0) + self.smoothing[..., None] / 2 * step.square().sum(-1)

    def best_constant(self, Y: Tensor, weight: Tensor) -> Tensor:
        """Zero: the hinge takes no intercept."""
        return torch.zeros_like(Y[..., :1, :])

    def conjugate_gradient(self, Lambda: Tensor, Y: Tensor) -> Tensor:
        """Gradient in λ of ⟨λ, y⟩ + (γ/2)‖λ − y‖²."""
        return Y + self.smoothing[..., None, None] * (Lambda - Y)

    def conjugate_curvature(self, like: Tensor) -> Tensor:
        """The Hessian of the conjugate is γ times the identity."""
        return self.smoothing


Hinge = MulticlassHinge | SmoothedHinge
