from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicitlayers.models.datasets.correlated import correlated_latents, uniform_latents
from implicitlayers.models.datasets.grid import cells_of, effective_images
from implicitlayers.models.datasets.image_grid import DatasetFileError
from implicitlayers.models.datasets.shapes3d import Shapes3D

LEVELS = (3, 2, 2, 4, 2, 3)
VALUES = [np.linspace(0.1, 0.9, n) for n in LEVELS]
# Every combination once, in random order; each image shows its own in the first pixels' red.
CELLS = np.random.default_rng(0).permutation(np.array(list(product(*map(range, LEVELS)))))
N = len(CELLS)


def images_of(cells):
    images = np.random.default_rng(1).integers(0, 255, (len(cells), 64, 64, 3), dtype=np.uint8)
    images[:, 0, :6, 0] = cells
    return images


def labels_of(cells):
    return np.stack([values[column] for values, column in zip(VALUES, cells.T, strict=True)], axis=1)


def write(path: Path, images=None, labels=None, **options) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images_of(CELLS) if images is None else images, **options)
        file.create_dataset("labels", data=labels_of(CELLS) if labels is None else labels)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shapes3d") / "3dshapes.h5", chunks=(5, 64, 64, 3), compression="gzip")


def shown(observations):
    """The combinations that images show."""
    return observations[:, 0, 0, :6].long()


# Pools


@settings(max_examples=15)
@given(n=st.integers(1, 400), correlation=st.sampled_from([None, 0, 0.9]), seed=st.integers(0, 99))
def test_each_row_shows_the_cell_of_its_latents(path, n, correlation, seed):
    shapes = Shapes3D(path)
    if correlation is None:
        observations, latents = shapes.uniform_pool(n, seed=seed)
        torch.testing.assert_close(latents, uniform_latents(n, 6, seed=seed), atol=1e-6, rtol=0)
    else:
        observations, latents = shapes.pool(n, correlation=correlation, seed=seed)
        expected = correlated_latents(n, 6, correlation=correlation, seed=seed)
        torch.testing.assert_close(latents, expected, atol=1e-6, rtol=0)
    assert observations.shape == (n, 3, 64, 64)
    assert observations.dtype == torch.uint8
    assert latents.dtype == torch.float32
    assert torch.equal(shown(observations), cells_of(latents, LEVELS))


def test_channels_come_first_and_pixels_stay_in_place(path):
    observations, _ = Shapes3D(path).uniform_pool(20)
    row_of = {tuple(cell): row for row, cell in enumerate(CELLS)}
    rows = [row_of[tuple(cell)] for cell in shown(observations).tolist()]
    np.testing.assert_array_equal(observations.numpy(), images_of(CELLS)[rows].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("chunks", [None, True, (1, 64, 64, 3), (7, 32, 16, 1), (N, 64, 64, 3)])
def test_layout_of_the_file_is_of_no_importance(path, tmp_path, chunks):
    other = write(tmp_path / "other.h5", chunks=chunks)
    for one, another in zip(Shapes3D(path).uniform_pool(50), Shapes3D(other).uniform_pool(50), strict=True):
        assert torch.equal(one, another)


def test_no_more_than_the_needed_chunks_are_read_one_at_a_time(path, monkeypatch):
    read: list[tuple[int, int]] = []

    def spy(array, rows):
        if array.name == "/images":
            read.append((rows[0].start, rows[0].stop))
        return get_item(array, rows)

    get_item = h5py.Dataset.__getitem__
    shapes = Shapes3D(path)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    observations, _ = shapes.uniform_pool(10)
    row_of = {tuple(cell): row for row, cell in enumerate(CELLS)}
    needed = {row_of[tuple(cell)] // 5 for cell in shown(observations).tolist()}
    assert [start // 5 for start, _ in read] == sorted(needed)
    assert all(stop - start <= 5 for start, stop in read)


@pytest.mark.parametrize("noise", [0, 0.5])
def test_noise_is_the_share_by_which_latents_leave_the_grid(path, noise):
    observations, latents = Shapes3D(path, noise=noise).uniform_pool(500)
    for factor, cells in zip(latents.T, shown(observations).T, strict=True):
        spread = torch.stack([factor[cells == k].std() for k in cells.unique()])
        step = torch.stack([factor[cells == k].mean() for k in cells.unique()]).diff().mean()
        torch.testing.assert_close(spread, (noise * step / 12**0.5).expand_as(spread), rtol=0.2, atol=1e-6)


def test_knows_its_levels_its_number_and_what_it_is_worth(path):
    shapes = Shapes3D(path)
    assert shapes.levels == LEVELS
    assert len(shapes) == N
    assert shapes.effective_size(0.9) == effective_images(LEVELS, 0.9)
    assert shapes.effective_size(0.9) < shapes.effective_size(0) < N
    assert "3dshapes.h5" in repr(shapes)


# Files that are not 3dshapes.h5


def refusal(path):
    """Message with which a file is refused; it names the file, what was expected, and where it comes from."""
    with pytest.raises(DatasetFileError) as info:
        Shapes3D(path).uniform_pool(2 * N)
    message = str(info.value)
    assert message.startswith(f"{path}: expected 3dshapes.h5")
    assert "https://github.com/google-deepmind/3d-shapes" in message
    return message


def test_missing_file(tmp_path):
    path = tmp_path / "3dshapes.h5"
    with pytest.raises(FileNotFoundError, match=r"3dshapes\.h5: no such file, expected .* comes from https://github"):
        Shapes3D(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        Shapes3D(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 99, b"\x89HDF\r\n\x1a\n" + 99 * b"\0"])
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "3dshapes.h5"
    path.write_bytes(content)
    assert "cut short, changed or of another kind" in refusal(path)


@settings(max_examples=15)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(path, tmp_path_factory, share):
    cut = tmp_path_factory.mktemp("cut") / "3dshapes.h5"
    content = path.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    refusal(cut)


def test_a_damaged_chunk_is_refused(path, tmp_path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    damaged = tmp_path / "3dshapes.h5"
    damaged.write_bytes(content)
    refusal(damaged)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"images": np.zeros((N, 64, 64), np.uint8)}, f"found 'images' of uint8 ({N}, 64, 64)"),
        ({"images": np.zeros((N, 64, 64, 3), np.float32)}, f"found 'images' of float32 ({N}, 64, 64, 3)"),
        ({"images": np.zeros((N, 32, 32, 3), np.uint8)}, "found 'images' of uint8"),
        ({"images": np.uint8(3)}, "found 'images' of uint8 ()"),
        ({"labels": labels_of(CELLS)[:, :5]}, f"found 'labels' of float64 ({N}, 5)"),
        ({"labels": np.array(["a", "b"], dtype="S1").repeat(3).reshape(1, 6)}, "found 'labels' of |S1 (1, 6)"),
        ({"labels": labels_of(CELLS)[:-1]}, f"found {N} images and {N - 1} labels"),
        ({"labels": labels_of(CELLS[[0, *range(N - 1)]])}, "labels that are not all combinations"),
        ({"labels": np.full((N, 6), np.nan)}, "labels that are not all combinations"),
        ({"images": np.zeros((0, 64, 64, 3), np.uint8), "labels": np.zeros((0, 6))}, "not all combinations"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, found):
    assert found in refusal(write(tmp_path / "other.h5", **arrays))


@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_missing_array_is_refused(tmp_path, name):
    path = write(tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        del file[name]
    assert f"no array '{name}'" in refusal(path)
    with h5py.File(path, "a") as file:
        file.create_group(name)
    assert f"no array '{name}'" in refusal(path)


def test_arrays_in_other_files_are_refused(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(N * 64 * 64 * 3))
    linked, stored, virtual = (write(tmp_path / f"{name}.h5") for name in ("linked", "stored", "virtual"))
    for other in (linked, stored, virtual):
        with h5py.File(other, "a") as file:
            del file["images"]
            if other == linked:
                file["images"] = h5py.ExternalLink(path, "images")
            elif other == stored:
                shape = (N, 64, 64, 3)
                file.create_dataset("images", shape, np.uint8, external=[(secret, 0, h5py.h5f.UNLIMITED)])
            else:
                layout = h5py.VirtualLayout((N, 64, 64, 3), np.uint8)
                layout[:] = h5py.VirtualSource(path, "images", (N, 64, 64, 3))
                file.create_virtual_dataset("images", layout)
    assert "no array 'images'" in refusal(linked)
    assert "points into other files" in refusal(stored)
    assert "points into other files" in refusal(virtual)


def test_noise_outside_of_the_cells_is_refused(path):
    with pytest.raises(ValueError, match=r"noise=1\.5: expected a share of half a grid step"):
        Shapes3D(path, noise=1.5)
