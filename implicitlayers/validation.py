"""Errors that name the argument, what was given, what was expected, and what to do.

Shapes and dtypes are checked when a layer is called, and so are values, which are plain numbers there even under
`torch.func` transforms; labels are checked inside the solve.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .hinges import Hinge
from .implicit import is_transformed, opaque
from .losses import Multinomial
from .problem import Problem


class Range(NamedTuple):
    """What a strength may be: "≥ 0", "> 0" or "≤ 0"; infinite too unless ``finite``."""

    sign: str = "≥ 0"
    finite: bool = True

    def holds(self, value: Any) -> Any:
        """Whether a number is inside, or where a tensor is."""
        inside = {"≥ 0": value >= 0, "> 0": value > 0, "≤ 0": value <= 0}[self.sign]
        return inside & (value < math.inf) & (value > -math.inf) if self.finite else inside


AT_LEAST_ZERO, POSITIVE = Range(), Range("> 0")


def strength(name: str, value: float | Tensor, allowed: Range = AT_LEAST_ZERO) -> float | Tensor:
    """A number in ``allowed`` as float; a floating tensor as it is, its values are checked when a layer is called."""
    expected = f"a number {allowed.sign}, a floating-point tensor over the batch, or an nn.Parameter"
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise ValueError(f"{name}: given a tensor of dtype {value.dtype}, expected {expected}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: given {value!r}, expected {expected}")
    if not allowed.holds(value):
        raise ValueError(f"{name}: given {value}, expected {expected}")
    return float(value)


def options(tol: float | None, max_iter: int, on_fail: str, derivative_order: int, time_limit: float | None) -> None:
    """The options that all layers take."""
    if tol is not None and not tol > 0:
        raise ValueError(f"tol: given {tol}, expected a number > 0, or None for a default by dtype")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter: given {max_iter!r}, expected an integer ≥ 1")
    if on_fail not in ("raise", "warn", "ignore"):
        raise ValueError(f"on_fail: given {on_fail!r}, expected 'raise', 'warn' or 'ignore'")
    if isinstance(derivative_order, bool) or not isinstance(derivative_order, int) or derivative_order < 0:
        raise ValueError(f"derivative_order: given {derivative_order!r}, expected an integer ≥ 0")
    number = isinstance(time_limit, int | float) and not isinstance(time_limit, bool)
    if time_limit is not None and not (number and time_limit > 0):
        raise ValueError(f"time_limit: given {time_limit!r}, expected a number of seconds > 0, or None for no limit")


def solver(given: str | None, candidates: Sequence[str], layer: str) -> str:
    """The algorithm asked for, which must be one that solves such problems; None: the first."""
    if given is not None and given not in candidates:
        expected = " or ".join(repr(name) for name in candidates)
        raise ValueError(f"solver: given {given!r}, expected {expected} for this {layer}, or None for the first")
    return given or candidates[0]


def no_intercept(given: Mapping[str, object]) -> None:
    """The hinge takes no intercept."""
    if given.get("fit_intercept"):
        raise ValueError(
            "fit_intercept: given True, expected False: the hinge's dual has no unpenalised coefficients here. Append a"
            " constant column to X, torch.cat([X, torch.ones_like(X[..., :1])], -1); its coefficient is the intercept,"
            " penalised like the others, and the less so the larger the constant"
        )


def not_both_zero(**strengths: object) -> None:
    """At least one strength is a tensor, relative, or a number other than 0."""
    if all(isinstance(value, int | float) and value == 0 for value in strengths.values()):
        names = " and ".join(strengths)
        raise ValueError(
            f"{names}: given 0 for both, expected one > 0: without there may be no minimiser, and no certificate;"
            f" l2=1e-8 is hardly a penalty, and will do"
        )


def features(X: Tensor) -> None:
    """X is a floating-point tensor (..., n, m) with at least one sample and one feature."""
    if not isinstance(X, Tensor) or not X.is_floating_point():
        given = f"dtype {X.dtype}" if isinstance(X, Tensor) else type(X).__name__
        raise ValueError(f"X: given {given}, expected a floating-point tensor (..., n, m); X.float() makes one")
    if X.dim() < 2 or 0 in X.shape[-2:]:
        raise ValueError(f"X: given shape {tuple(X.shape)}, expected (..., n, m) with n ≥ 1 samples and m ≥ 1 features")


def regression_targets(Y: Tensor, X: Tensor) -> Tensor:
    """Y (..., n, k) in float64."""
    if not isinstance(Y, Tensor) or not Y.is_floating_point():
        given = f"dtype {Y.dtype}" if isinstance(Y, Tensor) else type(Y).__name__
        raise ValueError(f"Y: given {given}, expected a floating-point tensor (..., n, k); Y.to(X.dtype) makes one")
    n = X.shape[-2]
    if Y.dim() < 2 or Y.shape[-2] != n:
        hint = "; for one target per sample pass y.unsqueeze(-1)" if Y.shape[-1:] == (n,) else ""
        raise ValueError(f"Y: given shape {tuple(Y.shape)}, expected (..., {n}, k), X having {n} samples{hint}")
    return Y.to(torch.float64)


def class_targets(Y: Tensor, X: Tensor, n_classes: int | None) -> Tensor:
    """Integer labels (..., n), or one-hot targets (..., n, k), as one-hot float64 (..., n, k).

    ``n_classes`` None reads k off the largest label, which is impossible under `vmap`.
    """
    n = X.shape[-2]
    expected = f"integer labels (..., {n}) or one-hot targets (..., {n}, k), X having {n} samples"
    if not isinstance(Y, Tensor):
        raise ValueError(f"Y: given {type(Y).__name__}, expected {expected}")
    if Y.is_floating_point() or Y.dtype == torch.bool:
        if Y.dim() < 2 or Y.shape[-2] != n or (n_classes is not None and Y.shape[-1] != n_classes):
            hint = "; labels must be integers: Y.long() makes them" if Y.shape[-1:] == (n,) and Y.dim() < 2 else ""
            classes = "" if n_classes is None else f", with k = n_classes = {n_classes}"
            raise ValueError(f"Y: given shape {tuple(Y.shape)}, dtype {Y.dtype}, expected {expected}{classes}{hint}")
        return Y.to(torch.float64)
    if Y.dim() < 1 or Y.shape[-1] != n:
        raise ValueError(f"Y: given shape {tuple(Y.shape)}, dtype {Y.dtype}, expected {expected}")
    if n_classes is None:
        if is_transformed(Y):
            raise ValueError("n_classes: given None, expected the number of classes: under vmap labels cannot be read")
        if not Y.numel():
            raise ValueError(
                f"n_classes: given None, expected the number of classes: Y, {tuple(Y.shape)}, has no label"
            )
        n_classes = max(int(Y.max()) + 1, 2)
    # A label out of range gives a row of zeros, which the check of values reports.
    return (Y[..., None] == torch.arange(n_classes, device=Y.device)).to(torch.float64)


def trailing(name: str, tensor: Tensor, size: int, what: str) -> None:
    """``tensor`` is (..., size)."""
    if not isinstance(tensor, Tensor) or tensor.dim() < 1 or tensor.shape[-1] != size:
        given = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: given {given}, expected a tensor (..., {size}), one entry per {what}")


def mask(name: str, tensor: Tensor, size: int, what: str) -> None:
    """``tensor`` is boolean, (..., size)."""
    trailing(name, tensor, size, what)
    if tensor.dtype != torch.bool:
        raise ValueError(f"{name}: given dtype {tensor.dtype}, expected torch.bool; {name}.bool() makes one")


def broadcast(shapes: Mapping[str, Sequence[int]]) -> torch.Size:
    """The common batch shape of the arguments named."""
    try:
        return torch.broadcast_shapes(*(tuple(s) for s in shapes.values()))
    except RuntimeError:
        given = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"batch dimensions do not broadcast: given {given}; expected equal sizes, or 1") from None


def values(given: Mapping[str, Tensor], allowed: Mapping[str, Range]) -> None:
    """Strengths and weights, under the names they were given by, are in ``allowed``, and finite and ≥ 0 by default.

    Each is looked at as a plain tensor, under transforms too.
    """

    def look(tensors: dict[str, Tensor]) -> Tensor:
        for name, value in tensors.items():
            _check_values(name, value, allowed.get(name, AT_LEAST_ZERO))
        return torch.zeros(len(next(iter(tensors.values()))))

    if given:
        opaque(look, dict(given), 0)


def _check_values(name: str, value: Tensor, allowed: Range) -> None:
    good = allowed.holds(value)
    if not good.all():
        first = value[~good].flatten()[0].item()
        why = (
            "; without it the dual of the hinge does not determine the coefficients"
            if allowed == POSITIVE and name == "l2"
            else ""
        )
        finite = "finite " if allowed.finite else ""
        raise ValueError(f"{name}: given {first:g}, expected {finite}values {allowed.sign}{why}")


def classes(problem: Problem) -> None:
    """Every sample that is present has a class, where targets are classes; ``problem`` holds plain tensors."""
    if isinstance(problem.loss, Hinge | Multinomial):
        _classes(problem.Y, problem.weight, problem.loss.class_mask)


def _classes(Y: Tensor, weight: Tensor, class_mask: Tensor) -> None:
    inside = torch.where(class_mask[:, None, :], Y, 0.0).sum(-1)
    wrong = ((inside - 1).abs() > 1e-6) | (Y.amin(-1) < 0)
    if not wrong.any():
        return
    if not class_mask.any(-1).all():
        raise ValueError("class_mask: given an element without any class, expected at least one")
    # A non-finite Y is a property of its element and is reported in its status.
    wrong &= (weight > 0) & Y.isfinite().all(-1)
    if wrong.any():
        element, sample = (int(i) for i in wrong.nonzero()[0])
        k = Y.shape[-1]
        raise ValueError(
            f"Y: sample {sample} of element {element} has no class: given {Y[element, sample].tolist()} (one-hot),"
            f" expected a label from 0 to {k - 1}, or a row ≥ 0 with sum 1, within the class_mask"
        )
