"""Batched factorisations of symmetric positive semi-definite matrices, with a status per element.

Shared by the solvers and by the derivatives. A factor is a square root C of the (pseudo-)inverse, M⁺ = C Cᵀ, whichever
way it was found, so that one product serves a batch whose elements needed different treatment.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# A pivot this small relative to the largest one is rounding: the element is singular.
SINGULAR_PIVOT = 1e-13
# Steps of the power method.
POWER_STEPS = 4
# Eigenvalues below this share of the largest count as zero in a pseudo-inverse.
EIGENVALUE_CUTOFF = 1e-10


class Factor(NamedTuple):
    """``root`` C (..., d, d) with M⁺ = C Cᵀ; ``singular`` (...), true where M⁺ is not M⁻¹; and ``condition`` (...), a
    bound on the condition number of M: the product of the Frobenius norms of M and M⁺.
    """

    root: Tensor
    singular: Tensor
    condition: Tensor

    def solve(self, R: Tensor) -> Tensor:
        """M⁺R for R (..., d, r); rows from the left, several times faster in batches than columns from the right."""
        return (R.mT @ self.root @ self.root.mT).mT


class Conditioned(Protocol):
    """What has been factored: whether that is ``singular`` (b,), and a bound on its ``condition`` number (b,)."""

    @property
    def singular(self) -> Tensor:
        """True where a pseudo-inverse stands in."""

    @property
    def condition(self) -> Tensor:
        """Of M."""


class Inverse(NamedTuple):
    """M⁺ itself, ``matrix`` (..., d, d), where nobody needs a root of it: half the products, and sooner made."""

    matrix: Tensor
    singular: Tensor
    condition: Tensor

    def solve(self, R: Tensor) -> Tensor:
        """M⁺R for R (..., d, r)."""
        return (R.mT @ self.matrix).mT


def factorise(M: Tensor) -> Factor:
    """Factor M (b, d, d): Cholesky for all, an eigen-decomposition for the elements that are singular only."""
    if M.shape[-1] == 0:
        nothing = torch.zeros(M.shape[0], dtype=M.dtype, device=M.device)
        return Factor(M, nothing > 0, nothing + 1)
    lower, scale, singular = _scaled_cholesky(M)
    identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    root = scale * torch.linalg.solve_triangular(lower, identity.expand_as(M), upper=False).mT
    if singular.any():
        root[singular] = pseudo_root(M[singular])
    return Factor(root, singular, _norm(M) * _norm(root.mT).square())


def invert(M: Tensor) -> Inverse:
    """Invert M (b, d, d) in the same way."""
    if M.shape[-1] == 0:
        return Inverse(*factorise(M))
    lower, scale, singular = _scaled_cholesky(M)
    inverse = torch.cholesky_inverse(lower).mul_(scale).mul_(scale.mT)
    if singular.any():
        root = pseudo_root(M[singular])
        inverse[singular] = root @ root.mT
    return Inverse(inverse, singular, _norm(M) * _norm(inverse))


def _scaled_cholesky(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Cholesky factor of diag(scale) M diag(scale), the scale (b, d, 1), and who is singular (b,).

    There are ones on the diagonal: that features have different units makes nothing singular. The identity stands in
    for the factors of singular elements.
    """
    # Few passes over M: with many small systems they cost more than the factorisations.
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()[..., None]
    lower, info = torch.linalg.cholesky_ex((scale * M).mul_(scale.mT))
    pivots = lower.diagonal(dim1=-2, dim2=-1).square()
    # NaN pivots compare false and count as singular.
    singular = ~((info == 0) & (pivots.amin(-1) > SINGULAR_PIVOT * pivots.amax(-1)))
    if singular.any():
        identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        lower = torch.where(singular[:, None, None], identity, lower)
    return lower, scale, singular


def _norm(A: Tensor) -> Tensor:
    """The Frobenius norm, (b,)."""
    return torch.linalg.vector_norm(A.flatten(1), dim=-1)


def spectral_condition(M: Tensor, factor: Factor | Inverse) -> Tensor:
    """About ‖M‖₂·‖M⁻¹‖₂, (...), by the power method, so from below; infinite where singular.

    The bound in ``factor``, of Frobenius norms, is up to d times as large.
    """
    start = torch.arange(1.0, M.shape[-1] + 1, dtype=M.dtype, device=M.device).cos()
    x = y = start.expand(M.shape[:-1])[..., None]
    for _ in range(POWER_STEPS):
        x, y = x / x.norm(dim=-2, keepdim=True), y / y.norm(dim=-2, keepdim=True)
        x, y = factor.solve(x), (y.mT @ M).mT
    condition = x.norm(dim=-2)[..., 0] * y.norm(dim=-2)[..., 0]
    return torch.where(factor.singular, torch.inf, condition)


def cholesky(M: Tensor) -> Tensor:
    """The Cholesky factor; the identity where there is none, so that one element does not fail the batch.

    Steps from such a factor are senseless, but finite; they are taken only where they lower the objective.
    """
    return cholesky_where_it_exists(M)[0]


def cholesky_where_it_exists(M: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and where it is the Cholesky factor, (...)."""
    lower, info = torch.linalg.cholesky_ex(M)
    exists = info == 0
    if exists.all():
        return lower, exists
    identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    return torch.where(exists[..., None, None], lower, identity), exists


def pseudo_root(M: Tensor) -> Tensor:
    """C with C Cᵀ = M⁺, from eigenvalues above the cut-off; zero for a zero matrix, and for one that overflowed."""
    finite = M.isfinite().flatten(-2).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, M, 0.0))
    kept = values > EIGENVALUE_CUTOFF * values[..., -1:].clamp_min(0)
    return vectors * torch.where(kept, values, 1.0).rsqrt().mul(kept)[..., None, :]
