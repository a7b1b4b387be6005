"""Multiclass hinge, with or without group Lasso: its dual, over products of simplices; l2 > 0."""

import torch
from torch import Tensor

from ..dual_face import kronecker_face, kronecker_model
from ..features import AllFeatures
from ..optimality import NoSystem
from ..problem import Problem, relative
from . import clock, dual_newton, hinge_search
from .certified import ROUNDING, CertifiedPoint, allowed_classes, polished
from .conjugate_part import ConjugatePart, PenalisedPart, QuadraticPart, conjugate_part, edges_of
from .dual_newton import DualPoint
from .effort import Effort
from .face import SimplexFace
from .hinge_search import Found, Start
from .result import Result

# The relative gap to go to where no Newton on a face follows, if all of Newton's steps cost at most so many of the
# gradient method's; and the products that a system may take for nobody.
EXACT, WORTH_A_STEP, LARGEST_IDLE = 1e-9, 10**4, 2**23
# Edges of a face up to which its system is made to tell ties from zeros that have not quite got there.
LARGEST_SYSTEM = 2500
# The share of P(0) that a W has to gain to be told from zero.
GAIN = 1e-14
# The gap at which a tie is one.
DECIDED = 1e-13


def solve(
    problem: Problem, start: Tensor | None, tol: float, max_iter: int, precision: torch.dtype, differentiated: bool
) -> Result:
    """The way that costs least to the minimum of the dual, then Newton on the face it ends on.

    ``start`` is a dual point Θ (b, n, k).
    """
    part = conjugate_part(problem, precision)
    begin = hinge_search.first(part) if start is None else hinge_search.known(part, _started(problem, start))
    if isinstance(part, QuadraticPart) and not begin.few.any() and begin.effort.newton < torch.inf:
        at = _at_once(part, begin.Lambda)
        if ((relative(at.gap, part.null) <= tol) & ~at.degenerate & ~at.face.singular).all():
            return _result(at, torch.ones_like(part.scale, dtype=torch.int64))
        nearer = (at.gap < part.null)[:, None, None]
        begin = begin._replace(Lambda=torch.where(nearer, at.Lambda, begin.Lambda))
    limit = torch.full_like(part.scale, max_iter, dtype=torch.int64)
    found = hinge_search.search(part, begin, max(tol, hinge_search.ROUGH), limit)
    # Where the interior point was needed the system is small, and may be singular.
    if not differentiated and not found.decided.any() and _is_dear(part, found.point.Lambda):
        ended = _without_system(part, begin.effort, found.point, tol, limit)
        if ended is not None:
            return ended
    return _result(*_decided(part, begin, found, tol, limit))


def _decided(
    part: ConjugatePart, begin: Start, found: Found, tol: float, limit: Tensor
) -> tuple[CertifiedPoint, Tensor]:
    """The point on whose face Newton's method ends, searched for again, and more finely, where that is not certain; and
    the steps (b,).
    """
    at, n_iter, decided = _exact(part, found, limit)
    for target in (tol, min(tol, DECIDED)):
        # What looks like a tie may be a λ that has not quite got to zero.
        failed = ~(relative(at.gap, part.null) <= tol)
        unsure = ((failed | (at.degenerate & ~decided)) & (n_iter < limit)).nonzero().flatten()
        if not len(unsure) or clock.is_over():
            break
        some, left = part.pick(unsure), limit[unsure] - n_iter[unsure]
        again = begin._replace(Lambda=at.Lambda[unsure], few=begin.few[unsure] & False)
        nearer, steps, sure = _exact(some, hinge_search.search(some, again, target, left), left)
        n_iter, decided = n_iter.index_add(0, unsure, steps), decided.index_copy(0, unsure, sure)
        at = polished(CertifiedPoint(part, at.Lambda.index_copy(0, unsure, nearer.Lambda)))
    return at, n_iter


def _result(at: CertifiedPoint, n_iter: Tensor) -> Result:
    return Result(
        coef=_no_worse_than_zero(at),
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


def _at_once(part: QuadraticPart, Lambda: Tensor) -> CertifiedPoint:
    """Without a penalty the model is the dual itself: its minimum, if the active set finds it in one go."""
    problem, M = part.problem, kronecker_model(part.problem, part.model)
    face = dual_newton.model_face(problem, M, Lambda, part.local(part.image(problem.Y - Lambda)))
    at = CertifiedPoint(part, dual_newton.unscaled(problem, face.point, Lambda))
    if isinstance(face, SimplexFace) and face.holds(at.Lambda):
        at.face = kronecker_face(problem, part.kernel, M, face.minimum.factor)
    return polished(at)


def _no_worse_than_zero(at: CertifiedPoint) -> Tensor:
    """W (b, m, k), zero where that is lower, but for rounding: the gap to the same dual point is then no larger.

    At the l1 that leaves nothing an interior point ends near zero, not at it.
    """
    coef, null = at.local.coef(at.V), at.part.null
    rough = relative(at.gap, null) > ROUNDING
    if not rough.any():
        return coef
    lower = at.part.problem.objective(coef) < (1 - GAIN) * null
    return torch.where((rough & ~lower)[:, None, None], 0.0, coef)


def _is_dear(part: ConjugatePart, Lambda: Tensor) -> bool:
    """Whether the system of this face, made for nobody, would cost more than a Newton step or two without it."""
    m, k = part.problem.X.shape[-1], Lambda.shape[-1]
    if not isinstance(part, PenalisedPart):
        return False
    return min(edges_of(Lambda), m * (k - 1)) ** 2 * m > LARGEST_IDLE


def _without_system(part: ConjugatePart, work: Effort, found: DualPoint, tol: float, max_iter: Tensor) -> Result | None:
    """What is handed over where nobody has asked for derivatives: how exact they would be is not known.

    None where something is degenerate, which only the system decides, unless that is too large for anybody.
    """
    if work.steps * work.newton <= WORTH_A_STEP * work.gradient:
        finer = dual_newton.minimise(part, found.Lambda, min(tol, EXACT), max_iter - found.n_iter)
        found = finer._replace(n_iter=found.n_iter + finer.n_iter)
    at = CertifiedPoint(part, found.Lambda)
    if edges_of(at.Lambda) <= LARGEST_SYSTEM and not ((found.gap <= tol).all() and not at.degenerate.any()):
        return None
    no = torch.zeros_like(at.gap, dtype=torch.bool)
    nothing = AllFeatures(), NoSystem(), torch.zeros_like(at.gap)
    coef, unknown = _no_worse_than_zero(at), torch.full_like(at.gap, torch.inf)
    return Result(coef, at.theta, *nothing, no, no, unknown, found.n_iter, V=at.V, empty=~at.local.moves())


def _started(problem: Problem, start: Tensor) -> Tensor:
    """Λ (b, n, k) of a dual point of another problem, or of one that was rounded: its zeros stay what they are.

    A projection would hand on what a row's sum lacks to them as well, and with them the face would be lost.
    """
    Lambda = torch.where(allowed_classes(problem), problem.Y - start, 0.0).clamp_min(0)
    total = Lambda.sum(-1, keepdim=True)
    return problem.dual_loss.domain.project(
        torch.where(total > 0, Lambda / torch.where(total > 0, total, 1.0), problem.Y)
    )


def _exact(part: ConjugatePart, found: Found, max_iter: Tensor) -> tuple[CertifiedPoint, Tensor, Tensor]:
    """From what was ``found`` to a point whose zeros are exact; the steps (b,), and where it is ``decided`` now."""
    (point, decided), problem = found, part.problem
    at = polished(CertifiedPoint(part, point.Lambda))
    moves, rough = at.local.moves(), relative(at.gap, part.null) > DECIDED
    unsure = (at.face.singular & moves) | (at.degenerate & (rough | ~moves))
    if (unsure := unsure & ~decided).any():
        # Too many λ may be free for the features in use, and those that seem to tie be zeros that have not got there;
        # where W is zero, the dual has more than one optimum, and groups that seem to be at their threshold need not.
        point, now = hinge_search.inside(part, point, unsure, max_iter)
        at, decided = polished(CertifiedPoint(part, point.Lambda)), decided | now
    # Nothing is worse than what was found, nor than Λ = Y, which is W = 0.
    worse = ~(at.gap <= point.gap.clamp_max(1) * part.null + ROUNDING)[:, None, None]
    if worse.any():
        safe = torch.where((point.gap <= 1)[:, None, None], point.Lambda, problem.Y)
        at = polished(CertifiedPoint(part, torch.where(worse, safe, at.Lambda)))
    return at, point.n_iter, decided
