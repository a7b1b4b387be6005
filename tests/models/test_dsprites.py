from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicitlayers.models.datasets import dsprites
from implicitlayers.models.datasets.correlated import correlated_latents, uniform_latents
from implicitlayers.models.datasets.dsprites import DSprites
from implicitlayers.models.datasets.grid import cells_of, effective_images
from implicitlayers.models.datasets.image_grid import DatasetFileError

LEVELS = (3, 2, 4, 3, 2)
# Every combination once, in random order, after the colour; each image shows its own, in white dots a row.
CLASSES = np.random.default_rng(0).permutation(np.array(list(product(range(1), *map(range, LEVELS)))))
N = len(CLASSES)


class Trap:
    """Pickled object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def images_of(classes):
    images = np.random.default_rng(1).integers(0, 2, (len(classes), 64, 64), dtype=np.uint8)
    images[:, :5] = np.arange(64) < classes[:, 1:, None]
    return images


def write(path: Path, **arrays) -> Path:
    """The archive, with other arrays in place of its own, or without those that are None."""
    metadata = np.array([Trap(path.with_name("mark"))], dtype=object)
    own = {"imgs": images_of(CLASSES), "latents_classes": CLASSES, "latents_values": CLASSES * 0.1}
    kept = {name: array for name, array in (own | {"metadata": metadata} | arrays).items() if array is not None}
    np.savez_compressed(path, **kept)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("dsprites") / "dsprites.npz")


@pytest.fixture(autouse=True, params=[10, 1024])
def block(request, monkeypatch):
    """Images decompressed at a time: many blocks, and one."""
    monkeypatch.setattr(dsprites, "_BLOCK", request.param)


def shown(observations):
    """The combinations that images show."""
    return (observations[:, 0, :5] > 0).sum(dim=2)


# Pools


@pytest.mark.parametrize("n", [1, 7, 400])
@pytest.mark.parametrize("correlation", [None, 0, 0.9])
def test_each_row_shows_the_cell_of_its_latents(path, n, correlation):
    sprites = DSprites(path)
    if correlation is None:
        observations, latents = sprites.uniform_pool(n, seed=n)
        expected = uniform_latents(n, 5, seed=n)
    else:
        observations, latents = sprites.pool(n, correlation=correlation, seed=n)
        expected = correlated_latents(n, 5, correlation=correlation, seed=n)
    torch.testing.assert_close(latents, expected, atol=1e-6, rtol=0)
    assert observations.shape == (n, 1, 64, 64)
    assert observations.dtype == torch.uint8
    assert latents.dtype == torch.float32
    assert torch.equal(shown(observations), cells_of(latents, LEVELS))


def test_images_are_those_of_the_archive_in_black_and_white(path):
    observations, _ = DSprites(path).uniform_pool(30)
    row_of = {tuple(classes[1:]): row for row, classes in enumerate(CLASSES)}
    rows = [row_of[tuple(cell)] for cell in shown(observations).tolist()]
    np.testing.assert_array_equal(observations[:, 0].numpy(), 255 * images_of(CLASSES)[rows])


def test_pickled_metadata_is_never_touched(path):
    DSprites(path).uniform_pool(3)
    assert not path.with_name("mark").exists()
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(path)["metadata"]


def test_knows_its_levels_its_number_and_what_it_is_worth(path):
    sprites = DSprites(path)
    assert sprites.levels == LEVELS
    assert len(sprites) == N
    assert sprites.effective_size(0.9) == effective_images(LEVELS, 0.9)


def test_noise_zero_leaves_latents_on_the_grid(path):
    _, latents = DSprites(path, noise=0).uniform_pool(300)
    assert [len(factor.unique()) for factor in latents.T] == list(LEVELS)


# Files that are not dSprites


def refusal(path):
    """Message with which a file is refused; it names the file, what was expected, and where it comes from."""
    with pytest.raises(DatasetFileError) as info:
        DSprites(path).uniform_pool(2 * N)
    message = str(info.value)
    assert message.startswith(f"{path}: expected dsprites_ndarray")
    assert "https://github.com/google-deepmind/dsprites-dataset" in message
    return message


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dsprites\.npz: no such file, expected .* comes from https://github"):
        DSprites(tmp_path / "dsprites.npz")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 99, b"PK\5\6" + 18 * b"\0"])
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "dsprites.npz"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("name", ["imgs", "latents_classes"])
def test_pickled_arrays_are_refused_before_anything_is_executed(tmp_path, name):
    trap = np.full((N, 64, 64), Trap(tmp_path / "mark"), dtype=object)
    assert f"found {name!r} of object" in refusal(write(tmp_path / "other.npz", **{name: trap}))
    assert not (tmp_path / "mark").exists()


@settings(max_examples=40)
@given(data=st.data())
def test_a_file_cut_or_changed_anywhere_is_refused_or_reads_the_same(path, tmp_path_factory, data):
    """What may change unnoticed is what matters to nobody, as dates, or the metadata."""
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.booleans())
    if cut:
        content = content[:position]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    spoilt = tmp_path_factory.mktemp("spoilt") / "dsprites.npz"
    spoilt.write_bytes(content)
    try:
        pool = DSprites(spoilt).uniform_pool(20)
    except DatasetFileError:
        return
    assert not cut
    assert all(torch.equal(one, other) for one, other in zip(pool, DSprites(path).uniform_pool(20), strict=True))


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"imgs": None}, "found no array 'imgs', only"),
        ({"latents_classes": None}, "found no array 'latents_classes', only"),
        ({"imgs": np.zeros((N, 64, 63), np.uint8)}, f"found 'imgs' of uint8 ({N}, 64, 63)"),
        ({"imgs": np.zeros((N, 64, 64))}, "found 'imgs' of float64"),
        ({"imgs": np.asfortranarray(images_of(CLASSES))}, "found 'imgs' of uint8"),
        ({"imgs": np.uint8(3)}, "found 'imgs' of uint8 ()"),
        ({"imgs": np.zeros((0, 64, 64), np.uint8)}, "found 'imgs' of uint8 (0, 64, 64)"),
        ({"imgs": 2 * images_of(CLASSES)}, "imgs that are not 0 or 1"),
        ({"latents_classes": CLASSES[:, 1:]}, f"found 'latents_classes' of int64 ({N}, 5)"),
        ({"latents_classes": CLASSES * 1.0}, "found 'latents_classes' of float64"),
        ({"latents_classes": CLASSES[:-1]}, f"found {N} imgs and {N - 1} latents_classes"),
        ({"latents_classes": CLASSES[[0, *range(N - 1)]]}, "latents_classes that are not all combinations"),
        ({"latents_classes": CLASSES[:, ::-1]}, "latents_classes that are not all combinations"),
        ({"latents_classes": CLASSES - 1}, "latents_classes that are not all combinations"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, found):
    assert found in refusal(write(tmp_path / "other.npz", **arrays))
