"""No cliffs: over randomly drawn problems, a layer's solve against plain accelerated proximal gradient.

    python -m benchmarks.cliffs --problems 200 --seed 0
    python -m benchmarks.cliffs --only MulticlassSVM
    python -m benchmarks.cliffs --number 17          measure that problem again
    python -m benchmarks.cliffs compare OLD NEW      files of rows: ratios side by side, the worst of the last first

Named problems, on which solvers once were slow, have negative numbers and come first. Every problem adds a row to a
file in ``runs/cliffs`` that is named after the code under test: the same command continues where it was interrupted.
The reference's figures are in a file of their own, which a changed library does not make void. The summary of a run of
all layers goes to ``benchmarks/results/cliffs.{csv,md}``.
"""

import argparse
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .draws import LAYERS, draw, named
from .rows import ROOT, Effort, Kept, Row, context, measured, ratio, reference_file, rows_file
from .summary import WORST, by_ratio, compared, counts, line, markdown, write


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["compare"]:
        print(markdown(compared([list(Kept(Path(name)).rows.values()) for name in arguments[1:]])))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cliffs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=200, help="besides the named ones (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument("--only", choices=sorted(set(LAYERS)), help="this layer's problems; no summary is written")
    parser.add_argument("--number", type=int, action="append", help="measure these anew; no summary is written")
    parser.add_argument("--jobs", type=int, default=1, help="problems at a time (default: %(default)s)")
    usual = Effort()
    parser.add_argument("--patience", type=float, default=usual.patience, help="s, of a solve (default: %(default)s)")
    parser.add_argument(
        "--times", type=float, default=usual.times, help="the reference's, if that is longer (default: %(default)s)"
    )
    parser.add_argument("--solve-only", action="store_true", help="at tol=1e-6, and nothing else")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="where the summary goes")
    options = parser.parse_args(arguments)
    effort = Effort(options.patience, options.times, options.solve_only)
    rows, references = Kept(rows_file(effort)), Kept(reference_file())
    numbers = options.number or [*range(-1, -len(named(0)) - 1, -1), *range(options.problems)]
    draws = [draw(number, options.seed) for number in numbers]
    draws = [one for one in draws if options.only in (None, one.layer)]
    todo = draws if options.number else [one for one in draws if rows.get(one) is None]
    processes = context()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar, ThreadPoolExecutor(options.jobs) as pool:
        task = bar.add_task("problems", total=len(draws), completed=len(draws) - len(todo))
        jobs = {pool.submit(measured, one, effort, processes, references): one for one in todo}
        try:
            for done in as_completed(jobs):
                one, row = jobs[done], done.result()
                rows.put(one, row)
                bar.update(task, description=f"{one.number}: {one.layer}, {ratio(row):.2g}×", advance=1)
        finally:
            pool.shutdown(cancel_futures=True)
    found: list[Row] = [rows.rows[one.number, one.seed] for one in draws]
    print(markdown([line(row) for row in by_ratio(found)[:WORST]]))
    print(", ".join(f"{name}: {count}" for name, count in counts(found).items()))
    print(f"rows: {rows.path}")
    if options.number is None and options.only is None:
        write(found, options.results, shlex.join(["python", "-m", "benchmarks.cliffs", *arguments]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("Stopped: the same command continues.")
        sys.exit(130)
