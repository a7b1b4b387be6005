"""Images of every combination of a few factors, as 3D Shapes and dSprites come: what their two file formats share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .correlated import Pool, correlated_latents, uniform_latents
from .grid import cells_of, check_noise, effective_images, with_grid_noise


class DatasetFileError(ValueError):
    """A file is not the data set it should be: cut short, changed, or something else. Nothing in it was executed."""


@dataclass(frozen=True)
class Expected:
    """What a file should be and where it comes from, for the errors about it."""

    content: str
    source: str

    @contextmanager
    def reading(self, path: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
        """Turn ``errors``, raised because of what the file holds, into a refusal of it; first, it must exist."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, expected {self.content}. It comes from {self.source}")
        try:
            yield
        except DatasetFileError:
            raise
        except errors as error:
            raise self.refusal(path, f"a file that is cut short, changed or of another kind ({error})") from error

    def refusal(self, path: Path, found: str) -> DatasetFileError:
        """The error that says what was expected, what was found, and where the file comes from."""
        return DatasetFileError(f"{path}: expected {self.content}, found {found}. It comes from {self.source}")


class ImageGrid(ABC):
    """Images of every combination of the factors' levels, in a file, of which only those of a pool are read.

    A pool's latents are drawn from the law itself, uniform or correlated, and shown by the image of the grid's cell
    they lie in. So the noise that breaks the grid is drawn anew for every row, and is distributed as the law says.
    (Noise drawn once per image, and images then drawn by their weights, would leave of the 480,000 of 3D Shapes an
    effective 2,900 at correlation 0.9 and about 10 at 0.99.) What a grid cannot give is as many different images as
    rows: see :meth:`effective_size`.

    Args:
        path: the file.
        levels: of each factor, in the order of the latents.
        cells: int (n_images, n_factors), the combination that each image shows.
        noise: in [0, 1], how far latents deviate from the grid, in half steps: see with_grid_noise.

    Raises:
        ValueError: ``noise`` outside [0, 1].
    """

    factor_names: tuple[str, ...]

    def __init__(self, path: Path, levels: Sequence[int], cells: np.ndarray, noise: float) -> None:
        check_noise(noise)
        self.path = path
        self.levels = tuple(levels)
        self.noise = noise
        self._image_of = np.empty(self.levels, dtype=np.int64)
        self._image_of[tuple(cells.T)] = np.arange(len(cells))

    def pool(self, n: int, *, correlation: float, seed: int = 0) -> Pool:
        """``n`` images of latents from the correlated law, see correlated_latents; images repeat."""
        return self._pool(correlated_latents(n, len(self.levels), correlation=correlation, seed=seed))

    def uniform_pool(self, n: int, *, seed: int = 0) -> Pool:
        """``n`` images of latents from the uniform law: for evaluation."""
        return self._pool(uniform_latents(n, len(self.levels), seed=seed))

    def effective_size(self, correlation: float) -> float:
        """Number of equally likely images that the grid is worth under the correlated law, see effective_images."""
        return effective_images(self.levels, correlation)

    def _pool(self, latents: Tensor) -> Pool:
        images = self._image_of[tuple(cells_of(latents, self.levels).numpy().T)]
        rows, repeats = np.unique(images, return_inverse=True)
        observations = torch.from_numpy(self._read(rows))[torch.from_numpy(repeats)]
        return Pool(observations, with_grid_noise(latents, self.levels, self.noise))

    @abstractmethod
    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Images of ``rows``, int64, ascending, each once: uint8 (n_rows, channels, height, width)."""

    def __len__(self) -> int:
        return self._image_of.size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}): {len(self)} images, levels {self.levels}"


def full_grid(classes: np.ndarray) -> tuple[int, ...] | None:
    """Levels of each column of int classes 0, 1, ..., if every combination of them occurs just once."""
    levels = tuple(int(top) + 1 for top in classes.max(axis=0)) if classes.size else ()
    if not levels or classes.min() < 0 or np.prod([float(n) for n in levels]) != len(classes):
        return None
    once = np.bincount(np.ravel_multi_index(tuple(classes.T), levels), minlength=len(classes)) == 1
    return levels if once.all() else None
