"""A problem's row: its draw, what the reference took, what the layer took; measured, kept, and read back."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import stages
from .draws import Draw

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs" / "cliffs"
TIMES, MEMORY = 3.0, 10.0
# Below both count for nothing: the calls themselves, and pages the allocator keeps.
FLOOR_S, FLOOR_MB = 0.05, 50.0

Row = dict[str, Any]


def context() -> Any:
    """Processes forked from one that has imported everything; with one thread each."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([stages.__name__])
    return found


class Effort(NamedTuple):
    """A stage of the layer's may take ``patience`` seconds, or ``times`` the reference's if that is longer; the stages
    after the first are left out where ``solve_only``.
    """

    patience: float = 20.0
    times: float = 10.0
    solve_only: bool = False


def measured(draw: Draw, effort: Effort, processes: Any, known: "Kept | None" = None) -> Row:
    """Both sides of a problem; the reference's is not measured again where it is ``known``."""
    found = None if known is None else known.get(draw)
    if found is None:
        found = _collected(stages.look_at_reference, (draw,), 10 * stages.REFERENCE_SECONDS, processes)
        if known is not None and "reference_s" in found:
            known.put(draw, found)
    if "reference_s" not in found:
        return {**asdict(draw), "failure": f"reference: {found['failure']}"}
    row = {**asdict(draw), **found, "allowed_mb": allowed_mb(draw)}
    bounds = list(zip(row.pop("lower"), row.pop("null"), strict=True))
    row["limit_s"] = max(effort.patience, effort.times * row["reference_s"])
    # The processor's time limits a stage; the clock is there for what does not even compute.
    seconds = 20 * row["limit_s"] + 60
    arguments = (draw, row["limit_s"], bounds, effort.solve_only)
    return row | _collected(stages.look_at_layer, arguments, seconds, processes)


def allowed_mb(draw: Draw) -> float:
    """X as given, and n·k numbers in float64."""
    size = {"float32": 4, "float64": 8}[draw.dtype]
    return draw.batch * draw.n * (draw.m * size + draw.k * 8) / 1e6


def _collected(look: Callable[..., None], arguments: tuple[Any, ...], seconds: float, processes: Any) -> Row:
    """What the process sent before it ended, was killed, or was given up after so many seconds."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=look, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    found: Row = {}
    try:
        while ours.poll(seconds):
            found |= ours.recv()
        process.kill()
        found.setdefault("failure", "time")
    except EOFError:
        process.join()
        if process.exitcode:
            reason = {-24: "time", -9: "memory"}.get(process.exitcode, f"exit code {process.exitcode}")
            found.setdefault("failure", reason)
    process.join()
    return found


def seconds_of(row: Row, name: str = "solve_s") -> float | None:
    """Of a stage; the limit where it was not reached; None where that is not known."""
    return row.get(name, row.get("limit_s") if "failure" in row else None)


def ratio(row: Row, name: str = "solve_s") -> float:
    """Times the reference's; at least, where either was stopped at its limit."""
    seconds = seconds_of(row, name)
    return float("nan") if seconds is None or "reference_s" not in row else seconds / row["reference_s"]


def memory_ratio(row: Row) -> float:
    """Of the peak to what X and n·k numbers take; infinite where memory did not suffice."""
    if row.get("failure") == "memory" and "peak_mb" not in row:
        return float("inf")
    return row["peak_mb"] / row["allowed_mb"] if "peak_mb" in row else float("nan")


class Kept:
    """Rows in a file of JSON lines, by number and seed; a line cut off by an interruption does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[int, int], Row] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                self.rows[row["number"], row["seed"]] = row

    def get(self, draw: Draw) -> Row | None:
        """Without the draw itself."""
        row = self.rows.get((draw.number, draw.seed))
        return None if row is None else {name: value for name, value in row.items() if name not in asdict(draw)}

    def put(self, draw: Draw, figures: Row) -> None:
        """In place of what there was."""
        row = asdict(draw) | figures
        self.rows[draw.number, draw.seed] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def reference_file() -> Path:
    """Named after what decides over it: problems and reference, so that it outlives changes of the library."""
    return RUNS / f"reference-{_digest(*_parts('draws', 'reference'))}.jsonl"


def rows_file(effort: Effort) -> Path:
    """Named after the code under test."""
    library = sorted((ROOT / "implicitlayers").rglob("*.py"))
    return RUNS / f"{_digest(*library, *_parts('draws', 'reference', 'stages'), text=str(effort))}.jsonl"


def _parts(*names: str) -> list[Path]:
    return [Path(__file__).with_name(f"{name}.py") for name in names]


def _digest(*paths: Path, text: str = "") -> str:
    digest = hashlib.sha256(f"{torch.__version__} {text}".encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
