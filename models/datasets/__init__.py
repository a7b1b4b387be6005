"""Datasets to classify from a few samples (Glyphs), and datasets of latents and their images."""

from .dsprites import DSprites
from .glyphs import Glyphs
from .rendered_shapes import RenderedShapes
from .shapes3d import Shapes3D

__all__ = ["DSprites", "Glyphs", "RenderedShapes", "Shapes3D"]
