"""The table that a thorough run leaves, and whether what is promised holds."""

import csv
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

FLAGGED = 1e-3
DERIVATIVE = 1e-5


class Row(NamedTuple):
    """One batch; ``seed`` is its number, the rest are figures over its problems."""

    seed: int
    layer: str
    kind: str
    problems: int
    worst_gap: float
    false_converged: int
    derivatives: int
    worst_derivative: float
    wrong_derivatives: int
    degenerate: int
    flagged: int
    not_a_number: int
    infeasible: int
    starts: int
    wrong_starts: int
    autocast: int
    wrong_autocast: int
    thresholds: int
    wrong_thresholds: int
    seconds: float

    @classmethod
    def parse(cls, line: Mapping[str, str]) -> "Row":
        """From a line of a CSV file."""
        return cls(**{name: kind(line[name]) for name, kind in cls.__annotations__.items()})


def summarise(rows: Sequence[Row], folder: Path, command: str) -> bool:
    """Write thorough.csv and thorough.md; whether everything promised holds."""
    names = sorted({row.layer for row in rows})
    lines = []
    for name in names:
        for kind in ("generic", "nasty"):
            chosen = [row for row in rows if row.layer == name and (row.kind == "generic") == (kind == "generic")]
            if chosen:
                lines.append({"layer": name, "problems are": kind, **_figures(chosen)})
    promises = _promises(rows)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "thorough.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    (folder / "thorough.md").write_text(_page(lines, promises, rows, command))
    for promise, (held, found) in promises.items():
        print(f"{'holds' if held else 'FAILS'}  {promise}: {found}")
    return all(held for held, _ in promises.values())


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    problems = sum(row.problems for row in rows)
    return {
        "problems": problems,
        "worst gap": f"{max(row.worst_gap for row in rows):.1e}",
        "derivatives": sum(row.derivatives for row in rows),
        "worst derivative error": f"{max(row.worst_derivative for row in rows):.1e}",
        "degenerate": f"{sum(row.degenerate for row in rows) / problems:.3%}",
        "not converged": f"{sum(row.flagged for row in rows) / problems:.3%}",
        "false converged": sum(row.false_converged for row in rows),
        "wrong derivatives": sum(row.wrong_derivatives for row in rows),
        "NaN": sum(row.not_a_number for row in rows),
        "infeasible": sum(row.infeasible for row in rows),
        "other from a start": sum(row.wrong_starts for row in rows),
        "other under autocast": sum(row.wrong_autocast for row in rows),
        "wrong l1_max": sum(row.wrong_thresholds for row in rows),
    }


def _promises(rows: Sequence[Row]) -> dict[str, tuple[bool, str]]:
    generic = [row for row in rows if row.kind == "generic"]
    nan, false = sum(row.not_a_number for row in rows), sum(row.false_converged for row in rows)
    wrong = sum(row.wrong_derivatives for row in rows)
    flagged, count = sum(row.flagged for row in generic), sum(row.problems for row in generic)
    total, checked = sum(row.problems for row in rows), sum(row.derivatives for row in rows)
    return {
        "no NaN from finite input": (nan == 0, f"{nan} of {total:,}"),
        "no infeasible point": _none(rows, "infeasible", "problems"),
        'no "converged" whose true gap exceeds the tolerance': (false == 0, f"{false} of {total:,}"),
        f"no derivative off by more than {DERIVATIVE:.0e} at a point without a flag": (
            wrong == 0,
            f"{wrong} of {checked:,}",
        ),
        f"at most {FLAGGED:.1%} of generic problems not converged": (
            flagged <= FLAGGED * count,
            f"{flagged} of {count:,}",
        ),
        "zero at l1_max, not zero below": _none(rows, "wrong_thresholds", "thresholds"),
        "same from a foreign start": _none(rows, "wrong_starts", "starts"),
        "same under autocast": _none(rows, "wrong_autocast", "autocast"),
    }


def _none(rows: Sequence[Row], wrong: str, looked_at: str) -> tuple[bool, str]:
    """Whether there is no problem of what is wrong, and how many of those looked at there are."""
    found, total = (sum(getattr(row, name) for row in rows) for name in (wrong, looked_at))
    return found == 0, f"{found} of {total:,}"


def _page(
    lines: Sequence[dict[str, Any]], promises: dict[str, tuple[bool, str]], rows: Sequence[Row], command: str
) -> str:
    header = list(lines[0])
    table = [
        " | ".join(header),
        " | ".join(["---"] * len(header)),
        *(" | ".join(map(str, line.values())) for line in lines),
    ]
    held = [f"| {promise} | {'holds' if ok else '**fails**'} | {found} |" for promise, (ok, found) in promises.items()]
    minutes = sum(row.seconds for row in rows) / 60
    return "\n".join(
        [
            "# The thorough run",
            "",
            f"`{command}`: {sum(row.problems for row in rows):,} problems in {minutes:.0f} minutes on one core"
            f" ({platform.machine()}, torch {torch.__version__}, float64, tolerance 1e-9).",
            "",
            "| promise | | found |",
            "|---|---|---|",
            *held,
            "",
            "Gaps are relative, computed in float64 from the problem's definition, over problems that count as"
            " converged; derivatives in both modes along one direction of all arguments, against differences, at points"
            " without a flag where differences can tell to 1e-6. Degenerate: the layer says that derivatives are"
            " one-sided or not unique. Foreign starts are solutions of other targets, strengths, bounds or scales, many"
            " of them outside the constraints; bfloat16 autocast is put around forward, backward and both, in float32,"
            " and looked at in values, first and second derivatives; zero at l1_max is without remainder at (1 + 1e-6)"
            " times it, and not zero below is two percent below.",
            "",
            *(f"| {line} |" for line in table),
            "",
        ]
    )
