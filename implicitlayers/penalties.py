"""Penalties Ω(W) on coefficients W (..., m, k); strengths are tensors over the batch (...).

Every penalty offers

* ``value(W)`` = l1·Ω(W), (...);
* ``prox(V, step)`` = argmin_W ½‖W − V‖² + step·l1·Ω(W);
* ``clip(V)`` = V − prox(V, 1), the projection on the set where the conjugate is finite;
* ``feasible_scale(V)``: the largest c ≤ 1 with c·V in that set, (...);
* ``support(V)``: the features whose coefficients prox(V, 1) leaves non-zero, boolean (..., m);
* ``curvature(V)`` = (α, q), (..., m) and (..., m, k): the derivative of prox(·, 1) at row j is α_j·I + q_j q_jᵀ;
* ``normal(W)``: a V with prox(V, 1) = W.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .prox import block_soft_threshold, project_ball


class NoPenalty(NamedTuple):
    """Ω = 0."""

    def value(self, W: Tensor) -> Tensor:
        """Zero."""
        return W.new_zeros(W.shape[:-2])

    def prox(self, V: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """The identity."""
        return V

    def clip(self, V: Tensor) -> Tensor:
        """Only 0 is feasible."""
        return torch.zeros_like(V)

    def feasible_scale(self, V: Tensor) -> Tensor:
        """1 where V = 0, else 0."""
        return (V == 0).flatten(-2).all(-1).to(V.dtype)

    def support(self, V: Tensor) -> Tensor:
        """Every feature."""
        return torch.ones_like(V[..., 0], dtype=torch.bool)

    def curvature(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """The identity: α = 1, q = 0."""
        return torch.ones_like(V[..., 0]), torch.zeros_like(V)

    def normal(self, W: Tensor) -> Tensor:
        """W itself."""
        return W


class GroupL2(NamedTuple):
    """Group Lasso, one group per feature across targets: l1·Σ_j ‖W_j‖ (Yuan and Lin, 2006)."""

    l1: Tensor

    def value(self, W: Tensor) -> Tensor:
        """l1·Σ_j ‖W_j‖."""
        return self.l1 * W.norm(dim=-1).sum(-1)

    def prox(self, V: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """Block soft-thresholding of the rows."""
        return block_soft_threshold(V, (self.l1 * step)[..., None, None])

    def clip(self, V: Tensor) -> Tensor:
        """Rows longer than l1 are cut to l1."""
        return project_ball(V, self.l1[..., None, None])

    def feasible_scale(self, V: Tensor) -> Tensor:
        """min(1, l1/max_j ‖V_j‖)."""
        largest = V.norm(dim=-1).amax(-1)
        return torch.where(largest > self.l1, self.l1 / torch.where(largest > 0, largest, 1.0), 1.0)

    def support(self, V: Tensor) -> Tensor:
        """Rows longer than l1."""
        return V.norm(dim=-1) > self.l1[..., None]

    def curvature(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """On rows longer than l1, (1 − l1/‖v‖)·I + (l1/‖v‖)·uuᵀ with u = v/‖v‖; elsewhere zero."""
        norm = V.norm(dim=-1)
        active = norm > self.l1[..., None]
        norm = torch.where(active, norm, 1.0)
        bent = torch.where(active, self.l1[..., None] / norm, 0.0)
        return torch.where(active, 1 - bent, 0.0), V * (bent.sqrt() / norm)[..., None]

    def normal(self, W: Tensor) -> Tensor:
        """W + l1·W/‖W‖, and 0 at W = 0."""
        norm = W.norm(dim=-1, keepdim=True)
        return W * (1 + self.l1[..., None, None] / torch.where(norm > 0, norm, torch.inf))


Penalty = NoPenalty | GroupL2
