"""The optimality system of a hinge's dual where more λ are free than coefficients can move: solved in these.

In √s̄Λ, on the face, the Hessian of the dual is K = B̃B̃ᵀ + κI, B̃ = √s̄ P (X ⊗ R), with P the projection, sample by
sample, on changes within the face, and R_j² = C_j/l2 for C_j the derivative of prox at V_j. B̃ has S(k − 1) columns,
rows of W summing to zero. With G = B̃ᵀB̃ (Woodbury, and for κ = 0 the pseudo-inverse)

    K⁻¹ = (I − B̃(κI + G)⁻¹B̃ᵀ)/κ,    K⁺ = B̃ (G⁺)² B̃ᵀ

so that nothing of the size of the face is formed, and a face on which W does not move at all costs nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .dual_face import attach_dual, bends
from .kernel import block_gram
from .linear import EIGENVALUE_CUTOFF
from .problem import Problem
from .products import product, transposed_product


class LowRankFace(NamedTuple):
    """``free`` (b, n, k), one where λ can move; R_j = ``across``_j I + ``along``_j u_j u_jᵀ, both (b, S), ``unit`` u
    (b, S, k); and for J⁻¹ = ``own``·P − B ``core`` Bᵀs̄P, B = P(X ⊗ R), own (b,) and core (b, S(k − 1), S(k − 1)).
    """

    free: Tensor
    across: Tensor
    along: Tensor
    unit: Tensor
    own: Tensor
    core: Tensor
    singular: Tensor
    condition: Tensor

    def attach(self, problem: Problem, Lambda: Tensor, order: int) -> Tensor:
        """Coefficients (..., S, k) with derivatives."""
        return attach_dual(self, problem, Lambda, order)

    def residual(self, problem: Problem, Lambda: Tensor, scores: Tensor) -> Tensor:
        """Slope of the dual objective, (..., n, k); ``step`` takes what lies within the face."""
        return problem.dual_loss.conjugate_gradient(Lambda, problem.Y) - scores

    def step(self, problem: Problem, r: Tensor) -> Tensor:
        """The change of Λ that the residual r asks for, (..., n, k)."""
        X, Q, inside = problem.X.detach(), centred_basis(r.shape[-1], r), self._within(r)
        V = self._root(transposed_product(X, problem.weight.detach()[..., None] * inside)) @ Q
        W = (self.core @ V.flatten(-2)[..., None])[..., 0].unflatten(-1, V.shape[-2:]) @ Q.mT
        return self.own[..., None, None] * inside - self._within(product(X, self._root(W)))

    def _within(self, r: Tensor) -> Tensor:
        """Pr: less the mean over a sample's free classes, of which it has one at least, or is absent."""
        count = self.free.sum(-1, keepdim=True)
        mean = (self.free * r).sum(-1, keepdim=True) / torch.where(count > 0, count, 1.0)
        return self.free * (r - mean)

    def _root(self, V: Tensor) -> Tensor:
        """R_j v_j, (..., S, k)."""
        inner = (self.unit * V).sum(-1, keepdim=True)
        return self.across[..., None] * V + (self.along[..., None] * inner) * self.unit


def low_rank_face(problem: Problem, Lambda: Tensor, V: Tensor) -> LowRankFace:
    """The system at Λ (b, n, k), whose zeros are exact; ``problem`` and V (b, S, k) on the features in use."""
    free = ((Lambda > 0) & (problem.weight > 0)[..., None]).to(Lambda.dtype)
    alpha, q = bends(problem, V)
    length = q.square().sum(-1)
    across = (alpha / problem.l2[:, None]).sqrt()
    along = ((alpha + length) / problem.l2[:, None]).sqrt() - across
    unit = q / torch.where(length > 0, length, 1.0).sqrt()[..., None]
    nothing = torch.zeros_like(problem.l2)
    face = LowRankFace(free, across, along, unit, nothing, nothing, nothing > 0, nothing)
    return _factored(face, _gram(face, problem), problem)


def _factored(face: LowRankFace, G: Tensor, problem: Problem) -> LowRankFace:
    """With own and core: of one decomposition for all κ, since some elements of a batch may be smoothed."""
    kappa = problem.dual_loss.conjugate_curvature(problem.l2)
    edges = (face.free.sum((1, 2)) - (face.free.sum(-1) > 0).sum(-1)).to(G.dtype)
    finite = G.isfinite().flatten(1).all(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, G, 0.0))
    largest = values.amax(-1) if G.shape[-1] else torch.zeros_like(kappa)
    kept = values > EIGENVALUE_CUTOFF * largest[:, None]
    smooth = (kappa > 0)[:, None]
    inverse = torch.where(
        smooth,
        1 / (torch.where(smooth, kappa[:, None], 1.0) * (kappa[:, None] + values.clamp_min(1e-300))),
        torch.where(kept, -1 / torch.where(kept, values, 1.0).square(), 0.0),
    )
    least = torch.where(kept, values, torch.inf).amin(-1) if G.shape[-1] else torch.ones_like(kappa)
    lowest = torch.where(kappa > 0, kappa, least.clamp_max(torch.finfo(G.dtype).max))
    return face._replace(
        own=torch.where(kappa > 0, 1 / torch.where(kappa > 0, kappa, 1.0), 0.0),
        core=(vectors * inverse[:, None, :]) @ vectors.mT,
        singular=(kappa <= 0) & (edges > kept.sum(-1)),
        condition=(kappa + largest) / lowest,
    )


def _gram(face: LowRankFace, problem: Problem) -> Tensor:
    """G (b, S(k − 1), S(k − 1)): R [Σᵢ s̄ᵢ xᵢxᵢᵀ ⊗ QᵀPᵢQ] R, the u_j being within what Q spans."""
    free, X, Q = face.free, problem.X, centred_basis(face.free.shape[-1], face.free)
    b, S, c = len(X), X.shape[-1], Q.shape[-1]
    count = free.sum(-1, keepdim=True)
    share = free / torch.where(count > 0, count, 1.0)
    P = Q.mT @ (free.diag_embed() - free[..., None] * share[..., None, :]) @ Q
    G = block_gram(X, problem.weight[..., None, None] * P)
    G = _rooted(_rooted(G.reshape(b, S, c, S * c), face, Q).reshape(b, S * c, S, c).movedim(1, -1), face, Q)
    G = G.flatten(1, 2)
    return (G + G.mT) / 2


def _rooted(A: Tensor, face: LowRankFace, Q: Tensor) -> Tensor:
    """R_j applied to the (S, c) of A (b, S, c, ...)."""
    unit = face.unit @ Q
    inner = torch.einsum("bsc,bscd->bsd", unit, A)
    return face.across[..., None, None] * A + (face.along[..., None] * unit)[..., None] * inner[:, :, None]


def centred_basis(k: int, like: Tensor) -> Tensor:
    """An orthonormal basis (k, k − 1) of what sums to zero (Helmert's)."""
    row, column = torch.arange(k, device=like.device)[:, None], torch.arange(1, k, device=like.device)
    entries = torch.where(row < column, 1.0, torch.where(row == column, -column, 0).to(torch.float64))
    return (entries / (column * (column + 1)).to(torch.float64).sqrt()).to(like.dtype)
