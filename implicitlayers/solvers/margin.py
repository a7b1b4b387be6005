"""The smallest l1 at which the hinge with group Lasso has the solution zero.

    l1_max = min over Λ of max_j ‖V_j‖,  V = Xᵀ diag(s̄)(Y − Λ),  λᵢ in the face of the simplex where 1 − yᵢ is largest
           = max over U of Σᵢ s̄ᵢ (⟨yᵢ, uᵢ⟩ − max_l u_il)/Σ_j ‖U_j‖,  u = XU, l among the classes of that face

for at W = 0 the dual points of a sample are y − λ with such λ: of a label all classes but its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..features import gathered
from ..implicit import is_differentiated, opaque, with_value
from ..penalties import row_norm
from ..saddle_point import Saddle, SaddlePoint, directions, saddle_point
from . import primal_dual
from .bounds import ROUNDING, Bounds, Given

# The relative distance of the bounds that is small enough; those at which Newton steps are tried, of which each is
# this share of the one reached before.
PRECISION, FIRST, SHARE = 1e-9, 1e-2, 0.1
# The largest system for derivatives, and that which costs less than the first-order steps that it may save.
LARGEST, QUICK = 2000, 600
# Newton steps that make a pair exact, and the relative distance of its bounds below which it is.
STEPS, EXACT = 4, 1e-14
# Features take part from this share of the longest V_j on; all, where they are so many.
NEAR, WHOLE_FROM = 0.7, 0.5


def hinge_l1_max(X: Tensor, Y: Tensor, weight: Tensor, class_mask: Tensor, order: int = 2) -> Tensor:
    """l1_max, (...), for X (..., n, m), Y (..., n, k), s̄ (..., n) and a mask (..., k); float64.

    The value is the upper bound, whose Λ proves that W = 0 there; the lower one meets it to 1e-9, to 1e-6 in degenerate
    problems. Derivatives are exact to the second order where the optimal pair is unique and no longer tied than it has
    to be; elsewhere first ones are one-sided, and second ones wrong, as are those of systems that are larger than
    ``LARGEST``.
    """
    X = X.to(torch.float64)
    tree = (X, Y, weight, class_mask)
    order = order if is_differentiated(tree) else 0
    found: _Found = opaque(lambda tree: _solve(*tree, order), tree, weight.dim() - 1)
    at = Saddle(X, Y, weight, found.Lambda, found.u)
    if order == 0:
        return found.l1_max
    return with_value(found.l1_max, (at if order == 1 else found.system.attach(at)).value)


class _Found(NamedTuple):
    """l1_max (b,), the Λ (b, n, k) and the lengths u (b, m) of the rows of U that prove it, and their system."""

    l1_max: Tensor
    Lambda: Tensor
    u: Tensor
    system: SaddlePoint


def _solve(X: Tensor, Y: Tensor, weight: Tensor, class_mask: Tensor, order: int = 0) -> _Found:
    mask = class_mask[:, None, :]
    given = Given(X, Y, weight, mask & (torch.where(mask, Y, torch.inf).amin(-1, keepdim=True) == Y))
    scale = given.longest(given.centre)
    # In units in which the first upper bound is one. Where that is rounding l1_max is zero; what is not finite has
    # none, and its element is a zero to the others.
    size = (weight[..., None] * X.abs()).sum(-2).amax(-1)
    real = scale.isfinite() & (scale > ROUNDING * size)
    scale = torch.where(real, scale, 1.0)
    X = torch.where(real[:, None, None], X, 0.0) / scale[:, None, None]
    given = given._replace(X=X)
    best = _minimise(given)
    if order > 0:
        best = _polished(given, best, LARGEST)
    # Where l1_max is zero up to rounding it stays so, however the data move: no U proves anything.
    best = best._replace(U=torch.where((best.upper > 10 * ROUNDING)[:, None, None], best.U, 0.0))
    # A sample of weight zero is at its worst class: the right one-sided derivative with respect to its weight.
    scores = torch.where(given.allowed, given.scores(best.U), -torch.inf)
    worst = torch.zeros_like(Y).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
    best = best._replace(Lambda=torch.where((weight > 0)[..., None], best.Lambda, worst))
    _, system = _on_face(given, best.Lambda, best.U, LARGEST if order > 1 else 0)
    return _Found(given.longest(best.Lambda) * scale, best.Lambda, _lengths(best.U), system.scaled(scale))


def _minimise(given: Given) -> Bounds:
    """Bounds that meet, by first-order steps on features whose V_j is long, and Newton steps on all."""
    V = given.V(given.centre)
    norm = row_norm(V)
    # Where Λ cannot move, the longest V_j is the answer.
    best = given.bounds(torch.where((norm >= norm.amax(-1, keepdim=True))[..., None], V, 0.0), given.centre)
    pace, precision = primal_dual.Pace.of(given), torch.full_like(best.upper, FIRST)
    chosen = torch.zeros_like(best.U[..., 0], dtype=torch.bool)
    found = best._replace(U=torch.zeros_like(V))
    while (best.apart(PRECISION) & (pace.steps < primal_dual.LIMIT)).any():
        norm = row_norm(given.V(found.Lambda))
        new = (norm >= NEAR * norm.amax(-1, keepdim=True)) & ~chosen
        chosen = chosen | new
        features = gathered(chosen, WHOLE_FROM)
        some = given._replace(X=features.take(given.X))
        found, pace = primal_dual.search(some, found._replace(U=features.take(found.U.mT).mT), pace, precision)
        found = found._replace(U=features.put(found.U, given.X.shape[-1]), upper=given.longest(found.Lambda))
        best = _polished(given, best.better(found), QUICK)
        if not new.any() and bool((precision <= PRECISION).all()):
            break
        reached = best.gap / torch.where(best.upper > 0, best.upper, 1.0)
        precision = (SHARE * torch.maximum(reached, precision)).clamp(PRECISION, FIRST)
    return best


def _polished(given: Given, best: Bounds, largest: int) -> Bounds:
    """The best pair after some Newton steps from it, each on the face that the one before points to."""
    Lambda, U = best.Lambda, best.U
    for _ in range(STEPS):
        if not best.apart(EXACT).any():
            break
        at, system = _on_face(given, Lambda, U, largest)
        at = system.moved(at, system.residual(at))
        Lambda, U = at.Lambda.clamp_min(0), at.u.clamp_min(0)[..., None] * directions(at.V)[0]
        Lambda = Lambda / Lambda.sum(-1, keepdim=True)
        best = best.better(given.bounds(U, Lambda))
    return best


def _on_face(given: Given, Lambda: Tensor, U: Tensor, largest: int) -> tuple[Saddle, SaddlePoint]:
    """A pair without what is rounding, and its system: of two numbers whose product is zero it is the smaller one.

    They are an entry of Λ and how far the score of its class is from that of the sample; and u_j and how far ‖V_j‖ is
    from that of the features in use.
    """
    u = _lengths(U)
    at = Saddle(given.X, given.Y, given.weight, Lambda, u)
    scores = given.scores(U)
    slack = (Lambda * scores).sum(-1, keepdim=True) - scores
    present = given.allowed & (given.weight > 0)[..., None]
    most = torch.where(present, slack, 0.0).amax((-2, -1), keepdim=True)
    free = given.allowed & (Lambda * most > slack)
    norm = row_norm(at.V)
    typical = (u * norm).sum(-1, keepdim=True)
    used = u * typical > u.amax(-1, keepdim=True) * (typical - norm)
    kept = torch.where(free, Lambda, 0.0)
    total = kept.sum(-1, keepdim=True)
    kept = torch.where(total > 0, kept / torch.where(total > 0, total, 1.0), Lambda)
    return at._replace(Lambda=kept, u=torch.where(used, u, 0.0)), saddle_point(at, free, used, largest)


def _lengths(U: Tensor) -> Tensor:
    """Of the rows of U, with sum one, or zero; (b, m)."""
    norm = row_norm(U)
    size = norm.sum(-1, keepdim=True)
    return norm / torch.where(size > 0, size, 1.0)
