"""Solves beside two busy processes: python benchmarks/neighbours.py writes benchmarks/results/neighbours.{json,md}.

For each problem the forward and backward pass of a layer, on one thread, on two, and on as many as the layer chooses,
in turn; first alone, then beside two processes that compute without end. Medians. ``--rounds`` and ``--seconds`` bound
the time: a problem ends after so many rounds, or with the first round after so many seconds.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import implicitlayers as il

RESULTS = Path(__file__).parent / "results"
CHOICES = {"one thread": 1, "two threads": 2, "the layer's choice": None}
# What is measured first: neighbours end by themselves, should this process be killed.
LONGEST = 1800


def machine(b: int, n: int, m: int, k: int) -> tuple[Tensor, Tensor, Callable[..., Any]]:
    X, y = torch.randn(b, n, m).relu() / m**0.5, (torch.arange(n) % k).expand(b, n)
    # A fifth of what leaves nothing: V at W = 0, where all margins tie.
    V = X.mT @ (1.25 * torch.nn.functional.one_hot(y, k) - 0.25).float() / n
    l1 = 0.2 * float(V.norm(dim=-1).max())
    return X, y, lambda threads: il.MulticlassSVM(0.01, l1, n_classes=k, threads=threads)


def lasso(b: int, n: int, m: int, k: int) -> tuple[Tensor, Tensor, Callable[..., Any]]:
    X = torch.randn(b, n, m)
    Y = X[..., :5].sum(-1, keepdim=True) + torch.randn(b, n, k)
    return X, Y, lambda threads: il.Lasso(il.Relative(0.2), threads=threads)


def ridge(b: int, n: int, m: int, k: int) -> tuple[Tensor, Tensor, Callable[..., Any]]:
    return torch.randn(b, n, m), torch.randn(b, n, k), lambda threads: il.Ridge(0.1, threads=threads)


def logistic(b: int, n: int, m: int, k: int) -> tuple[Tensor, Tensor, Callable[..., Any]]:
    X, y = torch.randn(b, n, m), (torch.arange(n) % k).expand(b, n)
    return X, y, lambda threads: il.LogisticRegression(l1=0.01, l2=0.01, n_classes=k, threads=threads)


# Batch, samples, features, classes or targets.
PROBLEMS = [
    (machine, (8, 25, 640, 5)),
    (machine, (8, 75, 1600, 5)),
    (machine, (8, 75, 6400, 5)),
    (lasso, (1, 100, 1000, 1)),
    (lasso, (1, 200, 4000, 1)),
    (lasso, (1, 500, 20_000, 1)),
    (ridge, (8, 25, 640, 5)),
    (ridge, (1, 1000, 1000, 5)),
    (ridge, (1, 1000, 4000, 5)),
    (logistic, (8, 25, 640, 5)),
    (logistic, (1, 300, 3000, 3)),
    (logistic, (1, 300, 10_000, 3)),
]


def busy() -> None:
    """Compute without end, as a loader of data does."""
    torch.set_num_threads(1)
    X, end = torch.randn(200, 200), time.monotonic() + LONGEST
    while time.monotonic() < end:
        X = (X @ X).tanh()


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    processes = [multiprocessing.get_context("spawn").Process(target=busy, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        # Until they have imported torch.
        time.sleep(5 if processes else 0)
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def measured(make: Callable[..., Any], X: Tensor, Y: Tensor, rounds: int, seconds: float) -> dict[str, float]:
    """Median milliseconds by choice, one choice after the other in each round."""
    X, times = X.clone().requires_grad_(), {name: [] for name in CHOICES}
    start = time.monotonic()
    for turn in range(rounds + 1):
        # Who has just used two processors is served last for a while: in changing order, and after a rest.
        for name in random.sample(list(CHOICES), len(CHOICES)):
            time.sleep(0.3)
            X.grad = None
            begin = time.perf_counter()
            make(CHOICES[name])(X, Y).square().sum().backward()
            # The first is to warm up.
            if turn:
                times[name].append(time.perf_counter() - begin)
        if turn and time.monotonic() - start > seconds:
            break
    return {name: round(1e3 * statistics.median(values), 2) for name, values in times.items()}


def table(rows: list[dict[str, Any]]) -> str:
    names = [f"{name}, {place}" for place in ("alone", "beside two") for name in CHOICES]
    lines = [
        "# Beside two busy processes",
        "",
        "Milliseconds for a forward and a backward pass, float32 features, medians; `python benchmarks/neighbours.py`.",
        "Sizes are batch × samples × features × classes or targets. The last column is the layer's choice beside two",
        "busy processes in units of one thread alone.",
        "",
        "| problem | entries of X | " + " | ".join(names) + " | share |",
        "|---|" + "---:|" * (len(names) + 2),
    ]
    for row in rows:
        values = [row[place][name] for place in ("alone", "beside two") for name in CHOICES]
        share = row["beside two"]["the layer's choice"] / row["alone"]["one thread"]
        size = " × ".join(str(s) for s in row["size"])
        lines.append(
            f"| {row['problem']} {size} | {row['entries']:,} | "
            + " | ".join(f"{v:g}" for v in values)
            + f" | {share:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", help="problems whose name contains this")
    parser.add_argument("--to", type=Path, default=RESULTS / "neighbours", help="path without suffix")
    options = parser.parse_args()
    torch.set_num_threads(2)
    chosen = [(f, size) for f, size in PROBLEMS if not options.only or options.only in f.__name__]
    rows: list[dict[str, Any]] = []
    for make_problem, size in chosen:
        rows.append({"problem": make_problem.__name__, "size": size, "entries": size[0] * size[1] * size[2]})
    for place, count in {"alone": 0, "beside two": 2}.items():
        with neighbours(count):
            for row, (make_problem, size) in zip(rows, chosen, strict=True):
                torch.manual_seed(0)
                X, Y, make = make_problem(*size)
                row[place] = measured(make, X, Y, options.rounds, options.seconds)
                print(place, row["problem"], size, row[place], flush=True)
    about = {"torch": torch.__version__, "processors": os.cpu_count(), "machine": platform.machine()}
    options.to.with_suffix(".json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    options.to.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
