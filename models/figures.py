"""Figures of few-shot results."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .comparison import Result

DENSE_HEADS = {"protonet": ("ProtoNet", "o"), "ridge": ("ridge", "s"), "svm": ("SVM", "D")}
SHOT_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # of Okabe and Ito, told apart by the colour-blind too
BELOW: dict[str, Any] = {  # where a legend hides no data
    "loc": "upper center",
    "bbox_to_anchor": (0.5, -0.13),
    "fontsize": 8,
    "handlelength": 1.6,
    "columnspacing": 1.0,
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


def few_shot_figure(results: Sequence[Result]) -> Figure:
    """Accuracy against the share of features in use (left), and how often each feature is used (right)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        accuracy_against_sparsity(left, results)
        feature_usage(right, [r for r in results if r.shot == max(r.shot for r in results)])
        return figure


def accuracy_against_sparsity(axes: Axes, results: Sequence[Result]) -> None:
    """One point per l1 and one curve per number of shots, 95 % error bars; dense heads as markers at 100 %.

    The ring marks the l1 chosen on validation classes.
    """
    for shot, color in zip(sorted({r.shot for r in results}), SHOT_COLORS, strict=False):
        of_shot = [r for r in results if r.shot == shot]
        sparse = sorted((r for r in of_shot if r.head == "group-lasso-svm"), key=lambda r: r.features_used)
        x, y, ci95 = _percent(sparse)
        label = f"group-Lasso, {shot}-shot"
        axes.errorbar(x, y, ci95, color=color, marker=".", markersize=7, lw=1.8, capsize=2, elinewidth=1, label=label)
        x, y, _ = _percent([r for r in sparse if r.selected])
        axes.plot(x, y, "o", color=color, markersize=12, fillstyle="none", markeredgewidth=1.5)
        for i, (name, (_, marker)) in enumerate(DENSE_HEADS.items()):
            _, y, ci95 = _percent([r for r in of_shot if r.head == name])
            x = [100 + 2 * (i - 1)] * len(y)  # side by side, or they would hide each other
            axes.errorbar(
                x, y, ci95, fmt=marker, color=color, markersize=5, markeredgecolor="white", elinewidth=1, ls="none"
            )
    for title, marker in DENSE_HEADS.values():
        axes.plot([], [], marker, color="#808080", markersize=5, label=f"{title} (all features)")
    axes.plot([], [], "o", color="#808080", markersize=10, fillstyle="none", label="chosen in validation")
    axes.set(xlabel="features used per episode (%)", ylabel=f"{results[0].way}-way test accuracy (%)", xlim=(0, 105))
    axes.set_title("Accuracy against sparsity")
    axes.legend(ncols=3, **BELOW)


def feature_usage(axes: Axes, results: Sequence[Result]) -> None:
    """For every l1 the share of episodes that use each feature, sorted from the most to the least used."""
    sparse = sorted((r for r in results if r.head == "group-lasso-svm"), key=lambda r: r.l1)
    colors = mpl.colormaps["viridis_r"].resampled(len(sparse) + 1)
    for i, result in enumerate(sparse):
        usage = 100 * result.usage.sort(descending=True).values
        rank = range(1, len(usage) + 1)
        axes.plot(rank, usage, color=colors(i + 1), lw=2.6 if result.selected else 1.4, label=f"{result.l1:g}")
    axes.set(xlabel="feature, from most to least used", ylabel="episodes that use it (%)", ylim=(-2, 102))
    axes.set_xlim(1, len(sparse[0].usage))
    axes.set_title(f"Feature usage of the group-Lasso SVM, {sparse[0].shot}-shot")
    axes.legend(title="l1 (bold: chosen in validation)", ncols=max(1, (len(sparse) + 1) // 2), **BELOW)


def _percent(results: Sequence[Result]) -> tuple[list[float], list[float], list[float]]:
    """Features used, accuracy and its 95 % half-width, in percent."""
    return (
        [100 * r.features_used for r in results],
        [100 * r.accuracy for r in results],
        [100 * r.ci95 for r in results],
    )
