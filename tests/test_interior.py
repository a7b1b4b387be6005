"""The interior point for the hinge: its linear systems, and problems in which few features are in use."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, solve_alone, uniform
from hypothesis import given, settings

import implicitlayers as il
from implicitlayers.dual_face import bends
from implicitlayers.hinges import MulticlassHinge, SmoothedHinge
from implicitlayers.penalties import GroupL2, NoPenalty
from implicitlayers.problem import Problem
from implicitlayers.solvers import hinge, hinge_search, interior
from implicitlayers.solvers.certified import CertifiedPoint
from implicitlayers.solvers.newton_system import DualSystem, Groups, PrimalSystem, _Scaled


def groups(b, S, k, seed):
    unit = normal(b, S, k, seed=seed)
    unit = unit - unit.mean(-1, keepdim=True)
    along = uniform(b, S, seed=seed + 1)
    return Groups(uniform(b, S, seed=seed), along, unit / unit.norm(dim=-1, keepdim=True), along)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 4), st.integers(0, 1000))
def test_both_systems_solve_the_conditions(n, S, k, seed):
    """D dL − X dW is r up to a constant per sample, and dL = 0 where nothing is free."""
    b = 2
    X, r, G = normal(b, n, S, seed=seed), normal(b, n, k, seed=seed), groups(b, S, k, seed)
    D, L = uniform(b, n, k, seed=seed), uniform(b, n, k, seed=seed + 3)
    free = torch.ones(b, n, k, dtype=torch.bool)
    free[1, 0] = False
    if k > 2:
        free[0, 0, 0] = False
    rho, h = (A - A.mean(-1, keepdim=True) for A in (normal(b, S, k, seed=seed + 1), normal(b, S, k, seed=seed + 2)))
    for kind in (DualSystem, PrimalSystem):
        dL, dV = kind(X, G, L, D, free).solve(r, rho, h)
        dW = G.apply(dV) + h
        off = torch.where(free, D * dL - X @ dW - r, 0.0)
        mean = off.sum(-1, keepdim=True) / free.sum(-1, keepdim=True).clamp_min(1)
        assert torch.where(free, off - mean, 0.0).abs().max() <= 1e-8
        assert dL[~free].abs().sum() == 0
        assert dL.sum(-1).abs().max() <= 1e-10
        assert relative_error(dV, rho - X.mT @ dL) <= 1e-8


@given(st.integers(0, 1000), st.sampled_from([1e-3, 1e-9, 1e-14]))
def test_the_system_in_w_loses_no_digits_where_samples_are_decided(seed, small):
    """One class of a sample carries all, or two do, as at the end of a search, and r hardly differs between those."""
    b, n, k = 1, 8, 4
    inner = small * uniform(b, n, k, seed=seed)
    inner[..., 0] = uniform(b, n, seed=seed + 1) / small
    inner[:, ::2, 1] = uniform(b, n // 2, seed=seed + 2) / small
    r = normal(b, n, k, seed=seed)
    r[..., 1] = r[..., 0] * (1 + 2**-40)
    free = torch.ones(b, n, k, dtype=torch.bool)
    system = PrimalSystem(normal(b, n, 3, seed=seed), groups(b, 3, k, seed), inner, 1 / inner, free)
    weights = inner[..., None] * inner[..., None, :] / inner.sum(-1)[..., None, None]
    weights.diagonal(dim1=-2, dim2=-1).zero_()
    diagonal = system.B.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal - weights.sum(-1)).abs() <= 1e-12 * weights.sum(-1)).all()
    terms = weights * (r[..., :, None] - r[..., None, :])
    assert ((system._within(r) - terms.sum(-1)).abs() <= 1e-12 * terms.abs().sum(-1)).all()


@given(st.integers(2, 8), st.integers(0, 1000))
def test_a_factor_that_rounding_denies_is_made(d, seed):
    """Case 28, arithmetic of another machine: of a matrix of rank d − 1 a factor exists or not by the order of sums."""
    A = normal(2, d, d - 1, seed=seed)
    M = A @ A.mT
    # Below what is added at first, and for certain indefinite.
    M[0] -= 1e-12 * torch.eye(d, dtype=M.dtype)
    r = (M @ normal(2, d, 1, seed=seed + 1))[..., 0]
    factor = _Scaled(M)
    assert relative_error((M @ factor.solve(r)[..., None])[..., 0], r) <= 1e-6


def machines(seed, b=2, n=25, m=15, k=3, share=0.3, l2=1e-2, smoothing=0.0, weighted=False, masked=False):
    X, Y = normal(b, n, m, seed=seed), one_hot(labels(b, n, k=k - masked, seed=seed), k)
    weight = uniform(b, n, seed=seed)
    if weighted:
        weight[:, ::4] = 0
    weight = weight / weight.sum(-1, keepdim=True)
    mask = torch.ones(b, k, dtype=torch.bool)
    if masked:
        mask[:, -1] = False
    largest = (X.mT @ (weight[..., None] * (Y - 1 / k))).norm(dim=-1).amax(-1)
    penalty = GroupL2(share * largest[:, None]) if share else NoPenalty()
    strength = torch.full((b,), smoothing, dtype=torch.float64)
    loss = SmoothedHinge(strength, mask) if smoothing else MulticlassHinge(mask)
    return Problem(X, Y, weight, loss, penalty, torch.full((b,), l2, dtype=torch.float64))


def centre(problem):
    allowed = problem.loss.domain.allowed.expand_as(problem.Y).to(torch.float64)
    return allowed / allowed.sum(-1, keepdim=True)


def inside(problem, max_iter=100):
    limit = torch.full_like(problem.l2, max_iter, dtype=torch.int64)
    return interior.minimise(problem, centre(problem), limit)


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(2, 5),
    st.sampled_from([0.0, 0.03, 0.3, 0.6]),
    st.sampled_from([1e-6, 1e-3, 1.0]),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
    st.booleans(),
)
def test_it_is_exact_after_some_steps_whatever_the_conditioning(seed, m, k, share, l2, smoothing, weighted, masked):
    """Where it comes first; Newton on the face that it tells ends at rounding."""
    problem = machines(
        seed, m=m, k=k, share=share, l2=l2, smoothing=smoothing, weighted=weighted, masked=masked and k > 2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hinge_search, "FIRST_STEPS", 0)
        patch.setattr(hinge_search, "SHARE_OF_INTERIOR", 0)
        patch.setattr(hinge, "_at_once", CertifiedPoint)
        result = hinge.solve(problem, None, 1e-9, 200, torch.float64, True)
    assert (problem.relative_gap(result.coef, result.theta) <= 1e-9).all()
    assert (result.n_iter <= 60).all()


def other_rounding(problem, seed):
    """The same problem with features that differ by what rounding does to them, and all sums in another order."""
    X = problem.X * (1 + 2**-52 * uniform(*problem.X.shape, seed=seed, low=-2, high=2).round())
    samples, features = (uniform(size, seed=seed + size).argsort() for size in X.shape[1:])
    Y, weight = problem.Y[:, samples], problem.weight[:, samples]
    return problem._replace(X=X[:, samples][..., features], Y=Y, weight=weight)


@pytest.mark.parametrize("rounding", range(4))
@pytest.mark.parametrize(
    "sizes",
    [
        {"seed": 24, "m": 25, "k": 2, "share": 0.3, "l2": 1e-6, "weighted": True},
        {"seed": 779925, "m": 32, "k": 3, "share": 0.6, "l2": 1e-06, "weighted": True, "masked": True, "n": 50},
        {"seed": 91370, "m": 32, "k": 2, "share": 0.6, "l2": 1e-05, "weighted": True, "n": 8},
        {"seed": 719817, "m": 6, "k": 2, "share": 0.03, "l2": 0.001, "weighted": True, "n": 8},
    ],
)
def test_no_feature_passes_its_threshold_before_it_is_in_use(sizes, rounding):
    """Case 28, arithmetic of another machine: W jumped by what V was beyond it, over l2, and the search jammed."""
    problem = other_rounding(machines(**sizes), rounding)
    found = interior._advance(problem, interior._start(problem, centre(problem)), torch.full((2,), 40))
    assert (found.measure <= 1e-10).all()


@given(st.integers(0, 1000), st.integers(1, 5))
def test_how_far_a_change_may_go_is_where_the_first_feature_is_near(seed, m):
    problem = machines(seed, m=m, k=3, share=0.3)
    V, change = 0.1 * normal(2, m, 3, seed=seed + 1), normal(2, m, 3, seed=seed + 2)
    limit = interior.ENTRANCE * problem.penalty.l1
    inside = 0.8 * limit
    V = V * (inside / V.norm(dim=-1)).clamp_max(1)[..., None]
    new = torch.ones(2, m, dtype=torch.bool)
    reached = (V + interior._until_near(problem, V, change, new)[:, None, None] * change).norm(dim=-1)
    assert torch.allclose((reached / limit).amax(-1), torch.ones_like(problem.l2))
    assert interior._until_near(problem, V, change, ~new).isinf().all()


def test_samples_that_are_absent_and_classes_that_are_masked_stay():
    problem = machines(3, k=4, weighted=True, masked=True)
    Lambda, _ = inside(problem)
    assert (Lambda[..., -1] == 0).all()
    assert (Lambda[:, ::4, :3] == 1 / 3).all()
    assert torch.allclose(Lambda.sum(-1), torch.ones_like(Lambda[..., 0]))


@pytest.mark.parametrize("max_iter", [0, 1, 5])
def test_a_limit_is_one(max_iter):
    assert inside(machines(1), max_iter)[1].tolist() == [max_iter] * 2


def test_elements_are_as_they_are_alone():
    """One that takes longer, or has other features in use, changes nothing for the others."""
    problem = machines(5, b=3)
    X = problem.X * torch.tensor([1.0, 30.0, 0.1], dtype=torch.float64)[:, None, None]
    problem = problem._replace(X=X)
    together, steps = inside(problem)
    for i in range(3):
        alone = Problem(*(interior.pick(part, torch.tensor([i])) for part in problem))
        Lambda, count = inside(alone)
        assert relative_error(together[i], Lambda[0]) <= 1e-6
        assert abs(int(count) - int(steps[i])) <= 1


def test_groups_move_as_prox_does_at_the_end():
    """G is the derivative of W(V) where ω belongs to V and q = 0."""
    problem = machines(2, m=12)
    V = 0.05 * normal(2, 12, 3, seed=4)
    V = V - V.mean(-1, keepdim=True)
    l1 = problem.penalty.l1.expand(V.shape[:-1])
    omega = (V.norm(dim=-1) / l1 - 1).clamp_min(1e-300) / problem.l2[:, None]
    chosen, L = torch.ones_like(l1, dtype=torch.bool), problem.Y
    nothing = torch.zeros_like(problem.l2)
    state = interior._State(L, L, V, V, omega, 0 * omega, chosen, L, nothing, nothing, nothing)
    G = interior._Used(problem, state).groups()
    active = V.norm(dim=-1) > l1
    assert active.any()
    assert not active.all()
    D = normal(2, 12, 3, seed=5)
    alpha, q = bends(problem, V)
    expected = (alpha[..., None] * D + q * (q * D).sum(-1, keepdim=True)) / problem.l2[:, None, None]
    assert relative_error(G.apply(D)[active], expected[active]) <= 1e-10


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_few_features_take_few_steps_and_end_where_newton_does(share, monkeypatch):
    """More samples than features: the dual is not unique, W is."""
    X, y = normal(2, 40, 5, seed=1), labels(2, 40, k=4, seed=1)
    layer = il.MulticlassSVM(0.01, il.Relative(share) if share else 0.0)
    solution = solve_alone(layer, X, y)
    assert (solution.n_iter <= 40).all()
    assert (solution.gap <= 1e-12).all()
    monkeypatch.setattr(interior, "LARGEST", 0)
    assert relative_error(solution.coef, layer.solve(X, y).coef) <= 1e-5


@pytest.mark.parametrize(("m", "share"), [(5, 0.0), (5, 0.3), (60, 0.7)])
def test_float32_features_that_stay_as_they_are_do_not_matter(m, share, monkeypatch):
    X, y = normal(2, 30, m, seed=2).to(torch.float32), labels(2, 30, k=3, seed=2)
    layer = il.MulticlassSVM(0.01, il.Relative(share) if share else 0.0)
    exact = layer(X.double(), y)
    monkeypatch.setattr("implicitlayers.solve.WHOLE_UP_TO", 0)
    solution = layer.solve(X, y)
    assert solution.converged.all()
    assert relative_error(solution.coef.double(), exact) <= 1e-5


def test_near_ties_are_told_apart():
    """Close to the l1 at which W vanishes all margins nearly tie, and the gap alone does not tell which do."""
    X, y = normal(4, 30, 12, seed=7), labels(4, 30, k=4, seed=7)
    solution = solve_alone(il.MulticlassSVM(1e-3, il.Relative(0.95)), X, y)
    assert (solution.gap <= 1e-12).all()
    assert solution.support.any(-1).all()
    assert (solution.status == 0).all()
    assert (solution.derivative_error < 1).all()


def test_derivatives_are_zero_where_w_is():
    """Beyond the l1 at which W vanishes: the dual point is within all thresholds, so that nothing is in doubt."""
    X, y = normal(3, 25, 40, seed=3), labels(3, 25, k=4, seed=3)
    solution = solve_alone(il.MulticlassSVM(1e-2, il.Relative(1.05)), X, y)
    assert (solution.coef == 0).all()
    assert (solution.status == il.Status.EMPTY).all()
    assert (solution.derivative_error == 0).all()


def test_derivatives_of_zero_are_in_doubt_at_the_threshold():
    X, y = normal(3, 25, 40, seed=3), labels(3, 25, k=4, seed=3)
    solution = il.MulticlassSVM(1e-2, il.Relative(1.0)).solve(X, y)
    assert (solution.derivative_error > 1e-3).all()
