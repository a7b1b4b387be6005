"""With an intercept, constants are nobody's business but its own: far offsets and constant columns change no W."""

from collections.abc import Callable

import torch
from torch import Tensor

from .example import Example
from .failures import failure, reproducible
from .metamorphic import unique
from .named import Named
from .scaling import coefficient_size
from .subject import Subject, gradients

FAR = 1e6
# A number that binary arithmetic does not hold exactly, so that its mean over samples may be off by a rounding.
CONSTANT = 0.1


@reproducible
def check_offsets(subject: Subject, example: Example) -> list[str]:
    """A constant added to features or to targets moves the intercept alone, and a constant column is not used.

    In values, and in the gradient with respect to the features. Examples whose solution is not unique are left out.

    Args:
        subject: a layer that returns (W, b).
        example: one problem, float64, no leading dimensions.

    Returns:
        The names of the relations checked.

    Raises:
        AssertionError: one does not hold.
    """
    problem = subject.objective
    assert isinstance(problem, Named)
    if not unique(problem, example, subject.answer(example).coefficients):
        return []
    checked = []
    for name, relation in RELATIONS.items():
        if relation is _constant_targets and problem.classes:
            continue
        if relation is _constant_column and (problem.groups or problem.name == "simplex"):
            # A column more would belong to no group; and on a simplex it takes its share.
            continue
        relation(subject, example)
        checked.append(name)
    return checked


def _far_features(subject: Subject, example: Example) -> None:
    far = example.X + FAR * float(example.X.abs().max())
    # What rounding makes of the far ones, brought back without another.
    near = example.replace(X=far - FAR * float(example.X.abs().max()))
    W, b, gradient = _solved(subject, example.replace(X=far))
    expected, near_b, expected_gradient = _solved(subject, near)
    what = f"features moved by {FAR:.0e} times their size"
    _agree(subject, example, W, expected, f"{what} to change no coefficient")
    _agree_gradients(subject, gradient, expected_gradient, f"{what} to change no gradient of a coefficient")
    off = b - (near_b - (far - near.X)[0] @ W)
    size = float(example.X.abs().max()) * float(W.abs().max()) + float(near_b.abs().max())
    if not float(off.abs().max()) <= 10 * subject.coef_tol * (size or 1.0):
        raise _failure(f"{what} to move the intercept by that much times W", f"{float(off.abs().max()):.1e} off")


def _constant_targets(subject: Subject, example: Example) -> None:
    """Far ones, and nothing but a constant."""
    for what, Y in (("", example.Y), ("that are zero otherwise ", torch.zeros_like(example.Y))):
        scale = float(example.Y.abs().max()) or 1.0
        near = example.replace(Y=Y)
        for constant in (FAR * scale, CONSTANT * scale):
            W, b, gradient = _solved(subject, example.replace(Y=Y + constant))
            expected, near_b, expected_gradient = _solved(subject, near)
            moved = f"targets {what}moved by {constant:.1g}"
            _agree(subject, example, W, expected, f"{moved} to change no coefficient")
            _agree_gradients(subject, gradient, expected_gradient, f"{moved} to change no gradient of a coefficient")
            off = float((b - near_b - constant).abs().max())
            if not off <= max(10 * subject.coef_tol * scale, 1e-12 * constant):
                raise _failure(f"{moved} to move the intercept by {constant:.1g}", f"{off:.1e} off")


def _constant_column(subject: Subject, example: Example) -> None:
    """Its coefficient is zero where anything is penalised; the scores are the same in any case."""
    problem, m = subject.objective, example.X.shape[-1]
    assert isinstance(problem, Named)
    wide = example.replace(X=torch.cat([example.X, torch.full_like(example.X[..., :1], CONSTANT)], -1))
    W, _, gradient = _solved(subject, wide, m)
    expected, _, expected_gradient = _solved(subject, example)
    if any(float(torch.as_tensor(example.strengths.get(name, 0.0))) > 0 for name in ("l1", "group_l1", "l2")):
        _agree(subject, example, W[m:], torch.zeros_like(W[m:]), "a constant column to have a coefficient of zero")
    _agree(subject, example, W[:m], expected, "a constant column to change no other coefficient")
    what = "a constant column to change no gradient with respect to the others"
    _agree_gradients(subject, gradient[:, :m], expected_gradient, what)


RELATIONS: dict[str, Callable[[Subject, Example], None]] = {
    "far features": _far_features,
    "constant targets": _constant_targets,
    "constant column": _constant_column,
}


def _solved(subject: Subject, example: Example, m: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """W, b, and the gradient of a projection of the first m rows of W with respect to X."""
    X = example.X.clone().requires_grad_()
    m = X.shape[-1] if m is None else m
    W, b = subject.call(X, example.Y, example.strengths)
    C = torch.randn(m, W.shape[-1], generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return W.detach(), b.detach(), gradients((W[:m] * C).sum(), [X])[0]


def _agree(subject: Subject, example: Example, found: Tensor, expected: Tensor, what: str) -> None:
    scale = max(float(expected.abs().max()), float(coefficient_size(example)))
    error = float((found - expected).abs().max().nan_to_num(torch.inf)) / scale
    if not error <= 10 * subject.coef_tol:
        raise _failure(f"{what} (to {10 * subject.coef_tol:.0e})", f"a difference of {error:.1e}")


def _agree_gradients(subject: Subject, found: Tensor, expected: Tensor, what: str) -> None:
    tolerance = max(10 * subject.coef_tol, 100 * subject.derivative_tol)
    scale = max(float(expected.abs().max()), 1e-12)
    error = float((found - expected).abs().max().nan_to_num(torch.inf)) / scale
    if not error <= tolerance:
        raise _failure(f"{what} (to {tolerance:.0e})", f"a relative difference of {error:.1e}")


def _failure(expected: str, found: str) -> AssertionError:
    return failure(
        expected,
        found,
        "the intercept is a penalised column, or is dropped; or a zero that is left of a large number is not recognised"
        " as one",
    )
