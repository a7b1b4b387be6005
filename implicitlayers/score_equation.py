"""Smooth losses, l2 > 0: optimality as an equation in the n·k scores, however many features there are."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .implicit import attach
from .kernel import kernel, sandwiched
from .linear import Factor, factorise
from .penalties import Partly
from .problem import Problem


class ScoreEquation(NamedTuple):
    """Scores Z whose dual point gives them back, and the row w₀ of an intercept where there is one, below them.

    With θ = −∇ℓ(Z), V = Xᵀ diag(s̄) θ and W = prox(V/l2, 1/l2) on the penalised rows, w₀ on the intercept's,

        r_Z = Z − XW,    r₀ = Γw₀ − V₀,    Γ the gauge.

    With C the derivative of prox, K = X (C/l2) Xᵀ and D = ∂²ℓ(Z), J = [[A, −1], [1ᵀs̄D, Γ]] with A = I + K s̄D. D may be
    singular, and s̄ zero: with s̄D = LLᵀ, sample by sample, and F = (I + LᵀKL)⁻¹, which always exists,

        s̄D A⁻¹ = LFLᵀ,    A⁻¹ = I − K LFLᵀ,    and the Schur complement of A is S = Γ + 1ᵀ LFLᵀ 1.

    Like the normal map it works on what prox is applied to, and is well conditioned where W_j → 0. ``factor`` has the
    root of LFLᵀ, the flags and the condition of the whole; ``border`` those of S, of size zero without an intercept.
    """

    kernel: Tensor
    factor: Factor
    border: Factor

    def attach(self, problem: Problem, x: Tensor, order: int) -> Tensor:
        """Coefficients (..., S, k) with derivatives."""
        return self.coef(problem, attach(x, lambda x: self.residual(problem, x), self.solve, order))

    @staticmethod
    def coef(problem: Problem, x: Tensor) -> Tensor:
        """W (..., S, k) at the unknown x (..., n, k), or (..., n + 1, k) with an intercept."""
        return _coefficients(problem, x)[0]

    @staticmethod
    def residual(problem: Problem, x: Tensor) -> Tensor:
        """r_Z, and r₀ below it."""
        Z, w0 = _split(problem, x)
        W, V = _coefficients(problem, x)
        gauged = 0.0 if problem.gauge is None else w0 @ problem.gauge
        slope = gauged - torch.where(problem.intercept, V, 0.0).sum(-2, keepdim=True)
        return torch.cat([Z - problem.scores(W), slope[..., : w0.shape[-2], :]], dim=-2)

    def solve(self, r: Tensor) -> Tensor:
        """J⁻¹ r: the intercept first, then the scores at it."""
        n = self.kernel.shape[-1] // r.shape[-1]
        r, r0 = r[..., :n, :], r[..., n:, :]
        curved = self._apply(self.factor.solve, r)
        w0 = self._apply(self.border.solve, r0 - curved.sum(-2, keepdim=True)[..., : r0.shape[-2], :])
        r = r + w0.sum(-2, keepdim=True)
        return torch.cat([r - self._apply(self.kernel.matmul, self._apply(self.factor.solve, r)), w0], dim=-2)

    @staticmethod
    def _apply(matrix: Callable[[Tensor], Tensor], r: Tensor) -> Tensor:
        """A matrix on (..., n, k), samples before classes."""
        return matrix(r.flatten(-2)[..., None])[..., 0].unflatten(-1, r.shape[-2:])


def unknown_at(problem: Problem, W: Tensor) -> Tensor:
    """The unknown that belongs to coefficients W (b, S, k)."""
    w0 = torch.where(problem.intercept, W, 0.0).sum(-2, keepdim=True)
    w0 = w0 if isinstance(problem.penalty, Partly) else w0[:, :0]
    return torch.cat([problem.scores(W), w0], dim=-2)


def score_equation(problem: Problem, x: Tensor, real: Tensor) -> ScoreEquation:
    """The system at an unknown (b, n or n + 1, k); columns not ``real`` (b, S) are zero."""
    penalised = real & ~problem.intercept[..., 0]
    Z, w0 = _split(problem, x)
    V = problem.correlation(problem.loss.dual_point(Z, problem.Y))
    l2 = problem.l2[:, None, None]
    K = kernel(problem.X, problem.penalty.curvature(V / l2, 1 / problem.l2).on(penalised), 1 / l2)
    L = problem.weight.sqrt()[..., None, None] * problem.smooth_loss.curvature_root(Z, problem.Y)
    M = sandwiched(K, L)
    F = factorise(M + torch.eye(M.shape[-1], dtype=M.dtype, device=M.device))
    root = (L @ F.root.unflatten(1, L.shape[1:3])).flatten(1, 2)
    size = w0.shape[-2] * w0.shape[-1]
    border = factorise(_schur(problem, root)[:, :size, :size])
    singular, condition = F.singular | border.singular, torch.maximum(F.condition, border.condition)
    return ScoreEquation(K, Factor(root, singular, condition), border)


def _schur(problem: Problem, root: Tensor) -> Tensor:
    """S = Γ + 1ᵀ LFLᵀ 1, (b, k, k), from the root of LFLᵀ."""
    summed = root.unflatten(1, problem.Y.shape[-2:]).sum(1)
    S = summed @ summed.mT
    return S if problem.gauge is None else S + problem.gauge


def _split(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    n = problem.Y.shape[-2]
    return x[..., :n, :], x[..., n:, :]


def _coefficients(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """W, and V."""
    Z, w0 = _split(problem, x)
    V = problem.correlation(problem.loss.dual_point(Z, problem.Y))
    return torch.where(problem.intercept, w0.sum(-2, keepdim=True), problem.coef_of(V)), V
