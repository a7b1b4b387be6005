"""What is measured, stage by stage, each within a limit of processor time: by a process that does nothing else.

A stage's figures are sent as soon as it ends, so that they remain where a later one is killed: by SIGXCPU at the limit,
or for lack of memory.
"""

import ctypes
import gc
import resource
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import implicitlayers as il

from . import reference
from .draws import CLASSIFIERS, GROUP, Draw, Problem, problem_of

REFERENCE_SECONDS = 30.0
# What a solve may allocate before it counts as a failure, so that the machine survives it.
MOST_MEMORY = 8 * 2**30
# Shorter runs are repeated until they add up to that, so often at most: some kernels count a processor's time in ticks
# of 4 ms. One that is longer, but not long, runs once more.
SHORT, REPETITIONS, LONG = 0.3, 50, 2.0
# No time is shorter, or one too short to be counted would be zero.
LEAST = 1e-4

Figures = dict[str, Any]


class Run(NamedTuple):
    """Seconds of processor and wall, and the growth of the resident set at its peak, in bytes."""

    seconds: float
    wall: float
    peak: int


def look_at_reference(out: Connection, draw: Draw) -> None:
    """Sends one stage: "reference"."""
    problem = _prepared(draw)
    found: list[reference.Found] = []

    def run() -> None:
        seconds = REFERENCE_SECONDS / draw.batch
        found[:] = [reference.solve(problem, element, seconds) for element in range(draw.batch)]

    times = _measured(run, 3 * REFERENCE_SECONDS)
    out.send(
        {
            "reference_s": times.seconds,
            "reference_gap": max(one.gap for one in found),
            "reference_steps": max(one.steps for one in found),
            "lower": [one.lower for one in found],
            "null": [one.null for one in found],
        }
    )


def look_at_layer(
    out: Connection, draw: Draw, limit: float, bounds: list[tuple[float, float]], solve_only: bool
) -> None:
    """Sends three stages: the solve at the reference's tolerance and, if so wanted, at the layer's own, and with
    derivatives.

    ``bounds`` are lower bounds of each problem's minimum and P(0), from the reference.
    """
    problem = _prepared(draw)
    _warm_up(problem)
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + MOST_MEMORY, resource.RLIM_INFINITY))
    X, Y = problem.X, _targets(problem)
    if draw.batch == 1:
        X, Y = X[0], Y[0]
    tight, default = layer_of(problem, tol=reference.TOL), layer_of(problem, tol=None)
    kept: list[il.Solution] = []

    def solve(layer: Any) -> None:
        kept.clear()
        kept.append(layer.solve(X, Y))

    def differentiate() -> None:
        kept.clear()
        features = X.detach().requires_grad_()
        kept.append(tight.solve(features, Y))
        kept[0].coef.sum().backward()

    try:
        times = _measured(lambda: solve(tight), limit)
        out.send(
            {
                "solve_s": times.seconds,
                "wall_s": times.wall,
                "peak_mb": times.peak / 1e6,
                "solver": kept[0].solver,
                "iterations": int(kept[0].n_iter.max()),
                "converged": bool(kept[0].converged.all()),
                "own_gap": float(kept[0].gap.max()),
                "gap": _true_gap(problem, kept[0], bounds),
            }
        )
        if solve_only:
            return
        # In float32 the layer's own tolerance is the same.
        if draw.dtype == "float64":
            times = _measured(lambda: solve(default), limit)
        out.send({"default_s": times.seconds, "default_converged": bool(kept[0].converged.all())})
        out.send({"total_s": _measured(differentiate, limit).seconds})
    except (MemoryError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        out.send({"failure": "memory" if "alloc" in text or isinstance(error, MemoryError) else text[:200]})


def layer_of(problem: Problem, tol: float | None) -> Any:
    """The layer of the library; strengths that all of the batch share are numbers."""
    l1: Any = problem.l1[0]
    if len(problem.l1) > 1 and l1:
        l1 = torch.tensor(problem.l1, dtype=torch.float64)
    l2, own = problem.l2, problem.own
    m = problem.X.shape[-1]
    options: dict[str, Any] = {"tol": tol, "on_fail": "ignore"}
    if problem.intercept:
        options["fit_intercept"] = True
    strengths: dict[str, dict[str, Any]] = {
        "MulticlassSVM": {"l2": l2, "l1": l1, "smoothing": own},
        "BinarySVM": {"l2": l2, "l1": l1, "smoothing": own},
        "LogisticRegression": {"l1": l1, "l2": l2},
        "Lasso": {"l1": l1},
        "ElasticNet": {"l1": l1, "l2": l2},
        "GroupLasso": {"l1": l1, "l2": l2},
        "SparseGroupLasso": {
            "l1": l1,
            "group_l1": problem.group_l1,
            "l2": l2,
            "groups": [list(range(i, min(i + GROUP, m))) for i in range(0, m, GROUP)],
        },
        "HuberRegression": {"l1": l1, "l2": l2, "delta": own},
        "NonNegativeRegression": {"l1": l1, "l2": l2},
        "BoxRegression": {"lower": -own, "upper": own, "l2": l2},
        "SimplexRegression": {"l2": l2},
        "Ridge": {"l2": l2},
    }
    return getattr(il, problem.layer)(**strengths[problem.layer], **options)


def _targets(problem: Problem) -> Tensor:
    if problem.layer == "BinarySVM":
        return (problem.Y[..., 0] > 0).long()
    return problem.Y.argmax(-1) if problem.layer in CLASSIFIERS else problem.Y


def _prepared(draw: Draw) -> Problem:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return problem_of(draw)


def _warm_up(problem: Problem) -> None:
    """What a first call loads is none of the solve's business."""
    k = problem.Y.shape[-1]
    n = max(k, 6)
    X, Y = problem.X[:1, :n, :6].detach().requires_grad_(), problem.Y[:1, :n]
    if problem.layer in CLASSIFIERS:
        Y = Y.clone()
        Y[0, :k] = torch.eye(k) if k > 1 else Y[0, :k]
    small = problem._replace(X=X, Y=Y, l1=problem.l1[:1])
    layer_of(small, tol=None).solve(X, _targets(small)).coef.sum().backward()


def _true_gap(problem: Problem, solution: il.Solution, bounds: list[tuple[float, float]]) -> float:
    """The largest (P − lower)/P(0), P by the reference's definition; of constraints it says nothing."""
    batch, m, k = len(problem.X), problem.X.shape[-1], problem.Y.shape[-1]
    W = solution.coef.reshape(batch, m, k).to(torch.float64)
    b = None if solution.intercept is None else solution.intercept.reshape(batch, k).to(torch.float64)
    gaps = []
    for element, (lower, null) in enumerate(bounds):
        function = reference.function_of(problem, element)
        gaps.append((function.value(W[element], None if b is None else b[element]) - lower) / null)
    return max(gaps)


def _measured(run: Callable[[], object], limit: float) -> Run:
    """The mean over several runs where it is short, the second of two where it is not long; each within the limit."""
    found = _watched(run, limit)
    if found.seconds >= LONG:
        return found
    # The first also pays for what it is the first to need.
    again = _watched(run, limit)
    found = again._replace(peak=min(found.peak, again.peak))
    if found.seconds >= SHORT:
        return found
    _limit(limit + REPETITIONS * SHORT)
    count, wall, start = 0, time.perf_counter(), time.process_time()
    while count < REPETITIONS and time.process_time() - start < SHORT:
        run()
        count += 1
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    return found._replace(seconds=max(seconds / count, LEAST), wall=wall / count)


def _watched(run: Callable[[], object], limit: float) -> Run:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    _limit(limit)
    wall, start = time.perf_counter(), time.process_time()
    run()
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    return Run(seconds, wall, _status("VmHWM") - before)


def _status(name: str) -> int:
    """Bytes, from a line such as "VmRSS:  1234 kB"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _limit(seconds: float) -> None:
    """Of processor time, from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
