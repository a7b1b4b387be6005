"""Ridge regression on at most s features: pick the support, and bound what any other could reach.

Several starts are improved by swaps; the best of them is certified by the relaxation, or else by branch and bound. On
the support it is plain ridge regression.
"""

import torch
from torch import Tensor

from ..constraints import Cardinality
from ..features import Support
from ..penalties import NoPenalty
from ..problem import Problem
from . import branch, direct
from .quadratic import Quadratic, Relaxation, reduce, relax_root, root_bound
from .result import Result
from .swaps import IMPROVEMENT, Chosen, improve
from .ties import TIE

# Steps on the relaxation with a proof as the aim, and without.
STEPS, QUICK_STEPS = 20, 5
# The share of P(0) by which another support may be better for the one found to count as certain.
CERTAIN = 1e-6


def solve(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Result:
    """Solve for all elements; ``start`` is a dual point Θ (b, n, k). With ``tol`` infinite there is no search."""
    assert isinstance(problem.penalty, Cardinality)
    m = problem.X.shape[-1]
    size = int(problem.penalty.size.amax()) if len(problem.X) else m
    if size >= m:
        return _all_features(problem._replace(penalty=NoPenalty()))
    quadratic = reduce(problem)
    relaxed = relax_root(quadratic, size, QUICK_STEPS if tol == torch.inf else STEPS)
    chosen = _best_of(problem, quadratic, relaxed, start, size)
    features, ridge = _on_support(problem, chosen)
    theta, lower = _certificate(problem, quadratic, relaxed, features.put(ridge.coef, m), size)
    n_iter = torch.ones_like(lower, dtype=torch.int64)
    doubtful = (quadratic.null - chosen.gain - lower > tol * quadratic.null).nonzero()[:, 0]
    if len(doubtful):
        part = quadratic.at(doubtful)
        proof = branch.prove(part, chosen.at(doubtful), relaxed.at(doubtful), tol / 2 * part.null, max_iter)
        for whole, new in zip(chosen, improve(part, proof.columns, proof.filled), strict=True):
            whole[doubtful] = new
        lower[doubtful] = torch.maximum(lower[doubtful], proof.lower)
        n_iter[doubtful] += proof.rounds
        features, ridge = _on_support(problem, chosen)
    degenerate = chosen.next_gain >= -TIE * quadratic.null
    certain = (quadratic.null - chosen.gain - lower <= CERTAIN * quadratic.null) & ~degenerate
    return ridge._replace(
        coef=features.put(ridge.coef, m),
        theta=theta,
        features=features,
        degenerate=degenerate,
        # Padding is singular at l2 = 0, the features beside it are not.
        singular=ridge.singular & features.real.all(-1),
        derivative_error=torch.where(certain, ridge.derivative_error, torch.inf),
        n_iter=n_iter,
        lower=lower,
    )


def _all_features(problem: Problem) -> Result:
    """Plain ridge regression, with its dual value for the bound."""
    ridge = direct.solve(problem)
    return ridge._replace(lower=problem.objective(ridge.coef) - problem.gap(ridge.coef, ridge.theta))


def _best_of(problem: Problem, quadratic: Quadratic, relaxed: Relaxation, start: Tensor | None, size: int) -> Chosen:
    """The best support that swaps find from nothing, and from the largest rows of several guesses."""
    # With every feature allowed the relaxation is the ridge itself.
    ridge = relax_root(quadratic, problem.X.shape[-1], 1)
    weights = [relaxed.coef.norm(dim=-1), ridge.coef.norm(dim=-1), problem.correlation(problem.Y).norm(dim=-1)]
    if start is not None:
        weights.append(problem.correlation(start).norm(dim=-1))
    nothing = torch.zeros_like(weights[0][:, :size], dtype=torch.int64)
    best = improve(quadratic, nothing, nothing > 0)
    for weight in weights:
        columns = weight.topk(size, dim=-1).indices
        best = best.better(improve(quadratic, columns, columns >= 0), IMPROVEMENT * quadratic.null)
    return best


def _on_support(problem: Problem, chosen: Chosen) -> tuple[Support, Result]:
    """Ridge regression on the support, in its own coordinates."""
    mask = torch.zeros_like(problem.X[:, 0], dtype=torch.int64).scatter_add(-1, chosen.columns, chosen.filled.long())
    features = Support.of(mask > 0)
    return features, direct.solve(problem._replace(X=features.take(problem.X), penalty=NoPenalty()))


def _certificate(
    problem: Problem, quadratic: Quadratic, relaxed: Relaxation, coef: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """The better of the residuals of the relaxation and of ``coef`` as dual point, and the best lower bound."""
    bound = root_bound(quadratic, quadratic.Y - quadratic.X @ coef, size)
    lower = torch.maximum(bound, relaxed.bound)
    points = []
    for W in (coef, relaxed.coef):
        # With l2 = 0 a dual point is feasible if it is orthogonal to all features, as without the constraint.
        theta, V = problem._replace(penalty=NoPenalty()).feasible(problem.Y - problem.scores(W))
        value = -(problem.weight * problem.loss.conjugate(theta, problem.Y)).sum(-1)
        ridge = torch.where(problem.l2 > 0, problem.l2, 1.0)
        points.append((theta, value - problem._replace(l2=ridge).conjugate(V)))
    (theta, value), (other, higher) = points
    theta = torch.where((higher > value)[:, None, None], other, theta)
    return theta, torch.maximum(lower, torch.maximum(value, higher))
