"""Section 2 beside the numbers that the authors released (released_r2.json, from their figures/synthetic/logs.p)."""

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from rich import box
from rich.table import Table

from .generalisation import METHODS, N_TRAIN, REPRESENTATIONS, SHARES
from .results import Row

DIFFERENT = 0.15  # released R² further apart than this must be in the same order here
CLOSE = 0.12
NAMES = {"lasso": "lasso", "ridge": "ridge", "least squares": "lr"}

Cell = tuple[float, str, str, int]  # share, representation, method, number of samples
Means = Mapping[Cell, float]


def released() -> dict[Cell, float]:
    """Mean test R² of each cell in the authors' release."""
    stored = json.loads(Path(__file__).with_name("released_r2.json").read_text(encoding="utf-8"))
    assert tuple(stored["n_train"]) == N_TRAIN
    return {
        (share, representation, method, n): stored["results"][f"{share:g}"][representation][NAMES[method]]["mean"][i]
        for share in SHARES
        for representation in REPRESENTATIONS
        for method in METHODS
        for i, n in enumerate(N_TRAIN)
    }


def means(rows: list[Row]) -> dict[Cell, float]:
    """Mean test R² of each cell over the seeds of a table of results."""
    values: dict[Cell, list[float]] = {}
    for row in rows:
        cell = (float(row["share"]), row["representation"], row["method"], int(row["n_train"]))
        values.setdefault(cell, []).append(float(row["r2"]))
    return {cell: mean(each) for cell, each in values.items()}


class Agreement(NamedTuple):
    """How many pairs of methods are in the released order, and how many cells are close to the released value."""

    ordered: int
    pairs: int
    close: int
    cells: int

    def __str__(self) -> str:
        return (
            f"{self.ordered} of {self.pairs} pairs of curves that differ by more than {DIFFERENT} in the release are in"
            f" the same order; {self.close} of {self.cells} cells with n ≥ 75 (without least squares at n = 100) are"
            f" within {CLOSE} of the released R²"
        )


def agreement(ours: Means, theirs: Means) -> Agreement:
    """Compare two sets of means; the six curves of a panel (representation and method) make the pairs of a cell.

    Left out are ridge against ridge and least squares against least squares: these are the same on rotated features,
    and differ in the release by what rounding does to least squares at n = m.
    """
    curves = [(representation, method) for representation in REPRESENTATIONS for method in METHODS]
    compared = [(a, b) for a, b in combinations(curves, 2) if a[1] != b[1] or a[1] == "lasso"]
    pairs = [((share, *a, n), (share, *b, n)) for share in SHARES for n in N_TRAIN for a, b in compared]
    different = [(a, b) for a, b in pairs if abs(theirs[a] - theirs[b]) > DIFFERENT]
    ordered = [(ours[a] > ours[b]) == (theirs[a] > theirs[b]) for a, b in different]
    cells = [cell for cell in theirs if cell[3] >= 75 and cell[2:] != ("least squares", 100)]
    close = [abs(ours[cell] - theirs[cell]) <= CLOSE for cell in cells]
    return Agreement(sum(ordered), len(ordered), sum(close), len(close))


def comparison_table(ours: Means, theirs: Means) -> Table:
    """Ours, and the released value in brackets, for each cell."""
    table = Table(title="Test R², mean over seeds (released value)", box=box.SIMPLE, padding=(0, 0, 0, 1))
    for name in ("ℓ/m", "features", "method"):
        table.add_column(name, no_wrap=True)
    for n in N_TRAIN:
        table.add_column(f"n={n}", justify="right", no_wrap=True)
    for share in SHARES:
        for representation in REPRESENTATIONS:
            for method in METHODS:
                cells = [(share, representation, method, n) for n in N_TRAIN]
                texts = [f"{ours[cell]:.2f} ({theirs[cell]:.2f})" for cell in cells]
                table.add_row(f"{share:.0%}", representation, method, *texts, end_section=method == METHODS[-1])
    return table
