"""Local search over supports: the best exchange of one feature for another, as long as it improves."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..linear import factorise
from . import clock
from .quadratic import Quadratic

# A swap must gain this share of the objective at zero; less is rounding.
IMPROVEMENT = 1e-12
# What is left of a feature's squared norm beside the others in a support: below this share it depends on them.
DEPENDENT = 1e-10


class Chosen(NamedTuple):
    """A support of at most s features: ``columns`` (b, s), of which those that are not ``filled`` do not count.

    ``gain`` (b,) is by how much it lowers the objective at zero, ``next_gain`` (b,) by how much the best swap would
    lower it further.
    """

    columns: Tensor
    filled: Tensor
    gain: Tensor
    next_gain: Tensor

    def at(self, index: Tensor) -> "Chosen":
        """The elements of that index."""
        return Chosen(*(part[index] for part in self))

    def better(self, other: "Chosen", margin: Tensor) -> "Chosen":
        """Element by element the one that gains more, by more than ``margin`` (b,) for the other to be taken."""
        use = other.gain > self.gain + margin
        return Chosen(
            *(torch.where(use if a.dim() == 1 else use[:, None], b, a) for a, b in zip(self, other, strict=True))
        )


def improve(quadratic: Quadratic, columns: Tensor, filled: Tensor) -> Chosen:
    """Swap until no swap improves; filling an empty slot is a swap too, so from nothing it selects forward."""
    threshold = IMPROVEMENT * quadratic.null
    kept = Chosen(columns.clone(), filled & False, torch.full_like(threshold, -torch.inf), torch.zeros_like(threshold))
    active = torch.arange(len(columns), device=columns.device)
    while len(active) and not clock.is_over():
        part = quadratic if len(active) == len(threshold) else quadratic.at(active)
        swap = best_swap(part, columns, filled)
        # A swap that does not keep its promise is a tie, undone; a start with dependent features begins from nothing.
        better = ~swap.dependent & (swap.gain_before > kept.gain[active] + threshold[active] / 2)
        again = swap.dependent & kept.gain[active].isinf()
        kept.next_gain[active] = 0.0
        for whole, new in zip(kept, (columns, filled, swap.gain_before, swap.gain), strict=True):
            whole[active[better]] = new[better]
        go = again | (better & (swap.gain > threshold[active]))
        columns, filled = swap.carried_out(columns, filled & ~again[:, None], ~again)
        active, columns, filled = active[go], columns[go], filled[go]
    return kept


class Swap(NamedTuple):
    """The best swap of a support, all (b,): by ``gain`` over ``gain_before``, it puts ``feature`` into ``slot``.

    ``dependent``: the features of the support are not independent, and the rest says nothing.
    """

    gain: Tensor
    gain_before: Tensor
    slot: Tensor
    feature: Tensor
    dependent: Tensor

    def carried_out(self, columns: Tensor, filled: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """The supports after the swap, in the elements ``where`` (b,)."""
        slot = (torch.arange(columns.shape[-1], device=columns.device) == self.slot[:, None]) & where[:, None]
        return torch.where(slot, self.feature[:, None], columns), filled | slot


def best_swap(q: Quadratic, columns: Tensor, filled: Tensor) -> Swap:
    """Look at all swaps at once.

    With B the inverse of A = XᵀX + l2·I on the support, W = B·XᵀY the coefficients, R_j = X_jᵀ(Y − XW), T = XᵀX_S·B and
    D_j = A_jj − (what the support explains), taking feature i out makes them R_j + T_ji·W_i/B_ii and D_j + T_ji²/B_ii,
    and costs ‖W_i‖²/(2·B_ii); putting j in gains ‖R_j‖²/(2·D_j). An empty slot is a zero column: W_i = 0 and T_ji = 0.
    """
    X_S = q.on(columns, filled)
    diagonal = q.l2[:, None] + (~filled).to(X_S.dtype)
    root, dependent = inverse_root(X_S.mT @ X_S + diagonal.diag_embed())
    B = root @ root.mT
    inverse = B.diagonal(dim1=1, dim2=2)[:, None, :]
    C_S = X_S.mT @ q.Y
    W = B @ C_S
    R = q.X.mT @ (q.Y - X_S @ W)
    U = q.X.mT @ X_S
    T = U @ B
    norms = q.X.square().sum(1) + q.l2[:, None]
    pushed = T / inverse
    cost = W.square().sum(-1)[:, None, :]
    correlation = R.square().sum(-1)[..., None] + 2 * pushed * (R @ W.mT) + pushed.square() * cost
    left = (norms - (U * T).sum(-1))[..., None] + T * pushed
    allowed = (left > DEPENDENT * norms[..., None]) & ~_mask(columns, filled, norms)[..., None]
    gains = torch.where(allowed, correlation / torch.where(allowed, left, 1.0) - cost / inverse, -torch.inf) / 2
    best, index = gains.flatten(1).max(-1)
    size = columns.shape[-1]
    return Swap(best, (C_S * W).sum((1, 2)) / 2, index % size, index // size, dependent)


def inverse_root(A: Tensor) -> tuple[Tensor, Tensor]:
    """C with A⁻¹ = C Cᵀ, and which A are singular, whatever the units of the features: with a diagonal of ones."""
    scale = A.diagonal(dim1=1, dim2=2).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)[..., None]
    factor = factorise(A / (scale * scale.mT))
    return factor.root / scale, factor.singular


def _mask(columns: Tensor, filled: Tensor, like: Tensor) -> Tensor:
    """The support as boolean (b, m)."""
    mask = torch.zeros_like(like)
    return mask.scatter_add(-1, columns, filled.to(like.dtype)) > 0
