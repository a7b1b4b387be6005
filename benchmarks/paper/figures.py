"""Figures of the paper's experiments, from their tables of results."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicitlayers.models.figures import STYLE

from .generalisation import METHODS, REPRESENTATIONS, SHARES
from .results import Row

# Of Okabe and Ito, told apart by the colour-blind too.
COLORS = {
    "lasso": "#0072b2",
    "ridge": "#d55e00",
    "ridge+ica": "#e69f00",
    "least squares": "#7f7f7f",
    "sparse-ridge": "#009e73",
    "lasso, unrolled": "#56b4e9",
}
METRICS = {"mcc": "MCC", "r": "R", "dci_d": "DCI disentanglement", "dci_c": "DCI completeness"}
X_LABELS = {
    "strength": "strength: λ/λ_max (Lasso), λ₂/(‖F‖²/n) (ridge)",
    "correlation": "correlation of the latents",
    "noise": "latent noise (half grid steps)",
    "blocks": "size of the blocks that supports are made of",
    "outer_l1": "outer l1 penalty",
    "outer_l2": "outer l2 penalty",
}
LOGARITHMIC = ("strength", "outer_l1", "outer_l2")


def generalisation_figure(rows: Sequence[Row]) -> Figure:
    """Test R² against the number of training samples, one panel per share of relevant latents."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.9), layout="constrained")
        for axes, share in zip(figure.subplots(1, len(SHARES), sharey=True), SHARES, strict=True):
            for representation in REPRESENTATIONS:
                for method in METHODS:
                    chosen = [
                        row
                        for row in rows
                        if (float(row["share"]), row["representation"], row["method"])
                        == (share, representation, method)
                    ]
                    _curve(
                        axes,
                        chosen,
                        "n_train",
                        "r2",
                        color=COLORS[method],
                        ls="-" if representation == "disentangled" else "--",
                        label=f"{method}, {representation}",
                    )
            axes.set(xlabel="training samples", ylim=(-0.25, 1.02))
            axes.set_title(f"{share:.0%} of the latents relevant")
        figure.axes[0].set_ylabel("test R²")
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, handlelength=4
        )
        return figure


def study_figure(rows: Sequence[Row], x: str, title: str) -> Figure:
    """MCC, R, D and C against ``x``, one curve per method: the mean over seeds, and its standard error."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        for axes, (metric, name) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
            for method in dict.fromkeys(row["method"] for row in rows):
                of_method = [row for row in rows if row["method"] == method]
                _curve(axes, of_method, x, metric, color=COLORS[method], label=method)
            if x in LOGARITHMIC:
                axes.set_xscale("symlog", linthresh=0.01, linscale=0.4)
            axes.set(xlabel=X_LABELS[x], ylim=(-0.02, 1.02))
            axes.xaxis.label.set_size(8)
            axes.set_title(name)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=8)
        figure.suptitle(title, fontsize=9)
        return figure


def _curve(axes: Axes, rows: Iterable[Row], x: str, y: str, **style: Any) -> None:
    """The mean of ``y`` over the rows of the same ``x``, with an error bar of one standard error."""
    values: dict[float, list[float]] = {}
    for row in rows:
        values.setdefault(float(row[x]), []).append(float(row[y]))
    at = sorted(values)
    mean = [np.mean(values[i]) for i in at]
    error = [np.std(values[i], ddof=1) / len(values[i]) ** 0.5 if len(values[i]) > 1 else 0.0 for i in at]
    axes.errorbar(at, mean, error, marker=".", capsize=2, lw=1.6, elinewidth=1, **style)
