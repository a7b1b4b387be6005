import io
import os
import pickle
import threading
import unicodedata
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from implicitlayers.models.datasets import cache
from implicitlayers.models.datasets import glyphs as glyphs_module
from implicitlayers.models.datasets.cache import CorruptCacheError, cache_dir, load_arrays, save_arrays
from implicitlayers.models.datasets.glyphs import FACES, SPLITS, Glyphs

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # others may use the machine
arrays_by_name = st.dictionaries(
    st.sampled_from(["images", "codes", "families", "file"]),
    hnp.arrays(st.sampled_from([np.uint8, np.uint32, np.float32]), hnp.array_shapes(min_dims=0, min_side=0)),
)


def assert_same_arrays(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        np.testing.assert_array_equal(actual[name], array, strict=True)


def unit_rows(images):
    return torch.nn.functional.normalize(images.flatten(1).float(), dim=1)


# The cache


@unhurried
@given(arrays=arrays_by_name.filter(lambda arrays: "file" not in arrays))
def test_cache_returns_what_was_saved(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("cache") / "made" / "on demand.npz"
    save_arrays(path, arrays)
    assert_same_arrays(load_arrays(path), arrays)


@unhurried
@given(data=st.data())
def test_cache_notices_every_changed_byte_and_every_cut(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cache") / "arrays.npz"
    save_arrays(path, {"images": np.arange(60, dtype=np.uint8).reshape(3, 4, 5)})
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), label="cut"):
        content = content[:position]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(CorruptCacheError, match=r"arrays\.npz: expected .* SHA-256"):
        load_arrays(path)


# learn2learn#367, torchmeta#54, torchmeta#92
@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 9, pickle.dumps({"images": 1})])
def test_cache_refuses_other_files(tmp_path, content):
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    with pytest.raises(CorruptCacheError):
        load_arrays(path)


class Trap:
    """Pickled object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_cache_runs_no_code_even_where_the_checksum_is_right(tmp_path):
    trap = io.BytesIO()
    np.savez(trap, images=np.array([Trap(tmp_path / "mark")], dtype=object))
    path = tmp_path / "arrays.npz"
    path.write_bytes(trap.getvalue() + sha256(trap.getvalue()).digest())
    with pytest.raises(ValueError, match="allow_pickle"):
        load_arrays(path)
    assert not (tmp_path / "mark").exists()


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "arrays.npz"
    old = {"images": np.zeros(3)}
    save_arrays(path, old)

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(cache.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_arrays(path, {"images": np.ones(3)})
    assert os.listdir(tmp_path) == ["arrays.npz"]
    assert_same_arrays(load_arrays(path), old)


def test_readers_never_see_half_a_file_while_others_write(tmp_path):
    path = tmp_path / "arrays.npz"
    versions = [{"images": np.full((64, 1000), i, dtype=np.uint8)} for i in range(4)]
    save_arrays(path, versions[0])
    writers = [
        threading.Thread(target=lambda arrays=arrays: [save_arrays(path, arrays) for _ in range(10)])
        for arrays in versions
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        images = load_arrays(path)["images"]
        assert (images == images[0, 0]).all()
    assert os.listdir(tmp_path) == ["arrays.npz"]


def test_cache_dir_is_root_then_own_variable_then_users_cache(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("IMPLICITLAYERS_CACHE", raising=False)
    assert cache_dir() == Path("/home/someone/.cache/implicitlayers")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/implicitlayers")
    monkeypatch.setenv("IMPLICITLAYERS_CACHE", "~/own")
    assert cache_dir() == Path("/home/someone/own")
    assert cache_dir("/root") == Path("/root")


# What Glyphs contains


def test_splits_share_no_character(glyphs):
    for one, other in combinations(SPLITS, 2):
        assert not set(glyphs[one].class_names) & set(glyphs[other].class_names)


def test_splits_share_no_script(glyphs):
    scripts = {"GREEK": "test", "CYRILLIC": "test", "DIGIT": "train"}
    for split, dataset in glyphs.items():
        for character in dataset.class_names:
            script = unicodedata.name(character).split()[0]
            assert scripts.get(script, split) == split, character
    assert all(0x250 <= ord(character) <= 0x2AF for character in glyphs["val"].class_names)


def test_no_two_images_show_the_same_shape(glyphs):
    shapes = torch.cat([unit_rows(glyphs[split].images) for split in SPLITS])
    for start in range(0, len(shapes), 1000):
        distance = torch.cdist(shapes[start : start + 1000], shapes)
        distance[:, start:].fill_diagonal_(torch.inf)
        assert distance.min() > 0.099, f"image {start + int(distance.argmin()) // len(shapes)}"


# Latin, Greek, Cyrillic; then the symbols that Unicode only keeps apart for old encodings: micro, Ohm, Angstrom.
TWINS = ["A\u0391\u0410", "o\u03bf\u043e", "E\u0395\u0415", "\u00b5\u03bc", "\u2126\u03a9", "\u00c5\u212b"]


@pytest.mark.parametrize("twins", TWINS, ids=ascii)
def test_look_alikes_are_kept_once_and_in_training(glyphs, twins):
    first, *others = twins
    assert first in glyphs["train"].class_names
    for dataset in glyphs.values():
        assert not set(others) & set(dataset.class_names)


def test_counts(glyphs):
    n_classes = {split: len(dataset.class_names) for split, dataset in glyphs.items()}
    assert n_classes["train"] == pytest.approx(517, abs=20)
    assert n_classes["val"] == pytest.approx(89, abs=5)
    assert n_classes["test"] == pytest.approx(126, abs=5)


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_has_images_enough_in_all_families(glyphs, split):
    dataset = glyphs[split]
    for label, character in enumerate(dataset.class_names):
        families = dataset.families[dataset.labels == label]
        assert 8 <= len(families) <= sum(map(len, FACES.values())), character
        assert families.unique().tolist() == [0, 1, 2, 3], character
        assert families.bincount().max() <= 4, character


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_classes_have_at_least_twelve_images(glyphs, split):
    assert glyphs[split].labels.bincount().min() >= 12


@pytest.mark.parametrize("split", SPLITS)
def test_images_hold_ink_centred_with_a_free_margin(glyphs, split):
    ink = glyphs[split].images.squeeze(1) > 0
    assert ink.flatten(1).any(dim=1).all()
    for along in (1, 2):
        occupied = ink.any(dim=3 - along).int()
        before, after = occupied.argmax(dim=1), occupied.flip(1).argmax(dim=1)
        assert (before - after).abs().max() <= 1
        assert min(before.min(), after.min()) >= 1


def test_no_image_is_the_box_for_missing_characters(glyphs):
    faces = [glyphs_module._Face(stem, 0) for stems in FACES.values() for stem in stems]
    no_character = 0x10FFFF
    assert not any(no_character in face.codes for face in faces)
    boxes = unit_rows(torch.from_numpy(np.stack([face.draw(no_character) for face in faces])))
    for dataset in glyphs.values():
        assert (unit_rows(dataset.images) @ boxes.T).max() < 0.99


# Glyphs as a dataset


def test_types_and_shapes(glyphs):
    dataset = glyphs["test"]
    assert dataset.images.dtype == torch.uint8
    assert dataset.images.shape == (len(dataset), 1, 32, 32)
    for values in (dataset.labels, dataset.families):
        assert values.dtype == torch.int64
        assert values.shape == (len(dataset),)
    assert dataset.labels.unique().tolist() == list(range(len(dataset.class_names)))


def test_items_are_floating_point_in_the_unit_interval(glyphs):
    image, label = glyphs["val"][7]
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (0, glyphs["val"].images[7].max() / 255)
    assert label == glyphs["val"].labels[7]


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='training': expected one of 'train', 'val', 'test'"):
        Glyphs("training")


def test_second_use_reads_the_cache(glyphs_root, monkeypatch):
    monkeypatch.setattr(glyphs_module, "_render", lambda: pytest.fail("rendered again"))
    monkeypatch.setenv("IMPLICITLAYERS_CACHE", str(glyphs_root))
    assert len(Glyphs("test")) == len(Glyphs("test", root=glyphs_root))


def test_damaged_cache_is_rendered_again_with_a_warning_and_mended(glyphs, glyphs_root, tmp_path, monkeypatch):
    (cached,) = glyphs_root.iterdir()
    monkeypatch.setattr(glyphs_module, "_render", lambda: load_arrays(cached))  # saves its seconds
    damaged = tmp_path / cached.name
    damaged.write_bytes(cached.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="cached glyphs are damaged and will be made again"):
        again = Glyphs("test", root=tmp_path)
    assert torch.equal(again.images, glyphs["test"].images)
    assert_same_arrays(load_arrays(damaged), load_arrays(cached))


def test_unwritable_cache_is_a_warning(glyphs_root, tmp_path, monkeypatch):
    (cached,) = glyphs_root.iterdir()
    monkeypatch.setattr(glyphs_module, "_render", lambda: load_arrays(cached))
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    with pytest.warns(UserWarning, match="glyphs could not be cached"):
        assert len(Glyphs("test", root=tmp_path / "new")) > 0


@pytest.mark.parametrize("part", ["matplotlib.__version__", "PIL.__version__", "_LAYOUT_VERSION"])
def test_other_versions_use_another_file(monkeypatch, part):
    before = glyphs_module._cache_name()
    monkeypatch.setattr(f"{glyphs_module.__name__}.{part}", "0.0")
    assert glyphs_module._cache_name() != before
