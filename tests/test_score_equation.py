"""The equation in the scores says the same as the normal map, and is right where only it can be formed."""

from typing import NamedTuple

import pytest
import torch
from helpers import directional_derivative, labels, normal, one_hot, relative_error, uniform
from torch.func import jacfwd, jacrev

import implicitlayers as il
from implicitlayers import solvers
from implicitlayers.constraints import Box, ColumnSimplex
from implicitlayers.losses import Huber, Multinomial, Squared
from implicitlayers.optimality import normal_map
from implicitlayers.penalties import L1, GroupL2, NoPenalty, Partly, SparseGroup
from implicitlayers.problem import Problem
from implicitlayers.score_equation import score_equation, unknown_at
from implicitlayers.solvers import Limits
from implicitlayers.solvers.primal import step_length
from implicitlayers.testing import Subject, check_memory

B, N, M, K = 2, 5, 9, 3
GROUPS = torch.tensor([0, 1, 0, 1, 4, 4, 6, 7, 4])


class Part(NamedTuple):
    """A penalty or a loss made from a strength (b,) and features."""

    make: object
    strength: float


PENALTIES = {
    "none": Part(lambda s, m: NoPenalty(), 1.0),
    "l1": Part(lambda s, m: L1(s), 0.05),
    "rows": Part(lambda s, m: GroupL2(s[:, None]), 0.08),
    "groups": Part(lambda s, m: SparseGroup(s / 2, s[:, None].expand(-1, m), GROUPS.expand(len(s), -1)), 0.08),
    "box": Part(lambda s, m: Box(-s, 2 * s, 0.1 * s), 0.15),
    "simplex": Part(lambda s, m: ColumnSimplex(s, torch.ones(len(s), m, dtype=torch.bool)), 1.0),
}
LOSSES = {
    "squared": lambda s: Squared(),
    "huber": lambda s: Huber(0.7 * s),
    "multinomial": lambda s: Multinomial(torch.ones(len(s), K, dtype=torch.bool)),
    "masked": lambda s: Multinomial((torch.arange(K) < K - 1).expand(len(s), K)),
}


def problems(loss, penalty, intercept):
    """p ↦ the problem at p along one random direction for each of X, Y, weights, strength of the penalty, δ and l2."""
    kinds = K - 1 if loss == "masked" else K
    Y = normal(B, N, K, seed=1) if loss in ("squared", "huber") else one_hot(labels(B, N, k=kinds, seed=1), K)
    at = [normal(B, N, M), Y, uniform(B, N, seed=2), *(s * uniform(B, seed=3) for s in (1.0, 1.0, 0.3))]
    directions = [normal(*a.shape, seed=10 + i) for i, a in enumerate(at)]

    def make(p):
        X, Y, weight, strength, delta, l2 = (a + p[i] * d for i, (a, d) in enumerate(zip(at, directions, strict=True)))
        part = PENALTIES[penalty]
        made = part.make(part.strength * strength, M)
        if intercept:
            X = torch.cat([X, torch.ones_like(X[..., :1])], dim=-1)
            made = Partly(part.make(part.strength * strength, M + 1), (torch.arange(M + 1) < M).expand(B, -1))
        return Problem(X, Y, weight / weight.sum(-1, keepdim=True), LOSSES[loss](delta), made, l2)

    return make


ALL = [(loss, penalty, False) for loss in LOSSES for penalty in PENALTIES]
# The layers with an intercept in W, and others whose groups do not look at it.
ALL += [(loss, penalty, True) for loss in ("huber", "multinomial", "masked") for penalty in ("none", "l1", "rows")]


@pytest.mark.parametrize(("loss", "penalty", "intercept"), ALL)
def test_both_systems_give_the_same_first_and_second_derivatives(loss, penalty, intercept):
    make = problems(loss, penalty, intercept)
    origin = torch.zeros(6, dtype=torch.float64)
    problem = make(origin)
    solved = solvers.solve(problem, None, "proximal_point", Limits(1e-14, 200, torch.float64, differentiated=True))
    step, real = step_length(problem), torch.ones_like(problem.X[:, 0], dtype=torch.bool)
    v = solved.coef - step[:, None, None] * problem.slope(solved.coef, problem.correlation(solved.theta))
    primal = normal_map(problem, v, step, real)
    x = unknown_at(problem, solved.coef)
    scores = score_equation(problem, x, real)
    assert not primal.factor.singular.any()
    assert not scores.factor.singular.any()
    assert relative_error(scores.coef(problem, x), solved.coef) <= 1e-8
    attached = [lambda p: primal.attach(make(p), v, 2), lambda p: scores.attach(make(p), x, 2)]
    first = [jacrev(f)(origin) for f in attached]
    assert first[0].abs().max() > 1e-2
    assert relative_error(first[1], first[0]) <= 1e-8
    second = [jacfwd(jacrev(f))(origin) for f in attached]
    assert relative_error(second[1], second[0]) <= 1e-8


def whole(make):
    """Coefficients and intercept, below each other, of the layer that ``make`` makes of p, at X and weights s."""

    def solve(X, s, p):
        layer = make(p)
        Y = torch.arange(X.shape[-2]) % K if isinstance(layer, il.LogisticRegression) else X[..., :K]
        solution = layer.solve(X, Y, sample_weight=s)
        return torch.cat(
            [solution.coef, *([] if solution.intercept is None else [solution.intercept[..., None, :]])], -2
        )

    return solve


options = {"tol": 1e-13, "on_fail": "raise"}
WIDE = {
    "elastic_net": whole(lambda p: il.ElasticNet(0.02 * p, 0.5 * p, **options)),
    "group_lasso": whole(lambda p: il.GroupLasso(0.02 * p, 0.5 * p, **options)),
    "box": whole(lambda p: il.BoxRegression(-0.1 * p, 0.1 * p, 0.1 * p, **options)),
    "nonnegative": whole(lambda p: il.NonNegativeRegression(0.001 * p, 0.5 * p, **options)),
    "simplex": whole(lambda p: il.SimplexRegression(9 * p, 2 * p, **options)),
    "huber": whole(lambda p: il.HuberRegression(0.0, 0.5 * p, 0.3 * p, fit_intercept=True, **options)),
    "logistic": whole(lambda p: il.LogisticRegression(0.01 * p, 0.5 * p, fit_intercept=True, n_classes=K, **options)),
}


@pytest.mark.parametrize("f", WIDE.values(), ids=WIDE)
def test_derivatives_equal_differences_with_many_more_features_than_samples(f):
    X, s, p = normal(2, 4, 60), uniform(2, 4, seed=1), torch.tensor(1.0).double()
    directions = normal(2, 4, 60, seed=2), normal(2, 4, seed=3), torch.tensor(0.3).double()

    def coefficients(t):
        return f(*(a + t * d for a, d in zip((X, s, p), directions, strict=True)))

    zero = torch.zeros((), dtype=torch.float64)
    W = coefficients(zero)
    assert ((W != 0).any(-1).sum(-1) > 8).all()
    # A few combinations of all coefficients: Jacobians are small.
    some = normal(3, W.numel(), seed=4)

    def section(t):
        return some @ coefficients(t).flatten()

    one = torch.ones_like(zero)
    expected = directional_derivative(section, zero, one, step=1e-4)
    assert relative_error(jacrev(section)(zero), expected) <= 1e-6
    expected = directional_derivative(jacrev(section), zero, one, step=1e-4)
    for second in (jacfwd(jacrev(section)), jacrev(jacfwd(section)), jacfwd(jacfwd(section)), jacrev(jacrev(section))):
        assert relative_error(second(zero), expected) <= 1e-6


LARGE = {
    "box": il.BoxRegression(-0.01, 0.01, l2=0.1),
    "simplex": il.SimplexRegression(1.0, l2=1.0),
    "huber": il.HuberRegression(l2=0.1, fit_intercept=True),
    "group_lasso": il.GroupLasso(il.Relative(0.03), l2=0.1),
}


@pytest.mark.parametrize("layer", LARGE.values(), ids=LARGE)
def test_many_features_take_little_memory_and_are_polished(layer):
    """Supports are larger than the number of scores, up to all features."""
    X, Y = normal(50, 10_000), normal(50, 2, seed=1)
    solution = layer.solve(X, Y)
    assert solution.support.sum() > 100
    assert float(solution.gap) <= 1e-13
    assert float(solution.derivative_error) <= 0.1
    assert check_memory(Subject(lambda X, Y: layer(X, Y), "elastic_net"), X, Y, {}, bound=4.0, rounds=2) > 1
