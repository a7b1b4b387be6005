"""`l1_max` by its meaning: the smallest strength at which nothing is left, as a function that can be differentiated."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .derivatives import Verdict
from .differences import difference
from .example import Example
from .failures import failure, reproducible
from .named import Named
from .scaling import coefficient_size
from .sections import Section
from .subject import Subject, blamed, gradients
from .terms import Coefficients

# Below l1_max by this share something must be left.
BELOW = 0.98
# A value of the objective is known to this share of the one at zero.
ROUNDING = 1e-13


@reproducible
def check_l1_max(subject: Subject, example: Example) -> Verdict:
    """The solution is zero at the layer's ``l1_max(X, Y)``, not zero two percent below; its derivatives are right.

    Zero means that the layer's own solution there is no better than zero. Where it is zero two percent below, that is
    excused if a solution from further below would be better there by less than ``tol``.

    Args:
        subject: a layer with a method ``l1_max``, and with ``make``, which takes the l1.
        example: one problem, float64, no leading dimensions.

    Returns:
        "checked", "degenerate" (a kink of l1_max, or zero at any l1) or "undecided" (differences too noisy).

    Raises:
        AssertionError: it is not.
    """
    largest = l1_max(subject, example).detach()
    # What rounding leaves of a correlation that is zero is no threshold.
    if not float(largest) > 1e-11 * float(example.X.abs().max()) * float(example.Y.abs().max()):
        return "degenerate"
    _check_zero(subject, example, float(largest))
    _check_not_zero(subject, example, float(largest))
    return _check_derivatives(subject, example, float(largest))


def _check_zero(subject: Subject, example: Example, largest: float) -> None:
    at = example.with_strengths(l1=largest)
    better = float(improvement(subject, at, subject.answer(at).coefficients))
    if better > ROUNDING:
        raise failure(
            "no coefficients better than zero at l1_max",
            f"the layer's own at l1 = {largest:.6g}, by {better:.1e} of the objective at zero",
            "l1_max is too small: a factor of n or 2, or a special case in the place of the general one",
        )
    above = example.with_strengths(l1=largest * (1 + 1e-6))
    left = float(subject.answer(above).W[: example.X.shape[-1]].abs().max())
    # Coefficients that a gap of tol allows where the exact ones are zero.
    allowed = 0.0 if subject.says_gap else subject.coef_tol * float(coefficient_size(example))
    if left > allowed:
        raise failure(
            "all coefficients zero at (1 + 1e-6)·l1_max",
            f"{left:.1e}",
            "l1_max is too small by little; or the solver leaves crumbs where nothing should be",
        )


def _check_not_zero(subject: Subject, example: Example, largest: float) -> None:
    below = example.with_strengths(l1=BELOW * largest)
    m = example.X.shape[-1]
    if bool((subject.answer(below).W[:m] != 0).any()):
        return
    further = subject.answer(example.with_strengths(l1=0.9 * largest)).coefficients
    if not bool(improvable(subject, below, further)):
        raise failure(
            f"a coefficient other than zero at {BELOW}·l1_max",
            f"none at l1 = {BELOW * largest:.6g}",
            "l1_max is a bound, not the smallest strength: that of another loss, or a sum of what should be a maximum",
        )


def improvement(subject: Subject, example: Example, coefficients: Coefficients) -> Tensor:
    """How much better than zero, in shares of the objective at zero, (...)."""
    problem = subject.objective
    assert isinstance(problem, Named)
    null = problem.null(example)
    return (null - problem.value(example, coefficients)) / torch.where(null > 0, null, 1.0)


def improvable(subject: Subject, example: Example, further: Coefficients) -> Tensor:
    """Whether a share of coefficients from a problem with less l1 is better than zero, (...)."""
    W, *b = further if isinstance(further, tuple) else (further,)
    shares = (W * t if not b else (W * t, b[0]) for t in (1.0, 0.3, 0.1, 0.03))
    return torch.stack([improvement(subject, example, one) > ROUNDING for one in shares]).any(0)


def _check_derivatives(subject: Subject, example: Example, largest: float) -> Verdict:
    """Along one direction of features, targets, weights and other strengths, in both modes."""
    directions = Section.random(subject, example).directions
    section = Section(subject, example, {name: d for name, d in directions.items() if name not in ("l1", "l2")})

    def at(t: Tensor) -> Tensor:
        return l1_max(subject, section.moved(t.expand(len(section.directions))))

    with torch.no_grad():
        truth = difference(lambda ts: (torch.stack([at(t) for t in ts]), None))
        step = torch.tensor(1e-6, dtype=torch.float64)
        bend = float((at(step) - 2 * largest + at(-step)).abs()) / 1e-6
    scale = max(float(truth.value.abs()), 1e-3 * largest)
    if bend > 1e-3 * scale:
        return "degenerate"
    if float(truth.error) > subject.derivative_tol * scale / 2:
        return "undecided"
    for mode, found in (("reverse", _reverse(at)), ("forward", _forward(at))):
        error = float((found - truth.value).abs()) / scale
        if not error <= subject.derivative_tol + 2 * float(truth.error) / scale:
            raise failure(
                f"the derivative of l1_max in {mode} mode to agree with finite differences to"
                f" {subject.derivative_tol:.0e}",
                f"{float(found):.6g} for {float(truth.value):.6g}",
                "it is that of an iteration inside, which does not differentiate what it converges to; or the largest"
                " of several is detached",
            )
    return "checked"


def _reverse(at: Any) -> Tensor:
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    return gradients(at(t), [t])[0]


def _forward(at: Any) -> Tensor:
    with blamed(), forward_ad.dual_level():
        t = forward_ad.make_dual(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
        tangent = forward_ad.unpack_dual(at(t)).tangent
        return torch.zeros((), dtype=torch.float64) if tangent is None else tangent.clone()


def l1_max(subject: Subject, example: Example) -> Tensor:
    """What the layer says, (...), with derivatives."""
    weights = {} if example.sample_weight is None else {"sample_weight": example.sample_weight}
    with blamed():
        layer: Any = subject.at(example.strengths)
        return layer.l1_max(example.X, example.Y, **weights)
