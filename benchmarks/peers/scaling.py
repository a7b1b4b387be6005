"""How time grows, how far it is from the least work there is, and what hard problems take. Ours alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import implicitlayers as il

from .contenders.ours import Ours
from .effort import Advance, Effort
from .problems import Case, functional, problem_of
from .records import Record
from .several import ours_on
from .timing import ratios, time_into

Job = Callable[[Effort, Advance], list[Record]]
SVM = Case("", "svm", 25, 640, 5, 8, 0.05, 0.1, "float32")
GROUP = Case("", "group_lasso", 50, 640, 5, 8, 0.1, dtype="float32")
GRIDS: dict[str, tuple[float, ...]] = {
    "m": (100, 300, 1000, 3000, 10_000, 30_000, 100_000),
    "n": (10, 30, 100, 300, 1000),
    "batch": (1, 4, 16, 64, 256),
    "k": (2, 5, 10, 30, 100),
    "l1_share": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9),
}
ONE = {"n": {"m": 2000, "batch": 1}, "k": {"n": 200, "batch": 1}}  # sizes at which 1000 samples or 100 classes fit
QUICK_GRIDS = {"m": (20, 40), "n": (10, 20), "batch": (1, 2), "k": (2, 3), "l1_share": (0.1, 0.5)}
SIZES = ((25, 640), (75, 640), (75, 16_000))


def scaling_jobs(quick: bool) -> list[Job]:
    """All of it."""
    bases = {"SVM": SVM, "group Lasso": GROUP}
    if quick:
        bases = {name: replace(case, n=10, m=40, k=3, batch=2) for name, case in bases.items()}
    jobs: list[Job] = []
    svm = bases["SVM"]
    shapes = ((10, 40),) if quick else SIZES
    for n, m in shapes:
        jobs += [partial(distance, replace(svm, n=n, m=m, l1_share=share)) for share in (0.0, 0.05)]
        jobs.append(partial(everything, replace(svm, n=n, m=m)))
    jobs += [partial(ours_on, [easy, case]) for easy, case in hard_cases(quick)]
    # What takes longest comes last.
    for x, values in (QUICK_GRIDS if quick else GRIDS).items():
        fixed = {} if quick else ONE.get(x, {})
        for name, case in bases.items():
            jobs.append(partial(growth, f"{name} against {x}", x, values, replace(case, **fixed)))
    return jobs


def growth(name: str, x: str, values: Sequence[float], base: Case, effort: Effort, advance: Advance) -> list[Record]:
    """A record for each value, and the exponents: log-log least squares of forward and of total seconds."""
    cases = [replace(base, name=name, **{x: value}) for value in values]
    records = ours_on(cases, replace(effort, memory=False), advance)
    solved = [record for record in records if record.error is None]
    if x == "l1_share" or len(solved) < 2:
        for record in solved:
            used = f"l1 = {record.l1_share:g} of its bound, {record.active_share:.1%} of the features in use"
            record.remark = "; ".join(filter(None, (used, record.remark)))
        return records
    at = np.log([getattr(record, x) for record in solved])
    fits = {}
    for what in ("forward", "total"):
        seconds = np.log([getattr(record, f"{what}_s") for record in solved])
        fits[what] = float(np.polyfit(at, seconds, 1)[0])
    fitted = Record(f"{name}: exponent", Ours.name, Ours.version(), exponent=fits["total"])
    fitted.remark = f"seconds ~ {x}^{fits['total']:.2f} with derivatives, {x}^{fits['forward']:.2f} without"
    return [*records, fitted]


def distance(case: Case, effort: Effort, advance: Advance) -> list[Record]:
    """Ours beside the least work that there is for any method of second order.

    That is one Gram matrix in float64, a Cholesky factorisation of n × n for each class and problem, and two passes
    over X (one for the scores, one for the gradient). `multiple` is ours over that.
    """
    case = replace(case, name=f"distance to the limit, l1 = {case.l1_share:g}")
    problem = problem_of(case)
    ours, C = Ours(problem), functional(problem).to(problem.X.dtype)
    blocks = torch.eye(case.n, dtype=torch.float64) + torch.ones(case.batch, case.k, case.n, case.n).double() / case.n

    def least() -> None:
        X = problem.X.double()
        X @ X.mT
        torch.linalg.cholesky(blocks)
        problem.X.mT @ (problem.X @ C)

    records = {"ours": Record.of(case, Ours.name, version=Ours.version()), "least": Record.of(case, "least work")}
    functions: dict[tuple[Any, str], Callable[[], Any]] = {
        ("ours", "forward"): ours.forward, ("ours", "total"): ours.total, ("least", "total"): least,
    }  # fmt: skip
    advance(case.name)
    times = time_into(records, functions, effort.repetitions)
    records["ours"].multiple, _ = ratios(times["ours", "total"], times["least", "total"])
    records["ours"].remark = f"{records['ours'].multiple:.1f} times the least work"
    records["least"].remark = "Gram matrix in float64, a factorisation per class and problem, two passes over X"
    for name, record in records.items():
        record.ratio, record.ratio_min = ratios(times[name, "total"], times["ours", "total"])
    return list(records.values())


def everything(case: Case, effort: Effort, advance: Advance) -> list[Record]:
    """Solve and backward to X, l1 and l2, beside a solve under ``no_grad`` and four passes over X.

    `multiple` is the ratio of the two.
    """
    case = replace(case, name="derivatives of everything")
    problem = problem_of(case)
    C = functional(problem).to(problem.X.dtype)
    labels, k = problem.labels, case.k

    def inputs(requires_grad: bool) -> list[Tensor]:
        strengths = (torch.tensor(x, dtype=torch.float64) for x in (problem.l2, problem.l1))
        return [each.detach().requires_grad_(requires_grad) for each in (problem.X, *strengths)]

    def solve(X: Tensor, l2: Tensor, l1: Tensor) -> Tensor:
        return il.functional.multiclass_svm(X, labels, l2=l2, l1=l1, n_classes=k)

    def total() -> None:
        given = inputs(True)
        torch.autograd.grad((solve(*given) * C).sum(), given)

    def forward_and_passes() -> None:
        with torch.no_grad():
            solve(*inputs(False))
            for _ in range(2):
                problem.X.mT @ (problem.X @ C)

    records = {
        "all": Record.of(case, Ours.name, version=Ours.version()),
        "forward": Record.of(case, "ours, no_grad, and 4 passes over X", version=Ours.version()),
    }
    advance(case.name)
    times = time_into(records, {("all", "total"): total, ("forward", "total"): forward_and_passes}, effort.repetitions)
    records["all"].multiple, _ = ratios(times["all", "total"], times["forward", "total"])
    records["all"].remark = f"{records['all'].multiple:.2f} times a solve under no_grad and four passes over X"
    for name, record in records.items():
        record.ratio, record.ratio_min = ratios(times[name, "total"], times["all", "total"])
    return list(records.values())


def hard_cases(quick: bool) -> list[tuple[Case, Case]]:
    """Each after an easy one of the same shape, whose seconds the ratio is to; float64, l1 = 0.05."""
    easy = Case("easy", "svm", 40, 200, 5, 8, 0.05, 0.1, "float64")
    few = replace(easy, n=75, m=10)
    if quick:
        easy, few = replace(easy, n=15, m=40, batch=2), replace(few, n=20, m=5, batch=2)
    return [
        (replace(easy, n=few.n), replace(few, name="hard: m < n")),
        (easy, replace(easy, name="hard: one sample for each class but one", flavour="imbalanced")),
        (easy, replace(easy, name="hard: l2 = 0.001, duplicated features", flavour="duplicated", l2=1e-3)),
        (easy, replace(easy, name="hard: l2 = 0.001, scales from 0.01 to 100", flavour="badly scaled", l2=1e-3)),
    ]
