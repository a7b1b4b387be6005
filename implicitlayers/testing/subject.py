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

    @property
    def finite_dual(self) -> Tensor | None:
        """The dual point, unless it holds NaN or infinity."""
        return self.dual if self.dual is not None and bool(self.dual.isfinite().all()) else None


@dataclass(frozen=True)
class Subject:
    """A layer under test.

    Args:
        layer: any callable ``(X, Y) -> W``, (..., n, m), (..., n, k) to (..., m, k), or ``-> (W, b)`` where the problem
            has an intercept. Where it has a method ``solve`` whose result has ``coef``, and perhaps ``dual``, ``gap``,
            ``converged`` and ``status``, these are held to account too. None: ``make`` alone.
        problem: a name, from `objective`, or a function ``(X, Y, W, **strengths) -> (...)``.
        make: ``(**strengths) -> layer``, so that strengths can vary and take derivatives. They are numbers, or tensors
            without dimensions; and for a batch (...) of problems tensors (...), one strength for each, unless ``make``,
            or what it makes, raises an exception about these.
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

    def called(self, example: Example) -> Coefficients:
        """What calling the layer returns, without derivatives."""
        with torch.no_grad():
            return self.call(example.X, example.Y, example.strengths, example.sample_weight)

    def W(self, example: Example) -> Tensor:
        """Coefficients, an intercept as one more row."""
        return rows(self.call(example.X, example.Y, example.strengths, example.sample_weight))

    def solution(self, example: Example, init: Any = None) -> Any:
        """What the layer's ``solve`` returns, without derivatives; begun from ``init`` where there is one."""
        options = {"sample_weight": example.sample_weight, "init": init}
        given = {name: value for name, value in options.items() if value is not None}
        with torch.no_grad(), blamed():
            layer: Any = self.at(example.strengths)
            return layer.solve(example.X, example.Y, **given)

    def answer(self, example: Example, init: Any = None) -> Answer:
        """All the layer says of an example, without derivatives."""
        with torch.no_grad(), blamed():
            layer = self.at(example.strengths)
            if not hasattr(layer, "solve"):
                return Answer(self.called(example))
        solution = self.solution(example, init)
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
        """Whether the layer takes a leading dimension at all, with a strength for each problem; tried once."""
        known = self._cache
        if "batches" not in known:
            known["batches"] = self._takes_two(example)
        return known["batches"]

    def _takes_two(self, example: Example) -> bool:
        """The example twice, with other strengths the second time, against each alone."""
        varied = {} if self.make is None else example.strengths
        each = [example.with_strengths(**{name: value * factor for name, value in varied.items()}) for factor in (1, 2)]
        both = {name: torch.stack([torch.as_tensor(one.strengths[name]) for one in each]) for name in varied}
        weight = example.sample_weight
        together = example.replace(
            X=torch.stack([example.X] * 2),
            Y=torch.stack([example.Y] * 2),
            strengths={**example.strengths, **both},
            sample_weight=None if weight is None else torch.stack([weight] * 2),
        )
        alone = torch.stack([self.answer(one).W for one in each])
        try:
            found = self.answer(together).W
        except LayerError:
            return False
        return found.shape == alone.shape and bool(((found - alone).abs() <= self.coef_tol * alone.abs().max()).all())

    def shared(self, example: Example) -> Example:
        """A batch as it is, or where the layer takes no strengths over a batch with the first one's for all."""
        if self.make is None or self.batches(example[(0,) * (example.X.dim() - 2)]):
            return example
        first = (0,) * (example.X.dim() - 2)
        return example.with_strengths(**example[first].strengths)

    @property
    def says_gap(self) -> bool:
        """Whether the layer has a method ``solve``, whose result is more than coefficients."""
        return hasattr(self._any(), "solve")

    @property
    def takes_starts(self) -> bool:
        """Whether the layer's ``solve`` has an argument ``init``."""
        return self.says_gap and "init" in _parameters(self._any().solve)  # type: ignore[attr-defined]

    @property
    def says_l1_max(self) -> bool:
        """Whether the layer has a method ``l1_max``."""
        return hasattr(self._any(), "l1_max")

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
