"""More than 150,000 generated problems over all layers: certificates, constraints, derivatives, starts, autocast and
l1_max, against independent code.

    python benchmarks/thorough.py

Problems of one shape are solved as a batch, half of them generic, half nasty on purpose (see
`implicitlayers.testing.KINDS`).
Every batch is a function of its number, and adds one row to a file in ``runs/thorough`` that is named after the code
under test: the same command continues where it was interrupted, and starts anew once the code has changed. The summary
goes to ``benchmarks/results/thorough.{csv,md}``; the exit code is 1 where something promised does not hold.
"""

import argparse
import csv
import hashlib
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from thorough_layers import SIZES, TOL, WEIGHTS, Layer, layers
from thorough_looks import NOTHING, Look, autocast, derivative_errors, starts, thresholds
from thorough_summary import Row, summarise
from torch import Tensor

import implicitlayers as il
from implicitlayers.testing import Example, kinds
from implicitlayers.testing.feasibility import feasible, true_gap
from implicitlayers.testing.scaling import drawn_strengths
from implicitlayers.testing.strategies import RIDGES, kinds_of_problem, ordinary
from implicitlayers.testing.subject import Answer

ROOT = Path(__file__).parents[1]


class Batch(NamedTuple):
    """What to solve: a layer by name, a kind of problem, and the seed of its numbers."""

    layer: str
    kind: str
    seed: int


def plan(problems: int, size: int) -> list[Batch]:
    """At least that many problems: rounds over layers and kinds, as many generic batches as nasty ones."""
    batches: list[Batch] = []
    while len(batches) * size < problems:
        for name, layer in layers().items():
            nasty = kinds_of_problem(layer.problem, weights=True)[1:]
            if layer.zero and "l1" in layer.zero:
                nasty = tuple(kind for kind in nasty if kind not in kinds.RATIOS)
            batches += [
                Batch(name, kind, len(batches) + i) for i, kind in enumerate((*nasty, *["generic"] * len(nasty)))
            ]
    return batches


def example_of(batch: Batch, size: int) -> Example:
    """The batch's problems: their shape, kind and ridge are shared, ratios of strengths differ."""
    layer = layers()[batch.layer]
    problem = layer.problem
    rng, generator = random.Random(batch.seed), torch.Generator().manual_seed(batch.seed)
    n, m, k = rng.choice(SIZES["n"]), rng.choice(layer.m), rng.choice(SIZES["k"])
    k = {0: k, 2: 2, 3: max(k, 2)}[problem.classes]
    X, Y = ordinary(1_000_003 * (batch.seed + 1), (size,), n, m, k, problem.classes > 0, 0.0, 1.0, 0.5)
    weight = torch.ones(size, n, dtype=torch.float64)
    weighted = batch.kind == "zero weights" or rng.random() < 0.3
    if weighted:
        weight = 0.5 + torch.rand(size, n, generator=generator, dtype=torch.float64)
    X, Y, weight = kinds.apply(batch.kind, (X, Y, weight))
    strengths = {}
    if problem.groups and problem.name == "group_lasso":
        strengths["group_weights"] = WEIGHTS.expand(size, -1)
    example = Example(X, Y, strengths, weight if weighted else None, batch.kind)
    # Without any penalty there may be no minimum.
    ridge = rng.choice(RIDGES if example.generic or "l1" in layer.zero else (*RIDGES, 0.0))
    drawn = drawn_strengths(problem, example, _ratios(batch.kind, size, generator), ridge, rng.choice((0.03, 0.3, 1.0)))
    drawn = drawn.with_strengths(**{name: torch.zeros(size, dtype=torch.float64) for name in layer.zero})
    solvable = problem.solvable(drawn)
    return drawn[solvable] if solvable.any() else example_of(batch._replace(seed=batch.seed + 1_000_003), size)


def _ratios(kind: str, size: int, generator: torch.Generator) -> Tensor:
    if kind in kinds.RATIOS:
        choices = torch.tensor(kinds.RATIOS[kind], dtype=torch.float64)
        return choices[torch.randint(len(choices), (size,), generator=generator)]
    return 10 ** (-1.5 * torch.rand(size, generator=generator, dtype=torch.float64)) * 0.97


def look(batch: Batch, size: int, sampled: int) -> tuple[Row, list[str]]:
    """Solve a batch and judge it: a row of figures, and code for whatever should not be."""
    start = time.perf_counter()
    layer, example = layers()[batch.layer], example_of(batch, size)
    size = len(example.X)
    subject, problem = layer.subject(TOL), layer.problem
    answer = subject.answer(example)
    status = _solution_status(layer, example)
    gap = true_gap(problem, example, answer)
    assert answer.converged is not None
    bad = {
        "not a number": ~answer.W.flatten(1).isfinite().all(-1),
        "outside the constraints": ~feasible(problem, example, answer.coefficients),
        'a false "converged"': answer.converged & ~(gap <= TOL),
    }
    plain = status == 0
    error, judged, lost = derivative_errors(layer, example[:sampled])
    sampled = len(error)
    judged &= plain[:sampled]
    error = torch.where(judged, error, 0.0)
    wrong = torch.zeros(size, dtype=torch.bool)
    wrong[:sampled] = judged & ~(error <= 1e-5)
    missing = torch.zeros(size, dtype=torch.bool)
    missing[:sampled] = lost
    bad |= {"a wrong derivative": wrong, "a derivative that is not a number": missing}
    looks = more_looks(batch, layer, example, answer, plain, sampled)
    for one in looks.values():
        bad[one.what] = torch.cat([one.wrong, torch.zeros(size - len(one.wrong), dtype=torch.bool)])
    found = [f"# {batch.layer}: {what}, batch {batch.seed}: {int(mask.sum())} of {size}; {_figures(gap, error, mask)}\n"
             f"{example[int(mask.nonzero()[0])].code()}" for what, mask in bad.items() if mask.any()]  # fmt: skip
    row = Row(
        seed=batch.seed, layer=batch.layer, kind=batch.kind, problems=size,
        worst_gap=float(torch.where(answer.converged, gap, 0.0).nan_to_num(torch.inf).max()),
        false_converged=int(bad['a false "converged"'].sum()),
        derivatives=int(judged.sum()), worst_derivative=float(error.max()), wrong_derivatives=int(wrong.sum()),
        degenerate=int((status & int(il.Status.DEGENERATE | il.Status.SINGULAR) != 0).sum()),
        flagged=int((~answer.converged).sum()),
        not_a_number=int((bad["not a number"] | missing).sum()),
        infeasible=int(bad["outside the constraints"].sum()),
        **{name: one.looked_at for name, one in looks.items()},
        **{f"wrong_{name}": int(one.wrong.sum()) for name, one in looks.items()},
        seconds=round(time.perf_counter() - start, 2),
    )  # fmt: skip
    return row, found


def more_looks(
    batch: Batch, layer: Layer, example: Example, answer: Answer, plain: Tensor, sampled: int
) -> dict[str, Look]:
    """One of three in turn, for each costs as much as the rest: of a round every layer and kind gets some."""
    looks = dict.fromkeys(("starts", "autocast", "thresholds"), NOTHING)
    sparse = "l1" in layer.problem.strengths and "l1" not in layer.zero
    turn = ("starts", "thresholds" if sparse else "starts", "autocast")
    name = turn[batch.seed % len(turn)]
    subject = layer.subject(TOL)
    if name == "starts":
        looks[name] = starts(subject, example, answer, plain, batch.seed // len(turn))
    elif name == "thresholds":
        looks[name] = thresholds(subject, example)
    else:
        looks[name] = autocast(layer, example[:sampled])
    return looks


def _solution_status(layer: Layer, example: Example) -> Tensor:
    with torch.no_grad():
        return layer.subject(TOL).at(example.strengths).solve(example.X, example.Y, **_weights(example)).status  # type: ignore[attr-defined]


def _weights(example: Example) -> dict[str, Tensor]:
    return {} if example.sample_weight is None else {"sample_weight": example.sample_weight}


def _figures(gap: Tensor, error: Tensor, mask: Tensor) -> str:
    first = int(mask.nonzero()[0])
    return f"gap {float(gap[first]):.1e}" + (
        f", derivative error {float(error[first]):.1e}" if first < len(error) else ""
    )


def state_file(size: int, sampled: int) -> Path:
    """Named after the code under test and the options."""
    digest = hashlib.sha256(f"{size} {sampled} {torch.__version__}".encode())
    for path in sorted([*(ROOT / "implicitlayers").rglob("*.py"), *Path(__file__).parent.glob("thorough*.py")]):
        digest.update(path.read_bytes())
    return ROOT / "runs" / "thorough" / f"{digest.hexdigest()[:12]}.csv"


def finished(state: Path) -> Iterator[Row]:
    """Rows of a run so far; a line cut off by an interruption does not count."""
    if not state.exists():
        return
    with state.open(newline="") as file:
        for line in csv.DictReader(file):
            try:
                yield Row.parse(line)
            except (TypeError, ValueError):
                continue


def looked_at(batches: list[Batch], jobs: int, **sizes: int) -> Iterator[tuple[Row, list[str]]]:
    """What `look` finds, batch by batch as they are done, by so many processes."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        try:
            for done in as_completed([pool.submit(look, batch, **sizes) for batch in batches]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=150_000, help="at least that many (default: %(default)s)")
    parser.add_argument("--size", type=int, default=160, help="problems per batch (default: %(default)s)")
    parser.add_argument("--sampled", type=int, default=8, help="of them with derivatives (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="where the summary goes")
    options = parser.parse_args()
    state = state_file(options.size, options.sampled)
    batches = plan(options.problems, options.size)
    rows = {row.seed: row for row in finished(state)}
    state.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar, state.open("a", newline="") as file:
        writer = csv.DictWriter(file, Row._fields)
        if not rows:
            writer.writeheader()
        task = bar.add_task("batches", total=len(batches), completed=len(rows))
        # In an order in which the time left can be told.
        todo = [batch for batch in random.Random(0).sample(batches, len(batches)) if batch.seed not in rows]
        for row, found in looked_at(todo, options.jobs, size=options.size, sampled=options.sampled):
            bar.update(task, description=f"{row.layer}: {row.kind}")
            if found:
                with state.with_suffix(".found.txt").open("a") as log:
                    log.write("\n".join(found) + "\n")
            writer.writerow(row._asdict())
            file.flush()
            rows[row.seed] = row
            bar.advance(task)
    held = summarise(list(rows.values()), options.results, "make test-thorough")
    return 0 if held else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Stopped: the same command continues.")
        sys.exit(130)
