"""Figures of the peers, from records alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from implicitlayers.models.figures import STYLE as HOUSE_STYLE

from .records import Record

STYLE = {**HOUSE_STYLE, "axes.axisbelow": True}
# Of Okabe and Ito, told apart by the colour-blind too; markers tell methods apart in black and white.
LOOKS = {
    "ours": ("#d55e00", "*"),
    "qpth": ("#0072b2", "s"),
    "jaxopt": ("#009e73", "o"),
    "jaxopt, tol 1e-5": ("#009e73", "D"),
    "cvxpylayers": ("#cc79a7", "^"),
    "release, 5 steps": ("#7f7f7f", "v"),
    "release, 100 steps": ("#7f7f7f", "P"),
    "accelerated gradient": ("#56b4e9", "X"),
    "scikit-learn": ("#0072b2", "s"),
    "celer": ("#009e73", "o"),
    "skglm": ("#cc79a7", "^"),
}
SCALED = {"m": "features m", "n": "samples n", "batch": "batch", "k": "classes or targets k"}
LAYERS = {"SVM": "#d55e00", "group Lasso": "#0072b2"}


class Drawing(NamedTuple):
    """A figure ``of`` the records of a command whose case is named like ``about``."""

    of: str
    title: str
    draw: Callable[[Sequence[Record]], Figure]
    about: str = ""

    def is_of(self, records: Sequence[Record]) -> bool:
        """Whether there is anything to draw."""
        return any(self.about in record.case for record in records)


def time_against_gap(records: Sequence[Record]) -> Figure:
    """One panel per size (rows) and strength (columns), float32: a point per contender, lower left is better."""
    shown = [r for r in records if r.dtype == "float32" and r.gap is not None and r.forward_s is not None]
    sizes, cases = _unique((r.n, r.m) for r in shown), _unique(r.case for r in shown)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.1 + 2.5 * len(sizes)), layout="constrained")
        grid = figure.subplots(len(sizes), len(cases), sharex=True, sharey=True, squeeze=False)
        for row, size in zip(grid, sizes, strict=True):
            for axes, case in zip(row, cases, strict=True):
                of_panel = [r for r in shown if (r.n, r.m) == size and r.case == case]
                for record in of_panel:
                    _point(axes, record)
                axes.set(xscale="log", yscale="log", xlim=(3e-11, 20))
                axes.set_title(f"{case}, {size[0]} × {size[1]}", fontsize=9)
            row[0].set_ylabel("seconds, forward + backward")
        for axes in grid[-1]:
            axes.set_xlabel("relative duality gap")
        _legend(figure)
        return figure


def _point(axes: Axes, record: Record) -> None:
    color, marker = LOOKS[record.peer]
    seconds = record.total_s if record.total_s is not None else record.forward_s
    gap = max(record.gap or 0, 1e-10)  # to be seen at all
    size = 13 if record.peer == "ours" else 8
    axes.plot(gap, seconds, marker, color=color, ms=size, mec="white", mew=0.5, label=record.peer)


def time_against_sizes(records: Sequence[Record]) -> Figure:
    """A panel for each of m, n, batch and k that was measured, and the fitted exponents."""
    measured = {x: label for x, label in SCALED.items() if any(r.case.endswith(f" against {x}") for r in records)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1 + 2.6 * len(measured), 3.4), layout="constrained")
        panels = np.ravel(figure.subplots(1, max(1, len(measured)), sharey=True, squeeze=False))
        for axes, (x, label) in zip(panels, measured.items(), strict=False):
            for layer, color in LAYERS.items():
                name = f"{layer} against {x}"
                curve = [r for r in records if r.case == name]
                fitted = next((r.exponent for r in records if r.case == f"{name}: exponent"), None)
                power = "" if fitted is None else rf" $\sim \mathrm{{{x}}}^{{{fitted:.2f}}}$"
                _curve(axes, curve, x, color, layer + power)
            axes.set_xlabel(label)
            if axes.lines:
                axes.legend(fontsize=8)
        figure.axes[0].set_ylabel("seconds (dashed: forward only)")
        return figure


def time_against_share(records: Sequence[Record]) -> Figure:
    """Against the share of active features, l1 from 0.001 to 0.9 of its bound."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.subplots()
        for layer, color in LAYERS.items():
            curve = [r for r in records if r.case == f"{layer} against l1_share"]
            curve.sort(key=lambda r: r.active_share or 0)
            _curve(axes, curve, "active_share", color, layer)
        axes.set_xscale("symlog", linthresh=1e-3, linscale=0.3)  # there may be none in use
        axes.set(xlabel="share of features in use", ylabel="seconds (dashed: forward only)")
        if axes.lines:
            axes.legend()
        return figure


def _curve(axes: Axes, records: Iterable[Record], x: str, color: str, label: str) -> None:
    records = [r for r in records if r.total_s is not None]
    if not records:
        return
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    at = [getattr(r, x) for r in records]
    axes.plot(at, [r.total_s for r in records], "o-", color=color, ms=4, label=label)
    axes.plot(at, [r.forward_s for r in records], "--", color=color, lw=1)


def regressions(records: Sequence[Record]) -> Figure:
    """Seconds of the forward pass, a bar for each contender, a panel for each problem."""
    cases = _unique(r.case for r in records)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(cases), 2.2), layout="constrained")
        for axes, case in zip(np.ravel(figure.subplots(1, len(cases), squeeze=False)), cases, strict=True):
            of_case = [r for r in records if r.case == case and r.forward_s is not None][::-1]
            names, seconds = [r.peer for r in of_case], [r.forward_s for r in of_case]
            bars = axes.barh(names, seconds, color=[LOOKS[name][0] for name in names], height=0.6)
            axes.bar_label(bars, [f"gap {r.gap:.0e}" for r in of_case], padding=3, fontsize=8)
            axes.grid(axis="y", visible=False)
            axes.set(xlabel="seconds to solve", xlim=(0, 1.3 * max(seconds, default=1)))
            axes.set_title(f"{case}, {of_case[0].n} × {of_case[0].m}" if of_case else case)
        return figure


def _legend(figure: Figure) -> None:
    """One of all panels, in the order of LOOKS."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    labels = [label for label in LOOKS if label in handles]
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=4, fontsize=8)


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


FIGURES = {
    "gap": Drawing("svm", "time against duality gap", time_against_gap),
    "regression": Drawing("regression", "seconds of the regressions", regressions),
    "sizes": Drawing("scaling", "time against sizes", time_against_sizes, "against"),
    "share": Drawing("scaling", "time against the share of features in use", time_against_share, "l1_share"),
}
