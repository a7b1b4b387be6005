"""What was measured: records, one per case and contender, as a JSON file and as a table."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from .problems import Case


@dataclass
class Record:
    """One row. What was not measured, or has no meaning, is None.

    Attributes:
        case: what was solved, in words.
        peer: by whom.
        version: of its package.
        n: samples.
        m: features.
        k: classes or targets.
        batch: problems solved together.
        dtype: of the features.
        l1_share: l1 as a share of its bound.
        l2: in sum scaling.
        forward_s: median seconds to solve.
        total_s: median seconds to solve and to differentiate with respect to X.
        forward_min_s: the least.
        total_min_s: the least.
        gap: largest relative duality gap of the batch, in float64 arithmetic that is nobody's.
        derivative_error: ‖g − g*‖/‖g*‖ of the gradient of a fixed linear functional of W, g* from a float64 solve to
            1e-12.
        peak_mb: growth of the process's resident memory beyond its inputs while it solves and differentiates, in MB.
        ratio: median over repetitions of its total seconds over ours, of forward seconds where it has no derivatives.
        ratio_min: the ratio of the least seconds.
        repetitions: how many were timed.
        threads: of torch; the other libraries use as many as there are cores.
        active_share: share of features with a nonzero row, mean over the batch.
        multiple: seconds or memory as a multiple of what the remark says.
        exponent: of a fitted power law of the seconds.
        remark: how it was set; what has no column.
        error: why there is no result.
    """

    case: str
    peer: str
    version: str | None = None
    n: int | None = None
    m: int | None = None
    k: int | None = None
    batch: int | None = None
    dtype: str | None = None
    l1_share: float | None = None
    l2: float | None = None
    forward_s: float | None = None
    total_s: float | None = None
    forward_min_s: float | None = None
    total_min_s: float | None = None
    gap: float | None = None
    derivative_error: float | None = None
    peak_mb: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    repetitions: int | None = None
    threads: int | None = None
    active_share: float | None = None
    multiple: float | None = None
    exponent: float | None = None
    remark: str = ""
    error: str | None = None

    @classmethod
    def of(cls, case: Case, peer: str, **measured: Any) -> "Record":
        """Of a contender's results on a case."""
        shape = {name: getattr(case, name) for name in ("n", "m", "k", "batch", "dtype", "l1_share", "l2")}
        return cls(case.name, peer, **shape, **measured)


def write(records: Sequence[Record], path: Path) -> None:
    """A list of objects, the whole or nothing of it; NaN and infinity, which JSON lacks, are written as texts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    rows = [{name: _json(value) for name, value in asdict(record).items()} for record in records]
    unfinished.write_text(
        "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n", encoding="utf-8"
    )
    os.replace(unfinished, path)


def read(path: Path) -> list[Record]:
    """What `write` wrote."""
    return [
        Record(**{name: float(value) if value in ("nan", "inf") else value for name, value in row.items()})
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def _json(value: Any) -> Any:
    """Five digits."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else str(abs(value))


COLUMNS = ("case", "size", "peer", "forward", "total", "ratio", "gap", "derivative", "MB", "remark")


def cells(record: Record) -> tuple[str, ...]:
    """The row of a table for people, under COLUMNS."""
    shape = [f"{record.batch}×" if record.batch else "", *(str(x) for x in (record.n, record.m, record.k) if x)]
    dtype = {"float32": " f32", "float64": " f64", None: ""}[record.dtype]
    return (
        record.case,
        shape[0] + "×".join(shape[1:]) + dtype,
        record.peer,
        seconds(record.forward_s),
        seconds(record.total_s),
        "" if record.ratio is None else f"{record.ratio:.2g}" if record.ratio < 100 else f"{record.ratio:.0f}",
        small(record.gap),
        small(record.derivative_error),
        "" if record.peak_mb is None else f"{record.peak_mb:.0f}",
        record.error or record.remark,
    )


def seconds(value: float | None) -> str:
    """As milliseconds where that reads better."""
    if value is None:
        return "–"
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def small(value: float | None) -> str:
    """One digit and the exponent."""
    return "" if value is None else f"{value:.0e}"


def table(records: Iterable[Record], title: str) -> Table:
    """For the terminal; what failed is shown as such."""
    shown = Table(*COLUMNS, title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name, column in zip(COLUMNS, shown.columns, strict=True):
        column.no_wrap = name != "remark"
        column.justify = "left" if name in ("case", "size", "peer", "remark") else "right"
    previous = None
    for record in records:
        if record.peer == "ours" and previous not in (None, "ours"):
            shown.add_section()
        style = "red" if record.error else "bold" if record.peer == "ours" else None
        shown.add_row(*cells(record), style=style)
        previous = record.peer
    return shown
