"""One case, all contenders: how good their answers are, how long they take, and how much memory."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError

import numpy as np
import torch

from .certificate import coefficients, relative_gaps
from .contenders.base import Contender
from .contenders.ours import Ours
from .contenders.registry import contenders_for
from .effort import Advance, Effort
from .peak import peak_in_process
from .problems import Case, Problem, problem_of
from .records import Record
from .timing import ratios, time_into


def compare(
    case: Case, effort: Effort, advance: Advance, contenders: Sequence[type[Contender]] | None = None
) -> list[Record]:
    """A record for each contender, whatever happens to it; ours is the first.

    Args:
        case: what to solve.
        effort: how much to measure.
        advance: called with what is done next.
        contenders: who; None: all who solve such problems.
    """
    problem = problem_of(case)
    judge = Judge(problem)
    ready: dict[str, Contender] = {}
    records = {}
    for contender in contenders or contenders_for(case):
        advance(f"{case.name}: {contender.name}")
        records[contender.name] = record = Record.of(case, contender.name, threads=torch.get_num_threads())
        with failures_in(record), quiet():
            record.version = contender.version()
            if effort.memory:
                record.peak_mb = peak_in_process(case, contender.name, effort.limit)
            made = contender(problem)
            judge(made, record)
            ready[contender.name] = made
    advance(f"{case.name}: timing")
    with quiet():
        _time(ready, records, effort)
    return list(records.values())


class Judge:
    """Fills in what does not depend on time: gap, derivative error, share of features in use, remark."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @cached_property
    def reference(self) -> np.ndarray:
        """The gradient (b, n, m), by our layer at a tolerance of 1e-12 in float64.

        Tests compare it with finite differences.
        """
        exact = Ours(self.problem._replace(X=self.problem.X.double()), tol=1e-12, max_iter=300)
        return exact.gradient(exact.total())

    def __call__(self, contender: Contender, record: Record) -> None:
        """Solve, differentiate, and look.

        Raises:
            ArithmeticError: the answer or the gradient is not a number.
        """
        answer = contender.answer(contender.forward())
        record.remark = contender.remark
        record.gap = float(relative_gaps(self.problem, answer).max())
        if np.isnan(record.gap):
            raise ArithmeticError("the answer is not a number")
        record.active_share = float((coefficients(self.problem, answer) != 0).any(-1).mean())
        if not contender.differentiable:
            return
        difference = contender.gradient(contender.total()) - self.reference
        scale = np.linalg.norm(self.reference) or 1.0  # 0 where nothing is selected
        record.derivative_error = float(np.linalg.norm(difference) / scale)
        if np.isnan(record.derivative_error):
            raise ArithmeticError("the gradient is not a number")


def _time(ready: Mapping[str, Contender], records: Mapping[str, Record], effort: Effort) -> None:
    """Fill in seconds and ratios to ours."""
    functions = {(name, "forward"): each.forward for name, each in ready.items()}
    functions |= {(name, "total"): each.total for name, each in ready.items() if each.differentiable}
    most = {name: each.most_repetitions for name, each in ready.items() if each.most_repetitions}
    times = time_into(records, functions, effort.repetitions, most)
    for name, contender in ready.items():
        what = "total" if contender.differentiable else "forward"
        if Ours.name in ready:
            records[name].ratio, records[name].ratio_min = ratios(times[name, what], times[Ours.name, what])


@contextmanager
def failures_in(record: Record) -> Iterator[None]:
    """Whatever a contender raises stands in its record."""
    try:
        yield
    except (ImportError, PackageNotFoundError) as error:
        record.error = f"not installed ({error.name})"
    except Exception as error:
        record.error = f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the contenders' warnings: what they warn of is in their records."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
