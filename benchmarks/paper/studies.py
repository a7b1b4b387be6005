"""Run a study, or what is missing of it, and draw its figure."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .figures import METRICS, study_figure
from .pictures import draw
from .results import ResultsFile, Row
from .settings import MEASURED, SETTING, Setting, Study
from .training import load, save, score, train


def run_study(name: str, study: Study, settings: Sequence[Setting], output: Path) -> None:
    """Train and score what output/results.csv lacks; write the figures beside it, and print a table.

    The figure of a study along an axis is name.png; without an axis the folder name/ shows what seed 0 has learnt.

    Interrupted at any time, the next call continues with the run that was interrupted.

    Args:
        name: of the study.
        study: whose settings these are.
        settings: of its runs.
        output: folder of the results.
    """
    results = ResultsFile(output / "results.csv", SETTING, MEASURED)
    missing = [setting for setting in settings if not results.of(vars(setting))]
    with progress_bar() as progress:
        task = progress.add_task(name, total=sum(setting.steps for setting in missing))
        for i, setting in enumerate(missing):
            progress.update(task, description=f"{name}: run {i + 1} of {len(missing)}, {setting.method}")
            started = time.perf_counter()
            learner = train(setting, advance=lambda: progress.advance(task))
            results.append(score(learner, setting, started))
            if study.x is None and setting.seed == 0:
                save(learner, encoder_path(output, name, setting))
    rows = [row for setting in settings for row in rows_of(results, setting)]
    written = [results.path]
    if study.x is not None:
        written.append(output / f"{name}.png")
        study_figure(rows, study.x, f"{settings[0].data}, {name}").savefig(written[-1], dpi=150)
    else:
        shown = [s for s in settings if s.seed == 0 and encoder_path(output, name, s).exists()]
        learners = {s.method: load(s, encoder_path(output, name, s)) for s in shown}
        written += draw(learners, shown[0], output / name) if shown else []
    Console(width=150).print(table(name, rows, study.x))
    print(f"Written: {', '.join(map(str, written))}")


def encoder_path(output: Path, name: str, setting: Setting) -> Path:
    """Where the encoder of a study's run of seed 0 is kept, for its pictures."""
    return output / name / f"{setting.method.replace(', ', '-')}.pt"


def rows_of(results: ResultsFile, setting: Setting) -> list[Row]:
    """The row of a setting, and that of the ridge with ICA beside the ridge's."""
    methods = (setting.method, "ridge+ica") if setting.method == "ridge" else (setting.method,)
    return [row for method in methods for row in results.of({**vars(setting), "method": method})]


def table(name: str, rows: Sequence[Row], x: str | None) -> Table:
    """Mean ± standard deviation over seeds of every metric, for each method and each value of ``x``."""
    table = Table(title=f"{name}: mean ± standard deviation over seeds", box=box.SIMPLE, padding=(0, 0, 0, 1))
    columns = (*METRICS, "sparsity", "seconds")
    table.add_column("method", no_wrap=True)
    for column in (*([x] if x else []), "seeds", *columns, "worst_gap", "flagged"):
        table.add_column(column, justify="right", no_wrap=True)
    cells = dict.fromkeys((row["method"], row[x] if x else "") for row in rows)
    for method, value in sorted(cells, key=lambda cell: (cell[0], float(cell[1] or 0))):
        of_cell = [row for row in rows if (row["method"], row[x] if x else "") == (method, value)]
        measured = {column: [float(row[column]) for row in of_cell] for column in MEASURED}
        table.add_row(
            method,
            *([value] if x else []),
            str(len(of_cell)),
            *(_mean_and_sd(measured[column]) for column in columns),
            f"{max(measured['worst_gap']):.0e}",
            f"{sum(measured['flagged']):.0f}",
        )
    return table


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with the time left, on terminals."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left:"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        yield progress


def _mean_and_sd(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
