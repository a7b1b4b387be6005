"""Peers on the same problems: time, memory, duality gap and error of derivatives, all measured here and judged alike.

python -m benchmarks.peers svm             group-Lasso multiclass SVM: qpth, jaxopt, cvxpylayers, and gradient methods
python -m benchmarks.peers regression      Lasso, multi-task Lasso: scikit-learn, celer, skglm
python -m benchmarks.peers batch           many problems at once, one hard problem among easy ones
python -m benchmarks.peers memory          a million features
python -m benchmarks.peers step            the layer's share of a training step
python -m benchmarks.peers scaling         time against sizes, against the least work; hard problems
python -m benchmarks.peers all             all of these, into benchmarks/results/peers
python -m benchmarks.peers report          tables and figures from the JSON files there

The peers have an environment of their own: ``make peers``. One that is missing, or fails, has a row that says so.
All cores are used; OMP_NUM_THREADS=1 before the command restricts torch and the others to one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import records
from .effort import QUICK, Effort
from .plans import PLANS
from .records import Record
from .report import report

WIDTH = 150
RESULTS = Path(__file__).parents[1] / "results" / "peers"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line on ``args``, by default those of the process."""
    parser = ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    commands = parser.add_subcommands()
    for name, plan in PLANS.items():
        commands.add_subcommand(name, _measuring(plan.__doc__), help=plan.__doc__)
    commands.add_subcommand("all", _measuring("Every command in turn.", to_folder=True), help="all of these")
    commands.add_subcommand("report", _reporting(), help="tables and figures from JSON files")
    options = parser.parse_args(args)
    chosen = options[options.subcommand]
    if options.subcommand == "report":
        report(Path(chosen.results))
        return
    if options.subcommand != "all":
        run(options.subcommand, chosen.quick, None if chosen.json is None else Path(chosen.json), chosen.limit)
        return
    for name in PLANS:
        run(name, chosen.quick, Path(chosen.results) / f"{name}.json", chosen.limit)
    report(Path(chosen.results))


def run(name: str, quick: bool, path: Path | None, limit: float = Effort.limit) -> list[Record]:
    """One command: a progress bar, a table, and the records, written after every job."""
    jobs, effort, found = PLANS[name](quick), replace(QUICK if quick else Effort(), limit=limit), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=len(jobs))
        for job in jobs:
            found += job(effort, lambda doing: progress.update(task, description=f"{name}: {doing}"))
            if path is not None:
                records.write(found, path)
            progress.advance(task)
    console = Console(width=WIDTH)
    console.print(records.table(found, f"{PLANS[name].__doc__}"))
    if path is not None:
        console.print(f"Written: {path}")
    return found


def _measuring(description: str | None, to_folder: bool = False) -> ArgumentParser:
    parser = ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny problems, two repetitions: does it run?")
    parser.add_argument("--limit", type=float, default=Effort.limit, help="seconds after which a peer is given up")
    if to_folder:
        parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files and the report")
    else:
        parser.add_argument("--json", type=Path | None, default=None, help="file to write the records to")
    return parser


def _reporting() -> ArgumentParser:
    parser = ArgumentParser(description="README.md and figures from the JSON files of a folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder")
    return parser


if __name__ == "__main__":
    main()
