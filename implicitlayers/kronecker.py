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

# Up to so many samples an inverse per class costs less than telling how to save one. Beyond, below the first share of
# free samples the free ones are packed; below the second share of the others, and where M is this well conditioned, the
# inverse of the whole M is made once, and for every class less what its others take away.
FEW_SAMPLES = 32
PACK_BELOW, DOWNDATE_BELOW, DOWNDATE_PIVOT = 0.8, 0.4, 1e-6
# Inverses of blocks and of their sum multiply what rounding does: below this pivot another method is better.
REGULAR_PIVOT = 1e-6


class FaceFactor(NamedTuple):
    """``blocks`` (..., k, s, s), per class the inverse of M on its free samples, whose numbers are ``samples``
    (..., k, s); ``schur`` (..., n, n), the Cholesky factor of the sum of the inverses; ``exists`` (...), whether all of
    them do.

    Smaller blocks than others are padded with zeros, at any sample; blocks of all n samples are in order.
    """

    blocks: Tensor
    samples: Tensor
    schur: Tensor
    exists: Tensor

    @property
    def regular(self) -> Tensor:
        """False where M on the face is singular or nearly so, (...).

        Where one of the inverses is large the samples that cause it nearly span each other, and so the sum of the
        inverses, large along some of their combinations and not along others, has a small pivot, too.
        """
        return self.exists & (_least_pivot(self.schur) > REGULAR_PIVOT)

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
        """The minimiser on the face, and its multipliers (..., 1, n); ``total`` None is zero: a step within it.

        Rows from the left: in batches several times faster than columns from the right.
        """
        blocks = self.blocks.flatten(0, -3)
        unconstrained = torch.bmm(self._packed(C), blocks)
        rhs = self._unpacked(unconstrained, C).sum(-2, keepdim=True)
        multiplier = torch.cholesky_solve((rhs if total is None else rhs + total).mT, self.schur).mT
        point = torch.baddbmm(unconstrained, self._packed(multiplier.expand_as(C)), blocks, beta=-1)
        return self._unpacked(point, C), multiplier

    def _packed(self, C: Tensor) -> Tensor:
        """The free entries of C (..., k, n), as rows (k', 1, s)."""
        rows = C if self._is_whole() else C.gather(-1, self.samples)
        return rows.flatten(0, -2).unsqueeze(1)

    def _unpacked(self, rows: Tensor, like: Tensor) -> Tensor:
        """Back to the shape of C; zero off the face."""
        if self._is_whole():
            return rows.view(like.shape)
        return torch.zeros_like(like).scatter_add(-1, self.samples, rows.view(self.samples.shape))

    def _is_whole(self) -> bool:
        return self.samples.shape[-1] == self.schur.shape[-1]


def in_order(like: Tensor) -> Tensor:
    """The numbers (..., k, n) of all samples, in the shape of ``like``."""
    return torch.arange(like.shape[-1], device=like.device).expand(like.shape)


def factorise_face(M: Tensor, free: Tensor) -> FaceFactor:
    """Factor M (b, n, n) on the entries that are ``free`` (b, k, n), at least one per column."""
    n = free.shape[-1]
    if n > FEW_SAMPLES:
        fewest, most = (int(count) for count in free.sum(-1).aminmax())
        if n - fewest <= DOWNDATE_BELOW * n:
            whole, lower, exists = _inverse(M)
            if (exists & (_least_pivot(lower) > DOWNDATE_PIVOT)).all():
                inverse = _downdated(whole, free, n - fewest)
                return _with_schur(inverse, in_order(free), exists, inverse.sum(1))
        # No entry at all is free where Λ has overflowed; the face is then singular.
        if 0 < most <= PACK_BELOW * n:
            return _packed(M, free, most)
    return masked_factor(M, free)


def masked_factor(M: Tensor, free: Tensor, diagonal: Tensor | None = None, pinned: Tensor | None = None) -> FaceFactor:
    """The same, of M plus a ``diagonal`` (b, k, n) where it is free, without packing.

    Samples that are ``pinned`` (b, n) have no free entry.
    """
    mask = free.to(M.dtype)
    off = 1 - mask
    blocks = M[:, None] * (mask[..., None] * mask[..., None, :])
    blocks.diagonal(dim1=-2, dim2=-1).add_(off if diagonal is None else torch.where(free, diagonal, 1.0))
    inverse, _, exists = _inverse(blocks)
    inverse.diagonal(dim1=-2, dim2=-1).sub_(off)
    total = inverse.sum(1)
    if pinned is not None:
        total.diagonal(dim1=-2, dim2=-1).add_(pinned.to(M.dtype))
    return _with_schur(inverse, in_order(free), exists.all(-1), total)


def _with_schur(blocks: Tensor, samples: Tensor, exist: Tensor, total: Tensor) -> FaceFactor:
    schur, last = cholesky_where_it_exists(total)
    return FaceFactor(blocks, samples, schur, exist & last)


def _inverse(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse, the Cholesky factor, or the identity, and whether it exists."""
    lower, exists = cholesky_where_it_exists(M)
    return torch.cholesky_inverse(lower), lower, exists


def _least_pivot(lower: Tensor) -> Tensor:
    """The smallest share of a diagonal entry that is left as its pivot in a Cholesky factor, (...)."""
    squares = lower.square()
    return (squares.diagonal(dim1=-2, dim2=-1) / squares.sum(-1)).amin(-1)


def _packed(M: Tensor, free: Tensor, size: int) -> FaceFactor:
    """By systems of the ``size`` of the largest face."""
    b, n = free.shape[0], free.shape[-1]
    real, index = free.to(torch.uint8).topk(size, dim=-1)
    mask = real.to(M.dtype)
    place = index[..., :, None] * n + index[..., None, :]
    blocks = M.reshape(b, n * n).gather(1, place.view(b, -1)).view(place.shape) * (mask[..., None] * mask[..., None, :])
    blocks.diagonal(dim1=-2, dim2=-1).add_(1 - mask)
    inverse, _, exists = _inverse(blocks)
    inverse.diagonal(dim1=-2, dim2=-1).sub_(1 - mask)
    total = M.new_zeros(b, n * n).scatter_add_(1, place.view(b, -1), inverse.mT.reshape(b, -1)).view(b, n, n)
    return _with_schur(inverse, index, exists.all(-1), total)


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
    half = torch.linalg.solve_triangular(cholesky_where_it_exists(corner)[0], rows, upper=False)
    inside = free.to(whole.dtype)
    return torch.baddbmm(
        whole[:, None].expand(b, k, n, n).reshape(b * k, n, n), half.flatten(0, 1).mT, half.flatten(0, 1), alpha=-1
    ).view(b, k, n, n) * (inside[..., None] * inside[..., None, :])
