"""One proximal step of any smooth loss with any penalty: Newton's method on its dual.

    minimise over W    Σᵢ s̄ᵢ [ℓ(zᵢ) + (τ/2)‖zᵢ − z⁰ᵢ‖²] + R(W) + (σ/2)‖W − W⁰‖²,    z = XW

The dual, F(Θ) = Σᵢ s̄ᵢ ℓτ*(−θᵢ) + Rσ*(V) with V = Xᵀ diag(s̄) Θ + σW⁰, is convex with a Lipschitz gradient, whatever
kinks penalty and loss have: no support has to be guessed, and Newton's step is a direction of descent. With z(θ) the
scores whose dual point is θ = −∇ℓ(z) − τ(z − z⁰), D = ∂²ℓ(z) + τ, C the derivative of prox at V, ρ = l2 + σ and
g = XW(V) − z,

    ∇F = s̄g,    Newton:  δz = g + XδW,  δθ = −Dδz,  δW = (C/ρ) Xᵀ diag(s̄) δθ

so that z + δz = X(W + δW): where nothing bends this is the primal's Newton step. With s̄D = LLᵀ and G = Lᵀ X (C/ρ)^½,
eliminating δz leaves I + GᵀG, of the size of the support; eliminating δW leaves I + GGᵀ = I + LᵀKL, of that of the
scores, with the kernel K = X (C/ρ) Xᵀ. Both are well conditioned however flat the loss; the smaller one is taken.
(Li, Sun and Toh, 2018, for the Lasso.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..curvature import Curvature
from ..features import Support
from ..kernel import block_gram, kernel, sandwiched
from ..linear import cholesky
from ..problem import Problem, relative
from . import clock
from .dual_newton import backtrack


class Proximal(NamedTuple):
    """A problem with its proximal terms: centres ``W0`` (b, m, k) and ``Z0`` = XW0 (b, n, k), σ row by row
    (b, 1 or m, 1), equal on all penalised rows, and τ (b,).
    """

    problem: Problem
    W0: Tensor
    Z0: Tensor
    sigma: Tensor
    tau: Tensor

    @property
    def rho(self) -> Tensor:
        """What multiplies ‖W‖²/2, row by row, (b, 1 or m, 1)."""
        return self.problem.ridge + self.sigma

    @property
    def step(self) -> Tensor:
        """1/ρ of the penalised rows, (b,)."""
        penalised = torch.where(self.problem.intercept, -torch.inf, self.rho.expand_as(self.problem.intercept))
        return 1 / penalised.amax((1, 2))


class _Dual(NamedTuple):
    """A dual point Θ with its image V, the scores ``z`` and coefficients ``W`` that belong to the two, and F (b,)."""

    theta: Tensor
    V: Tensor
    z: Tensor
    W: Tensor
    value: Tensor


def _at(proximal: Proximal, theta: Tensor, V: Tensor) -> _Dual:
    problem, tau = proximal.problem, proximal.tau
    z = problem.smooth_loss.proximal_scores(theta, proximal.Z0, tau, problem.Y)
    W = problem.penalty.prox(V / proximal.rho, proximal.step)
    near = tau[:, None] / 2 * (z - proximal.Z0).square().sum(-1)
    samples = -(theta * z).sum(-1) - problem.loss.value(z, problem.Y) - near
    conjugate = ((V - proximal.rho / 2 * W) * W).sum((-2, -1)) - problem.penalty.value(W)
    return _Dual(theta, V, z, W, (problem.weight * samples).sum(-1) + conjugate)


class Minimum(NamedTuple):
    """The coefficients ``W`` (b, m, k) of the smallest ``gap`` (b,), relative to P(0), that was seen; and the steps
    (b,) in which an element moved.
    """

    W: Tensor
    gap: Tensor
    n_iter: Tensor


def minimise(proximal: Proximal, tol: Tensor, max_iter: int) -> Minimum:
    """One proximal step, to a relative gap of ``tol`` (b,) in at most ``max_iter`` steps of Newton's method."""
    problem, null = proximal.problem, proximal.problem.null_objective()
    theta = problem.loss.dual_point(proximal.Z0, problem.Y)
    at = _at(proximal, theta, problem.correlation(theta) + proximal.sigma * proximal.W0)
    best = Minimum(at.W, torch.full_like(null, torch.inf), torch.zeros_like(null, dtype=torch.int64))
    while True:
        Z = problem.scores(at.W)
        gap = relative(_gap(proximal, at, Z), null)
        better = gap < best.gap
        best = Minimum(torch.where(better[:, None, None], at.W, best.W), torch.minimum(gap, best.gap), best.n_iter)
        live = (best.gap > tol) & (best.n_iter < max_iter)
        if not live.any() or clock.is_over():
            return best
        at = _search(proximal, at, Z, _newton(proximal, at, Z), live)
        best = best._replace(n_iter=best.n_iter + live.to(torch.int64))


def _gap(proximal: Proximal, at: _Dual, Z: Tensor) -> Tensor:
    """Primal less dual of the proximal problem: one Fenchel–Young term per sample, since W belongs to V."""
    problem = proximal.problem
    theta = problem.loss.dual_point(at.z, problem.Y)
    samples = problem.loss.fenchel_young(Z, theta, problem.Y)
    return (problem.weight * (samples + proximal.tau[:, None] / 2 * (Z - at.z).square().sum(-1))).sum(-1)


def _newton(proximal: Proximal, at: _Dual, Z: Tensor) -> Tensor:
    """δz."""
    problem, g = proximal.problem, Z - at.z
    small, bend, rho = _moving(proximal, at)
    root = problem.weight.sqrt()[..., None, None] * cholesky(_curvature(proximal, at.z))
    right = (root.mT @ g[..., None]).flatten(1)[..., None]
    if small.X.shape[-1] > g.shape[-2]:
        K = kernel(small.X, bend, 1 / rho)
        q = _plus_identity(sandwiched(K, root), right).unflatten(1, g.shape[1:])
        return g - (K @ (root @ q).flatten(1, 2)).unflatten(1, g.shape[1:])[..., 0]
    # GᵀG = (C/ρ)^½ [Σᵢ xᵢxᵢᵀ ⊗ LᵢLᵢᵀ] (C/ρ)^½.
    rho = rho.expand(*rho.shape[:2], g.shape[-1]).flatten(1)[..., None]
    M = block_gram(small.X, root @ root.mT) * rho.rsqrt() * rho.rsqrt().mT
    M = bend.apply(bend.apply(M, 0.5).mT, 0.5)
    lifted = small.X.mT @ (root @ right.unflatten(1, g.shape[1:]))[..., 0]
    q = _plus_identity((M + M.mT) / 2, bend.apply(lifted.flatten(1)[..., None] * rho.rsqrt(), 0.5))
    return g - small.scores((bend.apply(q, 0.5) * rho.rsqrt()).unflatten(1, (-1, g.shape[-1]))[..., 0])


def _curvature(proximal: Proximal, z: Tensor) -> Tensor:
    """D, (b, n, k, k)."""
    identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    curvature = proximal.problem.smooth_loss.curvature(z, proximal.problem.Y)
    return curvature + proximal.tau[:, None, None, None] * identity


def _moving(proximal: Proximal, at: _Dual) -> tuple[Problem, Curvature, Tensor]:
    """The features whose coefficients move with V: the problem, C and ρ (b, S, 1) on them."""
    problem, V = proximal.problem, at.V / proximal.rho
    features = Support.of(problem.penalty.support(V, proximal.step))
    small = problem.restrict(features)
    bend = small.penalty.curvature(features.take(V.mT).mT, proximal.step).on(features.real)
    rho = features.take(proximal.rho.expand_as(V[..., :1]).mT).mT
    return small, bend, torch.where(rho > 0, rho, 1.0)


def _plus_identity(M: Tensor, right: Tensor) -> Tensor:
    """(M + I)⁻¹ right."""
    return torch.cholesky_solve(right, cholesky(M + torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)))


def _search(proximal: Proximal, at: _Dual, Z: Tensor, step: Tensor, live: Tensor) -> _Dual:
    """Along δθ = −Dδz as far as F decreases enough; elements that are not ``live`` stay."""
    problem = proximal.problem
    moved = torch.where(live[:, None, None], -(_curvature(proximal, at.z) @ step[..., None])[..., 0], 0.0)
    image = problem.correlation(moved)
    reached = at

    def value(length: Tensor) -> Tensor:
        nonlocal reached
        t = length[:, None, None]
        reached = _at(proximal, at.theta + t * moved, at.V + t * image)
        return reached.value

    length, _ = backtrack(value, at.value, (problem.weight[..., None] * (Z - at.z) * moved).sum((-2, -1)))
    value(length)
    return reached
