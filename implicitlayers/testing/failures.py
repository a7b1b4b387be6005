"""What a check says: what it expected, what it found, the likely cause, and code that shows it again."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .example import Example
from .subject import LayerError, Subject

P = ParamSpec("P")
R = TypeVar("R")


class Inapplicable(Exception):
    """A property cannot be looked at, for the reason that is the message; no fault of the layer's."""


def failure(expected: str, found: str, cause: str) -> AssertionError:
    """The error to raise."""
    return AssertionError(f"expected {expected}\n   found {found}\n   likely cause: {cause}")


def reproducible(check: Callable[P, R]) -> Callable[P, R]:
    """A check (subject, example, …) whose failures end with code that repeats it, errors of the layer included."""

    @functools.wraps(check)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        subject, example = args[0], args[1]
        assert isinstance(subject, Subject)
        assert isinstance(example, Example)
        try:
            return check(*args, **kwargs)
        except AssertionError as error:
            message = str(error)
        except LayerError as error:
            message = str(failure("the layer to work", str(error), "an operation that cannot take this shape, or mode"))
        raise AssertionError(f"{message}\n{_code(check.__name__, subject, example, kwargs)}")

    return checked


def _code(name: str, subject: Subject, example: Example, options: dict[str, Any]) -> str:
    problem = subject.problem if isinstance(subject.problem, str) else f"{subject.objective.name}_objective"
    makes = "" if subject.make is None else ", make=make"
    extra = "".join(f", {key}={value!r}" for key, value in options.items())
    return "\n".join(
        [
            "reproduce with:",
            "import torch",
            f"from implicitlayers.testing import Example, Subject, {name}",
            example.code(),
            f"{name}(Subject(layer, {problem!r}{makes}), example{extra})",
        ]
    )
