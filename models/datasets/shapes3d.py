"""Shapes3D: the images of 3D Shapes (Burgess and Kim, 2018), read from their file as they are needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ..progress import with_progress
from .image_grid import Expected, ImageGrid, full_grid

_SIDE = 64
_EXPECTED = Expected(
    "3dshapes.h5, an HDF5 file of images uint8 (n, 64, 64, 3) and labels (n, 6) with every combination of the factors "
    "once (n = 480,000)",
    "https://github.com/google-deepmind/3d-shapes (gs://3d-shapes/3dshapes.h5)",
)


class Shapes3D(ImageGrid):
    """3D Shapes: 480,000 images 64x64 in RGB of a room with one object, every combination of six factors once.

    ============ ====== =================================
    floor hue    10     0 to 0.9 turns
    wall hue     10     0 to 0.9 turns
    object hue   10     0 to 0.9 turns
    scale        8      0.75 to 1.25
    shape        4      cube, cylinder, ball, capsule
    orientation  15     -30° to 30°
    ============ ====== =================================

    Opening reads the labels (23 MB), a pool only its own images, in the order of the file; never all 5.9 GB.

    Args:
        path: ``3dshapes.h5``, from https://github.com/google-deepmind/3d-shapes.
        noise: in [0, 1], how far latents deviate from the grid, in half steps; the paper's 1 makes them uniform.

    Attributes:
        levels: of each factor, as the labels have them.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetFileError: the file is damaged or another one.
        ValueError: ``noise`` outside [0, 1].
    """

    factor_names = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")

    def __init__(self, path: str | os.PathLike[str], noise: float = 1.0) -> None:
        path = Path(path).expanduser()
        with _open(path) as file:
            _dataset(file, path, "images", (_SIDE, _SIDE, 3))
            labels = _dataset(file, path, "labels", (len(self.factor_names),))
            n_images = len(file["images"])
            if len(labels) != n_images:
                raise _EXPECTED.refusal(path, f"{n_images} images and {len(labels)} labels")
            values = labels[:]
        columns = [np.unique(column, return_inverse=True)[1] for column in values.T]
        cells = np.stack(columns, axis=1)
        levels = full_grid(cells)
        if levels is None:
            raise _EXPECTED.refusal(path, f"{n_images} labels that are not all combinations of their values")
        super().__init__(path, levels, cells, noise)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Images of ascending ``rows``, chunk of the file by chunk, each decompressed at most once."""
        images = np.empty((len(rows), 3, _SIDE, _SIDE), dtype=np.uint8)
        with _open(self.path) as file:
            stored = _dataset(file, self.path, "images", (_SIDE, _SIDE, 3))
            for chunk in with_progress(_chunks(stored, rows), "Reading 3D Shapes"):
                of_chunk, height, width, channels = chunk
                first, last = np.searchsorted(rows, [of_chunk.start, of_chunk.stop])
                block = stored[chunk][rows[first:last] - of_chunk.start]
                images[first:last, channels, height, width] = block.transpose(0, 3, 1, 2)
        return images


def _chunks(stored: h5py.Dataset, rows: np.ndarray) -> list[tuple[slice, ...]]:
    """Parts to read an array in, those that hold some of the ascending ``rows``.

    A chunk may hold a few pixels of many images, then only reading along the chunks is fast: those of h5py's own choice
    are (15000, 4, 4, 1). An array that is not chunked is read row by row.
    """
    if stored.chunks is None:
        return [(slice(row, row + 1), *map(slice, (0, 0, 0), stored.shape[1:])) for row in rows]
    n_in = np.bincount(rows // stored.chunks[0], minlength=-(-len(stored) // stored.chunks[0]))
    return [chunk for chunk in stored.iter_chunks() if n_in[chunk[0].start // stored.chunks[0]]]


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    # What h5py raises for one damage or another.
    with (
        _EXPECTED.reading(path, (OSError, KeyError, RuntimeError, TypeError, ValueError)),
        h5py.File(path, "r") as file,
    ):
        yield file


def _dataset(file: h5py.File, path: Path, name: str, item_shape: tuple[int, ...]) -> h5py.Dataset:
    """The array ``name`` of (n, *item_shape), if that is what it is and if it lies in this file."""
    link = file.get(name, getlink=True) if name in file else None
    if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise _EXPECTED.refusal(path, f"no array {name!r}, only {sorted(file)}")
    array = file[name]
    if array.external is not None or array.is_virtual:
        raise _EXPECTED.refusal(path, f"{name!r} that points into other files")
    of_kind = array.dtype == np.uint8 if name == "images" else array.dtype.kind in "fiu"
    if array.shape[1:] != item_shape or not of_kind:
        raise _EXPECTED.refusal(path, f"{name!r} of {array.dtype} {array.shape}")
    return array
