"""Multiclass hinge, with or without group Lasso: its dual, over products of simplices; l2 > 0."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..features import Features
from ..losses import MulticlassHinge
from ..optimality import DualFace, dual_face, score_map
from ..penalties import Kinks
from ..problem import Problem, relative
from ..products import row_squares
from . import barrier, dual_newton
from .conjugate_part import active_features
from .result import Result
from .ties import at_kink, derivative_error

# A λ below this is rounding: the sample does not touch that class.
SMALLEST_LAMBDA = 1e-12
# Newton on the face begins below this gap; its steps; and the step in Λ after which its factor need not be made again.
POLISH_BELOW = 1e-6
# The gap at which a tie is one.
DECIDED = 1e-13
# The interior point goes far below the gap asked for, until what is zero and what is not lie far apart.
LAST_BARRIER = 1e-14
POLISH_STEPS, SETTLED_STEP = 4, 1e-8


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """Newton on the dual, then Newton on the face it ends on; ``start`` is a dual point Θ (b, n, k)."""
    Lambda = _competitors(problem) if start is None else _hinge(problem).domain.project(problem.Y - start)
    n_iter = torch.zeros_like(problem.l2, dtype=torch.int64)
    unsure = torch.arange(len(n_iter), device=n_iter.device)
    for target in (max(tol, POLISH_BELOW), tol, min(tol, DECIDED)):
        part = pytree.tree_map(lambda t, some=unsure: t[some], problem)
        found, used = _search(part, Lambda[unsure], target, max_iter - n_iter[unsure])
        Lambda, n_iter = Lambda.index_copy(0, unsure, found), n_iter.index_add(0, unsure, used)
        at, face = _polish(problem, Lambda)
        margins, groups = _margins(problem, at), _groups(problem, at)
        degenerate = at_kink(margins) | at_kink(groups)
        # What looks like a tie may be a λ that has not quite got to zero.
        failed = ~(relative(at.gap, problem.null_objective()) <= tol)
        unsure = ((failed | degenerate) & (n_iter < max_iter)).nonzero().flatten()
        if not len(unsure):
            break
    theta = problem.Y - at.Lambda
    coef = at.features.put(at.small.coef_of(at.small.correlation(theta)), problem.X.shape[-1])
    return Result(
        coef=coef,
        theta=theta,
        features=at.features,
        system=face,
        state=at.Lambda,
        degenerate=degenerate,
        singular=face.factor.singular & _used(problem, at),
        derivative_error=_derivative_error(problem, at, face, margins, groups),
        n_iter=n_iter,
    )


def _search(problem: Problem, Lambda: Tensor, target: float, max_iter: Tensor) -> tuple[Tensor, Tensor]:
    """Λ (b, n, k) of a gap of at most ``target``, its zeros exact, and the steps (b,) that it took."""
    found = dual_newton.minimise(problem, Lambda, target, max_iter)
    at, face = _polish(problem, _unstuck(problem, found.Lambda, ~(found.gap <= target)))
    if face.factor.singular.any():
        # Too many λ are free for the features in use: most of them are zeros that have not got there.
        at, _ = _polish(problem, _unstuck(problem, at.Lambda, face.factor.singular))
    return at.Lambda, found.n_iter


def _hinge(problem: Problem) -> MulticlassHinge:
    assert isinstance(problem.loss, MulticlassHinge)
    return problem.loss


def _competitors(problem: Problem) -> Tensor:
    """Λ uniform over the classes a sample does not have: where l1 is large it already certifies W = 0.

    Where it does not, Λ uniform over all classes is the better start, every class being free to move there.
    """
    allowed = _hinge(problem).domain.allowed.expand_as(problem.Y)
    uniform = allowed.to(problem.Y.dtype) / allowed.sum(-1, keepdim=True)
    others = torch.where(allowed, 1 - problem.Y, 0.0)
    total = others.sum(-1, keepdim=True)
    others = torch.where(total > 0, others / torch.where(total > 0, total, 1.0), uniform)
    zero = (problem.coef_of(problem.correlation(problem.Y - others)) == 0).flatten(1).all(-1)
    return torch.where(zero[:, None, None], others, uniform)


def _unstuck(problem: Problem, Lambda: Tensor, stuck: Tensor) -> Tensor:
    """Λ, with the elements that are ``stuck`` (b,) solved again by the interior point, if they are small."""
    stuck = stuck.nonzero().flatten()
    if not len(stuck) or not barrier.is_small(problem):
        return Lambda
    part = pytree.tree_map(lambda t: t[stuck], problem)
    last = LAST_BARRIER * part.null_objective()
    return Lambda.index_copy(0, stuck, barrier.minimise(part, Lambda[stuck], last))


class _Point(NamedTuple):
    """Λ (b, n, k), its gap (b,), the features it leaves active, and the problem on these."""

    Lambda: Tensor
    gap: Tensor
    features: Features
    small: Problem


def polish(problem: Problem, Lambda: Tensor) -> Tensor:
    """Λ after Newton on the face it lies on, as exact as rounding allows."""
    return _polish(problem, Lambda)[0].Lambda


def _polish(problem: Problem, Lambda: Tensor) -> tuple[_Point, DualFace]:
    """Newton on the face until Λ stands still: the value is then as exact as rounding allows, and so is the factor."""
    at = _point(problem, _snapped(problem, Lambda))
    for _ in range(POLISH_STEPS):
        face = dual_face(at.small, at.Lambda)
        step = face.step(at.small, face.residual(at.small, at.Lambda, score_map(at.small)))
        target = _snapped(problem, at.Lambda - step)
        new = _point(problem, target)
        # NaN compares false: a step into nowhere is not taken.
        better = (new.gap <= at.gap + 1e-15)[:, None, None]
        moved = torch.where(better, new.Lambda - at.Lambda, 0.0).abs()
        at = new if better.all() else _point(problem, torch.where(better, target, at.Lambda))
        if (moved <= SETTLED_STEP).all():
            return at, face
    return at, dual_face(at.small, at.Lambda)


def _snapped(problem: Problem, Lambda: Tensor) -> Tensor:
    """The nearest feasible point, its rounding-sized entries exactly zero: what is positive is the face."""
    Lambda = problem.dual_loss.domain.project(Lambda)
    Lambda = torch.where(Lambda > SMALLEST_LAMBDA, Lambda, 0.0)
    return Lambda / Lambda.sum(-1, keepdim=True)


def _point(problem: Problem, Lambda: Tensor) -> _Point:
    Theta = problem.Y - Lambda
    V = problem.correlation(Theta)
    features = active_features(problem, V)
    small = problem.restrict(features)
    scores = score_map(small)(Theta)
    # A sample of weight zero sits at its worst class: the right one-sided derivative with respect to its weight.
    worst = problem.Y - problem.loss.dual_point(scores, problem.Y)
    Lambda = torch.where((problem.weight > 0)[..., None], Lambda, worst)
    gap = (problem.weight * problem.loss.fenchel_young(scores, problem.Y - Lambda, problem.Y)).sum(-1)
    return _Point(Lambda, gap, features, small)


def _margins(problem: Problem, at: _Point) -> Kinks:
    """Of classes with λ = 0, how far their margin is from a tie; of the others, λ itself, (b, n, k).

    A sample whose only positive λ is one moves along no edge: there λ is no kink.
    """
    slope = problem.dual_loss.conjugate_gradient(at.Lambda, problem.Y) - score_map(at.small)(problem.Y - at.Lambda)
    positive = at.Lambda > 0
    lowest = torch.where(positive, slope, torch.inf).amin(-1, keepdim=True)
    distance = torch.where(positive, at.Lambda, slope - lowest)
    alone = positive & (positive.sum(-1, keepdim=True) == 1)
    counts = _hinge(problem).domain.allowed & (problem.weight > 0)[..., None] & ~alone
    return Kinks(torch.where(counts, distance, torch.inf), 1 + slope.abs().amax(-1, keepdim=True))


def _used(problem: Problem, at: _Point) -> Tensor:
    """Elements (b,) in which W moves with Λ: elsewhere that Λ's system is singular is of no consequence."""
    V = problem.correlation(problem.Y - at.Lambda)
    return problem.penalty.support(V / problem.l2[:, None, None], 1 / problem.l2).any(-1)


def _groups(problem: Problem, at: _Point) -> Kinks:
    """How far each group is from its threshold."""
    V = problem.correlation(problem.Y - at.Lambda)
    return problem.penalty.kinks(V / problem.l2[:, None, None], 1 / problem.l2)


def _derivative_error(problem: Problem, at: _Point, face: DualFace, margins: Kinks, groups: Kinks) -> Tensor:
    """From how far the solution may be: scores by ‖xᵢ‖·√(2(P − D)/l2), λ and V by Newton's next step."""
    step = face.step(at.small, face.residual(at.small, at.Lambda, score_map(at.small)))
    norm = row_squares(problem.X).sqrt()
    scores = norm * (2 * at.gap / problem.l2).sqrt()[:, None]
    uncertainty = torch.where(at.Lambda > 0, step.abs(), 2 * scores[..., None])
    moved = problem.correlation(step).abs().amax((1, 2)) / problem.l2
    errors = [
        derivative_error(margins.distance, uncertainty, face.factor),
        derivative_error(groups.distance, moved[:, None, None], face.factor),
    ]
    return torch.where(_used(problem, at), torch.maximum(*errors), torch.where(errors[1].isfinite(), 0.0, torch.inf))
