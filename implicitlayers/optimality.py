"""Optimality systems: the residual that vanishes at a solution, and the factor of its Jacobian.

A system is made once, on plain tensors, beside the solution, and holds constants only. It serves twice: the solver
takes Newton steps with it to polish a value, and `attach` differentiates through it. X is restricted to the features
that take part; everything is float64.

=============  ====================================  ============================================================
system         unknown x                             residual r(x)
=============  ====================================  ============================================================
RidgePrimal    W (m, k)                              Xᵀ diag(s̄)(XW − Y) + l2·W
RidgeDual      ρ = (Y − XW)/l2 (n, k)                XXᵀ diag(s̄) ρ + l2·ρ − Y
NormalMap      v = W − τ∇f(W) on the support (S, k)  v − W + τ∇f(W), W = prox(v, τ), f = loss + (l2/2)‖W‖²
ScoreEquation  Z, and an intercept (n or n + 1, k)   Z − XW, W = ∇R*(Xᵀ diag(s̄) θ(Z)): see `score_equation`
DualFace       Λ = Y − Θ on its face (n, k)          ∂ℓ*(Λ) − X W(Λ), along the edges of the face: see `dual_face`
LowRankFace    the same, more λ than coefficients    ∂ℓ*(Λ) − X W(Λ): see `low_rank_face`
KroneckerFace  the same, without a penalty           ∂ℓ*(Λ) − X W(Λ)
=============  ====================================  ============================================================
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .curvature import Curvature, Entrywise, Grouped, Rowwise
from .dual_face import DualFace, KroneckerFace
from .implicit import attach
from .linear import Factor, factorise
from .losses import Squared
from .low_rank_face import LowRankFace
from .problem import Problem
from .products import gram
from .score_equation import ScoreEquation


class NoSystem(NamedTuple):
    """Where nobody asked for derivatives, and a system would have cost too much."""

    def attach(self, problem: Problem, x: Tensor, order: int) -> Tensor:
        """Never called: derivatives are asked for before the solver runs."""
        raise AssertionError("derivatives of a solution that was found without any")


class RidgePrimal(NamedTuple):
    """Normal equations of ridge regression in the m×m form; one system for all targets."""

    factor: Factor

    def attach(self, problem: Problem, W: Tensor, order: int) -> Tensor:
        """Coefficients (..., m, k) with derivatives."""
        A, B = normal_equations(problem)
        return attach(W, lambda W: A @ W - B, self.factor.solve, order)


def normal_equations(problem: Problem) -> tuple[Tensor, Tensor]:
    """A = Xᵀ diag(s̄) X + l2·I and B = Xᵀ diag(s̄) Y."""
    A = gram(problem.X.mT, problem.weight)
    return A + _ridge(problem.l2, A.shape[-1]), problem.correlation(problem.Y)


def _ridge(l2: Tensor, size: int) -> Tensor:
    return l2[..., None, None] * torch.eye(size, dtype=l2.dtype, device=l2.device)


class RidgeDual(NamedTuple):
    """Ridge regression in the n×n form, W = Xᵀ diag(s̄) ρ; its limit l2 → 0 is the minimum-norm solution.

    The residual is not scaled by s̄: a weight of zero divides nothing and has its right derivative.
    """

    inverse: Tensor

    def attach(self, problem: Problem, rho: Tensor, order: int) -> Tensor:
        """Coefficients (..., m, k) with derivatives."""
        rho = attach(rho, lambda rho: self.residual(problem, rho), lambda r: self.inverse @ r, order)
        return problem.correlation(rho)

    @staticmethod
    def residual(problem: Problem, rho: Tensor) -> Tensor:
        """XXᵀ diag(s̄) ρ + l2·ρ − Y, by thin products: the backward pass of a Gram matrix would hold X twice more."""
        return problem.scores(problem.correlation(rho)) + problem.l2[..., None, None] * rho - problem.Y


def ridge_dual(problem: Problem, G: Tensor) -> tuple[RidgeDual, Factor]:
    """The inverse of J = G diag(s̄) + l2·I, G = XXᵀ (b, n, n), from the factor of N = diag(√s̄) G diag(√s̄) + l2·I.

    On the samples that are present J = diag(s̄)^(−½) N diag(s̄)^(½). A sample of weight zero does not act on the
    others: its row of J⁻¹r is (r − G diag(s̄) (J⁻¹r of the others))/l2; with l2 = 0 no finite derivative exists and
    zero is returned.
    """
    root = problem.weight.sqrt()[..., None]
    present = root > 0
    # An absent sample's row of N is l2 alone; one instead of zero keeps N regular and changes nothing else.
    absent = torch.where(present, 0.0, 1.0)[..., 0].diag_embed()
    factor = factorise(root * G * root.mT + _ridge(problem.l2, root.shape[-2]) + absent)
    unroot = torch.where(present, 1 / torch.where(present, root, 1.0), 0.0)
    inverse = (unroot * factor.root) @ (factor.root * root).mT
    ridge = problem.l2[..., None, None]
    outer = torch.where(~present & (ridge > 0), 1 / torch.where(ridge > 0, ridge, 1.0), 0.0)
    identity = torch.eye(root.shape[-2], dtype=root.dtype, device=root.device)
    coupling = G @ (problem.weight[..., None] * inverse)
    return RidgeDual(inverse + outer * (identity - coupling)), factor


class NormalMap(NamedTuple):
    """Smooth loss, any penalty, on the rows of the support.

    With f the loss and the ridge and τ a step length, v = W − τ∇f(W) gives back W = prox(v, τ), and that is optimality:
    r(v) = v − W + τ∇f(W). With B the derivative of prox at v, J = I − B + τHB, H = ∇²f. Only Bv matters to W, and
    B J⁻¹ = B^(½) N⁻¹ B^(½) with N = I − B + τ B^(½) H B^(½): symmetric, and well conditioned also where W_j → 0, where
    the Hessian of a plain residual grows like l1/‖W_j‖. So J⁻¹ is taken as B^(−½) N⁻¹ B^(½).
    """

    step: Tensor
    curvature: Curvature
    factor: Factor

    def attach(self, problem: Problem, v: Tensor, order: int) -> Tensor:
        """Coefficients on the support (..., S, k) with derivatives."""
        return self.coef(problem, attach(v, lambda v: self.residual(problem, v), self.solve, order))

    def coef(self, problem: Problem, v: Tensor) -> Tensor:
        """W (..., S, k) at v."""
        return problem.penalty.prox(v, self.step)

    def residual(self, problem: Problem, v: Tensor) -> Tensor:
        """V − W + τ∇f(W) at W = prox(v, τ)."""
        W = self.coef(problem, v)
        theta = problem.loss.dual_point(problem.scores(W), problem.Y)
        return v - W + self.step[..., None, None] * problem.slope(W, problem.correlation(theta))

    def solve(self, r: Tensor) -> Tensor:
        """J⁻¹ r, (..., S, k)."""
        half = self.curvature.apply(r.flatten(-2)[..., None], 0.5)
        return self.curvature.apply(self.factor.solve(half), -0.5)[..., 0].unflatten(-1, r.shape[-2:])


def normal_map(problem: Problem, v: Tensor, step: Tensor, real: Tensor) -> NormalMap:
    """The system at v (b, S, k) for step lengths τ (b,); rows that are not ``real`` (b, S) get the identity."""
    curvature = problem.penalty.curvature(v, step).on(real)
    if isinstance(problem.loss, Squared) and not isinstance(curvature, Grouped):
        return NormalMap(step, curvature, factorise(_by_rows(problem, curvature, step)))
    H = step[:, None, None] * hessian(problem, problem.penalty.prox(v, step))
    N = curvature.apply(curvature.apply(H, 0.5).mT, 0.5)
    identity = torch.eye(N.shape[-1], dtype=N.dtype, device=N.device)
    # In brackets: where B is one, N may be far below the rounding of one.
    return NormalMap(step, curvature, factorise(N + (identity - curvature.apply(identity.expand_as(N)))))


def _by_rows(problem: Problem, curvature: Entrywise | Rowwise, step: Tensor) -> Tensor:
    """N where H = G ⊗ I, G = Xᵀ diag(s̄) X + ridge, and rows p, q of W do not mix: in a few passes over it

    N_pq = τ G_pq B_p^(½) B_q^(½) + [p = q] (I − B_p)
    """
    G = gram(problem.X.mT, problem.weight) + problem.ridge.expand(-1, problem.X.shape[-1], 1)[..., 0].diag_embed()
    roots = curvature.blocks(0.5)
    S, k = roots.shape[-3:-1]
    rows = roots.flatten(1, 2)
    N = (rows @ rows.mT).unflatten(2, (S, k)).unflatten(1, (S, k))
    N *= (step[:, None, None] * G)[:, :, None, :, None]
    identity = torch.eye(k, dtype=N.dtype, device=N.device)
    N.diagonal(dim1=1, dim2=3).add_((identity - curvature.blocks()).movedim(1, -1))
    return N.flatten(3, 4).flatten(1, 2)


def hessian(problem: Problem, W: Tensor) -> Tensor:
    """∇² of loss and ridge at W (b, S, k), as (b, S·k, S·k)."""
    weighted = problem.X.mT * problem.weight[:, None, :]
    k = W.shape[-1]
    if isinstance(problem.loss, Squared):
        identity = torch.eye(k, dtype=W.dtype, device=W.device)
        H = (weighted @ problem.X)[:, :, None, :, None] * identity[:, None, :]
    else:
        D = problem.smooth_loss.curvature(problem.scores(W), problem.Y)
        H = torch.einsum("bpi,bicd,biq->bpcqd", weighted, D, problem.X)
    H = H.flatten(3, 4).flatten(1, 2)
    H = H + problem.ridge.expand_as(W).flatten(1).diag_embed()
    if problem.gauge is not None:
        free = problem.intercept[..., 0].to(W.dtype).diag_embed()
        H = H + torch.einsum("bpq,bcd->bpcqd", free, problem.gauge).flatten(3, 4).flatten(1, 2)
    return H


System = NoSystem | RidgePrimal | RidgeDual | NormalMap | ScoreEquation | DualFace | LowRankFace | KroneckerFace
