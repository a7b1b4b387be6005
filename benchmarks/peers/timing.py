"""Interleaved timing: all contenders once, then all once more, so that a slow minute of the machine hits them all."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from .records import Record

Key = TypeVar("Key")


def clock(function: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleave(
    functions: Mapping[Key, Callable[[], Any]], repetitions: int, most: Mapping[Key, int] | None = None
) -> dict[Key, list[float]]:
    """Seconds of every function in every repetition, each called once before the clock starts.

    Args:
        functions: what to time, by any key.
        repetitions: how often.
        most: for those that take part in the first few repetitions only, how many.
    """
    for function in functions.values():
        function()
    times: dict[Key, list[float]] = {key: [] for key in functions}
    for repetition in range(repetitions):
        for key, function in functions.items():
            if repetition < (most or {}).get(key, repetitions):
                times[key].append(clock(function))
    return times


def ratios(times: list[float], reference: list[float]) -> tuple[float, float]:
    """The median of the ratios of the same repetition, and the ratio of the least."""
    return float(np.median([a / b for a, b in zip(times, reference, strict=False)])), min(times) / min(reference)


def time_into(
    records: Mapping[Any, Record],
    functions: Mapping[tuple[Any, str], Callable[[], Any]],
    repetitions: int,
    most: Mapping[Any, int] | None = None,
) -> dict[tuple[Any, str], list[float]]:
    """Time functions by (record's key, "forward" or "total"), interleaved, into the records; the seconds too."""
    limits = {key: most[key[0]] for key in functions if most and key[0] in most}
    times = interleave(functions, repetitions, limits)
    for (key, what), measured in times.items():
        record = records[key]
        setattr(record, f"{what}_s", float(np.median(measured)))
        setattr(record, f"{what}_min_s", min(measured))
        record.repetitions, record.threads = len(measured), torch.get_num_threads()
    return times
