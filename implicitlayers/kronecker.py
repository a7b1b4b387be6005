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
# samples that are not free, what these take away from the inverse of the whole M is least work, if its pivots are above
# this; else, below the second share of free samples, those are packed.
FEW_SAMPLES, DOWNDATE_BELOW, WHOLE_PIVOT, PACK_BELOW = 32, 0.4, 1e-5, 0.8
# Inverses of blocks and of their sum multiply what rounding does: below this pivot another method is better.
REGULAR_PIVOT = 1e-6


class Blocks(NamedTuple):
    """Per class the inverse of M on its free samples: ``blocks`` (..., k, s, s), the samples' numbers being ``samples``
    (..., k, s).

    Smaller blocks than others are padded with zeros, at any sample; blocks of all n samples are in order.
    """

    blocks: Tensor
    samples: Tensor

    @property
    def size(self) -> int:
        """The s of the shapes."""
        return self.samples.shape[-1]

    def norm(self) -> Tensor:
        """The largest of the inverses' Frobenius norms, (...)."""
        return self.blocks.square().sum((-2, -1)).amax(-1).sqrt()

    def resized(self, size: int, n: int) -> "Blocks":
        """The same with blocks of a larger ``size``, of ``n`` samples at most."""
        missing, pad = size - self.size, torch.nn.functional.pad
        if not missing:
            return self
        if size < n:
            return Blocks(pad(self.blocks, (0, missing, 0, missing)), pad(self.samples, (0, missing)))
        across = self.samples[..., None, :].expand(self.blocks.shape)
        rows = self.blocks.new_zeros(*self.samples.shape, n).scatter_add(-1, across, self.blocks)
        down = self.samples[..., None].expand(*self.samples.shape, n)
        whole = rows.new_zeros(*rows.shape[:-2], n, n).scatter_add(-2, down, rows)
        return Blocks(whole, _in_order(whole[..., 0]))

    def times(self, C: Tensor) -> Tensor:
        """The inverses times C (..., k, n), zero off the face.

        Rows from the left: in batches several times faster than columns from the right.
        """
        whole = self.size == C.shape[-1]
        rows = C if whole else C.gather(-1, self.samples)
        made = torch.bmm(rows.flatten(0, -2).unsqueeze(1), self.blocks.flatten(0, -3)).view(rows.shape)
        return made if whole else torch.zeros_like(C).scatter_add(-1, self.samples, made)


class Downdate(NamedTuple):
    """Per class the inverse is N − H_cᵀH_c: ``whole`` N (..., n, n) that of M, ``half`` H (..., k, s, n), padded with
    rows of zeros; ``inside`` (..., k, n), one where an entry is free. In a batch of faces much less to make and to read
    than the inverses.
    """

    whole: Tensor
    half: Tensor
    inside: Tensor

    @property
    def size(self) -> int:
        """The s of the shapes."""
        return self.half.shape[-2]

    def norm(self) -> Tensor:
        """The largest of the inverses' traces, which bound their norms, (...)."""
        taken = self.half.square().sum((-2, -1))
        return (self.whole.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - taken).amax(-1)

    def resized(self, size: int, n: int) -> "Downdate":
        """The same with a larger ``size``."""
        return self._replace(half=torch.nn.functional.pad(self.half, (0, 0, 0, size - self.size)))

    def explicit(self) -> Blocks:
        """The inverses themselves."""
        inside = self.inside[..., None] * self.inside[..., None, :]
        return Blocks((self.whole.unsqueeze(-3) - self.half.mT @ self.half) * inside, _in_order(self.inside))

    def times(self, C: Tensor) -> Tensor:
        """The inverses times C (..., k, n)."""
        half, rows = self.half.flatten(0, -3), (C @ self.whole).flatten(0, -2).unsqueeze(1)
        through = torch.bmm(C.flatten(0, -2).unsqueeze(1), half.mT)
        # Off the face there would be rounding.
        return torch.baddbmm(rows, through, half, alpha=-1).view(C.shape) * self.inside


class FaceFactor(NamedTuple):
    """The ``inverses`` of M per class; ``schur`` (..., n, n), the Cholesky factor of their sum; ``exists`` (...),
    whether all of them do.
    """

    inverses: Blocks | Downdate
    schur: Tensor
    exists: Tensor

    @property
    def regular(self) -> Tensor:
        """False where M on the face is singular or nearly so, (...).

        Where one of the inverses is large the samples that cause it nearly span each other, and so the sum of the
        inverses, large along some of their combinations and not along others, has a small pivot, too.
        """
        return self.exists & (_least_pivot(self.schur) > REGULAR_PIVOT)

    def solve(self, C: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The minimiser on the face, and its multipliers (..., 1, n); ``total`` None is zero: a step within it."""
        unconstrained = self.inverses.times(C)
        rhs = unconstrained.sum(-2, keepdim=True)
        multiplier = torch.cholesky_solve((rhs if total is None else rhs + total).mT, self.schur).mT
        # Not the inverses times the difference: columns would miss their totals by what rounding does to that product.
        return self.inverses.times(multiplier.expand_as(C)) - unconstrained, multiplier


def alike(first: FaceFactor, second: FaceFactor) -> tuple[FaceFactor, FaceFactor]:
    """The two in one form and size, so that elements of one can take the place of those of the other."""
    one, other = first.inverses, second.inverses
    if type(one) is not type(other):
        one, other = (each.explicit() if isinstance(each, Downdate) else each for each in (one, other))
    size, n = max(one.size, other.size), first.schur.shape[-1]
    return first._replace(inverses=one.resized(size, n)), second._replace(inverses=other.resized(size, n))


def _in_order(like: Tensor) -> Tensor:
    """The numbers (..., k, n) of all samples, in the shape of ``like``."""
    return torch.arange(like.shape[-1], device=like.device).expand(like.shape)


def invert_whole(M: Tensor, free: Tensor) -> Tensor:
    """What faces of M (b, n, n) share, its inverse; empty (b, 0, 0) where that is of no use for one like ``free``."""
    n = free.shape[-1]
    if n > FEW_SAMPLES and n - int(free.sum(-1).amin()) <= DOWNDATE_BELOW * n:
        inverse, lower, exists = _inverse(M)
        if (exists & (_least_pivot(lower) > WHOLE_PIVOT)).all():
            return inverse
    return M[:, :0, :0]


def factorise_face(M: Tensor, free: Tensor, whole: Tensor | None = None) -> FaceFactor:
    """Factor M (b, n, n) on the entries that are ``free`` (b, k, n), at least one per column.

    ``whole`` is `invert_whole` of M; None makes that here.
    """
    n = free.shape[-1]
    if n > FEW_SAMPLES:
        whole = invert_whole(M, free) if whole is None else whole
        fewest, most = (int(count) for count in free.sum(-1).aminmax())
        if whole.shape[-1] and n - fewest <= DOWNDATE_BELOW * n:
            return _downdated(whole, free, n - fewest)
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
    return _with_schur(Blocks(inverse, _in_order(free)), total, exists)


def _with_schur(inverses: Blocks | Downdate, total: Tensor, exist: Tensor) -> FaceFactor:
    schur, last = cholesky_where_it_exists(total)
    return FaceFactor(inverses, schur, exist.all(-1) & last)


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
    return _with_schur(Blocks(inverse, index), total, exists)


def _downdated(whole: Tensor, free: Tensor, size: int) -> FaceFactor:
    """By N − N_·C N_CC⁻¹ N_C·, N the inverse of M and C the samples that are not free, at most ``size``."""
    b, k, n = free.shape
    real, index = (~free).to(torch.uint8).topk(size, dim=-1)
    mask = real.to(whole.dtype)
    rows = whole[:, None].expand(b, k, n, n).gather(2, index[..., None].expand(b, k, size, n)) * mask[..., None]
    corner = rows.gather(3, index[..., None, :].expand(b, k, size, size)) * mask[..., None, :]
    corner.diagonal(dim1=-2, dim2=-1).add_(1 - mask)
    lower, exists = cholesky_where_it_exists(corner)
    half = torch.linalg.solve_triangular(lower, rows, upper=False)
    stacked = half.flatten(1, 2)
    total = torch.baddbmm(whole, stacked.mT, stacked, beta=k, alpha=-1)
    return _with_schur(Downdate(whole, half, free.to(whole.dtype)), total, exists)
