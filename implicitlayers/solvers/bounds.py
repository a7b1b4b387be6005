"""Bounds on min over Λ of max_j ‖V_j‖, V = Xᵀ diag(s̄)(Y − Λ), rows of Λ in the simplex of the classes allowed.

max_j ‖V_j‖  ≥  the minimum  ≥  Σᵢ s̄ᵢ (⟨yᵢ, uᵢ⟩ − max_l u_il)/Σ_j ‖U_j‖,    u = XU, l among the classes allowed
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..penalties import row_norm
from ..products import product, transposed_product

# A distance of bounds that is rounding, where the first upper bound is one.
ROUNDING = 1e-13


class Bounds(NamedTuple):
    """The U (b, m, k) of the best lower bound (b,), and the Λ (b, n, k) of the best upper one."""

    U: Tensor
    Lambda: Tensor
    lower: Tensor
    upper: Tensor

    def better(self, new: "Bounds") -> "Bounds":
        """Of each bound the better one, with what proves it; NaN is none."""
        rises, falls = new.lower > self.lower, new.upper < self.upper
        return Bounds(
            torch.where(rises[:, None, None], new.U, self.U),
            torch.where(falls[:, None, None], new.Lambda, self.Lambda),
            torch.where(rises, new.lower, self.lower),
            torch.where(falls, new.upper, self.upper),
        )

    @property
    def gap(self) -> Tensor:
        """Their distance (b,)."""
        return self.upper - self.lower

    def apart(self, precision: Tensor | float) -> Tensor:
        """Elements (b,) whose bounds differ by more than this share of the upper one; NaN is no difference."""
        return self.gap > precision * self.upper + ROUNDING


class Given(NamedTuple):
    """X (b, n, m), Y (b, n, k), s̄ (b, n), and the classes ``allowed`` (b, n, k) of each sample."""

    X: Tensor
    Y: Tensor
    weight: Tensor
    allowed: Tensor

    @property
    def centre(self) -> Tensor:
        """All classes allowed share each sample's Λ."""
        return self.allowed.to(self.Y.dtype) / self.allowed.sum(-1, keepdim=True)

    def V(self, Lambda: Tensor) -> Tensor:
        """(b, m, k)."""
        return transposed_product(self.X, self.weight[..., None] * (self.Y - Lambda))

    def longest(self, Lambda: Tensor) -> Tensor:
        """max_j ‖V_j‖, (b,)."""
        return row_norm(self.V(Lambda)).amax(-1)

    def scores(self, U: Tensor) -> Tensor:
        """XU, (b, n, k)."""
        return product(self.X, U)

    def lower(self, U: Tensor, scores: Tensor) -> Tensor:
        """What U with its scores proves, (b,); zero at U = 0."""
        size = row_norm(U).sum(-1)
        margin = (self.Y * scores).sum(-1) - torch.where(self.allowed, scores, -torch.inf).amax(-1)
        return (self.weight * margin).sum(-1) / torch.where(size > 0, size, 1.0)

    def bounds(self, U: Tensor, Lambda: Tensor) -> Bounds:
        """What a pair proves."""
        return Bounds(U, Lambda, self.lower(U, self.scores(U)), self.longest(Lambda))
