"""The one family of problems that every layer states: a weighted mean loss, a penalty, a ridge.

    P(W) = Σᵢ s̄ᵢ ℓ(zᵢ; yᵢ) + R(W),    Z = XW,    R(W) = l1·Ω(W) + (l2/2)‖W‖²,    s̄ = s/Σs
    D(Θ) = −Σᵢ s̄ᵢ ℓ*(−θᵢ; yᵢ) − R*(V),    V = Xᵀ diag(s̄) Θ

P ≥ D for every pair (W, Θ), with equality at the optimum: P − D certifies W.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .losses import Loss
from .penalties import NoPenalty, Penalty


class Problem(NamedTuple):
    """Tensors of one batch of problems; all share the leading batch dimensions.

    ``X`` (..., n, m), ``Y`` (..., n, k), ``weight`` = s̄ (..., n) with sum one (or zero: no sample at all),
    ``l2`` (...). A tuple of tensors throughout, so that ``torch.utils._pytree`` takes it apart and together again.
    """

    X: Tensor
    Y: Tensor
    weight: Tensor
    loss: Loss
    penalty: Penalty
    l2: Tensor

    def objective(self, W: Tensor) -> Tensor:
        """P(W), (...)."""
        data = (self.weight * self.loss.value(self.scores(W), self.Y)).sum(-1)
        return data + self.penalty.value(W) + self.l2 / 2 * W.square().sum((-2, -1))

    def null_objective(self) -> Tensor:
        """P(0), the scale of every relative gap, (...)."""
        return (self.weight * self.loss.value(torch.zeros_like(self.Y), self.Y)).sum(-1)

    def correlation(self, Theta: Tensor) -> Tensor:
        """V = Xᵀ diag(s̄) Θ, (..., m, k)."""
        return product(self.X.mT, self.weight[..., None] * Theta)

    def scores(self, W: Tensor) -> Tensor:
        """Z = XW, (..., n, k)."""
        return product(self.X, W)

    def coef_of(self, V: Tensor) -> Tensor:
        """∇R*(V), the coefficients that belong to a dual point; l2 > 0."""
        return self.penalty.prox(V) / self.l2[..., None, None]

    def conjugate(self, V: Tensor) -> Tensor:
        """R*(V), (...), for l2 > 0.

        With U = ∇R*(V) it is ⟨V, U⟩ − l1·Ω(U) − (l2/2)‖U‖², and ⟨V − l2·U, U⟩ = l1·Ω(U) because Ω is a norm.
        """
        return self.l2 / 2 * self.coef_of(V).square().sum((-2, -1))

    def gap(self, W: Tensor, Theta: Tensor) -> Tensor:
        """P(W) − D(Θ′) ≥ 0, (...), where Θ′ is Θ made feasible (see `feasible`).

        Computed as one Fenchel–Young term per sample plus one for the penalty, each ≥ 0, and never as the
        difference of two large numbers.
        """
        Theta, V = self.feasible(Theta)
        samples = (self.weight * self.loss.fenchel_young(self.scores(W), Theta, self.Y)).sum(-1)
        return samples + self._penalty_gap(W, V)

    def relative_gap(self, W: Tensor, Theta: Tensor) -> Tensor:
        """(P(W) − D(Θ))/P(0); 0 where there is nothing to learn (P(0) = 0 and W = 0)."""
        return relative(self.gap(W, Theta), self.null_objective())

    def feasible(self, Theta: Tensor) -> tuple[Tensor, Tensor]:
        """A dual point with R*(V) finite, and its V.

        With l2 > 0 every Θ is one. Without, Θ is scaled until the dual norm of V is at most l1; with neither l1
        nor l2 it is projected on the null space of Xᵀ.
        """
        if isinstance(self.penalty, NoPenalty):
            return self._least_squares_feasible(Theta)
        V = self.correlation(Theta)
        scale = torch.where(self.l2 > 0, 1.0, self.penalty.feasible_scale(V))[..., None, None]
        return Theta * scale, V * scale

    def _least_squares_feasible(self, Theta: Tensor) -> tuple[Tensor, Tensor]:
        free = self.l2 <= 0
        if free.any():
            root = self.weight.sqrt()[..., None]
            A = self.X * root
            fitted = A @ (torch.linalg.pinv(A) @ (Theta * root))
            projected = Theta - fitted / torch.where(root > 0, root, 1.0)
            Theta = torch.where(free[..., None, None], projected, Theta)
        V = self.correlation(Theta)
        return Theta, torch.where(free[..., None, None], 0.0, V)

    def _penalty_gap(self, W: Tensor, V: Tensor) -> Tensor:
        # R(W) + R*(V) − ⟨W, V⟩. With U = ∇R*(V) and C = clip(V) = V − l2·U in ∂(l1·Ω)(U), it is
        # (l2/2)‖W − U‖² + [l1·Ω(W) − ⟨C, W⟩], and the bracket is ≥ 0 because C is feasible for the dual norm.
        ridge = torch.where(self.l2 > 0, self.l2, 1.0)[..., None, None]
        U = torch.where(self.l2[..., None, None] > 0, self.penalty.prox(V) / ridge, W)
        slack = self.penalty.value(W) - (self.penalty.clip(V) * W).sum((-2, -1))
        return self.l2 / 2 * (W - U).square().sum((-2, -1)) + slack.clamp_min(0)


def product(A: Tensor, B: Tensor) -> Tensor:
    """A @ B for a wide A and a narrow B, its columns contiguous in memory: several times faster in batches."""
    return (B.mT @ A.mT).mT


def relative(gap: Tensor, null_objective: Tensor) -> Tensor:
    """gap/P(0), and the gap itself where P(0) = 0: there W = 0 is optimal with gap 0, and no other W is."""
    return gap / torch.where(null_objective > 0, null_objective, 1.0)
