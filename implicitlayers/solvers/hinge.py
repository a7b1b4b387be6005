"""Multiclass hinge, with or without group Lasso: its dual, over products of simplices; l2 > 0."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..dual_face import DualFace, KroneckerFace, kronecker_face, kronecker_model
from ..features import AllFeatures
from ..hinges import Hinge
from ..optimality import NoSystem
from ..penalties import GroupL2, Kinks, row_norm
from ..problem import Problem, relative
from . import continuation, dual_newton, interior
from .batch import pick, put
from .conjugate_part import ConjugatePart, PenalisedPart, QuadraticLocal, QuadraticPart, conjugate_part
from .face import SimplexFace
from .result import Result
from .ties import at_kink, derivative_error

# Newton steps in which most problems are solved, so many more where that has led to a gap that promises the end;
# others are better served by an interior point, and where its systems are too large, by so many and proximal points.
FIRST_STEPS, MORE_STEPS, PROMISING, DIRECT_STEPS = 5, 5, 0.1, 30
# Newton steps in one dimension, to a start.
START_STEPS = 4
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


def solve(
    problem: Problem, start: Tensor | None, tol: float, max_iter: int, precision: torch.dtype, differentiated: bool
) -> Result:
    """Newton on the dual, or an interior point where that is slow, then Newton on the face it ends on.

    ``start`` is a dual point Θ (b, n, k).
    """
    part, target = conjugate_part(problem, precision), max(tol, POLISH_BELOW)
    if start is None:
        Lambda, few = _first(part)
    else:
        # A start that somebody knows may be near the end, where Newton's method is fast.
        Lambda, few = _hinge(problem).domain.project(problem.Y - start), torch.zeros_like(problem.l2, dtype=torch.bool)
    if not few.any() and (at := _at_once(part, Lambda, tol)) is not None:
        return _result(at, torch.ones_like(part.scale, dtype=torch.int64), tol)
    limit = torch.full_like(part.scale, max_iter, dtype=torch.int64)
    found, decided = _search(part, Lambda, few, target, limit)
    # Where the interior point was needed the system is small, and may be singular.
    if not differentiated and not decided.any() and _is_large(part, found.Lambda):
        finer = dual_newton.minimise(part, found.Lambda, min(tol, EXACT), max_iter - found.n_iter)
        found, at = finer._replace(n_iter=found.n_iter + finer.n_iter), _Point(part, finer.Lambda)
        if (found.gap <= tol).all() and not at.degenerate.any():
            return _without_system(at, found.n_iter)
    at, n_iter, decided = _exact(part, _Found(found, decided), limit)
    for target in (tol, min(tol, DECIDED)):
        # What looks like a tie may be a λ that has not quite got to zero.
        failed = ~(relative(at.gap, part.null) <= tol)
        unsure = ((failed | (at.degenerate & ~decided)) & (n_iter < max_iter)).nonzero().flatten()
        if not len(unsure):
            break
        some, left = part.pick(unsure), limit[unsure] - n_iter[unsure]
        again, steps, sure = _exact(some, _search(some, at.Lambda[unsure], few[unsure] & False, target, left), left)
        n_iter, decided = n_iter.index_add(0, unsure, steps), decided.index_copy(0, unsure, sure)
        at = _polish(_Point(part, at.Lambda.index_copy(0, unsure, again.Lambda)))
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
        empty=~at.local.moves(),
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


class _Found(NamedTuple):
    """A dual point, and where (b,) the interior point has decided what is zero in it."""

    point: dual_newton.DualPoint
    decided: Tensor


def _search(part: ConjugatePart, Lambda: Tensor, few: Tensor, target: float, max_iter: Tensor) -> _Found:
    """From Λ to a gap of ``target``: by Newton's method, but in elements with ``few`` (b,) features in use, and by what
    is slow and steady where that is not enough.
    """
    # What is as exact as is asked for at first.
    draft = part.draft() if isinstance(part, PenalisedPart) and target >= POLISH_BELOW else part
    found = dual_newton.minimise(draft, Lambda, target, torch.where(few, 0, max_iter.clamp_max(FIRST_STEPS)))
    promising = ~few & (found.gap <= PROMISING)
    found = _newton(part, found, promising, target, max_iter.clamp_max(FIRST_STEPS + MORE_STEPS))
    found, decided = _inside(part, found, ~(found.gap <= target), max_iter)
    everywhere = torch.ones_like(few)
    if not isinstance(part, PenalisedPart):
        # The model is the dual itself: Newton goes on alone.
        return _Found(_newton(part, found, everywhere, target, max_iter), decided)
    found = _newton(part, found, everywhere, target, torch.minimum(max_iter, found.n_iter + DIRECT_STEPS))
    return _Found(_continued(part, found, target, max_iter), decided)


def _newton(
    part: ConjugatePart, found: dual_newton.DualPoint, which: Tensor, target: float, max_iter: Tensor
) -> dual_newton.DualPoint:
    """What was ``found``, with the elements ``which`` (b,) that are not at a gap of ``target`` led further."""
    todo = (which & ~(found.gap <= target) & (found.n_iter < max_iter)).nonzero().flatten()
    if not len(todo):
        return found
    before = pick(found, todo)
    after = dual_newton.minimise(part.pick(todo), before.Lambda, target, max_iter[todo] - before.n_iter)
    return put(found, todo, after._replace(n_iter=before.n_iter + after.n_iter))


def _inside(part: ConjugatePart, found: dual_newton.DualPoint, which: Tensor, max_iter: Tensor) -> _Found:
    """What was ``found``, with the elements ``which`` (b,) led further by the interior point, if they are small."""
    todo = (which & (found.n_iter < max_iter)).nonzero().flatten()
    if len(todo):
        problem = pick(part.problem, todo)
        norm = row_norm(problem.correlation(problem.Y - found.Lambda[todo]))
        todo = todo[interior.suits(problem, norm).small]
    decided = torch.zeros_like(which).index_fill(0, todo, True)
    if not len(todo):
        return _Found(found, decided)
    some, before = part.pick(todo), pick(found, todo)
    Lambda, steps = interior.minimise(some.problem, before.Lambda, max_iter[todo] - before.n_iter)
    return _Found(put(found, todo, _nearer(some, before, _polish(_Point(some, Lambda)), steps)), decided)


def _continued(
    part: PenalisedPart, found: dual_newton.DualPoint, target: float, max_iter: Tensor
) -> dual_newton.DualPoint:
    """What was ``found``, with elements that are not at a gap of ``target`` led further by proximal points."""
    todo = (~(found.gap <= target) & (found.n_iter < max_iter)).nonzero().flatten()
    if not len(todo):
        return found
    some, before = part.pick(todo), pick(found, todo)
    Lambda, points = continuation.minimise(some.problem, before.Lambda, max_iter[todo] - before.n_iter)
    return put(found, todo, _nearer(some, before, _Point(some, Lambda), points))


def _nearer(part: ConjugatePart, before: dual_newton.DualPoint, at: "_Point", steps: Tensor) -> dual_newton.DualPoint:
    """``before``, or what ``steps`` more led to, whichever has the lower gap."""
    gap = relative(at.gap, part.null)
    better = gap < before.gap
    Lambda = torch.where(better[:, None, None], at.Lambda, before.Lambda)
    return dual_newton.DualPoint(Lambda, torch.where(better, gap, before.gap), before.n_iter + steps)


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
    unknown, empty = torch.full_like(at.gap, torch.inf), ~at.local.moves()
    return Result(at.local.coef(at.V), at.theta, *nothing, no, no, unknown, n_iter, V=at.V, empty=empty)


def polish(problem: Problem, Lambda: Tensor) -> Tensor:
    """Λ after Newton on the face it lies on, as exact as rounding allows."""
    return _polish(_Point(conjugate_part(problem), Lambda)).Lambda


def _hinge(problem: Problem) -> Hinge:
    assert isinstance(problem.loss, Hinge)
    return problem.loss


def _first(part: ConjugatePart) -> tuple[Tensor, Tensor]:
    """Where to start: on the way from Y, which is W = 0, to where every sample is at its competitors, the best point;
    and where (b,) few features are in use there.

    Along Λ = Y − tΘ, F costs no product with X beyond that for V, and its slope, Σ_j ‖V_j‖(t‖V_j‖ − l1)₊/l2 + …, is
    convex: Newton's steps from t = 1 come down on its root. Where l1 is large the end certifies W = 0.
    """
    problem = part.problem
    Theta = problem.Y - _competitors(problem)
    if not isinstance(part, PenalisedPart) or not isinstance(problem.penalty, GroupL2):
        return problem.Y - Theta, interior.suits(problem, torch.zeros_like(problem.X[:, 0])).few
    size = row_norm(part.draft().image(Theta))
    pull = (problem.weight[..., None] * Theta * problem.Y).sum((1, 2))
    bend = problem.dual_loss.conjugate_curvature(problem.l2) * (problem.weight[..., None] * Theta.square()).sum((1, 2))
    t = torch.ones_like(pull)
    for _ in range(START_STEPS):
        beyond = (t[:, None] * size - problem.penalty.l1).clamp_min(0)
        slope = (beyond * size).sum(-1) / problem.l2 + bend * t - pull
        curvature = (torch.where(beyond > 0, size, 0.0)).square().sum(-1) / problem.l2 + bend
        t = torch.where(curvature > 0, t - slope / curvature, t).clamp(0, 1)
    return problem.Y - t[:, None, None] * Theta, interior.suits(problem, size).few


def _competitors(problem: Problem) -> Tensor:
    """Λ uniform over the classes a sample does not have.

    Most features that the solution uses are active there.
    """
    allowed = _hinge(problem).domain.allowed.expand_as(problem.Y)
    others = torch.where(allowed, 1 - problem.Y, 0.0)
    total = others.sum(-1, keepdim=True)
    # A sample without competitors, its own class alone in the mask, competes with itself.
    return torch.where(total > 0, others / torch.where(total > 0, total, 1.0), allowed.to(problem.Y.dtype))


def _exact(part: ConjugatePart, found: _Found, max_iter: Tensor) -> tuple["_Point", Tensor, Tensor]:
    """From what was ``found`` to a point whose zeros are exact; the steps (b,), and where it is ``decided`` now."""
    (point, decided), problem = found, part.problem
    at = _polish(_Point(part, point.Lambda))
    moves, rough = at.local.moves(), relative(at.gap, part.null) > DECIDED
    unsure = (at.face.singular & moves) | (at.degenerate & (rough | ~moves))
    if (unsure := unsure & ~decided).any():
        # Too many λ may be free for the features in use, and those that seem to tie be zeros that have not got there;
        # where W is zero, the dual has more than one optimum, and groups that seem to be at their threshold need not.
        point, now = _inside(part, point, unsure, max_iter)
        at, decided = _polish(_Point(part, point.Lambda)), decided | now
    # Nothing is worse than what was found, nor than Λ = Y, which is W = 0.
    worse = ~(at.gap <= point.gap.clamp_max(1) * part.null + ROUNDING)[:, None, None]
    if worse.any():
        safe = torch.where((point.gap <= 1)[:, None, None], point.Lambda, problem.Y)
        at = _polish(_Point(part, torch.where(worse, safe, at.Lambda)))
    return at, point.n_iter, decided


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
        kinks = self.local.kinks()
        of_groups = derivative_error(kinks.distance, moved, self.face)
        # Where W does not move with Λ its system is of no consequence.
        return torch.where(self.local.moves(), torch.maximum(error, of_groups), self._error_of_zero(kinks))

    def _error_of_zero(self, kinks: Kinks) -> Tensor:
        """Of derivatives that are zero, as W is: none where some Λ of gap zero is within every group's threshold.

        With W = 0 the gap is what λ the samples' own classes have, and V moves by at most 2‖xᵢ‖ times what it moves.
        """
        reach = 2 * self.gap * self.part.row_norms().amax(-1) / self.part.problem.l2
        within = (kinks.distance > reach[:, None, None]).flatten(1).all(-1) & ~at_kink(kinks)
        return torch.where(within, 0.0, torch.inf)


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
