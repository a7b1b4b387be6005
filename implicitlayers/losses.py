"""Losses ℓ(z; y) of scores z against targets y, with what duality needs of them.

Scores ``Z``, targets ``Y``, dual points ``Theta`` are (..., n, k); values are one number per sample, (..., n).
The dual point of a score is θ ∈ −∂ℓ(z), and λ = y − θ. Every loss offers

* ``value(Z, Y)`` = ℓ(z; y);
* ``dual_point(Z, Y)``, an element of −∂ℓ(z);
* ``conjugate(Theta, Y)`` = ℓ*(−θ; y), for feasible θ;
* ``domain``, where λ may lie;
* ``conjugate_gradient(Lambda, Y)`` = ∂/∂λ of ℓ*(λ − y; y), and ``conjugate_curvature(l2)``, its derivative, a number
  per element, in the shape (...) of ``l2``;
* ``fenchel_young(Z, Theta, Y)`` = ℓ(z) + ℓ*(−θ) + ⟨θ, z⟩ ≥ 0, written as a sum of terms that are each ≥ 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .domains import Free, Simplex
from .prox import project_simplex


class Squared(NamedTuple):
    """ℓ(z; y) = ½‖z − y‖²."""

    @property
    def domain(self) -> Free:
        """λ = z is free."""
        return Free()

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """½‖z − y‖²."""
        return (Z - Y).square().sum(-1) / 2

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """θ = y − z, the residual."""
        return Y - Z

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """½‖θ‖² − ⟨θ, y⟩."""
        return Theta.square().sum(-1) / 2 - (Theta * Y).sum(-1)

    def conjugate_gradient(self, Lambda: Tensor, Y: Tensor) -> Tensor:
        """With θ = y − λ the conjugate is ½‖λ‖² − ½‖y‖²; its gradient in λ is λ."""
        return Lambda

    def conjugate_curvature(self, like: Tensor) -> Tensor:
        """The Hessian of ½‖λ‖² is one times the identity."""
        return torch.ones_like(like)

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """½‖z − y + θ‖²."""
        return (Z - Y + Theta).square().sum(-1) / 2


class MulticlassHinge(NamedTuple):
    """The hinge of Crammer and Singer (2001), smoothed by γ ≥ 0, over the classes of ``class_mask``.

    ℓ(z; y) = max over λ in the simplex of ⟨λ, 1 − y + z⟩ − (γ/2)‖λ − y‖², less ⟨y, z⟩; for γ = 0 that is
    max_l (1 − y_l + z_l) − ⟨y, z⟩. The maximum runs over the classes in the mask only.

    ``smoothing`` is (...), ``class_mask`` boolean (..., k).
    """

    smoothing: Tensor
    class_mask: Tensor

    @property
    def domain(self) -> Simplex:
        """λ lies in the simplex of the classes in the mask."""
        return Simplex(self.class_mask)

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The maximum above."""
        worst = self.worst_case(Z, Y)
        smooth = self.smoothing[..., None] / 2 * (worst - Y).square().sum(-1)
        return (worst * (1 - Y + Z)).sum(-1) - (Y * Z).sum(-1) - smooth

    def worst_case(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The λ at which the maximum is attained: a vertex for γ = 0, else a projection on the simplex."""
        allowed = self.class_mask[..., None, :].expand_as(Z)
        margins = torch.where(allowed, 1 - Y + Z, -torch.inf)
        vertex = torch.zeros_like(Z).scatter(-1, margins.argmax(-1, keepdim=True), 1.0)
        gamma = self.smoothing[..., None, None]
        smooth = gamma > 0
        centre = Y + torch.where(allowed, 1 - Y + Z, 0.0) / torch.where(smooth, gamma, 1.0)
        return torch.where(smooth, project_simplex(centre, torch.ones_like(Z[..., :1]), allowed), vertex)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """θ = y − λ at the worst case."""
        return Y - self.worst_case(Z, Y)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """⟨λ, y⟩ − 1 + (γ/2)‖θ‖², with λ = y − θ in the simplex."""
        return ((Y - Theta) * Y).sum(-1) - 1 + self.smoothing[..., None] / 2 * Theta.square().sum(-1)

    def conjugate_gradient(self, Lambda: Tensor, Y: Tensor) -> Tensor:
        """Gradient in λ of ⟨λ, y⟩ + (γ/2)‖λ − y‖²."""
        return Y + self.smoothing[..., None, None] * (Lambda - Y)

    def conjugate_curvature(self, like: Tensor) -> Tensor:
        """The Hessian of the conjugate is γ times the identity."""
        return self.smoothing

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """⟨λ* − λ, 1 − y + z⟩ − (γ/2)(‖λ* − y‖² − ‖λ − y‖²), λ* the worst case, λ = y − θ.

        The smooth part is a quadratic at its constrained maximum, so that the term splits into
        ⟨λ* − λ, 1 − y + z − γ(λ* − y)⟩ ≥ 0 (optimality of λ*) and (γ/2)‖λ* − λ‖².
        """
        worst, gamma = self.worst_case(Z, Y), self.smoothing[..., None, None]
        slope = torch.where(self.class_mask[..., None, :], 1 - Y + Z - gamma * (worst - Y), 0.0)
        step = worst - (Y - Theta)
        return (step * slope).sum(-1).clamp_min(0) + self.smoothing[..., None] / 2 * step.square().sum(-1)


Loss = Squared | MulticlassHinge
