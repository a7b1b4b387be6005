"""What the thorough run looks at beside certificates: derivatives, foreign starts, autocast, l1_max."""

from typing import NamedTuple

import torch
from thorough_layers import TOL, Layer
from torch import Tensor
from torch.autograd import forward_ad

from implicitlayers.testing import Example, Subject, check_autocast
from implicitlayers.testing.differences import difference
from implicitlayers.testing.failures import Inapplicable
from implicitlayers.testing.feasibility import true_gap
from implicitlayers.testing.named import Named
from implicitlayers.testing.sections import Section
from implicitlayers.testing.starts import foreign_problems
from implicitlayers.testing.subject import Answer
from implicitlayers.testing.thresholds import BELOW, improvable, l1_max

# Differences are taken of solutions as exact as the solver gets them.
EXACT_TOL = 1e-13
STEPS = 4
# Relative difference of coefficients from two starts; where they are determined a gap of TOL leaves much less.
SAME = 1e-3


class Look(NamedTuple):
    """What one of the looks found: on how many problems, and which of them are wrong, (...) over the first of them."""

    what: str
    looked_at: int
    wrong: Tensor


NOTHING = Look("", 0, torch.zeros(0, dtype=torch.bool))


def starts(subject: Subject, example: Example, cold: Answer, plain: Tensor, seed: int) -> Look:
    """From the solution of another problem: as good a gap as from nothing, and where that is plain the same point."""
    problem = subject.objective
    assert isinstance(problem, Named)
    how = ""
    penalised = bool((torch.as_tensor(example.strengths.get("l1", 1.0)) > 0).all())
    if penalised and problem.strengths.get("l2") == 0.0 and seed % 2:
        # The ridge hides what goes wrong without; and where nothing is to be fitted there is a constraint to meet.
        fitted = not problem.constrained or seed % 4 == 3
        how = " without l2" + ("" if fitted else ", all of zero targets")
        Y = example.Y if fitted else 0 * example.Y
        example = example.replace(Y=Y).with_strengths(l2=torch.zeros(len(example.X), dtype=torch.float64))
        cold, plain = subject.answer(example), torch.zeros_like(plain)
    others = foreign_problems(subject, example)
    what = sorted(others)[seed % len(others)]
    warm = subject.answer(example, init=subject.solution(others[what]))
    gap = true_gap(problem, example, warm)
    assert cold.converged is not None
    assert warm.converged is not None
    wrong = (cold.converged | warm.converged) & ~(gap <= TOL)
    if example.generic:
        scale = cold.W.abs().amax((-2, -1)).clamp_min(1e-12)
        same = (warm.W - cold.W).abs().amax((-2, -1)) <= SAME * scale
        wrong |= plain & cold.converged & ~same
    return Look(f"another result from the solution of {what}{how}", len(wrong), wrong)


def autocast(layer: Layer, example: Example) -> Look:
    """`check_autocast`, in float32, whose tolerance is that of the layer there."""
    wrong = torch.zeros(len(example.X), dtype=torch.bool)
    try:
        check_autocast(layer.subject(1e-6, derivative_order=2), example)
    except Inapplicable:
        return NOTHING
    except AssertionError:
        wrong[:] = True
    return Look("another result under autocast", len(wrong), wrong)


def thresholds(subject: Subject, example: Example) -> Look:
    """Zero at l1_max, and not zero two percent below."""
    with torch.no_grad():
        largest = l1_max(subject, example)
    size = example.X.abs().amax((-2, -1)) * example.Y.abs().amax((-2, -1))
    counts = largest > 1e-11 * size
    example, largest = example[counts], largest[counts]
    m = example.X.shape[-1]
    if not len(largest):
        return NOTHING

    def used(share: float) -> Tensor:
        return (subject.answer(example.with_strengths(l1=largest * share)).W[:, :m] != 0).flatten(1).any(-1)

    further = subject.answer(example.with_strengths(l1=0.9 * largest)).coefficients
    excused = improvable(subject, example.with_strengths(l1=BELOW * largest), further)
    wrong = torch.zeros(len(counts), dtype=torch.bool)
    wrong[counts] = used(1 + 1e-6) | ~(used(BELOW) | excused)
    return Look("an l1_max at which something is left, or nothing below", len(largest), wrong)


def derivative_errors(layer: Layer, example: Example) -> tuple[Tensor, Tensor, Tensor]:
    """Of reverse and forward mode along one direction of all arguments, relative; where differences can tell; NaN.

    Differences can tell where four steps stay on the smooth piece around the solution, and agree to a tenth of the
    error allowed.
    """
    directions = Section.random(layer.subject(TOL), example).directions
    exact = Section(layer.subject(EXACT_TOL), example, directions)
    truth = difference(exact.along, batch=1)
    W = exact.value
    scale = torch.maximum(truth.value.abs().flatten(1).amax(-1), 1e-3 * W.abs().flatten(1).amax(-1) + 1e-12)
    judged = (truth.steps >= STEPS) & (truth.error <= 1e-6 * scale)
    forward, reverse, C = _derivatives(Section(layer.subject(TOL), example, directions))
    lost = ~(forward.flatten(1).isfinite().all(-1) & reverse.isfinite())
    error = (forward - truth.value).abs().flatten(1).amax(-1)
    projected = (reverse - (truth.value * C).flatten(1).sum(-1)).abs() / C.abs().flatten(1).sum(-1)
    return torch.maximum(error, projected).nan_to_num(torch.inf) / scale, judged, lost


def _derivatives(section: Section) -> tuple[Tensor, Tensor, Tensor]:
    size = len(section.directions)
    with forward_ad.dual_level():
        p = forward_ad.make_dual(torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64))
        tangent = forward_ad.unpack_dual(section.W(p)).tangent
    # A number per problem, so that each has a derivative of its own.
    count = len(section.example.X)
    t = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    example, moved = section.example, {}
    for name, direction in section.directions.items():
        given = getattr(example, name) if name in ("X", "Y", "sample_weight") else example.strengths[name]
        moved[name] = given + t.reshape(count, *[1] * (direction.dim() - 1)) * direction
    fields = {name: moved.pop(name) for name in ("X", "Y", "sample_weight") if name in moved}
    W = section.subject.W(example.replace(**fields).with_strengths(**moved))
    C = torch.randn(W.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (reverse,) = torch.autograd.grad((W * C).sum(), [t])
    return tangent.detach() if tangent is not None else torch.zeros_like(W), reverse, C
