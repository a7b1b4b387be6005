"""The kernel X C Xᵀ of all samples and classes, for the derivative C of a proximal operator."""

import torch
from torch import Tensor

from .curvature import Curvature
from .products import gram

# Groups, and features, taken at a time: this many, or more where X is so large that they stay a small share of it.
WIDTH, SHARE = 256, 4
# Entries of what is multiplied at a time for a sum over samples.
BLOCK_ENTRIES = 2**22


def kernel(X: Tensor, bend: Curvature, scale: Tensor) -> Tensor:
    """K = X C Xᵀ with C = scale·B, (b, n·k, n·k), samples before classes; beside it nothing is larger than X.

    ``X`` (b, n, S); B the operator ``bend`` on (S, k); ``scale`` (b, S or 1, 1), equal within a group. With
    B = diag(a) + Σ_g (b_g − a_g) u_g u_gᵀ every class has a kernel of its own, and every group adds one product:

        K_(ic),(i'c') = [c = c'] Σ_j x_ij x_i'j scale_j a_jc + Σ_g U_(ic),g U_(i'c'),g β_g,
        U_(ic),g = Σ_{j: (j,c) in g} x_ij u_jc,    β_g = scale_g (b_g − a_g), negative for a projection.
    """
    K = _by_class(X, (bend.across * scale).expand_as(bend.across))
    if (bend.unit != 0).any():
        _add_groups(K, X, bend, scale)
    return K


def _by_class(X: Tensor, weight: Tensor) -> Tensor:
    """The block-diagonal part; classes that are weighted alike share one product."""
    b, n, k = *X.shape[:2], weight.shape[-1]
    if (weight == weight[..., :1]).all():
        blocks = gram(X, weight[..., 0])[..., None].expand(b, n, n, k)
    else:
        blocks = torch.stack([gram(X, w) for w in weight.unbind(-1)], dim=-1)
    return blocks.diag_embed().transpose(2, 3).reshape(b, n * k, n * k)


def _add_groups(K: Tensor, X: Tensor, bend: Curvature, scale: Tensor) -> None:
    """Add U diag(β) Uᵀ in place, for a range of groups at a time."""
    b, S, k = bend.unit.shape
    # A group's number in an entry where it has no part is not looked at.
    group = torch.where(bend.unit != 0, bend.group, -1)
    change = scale * (bend.along - bend.across) * bend.unit.square()
    beta = change.new_zeros(b, int(group.amax()) + 1)
    beta.scatter_add_(-1, group.clamp_min(0).flatten(1), change.flatten(1))
    width = max(WIDTH, S // (SHARE * k))
    for first, some in enumerate(beta.split(width, dim=-1)):
        place = group - first * width
        place = torch.where(place < some.shape[-1], place, -1)
        if (place >= 0).any():
            U = _sums_over_groups(X, bend.unit, place, some.shape[-1], width)
            K += gram(U, some)


def _sums_over_groups(X: Tensor, unit: Tensor, place: Tensor, groups: int, width: int) -> Tensor:
    """Σ_j x_ij u_jc over the entries at ``place`` (b, S, k) in 0..groups − 1, (b, n·k, groups); elsewhere it is −1."""
    b, n, _ = X.shape
    k = unit.shape[-1]
    U = unit.new_zeros(b, n, k, groups)
    parts = (t.split(width, dim=-1) for t in (X, unit.mT, place.mT))
    for x, u, index in zip(*parts, strict=True):
        if (index >= 0).any():
            terms = x[:, :, None] * torch.where(index >= 0, u, 0.0)[:, None]
            U.scatter_add_(-1, index.clamp_min(0)[:, None].expand_as(terms), terms)
    return U.flatten(1, 2)


def block_gram(X: Tensor, blocks: Tensor) -> Tensor:
    """Σᵢ xᵢxᵢᵀ ⊗ Bᵢ, (b, S·c, S·c), features before classes, for X (b, n, S) and ``blocks`` B (b, n, c, c).

    Some samples at a time; nothing of the size of n·c by S·c is formed.
    """
    b, S, c = len(X), X.shape[-1], blocks.shape[-1]
    total = blocks.new_zeros(b, S, c * S * c)
    size = max(1, BLOCK_ENTRIES // max(1, b * S * c * c))
    for x, B in zip(X.split(size, 1), blocks.split(size, 1), strict=True):
        x = x.to(blocks.dtype)
        total += x.mT @ (x[:, :, None, :, None] * B[:, :, :, None, :]).flatten(2)
    return total.view(b, S * c, S * c)


def sandwiched(K: Tensor, root: Tensor) -> Tensor:
    """LᵀKL for a symmetric K and a block-diagonal L, whose blocks are ``root`` (b, n, k, k), sample by sample."""
    once = (root.mT @ K.unflatten(1, root.shape[1:3])).flatten(1, 2).mT
    return (root.mT @ once.unflatten(1, root.shape[1:3])).flatten(1, 2)
