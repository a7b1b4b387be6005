"""Correlated latents, and what a dataset that pairs latents with observations offers.

Lachapelle et al., "Synergies between Disentanglement and Sparsity" (ICML 2023), experiments on 3D Shapes: factors are
standardised, and images are drawn with probability proportional to the density of N(0, Σ) at their factors, where
Σ_ij = correlation for i ≠ j and Σ_ii = 1.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

HALF_WIDTH = math.sqrt(3)
"""Standardised factors lie in [-√3, √3]: the uniform law of mean 0 and variance 1."""


class Pool(NamedTuple):
    """Observations and the latents they show, row by row.

    Attributes:
        observations: uint8 (n, channels, height, width) for images, float32 (n, n_observed) for vectors.
        latents: float32 (n, n_factors), standardised: mean 0 and variance 1 under the uniform law, see HALF_WIDTH.
    """

    observations: Tensor
    latents: Tensor


class PoolSource(Protocol):
    """A dataset of latents and observations: pools to train on and pools to evaluate on.

    The same arguments give the same pool; pools of different seeds are independent of one another.
    """

    @property
    def factor_names(self) -> tuple[str, ...]:
        """What the columns of the latents are."""
        ...

    def pool(self, n: int, *, correlation: float, seed: int = 0) -> Pool:
        """``n`` rows with latents from the correlated law, :func:`correlated_latents`; correlation 0 is not uniform."""
        ...

    def uniform_pool(self, n: int, *, seed: int = 0) -> Pool:
        """``n`` rows with latents from the uniform law, :func:`uniform_latents`: for evaluation."""
        ...


def correlated_latents(n: int, n_factors: int, *, correlation: float, seed: int = 0) -> Tensor:
    """Draw from N(0, Σ) restricted to the box [-√3, √3]^n_factors, the range of standardised factors; exact.

    The density is proportional to N(z; 0, Σ) inside the box and zero outside, which is what drawing uniform images
    with probability proportional to N(z; 0, Σ) gives in the limit of infinitely many images. Cutting the tails off
    leaves every factor a standard deviation below 1, and a measured correlation below ``correlation``: for six factors
    and ``correlation`` 0.9, they are 0.73 and 0.82.

    Rejection sampling: a draw lies in the box with probability at least P(|z_1| ≤ √3)^n_factors = 0.917^n_factors
    (Šidák's inequality), 59 % for six factors, more for correlated ones.

    Args:
        n: number of draws.
        n_factors: length of each.
        correlation: in [0, 1).
        seed: of the random numbers.

    Returns:
        float32 (n, n_factors).

    Raises:
        ValueError: ``n`` or ``n_factors`` below 1, or ``correlation`` outside [0, 1).
    """
    _check_size("n", n)
    _check_size("n_factors", n_factors)
    check_correlation(correlation)
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor] = []
    missing = n
    while missing > 0:
        # Σ = correlation·11ᵀ + (1 - correlation)·I: one part that all factors share, one of their own.
        shared = torch.randn(missing, 1, dtype=torch.float64, generator=generator)
        own = torch.randn(missing, n_factors, dtype=torch.float64, generator=generator)
        latents = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        drawn.append(latents[(latents.abs() <= HALF_WIDTH).all(dim=1)].float())
        missing -= len(drawn[-1])
    return torch.cat(drawn)


def uniform_latents(n: int, n_factors: int, *, seed: int = 0) -> Tensor:
    """Draw from the uniform law on [-√3, √3]^n_factors, of mean 0 and variance 1: float32 (n, n_factors).

    Raises:
        ValueError: ``n`` or ``n_factors`` below 1.
    """
    _check_size("n", n)
    _check_size("n_factors", n_factors)
    unit = torch.rand(n, n_factors, generator=torch.Generator().manual_seed(seed))
    return (2 * unit - 1) * HALF_WIDTH


def check_correlation(correlation: float) -> None:
    """Refuse what is no correlation of this law."""
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation={correlation!r}: expected a number in [0, 1); the paper goes up to 0.99")


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name}={size!r}: expected at least 1")
