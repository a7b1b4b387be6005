"""How much memory a contender takes, and whether it ends within a time limit: a process of its own for each.

    python -m benchmarks.peers.peak '{"case": {…}, "peer": "ours"}'

What is measured is the peak of the resident set (VmHWM of /proc, which is reset before) minus the resident set with
the inputs in place, while the contender solves and differentiates; without derivatives, while it solves. It has done
so once before, so that libraries are loaded and code is compiled. X's gradient counts, X does not.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from .contenders.registry import BY_NAME
from .problems import Case, problem_of


class TimeLimit(Exception):
    """It did not end in time."""


def peak_in_process(case: Case, peer: str, limit: float) -> float:
    """MB, of another process.

    Raises:
        TimeLimit: it took longer than ``limit`` seconds, importing and compiling included.
        RuntimeError: the process failed; the message is its last line.
    """
    # A fixed threshold makes the C library give every large block back to the system as soon as it is free.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": str(2**18)}
    command = [sys.executable, "-m", "benchmarks.peers.peak", json.dumps({"case": asdict(case), "peer": peer})]
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise TimeLimit(f"more than {limit:g} s, import and compilation included") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
        raise RuntimeError(last[0])
    return float(done.stdout.splitlines()[-1])


def peak(case: Case, peer: str) -> float:
    """MB, of this process."""
    problem = problem_of(case)
    contender = BY_NAME[peer](problem)
    run = contender.total if contender.differentiable else contender.forward
    run()
    gc.collect()
    _trim()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    kept = run()
    grown = _status("VmHWM") - before
    del kept
    return grown / 1e6


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    """Bytes, from a line such as "VmRSS:  1234 kB"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    print(peak(Case(**asked["case"]), asked["peer"]))
