"""The SVM's dual, for those who descend on it: min over Λ, rows in the simplex, of a smooth convex function.

    f(Λ) = ‖BST(Xᵀ(Y − Λ), n·l1)‖²/(2·n·l2) + ⟨Y, Λ⟩

in sum scaling; its gradient is Y − XW with W = BST(Xᵀ(Y − Λ)/n, l1)/l2, and L = λ_max(XXᵀ)/(n·l2) bounds its curvature.
"""

from functools import cached_property

import torch
from torch import Tensor

from ..problems import Problem
from .base import shrink


class Dual:
    """f for features X (b, n, m) in the place of the problem's own; without l1 all of it is in the Gram matrix."""

    def __init__(self, problem: Problem, X: Tensor) -> None:
        self.X, self.Y, self.l1, self.l2 = X, problem.Y.to(X.dtype), problem.l1, problem.l2
        self.n = X.shape[-2]

    @cached_property
    def gram(self) -> Tensor:
        """XXᵀ, (b, n, n)."""
        return self.X @ self.X.mT

    def gradient(self, dual: Tensor) -> Tensor:
        """∇f, (b, n, k)."""
        theta = (self.Y - dual) / self.n
        if self.l1 == 0:
            return self.Y - self.gram @ theta / self.l2
        return self.Y - self.X @ shrink(self.X.mT @ theta, self.l1) / self.l2

    def curvature(self) -> Tensor:
        """L, (b, 1, 1), held constant."""
        return torch.linalg.eigvalsh(self.gram.detach())[..., -1:, None] / (self.n * self.l2)

    def gap(self, dual: Tensor) -> Tensor:
        """(b,), relative, of a feasible Λ and its W: (1/n) Σᵢ (max_l aᵢl − ⟨λᵢ, aᵢ⟩) with A = 1 − Y + XW = 1 − ∇f."""
        margins = 1 - self.gradient(dual)
        return (margins.amax(-1) - (dual * margins).sum(-1)).mean(-1)


def project_simplex(V: Tensor) -> Tensor:
    """The nearest point of the probability simplex to each row."""
    ordered = V.sort(dim=-1, descending=True).values
    excess = (ordered.cumsum(-1) - 1) / torch.arange(1, V.shape[-1] + 1, dtype=V.dtype)
    last = (ordered > excess).sum(-1, keepdim=True) - 1
    return (V - excess.gather(-1, last)).clamp_min(0)
