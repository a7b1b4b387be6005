"""Glyphs: characters to classify from a few drawings, rendered from the fonts that matplotlib ships.

Nothing to download. A class is a character, a sample is one face's drawing of it, and classes are split by script.
"""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import PIL.features
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

from ..progress import with_progress
from .cache import cache_dir, load_or_make

SPLITS = ("train", "val", "test")

FACES = {
    "DejaVu Sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "DejaVu Sans Mono": (
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
    ),
    "DejaVu Serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "STIX": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
}

_LAYOUT_VERSION = 1  # raise it whenever a change below changes the arrays
_SIDE = 32  # pixels, finished image
_EM = 26  # pixels per em, finished image: an accented capital with a descender still fits
_MARGIN = 1  # pixels left free on each side, finished image
_OVERSAMPLING = 4  # drawn this much larger, then averaged: smooth edges that owe nothing to hinting
_MIN_FACES = 14  # of 16, and at least one in each family, for a character to be considered
_MIN_DRAWINGS = 8  # that differ from all others, and at least one in each family, for it to become a class
_SAME_SHAPE = 0.995  # cosine: two images at unit norm less than a tenth apart are the same shape
_ENLARGED_GREEK = "∆∏∑"  # Delta, Pi and Sigma as mathematics draws them, which only their size tells from Greek


class Glyphs(Dataset[tuple[Tensor, Tensor]]):
    """Letters, digits and symbols in the four font families (16 faces) that matplotlib ships, 32x32 pixels in grey.

    A character drawn by at least 14 faces and every family is a candidate (about 890). Characters are then taken in
    the order train, val, test, and an image that shows the same shape as an earlier one, of whatever character or
    face, is left out. So Greek Alpha goes because Latin A came first, an arrow that the oblique face draws upright
    counts once, and no image of one split returns in another. A character that keeps at least 8 images, one or more
    in each family, is a class (about 730); letters keep 14 to 16, arrows and mathematics mostly 8.

    ========= ================================================================ ===============
    split     characters                                                       classes (about)
    ========= ================================================================ ===============
    ``train`` Latin, digits, fractions, currencies, arrows, mathematics, marks           517
    ``val``   the International Phonetic Alphabet (block IPA Extensions)                  89
    ``test``  Greek and Cyrillic                                                         126
    ========= ================================================================ ===============

    The images are rendered once, in a few seconds, and kept in ``root``, else in the folder that the environment
    variable IMPLICITLAYERS_CACHE names, else in the user's cache folder. Other versions of matplotlib's fonts or of
    the renderer make another file. A file that fails its checksum is rendered again, with a warning.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        root: folder for the cached images.

    Attributes:
        images: uint8 (n_images, 1, 32, 32), ink 255 on black 0.
        labels: int64 (n_images,), indices into ``class_names``.
        families: int64 (n_images,), indices into ``family_names``.
        class_names: the characters.
        family_names: the font families.

    Raises:
        ValueError: unknown ``split``.
        FileNotFoundError: matplotlib's fonts are not installed.
    """

    def __init__(self, split: str = "train", root: str | os.PathLike[str] | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {', '.join(map(repr, SPLITS))}")
        arrays = load_or_make(cache_dir(root) / _cache_name(), _render, "glyphs")
        chosen = np.array([_split(code) == split for code in arrays["codes"]])
        codes, labels = np.unique(arrays["codes"][chosen], return_inverse=True)
        self.split = split
        self.images = torch.from_numpy(arrays["images"][chosen]).unsqueeze(1)
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.families = torch.from_numpy(arrays["families"][chosen].astype(np.int64))
        self.class_names = tuple(map(chr, codes))
        self.family_names = tuple(FACES)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image, float32 (1, 32, 32) in [0, 1], and its label, int64 ()."""
        return self.images[index] / 255, self.labels[index]

    def __repr__(self) -> str:
        return f"Glyphs(split={self.split!r}): {len(self)} images of {len(self.class_names)} classes"


def _cache_name() -> str:
    """File name that changes with everything the pixels depend on: our rules, the fonts, the renderer."""
    renderer = f"pillow{PIL.__version__}-freetype{PIL.features.version('freetype2')}"
    return f"glyphs-v{_LAYOUT_VERSION}-matplotlib{matplotlib.__version__}-{renderer}.npz"


def _render() -> dict[str, np.ndarray]:
    """Draw every candidate in every face, keep shapes not seen before, and characters with enough of those.

    Returns ``images`` uint8 (n_images, 32, 32), and for each image ``codes`` uint32, the character's code point, and
    ``families`` uint8, an index into FACES.
    """
    faces = [_Face(stem, family) for family, stems in enumerate(FACES.values()) for stem in stems]
    candidates = _candidates(faces)
    seen = np.empty((len(candidates) * len(faces), _SIDE**2), dtype=np.float32)  # kept shapes, at unit norm
    images: list[np.ndarray] = []
    codes: list[int] = []
    families: list[int] = []
    for code in with_progress(candidates, "Rendering glyphs"):
        drawings = [(face.family, face.draw(code)) for face in faces if code in face.codes]
        shapes = _unit_norm([image for _, image in drawings])
        new = _unseen(shapes, seen[: len(images)])
        kept = [drawing for drawing, is_new in zip(drawings, new, strict=True) if is_new]
        if len(kept) < _MIN_DRAWINGS or {family for family, _ in kept} != set(range(len(FACES))):
            continue
        seen[len(images) : len(images) + len(kept)] = shapes[new]
        images.extend(image for _, image in kept)
        families.extend(family for family, _ in kept)
        codes.extend([code] * len(kept))
    return {
        "images": np.stack(images),
        "codes": np.array(codes, dtype=np.uint32),
        "families": np.array(families, dtype=np.uint8),
    }


class _Face:
    """One font file: the characters it draws (``codes``) and how to draw them."""

    def __init__(self, stem: str, family: int) -> None:
        path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{stem}.ttf")
        if not path.exists():
            raise FileNotFoundError(f"{path}: expected the fonts that matplotlib ships; reinstall matplotlib")
        self.family = family
        # Glyph 0 is .notdef, the box that stands for characters a face lacks.
        self.codes = {code for code, glyph in FT2Font(str(path)).get_charmap().items() if glyph != 0}
        # The basic layout engine, because the other one is an optional library and might place ink differently.
        self._font = ImageFont.truetype(str(path), _EM * _OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC)

    def draw(self, code: int) -> np.ndarray:
        """Image of a character, uint8 (32, 32): ink centred, all at the same size per em, shrunk only to fit."""
        left, top, right, bottom = (int(edge) for edge in self._font.getbbox(chr(code)))
        ink = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
        ImageDraw.Draw(ink).text((-left, -top), chr(code), fill=255, font=self._font)
        ink = ink.crop(ink.getbbox())
        room = (_SIDE - 2 * _MARGIN) * _OVERSAMPLING
        ink.thumbnail((room, room), Image.Resampling.BOX)
        side = _SIDE * _OVERSAMPLING
        canvas = Image.new("L", (side, side))
        canvas.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
        return np.asarray(canvas.reduce(_OVERSAMPLING))


def _candidates(faces: Sequence[_Face]) -> list[int]:
    """Code points of the characters that enough faces draw, those of the training split first."""
    drawn_by: dict[int, list[int]] = {}
    for face in faces:
        for code in face.codes:
            drawn_by.setdefault(code, []).append(face.family)
    enough = [
        code
        for code, families in drawn_by.items()
        if len(families) >= _MIN_FACES and len(set(families)) == len(FACES) and _is_wanted(chr(code))
    ]
    return sorted(enough, key=lambda code: (SPLITS.index(_split(code)), code))


def _is_wanted(character: str) -> bool:
    """Whether a character is a letter, a number or a symbol, and no size variant of a test character."""
    return unicodedata.category(character)[0] in "LNS" and character not in _ENLARGED_GREEK


def _split(code: int) -> str:
    """Split that a character's script belongs to."""
    if unicodedata.name(chr(code), "").startswith(("GREEK", "CYRILLIC")):
        return "test"
    if 0x250 <= code <= 0x2AF:  # block IPA Extensions
        return "val"
    return "train"


def _unit_norm(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images as rows of unit norm, float32 (n, 32 * 32)."""
    rows = np.stack(images).reshape(len(images), -1).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _unseen(shapes: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which rows of ``shapes`` resemble no row of ``seen`` and no earlier row of their own, bool (n,)."""
    to_earlier = np.tril(shapes @ shapes.T, -1).max(axis=1)
    to_seen = (shapes @ seen.T).max(axis=1, initial=0.0)
    return np.maximum(to_earlier, to_seen) <= _SAME_SHAPE
