"""Multiclass hinge, with or without group Lasso: its dual, over products of simplices; l2 > 0."""

from functools import cached_property

import torch
from torch import Tensor

from ..dual_face import DualFace, KroneckerFace, kronecker_face, kronecker_model
from ..features import AllFeatures
from ..hinges import Hinge
from ..optimality import NoSystem
from ..penalties import GroupL2, Kinks, row_norm
from ..problem import Problem, relative
from . import barrier, continuation, dual_newton
from .batch import pick, put
from .conjugate_part import ConjugatePart, PenalisedPart, QuadraticLocal, QuadraticPart, conjugate_part
from .face import SimplexFace
from .result import Result
from .ties import at_kink, derivative_error

# Newton steps in which most problems are solved; the others are better served by proximal points.
DIRECT_STEPS = 30
# Newton steps in one dimension, to a start.
FIRST_STEPS = 4
# Newton on the face begins below this gap; its steps; and the step in Λ that is the last one.
POLISH_BELOW = 1e-6
POLISH_STEPS, SETTLED_STEP = 5, 1e-8
# A step this small is rounding, beside that of the features, and not taken.
ROUNDING_STEP = {torch.float64: 1e-13, torch.float32: 1e-8}
# Gaps that differ by less are the same.
ROUNDING = 1e-15
# The relative gap to go to where no Newton on a face follows, and the products that a system may take for nobody.
EXACT, LARGEST_IDLE = 1e-9, 2**23
# The gap at which a tie is one.
DECIDED = 1e-13
# The interior point goes far below the gap asked for, until what is zero and what is not lie far apart.
LAST_BARRIER = 1e-14


def solve(
    problem: Problem, start: Tensor | None, tol: float, max_iter: int, precision: torch.dtype, differentiated: bool
) -> Result:
    """Newton on the dual, from proximal points where that is slow, then Newton on the face it ends on.

    ``start`` is a dual point Θ (b, n, k).
    """
    part, target = conjugate_part(problem, precision), max(tol, POLISH_BELOW)
    Lambda = _first(part) if start is None else _hinge(problem).domain.project(problem.Y - start)
    if (at := _at_once(part, Lambda, tol)) is not None:
        return _result(at, torch.ones_like(part.scale, dtype=torch.int64), tol)
    found = _searched(part, Lambda, target, max_iter)
    if not differentiated and _is_large(part, found.Lambda):
        finer = dual_newton.minimise(part, found.Lambda, min(tol, EXACT), max_iter - found.n_iter)
        found, at = finer._replace(n_iter=found.n_iter + finer.n_iter), _Point(part, finer.Lambda)
        if (found.gap <= tol).all() and not at.degenerate.any():
            return _without_system(at, found.n_iter)
    at, n_iter = _exact(part, found, target), found.n_iter
    for target in (tol, min(tol, DECIDED)):
        # What looks like a tie may be a λ that has not quite got to zero.
        failed = ~(relative(at.gap, part.null) <= tol)
        unsure = ((failed | at.degenerate) & (n_iter < max_iter)).nonzero().flatten()
        if not len(unsure):
            break
        some = part.pick(unsure)
        found = dual_newton.minimise(some, at.Lambda[unsure], target, max_iter - n_iter[unsure])
        n_iter = n_iter.index_add(0, unsure, found.n_iter)
        at = _polish(_Point(part, at.Lambda.index_copy(0, unsure, _exact(some, found, target).Lambda)))
    return _result(at, n_iter, tol)


def _result(at: "_Point", n_iter: Tensor, tol: float) -> Result:
    return Result(
        coef=_no_worse_than_zero(at, tol),
        theta=at.theta,
        features=at.local.features,
        system=at.face,
        state=at.Lambda,
        degenerate=at.degenerate,
        singular=at.face.singular & at.local.moves(),
        derivative_error=at.derivative_error(),
        n_iter=n_iter,
        V=at.V,
    )


def _at_once(part: ConjugatePart, Lambda: Tensor, tol: float) -> "_Point | None":
    """Without a penalty the model is the dual itself: its minimum, if the active set finds all of them in one go."""
    if not isinstance(part, QuadraticPart):
        return None
    problem, M = part.problem, kronecker_model(part.problem, part.model)
    face = dual_newton.model_face(problem, M, Lambda, part.local(part.image(problem.Y - Lambda)))
    at = _Point(part, dual_newton.unscaled(problem, face.point, Lambda))
    if isinstance(face, SimplexFace) and face.holds(at.Lambda):
        at.face = kronecker_face(problem, part.kernel, M, face.minimum.factor)
    at = _polish(at)
    return at if ((relative(at.gap, part.null) <= tol) & ~at.degenerate & ~at.face.singular).all() else None


def _searched(part: ConjugatePart, Lambda: Tensor, target: float, max_iter: int) -> dual_newton.DualPoint:
    """Newton's method on the dual to a gap of ``target``, in elements where that is slow from proximal points."""
    if isinstance(part, QuadraticPart):
        # Without a penalty the model is the dual itself: Newton goes on alone.
        return dual_newton.minimise(part, Lambda, target, max_iter)
    steps = min(max_iter, DIRECT_STEPS)
    found = dual_newton.minimise(part.draft(), Lambda, target, steps)
    if part.draft().products != part.products and not (found.gap <= target).all():
        # It may be the draft that has ended it.
        after = dual_newton.minimise(part, found.Lambda, target, steps - found.n_iter)
        found = after._replace(n_iter=found.n_iter + after.n_iter)
    return _continued(part, found, target, max_iter)


def _continued(
    part: PenalisedPart, found: dual_newton.DualPoint, target: float, max_iter: int
) -> dual_newton.DualPoint:
    """What was ``found``, with elements that Newton's method has not brought to a gap of ``target`` led further."""
    todo = (~(found.gap <= target) & (found.n_iter < max_iter)).nonzero().flatten()
    if not len(todo):
        return found
    some, before = part.pick(todo), pick(found, todo)
    Lambda, points = continuation.minimise(some.problem, before.Lambda, max_iter - before.n_iter)
    gap = relative(_Point(some, Lambda).gap, some.null)
    better = gap < before.gap
    Lambda = torch.where(better[:, None, None], Lambda, before.Lambda)
    after = dual_newton.DualPoint(Lambda, torch.where(better, gap, before.gap), before.n_iter + points)
    return put(found, todo, after)


def _no_worse_than_zero(at: "_Point", tol: float) -> Tensor:
    """W (b, m, k), zero where that is lower: the gap to the same dual point is then smaller, too."""
    coef, null = at.local.coef(at.V), at.part.null
    if (relative(at.gap, null) <= tol).all():
        return coef
    return torch.where((at.part.problem.objective(coef) <= null)[:, None, None], coef, 0.0)


def _is_large(part: ConjugatePart, Lambda: Tensor) -> bool:
    """Whether the system of this face, made for nobody, would cost more than a Newton step or two without it."""
    edges = ((Lambda > 0).sum((1, 2)) - Lambda.shape[1]).amax()
    return isinstance(part, PenalisedPart) and int(edges) ** 2 * part.problem.X.shape[-1] > LARGEST_IDLE


def _without_system(at: "_Point", n_iter: Tensor) -> Result:
    """What the solver hands over where nobody has asked for derivatives: how exact they would be is not known."""
    no = torch.zeros_like(at.gap, dtype=torch.bool)
    nothing = AllFeatures(), NoSystem(), torch.zeros_like(at.gap)
    return Result(at.local.coef(at.V), at.theta, *nothing, no, no, torch.full_like(at.gap, torch.inf), n_iter, V=at.V)


def polish(problem: Problem, Lambda: Tensor) -> Tensor:
    """Λ after Newton on the face it lies on, as exact as rounding allows."""
    return _polish(_Point(conjugate_part(problem), Lambda)).Lambda


def _hinge(problem: Problem) -> Hinge:
    assert isinstance(problem.loss, Hinge)
    return problem.loss


def _first(part: ConjugatePart) -> Tensor:
    """Where to start: on the way from Y, which is W = 0, to where every sample is at its competitors, the best point.

    Along Λ = Y − tΘ, F costs no product with X beyond that for V, and its slope, Σ_j ‖V_j‖(t‖V_j‖ − l1)₊/l2 + …, is
    convex: Newton's steps from t = 1 come down on its root. Where l1 is large the end certifies W = 0.
    """
    problem = part.problem
    Theta = problem.Y - _competitors(problem)
    if not isinstance(part, PenalisedPart) or not isinstance(problem.penalty, GroupL2):
        return problem.Y - Theta
    size = row_norm(part.draft().image(Theta))
    pull = (problem.weight[..., None] * Theta * problem.Y).sum((1, 2))
    bend = problem.dual_loss.conjugate_curvature(problem.l2) * (problem.weight[..., None] * Theta.square()).sum((1, 2))
    t = torch.ones_like(pull)
    for _ in range(FIRST_STEPS):
        beyond = (t[:, None] * size - problem.penalty.l1).clamp_min(0)
        slope = (beyond * size).sum(-1) / problem.l2 + bend * t - pull
        curvature = (torch.where(beyond > 0, size, 0.0)).square().sum(-1) / problem.l2 + bend
        t = torch.where(curvature > 0, t - slope / curvature, t).clamp(0, 1)
    return problem.Y - t[:, None, None] * Theta


def _competitors(problem: Problem) -> Tensor:
    """Λ uniform over the classes a sample does not have.

    Most features that the solution uses are active there.
    """
    allowed = _hinge(problem).domain.allowed.expand_as(problem.Y)
    others = torch.where(allowed, 1 - problem.Y, 0.0)
    total = others.sum(-1, keepdim=True)
    # A sample without competitors, its own class alone in the mask, competes with itself.
    return torch.where(total > 0, others / torch.where(total > 0, total, 1.0), allowed.to(problem.Y.dtype))


def _exact(part: ConjugatePart, found: dual_newton.DualPoint, target: float) -> "_Point":
    """From what Newton's method ``found`` to a point whose zeros are exact, of a gap of at most ``target``."""
    problem = part.problem
    at = _polish(_Point(part, _unstuck(problem, found.Lambda, ~(found.gap <= target))))
    singular = at.face.singular
    if singular.any():
        # Too many λ are free for the features in use: most of them are zeros that have not got there.
        at = _polish(_Point(part, _unstuck(problem, at.Lambda, singular)))
    # Nothing is worse than what was found, nor than Λ = Y, which is W = 0.
    worse = ~(at.gap <= found.gap.clamp_max(1) * part.null + ROUNDING)[:, None, None]
    if worse.any():
        safe = torch.where((found.gap <= 1)[:, None, None], found.Lambda, problem.Y)
        at = _polish(_Point(part, torch.where(worse, safe, at.Lambda)))
    return at


def _unstuck(problem: Problem, Lambda: Tensor, stuck: Tensor) -> Tensor:
    """Λ, with the elements that are ``stuck`` (b,) solved again by the interior point, if they are small."""
    stuck = stuck.nonzero().flatten()
    if not len(stuck) or not barrier.is_small(problem):
        return Lambda
    some = pick(problem, stuck)
    last = LAST_BARRIER * some.null_objective()
    return Lambda.index_copy(0, stuck, barrier.minimise(some, Lambda[stuck], last))


class _Point:
    """Λ (b, n, k), projected on its domain, R* there, its gap (b,), and the optimality system."""

    def __init__(self, part: ConjugatePart, Lambda: Tensor) -> None:
        problem = part.problem
        self.part = part
        Lambda = problem.dual_loss.domain.project(Lambda)
        self.image = part.image(problem.Y - Lambda)
        self.local = part.local(self.image)
        if part.has_absent:
            # A sample of weight zero sits at its worst class: the right one-sided derivative in its weight.
            worst = problem.Y - problem.loss.dual_point(self.local.scores, problem.Y)
            Lambda = torch.where((problem.weight > 0)[..., None], Lambda, worst)
        self.Lambda = Lambda
        samples = problem.loss.fenchel_young(self.local.scores, problem.Y - self.Lambda, problem.Y)
        self.gap = (problem.weight * samples).sum(-1)

    @property
    def theta(self) -> Tensor:
        """The dual point Θ (b, n, k)."""
        return self.part.problem.Y - self.Lambda

    @cached_property
    def V(self) -> Tensor:
        """That of Θ, (b, m, k)."""
        return self.local.full_image(self.theta)

    @cached_property
    def face(self) -> DualFace | KroneckerFace:
        """The system at Λ, unless it is set to one made where it is as good."""
        return self.local.face(self.Lambda)

    @cached_property
    def newton_step(self) -> Tensor:
        """The change of Λ that Newton's method asks for, with the opposite sign."""
        problem = self.local.small
        return self.face.step(problem, self.face.residual(problem, self.Lambda, self.local.scores))

    @cached_property
    def margins(self) -> Kinks:
        """Of classes with λ = 0, how far their margin is from a tie; of the others, λ itself, (b, n, k).

        A sample whose only positive λ is one moves along no edge: there λ is no kink.
        """
        problem = self.part.problem
        slope = problem.dual_loss.conjugate_gradient(self.Lambda, problem.Y) - self.local.scores
        positive = self.Lambda > 0
        lowest = torch.where(positive, slope, torch.inf).amin(-1, keepdim=True)
        distance = torch.where(positive, self.Lambda, slope - lowest)
        alone = positive & (positive.sum(-1, keepdim=True) == 1)
        counts = _hinge(problem).domain.allowed & (problem.weight > 0)[..., None] & ~alone
        return Kinks(torch.where(counts, distance, torch.inf), 1 + slope.abs().amax(-1, keepdim=True))

    @cached_property
    def degenerate(self) -> Tensor:
        """Elements (b,) with a margin, a λ or a group about to bend."""
        margins = at_kink(self.margins)
        return margins if isinstance(self.local, QuadraticLocal) else margins | at_kink(self.local.kinks())

    def derivative_error(self) -> Tensor:
        """From how far the solution may be: scores by ‖xᵢ‖·√(2(P − D)/l2), λ and V by Newton's next step."""
        step = self.newton_step
        scores = self.part.row_norms() * (2 * self.gap / self.part.problem.l2).sqrt()[:, None]
        uncertainty = torch.where(self.Lambda > 0, step.abs(), 2 * scores[..., None])
        error = derivative_error(self.margins.distance, uncertainty, self.face)
        if isinstance(self.local, QuadraticLocal):
            return error
        moved = self.local.coef_change(step)[:, None, None]
        of_groups = derivative_error(self.local.kinks().distance, moved, self.face)
        still = torch.where(of_groups.isfinite(), 0.0, torch.inf)
        # Where W does not move with Λ its system is of no consequence.
        return torch.where(self.local.moves(), torch.maximum(error, of_groups), still)


def _polish(at: _Point) -> _Point:
    """Newton on the face until Λ stands still: the value is then as exact as rounding allows, and so is the factor."""
    part, made_at = at.part, at
    for _ in range(POLISH_STEPS):
        if (at.newton_step.abs() <= ROUNDING_STEP[part.precision]).all():
            break
        new = _Point(part, at.Lambda - at.newton_step)
        # NaN compares false: a step into nowhere is not taken.
        better = (new.gap <= at.gap + ROUNDING)[:, None, None]
        if not better.all():
            new = _Point(part, torch.where(better, new.Lambda, at.Lambda))
        settled = bool(((new.Lambda - at.Lambda).abs() <= SETTLED_STEP).all())
        if _on_one_face(new.Lambda, made_at.Lambda, part.same_system):
            new.face = at.face
        else:
            made_at = new
        at = new
        if settled:
            break
    return at


def _on_one_face(new: Tensor, old: Tensor, distance: float) -> bool:
    """Whether the two Λ are positive at the same places, and no further apart."""
    return bool(((new > 0) == (old > 0)).all() and ((new - old).abs() <= distance).all())
