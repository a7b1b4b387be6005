"""Smooth losses, any penalty, l2 ≥ 0: proximal points, each found by Newton on its dual.

    W ← argmin P(W′) + (σ/2)‖W′ − W‖² [+ (τ/2) Σᵢ s̄ᵢ‖x_iᵀ(W′ − W)‖²],    σ, τ → 0

The proximal terms make the dual smooth where the ridge, or the loss's curvature, is zero or small. Few outer steps are
needed, since they converge the faster the smaller σ and τ are (Li, Sun and Toh, 2018). Once the support stands, Newton
on it ends the search at rounding. Gradient steps come first: on easy problems they find the support. Where the Gram
matrix of the features is small, both are done in it (see `reduced`), and what that leaves unsolved is solved here.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..losses import Squared
from ..penalties import L1
from ..problem import Problem
from ..products import row_squares
from . import clock, dual_newton, effort, reduced, semismooth
from .batch import few, pick, put
from .conjugate_part import conjugate_part
from .gradient import PER_ITERATION, descend, one_step, to_the_end
from .primal import Point, Polished, better, is_kronecker, point, polish, start_of, step_length

# Targets that share nothing are solved together where that makes systems of at most so many unknowns.
TOGETHER = 300
# A start of a smaller gap than this has about the right support: Newton's method on it needs none.
NEAR = 1e-6
# σ is a share of the mean squared norm of a sample, τ the share itself. It starts at this multiple of the root of the
# gap, at most at the first, and shrinks, down to the last.
PER_ROOT, FIRST_SHARE, SHRINK, LAST_SHARE = 0.3, 0.1, 0.1, 1e-7
# The gap grows with the distance from the minimum, that of a proximal step with its square: a step ends at this share
# of the gap's square (of the gap, above one) and at a tenth of the gap at which the step before it ended, but not below
# what matters to the gap asked for, or rounding. A gap above one says nothing of the objective, which is to be lowered.
REDUCTION = 0.01
# The least gap asked of a step by n×n systems, and of others, which rounding lets reach but this.
FINEST_KRONECKER, FINEST, ROUNDING = 1e-18, 1e-16, 1e-14
# Newton's method on the support is tried again when the gap has fallen to this share of that at its last trial.
AGAIN = 0.5
# Newton steps it may take, how many are few, and what the share is multiplied by where its end was not reached.
STEPS, QUICK, GROW = 20, 5, 10


def search(
    problem: Problem, start: Tensor | None, tol: Tensor, max_iter: Tensor, enough: Tensor | None = None
) -> tuple[Point, Tensor]:
    """A point whose gap is at most ``tol`` (b,) and the steps (b,) that led there, at most about ``max_iter`` (b,).

    ``start`` holds coefficients W (b, m, k). Newton on the support goes on to rounding, or where that is so said, to a
    gap that is ``enough`` (b,).
    """
    if not reduced.pays(problem):
        return _search(problem, start_of(problem, start), _limits(tol, max_iter, enough))
    W, n_iter = coefficients(problem, start, tol, max_iter, enough)
    return point(problem, W), n_iter


def coefficients(
    problem: Problem, start: Tensor | None, tol: Tensor, max_iter: Tensor, enough: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same without a certificate, which with the Gram matrix of the features costs as much as all else."""
    W, limits = start_of(problem, start), _limits(tol, max_iter, enough)
    if not reduced.pays(problem):
        at, n_iter = _search(problem, W, limits)
        return at.coef, n_iter
    W, gap, n_iter = reduced.search(problem, W, *limits)
    todo = ((gap > tol) & (max_iter > 0)).nonzero().flatten()
    if not len(todo):
        return W, n_iter
    # What it has not ended was a better start, of no higher objective, and takes no steps from the search.
    rest, steps = _search(*pick((problem, W, limits), todo))
    return put((W, n_iter), todo, (rest.coef, steps))


def _limits(tol: Tensor, max_iter: Tensor, enough: Tensor | None) -> "_Limits":
    return _Limits(tol, torch.zeros_like(tol) if enough is None else enough, max_iter)


class _Limits(NamedTuple):
    """See `search`."""

    tol: Tensor
    enough: Tensor
    max_iter: Tensor


def _search(problem: Problem, start: Tensor, limits: _Limits) -> tuple[Point, Tensor]:
    """The same without the Gram matrix of all features."""
    step = step_length(problem)
    by_target = problem.penalty.by_target() if problem.smooth_loss.splits() else None
    (n, m), k = problem.X.shape[-2:], problem.Y.shape[-1]
    kronecker = isinstance(problem.loss, Squared) and isinstance(problem.penalty, L1)
    if by_target is not None and (kronecker or (k > 1 and k * min(n, m) > TOGETHER)):
        return _search_by_target(problem._replace(penalty=by_target), problem, start, step, limits)
    return _search_grouped(problem, start, step, limits)


def _search_by_target(
    alone: Problem, problem: Problem, start: Tensor, step: Tensor, limits: _Limits
) -> tuple[Point, Tensor]:
    """Every target is a problem of its own; ``alone`` has the penalty of one. So many at a time as fit in memory."""
    (b, n, m), k = problem.X.shape, problem.Y.shape[-1]
    if k > 1 and bool(start.any()):
        # A start near the end is led there as a whole: Newton's method once for all targets, not twice.
        at = point(problem, start)
        at, n_iter = polish(problem, at, step, torch.where(at.gap < NEAR, limits.enough, torch.inf))
        if (at.gap <= limits.tol).all():
            return at, n_iter
    half = limits._replace(tol=limits.tol / 2, enough=limits.enough / 2)
    every = torch.arange(b * k, device=problem.X.device)
    found = []
    for some in every.split(max(1, effort.LARGEST // (n * max(n, m)))):
        element, target = some // k, some % k
        shared = pytree.tree_map(lambda t, index=element: t[index], alone._replace(X=alone.l2))
        # A view, not a copy for each, where there is one element.
        X = problem.X.expand(len(some), -1, -1) if b == 1 else problem.X[element]
        column = shared._replace(X=X, Y=problem.Y.mT[element, target][..., None])
        own = _Limits(*(t[element] for t in half))
        at, steps = _search_grouped(column, start.mT[element, target][..., None], step[element], own)
        found.append((at, steps))
    n_iter = torch.cat([steps for _, steps in found]).view(b, k).amax(-1)
    if k == 1:
        return pytree.tree_map(lambda *parts: torch.cat(parts), *(at for at, _ in found)), n_iter
    coef = torch.cat([at.coef for at, _ in found]).view(b, k, -1).mT
    whole, polishing = polish(problem, point(problem, coef), step, limits.enough)
    return whole, n_iter + polishing


class _Fixed(NamedTuple):
    """What stays: the problem, ``square`` (see `_square`) and its ``scale`` (see `_scale`), τ, and the limits."""

    problem: Problem
    square: Problem | None
    scale: Tensor
    step: Tensor
    limits: _Limits


class _State(NamedTuple):
    """The centre W, its scores ``Lambda`` in the square problem, the best point, σ as a ``share`` of the scale, what
    the ``accuracy`` of the next proximal step is at most, the gap at which Newton on the support was last ``tried``,
    and the steps so far.
    """

    W: Tensor
    Lambda: Tensor
    at: Point
    share: Tensor
    accuracy: Tensor
    tried: Tensor
    n_iter: Tensor


def _search_grouped(problem: Problem, start: Tensor, step: Tensor, limits: _Limits) -> tuple[Point, Tensor]:
    at, n_iter = _start(problem, start, step, limits)
    if not ((at.gap > limits.tol) & (n_iter < limits.max_iter)).any():
        return at, n_iter
    used = int((at.coef != 0).any(-1).sum(-1).amax())
    if effort.of_smooth(problem, used, is_kronecker(problem)).newton == math.inf:
        left = PER_ITERATION * int((limits.max_iter - n_iter).amax())
        at, steps = to_the_end(problem, at, step, limits.tol, left)
        return at, n_iter + -(-steps // PER_ITERATION)
    square = _square(problem)
    scale = _scale(square)
    share = (PER_ROOT * at.gap.sqrt()).clamp(LAST_SHARE, FIRST_SHARE)
    fixed = _Fixed(problem, None if square is problem else square, scale, step, limits)
    found = _advance(fixed, _State(at.coef, square.scores(at.coef), at, share, torch.ones_like(scale), at.gap, n_iter))
    return found.at, found.n_iter


def _start(problem: Problem, W: Tensor, step: Tensor, limits: _Limits) -> Polished:
    """Near the support by gradient steps, which count as one, and then Newton's on it."""
    at = point(problem, W)
    todo = at.gap > limits.tol
    if not todo.any():
        # Beside targets out of reach of a constraint every W has a small gap: one step goes the right way.
        at = better(point(problem, one_step(problem, W, step)), at)
        return Polished(at, torch.zeros_like(at.gap, dtype=torch.int64))
    far, steps = todo & (at.gap >= NEAR), 0
    if far.any():
        at, steps = descend(problem, at, step, limits.tol)
    at, n_iter = polish(problem, at, step, limits.enough)
    return Polished(at, n_iter + torch.where(far, -(-steps // PER_ITERATION), 0))


def _advance(fixed: _Fixed, state: _State) -> _State:
    """Proximal steps until every element is done."""
    tol, _, max_iter = fixed.limits
    while (live := (state.at.gap > tol) & (state.n_iter < max_iter)).any() and not clock.is_over():
        if (some := few(live)) is not None:
            return put(state, some, _advance(pick(fixed, some), pick(state, some)))
        state = _proximal_step(fixed, state, live)
    return state


def _proximal_step(fixed: _Fixed, state: _State, live: Tensor) -> _State:
    problem, W, at, share = fixed.problem, state.W, state.at, state.share
    square, kronecker = fixed.square or problem, is_kronecker(problem)
    sigma = (share * fixed.scale - problem.l2).clamp_min(0)
    least = (REDUCTION * fixed.limits.tol.clamp_max(1).square()).clamp_min(FINEST_KRONECKER if kronecker else FINEST)
    inner_tol = torch.minimum(REDUCTION * at.gap * at.gap.clamp_max(1), state.accuracy).clamp_min(least)
    inner_tol = torch.where(live, inner_tol, torch.inf)
    if kronecker:
        found, Lambda = _minimise_kronecker(square, W, state.Lambda, sigma, inner_tol)
    else:
        found, Lambda = _minimise_general(square, W, sigma, share, inner_tol), state.Lambda
    reached = live & (found.gap <= (inner_tol if kronecker else inner_tol.clamp_min(ROUNDING)))
    W = torch.where(reached[:, None, None], found.W, W)
    at = better(point(problem, W), at)
    again = at.gap < AGAIN * state.tried
    at = polish(problem, at, fixed.step, torch.where(again, fixed.limits.enough, torch.inf)).at
    tried = torch.where(again, at.gap, state.tried)
    shrink = torch.where(found.n_iter <= QUICK, SHRINK, SHRINK**0.5)
    share = (share * torch.where(reached, shrink, GROW)).clamp(LAST_SHARE, FIRST_SHARE)
    accuracy = torch.where(reached, 0.1 * inner_tol, state.accuracy)
    return _State(W, Lambda, at, share, accuracy, tried, state.n_iter + live.to(torch.int64))


def _minimise_kronecker(
    problem: Problem, W: Tensor, Lambda: Tensor, sigma: Tensor, tol: Tensor
) -> tuple[semismooth.Minimum, Tensor]:
    offset, inner = sigma[:, None, None] * W, problem._replace(l2=problem.l2 + sigma)
    found = dual_newton.minimise(conjugate_part(inner), Lambda, tol, STEPS, offset)
    W = inner.coef_of(inner.correlation(problem.Y - found.Lambda) + offset)
    return semismooth.Minimum(W, found.gap, found.n_iter), found.Lambda


def _minimise_general(problem: Problem, W: Tensor, sigma: Tensor, share: Tensor, tol: Tensor) -> semismooth.Minimum:
    """Any smooth loss, any penalty: systems of size n·k or S·k."""
    # Where the curvature of the loss is constant it needs no help.
    tau = (0.0 if isinstance(problem.loss, Squared) else 1.0) * share
    # The ridge does for the penalised rows what σ does; an intercept, a constant feature, has none.
    rows = torch.where(problem.intercept, share[:, None, None], sigma[:, None, None])
    return semismooth.minimise(semismooth.Proximal(problem, W, problem.scores(W), rows, tau), tol, STEPS)


def _scale(problem: Problem) -> Tensor:
    """The weighted mean of ‖xᵢ‖² over n, without an intercept's ones, (b,)."""
    ones = problem.intercept[..., 0].to(torch.float64).sum(-1)
    return ((row_squares(problem.X) - ones[:, None]).clamp_min(0) * problem.weight).mean(-1)


def _square(problem: Problem) -> Problem:
    """With more samples than features, the problem of m samples that has the same solution, by a QR of √s̄X."""
    n, m = problem.X.shape[-2:]
    if n <= m or not isinstance(problem.loss, Squared):
        return problem
    root = problem.weight.sqrt()[..., None]
    Q, R = torch.linalg.qr(problem.X * root)
    return problem._replace(X=R, Y=Q.mT @ (root * problem.Y), weight=torch.ones_like(problem.weight[..., :m]))
