"""Few-shot datasets."""

from .glyphs import Glyphs

__all__ = ["Glyphs"]
