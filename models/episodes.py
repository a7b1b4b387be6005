"""Episodes: few-shot tasks drawn from a dataset, each a function of its number and a seed alone."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite
from numbers import Integral
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

_MAX_FAMILIES = 12  # every way to share families out between support and query is tried: 2 ** n_families


class Episode(NamedTuple):
    """A classification task: a few labelled images to learn from, others to classify.

    Batches of episodes have the same fields with leading batch dimensions.
    """

    support: Tensor
    """Images to learn from, float (way * shot, channels, height, width), class after class."""
    support_labels: Tensor
    """int64 (way * shot,), 0 … way - 1."""
    query: Tensor
    """Images to classify, float (way * query, channels, height, width), class after class."""
    query_labels: Tensor
    """int64 (way * query,), 0 … way - 1."""
    classes: Tensor
    """int64 (way,): the dataset's label of each of the episode's classes."""

    @staticmethod
    def collate(episodes: Sequence["Episode"]) -> "Episode":
        """Stack episodes along a new first dimension; the ``collate_fn`` of a DataLoader."""
        return Episode(*(torch.stack(field) for field in zip(*episodes, strict=True)))


class LabelledImages(Protocol):
    """What episodes are drawn from: a dataset that holds its images in memory.

    A further attribute ``families``, int64 (n_images,), says which images were made the same way (one font family,
    one camera, one author); see `EpisodeDataset`.
    """

    images: Tensor
    """uint8 in 0 … 255, or floating point, (n_images, channels, height, width)."""
    labels: Tensor
    """int64 (n_images,)."""


@dataclass(frozen=True)
class AffineJitter:
    """Turns, moves, scales and slants every image of an episode a little, each differently, about its centre.

    All are drawn uniformly from ± the given bound. What comes in at the border is black.

    Args:
        rotation: degrees.
        translation: share of the image's width and height.
        scale: 0.1 for factors 0.9 … 1.1.
        shear: degrees by which vertical lines lean.

    Raises:
        ValueError: a bound that is negative or not finite, ``scale`` ≥ 1, or ``shear`` ≥ 90.
    """

    rotation: float = 10.0
    translation: float = 0.06
    scale: float = 0.1
    shear: float = 5.0

    def __post_init__(self) -> None:
        limits = {"rotation": 360.0, "translation": 1.0, "scale": 1.0, "shear": 90.0}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not (isfinite(value) and 0 <= value < limit):
                raise ValueError(f"{name}={value!r}: expected a number in [0, {limit:g})")

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Jittered copies of ``images``, floating point (n, channels, height, width)."""
        grid = F.affine_grid(self._to_source(images, rng), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _to_source(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Random maps (n, 2, 3) from positions in the result to positions in ``images``.

        Positions run from -1 to 1 along each side, so angles need the aspect ratio put back.
        """
        n, _, height, width = images.shape
        angle, lean, dx, dy, growth = rng.uniform(-1.0, 1.0, size=(5, n))
        cos, sin = np.cos(np.radians(self.rotation) * angle), np.sin(np.radians(self.rotation) * angle)
        slant = np.tan(np.radians(self.shear) * lean)
        # [[cos, -sin], [sin, cos]] @ [[1, slant], [0, 1]] / scale, then the shift; ±1 spans two units.
        rows = [
            [cos, (cos * slant - sin) * height / width, 2 * self.translation * dx],
            [sin * width / height, sin * slant + cos, 2 * self.translation * dy],
        ]
        maps = np.array(rows) / (1 + self.scale * growth)
        return torch.from_numpy(maps).permute(2, 0, 1).to(images)


class EpisodeDataset(Dataset[Episode]):
    """Episodes 0 … n_episodes - 1; episode i is a function of the dataset, the arguments and (seed, i) alone.

    Neither the order of access nor the number of workers or processes changes an episode, so a plain
    ``DistributedSampler(episodes, shuffle=False)`` gives each process its own share of the same list.

    Where the dataset has ``families``, no family has images in both the support and the query of an episode: which
    families go where is drawn for each episode, uniformly among the ways that leave at least ``way`` classes with
    enough images. Classes too small for ``shot`` and ``query`` are never drawn (`Glyphs`: its arrows in five-shot
    episodes). Images are drawn without replacement.

    `Glyphs` allows ``query`` up to 8 with 5 shots, up to 12 with 1 shot.

    Args:
        dataset: images, labels, and perhaps families.
        way: classes per episode.
        shot: support images per class.
        query: query images per class.
        seed: of all episodes, ≥ 0. Episodes of training, validation and test should come from different datasets.
        n_episodes: length of the list.
        augment: whether to jitter the images, support and query alike; an `AffineJitter` sets by how much. The
            classes and images drawn are the same with and without.

    Raises:
        ValueError: a number is not a positive integer (``seed``: a non-negative one), or the dataset has too few
            classes or images; the message says how many would do.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        way: int = 5,
        shot: int = 5,
        query: int = 6,
        *,
        seed: int = 0,
        n_episodes: int = 1000,
        augment: bool | AffineJitter = False,
    ) -> None:
        for name, value in {"way": way, "shot": shot, "query": query, "n_episodes": n_episodes}.items():
            _check_integer(name, value, least=1)
        _check_integer("seed", seed, least=0)
        self.way, self.shot, self.query = int(way), int(shot), int(query)
        self.seed, self.n_episodes = int(seed), int(n_episodes)
        self.augment = AffineJitter() if augment is True else augment or None
        self._images = dataset.images
        self._pool = _Pool(dataset)
        self._eligible = self._pool.eligible(self.way, self.shot, self.query)

    def __len__(self) -> int:
        return self.n_episodes

    def __getitem__(self, index: int) -> Episode:
        """Episode ``index``.

        Raises:
            IndexError: ``index`` outside 0 … n_episodes - 1.
        """
        if not 0 <= operator.index(index) < self.n_episodes:
            raise IndexError(f"index={index}: expected 0 … {self.n_episodes - 1}")
        rng = np.random.default_rng((self.seed, operator.index(index)))
        split, candidates = self._eligible[rng.integers(len(self._eligible))]
        classes = rng.choice(candidates, size=self.way, replace=False)
        drawn = [self._pool.draw(label, split, self.shot, self.query, rng) for label in classes]
        chosen = np.concatenate([support for support, _ in drawn] + [query for _, query in drawn])
        images = _as_floating(self._images[torch.from_numpy(chosen)])
        if self.augment:
            images = self.augment(images, rng)
        support, query = images.split([self.way * self.shot, self.way * self.query])
        labels = torch.arange(self.way)
        return Episode(
            support=support,
            support_labels=labels.repeat_interleave(self.shot),
            query=query,
            query_labels=labels.repeat_interleave(self.query),
            classes=torch.from_numpy(self._pool.class_labels[classes]),
        )


class _Pool:
    """The images of each class, and the ways to share their families out between support and query.

    ``splits`` is bool (n_splits, n_families), true where a family is for the support; without families, None. Classes
    are counted 0 … n_classes - 1 here; ``class_labels`` has the dataset's labels for them.
    """

    def __init__(self, dataset: LabelledImages) -> None:
        self.class_labels, class_of = np.unique(dataset.labels.numpy(), return_inverse=True)
        self._members = [np.flatnonzero(class_of == i) for i in range(len(self.class_labels))]
        families: Tensor | None = getattr(dataset, "families", None)
        for name, values in {"labels": dataset.labels, "families": families}.items():
            if values is not None and values.shape != dataset.images.shape[:1]:
                expected = tuple(dataset.images.shape[:1])
                raise ValueError(f"{name}: shape {tuple(values.shape)}, expected one per image, {expected}")
        self.splits: np.ndarray | None = None
        if families is not None:
            names, self._family = np.unique(families.numpy(), return_inverse=True)
            self.splits = _all_splits(len(names))
            self._counts = np.stack([np.bincount(self._family[m], minlength=len(names)) for m in self._members])

    def eligible(self, way: int, shot: int, query: int) -> list[tuple[np.ndarray | None, np.ndarray]]:
        """The usable splits, each with the classes (at least ``way``) that have enough images under it."""
        if way > len(self._members):
            raise ValueError(f"way={way}: expected at most {len(self._members)}, the number of classes")
        enough = self._query_capacity(shot) >= query
        if not (enough.sum(axis=1) >= way).any():
            raise ValueError(self._why_none(way, shot, query))
        splits = [None] if self.splits is None else list(self.splits)
        return [(split, np.flatnonzero(row)) for split, row in zip(splits, enough, strict=True) if row.sum() >= way]

    def draw(
        self, label: int, split: np.ndarray | None, shot: int, query: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of ``shot`` support images and ``query`` query images of a class."""
        members = rng.permutation(self._members[label])
        if split is None:
            return members[:shot], members[shot : shot + query]
        for_support = split[self._family[members]]
        return members[for_support][:shot], members[~for_support][:query]

    def _query_capacity(self, shot: int) -> np.ndarray:
        """Query images that a class has under a split if it can give ``shot`` to the support, else 0.

        (n_splits, n_classes); without families, one row.
        """
        if self.splits is None:
            sizes = np.array([[len(members) for members in self._members]])
            return np.maximum(sizes - shot, 0)
        for_support = self.splits.astype(int) @ self._counts.T
        for_query = (~self.splits).astype(int) @ self._counts.T
        return np.where(for_support >= shot, for_query, 0)

    def _why_none(self, way: int, shot: int, query: int) -> str:
        """Which argument is too large for the dataset, and how large it may be."""
        disjoint = "" if self.splits is None else " from other families"
        max_query = self._largest_query(way, shot)
        if max_query > 0:
            return f"query={query}: expected at most {max_query}, all that {way} classes offer{disjoint} (shot={shot})"
        max_shot = max((s for s in range(1, shot) if self._largest_query(way, s) > 0), default=0)
        if max_shot > 0:
            return f"shot={shot}: expected at most {max_shot}, which leaves {way} classes a query image{disjoint}"
        n_classes = (self._query_capacity(shot=1) > 0).sum(axis=1).max()
        return f"way={way}: expected at most {n_classes}, the classes with a support and a query image{disjoint}"

    def _largest_query(self, way: int, shot: int) -> int:
        """The most query images that ``way`` classes can give under one split."""
        return int(np.sort(self._query_capacity(shot), axis=1)[:, -way].max())


def _all_splits(n_families: int) -> np.ndarray:
    """All ways to share families out with at least one on either side, bool (2 ** n_families - 2, n_families)."""
    if not 2 <= n_families <= _MAX_FAMILIES:
        raise ValueError(f"families: {n_families} different ones, expected 2 … {_MAX_FAMILIES}")
    return np.array(list(product([False, True], repeat=n_families))[1:-1])


def _as_floating(images: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]; floating point as it is."""
    return images if images.is_floating_point() else images / 255


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}: expected an integer ≥ {least}")
