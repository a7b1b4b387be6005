"""Derivatives of a layer against finite differences of its own solutions, and against an unrolled solver's."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jacfwd, jacrev

from . import oracles
from .differences import Difference, difference
from .example import Example
from .failures import failure, reproducible
from .named import Named
from .sections import Section, kinks_of
from .subject import Subject, blamed, gradients

Mode = Literal["reverse", "forward", "second", "compositions"]
MODES: tuple[Mode, ...] = ("reverse", "forward", "second", "compositions")
Verdict = Literal["checked", "degenerate", "undecided"]

# A point whose margin or regularity is smaller has no derivative, or one that differences cannot see.
MARGIN = 1e-6
REGULARITY = 1e-9
# Steps of a difference that must stay on the smooth piece.
STEPS = 4


@reproducible
def check_derivatives(subject: Subject, example: Example, modes: Sequence[Mode] = MODES) -> Verdict:
    """First and second derivatives with respect to everything, against finite differences in float64.

    The differences are of the layer's own solutions, along one random direction per argument; they come with an error
    estimate, and where that exceeds the tolerance nothing can be said. Degenerate points, where derivatives are
    one-sided, are left out: whether a point is one is decided from the problem, not by the layer.

    Args:
        subject: what is tested.
        example: one problem, float64, no leading dimensions.
        modes: "reverse" and "forward" are first derivatives by `torch.autograd`; "second" is reverse over reverse;
            "compositions" are those of ``jacrev`` and ``jacfwd`` of `torch.func`.

    Returns:
        "checked", "degenerate" (left out), or "undecided" (differences too noisy).

    Raises:
        AssertionError: a derivative is wrong.
    """
    if degenerate(subject, example):
        return "degenerate"
    section = Section.random(subject, example)
    verdicts: list[Verdict] = []
    if {"reverse", "forward"} & set(modes):
        verdicts.append(_check_first(section, modes))
    if "second" in modes:
        verdicts.append(_check_second(section, {"reverse over reverse": _hessian_by_autograd}))
    if "compositions" in modes:
        pairs = itertools.product((jacrev, jacfwd), repeat=2)
        compositions = {f"{outer.__name__} of {inner.__name__}": _composed(outer, inner) for outer, inner in pairs}
        verdicts.append(_check_second(section, compositions))
    unsure: tuple[Verdict, ...] = ("degenerate", "undecided")
    for verdict in unsure:
        if verdict in verdicts:
            return verdict
    return "checked"


def degenerate(subject: Subject, example: Example) -> bool:
    """Whether the problem itself, at the layer's solution, says that derivatives are one-sided or not unique."""
    problem = subject.objective
    if not isinstance(problem, Named):
        return False
    answer = subject.answer(example)
    kinks = kinks_of(subject, example, answer)
    if kinks is None:
        return False
    margin = float(kinks.abs().amin())
    regularity = float(problem.regularity(example, answer.coefficients, None if problem.smooth else answer.dual))
    return margin < MARGIN or regularity < REGULARITY


@reproducible
def check_argmin_derivatives(subject: Subject, example: Example) -> Verdict:
    """The reverse-mode derivative against that of an unrolled solver which has converged: the argmin's own.

    For problems with smooth loss. It tells what differences of the layer's own values cannot: a layer that has not
    converged may differentiate its iterations without error, and yet not the argmin.

    Returns:
        "checked", "degenerate" (left out), or "undecided" (the unrolled solver has not converged).

    Raises:
        AssertionError: the derivative is another.
    """
    problem = subject.objective
    assert isinstance(problem, Named)
    if degenerate(subject, example):
        return "degenerate"
    moving = [name for name in ("X", "Y") if name == "X" or not problem.classes]
    inputs = [getattr(example, name).detach().clone().requires_grad_() for name in moving]
    moved = example.replace(**dict(zip(moving, inputs, strict=True)))
    exact = oracles.unrolled(problem, moved)
    if exact is None:
        return "undecided"
    W = subject.W(moved)
    C = _projection(W.shape)
    given = gradients((W * C).sum(), inputs)
    expected = gradients((exact * C).sum(), inputs)
    exact = exact.detach()
    for name, one, other in zip(moving, given, expected, strict=True):
        scale = float(other.abs().max().clamp_min(1e-3 * float(exact.abs().max()) + 1e-12))
        error = float((one - other).abs().max()) / scale
        if not error <= max(subject.coef_tol, 100 * subject.derivative_tol):
            raise failure(
                f"the derivative of the argmin with respect to {name}, here by unrolling a solver to convergence",
                f"a relative error of {error:.1e}",
                "the derivative is that of an unfinished iteration; the implicit function theorem is applied at a point"
                " that is not optimal, or its linear system holds the wrong support or misses a term",
            )
    return "checked"


def _check_first(section: Section, modes: Sequence[Mode]) -> Verdict:
    verdict: Verdict = "checked"
    for name in section.directions:
        one = section.only(name)
        truth = difference(one.along)
        reliable = _reliable(truth, one)
        if reliable != "checked":
            verdict = reliable
            continue
        W = one.value
        C = _projection(W.shape)
        if "reverse" in modes:
            _compare(_reverse(one, C), (truth.value * C).sum(), truth, one, name, "reverse mode", float(C.abs().sum()))
        if "forward" in modes:
            _compare(_forward(one), truth.value, truth, one, name, "forward mode", 1.0)
    return verdict


def _reliable(truth: Difference, section: Section) -> Verdict:
    if int(truth.steps) < STEPS:
        return "degenerate"
    scale = max(float(truth.value.abs().max()), _floor(section))
    return "checked" if float(truth.error) <= section.subject.derivative_tol * scale / 2 else "undecided"


def _floor(section: Section) -> float:
    """Derivatives below this are zero: directions have the size of their arguments."""
    return 1e-3 * float(section.value.abs().max()) + 1e-12


def _compare(
    given: Tensor, expected: Tensor, truth: Difference, section: Section, name: str, how: str, share: float
) -> None:
    scale = max(float(truth.value.abs().max()), _floor(section)) * share
    error = float((given - expected).abs().max()) - 2 * float(truth.error) * share
    if error <= section.subject.derivative_tol * scale:
        return
    if float(given.abs().max()) == 0:
        cause = f"{name} is detached on its way into the layer: by .item(), float(), .detach() or no_grad()"
    else:
        cause = _cause_of(given, expected)
    raise failure(
        f"the derivative with respect to {name} in {how} to agree with finite differences to"
        f" {section.subject.derivative_tol:.0e}",
        f"a relative error of {error / scale:.1e} (differences are good to {float(truth.error) * share / scale:.0e})",
        cause,
    )


def _cause_of(given: Tensor, expected: Tensor) -> str:
    ratio = float((given * expected).sum() / expected.square().sum().clamp_min(1e-300))
    if expected.numel() > 1 and float((given - ratio * expected).abs().max()) <= 1e-3 * float(given.abs().max()):
        return f"it is {ratio:.4g} times what it should be: a factor, a sign, or a mean in the place of a sum"
    return (
        "the linear system of the implicit derivative misses a term (the l2 term, the curvature of the penalty), or is"
        " taken on the wrong support"
    )


def _reverse(section: Section, C: Tensor) -> Tensor:
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    return gradients((section.W(p) * C).sum(), [p])[0].sum()


def _forward(section: Section) -> Tensor:
    with blamed(), forward_ad.dual_level():
        p = forward_ad.make_dual(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
        W = section.W(p)
        tangent = forward_ad.unpack_dual(W).tangent
        return torch.zeros_like(W) if tangent is None else tangent.clone()


Hessian = Callable[[Section, Tensor], Tensor]


def _hessian_by_autograd(section: Section, C: Tensor) -> Tensor:
    size = len(section.directions)
    p = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    (first,) = gradients((section.W(p) * C).sum(), [p], create_graph=True)
    return torch.stack([gradients(g, [p], create_graph=True)[0].detach() for g in first])


def _composed(outer: Any, inner: Any) -> Hessian:
    def hessian(section: Section, C: Tensor) -> Tensor:
        origin = torch.zeros(len(section.directions), dtype=torch.float64)
        with blamed():
            return outer(inner(lambda p: (section.W(p) * C).sum()))(origin)

    return hessian


def _check_second(section: Section, ways: dict[str, Hessian]) -> Verdict:
    """All second derivatives of a random projection of W, against differences of its reverse-mode gradient."""
    size = len(section.directions)
    C = _projection(section.value.shape)

    columns: list[Difference] = []
    for i, name in enumerate(section.directions):
        axis = torch.eye(size, dtype=torch.float64)[i]
        columns.append(difference(lambda t, a=axis, n=name: _gradients_along(section, C, t, a, n), levels=6))  # type: ignore[misc]
    if min(int(column.steps) for column in columns) < STEPS:
        return "degenerate"
    truth = torch.stack([column.value for column in columns], -1)
    error = max(float(column.error) for column in columns)
    scale = max(float(truth.abs().max()), float(_gradient(section, C, torch.zeros(size).double()).abs().max()) * 1e-3)
    scale = max(scale, float(section.value.abs().max()) * 1e-3 + 1e-12)
    tolerance = 10 * section.subject.derivative_tol
    if error > tolerance * scale / 2:
        return "undecided"
    for way, hessian in ways.items():
        given = hessian(section, C)
        worst = (given - truth).abs()
        if not float(worst.max()) - 2 * error <= tolerance * scale:
            row, column = divmod(int(worst.argmax()), size)
            names = list(section.directions)
            raise failure(
                f"second derivatives ({way}) to agree with finite differences to {tolerance:.0e}",
                f"a relative error of {float(worst.max()) / scale:.1e} with respect to {names[row]}"
                f" and {names[column]}",
                "the derivative rule is not differentiable itself: saved tensors are detached, or torch.linalg.solve is"
                " used in nested forward mode",
            )
    return "checked"


def _gradient(section: Section, C: Tensor, p: Tensor) -> Tensor:
    """Of ⟨C, W(p)⟩ by reverse mode, for each point of (..., size)."""
    p = p.clone().requires_grad_()
    return gradients((section.W(p) * C).sum(), [p])[0]


def _gradients_along(section: Section, C: Tensor, t: Tensor, axis: Tensor, name: str) -> tuple[Tensor, Tensor | None]:
    """Gradients, and kinks, at the points t·axis."""
    points = t[:, None] * axis
    kinks = section.only(name).along(t)[1]
    if section.subject.batches(section.example):
        return _gradient(section, C, points), kinks
    return torch.stack([_gradient(section, C, p) for p in points]), kinks


def _projection(shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
