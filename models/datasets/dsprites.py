"""DSprites: the images of dSprites (Matthey, Higgins, Hassabis and Lerchner, 2017), read from their archive."""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ..progress import with_progress
from .image_grid import Expected, ImageGrid, full_grid

_SIDE = 64
_BLOCK = 1024  # images decompressed at a time
_EXPECTED = Expected(
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz, an archive of imgs uint8 (n, 64, 64) and latents_classes int "
    "(n, 6) with every combination of the factors once (n = 737,280)",
    "https://github.com/google-deepmind/dsprites-dataset",
)


class DSprites(ImageGrid):
    """dSprites: 737,280 black and white images 64x64 of one sprite, every combination of five factors once.

    ============ ====== =========================
    shape        3      square, ellipse, heart
    scale        6      0.5 to 1
    orientation  40     0 to 2π, both included
    x            32     0 to 1
    y            32     0 to 1
    ============ ====== =========================

    (The sixth, the colour, is always white.) The images do not determine the factors: a square looks the same after a
    quarter turn, an ellipse after half a turn, and every sprite after a full one. So even a perfect learner's
    orientation correlates only in part; shape has no order either.

    The images are 3 GB in one compressed piece. A pool streams through it and keeps its own images only; the archive's
    pickled ``metadata`` is never touched.

    Args:
        path: ``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz``, from
            https://github.com/google-deepmind/dsprites-dataset.
        noise: in [0, 1], how far latents deviate from the grid, in half steps: see with_grid_noise.

    Attributes:
        levels: of each factor, as the archive has them.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetFileError: the file is damaged or another one.
        ValueError: ``noise`` outside [0, 1].
    """

    factor_names = ("shape", "scale", "orientation", "x", "y")

    def __init__(self, path: str | os.PathLike[str], noise: float = 1.0) -> None:
        path = Path(path).expanduser()
        per_image = (1 + len(self.factor_names),)
        with _archive(path) as archive:
            with _array(archive, path, "imgs", "u", (_SIDE, _SIDE)) as (n_images, _, _):
                pass
            with _array(archive, path, "latents_classes", "iu", per_image) as (n_classes, dtype, stream):
                if n_classes != n_images:
                    raise _EXPECTED.refusal(path, f"{n_images} imgs and {n_classes} latents_classes")
                classes = _next(stream, path, n_classes, dtype, per_image)
                _check_end(stream, path)
        levels = full_grid(classes)
        if levels is None or levels[0] != 1:
            raise _EXPECTED.refusal(
                path, f"{n_images} latents_classes that are not all combinations of one colour and the rest"
            )
        super().__init__(path, levels[1:], classes[:, 1:], noise)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Images of ascending ``rows``, of the whole stream: only its end tells whether its checksum is right."""
        images = np.empty((len(rows), 1, _SIDE, _SIDE), dtype=np.uint8)
        with (
            _archive(self.path) as archive,
            _array(archive, self.path, "imgs", "u", (_SIDE, _SIDE)) as (n_images, dtype, stream),
        ):
            for start in with_progress(range(0, n_images, _BLOCK), "Reading dSprites"):
                block = _next(stream, self.path, min(_BLOCK, n_images - start), dtype, (_SIDE, _SIDE))
                first, last = np.searchsorted(rows, [start, start + len(block)])
                images[first:last, 0] = block[rows[first:last] - start]
            _check_end(stream, self.path)
        if images.max() > 1:
            raise _EXPECTED.refusal(self.path, "imgs that are not 0 or 1")
        return 255 * images


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    # What Python's zip and npy readers raise for one damage or another.
    damages = (zipfile.BadZipFile, zlib.error, TokenError, SyntaxError, EOFError, OSError, ValueError, RuntimeError)
    with _EXPECTED.reading(path, damages), zipfile.ZipFile(path) as archive:
        yield archive


@contextmanager
def _array(
    archive: zipfile.ZipFile, path: Path, name: str, kinds: str, item_shape: tuple[int, ...]
) -> Iterator[tuple[int, np.dtype, IO[bytes]]]:
    """Length and dtype of the array ``name`` of (n, *item_shape), and the stream that continues with its content.

    Reads the header only, which is text. So an array of pickled objects is refused by what it says it is.
    """
    if f"{name}.npy" not in archive.namelist():
        raise _EXPECTED.refusal(path, f"no array {name!r}, only {sorted(archive.namelist())}")
    with archive.open(f"{name}.npy") as stream:
        read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
        if dtype.kind not in kinds or fortran_order or shape[1:] != item_shape or not shape[0]:
            raise _EXPECTED.refusal(path, f"{name!r} of {dtype} {shape}")
        yield shape[0], dtype, stream


def _next(stream: IO[bytes], path: Path, n: int, dtype: np.dtype, item_shape: tuple[int, ...]) -> np.ndarray:
    """The next ``n`` items of a stream."""
    n_bytes = n * math.prod(item_shape) * dtype.itemsize
    content = stream.read(n_bytes)
    if len(content) < n_bytes:
        raise _EXPECTED.refusal(path, f"{len(content)} bytes where {n_bytes} should follow")
    return np.frombuffer(content, dtype).reshape(n, *item_shape)


def _check_end(stream: IO[bytes], path: Path) -> None:
    """Read the end of a stream, upon which zipfile compares the checksum."""
    if stream.read(1):
        raise _EXPECTED.refusal(path, "more bytes than the shape of an array needs")
