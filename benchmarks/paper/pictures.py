"""Pictures of what was learnt: correlations of latents and codes, codes while one latent moves, samples of the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from implicitlayers.models.datasets.correlated import HALF_WIDTH
from implicitlayers.models.datasets.latents import Latents
from implicitlayers.models.datasets.rendered_shapes import RenderedShapes
from implicitlayers.models.disentanglement import correlations
from implicitlayers.models.figures import STYLE
from implicitlayers.models.multi_task import MultiTaskLearner
from implicitlayers.models.pictures import image_sheet, sample_sheet, traversals

from .settings import Setting
from .training import pools, source

N_STEPS = 33
SHEET_STEPS = 9


def draw(learners: Mapping[str, MultiTaskLearner], setting: Setting, output: Path) -> list[Path]:
    """Write the pictures of a study, by name of its learners; returns their paths."""
    data, (pool, uniform) = source(setting), pools(setting)
    names = data.factor_names
    codes = {name: learner.encode(uniform.observations) for name, learner in learners.items()}
    matched = {name: correlations(uniform.latents, each) for name, each in codes.items()}
    orders = {name: assigned(table) for name, table in matched.items()}
    figures = {"correlations": correlation_figure({n: t[:, orders[n]] for n, t in matched.items()}, names)}
    if uniform.observations.dtype == torch.uint8:
        figures["samples"] = sample_sheet(pool.observations, title="training images")
        figures["samples-uniform"] = sample_sheet(uniform.observations, title="evaluation images")
    if isinstance(data, Latents | RenderedShapes):
        moved = traversals(torch.zeros(len(names)), N_STEPS).flatten(0, 1)
        observed = data.observe(moved) if isinstance(data, Latents) else data.render(moved)
        responses = {
            name: standardised(learner.encode(observed), codes[name]).unflatten(0, (len(names), N_STEPS))
            for name, learner in learners.items()
        }
        figures["codes"] = response_figure({n: r[..., orders[n]] for n, r in responses.items()}, names)
    if isinstance(data, RenderedShapes):
        sheet = data.render(traversals(torch.zeros(len(names)), SHEET_STEPS).flatten(0, 1))
        figures["traversals"] = image_sheet(sheet.unflatten(0, (len(names), SHEET_STEPS)), names, "one factor moves")
    paths = [output / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=150)
    return paths


def assigned(table: Tensor) -> list[int]:
    """The code of each latent under the best one-to-one assignment, of correlations (d, m)."""
    return linear_sum_assignment(table.numpy(), maximize=True)[1].tolist()


def standardised(codes: Tensor, reference: Tensor) -> Tensor:
    """Codes in units of their standard deviation over ``reference``."""
    sd, mean = torch.std_mean(reference, 0)
    return (codes - mean) / sd.clamp_min(1e-12)


def correlation_figure(tables: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """|Correlation| of latents and codes, one panel per learner; codes in the order of the latents they match."""
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.6 * len(tables) + 0.8, 3.6), layout="constrained")
        for axes, (name, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
            image = axes.imshow(table.numpy(), vmin=0, vmax=1, cmap="viridis")
            for (i, j), value in zip(
                torch.cartesian_prod(*map(torch.arange, table.shape)), table.flatten(), strict=True
            ):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="k" if value > 0.6 else "w")
            axes.set_xticks(range(table.shape[1]), [f"code {i + 1}" for i in range(table.shape[1])], rotation=45)
            axes.set_yticks(range(len(names)), names)
            axes.set_title(f"inner {name}: |correlation|")
        figure.colorbar(image, ax=figure.axes, shrink=0.8)
        return figure


def response_figure(responses: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """Codes (d, steps, m) while latent i moves over its range and the others stay at 0, a row of panels per learner."""
    positions = torch.linspace(-HALF_WIDTH, HALF_WIDTH, next(iter(responses.values())).shape[1])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.9 * len(names), 2.1 * len(responses) + 0.3), layout="constrained")
        rows = figure.subplots(len(responses), len(names), sharex=True, sharey=True, squeeze=False)
        for row, (learner, response) in zip(rows, responses.items(), strict=True):
            for i, (axes, name) in enumerate(zip(row, names, strict=True)):
                for j in range(response.shape[-1]):
                    own = i == j
                    color = "#0072b2" if own else "#b0b0b0"
                    axes.plot(positions, response[i, :, j], color=color, lw=2 if own else 1, zorder=2 + own)
                axes.set_title(name, fontsize=8)
            row[0].set_ylabel(f"codes, inner {learner}")
        figure.suptitle("All codes while one latent moves; blue: the code assigned to it", fontsize=9)
        return figure
