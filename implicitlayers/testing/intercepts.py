"""The constants that minimise a loss when added to scores; float64."""

import torch
from torch import Tensor

from .losses import Huber, Loss, Squared


def best(loss: Loss, Z: Tensor, Y: Tensor, weight: Tensor, start: Tensor | None = None) -> Tensor:
    """Argmin over b (..., k) of Σᵢ s̄ᵢ ℓ(zᵢ + b; yᵢ), for smooth losses; of the multinomial the one with mean zero."""
    if isinstance(loss, Squared):
        return (weight[..., None] * (Y - Z)).sum(-2)
    if isinstance(loss, Huber):
        return _by_bisection(loss, Z, Y, weight)
    return _by_newton(loss, Z, Y, weight, start)


def _by_bisection(loss: Huber, Z: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
    """The zero of b ↦ Σ s̄ θ(z + b), which falls."""
    residual = Y - Z
    low, high = residual.amin(-2), residual.amax(-2)
    for _ in range(100):
        middle = (low + high) / 2
        falls = (weight[..., None] * loss.dual_point(Z + middle[..., None, :], Y)).sum(-2) > 0
        low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
    return (low + high) / 2


def _by_newton(loss: Loss, Z: Tensor, Y: Tensor, weight: Tensor, start: Tensor | None) -> Tensor:
    """Newton's method with halved steps on the k numbers of a multinomial's intercept."""
    mean = (weight[..., None] * Y).sum(-2)
    b = mean.clamp_min(1e-12).log() if start is None else start

    def value(b: Tensor) -> Tensor:
        return (weight * loss.value(Z + b[..., None, :], Y)).sum(-1)

    for _ in range(60):
        P = (Z + b[..., None, :]).softmax(-1)
        gradient = (weight[..., None] * (P - Y)).sum(-2)
        H = (weight[..., None] * P).sum(-2).diag_embed() - P.mT @ (weight[..., None] * P)
        step = -(torch.linalg.pinv(H, hermitian=True) @ gradient[..., None])[..., 0]
        step = step.clamp(-5, 5)
        before = value(b)
        for _ in range(20):
            worse = value(b + step) > before + 1e-16
            if not worse.any():
                break
            step = torch.where(worse[..., None], step / 2, step)
        b = torch.where((value(b + step) <= before + 1e-16)[..., None], b + step, b)
    return b - b.mean(-1, keepdim=True)
