"""Multiclass hinge, with or without group Lasso: its dual, over products of simplices; l2 > 0."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..features import Features
from ..losses import MulticlassHinge
from ..optimality import DualFace, dual_face, score_map
from ..problem import Problem, relative
from . import dual_newton
from .conjugate_part import active_features
from .result import Result
from .ties import TIE, groups_tied

# A λ below this is rounding: the sample does not touch that class.
SMALLEST_LAMBDA = 1e-12
# Newton on the face begins below this gap; its steps; and the step in Λ after which its factor need not be made again.
POLISH_BELOW = 1e-6
POLISH_STEPS, SETTLED_STEP = 4, 1e-8


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """Newton on the dual, then Newton on the face it ends on; ``start`` is a dual point Θ (b, n, k)."""
    domain = _hinge(problem).domain
    uniform = domain.allowed[:, None, :].expand_as(problem.Y).to(problem.Y.dtype)
    uniform = uniform / uniform.sum(-1, keepdim=True)
    Lambda = uniform if start is None else domain.project(problem.Y - start)
    n_iter, scale = 0, problem.null_objective()
    for target in (max(tol, POLISH_BELOW), tol):
        found = dual_newton.minimise(problem, Lambda, target, max_iter - n_iter)
        at, face = _polish(problem, found.Lambda)
        Lambda, n_iter = at.Lambda, n_iter + found.n_iter
        if (relative(at.gap, scale) <= tol).all():
            break
    theta = problem.Y - at.Lambda
    coef = at.features.put(at.small.coef_of(at.small.correlation(theta)), problem.X.shape[-1])
    return Result(
        coef=coef,
        theta=theta,
        features=at.features,
        system=face,
        state=at.Lambda,
        degenerate=_has_ties(problem, at),
        # Without any feature in use nothing depends on Λ, and that its system is singular is of no consequence.
        singular=face.factor.singular & (coef != 0).flatten(1).any(-1),
        n_iter=torch.full_like(problem.l2, n_iter, dtype=torch.int64),
    )


def _hinge(problem: Problem) -> MulticlassHinge:
    assert isinstance(problem.loss, MulticlassHinge)
    return problem.loss


class _Point(NamedTuple):
    """Λ (b, n, k), its gap (b,), the features it leaves active, and the problem on these."""

    Lambda: Tensor
    gap: Tensor
    features: Features
    small: Problem


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
    Lambda = problem.loss.domain.project(Lambda)
    Lambda = torch.where(Lambda > SMALLEST_LAMBDA, Lambda, 0.0)
    return Lambda / Lambda.sum(-1, keepdim=True)


def _point(problem: Problem, Lambda: Tensor) -> _Point:
    Theta = problem.Y - Lambda
    V = problem.correlation(Theta)
    features = active_features(problem.penalty.support(V))
    small = problem._replace(X=features.take(problem.X))
    scores = score_map(small)(Theta)
    # A sample of weight zero sits at its worst class: the right one-sided derivative with respect to its weight.
    worst = _hinge(problem).worst_case(scores, problem.Y)
    Lambda = torch.where((problem.weight > 0)[..., None], Lambda, worst)
    gap = (problem.weight * problem.loss.fenchel_young(scores, problem.Y - Lambda, problem.Y)).sum(-1)
    return _Point(Lambda, gap, features, small)


def _has_ties(problem: Problem, at: _Point) -> Tensor:
    """Elements at a kink: a class with λ = 0 whose margin ties, or a group whose norm is l1."""
    Theta = problem.Y - at.Lambda
    slope = problem.loss.conjugate_gradient(at.Lambda, problem.Y) - score_map(at.small)(Theta)
    allowed = _hinge(problem).class_mask[:, None, :]
    lowest = torch.where(at.Lambda > 0, slope, torch.inf).amin(-1, keepdim=True)
    scale = 1 + slope.abs().amax(-1, keepdim=True)
    tied = (at.Lambda <= TIE) & allowed & (slope - lowest < TIE * scale) & (problem.weight > 0)[..., None]
    return tied.flatten(1).any(-1) | groups_tied(problem.penalty, problem.correlation(Theta))
