"""The core's tests under the arithmetic of other machines: each variant sums in another order, and so rounds otherwise.

    python tests/arithmetic.py full|quick

What a result must not depend on: the number of threads, the instructions that torch uses, and those that its BLAS does.
Where a processor lacks some, or torch has been built without MKL, a variant changes less, and still has to pass.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

TESTS = Path(__file__).parent
# Beside the core: models are trained, not solved to rounding, and the benchmarks judge other libraries.
BESIDE = ("models", "benchmarks")
# What leans on rounding most: solvers, their linear systems, and the derivatives through them.
QUICK = ("test_interior.py", "test_continuation.py", "test_svm.py", "test_kronecker.py", "test_solvers.py")


class Variant(NamedTuple):
    """Threads, the instructions of torch's own kernels, and those of MKL."""

    threads: int
    torch: str
    mkl: str

    @property
    def environment(self):
        """The variables that bring it about."""
        return {"OMP_NUM_THREADS": str(self.threads), "ATEN_CPU_CAPABILITY": self.torch, "MKL_CBWR": self.mkl}

    def __str__(self):
        return " ".join(f"{name}={value}" for name, value in self.environment.items())


# Both values of each in the first two, and in the others the other way round.
VARIANTS = {
    "quick": (Variant(1, "default", "COMPATIBLE"), Variant(2, "avx2", "AVX2")),
    "full": (
        Variant(1, "default", "COMPATIBLE"),
        Variant(2, "avx2", "AVX2"),
        Variant(2, "default", "AVX2"),
        Variant(1, "avx2", "COMPATIBLE"),
    ),
}


def possible(variant):
    """The variant, without instructions that this processor does not have: torch would not look before it uses them."""
    has = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return variant if has else variant._replace(torch="default")


def run(variant, targets, options):
    """Whether the tests pass; what pytest has to say about failures goes where the output of this program goes."""
    # More threads than cores wait for each other, and busily so unless they are told not to.
    workers = max(1, (os.cpu_count() or 1) // variant.threads)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-n", str(workers), *options, *map(str, targets)]
    environment = os.environ | variant.environment | {"OMP_WAIT_POLICY": "PASSIVE"}
    began = time.monotonic()
    code = subprocess.run(command, cwd=TESTS.parent, env=environment).returncode
    print(f"{variant}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def main(extent, run=run):
    """0 if every variant passes, and 1 otherwise."""
    if extent not in VARIANTS:
        raise SystemExit(f"which tests is said by one of {', '.join(VARIANTS)}, not by {extent!r}")
    if extent == "quick":
        targets, options = [TESTS / name for name in QUICK], ["--hypothesis-profile=few"]
    else:
        targets, options = [TESTS], [f"--ignore={TESTS / name}" for name in BESIDE]
    variants = dict.fromkeys(possible(variant) for variant in VARIANTS[extent])
    results = {}
    for variant in variants:
        print(f"\n{variant}", flush=True)
        results[variant] = run(variant, targets, options)
    print("\n" + "\n".join(f"{variant}: {'passed' if passed else 'FAILED'}" for variant, passed in results.items()))
    return int(not all(results.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
