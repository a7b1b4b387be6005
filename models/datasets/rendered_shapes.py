"""RenderedShapes: the six factors of 3D Shapes as images that are rendered on demand, at any value of the factors."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..progress import with_progress
from .cache import CorruptCacheError, cache_dir, load_or_make
from .correlated import HALF_WIDTH, Pool, correlated_latents, uniform_latents
from .grid import cells_of, centres_of, check_noise, with_grid_noise
from .raycast import Scene, render

_RENDERER_VERSION = 2  # raise it whenever a change here or in raycast.py changes the images
_BATCH = 32  # images rendered at a time: larger batches no longer fit the processor's cache

HUES = 0.8  # of the colour circle: from red over green and blue to magenta, so that no two hues are the same
SCALES = (0.65, 1.2)
EXPONENTS = (1.4, 8.0)
AZIMUTHS = (-math.pi / 6, math.pi / 6)
LEVELS = (10, 10, 10, 8, 4, 15)
"""Levels of the factors in 3D Shapes: the grid of :class:`RenderedShapes` with ``noise``."""


class RenderedShapes:
    """Images of a room with one object, by six factors, each of which changes them continuously and injectively.

    =============== =======================================================================================
    floor hue       0.8 turns of the colour circle: red, green, blue, magenta
    wall hue        as the floor's
    object hue      as the floor's
    scale           radius of a ball of the object's volume, 0.65 to 1.2
    shape           a superellipsoid |x|^e + |y|^e + |z|^e ≤ r^e, e from 1.4, nearly an octahedron,
                    over 2, a ball, to 8, nearly a cube; 1/e is linear in the factor
    orientation     of the camera around the object, -30° to 30°
    =============== =======================================================================================

    Nothing to download, and latents from any law: a training pool is drawn from the correlated law itself, no image
    twice. 3D Shapes (Burgess and Kim, 2018) has the same factors, on a grid.

    A pool is rendered once (24,000 images of 64x64 in about a minute on one core, a quarter of that for 32x32) and
    kept in ``root``, else in the folder that the environment variable IMPLICITLAYERS_CACHE names, else in the user's
    cache folder. A file that fails its checksum, or holds other images than its name says, is made again, with a
    warning.

    Args:
        size: height and width of the images in pixels.
        noise: ``None`` shows each image's latents exactly. A number in [0, 1] puts the images on the grid of 3D Shapes
            and lets the latents deviate from it, by that share of half a grid step: see with_grid_noise.
        root: folder for the cached pools.

    Attributes:
        factor_names: what the columns of the latents are.

    Raises:
        ValueError: ``size`` below 8 or ``noise`` outside [0, 1].
    """

    factor_names = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")

    def __init__(self, size: int = 64, noise: float | None = None, root: str | os.PathLike[str] | None = None) -> None:
        if size < 8:
            raise ValueError(f"size={size!r}: expected at least 8 pixels")
        if noise is not None:
            check_noise(noise)
        self.size = size
        self.noise = noise
        self.root = root

    def pool(self, n: int, *, correlation: float, seed: int = 0) -> Pool:
        """``n`` images of latents from the correlated law, see correlated_latents."""
        latents = correlated_latents(n, len(self.factor_names), correlation=correlation, seed=seed)
        return self._pool(latents, f"correlation{float(correlation)}", seed)

    def uniform_pool(self, n: int, *, seed: int = 0) -> Pool:
        """``n`` images of latents from the uniform law: for evaluation."""
        return self._pool(uniform_latents(n, len(self.factor_names), seed=seed), "uniform", seed)

    def render(self, latents: Tensor) -> Tensor:
        """Images of standardised latents (n, 6), clamped to [-√3, √3]: uint8 (n, 3, size, size)."""
        return torch.cat([render(scene_of(batch), self.size) for batch in latents.split(_BATCH)])

    def _pool(self, latents: Tensor, law: str, seed: int) -> Pool:
        if self.noise is None:
            shown, grid = latents, ""
        else:
            shown, grid = centres_of(cells_of(latents, LEVELS), LEVELS), "-grid"
            latents = with_grid_noise(latents, LEVELS, self.noise)
        name = f"rendered-shapes-v{_RENDERER_VERSION}-{self.size}{grid}-{law}-{len(latents)}-seed{seed}.npz"
        path = cache_dir(self.root) / name
        arrays = load_or_make(
            path,
            lambda: {"images": self._render_all(shown), "latents": shown.numpy()},
            "images",
            lambda arrays: _check(path, arrays, shown, self.size),
        )
        return Pool(torch.from_numpy(arrays["images"]), latents)

    def _render_all(self, latents: Tensor) -> np.ndarray:
        """Images of latents, with a progress bar."""
        images = np.empty((len(latents), 3, self.size, self.size), dtype=np.uint8)
        for start in with_progress(range(0, len(latents), _BATCH), "Rendering shapes"):
            images[start : start + _BATCH] = self.render(latents[start : start + _BATCH]).numpy()
        return images

    def __repr__(self) -> str:
        return f"RenderedShapes(size={self.size}, noise={self.noise})"


def scene_of(latents: Tensor) -> Scene:
    """The scene that standardised latents (n, 6) stand for."""
    share = ((latents / HALF_WIDTH + 1) / 2).clamp(0, 1)
    floor, wall, thing, scale, shape, orientation = share.unbind(dim=1)
    smallest, largest = EXPONENTS
    return Scene(
        floor_hue=HUES * floor,
        wall_hue=HUES * wall,
        object_hue=HUES * thing,
        scale=SCALES[0] + (SCALES[1] - SCALES[0]) * scale,
        exponent=1 / ((1 - shape) / smallest + shape / largest),
        azimuth=AZIMUTHS[0] + (AZIMUTHS[1] - AZIMUTHS[0]) * orientation,
    )


def _check(path: Path, arrays: dict[str, np.ndarray], latents: Tensor, size: int) -> None:
    """Refuse cached arrays that are not the images of ``latents``."""
    found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    expected = {
        "images": ("uint8", (len(latents), 3, size, size)),
        "latents": ("float32", tuple(latents.shape)),
    }
    if found != expected:
        raise CorruptCacheError(f"{path}: expected {expected}, got {found}")
    if not np.array_equal(arrays["latents"], latents.numpy()):
        raise CorruptCacheError(f"{path}: expected the images of the latents of its name, got those of others")
