"""The constants that minimise a loss when added to scores; float64."""

import torch
from torch import Tensor

from .losses import Huber, Loss, Squared


def best(loss: Loss, Z: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
    """Argmin over b (..., k) of Σᵢ s̄ᵢ ℓ(zᵢ + b; yᵢ), for smooth losses; of the multinomial the one with mean zero."""
    if isinstance(loss, Squared):
        return (weight[..., None] * (Y - Z)).sum(-2)
    if isinstance(loss, Huber):
        return _by_bisection(loss, Z, Y, weight)
    return _by_newton(Z, Y, weight)


def _by_bisection(loss: Huber, Z: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
    """The zero of b ↦ Σ s̄ θ(z + b), which falls."""
    residual = Y - Z
    low, high = residual.amin(-2), residual.amax(-2)
    for _ in range(100):
        middle = (low + high) / 2
        falls = (weight[..., None] * loss.dual_point(Z + middle[..., None, :], Y)).sum(-2) > 0
        low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
    return (low + high) / 2


def _by_newton(Z: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
    """Of the multinomial, for scores divided by a temperature that falls to one.

    The scores are small at first, and each halving of the temperature leaves the minimiser near the next.
    """
    target = (weight[..., None] * Y).sum(-2)
    # A class without any sample has no best constant: one of a probability that vanishes stands for it.
    b = target.clamp_min(1e-12).log()
    spread = (Z.amax((-2, -1)) - Z.amin((-2, -1)))[..., None]
    temperature = (spread / 4).clamp(1, 2.0**60)
    b = _damped_newton(Z / temperature[..., None], target, weight, b)
    while (temperature > 1).any():
        cooler = (temperature / 2).clamp_min(1)
        b = _damped_newton(Z / cooler[..., None], target, weight, b * temperature / cooler)
        temperature = cooler
    return b - b.mean(-1, keepdim=True)


def _damped_newton(Z: Tensor, target: Tensor, weight: Tensor, b: Tensor) -> Tensor:
    """Argmin over b of the convex Σᵢ s̄ᵢ log Σ exp(zᵢ + b) − ⟨target, b⟩, by Levenberg–Marquardt with backtracking.

    With the gradient's length for damping no step is longer than one, across which no curvature changes by more than a
    factor; and what the damping adds vanishes with the gradient.
    """

    def value(b: Tensor) -> Tensor:
        return (weight * (Z + b[..., None, :]).logsumexp(-1)).sum(-1) - (target * b).sum(-1)

    k = b.shape[-1]
    # Equal constants change nothing: their direction gets a curvature of its own, and no step.
    gauge, identity = torch.full((k, k), 1 / k, dtype=b.dtype), torch.eye(k, dtype=b.dtype)
    for _ in range(100):
        P = (Z + b[..., None, :]).softmax(-1)
        gradient = (weight[..., None] * P).sum(-2) - target
        gradient = gradient - gradient.mean(-1, keepdim=True)
        size = gradient.norm(dim=-1)
        if not (size > 1e-15).any():
            break
        H = (weight[..., None] * P).sum(-2).diag_embed() - P.mT @ (weight[..., None] * P)
        damped = H + gauge + (size + 1e-30)[..., None, None] * identity
        step = -torch.linalg.solve_ex(damped, gradient[..., None])[0][..., 0]
        step = step - step.mean(-1, keepdim=True)
        before, slope = value(b), (gradient * step).sum(-1)
        allowed = before + 1e-15 * (1 + before.abs())
        length = torch.ones_like(size)
        for _ in range(30):
            good = value(b + length[..., None] * step) <= allowed + 1e-4 * length * slope
            if good.all():
                break
            length = torch.where(good, length, length / 2)
        b = torch.where(good[..., None], b + length[..., None] * step, b)
        if not good.any():
            break
    return b
