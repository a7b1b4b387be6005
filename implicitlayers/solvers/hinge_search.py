"""The way to the minimum of a hinge's dual: what costs least is tried first, what is slow and steady last.

Gradient steps where those of Newton's method cost much more, as with many samples; Newton's method; an interior point
where that is slow, with few features in use; proximal points where the ridge is small; and gradient steps to the end.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..penalties import GroupL2, row_norm
from ..problem import Problem, relative
from . import accelerated, continuation, dual_newton, effort, interior
from .batch import pick, put
from .certified import CertifiedPoint, allowed_classes, polished
from .conjugate_part import ConjugatePart, PenalisedPart
from .dual_newton import DualPoint
from .effort import Effort

# Newton steps in which most problems are solved, so many more where that has led to a gap that promises the end, or as
# many as cost this share of what the interior point would; then it takes over, and where it cannot, so many and
# proximal points.
FIRST_STEPS, MORE_STEPS, PROMISING, SHARE_OF_INTERIOR, DIRECT_STEPS = 5, 5, 0.1, 0.5, 30
# With few features in use Newton's method takes many more steps than usual: the interior point may cost this multiple.
DEARER = 10
# Newton steps in one dimension, to a start.
START_STEPS = 4
# Down to this gap searches are rough: products in the precision of X, and gradient steps, which would be many more for
# the digits that Newton's method adds in a step.
ROUGH = 1e-6


class Start(NamedTuple):
    """A Λ (b, n, k); the elements with ``few`` (b,) features in use there; and the expected effort from there."""

    Lambda: Tensor
    few: Tensor
    effort: Effort


class Found(NamedTuple):
    """A dual point, and where (b,) the interior point has decided what is zero in it."""

    point: DualPoint
    decided: Tensor


def first(part: ConjugatePart) -> Start:
    """On the way from Y, which is W = 0, to where every sample is at its competitors, the best point.

    Along Λ = Y − tΘ, F costs no product with X beyond that for V, and its slope, Σ_j ‖V_j‖(t‖V_j‖ − l1)₊/l2 + …, is
    convex: Newton's steps from t = 1 come down on its root. Where l1 is large the end certifies W = 0.
    """
    problem = part.problem
    Theta = problem.Y - _competitors(problem)
    if not isinstance(part, PenalisedPart) or not isinstance(problem.penalty, GroupL2):
        return _start(problem, problem.Y - Theta, torch.zeros_like(problem.X[:, 0], dtype=torch.float64))
    size = row_norm(part.draft().image(Theta))
    pull = (problem.weight[..., None] * Theta * problem.Y).sum((1, 2))
    bend = problem.dual_loss.conjugate_curvature(problem.l2) * (problem.weight[..., None] * Theta.square()).sum((1, 2))
    t = torch.ones_like(pull)
    for _ in range(START_STEPS):
        beyond = (t[:, None] * size - problem.penalty.l1).clamp_min(0)
        slope = (beyond * size).sum(-1) / problem.l2 + bend * t - pull
        curvature = (torch.where(beyond > 0, size, 0.0)).square().sum(-1) / problem.l2 + bend
        t = torch.where(curvature > 0, t - slope / curvature, t).clamp(0, 1)
    return _start(problem, problem.Y - t[:, None, None] * Theta, size)


def known(part: ConjugatePart, Lambda: Tensor) -> Start:
    """At a Λ that somebody knows; it may be near the end, where Newton's method is fast."""
    problem = part.problem
    start = _start(problem, Lambda, row_norm(problem.correlation(problem.Y - Lambda)))
    return start._replace(few=start.few & False)


def _start(problem: Problem, Lambda: Tensor, norm: Tensor) -> Start:
    """With ‖V_j‖ = ``norm`` (b, m) in the features that will be in use, or more."""
    suits = interior.suits(problem, norm)
    near = norm >= problem.penalty.l1 if isinstance(problem.penalty, GroupL2) else torch.ones_like(norm)
    work = effort.of_hinge(problem, near > 0, suits.small)
    return Start(Lambda, suits.few & (work.interior <= DEARER * effort.NEWTON_STEPS * work.newton), work)


def _competitors(problem: Problem) -> Tensor:
    """Λ uniform over the classes a sample does not have.

    Most features that the solution uses are active there.
    """
    allowed = allowed_classes(problem).expand_as(problem.Y)
    others = torch.where(allowed, 1 - problem.Y, 0.0)
    total = others.sum(-1, keepdim=True)
    # A sample without competitors, its own class alone in the mask, competes with itself.
    return torch.where(total > 0, others / torch.where(total > 0, total, 1.0), allowed.to(problem.Y.dtype))


def search(part: ConjugatePart, start: Start, target: float, max_iter: Tensor) -> Found:
    """From a start to relative gaps of ``target``, in at most ``max_iter`` (b,) steps."""
    rough = target >= ROUGH
    # What is as exact as is asked for at first.
    draft = part.draft() if isinstance(part, PenalisedPart) and rough else part
    found = _point_at(part, start.Lambda)
    if rough:
        found = _gradients(draft, found, target, max_iter, start.effort.trial())
    few, steps = start.few, _newton_steps(start.effort)
    found = _newton(draft, found, ~few, target, max_iter.clamp_max(steps))
    found = _newton(part, found, ~few & (found.gap <= PROMISING), target, max_iter.clamp_max(steps + MORE_STEPS))
    found, decided = inside(part, found, ~(found.gap <= target), max_iter)
    if start.effort.newton < torch.inf:
        everywhere = torch.ones_like(few)
        if not isinstance(part, PenalisedPart):
            # The model is the dual itself: Newton goes on alone.
            return Found(_newton(part, found, everywhere, target, max_iter), decided)
        found = _newton(part, found, everywhere, target, torch.minimum(max_iter, found.n_iter + DIRECT_STEPS))
        found, target = _continued(part, found, target, max_iter), max(target, ROUGH)
    left = accelerated.PER_ITERATION * int((max_iter - found.n_iter).amax())
    return Found(_gradients(part, found, target, max_iter, effort.Limits(left, left)), decided)


def _point_at(part: ConjugatePart, Lambda: Tensor) -> DualPoint:
    """A start, of whose gap nothing is known."""
    return DualPoint(Lambda, torch.full_like(part.null, torch.inf), torch.zeros_like(part.null, dtype=torch.int64))


def _newton_steps(work: Effort) -> int:
    """Before the interior point is asked."""
    if work.newton == torch.inf:
        return 0
    as_dear = SHARE_OF_INTERIOR * work.interior / work.newton
    return int(min(max(FIRST_STEPS, as_dear), DIRECT_STEPS))


def _gradients(
    part: ConjugatePart, found: DualPoint, target: float, max_iter: Tensor, limits: effort.Limits
) -> DualPoint:
    """What was ``found``, with the elements that are not at a gap of ``target`` led further by gradient steps."""
    todo = (~(found.gap <= target) & (found.n_iter < max_iter)).nonzero().flatten()
    if not len(todo) or not limits.most:
        return found
    before = pick(found, todo)
    after = accelerated.minimise(part.pick(todo), before.Lambda, torch.full_like(before.gap, target), limits)
    better = after.gap < before.gap
    after = DualPoint(
        torch.where(better[:, None, None], after.Lambda, before.Lambda),
        torch.where(better, after.gap, before.gap),
        before.n_iter + after.n_iter,
    )
    return put(found, todo, after)


def _newton(part: ConjugatePart, found: DualPoint, which: Tensor, target: float, max_iter: Tensor) -> DualPoint:
    """What was ``found``, with the elements ``which`` (b,) that are not at a gap of ``target`` led further."""
    todo = (which & ~(found.gap <= target) & (found.n_iter < max_iter)).nonzero().flatten()
    if not len(todo):
        return found
    before = pick(found, todo)
    after = dual_newton.minimise(part.pick(todo), before.Lambda, target, max_iter[todo] - before.n_iter)
    return put(found, todo, after._replace(n_iter=before.n_iter + after.n_iter))


def inside(part: ConjugatePart, found: DualPoint, which: Tensor, max_iter: Tensor) -> Found:
    """What was ``found``, with the elements ``which`` (b,) led further by the interior point, if they are small."""
    todo = (which & (found.n_iter < max_iter)).nonzero().flatten()
    if len(todo):
        problem = pick(part.problem, todo)
        norm = row_norm(problem.correlation(problem.Y - found.Lambda[todo]))
        todo = todo[interior.suits(problem, norm).small]
    decided = torch.zeros_like(which).index_fill(0, todo, True)
    if not len(todo):
        return Found(found, decided)
    some, before = part.pick(todo), pick(found, todo)
    Lambda, steps = interior.minimise(some.problem, before.Lambda, max_iter[todo] - before.n_iter)
    return Found(put(found, todo, _nearer(some, before, polished(CertifiedPoint(some, Lambda)), steps)), decided)


def _continued(part: PenalisedPart, found: DualPoint, target: float, max_iter: Tensor) -> DualPoint:
    """What was ``found``, with elements that are not at a gap of ``target`` led further by proximal points."""
    todo = (~(found.gap <= target) & (found.n_iter < max_iter)).nonzero().flatten()
    if not len(todo):
        return found
    some, before = part.pick(todo), pick(found, todo)
    Lambda, points = continuation.minimise(some.problem, before.Lambda, max_iter[todo] - before.n_iter)
    return put(found, todo, _nearer(some, before, CertifiedPoint(some, Lambda), points))


def _nearer(part: ConjugatePart, before: DualPoint, at: CertifiedPoint, steps: Tensor) -> DualPoint:
    """``before``, or what ``steps`` more led to, whichever has the lower gap."""
    gap = relative(at.gap, part.null)
    better = gap < before.gap
    Lambda = torch.where(better[:, None, None], at.Lambda, before.Lambda)
    return DualPoint(Lambda, torch.where(better, gap, before.gap), before.n_iter + steps)
