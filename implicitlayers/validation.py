"""Errors that name the argument, what was given, what was expected, and what to do.

Shapes and dtypes are checked when a layer is called, and so are values, which are plain numbers there even under
`torch.func` transforms; labels are checked inside the solve.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ambient, arguments
from .hinges import Hinge
from .implicit import is_transformed, opaque
from .losses import Multinomial
from .penalties import Partly
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
    number = arguments.real(value)
    if number is None:
        raise ValueError(f"{name}: given {value!r}, expected {expected}")
    if not allowed.holds(number):
        raise ValueError(f"{name}: given {value}, expected {expected}")
    return number


def threads(given: Any) -> int | None:
    """A number of threads, where the number can be set, or None."""
    if given is None:
        return None
    count = arguments.integer("threads", given, least=1, otherwise=", or None for the layer's choice")
    if not ambient.can_set_threads():
        raise ValueError(
            f"threads: given {count}, expected None: this build of torch lets nobody set the number for one thread;"
            f" torch.set_num_threads({count}) sets it for the process"
        )
    return count


def solver(given: str | None, candidates: Sequence[str], layer: str) -> str:
    """The algorithm asked for, which must be one that solves such problems; None: the first."""
    if given is not None and given not in candidates:
        expected = " or ".join(repr(name) for name in candidates)
        raise ValueError(f"solver: given {given!r}, expected {expected} for this {layer}, or None for the first")
    return given or candidates[0]


def no_intercept(fit_intercept: bool) -> None:
    """The hinge takes no intercept."""
    if fit_intercept:
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


def dense(name: str, tensor: Tensor, device: torch.device | None = None) -> None:
    """A tensor that holds its values one by one, on ``device`` unless that is None."""
    if tensor.is_nested:
        raise ValueError(
            f"{name}: given a nested tensor, expected a dense one; torch.nested.to_padded_tensor({name}, 0.0) makes it,"
            " and sample_weight 0 tells that a sample is padding"
        )
    if tensor.layout != torch.strided:
        raise ValueError(f"{name}: given a tensor of layout {tensor.layout}, expected a dense one; {name}.to_dense()")
    if tensor.is_meta:
        raise ValueError(f"{name}: given a tensor on the meta device, which has no values, expected one that has some")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name}: given a tensor on {tensor.device}, expected {device}, as X; {name}.to(X.device)")


def features(X: Tensor) -> None:
    """X is a dense floating-point tensor (..., n, m) with at least one sample and one feature."""
    if not isinstance(X, Tensor) or not X.is_floating_point():
        given = f"dtype {X.dtype}" if isinstance(X, Tensor) else type(X).__name__
        # A complex tensor has a real part, but nobody knows whether that is meant.
        make = "" if isinstance(X, Tensor) and X.is_complex() else "; X.float() makes one"
        raise ValueError(f"X: given {given}, expected a floating-point tensor (..., n, m){make}")
    dense("X", X)
    if X.dim() < 2 or 0 in X.shape[-2:]:
        raise ValueError(f"X: given shape {tuple(X.shape)}, expected (..., n, m) with n ≥ 1 samples and m ≥ 1 features")


def regression_targets(Y: Tensor, X: Tensor) -> Tensor:
    """Y (..., n, k) in float64."""
    if not isinstance(Y, Tensor) or not Y.is_floating_point():
        given = f"dtype {Y.dtype}" if isinstance(Y, Tensor) else type(Y).__name__
        make = "" if isinstance(Y, Tensor) and Y.is_complex() else "; Y.to(X.dtype) makes one"
        raise ValueError(f"Y: given {given}, expected a floating-point tensor (..., n, k){make}")
    dense("Y", Y, X.device)
    n = X.shape[-2]
    if Y.dim() < 2 or Y.shape[-2] != n:
        hint = "; for one target per sample pass y.unsqueeze(-1)" if Y.shape[-1:] == (n,) else ""
        raise ValueError(f"Y: given shape {tuple(Y.shape)}, expected (..., {n}, k), X having {n} samples{hint}")
    if not Y.shape[-1]:
        raise ValueError(f"Y: given shape {tuple(Y.shape)}, expected (..., {n}, k) with k ≥ 1 targets")
    return Y.to(torch.float64)


def class_targets(Y: Tensor, X: Tensor, n_classes: int | None) -> Tensor:
    """Integer labels (..., n), or one-hot targets (..., n, k), as one-hot float64 (..., n, k).

    ``n_classes`` None reads k off the largest label, which is impossible under `vmap`.
    """
    n = X.shape[-2]
    expected = f"integer labels (..., {n}) or one-hot targets (..., {n}, k), X having {n} samples"
    if not isinstance(Y, Tensor) or Y.is_complex():
        given = f"dtype {Y.dtype}" if isinstance(Y, Tensor) else type(Y).__name__
        raise ValueError(f"Y: given {given}, expected {expected}")
    dense("Y", Y, X.device)
    if Y.is_floating_point() or Y.dtype == torch.bool:
        if Y.dim() < 2 or Y.shape[-2] != n or Y.shape[-1] != (n_classes or max(Y.shape[-1], 1)):
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
        n_classes = _number_of_classes(Y)
    if Y.numel() * n_classes > MOST_ENTRIES:
        raise ValueError(
            f"n_classes: given {n_classes} for labels {tuple(Y.shape)}, expected fewer: one-hot targets would take"
            f" {Y.numel() * n_classes * 8 / 2**30:.3g} GiB; number the classes from 0 without gaps"
        )
    # A label out of range gives a row of zeros, which the check of values reports.
    return (Y[..., None] == torch.arange(n_classes, device=Y.device)).to(torch.float64)


# Entries of one-hot targets, 16 GiB of them: what is larger is a mistake, and is not to end in the machine's memory.
MOST_ENTRIES = 2**31
# Classes that have no sample, where the number of classes is read off the largest label. A few are plausible, those of
# a data set of which this is an episode, say; thousands are identifiers, or targets of a regression.
MOST_EMPTY = 1000


def _number_of_classes(Y: Tensor) -> int:
    """One more than the largest label, and at least two."""
    n_classes = max(int(Y.long().max()) + 1, 2)
    if n_classes > MOST_EMPTY + Y.numel():
        raise ValueError(
            f"Y: given the label {n_classes - 1} among {Y.numel()} labels, expected labels from 0 to k − 1, most of"
            " them in use: torch.unique(Y, return_inverse=True)[1] numbers the classes without gaps; if there are as"
            f" many classes, give n_classes={n_classes}"
        )
    return n_classes


def trailing(name: str, tensor: Tensor, size: int, what: str) -> None:
    """``tensor`` is (..., size)."""
    if not isinstance(tensor, Tensor) or tensor.dim() < 1 or tensor.shape[-1] != size:
        given = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name}: given {given}, expected a tensor (..., {size}), one entry per {what}")
    if tensor.is_complex():
        raise ValueError(f"{name}: given dtype {tensor.dtype}, expected real numbers")


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
        return torch.zeros(len(next(iter(tensors.values()))), device="cpu")

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
        if isinstance(problem.penalty, Partly):
            _no_absent_class(problem.Y, problem.weight, problem.loss.class_mask)


def _no_absent_class(Y: Tensor, weight: Tensor, class_mask: Tensor) -> None:
    """Every class has a sample: the intercept of one without, which nothing penalises, would be −∞."""
    share = (weight[..., None] * Y).sum(-2)
    # An element without samples, or with a non-finite Y, has no minimiser anyway, or a status of its own.
    absent = class_mask & (share == 0) & (share.isfinite().all(-1) & (weight.sum(-1) > 0))[..., None]
    if absent.any():
        element, missing = (int(i) for i in absent.nonzero()[0])
        raise ValueError(
            f"Y: class {missing} of element {element} has no sample: given fit_intercept=True, expected a sample of"
            " each class, or its unpenalised intercept is −∞; mask the class with class_mask, or set"
            " fit_intercept=False"
        )


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
