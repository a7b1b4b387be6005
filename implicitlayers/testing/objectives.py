"""What a layer claims to minimise: a problem by its name, or a user's own function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .example import Example
from .named import Named
from .terms import Coefficients


class Objective(Protocol):
    """What every check needs to know of a problem."""

    @property
    def name(self) -> str:
        """What to call it."""

    def value(self, example: Example, coefficients: Coefficients) -> Tensor:
        """P(W, b), (...)."""


@dataclass(frozen=True)
class OwnObjective:
    """A user's ``function(X, Y, W, **strengths)``, the value (...) of each element of the batch; convex in W.

    Nothing else is known of it: what needs a dual point or the places of kinks is left out.
    """

    function: Callable[..., Tensor]

    @property
    def name(self) -> str:
        """The function's."""
        return getattr(self.function, "__name__", "objective")

    def value(self, example: Example, coefficients: Coefficients) -> Tensor:
        """The function's value.

        Raises:
            ValueError: it raises an exception, or returns something that is no tensor or does not depend on W.
        """
        parts = coefficients if isinstance(coefficients, tuple) else (coefficients,)
        try:
            value = self.function(example.X, example.Y, coefficients, **example.strengths)
        except Exception as error:
            names = ", ".join(["X", "Y", "W" if len(parts) == 1 else "(W, b)", *example.strengths])
            shapes = ", ".join(str(tuple(part.shape)) for part in (example.X, example.Y, *parts))
            raise self._wrong(
                f"which raises {type(error).__name__}: {error}, called with {names}, of shapes {shapes}"
            ) from error
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise self._wrong(f"which returns {value.dtype if isinstance(value, Tensor) else type(value).__name__}")
        if torch.is_grad_enabled() and any(part.requires_grad for part in parts) and not value.requires_grad:
            raise self._wrong("whose value is detached from W, by .item(), .detach(), numpy or no_grad(), say")
        return value

    def probe(self, example: Example, coefficients: Coefficients) -> None:
        """Raise ValueError if it is no objective; the example has no leading dimensions."""
        parts = coefficients if isinstance(coefficients, tuple) else (coefficients,)
        moving = tuple(part.detach().to(torch.float64).requires_grad_() for part in parts)
        value = self.value(example, (moving[0], moving[1]) if len(moving) == 2 else moving[0])
        if value.dim():
            raise self._wrong(f"which returns a tensor of shape {tuple(value.shape)} for one problem, not ()")

    def _wrong(self, found: str) -> ValueError:
        return ValueError(
            f"problem: given the function {self.name}, {found}; expected a function (X, Y, W, **strengths) -> (...),"
            f" the objective of each problem as a floating-point tensor that torch can differentiate with respect to W"
        )


_PROBLEMS: dict[str, Named] = {
    problem.name: problem
    for problem in (
        Named("ridge", {"l2": None}),
        Named("lasso", {"l1": None}),
        Named("elastic_net", {"l1": None, "l2": 0.0}),
        Named("group_lasso", {"l1": None, "l2": 0.0}),
        Named("sparse_group_lasso", {"l1": None, "group_l1": None, "l2": 0.0}),
        Named("nonnegative", {"l1": 0.0, "l2": 0.0}),
        Named("box", {"lower": None, "upper": None, "l2": 0.0}),
        Named("simplex", {"total": 1.0, "l2": 0.0}),
        Named("huber", {"l1": 0.0, "l2": 0.0, "delta": 1.0}),
        Named("logistic", {"l1": 0.0, "l2": 0.0}, classes=3),
        Named("svm", {"l2": None, "l1": 0.0, "smoothing": 0.0}, classes=3),
        Named("binary_svm", {"l2": None, "l1": 0.0, "smoothing": 0.0}, classes=2),
        Named("sparse_ridge", {"l2": None}),
    )
}
NAMES = tuple(_PROBLEMS)


def objective(
    problem: "str | Named | OwnObjective | Callable[..., Tensor]",
    *,
    groups: Sequence[Sequence[int]] | None = None,
    n_nonzero: int | None = None,
    fit_intercept: bool = False,
) -> Named | OwnObjective:
    """The problem called so; a callable ``(X, Y, W, **strengths) -> (...)`` is a user's own, convex, objective.

    All have the mean loss over samples, weighted by s̄ = s/Σs, plus (l2/2)‖W‖² where they have an l2:

    ==================  ==========================  ================================================================
    name                loss                        penalty
    ==================  ==========================  ================================================================
    ridge               ½‖z − y‖²
    lasso, elastic_net  ½‖z − y‖²                   l1·Σ|W_jc|
    group_lasso         ½‖z − y‖²                   l1·Σ_g w_g‖W_g‖, features of ``groups`` across targets
    sparse_group_lasso  ½‖z − y‖²                   l1·Σ|W_jc| + group_l1·Σ_g w_g‖W_g‖
    nonnegative         ½‖z − y‖²                   l1·ΣW_jc, W ≥ 0
    box                 ½‖z − y‖²                   lower ≤ W ≤ upper
    simplex             ½‖z − y‖²                   W ≥ 0, Σ_j W_jc = total
    huber               ½r², linear beyond delta    l1·Σ|W_jc|
    logistic            log Σ exp z_l − z_y         l1·Σ_j‖W_j‖
    svm                 max_l (1 − y_l + z_l) − z_y l1·Σ_j‖W_j‖; ``smoothing`` as in `implicitlayers.MulticlassSVM`
    binary_svm          max(0, 1 − yz), y = ±1      l1·Σ|w_j|
    sparse_ridge        ½‖z − y‖²                   at most ``n_nonzero`` rows of W other than zero
    ==================  ==========================  ================================================================

    Args:
        problem: a name, or a function.
        groups: disjoint groups of features that cover all; None: each feature for itself.
        n_nonzero: for "sparse_ridge".
        fit_intercept: the layer returns (W, b), and b (..., k) is added to the scores without penalty.

    Raises:
        ValueError: no problem has that name.
    """
    if isinstance(problem, Named | OwnObjective):
        return problem
    if callable(problem):
        return OwnObjective(problem)
    if problem not in _PROBLEMS:
        raise ValueError(f"problem: given {problem!r}, expected one of {', '.join(NAMES)}, or a function of (X, Y, W)")
    if (problem == "sparse_ridge") != (n_nonzero is not None):
        raise ValueError(f"n_nonzero: given {n_nonzero} for {problem!r}, expected a number for 'sparse_ridge' alone")
    known = _PROBLEMS[problem]
    tuples = None if groups is None else tuple(tuple(group) for group in groups)
    return Named(known.name, known.strengths, known.classes, tuples, n_nonzero, fit_intercept)
