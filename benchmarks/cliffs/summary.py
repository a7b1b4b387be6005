"""What the rows say: how many problems are over the cliff, the worst of them, ratios by layer."""

import csv
import math
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .reference import TOL
from .rows import FLOOR_MB, FLOOR_S, MEMORY, TIMES, Row, memory_ratio, ratio, seconds_of

WORST = 20
QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)
STAGES = {"solve_s": "solve, tol=1e-6", "default_s": "solve, default tol", "total_s": "solve and backward, tol=1e-6"}


def counts(rows: Sequence[Row], name: str = "solve_s") -> dict[str, int]:
    """Problems, those over the limit of time, those of them that take long enough to matter; and so for memory."""
    slow = [row for row in rows if ratio(row, name) > TIMES]
    large = [row for row in rows if memory_ratio(row) > MEMORY]
    return {
        "problems": len(rows),
        f"over {TIMES:g} times": len(slow),
        f"and over {1000 * FLOOR_S:g} ms": sum((seconds_of(row, name) or 0.0) > FLOOR_S for row in slow),
        f"over {MEMORY:g} times the memory": len(large),
        f"and over {FLOOR_MB:g} MB": sum(row.get("peak_mb", math.inf) > FLOOR_MB for row in large),
        "not converged": sum(not row.get("converged", True) for row in rows),
        "failed": sum("failure" in row and name not in row for row in rows),
        "reference stopped": sum(row.get("reference_gap", 0.0) > TOL for row in rows),
    }


def by_ratio(rows: Iterable[Row]) -> list[Row]:
    """The worst first; what has no ratio before all."""
    return sorted(rows, key=lambda row: -math.inf if math.isnan(ratio(row)) else -ratio(row))


def line(row: Row) -> dict[str, str]:
    """A row as text."""
    solved = seconds_of(row)
    stopped = row.get("reference_gap", 0.0) > TOL
    strengths = "" if row["relative"] else " (absolute)"
    return {
        "number": str(row["number"]),
        "layer": row["layer"] + (", intercept" if row["intercept"] else ""),
        "n × m × k": f"{row['n']} × {row['m']} × {row['k']}" + (f", batch {row['batch']}" if row["batch"] > 1 else ""),
        "dtype": row["dtype"],
        "correlation": f"{row['correlation']:g}" + (", shots" if row["design"] == "shots" else ""),
        "l1": f"{row['l1']:.2g}{strengths}",
        "l2": f"{row['l2']:.2g}{strengths}",
        "own": f"{row['own']:.2g}",
        "solve s": "" if solved is None else f"{'' if 'solve_s' in row else '> '}{solved:.3g}",
        "reference s": f"{'> ' if stopped else ''}{row['reference_s']:.3g}" if "reference_s" in row else "",
        "steps": str(row.get("reference_steps", "")),
        "ratio": f"{ratio(row):.2g}",
        "default ratio": f"{ratio(row, 'default_s'):.2g}",
        "backward ratio": f"{ratio(row, 'total_s'):.2g}",
        "memory ratio": f"{memory_ratio(row):.2g}",
        "peak MB": f"{row['peak_mb']:.0f}" if "peak_mb" in row else "",
        "gap": f"{row['gap']:.1e}" if "gap" in row else "",
        "solver": row.get("solver", ""),
        "iterations": str(row.get("iterations", "")),
        "failure": row.get("failure", "") or ("" if row.get("converged", True) else "not converged"),
    }


def quantiles(rows: Sequence[Row], name: str = "solve_s") -> list[str]:
    """Of the ratio, over the rows that have one."""
    ratios = [value for row in rows if not math.isnan(value := ratio(row, name))]
    return [f"{value:.2g}" for value in np.quantile(ratios, QUANTILES)] if ratios else [""] * len(QUANTILES)


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """A table."""
    header = list(lines[0])
    rows = [header, ["---"] * len(header), *([str(one[name]) for name in header] for one in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def page(rows: Sequence[Row], command: str) -> str:
    """The whole of it."""
    named = [row for row in rows if row["name"]]
    header = [f"{q:.0%} quantile" for q in QUANTILES]
    stages = [
        {"": text, **counts(rows, name), **dict(zip(header, quantiles(rows, name), strict=True))}
        for name, text in STAGES.items()
    ]
    layers = []
    for layer in sorted({row["layer"] for row in rows}):
        chosen = [row for row in rows if row["layer"] == layer]
        layers.append({"layer": layer, **counts(chosen), **dict(zip(header, quantiles(chosen), strict=True))})
    parts = [
        "# No cliffs",
        f"`{command}`: each problem's solve against plain accelerated proximal gradient in float64 to a relative gap of"
        f" {TOL:.0e}, in seconds of processor time on one thread ({platform.machine()}, torch {torch.__version__})."
        f" Promised: never more than {TIMES:g} times as long, nor more than {MEMORY:g} times the memory of X as given"
        " and of n·k numbers in float64. Where a solve was stopped its ratio is at least what is shown; where the"
        " reference was stopped, at most.",
        markdown(stages),
        "## By layer",
        markdown(layers),
        f"## The worst {WORST}",
        "l1 is a share of the bound above which nothing is left, l2 of the mean square of the features. The gap is of"
        " the coefficients, from the problem's definition and the reference's lower bound.",
        markdown([line(row) for row in by_ratio(rows)[:WORST]]),
    ]
    if named:
        parts += ["## Named problems", markdown([{"name": row["name"], **line(row)} for row in by_ratio(named)])]
    return "\n\n".join(parts) + "\n"


def write(rows: Sequence[Row], folder: Path, command: str) -> None:
    """cliffs.csv with all rows, cliffs.md with the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cliffs.md").write_text(page(rows, command))
    with (folder / "cliffs.csv").open("w", newline="") as file:
        lines = [line(row) | {"name": row["name"]} for row in by_ratio(rows)]
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def compared(runs: Sequence[Sequence[Row]]) -> list[dict[str, str]]:
    """Of the problems that all runs have, the worst of the last first: the ratio in each run."""
    found = [{(row["number"], row["seed"]): row for row in rows} for rows in runs]
    common = set.intersection(*map(set, found))
    lines = []
    for row in by_ratio(found[-1][key] for key in common):
        shown, key = line(row), (row["number"], row["seed"])
        then = {f"ratio {i}": f"{ratio(one[key]):.2g}" for i, one in enumerate(found, start=1)}
        kept = ("number", "layer", "n × m × k", "correlation", "l1", "l2", "solve s", "reference s", "solver")
        lines.append({name: shown[name] for name in kept} | then)
    return lines
