"""Starts from the solutions of other problems: they change how long it takes, and nothing else."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from .example import Example
from .failures import failure, reproducible
from .feasibility import true_gap
from .metamorphic import unique
from .named import Named
from .optimality import check_claims
from .scaling import coefficient_size
from .subject import LayerError, Subject

# What a foreign problem has other strengths by: bounds that its solution exceeds, a penalty that leaves more in use.
OTHER = {"lower": 10.0, "upper": 10.0, "total": 10.0, "l1": 0.1, "group_l1": 0.1, "l2": 0.1}


@reproducible
def check_starts(subject: Subject, example: Example) -> int:
    """From the solution of another problem a layer comes to the same as from nothing, and certifies it as honestly.

    The others have other bounds and strengths, other targets, or features a hundred times smaller, so that their
    solutions are outside this problem's constraints and far from its own; or they are one problem for a whole batch.

    Args:
        subject: a layer whose ``solve`` takes ``init``, what it returned for another problem.
        example: any leading dimensions.

    Returns:
        The number of starts.

    Raises:
        AssertionError: the start shows.
    """
    problem = subject.objective
    assert isinstance(problem, Named)
    cold = subject.answer(example)
    exact = true_gap(problem, example, cold) <= subject.tol
    comparable = unique(problem, example, cold.coefficients) if problem.smooth or cold.dual is not None else False
    scale = torch.maximum(cold.W.abs().amax((-2, -1)), coefficient_size(example))
    starts = list(_foreign(subject, example))
    for what, init in starts:
        warm = subject.answer(example, init=init)
        gap = true_gap(problem, example, warm)
        if bool((exact & ~(gap <= subject.tol)).any()):
            raise failure(
                f"from {what} a relative duality gap of at most {subject.tol:.0e}, as from nothing",
                f"{float(gap.max()):.1e} (infinite: outside the constraints)",
                "the start is returned as it is: it enters without a projection on the constraints, or convergence is"
                " judged by a gap, or a step, of the problem that it solves",
            )
        check_claims(subject, example, warm)
        error = float(((warm.W - cold.W).abs().amax((-2, -1)) / scale)[exact].amax()) if bool(exact.any()) else 0.0
        if comparable and not error <= 10 * subject.coef_tol:
            raise failure(
                f"from {what} the same coefficients as from nothing (to {10 * subject.coef_tol:.0e})",
                f"a difference of {error:.1e}",
                "the iteration stops where it starts, or goes to another point of a problem that has one solution",
            )
    return len(starts)


def foreign_problems(subject: Subject, example: Example) -> dict[str, Example]:
    """Problems whose solutions are far from that of the example, and outside its constraints, by what they are."""
    Y, axis = example.Y, -2 if example.Y.is_floating_point() else -1
    others = {
        "the same problem": example,
        "other targets": example.replace(Y=Y.flip(axis)),
        "features a hundred times smaller": example.replace(X=example.X / 100),
    }
    if Y.is_floating_point() and not getattr(subject.objective, "classes", 0):
        others["targets of the other sign"] = example.replace(Y=-7 * Y)
    if subject.make is not None:
        moved = {name: value * OTHER[name] for name, value in example.strengths.items() if name in OTHER}
        others["other strengths, or bounds"] = example.with_strengths(**moved)
    return others


def _foreign(subject: Subject, example: Example) -> Iterator[tuple[str, Any]]:
    for what, other in foreign_problems(subject, example).items():
        # Whether that problem can be solved, with these strengths, is for other checks.
        with suppress(LayerError):
            yield f"the solution of {what}", subject.solution(other)
    if example.batch:
        # Some layers want a start of one shape.
        with suppress(LayerError):
            one = subject.solution(example[(0,) * len(example.batch)])
            subject.solution(example, one)
            yield "one solution for the whole batch", one
