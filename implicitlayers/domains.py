"""Where a dual variable λ = y − θ may lie, per sample: anywhere, or in a simplex of classes."""

from typing import NamedTuple

import torch
from torch import Tensor

from .prox import project_simplex

# A λ below this is rounding: the sample does not touch that class.
SMALLEST_LAMBDA = 1e-12


class Edges(NamedTuple):
    """Directions in which λ can move both ways: edge e moves sample ``sample`` (b, E) along ``direction`` (b, E, k).

    Elements with fewer edges than others are padded with directions of zero.
    """

    sample: Tensor
    direction: Tensor


class Free(NamedTuple):
    """No constraint."""

    def project(self, Lambda: Tensor) -> Tensor:
        """The identity."""
        return Lambda

    def edges(self, Lambda: Tensor, present: Tensor) -> Edges:
        """One edge per sample and target; none for samples that are not present (b, n)."""
        b, n, k = Lambda.shape
        sample = torch.arange(n, device=Lambda.device).repeat_interleave(k).expand(b, -1)
        unit = torch.eye(k, dtype=Lambda.dtype, device=Lambda.device).repeat(n, 1)
        return Edges(sample, unit * present.repeat_interleave(k, dim=-1)[..., None])


class Simplex(NamedTuple):
    """λ ≥ 0, Σ λ = 1, zero where not ``allowed`` (..., n, k), or (..., 1, k) for all samples alike."""

    allowed: Tensor

    def project(self, Lambda: Tensor) -> Tensor:
        """The nearest point, row by row, its rounding-sized entries exactly zero: what is positive is the face."""
        total = torch.ones_like(Lambda[..., :1])
        Lambda = project_simplex(Lambda, total, self.allowed.expand_as(Lambda))
        Lambda = torch.where(Lambda > SMALLEST_LAMBDA, Lambda, 0.0)
        return Lambda / Lambda.sum(-1, keepdim=True)

    def edges(self, Lambda: Tensor, present: Tensor) -> Edges:
        """On the face of Λ: from every sample's largest λ to each of its other positive ones."""
        k = Lambda.shape[-1]
        largest = Lambda.argmax(-1)
        end = (Lambda > 0) & present[..., None]
        end = end.scatter(-1, largest[..., None], False).flatten(-2)
        size = int(end.sum(-1).amax()) if end.numel() else 0
        real, index = end.to(torch.uint8).topk(size, dim=-1)
        sample = index // k
        unit = torch.eye(k, dtype=Lambda.dtype, device=Lambda.device)
        direction = unit[index % k] - unit[largest.gather(-1, sample)]
        return Edges(sample, direction * real[..., None])


Domain = Free | Simplex
