"""Interleaved timing: all contenders once, then all once more, so that a slow minute of the machine hits them all."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from .effort import Effort
from .records import Record

Key = TypeVar("Key")


def clock(function: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleave(
    functions: Mapping[Key, Callable[[], Any]], repetitions: int, budget: float = float("inf")
) -> dict[Key, list[float]]:
    """Seconds of every function in every repetition, each called once before the clock starts.

    Args:
        functions: what to time, by any key.
        repetitions: how often.
        budget: seconds for each function; slower ones take part in as many of the first repetitions as fit, two at
            least, where repetitions are two or more.
    """
    warm = {name: clock(function) for name, function in functions.items()}
    count = {name: int(max(min(2, repetitions), min(repetitions, budget / warm[name]))) for name in functions}
    times: dict[Key, list[float]] = {name: [] for name in functions}
    for repetition in range(repetitions):
        for name, function in functions.items():
            if repetition < count[name]:
                times[name].append(clock(function))
    return times


def ratios(times: list[float], reference: list[float]) -> tuple[float, float]:
    """The median of the ratios of the same repetition, and the ratio of the least."""
    return float(np.median([a / b for a, b in zip(times, reference, strict=False)])), min(times) / min(reference)


def time_into(
    records: Mapping[Any, Record], functions: Mapping[tuple[Any, str], Callable[[], Any]], effort: Effort
) -> dict[tuple[Any, str], list[float]]:
    """Time functions by (record's key, "forward" or "total"), interleaved, into the records; the seconds too."""
    times = interleave(functions, effort.repetitions, effort.budget)
    for (key, what), measured in times.items():
        record = records[key]
        setattr(record, f"{what}_s", float(np.median(measured)))
        setattr(record, f"{what}_min_s", min(measured))
        record.repetitions, record.threads = len(measured), torch.get_num_threads()
    return times
