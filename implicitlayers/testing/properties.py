"""The properties that a layer is checked for, each on generated problems."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.strategies import SearchStrategy

from . import derivatives
from .batches import check_batching, check_isolation
from .derivatives import check_argmin_derivatives, check_derivatives
from .example import Example
from .failures import failure
from .inputs import check_bad_input, check_dtypes
from .memory import check_memory
from .metamorphic import check_metamorphic
from .named import Named
from .optimality import check_certificate, check_optimal
from .scaling import at_ratio, drawn_strengths
from .sections import kinks_of
from .strategies import examples, kinds_of_problem
from .subject import Subject

# Most of generic, regular problems that a layer may flag.
FLAGGED = 0.05
# Samples and features where memory is looked at: X outweighs what is of samples by samples, and a matrix of features by
# features, which is to be caught, is still dealt with in seconds.
LARGE = (50, 1_000)


class Row(NamedTuple):
    """One property: whether it holds (None: does not apply), what was looked at, and the failure's message."""

    name: str
    holds: bool | None
    detail: str
    message: str = ""


@dataclass
class Suite:
    """The checks of one subject.

    Args:
        subject: what is tested.
        strengths: the layer's, as numbers; None: drawn for every example, which takes ``subject.make``.
        max_examples: generated problems for the quickest check; the others take a share of it.
        labels: give classes as integers instead of one-hot.
        shrink_seconds: what goes into making a failing example smaller.
    """

    subject: Subject
    strengths: Mapping[str, float] | None
    max_examples: int = 100
    labels: bool = False
    shrink_seconds: float = 5.0

    def examples(self, **options: Any) -> SearchStrategy[Example]:
        """Problems that suit the layer."""
        # A function of (X, Y, W) knows nothing of weights.
        weights = self.subject.takes_weights and isinstance(self.subject.objective, Named)
        options = {"weights": weights, "labels": self.labels} | options
        return examples(self.subject.objective, strengths=self.strengths, **options)

    def run(self, name: str) -> Row:
        """One property by its name in `PROPERTIES`."""
        reason = inapplicable(name, self)
        if reason:
            return Row(name, None, reason)
        try:
            return Row(name, True, PROPERTIES[name](self))
        except AssertionError as error:
            return Row(name, False, "see below", str(error))

    def each_kind(self, check: Callable[[Example], Any]) -> list[Any]:
        """What the check returns, half of it for generic problems, the rest shared between all the nasty kinds."""
        nasty = kinds_of_problem(self.subject.objective, self.subject.takes_weights)[1:]
        results, _ = self.each(check, 0.5, self.examples(kinds=("generic",)))
        for kind in nasty:
            results += self.each(check, 0.5 / len(nasty), self.examples(kinds=(kind,)))[0]
        return results

    def each(
        self, check: Callable[[Example], Any], share: float, strategy: SearchStrategy[Example]
    ) -> tuple[list[Any], int]:
        """What the check returns for generated examples, and their number; the smallest failure is raised."""
        found: list[tuple[int, str]] = []
        results: list[Any] = []
        first = [0.0]

        @settings(
            max_examples=max(2, round(share * self.max_examples)),
            derandomize=True,
            database=None,
            deadline=None,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def run(example: Example) -> None:
            if found and time.monotonic() - first[0] > self.shrink_seconds:
                reject()
            try:
                results.append(check(example))
            except AssertionError as error:
                first[0] = first[0] or time.monotonic()
                found.append((len(example.code()), str(error)))
                raise

        try:
            with warnings.catch_warnings():
                # What a layer has to say about a nasty problem is judged by its status.
                warnings.simplefilter("ignore")
                run()
        except (AssertionError, HypothesisException):
            if not found:
                raise
        if found:
            raise AssertionError(min(found)[1])
        return results, len(results)


def _optimality(suite: Suite) -> str:
    gaps = suite.each_kind(lambda e: check_optimal(suite.subject, e))
    return f"{len(gaps)} problems, worst gap {max(gaps):.0e}"


def _certificate(suite: Suite) -> str:
    return f"{len(suite.each_kind(lambda e: check_certificate(suite.subject, e)))} problems"


def _flags(suite: Suite) -> str:
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


def _derivatives(mode: derivatives.Mode, share: float) -> Callable[[Suite], str]:
    def run(suite: Suite) -> str:
        subject = suite.subject
        verdicts, _ = suite.each(lambda e: check_derivatives(subject, e, modes=(mode,)), share, suite.examples())
        return _counted(verdicts)

    return run


def _argmin(suite: Suite) -> str:
    strategy = suite.examples(kinds=("generic",), n=st.integers(5, 8), m=_few(suite), weights=False)
    verdicts, _ = suite.each(lambda e: check_argmin_derivatives(suite.subject, e), 0.1, strategy)
    return _counted(verdicts)


def _counted(verdicts: list[str]) -> str:
    count = Counter(verdicts)
    if count["undecided"] > count["checked"]:
        raise failure(
            "solutions smooth enough for differences to tell their derivative",
            f"{count['undecided']} of {len(verdicts)} problems where differences are too noisy",
            "the solver stops at a low precision: its values jump from one input to the next",
        )
    rest = [f"{count[what]} {what}" for what in ("degenerate", "undecided") if count[what]]
    return ", ".join([f"{count['checked']} problems", *rest])


def _metamorphic(suite: Suite) -> str:
    strategy = suite.examples(n=st.integers(2, 8))
    names, _ = suite.each(lambda e: check_metamorphic(suite.subject, e), 0.15, strategy)
    count = Counter(name for some in names for name in some)
    return f"{len(count)} relations, {sum(count.values())} times"


def _batching(suite: Suite) -> str:
    strategy = suite.examples(batch=(3,), kinds=("generic",), n=st.integers(3, 6), m=_few(suite), k=2)
    _, count = suite.each(lambda e: check_batching(suite.subject, e), 0.08, strategy)
    return f"{count} batches of 3"


def _isolation(suite: Suite) -> str:
    strategy = suite.examples(batch=(3,), kinds=("generic",), n=st.integers(3, 6), m=_few(suite), k=2, labels=False)
    _, count = suite.each(lambda e: check_isolation(suite.subject, e), 0.08, strategy)
    return f"{count} batches of 3, each spoilt in several ways"


def _dtypes(suite: Suite) -> str:
    strategy = suite.examples(kinds=("generic",), n=st.integers(3, 6))
    _, count = suite.each(lambda e: check_dtypes(suite.subject, e), 0.08, strategy)
    return f"{count} problems"


def _bad_input(suite: Suite) -> str:
    strategy = suite.examples(kinds=("generic",), n=st.integers(3, 6), m=_few(suite))
    suite.each(lambda e: check_bad_input(suite.subject, e), 0.02, strategy)
    return "shapes, dtypes" + (", strengths" if suite.subject.make else "")


def _memory(suite: Suite) -> str:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(*LARGE, generator=generator, dtype=torch.float64)
    problem = suite.subject.objective
    classes = problem.classes if isinstance(problem, Named) else 0
    Y: torch.Tensor = X[:, :2] + torch.randn(len(X), 2, generator=generator, dtype=torch.float64)
    if classes:
        Y = torch.nn.functional.one_hot(torch.arange(len(X)) % 2, 2).to(X)
        Y = Y.argmax(-1) if suite.labels else Y
    example = Example(X, Y, dict(suite.strengths or {}))
    if isinstance(problem, Named):
        example = (
            drawn_strengths(problem, example, 0.3, 0.1, 0.0)
            if suite.strengths is None
            else at_ratio(problem, example, 0.3)
        )
    share = check_memory(suite.subject, example.X, Y, dict(example.strengths))  # type: ignore[arg-type]
    return f"{share:.1f} times X beside it, at {LARGE[0]} × {LARGE[1]:,}"


def _few(suite: Suite) -> Any:
    problem = suite.subject.objective
    return None if isinstance(problem, Named) and problem.groups else st.integers(1, 4)


PROPERTIES: dict[str, Callable[[Suite], str]] = {
    "optimality": _optimality,
    "certificate": _certificate,
    "flags": _flags,
    "derivatives, reverse": _derivatives("reverse", 0.15),
    "derivatives, forward": _derivatives("forward", 0.1),
    "derivatives of the argmin": _argmin,
    "second derivatives": _derivatives("second", 0.05),
    "second derivatives, all compositions": _derivatives("compositions", 0.05),
    "metamorphic": _metamorphic,
    "batching": _batching,
    "isolation": _isolation,
    "dtypes": _dtypes,
    "bad input": _bad_input,
    "memory": _memory,
}


def inapplicable(name: str, suite: Suite) -> str:
    """Why a property does not apply; empty where it does."""
    subject, problem = suite.subject, suite.subject.objective
    if name in ("certificate", "flags") and not (subject.says_gap and isinstance(problem, Named)):
        return "the layer says nothing of its gap or status"
    if name == "derivatives of the argmin" and (
        not isinstance(problem, Named) or not problem.smooth or problem.fit_intercept or problem.n_nonzero is not None
    ):
        return "needs a named convex problem with smooth loss, without intercept"
    if name == "memory" and isinstance(problem, Named) and (problem.groups or problem.n_nonzero):
        return "needs a layer for any number of features"
    return ""
