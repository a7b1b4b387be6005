"""What a solve costs beside busy neighbours: the same solves with none, and with two processes that compute.

    python -m benchmarks.neighbours

Every problem is solved with the library's own choice of threads and with as many as torch uses, alone and beside two
processes that multiply matrices on one thread each, as data loaders would. Blocks of repetitions with and without the
neighbours alternate; medians of wall time are compared with those alone on one thread. Results go to
``benchmarks/results/neighbours.{json,md}``.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track

import implicitlayers as il

RESULTS = Path(__file__).parent / "results"
NEIGHBOURS, BLOCKS, REPETITIONS = 2, 5, 7
COMMAND = "python -m benchmarks.neighbours"


def busy(stop: "multiprocessing.synchronize.Event", seconds: float) -> None:
    """Multiplies matrices until it is told to stop, and no longer than some seconds."""
    torch.set_num_threads(1)
    A, end = torch.randn(300, 300), time.monotonic() + seconds
    while not stop.is_set() and time.monotonic() < end:
        A = (A @ A).clamp(-1, 1)


def problems() -> dict[str, tuple[Callable[[int | None], il.layers.base.ArgminLayer], torch.Tensor, torch.Tensor]]:
    """By name: a layer for a number of threads, its features and its targets."""
    generator = torch.Generator().manual_seed(0)

    def features(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def classes(b: int, n: int, k: int) -> torch.Tensor:
        return torch.arange(n).remainder(k).expand(b, n)

    return {
        "8 SVMs, 25 × 640, 5 classes": (
            lambda t: il.MulticlassSVM(0.01, 0.01, threads=t),
            features(8, 25, 640),
            classes(8, 25, 5),
        ),
        "8 SVMs, 75 × 640, 5 classes": (
            lambda t: il.MulticlassSVM(0.01, 0.01, threads=t),
            features(8, 75, 640),
            classes(8, 75, 5),
        ),
        "Lasso, 100 × 1,000": (lambda t: il.Lasso(0.1, threads=t), features(100, 1000), features(100, 1)),
        "32 ridges, 50 × 200": (lambda t: il.Ridge(0.1, threads=t), features(32, 50, 200), features(32, 50, 5)),
        "logistic, 200 × 100, 5 classes": (
            lambda t: il.LogisticRegression(l1=0.02, threads=t),
            features(200, 100),
            classes(1, 200, 5)[0],
        ),
        "Lasso, 500 × 20,000": (lambda t: il.Lasso(0.2, threads=t), features(500, 20000), features(500, 1)),
    }


def milliseconds(layer: il.layers.base.ArgminLayer, X: torch.Tensor, Y: torch.Tensor) -> list[float]:
    """Wall times of some solves."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        layer.solve(X, Y)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def measure(seconds: float) -> list[dict[str, object]]:
    """Rows: problem, threads, medians alone and beside neighbours."""
    context, cases, all_threads = multiprocessing.get_context("spawn"), problems(), torch.get_num_threads()
    options: dict[str, int | None] = {"library's choice": None, f"all {all_threads}": all_threads, "one": 1}
    layers = {(name, kind): cases[name][0](count) for name in cases for kind, count in options.items()}
    times: dict[tuple[str, str, bool], list[float]] = {}
    for name, kind in layers:
        layers[name, kind].solve(*cases[name][1:])
    for block in track(range(2 * BLOCKS), "blocks"):
        beside, stop = bool(block % 2), context.Event()
        others = [context.Process(target=busy, args=(stop, seconds)) for _ in range(NEIGHBOURS * beside)]
        for other in others:
            other.start()
        # They import torch first.
        time.sleep(4.0 * beside)
        for name, kind in layers:
            times.setdefault((name, kind, beside), []).extend(milliseconds(layers[name, kind], *cases[name][1:]))
        stop.set()
        for other in others:
            other.join()
    rows = []
    for name, kind in layers:
        alone, besides = (statistics.median(times[name, kind, beside]) for beside in (False, True))
        one = statistics.median(times[name, "one", False])
        rows.append({"problem": name, "threads": kind, "alone_ms": alone, "beside_ms": besides, "ratio": besides / one})
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Markdown."""
    lines = [
        "# Beside busy neighbours",
        "",
        f"`{COMMAND}`: wall time of a solve, medians of {BLOCKS * REPETITIONS} in {BLOCKS} blocks, alone and beside"
        f" {NEIGHBOURS} processes that compute, on {os.cpu_count()} cores ({platform.machine()}, torch"
        f" {torch.__version__}). The ratio is to the same solve alone on one thread.",
        "",
        "| problem | threads | alone, ms | beside two, ms | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['problem']} | {row['threads']} | {row['alone_ms']:.1f} | {row['beside_ms']:.1f} |"
            f" {row['ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="after which a neighbour ends by itself")
    rows = measure(parser.parse_args().seconds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "neighbours.json").write_text(json.dumps({"command": COMMAND, "rows": rows}, indent=1) + "\n")
    (RESULTS / "neighbours.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
