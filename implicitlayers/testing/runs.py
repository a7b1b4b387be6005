"""A property of one layer, looked at on generated problems: how many, of which kinds, and the smallest failure."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.strategies import SearchStrategy

from .example import Example
from .failures import failure
from .larger import features, larger
from .named import Named
from .strategies import examples, kinds_of_problem
from .subject import LayerError, Subject

T = TypeVar("T")
# Of the larger problem where results are compared with each other: l2 is not as weak as where a gap is the judge, for a
# gap leaves coefficients the more freedom the weaker l2 is.
MILD: dict[str, Any] = {"n": 40, "m": 60, "ridge": 1e-2}


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

    def __post_init__(self) -> None:
        """Refuse at once what cannot be judged."""
        problem = self.subject.objective
        X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
        if isinstance(problem, Named):
            if self.strengths is not None:
                Y = (X[:, 0] > 0).long() if problem.classes else X
                problem.refuse(Example(X[:, :1].expand(6, features(problem, 2)), Y, self.strengths))
            return
        example = Example(X, X.flip(0), dict(self.strengths or {}))
        # What a layer has to say about it is for the properties.
        with suppress(LayerError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem.probe(example, self.subject.answer(example).coefficients)

    def examples(self, **options: Any) -> SearchStrategy[Example]:
        """Problems that suit the layer."""
        # A function of (X, Y, W) knows nothing of weights.
        weights = self.subject.takes_weights and isinstance(self.subject.objective, Named)
        options = {"weights": weights, "labels": self.labels} | options
        return examples(self.subject.objective, strengths=self.strengths, **options)

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
            report_multiple_bugs=False,
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

    def larger(self, check: Callable[[Example], T], n: int = 100, m: int = 200, **options: Any) -> tuple[T, str]:
        """What the check returns for one `larger` problem, and that problem's size."""
        problem = self.subject.objective
        if not isinstance(problem, Named):
            # Nothing is known but values, and those are looked at along each coordinate.
            n, m = min(n, 30), min(m, 20)
        example = larger(problem, self.strengths, n=n, m=m, **{"labels": self.labels} | options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check(example), f"{example.X.shape[-2]} × {example.X.shape[-1]}"

    @property
    def few(self) -> Any:
        """Numbers of features where few do."""
        problem = self.subject.objective
        return None if isinstance(problem, Named) and problem.groups else st.integers(1, 4)


def counted(verdicts: Sequence[str]) -> str:
    """How many were checked, and how many left out, in words; a failure where differences could seldom tell."""
    count = Counter(verdicts)
    if count["undecided"] > count["checked"]:
        raise failure(
            "solutions smooth enough for differences to tell their derivative",
            f"{count['undecided']} of {len(verdicts)} problems where differences are too noisy",
            "the solver stops at a low precision: its values jump from one input to the next",
        )
    rest = [f"{count[what]} {what}" for what in ("degenerate", "undecided") if count[what]]
    return ", ".join([f"{count['checked']} problems", *rest])
