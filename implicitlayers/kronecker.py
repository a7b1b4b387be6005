"""Linear algebra of M ⊗ I on a face of a product of simplices: n×n systems only, one per class and one more.

    minimise ½⟨L, L M⟩ + ⟨C, L⟩    over L (k, n) that is zero off the face, Σ_c L_ci = total_i

The Hessian does not couple classes, so every class has a system of its own, and the constraints, which do couple them,
one more: the Schur complement, the sum of the inverses. Nothing of size nk×nk is formed.

Layout: classes before samples, (..., k, n), the layout in which batched products are fast.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .linear import cholesky_where_it_exists

# Below the first share of free samples the free ones are packed; below the second share of the others, and where M is
# this well conditioned, the inverse of the whole M is made once, and for every class less what its others take away.
PACK_BELOW, DOWNDATE_BELOW, DOWNDATE_PIVOT = 0.8, 0.4, 1e-6
# Inverses of blocks and of their sum multiply what rounding does: below this pivot another method is better.
REGULAR_PIVOT = 1e-6


class FaceFactor(NamedTuple):
    """``blocks`` (..., k, s, s), per class the inverse of M on its free samples, whose numbers are ``samples``
    (..., k, s); ``schur`` (..., n, n), the Cholesky factor of the sum of the inverses; ``regular`` (...), false where M
    on the face is singular or nearly so.

    Smaller blocks than others are padded with zeros, at any sample; blocks of all n samples are in order.
    """

    blocks: Tensor
    samples: Tensor
    schur: Tensor
    regular: Tensor

    @property
    def inverse(self) -> Tensor:
        """The blocks (..., k, n, n), zero off the face."""
        if self._is_whole():
            return self.blocks
        n = self.schur.shape[-1]
        across = self.samples[..., None, :].expand(self.blocks.shape)
        rows = self.blocks.new_zeros(*self.samples.shape, n).scatter_add(-1, across, self.blocks)
        down = self.samples[..., None].expand(*self.samples.shape, n)
        return rows.new_zeros(*rows.shape[:-2], n, n).scatter_add(-2, down, rows)

    def resized(self, size: int) -> "FaceFactor":
        """The same with blocks of a larger ``size``."""
        missing = size - self.samples.shape[-1]
        if not missing:
            return self
        if size == self.schur.shape[-1]:
            whole = self.inverse
            return self._replace(blocks=whole, samples=in_order(whole[..., 0]))
        blocks = torch.nn.functional.pad(self.blocks, (0, missing, 0, missing))
        return self._replace(blocks=blocks, samples=torch.nn.functional.pad(self.samples, (0, missing)))

    def solve(self, C: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The minimiser on the face, and its multipliers (..., 1, n); ``total`` None is zero: a step within it."""
        unconstrained = self._times_inverse(C)
        rhs = unconstrained.sum(-2, keepdim=True)
        multiplier = torch.cholesky_solve((rhs if total is None else rhs + total).mT, self.schur).mT
        return self._times_inverse(multiplier.expand_as(C)) - unconstrained, multiplier

    def _times_inverse(self, C: Tensor) -> Tensor:
        """Rows from the left: in batches several times faster than columns from the right."""
        rows = C if self._is_whole() else C.gather(-1, self.samples)
        rows = (rows.unsqueeze(-2) @ self.blocks).squeeze(-2)
        return rows if self._is_whole() else torch.zeros_like(C).scatter_add(-1, self.samples, rows)

    def _is_whole(self) -> bool:
        return self.samples.shape[-1] == self.schur.shape[-1]


def in_order(like: Tensor) -> Tensor:
    """The numbers (..., k, n) of all samples, in the shape of ``like``."""
    return torch.arange(like.shape[-1], device=like.device).expand(like.shape)


def factorise_face(M: Tensor, free: Tensor) -> FaceFactor:
    """Factor M (b, n, n) on the entries that are ``free`` (b, k, n), at least one per column."""
    n = free.shape[-1]
    count = free.sum(-1)
    fewest, most = int(count.amin()), int(count.amax())
    if n - fewest <= DOWNDATE_BELOW * n:
        whole, pivot = _inverse(M)
        if pivot.amin() > DOWNDATE_PIVOT:
            inverse = _downdated(whole, free, n - fewest)
            return _with_schur(inverse, in_order(free), pivot, inverse.sum(1))
    # No entry at all is free where Λ has overflowed; the face is then singular.
    if 0 < most <= PACK_BELOW * n:
        return _packed(M, free, most)
    inverse, pivot = masked_inverse(M, free)
    return _with_schur(inverse, in_order(free), pivot.amin(-1), inverse.sum(1))


def masked_inverse(M: Tensor, free: Tensor, diagonal: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Inverses (b, k, n, n) of M, plus a ``diagonal`` (b, k, n), on free entries, and the smallest pivots (b, k)."""
    mask = free.to(M.dtype)
    blocks = M[:, None] * mask[..., None] * mask[..., None, :]
    blocks.diagonal(dim1=-2, dim2=-1).add_(1 - mask if diagonal is None else torch.where(free, diagonal, 1.0))
    inverse, pivot = _inverse(blocks)
    inverse.diagonal(dim1=-2, dim2=-1).sub_(1 - mask)
    return inverse, pivot


def _with_schur(blocks: Tensor, samples: Tensor, pivot: Tensor, total: Tensor) -> FaceFactor:
    schur, last = _cholesky(total)
    return FaceFactor(blocks, samples, schur, (pivot > REGULAR_PIVOT) & (last > REGULAR_PIVOT))


def _inverse(M: Tensor) -> tuple[Tensor, Tensor]:
    lower, pivot = _cholesky(M)
    return torch.cholesky_inverse(lower), pivot


def _cholesky(M: Tensor) -> tuple[Tensor, Tensor]:
    """The factor, or the identity, and the smallest share of a diagonal entry that is left as its pivot, or zero."""
    lower, exists = cholesky_where_it_exists(M)
    left = lower.diagonal(dim1=-2, dim2=-1).square() / M.diagonal(dim1=-2, dim2=-1)
    return lower, torch.where(exists, left.amin(-1), 0.0)


def _packed(M: Tensor, free: Tensor, size: int) -> FaceFactor:
    """By systems of the ``size`` of the largest face."""
    b, n = free.shape[0], free.shape[-1]
    real, index = free.to(torch.uint8).topk(size, dim=-1)
    mask = real.to(M.dtype)
    place = index[..., :, None] * n + index[..., None, :]
    blocks = M.reshape(b, n * n).gather(1, place.view(b, -1)).view(place.shape) * (mask[..., None] * mask[..., None, :])
    blocks.diagonal(dim1=-2, dim2=-1).add_(1 - mask)
    inverse, pivot = _inverse(blocks)
    inverse.diagonal(dim1=-2, dim2=-1).sub_(1 - mask)
    total = M.new_zeros(b, n * n).scatter_add_(1, place.view(b, -1), inverse.mT.reshape(b, -1)).view(b, n, n)
    return _with_schur(inverse, index, pivot.amin(-1), total)


def _downdated(whole: Tensor, free: Tensor, size: int) -> Tensor:
    """N − N_·C N_CC⁻¹ N_C·, N the inverse of M and C the samples that are not free, at most ``size``."""
    b, k, n = free.shape
    if not size:
        return whole[:, None].expand(b, k, n, n)
    real, index = (~free).to(torch.uint8).topk(size, dim=-1)
    mask = real.to(whole.dtype)
    wide, square = index[..., None].expand(b, k, size, n), index[..., None, :].expand(b, k, size, size)
    rows = whole[:, None].expand(b, k, n, n).gather(2, wide) * mask[..., None]
    corner = rows.gather(3, square) * mask[..., None, :]
    corner.diagonal(dim1=-2, dim2=-1).add_(1 - mask)
    half = torch.linalg.solve_triangular(_cholesky(corner)[0], rows, upper=False)
    inside = free.to(whole.dtype)
    return torch.baddbmm(
        whole[:, None].expand(b, k, n, n).reshape(b * k, n, n), half.flatten(0, 1).mT, half.flatten(0, 1), alpha=-1
    ).view(b, k, n, n) * (inside[..., None] * inside[..., None, :])
