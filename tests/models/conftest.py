from pathlib import Path

import pytest

from implicitlayers.models.datasets.glyphs import SPLITS, Glyphs


@pytest.fixture(scope="session")
def glyphs_root(tmp_path_factory) -> Path:
    """Cache folder in which the glyphs are rendered once for all tests."""
    root = tmp_path_factory.mktemp("glyphs")
    Glyphs("train", root=root)
    return root


@pytest.fixture(scope="session")
def glyphs(glyphs_root) -> dict[str, Glyphs]:
    """The three splits by name."""
    return {split: Glyphs(split, root=glyphs_root) for split in SPLITS}
