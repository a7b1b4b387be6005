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
from . import clock, proximal_point, reduced
from .batch import few, pick, put
from .primal import Point, better, point, start_of

# The first set has at most so many features, every further one twice as many, and at least twice the support: what
# leaves a set comes back for good in the end. A feature is nearly in use from this share of its strength on.
FIRST, GROW, NEAR = 32, 2, 0.9
# From this share of the features on, all of them are taken; from the second where their Gram matrix serves a set.
MOST, MOST_REDUCED = 0.4, 0.6
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
    """The point found last, the best of all, and the steps so far (b,)."""

    at: Point
    best: Point
    n_iter: Tensor


def search(problem: Problem, start: Tensor | None, tol: Tensor, max_iter: Tensor) -> tuple[Point, Tensor]:
    """A point whose gap is at most ``tol`` (b,) and the steps (b,) that led there, at most about ``max_iter`` (b,)."""
    at = point(problem, start_of(problem, start))
    found = _improve(problem, _State(at, at, torch.zeros_like(max_iter)), tol, max_iter, FIRST)
    return found.best, found.n_iter


def _improve(problem: Problem, state: _State, tol: Tensor, max_iter: Tensor, size: int) -> _State:
    """Rounds until every element is done; ``size`` is how many features the first set may have."""
    at, best, n_iter = state
    while (live := (best.gap > tol) & (n_iter < max_iter)).any() and not clock.is_over():
        if (some := few(live)) is not None:
            state = _State(at, best, n_iter)
            return put(state, some, _improve(*pick((problem, state, tol, max_iter), some), size))
        chosen, size = _chosen(problem, at, size), GROW * size
        if int(chosen.sum(-1).amax()) > (MOST_REDUCED if reduced.serves(problem) else MOST) * chosen.shape[-1]:
            at, steps = proximal_point.search(problem, best.coef, tol, torch.where(live, max_iter - n_iter, 0))
            return _State(at, better(at, best), n_iter + steps)
        features = Support.of(chosen)
        small = problem.restrict(features)
        inner = torch.where(live, torch.maximum(LAST * tol, REDUCTION * best.gap), torch.inf)
        enough = torch.where((inner <= NEARLY * tol) | _newton_is_cheap(small, problem), 0.0, inner)
        W = features.take(at.coef.mT).mT
        W, steps = proximal_point.coefficients(small, W, inner, max_iter - n_iter, enough)
        at = point(problem, features.put(W, chosen.shape[-1]), small.scores(W))
        best, n_iter = better(at, best), n_iter + torch.where(live, steps.clamp_min(1), 0)
    return _State(at, best, n_iter)


def _newton_is_cheap(small: Problem, problem: Problem) -> bool:
    """Whether Newton's method on the features of ``small`` costs less than the product with X of a round.

    In their Gram matrix a step is one factorisation where targets are problems of their own.
    """
    n, m, k = *problem.X.shape[-2:], problem.Y.shape[-1]
    if reduced.pays(small) and (k == 1 or isinstance(problem.penalty, L1)):
        return True
    return CUBES * (k * small.X.shape[-1]) ** 3 <= n * m * k


def _chosen(problem: Problem, at: Point, size: int) -> Tensor:
    """The features (b, m) of the next set: those in use, and as many that nearly are, the nearest first.

    Of a feature outside the set W is zero, and a proximal-gradient step moves it by the prox of V.
    """
    used = (at.coef != 0).any(-1)
    size = max(size, GROW * int(used.sum(-1).amax()))
    moved = problem.penalty.prox(at.V, torch.full_like(problem.l2, NEAR)).square().sum(-1)
    moved = torch.where(used, torch.inf, moved)
    most, columns = moved.topk(min(size, moved.shape[-1]), dim=-1, sorted=False)
    return torch.zeros_like(used).scatter(-1, columns, most > 0) | used | problem.intercept[..., 0]
