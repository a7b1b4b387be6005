"""What l1_max of the multiclass SVM costs beside a solve at the l1 that it returns, over random shapes.

    python benchmarks/l1_max.py

Features are normal numbers around a mean per class, every other time cut off at zero, as an encoder's are. Times are
those of one thread on the processor, so that other processes count for little. The figures go to
``benchmarks/results/l1_max.{csv,md}``.
"""

import argparse
import csv
import random
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

import implicitlayers as il
from implicitlayers.penalties import row_norm
from implicitlayers.solvers import margin

RESULTS = Path(__file__).parent / "results"
RANGES = {"n": (25, 5000), "m": (5, 16000), "k": (2, 60)}
# A solve is one at the l1 returned, where W is zero, and one at this share of it, where some features are in use.
SHARE = 0.9


class Row(NamedTuple):
    """A shape, whether features are cut off at zero, the relative gap of the bounds, and seconds."""

    n: int
    m: int
    k: int
    cut_off: bool
    gap: float
    l1_max: float
    solve: float
    solve_below: float


def shapes(count: int, largest: int) -> list[tuple[int, int, int]]:
    """Of sizes that are uniform by their logarithms, with n·m·k at most ``largest``, small ones first."""
    rng, found = random.Random(0), []
    while len(found) < count:
        n, m, k = (round(low * (high / low) ** rng.random()) for low, high in RANGES.values())
        if n * m * k <= largest and n >= 2 * k:
            found.append((n, m, k))
    return sorted(found, key=lambda shape: shape[0] * shape[1] * shape[2])


def problem(n: int, m: int, k: int, cut_off: bool) -> tuple[Tensor, Tensor]:
    """X (n, m) and labels (n)."""
    generator = torch.Generator().manual_seed(n + m + k)
    y = torch.arange(n) % k
    means = torch.randn(k, m, generator=generator, dtype=torch.float64) / 2
    X = torch.randn(n, m, generator=generator, dtype=torch.float64) + means[y]
    return X.relu() if cut_off else X, y


def seconds(X: Tensor, y: Tensor, k: int, l1: float | il.Relative) -> float:
    """Of a solve."""
    start = time.process_time()
    il.MulticlassSVM(l2=0.01, l1=l1, n_classes=k, tol=1e-6, on_fail="ignore").solve(X, y)
    return time.process_time() - start


def measured(n: int, m: int, k: int, cut_off: bool) -> Row:
    X, y = problem(n, m, k, cut_off)
    layer = il.MulticlassSVM(l2=0.01, l1=1.0, n_classes=k)
    start = time.process_time()
    largest = float(layer.l1_max(X, y))
    cost = time.process_time() - start
    at, below = seconds(X, y, k, largest), seconds(X, y, k, SHARE * largest)
    return Row(n, m, k, cut_off, gap(X, y, k), round(cost, 3), round(at, 3), round(below, 3))


def gap(X: Tensor, y: Tensor, k: int) -> float:
    """1 − lower/upper, of the pair that proves the value."""
    Y, weight = torch.nn.functional.one_hot(y, k).to(torch.float64)[None], X.new_full((1, len(X)), 1 / len(X))
    found = margin._solve(X[None], Y, weight, torch.ones(1, k, dtype=torch.bool))
    V = X.mT @ (weight[..., None] * (Y - found.Lambda))
    U = found.u[..., None] * torch.nn.functional.normalize(V, dim=-1, eps=1e-300)
    Z = X @ U
    lower = (weight * ((Y * Z).sum(-1) - torch.where(Y > 0, -torch.inf, Z).amax(-1))).sum() / row_norm(U).sum()
    return float(1 - lower / row_norm(V).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=64, help="how many (default: %(default)s)")
    parser.add_argument("--largest", type=float, default=5e6, help="n·m·k at most (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    drawn = shapes(options.shapes, int(options.largest))
    rows = [measured(*shape, cut_off=i % 2 > 0) for i, shape in enumerate(track(drawn, "shapes"))]
    write(rows, options.results, f"python benchmarks/l1_max.py --shapes {options.shapes} --largest {options.largest:g}")


def write(rows: list[Row], folder: Path, command: str) -> None:
    """All rows as CSV, and what they come to as Markdown."""
    with (folder / "l1_max.csv").open("w", newline="") as file:
        csv.writer(file).writerows([Row._fields, *rows])
    lines = [
        f"Made by `{command}`: {len(rows)} shapes, one thread, seconds on the processor.",
        "",
        f"Largest relative gap between the bounds: {max(row.gap for row in rows):.1e}.",
        "",
        "| l1_max beside a solve | median ratio | largest ratio | shapes where it costs more | all seconds |",
        "|---|---|---|---|---|",
    ]
    for name, solves in (
        ("at the l1 returned", [row.solve for row in rows]),
        (f"at {SHARE} of it", [row.solve_below for row in rows]),
    ):
        ratios = sorted(row.l1_max / solve for row, solve in zip(rows, solves, strict=True))
        total = f"{sum(row.l1_max for row in rows):.1f} and {sum(solves):.1f}"
        more = sum(ratio > 1 for ratio in ratios)
        lines.append(f"| {name} | {ratios[len(ratios) // 2]:.2f} | {ratios[-1]:.2f} | {more} | {total} |")
    (folder / "l1_max.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
