"""Proximal points of the hinge, for ridges so small that Newton's method on the dual gets nowhere.

    W ← argmin P(W′) + (σ/2)‖W′ − W‖²,    σ → 0

Each is the problem with the ridge l2 + σ and an offset, which Newton's method solves (`dual_newton`); the smaller σ,
the fewer are needed, and where one was not solved σ was too small. A point need not be exact to be a step ahead: it is
taken where its own gap is a share of what is left, and where it is not, the dual point reached is kept, so that no
search starts twice from the same place and fails twice in the same way. (Rockafellar, 1976.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import Problem, relative
from ..products import row_squares
from . import clock, dual_newton
from .batch import few, pick, put
from .conjugate_part import conjugate_part

# l2 + σ is a share of the mean squared norm of a sample: the first, the least and the most, and the factor from one to
# the next.
FIRST_SHARE, LAST_SHARE, LARGEST_SHARE, SHRINK = 0.1, 1e-9, 1.0, 0.1
# A proximal point is solved to this share of the gap so far, at most so exactly, and in so many steps; where it took
# few, the next σ is smaller; and up to that share of the gap it is one to go on from.
REDUCTION, FINEST, STEPS, QUICK, USABLE = 1e-3, 1e-13, 40, 15, 0.1
# So many more that were of no use, at a larger σ each, than that were solved, and it is not the ridge that is hard.
FAILURES = 8
# The gap of W and Λ to end at, that of Λ alone being larger, up to (l2 + σ)/l2 times; and one that will do once a
# point was of no use.
ENOUGH, TOLERABLE = 1e-13, 1e-9


class _State(NamedTuple):
    """The centre W (b, m, k) with its Λ (b, n, k) and their relative gap (b,), the share (b,), the points so far (b,),
    and by how many more were of no use than were solved, since that was none (b,).
    """

    W: Tensor
    Lambda: Tensor
    gap: Tensor
    share: Tensor
    n_iter: Tensor
    failures: Tensor


def minimise(problem: Problem, Lambda: Tensor, max_iter: Tensor) -> tuple[Tensor, Tensor]:
    """Λ (b, n, k) as near the optimum as proximal points lead from ``Lambda`` and W = 0, and how many they were (b,).

    At most ``max_iter`` (b,).
    """
    W = torch.zeros_like(problem.correlation(problem.Y))
    gap = torch.full_like(problem.l2, torch.inf)
    none = torch.zeros_like(max_iter)
    state = _State(W, Lambda, gap, torch.full_like(gap, FIRST_SHARE), none, none)
    found = _advance(problem, state, max_iter)
    return found.Lambda, found.n_iter


def _advance(problem: Problem, state: _State, max_iter: Tensor) -> _State:
    while (live := _unfinished(state) & (state.n_iter < max_iter)).any() and not clock.is_over():
        if (some := few(live)) is not None:
            return put(state, some, _advance(pick(problem, some), pick(state, some), max_iter[some]))
        state = _step(problem, state, live)
    return state


def _unfinished(state: _State) -> Tensor:
    """(b,)."""
    failed = state.failures >= torch.where(state.gap <= TOLERABLE, 1, FAILURES)
    return (state.gap > ENOUGH) & ~failed


def _step(problem: Problem, state: _State, live: Tensor) -> _State:
    """One proximal point of the elements ``live`` (b,)."""
    scale = (row_squares(problem.X) * problem.weight).mean(-1)
    sigma = (state.share * scale - problem.l2).clamp_min(0)
    inner, offset = problem._replace(l2=problem.l2 + sigma), sigma[:, None, None] * state.W
    accuracy = torch.where(live, (REDUCTION * state.gap).clamp(FINEST, REDUCTION), torch.inf)
    found = dual_newton.minimise(conjugate_part(inner), state.Lambda, accuracy, STEPS, offset)
    V = problem.correlation(problem.Y - found.Lambda)
    W = inner.coef_of(V + offset)
    gap = relative(problem.gap(W, problem.Y - found.Lambda, V=V), problem.null_objective())
    solved = live & (found.gap <= accuracy)
    usable = solved | (live & (found.gap <= USABLE * state.gap.clamp_max(1)))
    # After a failure the larger σ leads nearer before a smaller one is tried again.
    quick = (found.n_iter <= QUICK) & (state.failures == 0)
    factor = torch.where(solved & quick, SHRINK, torch.where(usable, 1.0, 1 / SHRINK))
    share = torch.where(live, (state.share * factor).clamp(LAST_SHARE, LARGEST_SHARE), state.share)
    failures = state.failures + torch.where(usable, -solved.to(torch.int64), live.to(torch.int64))
    W = torch.where(usable[:, None, None], W, state.W)
    Lambda = torch.where(live[:, None, None], found.Lambda, state.Lambda)
    gap, n_iter = torch.where(usable, gap, state.gap), state.n_iter + live.to(torch.int64)
    return _State(W, Lambda, gap, share, n_iter, failures.clamp_min(0))
