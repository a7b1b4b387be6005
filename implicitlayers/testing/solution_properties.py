"""What is looked at of a layer's solutions: optimal, certified, feasible, equivariant, zero where they should be."""

from collections import Counter

import torch
from hypothesis import strategies as st

from .example import Example
from .failures import failure
from .feasibility import check_feasible
from .metamorphic import check_metamorphic
from .named import Named
from .offsets import check_offsets
from .optimality import check_certificate, check_optimal
from .runs import MILD, Suite, counted
from .sections import kinks_of
from .starts import check_starts
from .thresholds import check_l1_max

# Most of generic, regular problems that a layer may flag.
FLAGGED = 0.05


def optimality(suite: Suite) -> str:
    """`check_optimal`."""
    gaps = suite.each_kind(lambda e: check_optimal(suite.subject, e))
    gap, size = suite.larger(lambda e: check_optimal(suite.subject, e))
    return f"{len(gaps) + 1} problems up to {size}, worst gap {max(*gaps, gap):.0e}"


def certificate(suite: Suite) -> str:
    """`check_certificate`."""
    count = len(suite.each_kind(lambda e: check_certificate(suite.subject, e)))
    _, size = suite.larger(lambda e: check_certificate(suite.subject, e))
    return f"{count + 1} problems up to {size}"


def feasibility(suite: Suite) -> str:
    """`check_feasible`."""
    counts = suite.each_kind(
        lambda e: sum(check_feasible(suite.subject, one) for one in _with_and_without_l2(suite, e))
    )
    count, size = suite.larger(lambda e: check_feasible(suite.subject, e))
    return f"{sum(counts) + count} problems up to {size}"


def flags(suite: Suite) -> str:
    """Flags are for what is special: few of the regular problems carry one."""
    subject, flagged = suite.subject, []

    def look(example: Example) -> bool | None:
        answer = subject.answer(example)
        kinks = kinks_of(subject, example, answer)
        problem = subject.objective
        if answer.flagged is None or kinks is None or not isinstance(problem, Named):
            return None
        regularity = problem.regularity(example, answer.coefficients, None if problem.smooth else answer.dual)
        if float(kinks.abs().amin()) < 1e-4 or float(regularity) < 1e-6:
            return None
        return bool(answer.flagged) or not bool(answer.converged if answer.converged is not None else True)

    results, _ = suite.each(look, 1.0, suite.examples(kinds=("generic",)))
    flagged = [result for result in results if result is not None]
    if sum(flagged) > FLAGGED * len(flagged):
        raise failure(
            f"a flag on at most {FLAGGED:.0%} of regular problems (no kink within 1e-4, regular to 1e-6)",
            f"one on {sum(flagged)} of {len(flagged)}",
            "a threshold for degeneracy far too large, or a tolerance that cannot be reached",
        )
    return f"{sum(flagged)} of {len(flagged)} regular problems flagged"


def metamorphic(suite: Suite) -> str:
    """`check_metamorphic`."""
    strategy = suite.examples(n=st.integers(2, 8))
    names, _ = suite.each(lambda e: check_metamorphic(suite.subject, e), 0.15, strategy)
    some, size = suite.larger(lambda e: check_metamorphic(suite.subject, e), n=30, m=15, ridge=MILD["ridge"])
    count = Counter(name for some in [*names, some] for name in some)
    return f"{len(count)} relations, {sum(count.values())} times, up to {size}"


def l1_max(suite: Suite) -> str:
    """`check_l1_max`."""
    strategy = suite.examples(kinds=("generic",))
    verdicts, _ = suite.each(lambda e: check_l1_max(suite.subject, e), 0.1, strategy)
    verdict, size = suite.larger(lambda e: check_l1_max(suite.subject, e), n=40, m=60)
    return f"{counted([*verdicts, verdict])}, up to {size}"


def starts(suite: Suite) -> str:
    """`check_starts`."""

    def small(example: Example) -> int:
        return sum(check_starts(suite.subject, one) for one in _with_and_without_l2(suite, example))

    def large(example: Example) -> int:
        return check_starts(suite.subject, example if suite.subject.batches(example[0]) else example[0])

    counts = suite.each(small, 0.1, suite.examples())[0]
    count, size = suite.larger(large, **MILD, batch=(2,))
    return f"{sum(counts) + count} starts, up to {size}"


def offsets(suite: Suite) -> str:
    """`check_offsets`."""
    strategy = suite.examples(kinds=("generic",), n=st.integers(3, 8), weights=False)
    names, _ = suite.each(lambda e: check_offsets(suite.subject, e), 0.1, strategy)
    some, size = suite.larger(lambda e: check_offsets(suite.subject, e), n=30, m=15, ridge=MILD["ridge"])
    count = Counter(name for some in [*names, some] for name in some)
    return f"{len(count)} relations, {sum(count.values())} times, up to {size}"


def _with_and_without_l2(suite: Suite, example: Example) -> list[Example]:
    """The ridge hides what goes wrong without: with it a solver is another, or has another dual."""
    problem = suite.subject.objective
    if suite.strengths is not None or not isinstance(problem, Named) or problem.strengths.get("l2") != 0.0:
        return [example]
    return [example, example.with_strengths(l2=0 * torch.as_tensor(example.strengths["l2"]))]
