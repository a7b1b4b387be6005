"""Latents: correlated latents seen through a random invertible network. Nothing to download, seconds to make."""

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from .correlated import Pool, correlated_latents, uniform_latents
from .grid import cells_of, centres_of, check_noise, with_grid_noise

# Of the factors of 3D Shapes; more latents than six start over.
LEVELS = (10, 10, 10, 8, 4, 15)


class Latents:
    """Vectors x = g(z) of ``n_latents`` entries, g a fixed random network that is invertible and not linear.

    g rotates, applies a leaky ReLU, and so on: ``n_layers`` random orthogonal matrices with leaky ReLUs between them.
    Each layer is invertible, so the latents can be recovered from x; but not by a linear map, and nothing about g tells
    one basis of the latents from another.

    Args:
        n_latents: number of latents, and of observed entries.
        n_layers: orthogonal matrices; 1 is a linear mixture.
        negative_slope: of the leaky ReLUs, in (0, 1]; the smaller, the further g is from linear.
        noise: ``None`` shows each row's latents exactly. A number in [0, 1] puts what is observed on the grid of 3D
            Shapes and lets the latents deviate from it, by that share of half a grid step: see with_grid_noise.
        seed: of g.

    Raises:
        ValueError: a number outside its range.
    """

    def __init__(
        self,
        n_latents: int = 6,
        n_layers: int = 3,
        negative_slope: float = 0.5,
        noise: float | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("n_latents", n_latents), ("n_layers", n_layers)):
            if value < 1:
                raise ValueError(f"{name}: given {value}, expected an integer ≥ 1")
        if not 0 < negative_slope <= 1:
            raise ValueError(f"negative_slope: given {negative_slope}, expected a number in (0, 1]")
        if noise is not None:
            check_noise(noise)
        self.factor_names = tuple(f"z{i + 1}" for i in range(n_latents))
        self.n_latents = n_latents
        self.negative_slope = negative_slope
        self.noise = noise
        self.levels = [LEVELS[i % len(LEVELS)] for i in range(n_latents)]
        generator = torch.Generator().manual_seed(seed)
        square = torch.randn(n_layers, n_latents, n_latents, generator=generator, dtype=torch.float64)
        self.rotations = torch.linalg.qr(square).Q

    def pool(self, n: int, *, correlation: float, seed: int = 0) -> Pool:
        """``n`` rows with latents from the correlated law; ``observations`` are float32 (n, n_latents)."""
        return self._pool(correlated_latents(n, self.n_latents, correlation=correlation, seed=seed))

    def uniform_pool(self, n: int, *, seed: int = 0) -> Pool:
        """``n`` rows with latents from the uniform law, for evaluation."""
        return self._pool(uniform_latents(n, self.n_latents, seed=seed))

    def observe(self, latents: Tensor) -> Tensor:
        """g: (..., n_latents) to float32 (..., n_latents)."""
        x = latents.double() @ self.rotations[0]
        for rotation in self.rotations[1:]:
            x = leaky_relu(x, self.negative_slope) @ rotation
        return x.float()

    def _pool(self, latents: Tensor) -> Pool:
        if self.noise is None:
            return Pool(self.observe(latents), latents)
        shown = centres_of(cells_of(latents, self.levels), self.levels)
        return Pool(self.observe(shown), with_grid_noise(latents, self.levels, self.noise))

    def __repr__(self) -> str:
        return f"Latents(n_latents={self.n_latents}, {len(self.rotations)} layers, slope {self.negative_slope:g})"
