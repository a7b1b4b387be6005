"""What is tested: a layer, the problem it claims to solve, and how exactly."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..solution import Status
from .example import Example
from .named import Named
from .objectives import OwnObjective, objective
from .terms import Coefficients

Layer = Callable[..., Any]


class LayerError(Exception):
    """The layer, or differentiating it, raised an exception: its cause."""


@contextmanager
def blamed() -> Iterator[None]:
    """What is raised inside is the layer's doing."""
    try:
        yield
    except LayerError:
        raise
    except Exception as error:
        raise LayerError(f"{type(error).__name__}: {error}") from error


class Answer(NamedTuple):
    """What a layer says: coefficients, and where it says so a dual point, a gap, whether it converged and warned."""

    coefficients: Coefficients
    dual: Tensor | None = None
    gap: Tensor | None = None
    converged: Tensor | None = None
    flagged: Tensor | None = None

    @property
    def W(self) -> Tensor:
        """Coefficients (..., m, k), an intercept as one more row."""
        return rows(self.coefficients)


@dataclass(frozen=True)
class Subject:
    """A layer under test.

    Args:
        layer: any callable ``(X, Y) -> W``, (..., n, m), (..., n, k) to (..., m, k), or ``-> (W, b)`` where the problem
            has an intercept. Where it has a method ``solve`` whose result has ``coef``, and perhaps ``dual``, ``gap``,
            ``converged`` and ``status``, these are held to account too. None: ``make`` alone.
        problem: a name, from `objective`, or a function ``(X, Y, W, **strengths) -> (...)``.
        make: ``(**strengths) -> layer``, so that strengths can vary and take derivatives.
        tol: relative duality gap at which a solution counts as exact; coefficients are compared to its square root.
        derivative_tol: relative error at which a derivative counts as exact.
    """

    layer: Layer | None
    problem: Any = "lasso"
    make: Callable[..., Layer] | None = None
    tol: float = 1e-6
    derivative_tol: float = 1e-5
    _cache: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def objective(self) -> Named | OwnObjective:
        """The problem itself."""
        return objective(self.problem)

    @property
    def coef_tol(self) -> float:
        """Relative difference at which two solutions count as the same."""
        return self.tol**0.5

    @property
    def takes_weights(self) -> bool:
        """Whether the layer has an argument ``sample_weight``."""
        return "sample_weight" in _parameters(self._any())

    def at(self, strengths: Any) -> Layer:
        """The layer of these strengths."""
        if self.make is not None:
            return self.make(**strengths)
        assert self.layer is not None, "a layer, or what makes one, must be given"
        return self.layer

    def call(self, X: Tensor, Y: Tensor, strengths: Any, sample_weight: Tensor | None = None) -> Coefficients:
        """What calling the layer returns."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        with blamed():
            return self.at(strengths)(X, Y, **weights)

    def W(self, example: Example) -> Tensor:
        """Coefficients, an intercept as one more row."""
        return rows(self.call(example.X, example.Y, example.strengths, example.sample_weight))

    def answer(self, example: Example) -> Answer:
        """All the layer says of an example, without derivatives."""
        weights = {} if example.sample_weight is None else {"sample_weight": example.sample_weight}
        with torch.no_grad(), blamed():
            layer = self.at(example.strengths)
            if not hasattr(layer, "solve"):
                return Answer(layer(example.X, example.Y, **weights))
            solution = layer.solve(example.X, example.Y, **weights)
        b = getattr(solution, "intercept", None)
        status = getattr(solution, "status", None)
        return Answer(
            solution.coef if b is None else (solution.coef, b),
            getattr(solution, "dual", None),
            getattr(solution, "gap", None),
            getattr(solution, "converged", None),
            None if status is None else (status & ~int(Status.EMPTY)) != 0,
        )

    def batches(self, example: Example) -> bool:
        """Whether the layer takes a leading dimension at all; tried once."""
        known = self._cache
        if "batches" not in known:
            two = example.replace(X=torch.stack([example.X] * 2), Y=torch.stack([example.Y] * 2))
            weight = example.sample_weight
            two = two.replace(sample_weight=None if weight is None else torch.stack([weight] * 2))
            try:
                known["batches"] = self.answer(two).W.shape[:-2] == (2,)
            except LayerError:
                known["batches"] = False
        return known["batches"]

    @property
    def says_gap(self) -> bool:
        """Whether the layer has a method ``solve``, whose result is more than coefficients."""
        return hasattr(self._any(), "solve")

    def _any(self) -> Layer:
        if self.layer is not None:
            return self.layer
        values = {"lower": -0.1, "upper": 0.1, "delta": 1.0, "total": 1.0}
        problem = self.objective
        names = problem.strengths if isinstance(problem, Named) else ()
        return self.at({name: values.get(name, 0.1) for name in names})


def rows(coefficients: Coefficients) -> Tensor:
    """W, and b as one more row."""
    if isinstance(coefficients, tuple):
        return torch.cat([coefficients[0], coefficients[1][..., None, :]], -2)
    return coefficients


def _parameters(layer: Layer) -> set[str]:
    """Names of its arguments; of a class those of what it makes."""
    called = getattr(layer, "forward", layer)
    try:
        return set(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return set()


def gradients(value: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Of a scalar by reverse mode; zeros where nothing depends on an input."""
    if not value.requires_grad:
        return [torch.zeros_like(t) for t in inputs]
    with blamed():
        found = torch.autograd.grad(value, list(inputs), create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, inputs, strict=True)]
