"""What each command measures: a list of jobs, so that progress can be shown and nothing is lost when one is stopped."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from .compare import compare
from .effort import Advance, Effort
from .memory import memory_job
from .problems import Case
from .records import Record
from .scaling import scaling_jobs
from .several import ours_on
from .step import step_job

Job = Callable[[Effort, Advance], list[Record]]
SIZES = ((25, 640), (75, 640), (75, 16000))
SHARES = (0.0, 0.05, 0.3)


def svm(quick: bool) -> list[Job]:
    """Group-Lasso SVMs of five classes, eight at a time, l2 = 0.1 in sum scaling, l1 as a share of its bound."""
    sizes, shares, batch = (((10, 40),), (0.0, 0.05), 2) if quick else (SIZES, SHARES, 8)
    cases = []
    for n, m in sizes:
        sparse = [Case(f"SVM, l1 = {share:g}", "svm", n, m, 5, batch, share, 0.1, "float32") for share in shares]
        cases += [*sparse, replace(sparse[0], dtype="float64")]
    return [_comparison(case) for case in cases]


def regression(quick: bool) -> list[Job]:
    """A Lasso and a group Lasso with 20 targets, at a tenth of l1_max, to a relative gap of 1e-8."""
    lasso = Case("Lasso", "lasso", 500, 20_000, l1_share=0.1)
    group = Case("group Lasso", "group_lasso", 200, 5000, 20, l1_share=0.1)
    if quick:
        lasso, group = replace(lasso, n=30, m=100), replace(group, n=20, m=50, k=3)
    return [_comparison(lasso), _comparison(group)]


def batch(quick: bool) -> list[Job]:
    """Many problems at once: Lassos, one hard problem among easy ones, and what a batch saves."""
    lassos = Case("32 Lassos", "lasso", 100, 500, batch=32, l1_share=0.1)
    svms = Case("256 SVMs", "svm", 25, 640, 5, 256, 0.05, 0.1, "float32")
    if quick:
        lassos, svms = replace(lassos, n=20, m=50, batch=4), replace(svms, n=10, m=40, batch=8)
    single = replace(svms, name="1 SVM", batch=1)
    hard = replace(svms, name=f"one hard of {svms.batch}", flavour="one hard")
    return [_comparison(lassos), partial(ours_on, [svms, hard, single])]


def memory(quick: bool) -> list[Job]:
    """A million float32 features of 50 samples: peak memory as a multiple of that of X."""
    m = 100_000 if quick else 1_000_000
    cases = [
        Case("memory: Lasso", "lasso", 50, m, l1_share=0.1, dtype="float32"),
        Case("memory: group Lasso", "group_lasso", 50, m, 5, l1_share=0.1, dtype="float32"),
        Case("memory: SVM, l1 = 0", "svm", 50, m, 5, l2=0.1, dtype="float32"),
        Case("memory: SVM, l1 = 0.05", "svm", 50, m, 5, l1_share=0.05, l2=0.1, dtype="float32"),
    ]
    return [partial(memory_job, case) for case in cases]


def step(quick: bool) -> list[Job]:
    """The layer's share of a training step with Conv4 on Glyphs and ResNet-12 on images of 32 × 32 pixels."""
    return [partial(step_job, name, quick) for name in ("Conv4", "ResNet-12")]


def scaling(quick: bool) -> list[Job]:
    """Time against every size and the share of active features, against the least work, and on hard problems."""
    return scaling_jobs(quick)


PLANS: dict[str, Callable[[bool], list[Job]]] = {
    "svm": svm,
    "regression": regression,
    "batch": batch,
    "memory": memory,
    "step": step,
    "scaling": scaling,
}


def _comparison(case: Case) -> Job:
    return lambda effort, advance: compare(case, effort, advance)
