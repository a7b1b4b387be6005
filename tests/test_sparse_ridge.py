import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import as_numpy, directional_derivative, lasso_objective, normal, relative_error, uniform, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacfwd, jacrev, vmap

import implicitlayers as il
from implicitlayers.constraints import Cardinality
from implicitlayers.losses import Squared
from implicitlayers.problem import Problem
from implicitlayers.solvers.branch import Search, prove
from implicitlayers.solvers.quadratic import dual_bound, reduce, relax_root, shares
from implicitlayers.solvers.swaps import Chosen, best_swap

QUICK: dict[str, Any] = {"tol": math.inf}


def least_objective(X, Y, l2, s, sample_weight=None):
    """The optimum over all supports of s features, each solved by least squares on augmented data."""
    root = np.sqrt(weights_of(X, sample_weight))[:, None]
    A, B = root * as_numpy(X), root * as_numpy(Y)
    values = []
    for support in itertools.combinations(range(A.shape[1]), s):
        tall = np.concatenate([A[:, support], math.sqrt(l2) * np.eye(s)])
        targets = np.concatenate([B, np.zeros((s, B.shape[1]))])
        values.append(((targets - tall @ np.linalg.lstsq(tall, targets, rcond=None)[0]) ** 2).sum() / 2)
    return min(values)


def planted(n, m, s, k=1, noise=0.2, seed=0, batch=()):
    """Y from the first s features, with coefficients between one and two in size."""
    X = normal(*batch, n, m, seed=seed)
    W = uniform(*batch, s, k, seed=seed, low=1, high=2) * normal(*batch, s, k, seed=seed + 1).sign()
    return X, X[..., :s] @ W + noise * normal(*batch, n, k, seed=seed + 2)


@st.composite
def problems(draw, integers=False):
    """X, Y, l2, s and sample weights, with at most 9 features."""
    n, m, k, seed = (
        draw(st.integers(1, 12)),
        draw(st.integers(2, 9)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 10**6)),
    )
    X, Y = normal(n, m, seed=seed), normal(n, k, seed=seed + 1)
    if integers:
        X, Y = X.round(), Y.round()
    weight = draw(st.sampled_from([None, uniform(n, seed=seed)]))
    return X, Y, draw(st.sampled_from([0.0, 1e-3, 0.1, 3.0])), draw(st.integers(1, m - 1)), weight


@given(problems())
def test_generic_problems_are_solved_and_proved(problem):
    X, Y, l2, s, weight = problem
    solution = il.SparseRidge(l2, s).solve(X, Y, sample_weight=weight)
    least, scale = least_objective(X, Y, l2, s, weight), lasso_objective(X, Y, 0 * solution.coef, 0.0, l2, weight)
    assert solution.converged
    assert float(solution.gap) <= 1e-9
    assert float(solution.objective) == pytest.approx(least, abs=1e-9 * scale)
    assert float(solution.objective) == pytest.approx(
        lasso_objective(X, Y, solution.coef, 0.0, l2, weight), abs=1e-12 * scale
    )
    assert int(solution.support.sum()) <= s


@given(problems(integers=True), st.sampled_from([None, 0.1, math.inf]))
def test_the_gap_is_valid(problem, tol):
    """Small integers: dependent features and ties abound. No support does better than the gap says."""
    X, Y, l2, s, weight = problem
    solution = il.SparseRidge(l2, s, tol=tol, on_fail="raise").solve(X, Y, sample_weight=weight)
    least, scale = least_objective(X, Y, l2, s, weight), lasso_objective(X, Y, 0 * solution.coef, 0.0, l2, weight)
    assert least >= float(solution.objective) - float(solution.gap) * scale - 1e-9 * max(scale, 1e-12)
    assert float(solution.objective) >= least - 1e-9 * max(scale, 1e-12)
    assert float(solution.gap) <= {None: 1e-9, 0.1: 0.1}.get(tol, 1)


@given(problems())
def test_the_dual_point_bounds_the_optimum_too(problem):
    X, Y, l2, s, weight = problem
    theta = il.SparseRidge(l2, s, **QUICK).solve(X, Y, sample_weight=weight).dual
    root = torch.from_numpy(weights_of(X, weight))[:, None]
    V = (X.mT @ (root * theta)).square().sum(-1)
    conjugate = float(V.topk(s).values.sum()) / (2 * l2) if l2 else 0.0
    if not l2:
        assert V.max() <= 1e-20 * (1 + float(Y.square().sum()))
    value = float((root * (theta * Y - theta.square() / 2)).sum()) - conjugate
    assert value <= least_objective(X, Y, l2, s, weight) + 1e-9


@pytest.mark.parametrize("m", [10, 12])
@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("l2", [0.0, 1e-4, 0.1])
def test_up_to_twelve_features_all_draws_are_proved(n, m, l2):
    X, Y = normal(20, n, m), normal(20, n, 2, seed=1)
    for s in (1, 2, 4, 6):
        solution = il.SparseRidge(l2, s, on_fail="raise").solve(X, Y)
        assert solution.converged.all()
        assert float(solution.objective[0]) == pytest.approx(least_objective(X[0], Y[0], l2, s), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("max_iter", [1, 2])
def test_what_is_not_proved_is_told_and_bounded(max_iter):
    X, Y = normal(30, 60), normal(30, 1, seed=1)
    layer = il.SparseRidge(1e-3, 6, max_iter=max_iter)
    with pytest.warns(il.ConvergenceWarning, match="SparseRidge: 1 of 1"):
        solution = layer.solve(X, Y)
    assert solution.status == il.Status.ITERATION_LIMIT
    assert 1e-6 < float(solution.gap) <= 1
    more = il.SparseRidge(1e-3, 6, max_iter=20, on_fail="ignore").solve(X, Y)
    lower = solution.objective - solution.gap * Y.square().mean() / 2
    assert lower <= more.objective
    # Anything goes if no proof is asked for.
    assert il.SparseRidge(1e-3, 6, **QUICK).solve(X, Y).converged


@pytest.mark.parametrize(("n", "m", "s", "k"), [(50, 20, 5, 1), (50, 100, 5, 1), (60, 300, 5, 3), (120, 1000, 10, 1)])
def test_planted_supports_are_found(n, m, s, k):
    X, Y = planted(n, m, s, k, batch=(4,))
    solution = il.SparseRidge(0.01, s, **QUICK).solve(X, Y)
    assert solution.support[:, :s].all()
    assert int(solution.support.sum()) == 4 * s


def test_is_at_least_as_good_as_its_starts():
    """Forward selection, thresholding of the ridge's rows, and the true support, on correlated features."""
    common = normal(8, 40, 1, seed=9)
    X, Y = planted(40, 60, 4, noise=1.0, batch=(8,))
    X = X + common
    objective = il.SparseRidge(0.01, 4, **QUICK).solve(X, Y).objective
    ridge = il.Ridge(0.01)(X, Y)[..., 0].abs()
    for b in range(8):
        for support in (ridge[b].topk(4).indices, torch.arange(4), _forward(X[b], Y[b], 0.01, 4)):
            assert objective[b] <= il.Ridge(0.01).solve(X[b][:, support], Y[b]).objective + 1e-12


def _forward(X, Y, l2, s):
    support: list[int] = []
    for _ in range(s):
        others = [j for j in range(X.shape[-1]) if j not in support]
        tried = torch.stack([X[:, [*support, j]] for j in others])
        support.append(others[int(il.Ridge(l2).solve(tried, Y).objective.argmin())])
    return torch.tensor(support)


@given(st.integers(0, 10**6))
def test_permuting_features_permutes_the_solution(seed):
    X, Y = normal(8, 7, seed=seed), normal(8, 2, seed=seed + 1)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    layer = il.SparseRidge(0.05, 3)
    assert relative_error(layer(X[:, order], Y), layer(X, Y)[order]) <= 1e-9


@given(problems(), st.sampled_from([1e-4, 1e4]))
def test_scaling_targets_and_features(problem, scale):
    X, Y, l2, s, weight = problem
    plain = il.SparseRidge(l2, s)(X, Y, sample_weight=weight)
    if l2 or s < X.shape[0]:  # else many supports fit exactly
        assert relative_error(il.SparseRidge(l2, s)(X, scale * Y, sample_weight=weight), scale * plain) <= 1e-7
        scaled = il.SparseRidge(l2 * scale**2, s)(scale * X, Y, sample_weight=weight)
        assert relative_error(scaled, plain / scale) <= 1e-7


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize(("n", "m"), [(20, 6), (4, 6)])
@pytest.mark.parametrize("extra", [0, 3])
def test_as_many_features_as_there_are_is_ridge(n, m, l2, extra):
    X, Y, weight = normal(n, m), normal(n, 2, seed=1), uniform(n)
    sparse = il.SparseRidge(l2, m + extra).solve(X, Y, sample_weight=weight)
    ridge = il.Ridge(l2).solve(X, Y, sample_weight=weight)
    assert torch.equal(sparse.coef, ridge.coef)
    assert sparse.converged
    assert float(sparse.gap) <= 1e-12


@pytest.mark.parametrize(("n", "s"), [(12, 3), (3, 5)])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_on_the_support_it_is_ridge(n, s, l2):
    X, Y = normal(n, 8), normal(n, 2, seed=1)
    solution = il.SparseRidge(l2, s).solve(X, Y)
    support = solution.support
    assert relative_error(solution.coef[support], il.Ridge(l2)(X[:, support], Y)) <= 1e-9
    assert (solution.coef[~support] == 0).all()


def test_absent_samples_and_repeated_samples():
    X, Y, weight = normal(12, 9), normal(12, 2, seed=1), uniform(12)
    weight[[2, 5]] = 0
    there, layer = weight > 0, il.SparseRidge(0.05, 3)
    whole = layer(X, Y, sample_weight=weight)
    assert relative_error(whole, layer(X[there], Y[there], sample_weight=weight[there])) <= 1e-10
    counts = torch.arange(12) % 3 + 1
    repeated = layer(X.repeat_interleave(counts, 0), Y.repeat_interleave(counts, 0))
    assert relative_error(layer(X, Y, sample_weight=counts.double()), repeated) <= 1e-9


@pytest.mark.parametrize("options", [{}, QUICK, {"max_iter": 1}])
def test_elements_do_not_depend_on_their_neighbours(options):
    """Among them an easy one, a hard one, zeros, and NaN."""
    X, Y = normal(6, 15, 20), normal(6, 15, 2, seed=1)
    Y[0] = X[0, :, :2] @ normal(2, 2)
    X[1] = 0
    Y[2] = 0
    X[3, 0, 0] = math.nan
    l2 = torch.tensor([0.1, 0.1, 0.1, 0.1, 1e-3, 0.0], dtype=torch.float64)
    batch = il.SparseRidge(l2, 4, on_fail="ignore", **options).solve(X, Y)
    for i in range(6):
        alone = il.SparseRidge(l2[i], 4, on_fail="ignore", **options).solve(X[i], Y[i])
        assert torch.equal(alone.status, batch.status[i])
        assert torch.equal(alone.n_iter, batch.n_iter[i])
        torch.testing.assert_close(alone.coef, batch.coef[i], rtol=1e-9, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(alone.gap, batch.gap[i], rtol=1e-9, atol=1e-12, equal_nan=True)
    assert batch.status[3] == il.Status.NOT_FINITE


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_nothing_to_learn(l2):
    """Zeros: no coefficients, no warning, finite derivatives; every support ties."""
    X = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    Y = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    solution = il.SparseRidge(l2, 2).solve(X, Y)
    assert (solution.coef == 0).all()
    assert solution.gap == 0
    assert solution.converged
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(solution.coef.sum(), (X, Y)))


def test_dependent_features_share_no_support_without_ridge():
    X, Y = normal(20, 3), normal(20, 2, seed=1)
    X = torch.cat([X, X[:, :2] + X[:, 2:]], dim=1)
    solution = il.SparseRidge(0.0, 4).solve(X, Y)
    assert int(solution.support.sum()) == 3
    assert relative_error(X @ solution.coef, X @ il.Ridge(0.0)(X, Y)) <= 1e-9
    assert il.Status.SINGULAR not in il.Status(int(solution.status))


def test_a_tie_is_degenerate():
    X, Y = normal(12, 5), normal(12, 1, seed=1)
    assert il.SparseRidge(0.1, 2).solve(X, Y).status == 0
    twice = torch.cat([X, X], dim=1)
    assert il.SparseRidge(0.1, 2).solve(twice, Y).status == il.Status.DEGENERATE


def test_an_intercept_is_that_of_the_centred_problem():
    X, Y, weight = 2 + normal(20, 8), 5 + normal(20, 2, seed=1), uniform(20)
    solution = il.SparseRidge(0.05, 3, fit_intercept=True).solve(X, Y, sample_weight=weight)
    x, y = ((weight[:, None] * A).sum(0) / weight.sum() for A in (X, Y))
    assert relative_error(solution.coef, il.SparseRidge(0.05, 3)(X - x, Y - y, sample_weight=weight)) <= 1e-9
    assert relative_error(solution.intercept, y - x @ solution.coef) <= 1e-9
    assert solution.converged


def test_errors_of_derivatives_are_known_where_the_support_is():
    X, Y = normal(50, 30), normal(50, 1, seed=1)
    assert il.SparseRidge(0.1, 3).solve(X, Y).derivative_error <= 1e-9
    assert il.SparseRidge(0.1, 3, **QUICK).solve(X, Y).derivative_error == math.inf


def test_float32_is_proved_as_well():
    X, Y = planted(50, 30, 4, batch=(5,))
    exact = il.SparseRidge(0.1, 4)(X, Y)
    solution = il.SparseRidge(0.1, 4).solve(X.float(), Y.float())
    assert solution.coef.dtype == torch.float32
    assert solution.converged.all()
    assert relative_error(solution.coef.double(), exact) <= 1e-4


def test_starts_from_a_previous_solution():
    X, Y = planted(50, 30, 4, batch=(5,))
    layer = il.SparseRidge(0.1, 4)
    previous = layer.solve(X, Y)
    assert torch.equal(layer.solve(X, Y, init=previous).coef, previous.coef)


def test_strengths_broadcast_and_are_learnt():
    X, Y = planted(20, 9, 3)
    l2 = torch.nn.Parameter(torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64))
    layer = il.SparseRidge(l2, 3)
    coef = layer(X, Y)
    assert coef.shape == (3, 9, 1)
    for i in range(3):
        assert relative_error(coef[i], il.SparseRidge(l2[i].detach(), 3)(X, Y)) <= 1e-12
    coef.square().sum().backward()
    assert (l2.grad != 0).all()
    assert "n_nonzero=3" in repr(layer)


# Derivatives, along one direction per argument: X, Y, l2, sample weights.
SHAPES = pytest.mark.parametrize(("n", "m", "s"), [(12, 8, 3), (6, 9, 3), (3, 9, 5)], ids=["tall", "wide", "dual"])


def arguments(n, m, *batch):
    return (
        normal(*batch, n, m, seed=2),
        normal(*batch, n, 2, seed=3),
        0.1 * uniform(*batch, seed=5),
        uniform(*batch, n, seed=4),
    )


def sparse_ridge(X, Y, l2, weight, s=3, **options):
    return il.functional.sparse_ridge(X, Y, l2=l2, n_nonzero=s, sample_weight=weight, **options)


def section(given, s):
    scales = (1.0, 1.0, 0.1, 1.0)
    directions = [scale * normal(*a.shape, seed=20 + i) for i, (a, scale) in enumerate(zip(given, scales, strict=True))]
    return lambda p: sparse_ridge(*(a + p[i] * d for i, (a, d) in enumerate(zip(given, directions, strict=True))), s=s)


def differences(f, step=1e-4):
    basis = torch.eye(4, dtype=torch.float64)
    return torch.stack([directional_derivative(f, torch.zeros(4).double(), e, step) for e in basis], dim=-1)


@SHAPES
@pytest.mark.parametrize("batch", [(), (2,)])
def test_first_derivatives_match_finite_differences(n, m, s, batch):
    f = section(arguments(n, m, *batch), s)
    expected = differences(f)
    for jacobian in (jacrev, jacfwd):
        found = jacobian(f)(torch.zeros(4).double())
        for i in range(4):
            assert expected[..., i].abs().max() > 1e-6
            assert relative_error(found[..., i], expected[..., i]) <= 1e-6


@SHAPES
def test_second_derivatives_match_finite_differences_in_every_composition(n, m, s):
    f = section(arguments(n, m), s)
    expected = differences(jacrev(f))
    for outer, inner in itertools.product((jacrev, jacfwd), repeat=2):
        found = outer(inner(f))(torch.zeros(4).double())
        for i, j in itertools.product(range(4), repeat=2):
            scale = expected[..., i, j].abs().max().clamp_min(1e-3 * expected.abs().max())
            assert (found[..., i, j] - expected[..., i, j]).abs().max() <= 1e-5 * scale


def test_derivatives_without_ridge():
    X, Y, _, weight = arguments(12, 8)
    X, Y, weight = (a.requires_grad_() for a in (X, Y, weight))
    assert torch.autograd.gradcheck(
        lambda X, Y, w: il.functional.sparse_ridge(X, Y, l2=0.0, n_nonzero=3, sample_weight=w),
        (X, Y, weight),
        check_forward_ad=True,
        fast_mode=True,
    )


@SHAPES
def test_vmap_equals_a_loop_and_a_batch(n, m, s):
    many = arguments(n, m, 3)

    def one(*a):
        return sparse_ridge(*a, s=s)

    mapped = vmap(one)(*many)
    assert relative_error(mapped, torch.stack([one(*a) for a in zip(*many, strict=True)])) <= 1e-12
    assert relative_error(mapped, one(*many)) <= 1e-12
    for jacobian in (jacrev, jacfwd):
        expected = torch.stack([jacobian(one)(*a) for a in zip(*many, strict=True)])
        assert relative_error(vmap(jacobian(one))(*many), expected) <= 1e-9


def test_value_is_the_same_bits_with_and_without_derivatives():
    given = arguments(12, 8, 2)
    plain = sparse_ridge(*given)
    assert torch.equal(sparse_ridge(*(a.clone().requires_grad_() for a in given)), plain)
    assert torch.equal(sparse_ridge(*given, derivative_order=0), plain)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "3", None])
def test_n_nonzero_is_a_positive_integer(wrong):
    with pytest.raises(ValueError, match=r"n_nonzero: given .*, expected an integer ≥ 1"):
        il.SparseRidge(0.1, wrong)


def test_other_errors_name_their_argument():
    X, Y = normal(5, 4), normal(5, 1)
    with pytest.raises(ValueError, match="l2: given -1"):
        il.SparseRidge(-1.0, 2)
    with pytest.raises(ValueError, match="l2: given -1, expected finite values ≥ 0"):
        il.SparseRidge(torch.tensor(-1.0), 2)(X, Y)
    with pytest.raises(ValueError, match="unsqueeze"):
        il.SparseRidge(0.1, 2)(X, Y[:, 0])


# The parts.


def quadratic(n, m, k=2, l2=0.05, seed=0):
    X, Y = normal(1, n, m, seed=seed), normal(1, n, k, seed=seed + 1)
    size = torch.tensor([3])
    return Problem(X, Y, uniform(1, n) / n, Squared(), Cardinality(size), torch.tensor([l2], dtype=torch.float64))


@pytest.mark.parametrize(("n", "m"), [(5, 8), (8, 8), (20, 8)])
@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_reduction_keeps_the_objective(n, m, l2):
    problem = quadratic(n, m, l2=l2)
    q = reduce(problem)
    assert q.X.shape[1] <= m
    for seed in range(3):
        W = problem.penalty.prox(normal(1, m, 2, seed=seed), torch.ones(1))
        value = q.constant + ((q.X @ W - q.Y).square().sum() + q.l2 * W.square().sum()) / 2
        torch.testing.assert_close(value, problem.objective(W), rtol=1e-10, atol=0)


def test_every_swap_gains_what_it_says():
    q = reduce(quadratic(6, 8))
    columns, filled = torch.tensor([[1, 4, 6]]), torch.tensor([[True, True, False]])

    def gain(support):
        A = q.X[0][:, support].mT @ q.X[0][:, support] + q.l2 * torch.eye(len(support), dtype=torch.float64)
        C = q.X[0][:, support].mT @ q.Y[0]
        return float((C * torch.linalg.solve(A, C)).sum() / 2)

    swap = best_swap(q, columns, filled)
    others = [0, 2, 3, 5, 6, 7]
    tried = [[4, j] for j in others] + [[1, j] for j in others] + [[1, 4, j] for j in others]
    assert float(swap.gain_before) == pytest.approx(gain([1, 4]), rel=1e-12)
    assert float(swap.gain + swap.gain_before) == pytest.approx(max(gain(s) for s in tried), rel=1e-10)


@given(st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0.01, 100), min_size=2, max_size=8), st.integers(1, 8))
def test_shares_are_proportional_up_to_one(weights, size):
    weight = torch.tensor([weights], dtype=torch.float64)
    share = shares(weight, torch.tensor([float(size)]).double())
    assert ((share >= 0) & (share <= 1)).all()
    positive = int((weight > 0).sum())
    assert float(share.sum()) == pytest.approx(min(size, positive), rel=1e-12)
    partial = (share > 0) & (share < 1)
    if partial.any():
        ratio = (weight / torch.where(partial, share, 1.0))[partial]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


@pytest.mark.parametrize(("n", "m"), [(10, 30), (40, 20)])
def test_relaxation_rises_to_its_maximum(n, m):
    q = reduce(quadratic(n, m))
    bounds = [float(relax_root(q, 3, steps).bound) for steps in (1, 5, 20, 400)]
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(bounds))
    # At the maximum the relaxed coefficients attain the bound: a primal value of the convex relaxation.
    relaxed = relax_root(q, 3, 2000)
    share = shares(relaxed.coef.norm(dim=-1), torch.tensor([3.0]).double())[..., None].clamp_min(1e-12)
    W = relaxed.coef
    primal = q.constant + ((q.X @ W - q.Y).square().sum() + (q.l2 * W.square() / share).sum()) / 2
    assert float(relaxed.bound) == pytest.approx(float(primal), rel=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=20)
def test_every_dual_point_bounds_with_features_fixed(seed, size):
    q = reduce(quadratic(7, 6, seed=seed))
    inside = torch.tensor([[True, False, False, False, False, False]])
    free = torch.tensor([[False, True, True, True, True, False]])
    bound, _ = dual_bound(q, normal(1, q.X.shape[1], 2, seed=seed), inside, free, torch.tensor([float(size)]))
    W = normal(1, 6, 2, seed=seed + 1)
    for support in itertools.combinations(range(1, 5), size):
        mask = torch.zeros(6, dtype=torch.bool)
        mask[[0, *support]] = True
        restricted = torch.where(mask[:, None], W, 0.0)
        value = q.constant + ((q.X @ restricted - q.Y).square().sum() + q.l2 * restricted.square().sum()) / 2
        assert bound <= value + 1e-12


def best_with(q, inside, free, size):
    """The least objective over supports of ``size`` that hold ``inside`` and otherwise ``free`` features."""
    found = math.inf
    A = q.X[0].mT @ q.X[0] + q.l2 * torch.eye(q.X.shape[-1], dtype=torch.float64)
    C = q.X[0].mT @ q.Y[0]
    for others in itertools.combinations(free, size - len(inside)):
        S = [*inside, *others]
        found = min(found, float(q.null - (C[S] * torch.linalg.solve(A[S][:, S], C[S])).sum() / 2))
    return found


def search(q, size, upper):
    """A search that knows no support, only an objective to do better than."""
    nothing = torch.zeros(1, size, dtype=torch.int64)
    return Search(q, Chosen(nothing, nothing > 0, q.null - upper, torch.zeros(1).double()), torch.zeros(1).double())


def columns_of(mask, branching):
    return branching.columns[0][mask].tolist()


@given(st.integers(0, 10**6), st.integers(3, 5), st.sampled_from([(6, 8), (30, 8)]))
def test_children_share_the_supports_of_their_parent_and_bound_them(seed, size, shape):
    q = reduce(quadratic(*shape, seed=seed))
    branching = search(q, size, torch.tensor([torch.inf]).double())
    nodes = branching.root(relax_root(q, size, 3))
    for _ in range(size - 2):
        children = branching.children(nodes)
        for i in range(len(nodes.element)):
            parent = [columns_of(part[i], branching) for part in (nodes.inside, nodes.free)]
            mine = (children.inside & nodes.inside[i]).sum(-1) == nodes.inside[i].sum()
            best = math.inf
            for j in mine.nonzero()[:, 0]:
                inside, free = (columns_of(part[j], branching) for part in (children.inside, children.free))
                if set(inside + free) <= set(parent[0] + parent[1]):
                    below = best_with(q, inside, free, size)
                    assert float(children.bound[j]) <= below + 1e-9
                    best = min(best, below)
            assert best == pytest.approx(best_with(q, *parent, size), rel=1e-9)
        nodes = children
    branching.children(nodes)
    assert float(branching.upper) == pytest.approx(best_with(q, [], range(8), size), rel=1e-9)


@given(st.integers(0, 10**6), st.floats(0.05, 0.6), st.sampled_from([(6, 8), (30, 8)]))
def test_features_that_are_not_possible_are_in_no_better_support(seed, share, shape):
    q = reduce(quadratic(*shape, seed=seed, l2=0.5))
    best = [best_with(q, [j], [i for i in range(8) if i != j], 3) for j in range(8)]
    upper = min(best) + share * (float(q.null) - min(best))
    branching = search(q, 3, torch.tensor([upper], dtype=torch.float64))
    possible = branching.possible(torch.tensor([0]), torch.ones(1, 8, dtype=torch.bool), relax_root(q, 3, 5), 3)
    for j in range(8):
        if not possible[0, j]:
            assert upper - 1e-12 <= float(branching.lower) <= best[j] + 1e-9


@given(problems())
def test_the_search_needs_no_good_start(problem):
    X, Y, l2, s, weight = problem
    whole = torch.from_numpy(weights_of(X, weight))
    q = reduce(
        Problem(
            X[None],
            Y[None],
            whole[None],
            Squared(),
            Cardinality(torch.tensor([s])),
            torch.tensor([l2], dtype=torch.float64),
        )
    )
    nothing = torch.zeros(1, s, dtype=torch.int64)
    chosen = Chosen(nothing, nothing > 0, torch.zeros(1).double(), torch.zeros(1).double())
    proof = prove(q, chosen, relax_root(q, s, 1), 1e-10 * q.null, 100)
    least = least_objective(X, Y, l2, s, weight)
    assert float(proof.lower) == pytest.approx(least, abs=1e-9 * float(q.null))
    found = best_swap(q, proof.columns, proof.filled).gain_before
    assert float(q.null - found) == pytest.approx(least, abs=1e-9 * float(q.null))


def test_cardinality_keeps_the_longest_rows():
    V = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [0.0, -2.0]], dtype=torch.float64)
    penalty = Cardinality(torch.tensor(2))
    kept = penalty.prox(V, torch.tensor(1.0))
    assert torch.equal(kept, V * torch.tensor([[1.0], [0.0], [0.0], [1.0]]))
    assert penalty.value(kept) == 0
    assert penalty.value(V) == math.inf
    assert penalty.feasible_scale(V) == 0
    assert penalty.feasible_scale(0 * V) == 1
