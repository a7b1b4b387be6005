"""Closed-form proximal operators and projections, differentiable and free of division by zero."""

import torch
from torch import Tensor


def block_soft_threshold(V: Tensor, threshold: Tensor, dim: int = -1) -> Tensor:
    """Shrink every vector along ``dim`` towards zero: ``v · max(0, 1 − threshold/‖v‖)``, and 0 at v = 0.

    ``V`` has any shape; ``threshold`` ≥ 0 broadcasts against ``V`` with ``dim`` reduced to size one. It is the
    proximal operator of ``threshold · ‖v‖`` (Yuan and Lin, 2006).
    """
    squared = V.square().sum(dim, keepdim=True)
    active = squared > threshold.square()
    # The double where keeps the root away from 0 in the branch that is not taken, whose derivative would be NaN.
    norm = torch.where(active, squared, 1.0).sqrt()
    # A threshold of zero is the identity, at v = 0 too, where its derivative must be one.
    return V * torch.where(active, 1 - threshold / norm, (threshold == 0).to(V.dtype))


def soft_threshold(V: Tensor, threshold: Tensor) -> Tensor:
    """Shrink every entry towards zero: ``sign(v)·max(0, |v| − threshold)``."""
    return V - torch.where(threshold > 0, V.clamp(-threshold, threshold), 0.0)


def project_simplex(v: Tensor, total: Tensor, allowed: Tensor, dim: int = -1) -> Tensor:
    """Project on ``{λ ≥ 0, Σ λ = total, λ = 0 where not allowed}`` along ``dim``.

    ``total`` ≥ 0 broadcasts with ``dim`` reduced to size one; ``allowed`` is boolean, true somewhere along ``dim``.
    The projection is ``max(0, v − t)``, and t = max_r (sum of the r largest entries − total)/r
    (Held, Wolfe and Crowder, 1974).
    """
    if not v.shape[dim]:
        # Nothing is in use where everything is NaN: that is for the status to say.
        return v
    v = torch.where(allowed, v, -torch.inf)
    # A constant changes nothing; beside the largest entry, entries and total are of one size, and none is rounded away.
    v = v - v.detach().amax(dim, keepdim=True)
    descending = v.sort(dim=dim, descending=True).values
    shape = [1] * v.dim()
    shape[dim] = -1
    counts = torch.arange(1, v.shape[dim] + 1, device=v.device, dtype=v.dtype).reshape(shape)
    threshold = ((descending.cumsum(dim) - total) / counts).amax(dim, keepdim=True)
    return (v - threshold).clamp_min(0)
