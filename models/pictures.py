"""Pictures of image data: sheets of samples, and traversals, in which one factor moves at a time."""

from collections.abc import Sequence

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .datasets.correlated import HALF_WIDTH
from .figures import STYLE

_INCHES = 0.75  # per image


def image_sheet(images: Tensor, row_names: Sequence[str] = (), title: str = "") -> Figure:
    """Images side by side, without frames; rows may have names.

    Args:
        images: uint8 (n_rows, n_columns, channels, height, width), in grey or RGB.
        row_names: one for each row, or none.
        title: above all of them.
    """
    n_rows, n_columns, channels, height, width = images.shape
    sheet = images.permute(0, 3, 1, 4, 2).reshape(n_rows * height, n_columns * width, channels)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_INCHES * n_columns + 1.1 * bool(row_names), _INCHES * n_rows + 0.3 * bool(title)))
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.imshow(sheet.expand(-1, -1, 3).numpy(), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([height * (row + 0.5) for row in range(len(row_names))], row_names)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(title)
    return figure


def sample_sheet(observations: Tensor, n_rows: int = 4, n_columns: int = 10, title: str = "") -> Figure:
    """The first images of a pool, uint8 (n, channels, height, width)."""
    return image_sheet(observations[: n_rows * n_columns].unflatten(0, (n_rows, n_columns)), title=title)


def traversals(at: Tensor, n_steps: int = 9) -> Tensor:
    """Latents of which row i moves factor i over its range, the others staying where they are.

    ``RenderedShapes().render(traversals(at).flatten(0, 1)).unflatten(0, (n_factors, n_steps))`` is a sheet of them.

    Args:
        at: latents to stay at, (n_factors,), standardised.
        n_steps: number of values of each factor.

    Returns:
        float32 (n_factors, n_steps, n_factors).
    """
    latents = at.float().repeat(len(at), n_steps, 1)
    latents.diagonal(dim1=0, dim2=2).copy_(torch.linspace(-HALF_WIDTH, HALF_WIDTH, n_steps).unsqueeze(1))
    return latents
