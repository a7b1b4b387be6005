"""Smooth losses with any penalty: solved on the features that matter, certified on all.

A penalty that sets most rows of W to zero leaves a problem of few features: the *working set*. It is solved on those,
and one product with all of X then gives the gap of the whole problem, and which other features should move. These join
the set, until the gap is small enough. (Massias, Gramfort and Salmon, 2018, for the Lasso.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..features import Support
from ..penalties import L1, GroupL2, Partly, Penalty, SparseGroup
from ..problem import Problem
from . import proximal_point
from .batch import few, pick, put
from .primal import Point, better, point

# The first set is of this size, or twice the support of the start; every further one at least twice its support.
FIRST, GROW = 32, 2
# From this share of the features on, all of them are taken.
MOST = 0.4
# A problem on a set is solved to this share of the gap so far, or of the gap asked for.
REDUCTION, LAST = 0.1, 0.5
# What is solved to this multiple of the gap asked for may be the end: Newton's method then goes on to rounding.
NEARLY = 1e4
# A step of Newton's method costs about so many times the cube of its unknowns.
CUBES = 8


def selects(penalty: Penalty) -> bool:
    """Whether the penalty sets rows to zero."""
    return isinstance(penalty.penalty if isinstance(penalty, Partly) else penalty, L1 | GroupL2 | SparseGroup)


def pays(problem: Problem) -> bool:
    """Whether there are enough features for a set to be small."""
    return MOST * problem.X.shape[-1] > FIRST


class _State(NamedTuple):
    """The point found last, the best of all, the ``chosen`` features (b, m) and the steps so far (b,)."""

    at: Point
    best: Point
    chosen: Tensor
    n_iter: Tensor


def search(problem: Problem, start: Tensor | None, tol: Tensor, max_iter: Tensor) -> tuple[Point, Tensor]:
    """A point whose gap is at most ``tol`` (b,) and the steps (b,) that led there, at most about ``max_iter`` (b,)."""
    W = torch.zeros_like(problem.X[:, 0, :, None] * problem.Y[:, :1, :]) if start is None else start
    at = point(problem, W)
    found = _grow(problem, _State(at, at, problem.intercept[..., 0], torch.zeros_like(max_iter)), tol, max_iter)
    return found.best, found.n_iter


def _grow(problem: Problem, state: _State, tol: Tensor, max_iter: Tensor) -> _State:
    """Rounds until every element is done."""
    at, best, chosen, n_iter = state
    while (live := (best.gap > tol) & (n_iter < max_iter)).any():
        if (some := few(live)) is not None:
            state = _State(at, best, chosen, n_iter)
            return put(state, some, _grow(*pick((problem, state, tol, max_iter), some)))
        chosen = chosen | _to_add(problem, at, chosen)
        if int(chosen.sum(-1).amax()) > MOST * chosen.shape[-1]:
            at, steps = proximal_point.search(problem, best.coef, tol, torch.where(live, max_iter - n_iter, 0))
            return _State(at, better(at, best), chosen, n_iter + steps)
        features = Support.of(chosen)
        small = problem.restrict(features)
        inner = torch.where(live, torch.maximum(LAST * tol, REDUCTION * best.gap), torch.inf)
        enough = torch.where((inner <= NEARLY * tol) | _newton_is_cheap(problem, chosen), 0.0, inner)
        found, steps = proximal_point.search(small, features.take(at.coef.mT).mT, inner, max_iter - n_iter, enough)
        at = point(problem, features.put(found.coef, chosen.shape[-1]))
        best, n_iter = better(at, best), n_iter + torch.where(live, steps.clamp_min(1), 0)
    return _State(at, best, chosen, n_iter)


def _newton_is_cheap(problem: Problem, chosen: Tensor) -> Tensor:
    """Where a factorisation for the ``chosen`` features costs less than the product with X of a round, (b,)."""
    n, m, k = *problem.X.shape[-2:], problem.Y.shape[-1]
    return CUBES * (k * chosen.sum(-1)).pow(3) <= n * m * k


def _to_add(problem: Problem, at: Point, chosen: Tensor) -> Tensor:
    """The features (b, m) to join the set: those that a proximal-gradient step from zero would move most.

    Of a feature outside the set W is zero, and the step is the prox of V.
    """
    size = max(FIRST, (GROW - 1) * int(chosen.sum(-1).amax()))
    moved = problem.penalty.prox(at.V, torch.ones_like(problem.l2)).square().sum(-1)
    moved = torch.where(chosen, 0.0, moved)
    most, columns = moved.topk(min(size, moved.shape[-1]), dim=-1)
    return torch.zeros_like(chosen).scatter(-1, columns, most > 0) | (at.coef != 0).any(-1)
