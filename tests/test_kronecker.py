"""Systems of M ⊗ I on a face, and what is made of them: the hinge without a penalty."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, uniform
from hypothesis import assume, given
from torch.func import jacrev

import implicitlayers as il
from implicitlayers import dual_face, kronecker
from implicitlayers.hinges import MulticlassHinge, SmoothedHinge
from implicitlayers.kronecker import alike, factorise_face
from implicitlayers.penalties import GroupL2
from implicitlayers.problem import Problem
from implicitlayers.solvers import conjugate_part, continuation, dual_newton, hinge_search, simplex_qp
from implicitlayers.solvers import hinge as solver
from implicitlayers.solvers.batch import pick, put
from implicitlayers.solvers.certified import CertifiedPoint


def face(seed, b, k, n, share):
    """M, and free entries of which every column has one."""
    A = normal(b, n, 2 * n, seed=seed)
    free = uniform(b, k, n, seed=seed, low=0, high=1) < share
    return A @ A.mT, free | (torch.arange(k)[:, None] == torch.arange(n) % k)


def dense_solution(M, free, C, total):
    """The minimiser by one system for all classes and multipliers."""
    k, n = free.shape
    entries = free.flatten().nonzero()[:, 0]
    H = torch.block_diag(*[M] * k)[entries][:, entries]
    A = torch.zeros(n, len(entries), dtype=M.dtype)
    A[entries % n, torch.arange(len(entries))] = 1
    zero = torch.zeros(n, n, dtype=M.dtype)
    system = torch.cat([torch.cat([H, A.mT], 1), torch.cat([A, zero], 1)])
    solved = torch.linalg.solve(system, torch.cat([-C.flatten()[entries], total]))
    return torch.zeros(k * n, dtype=M.dtype).scatter(0, entries, solved[: len(entries)]).view(k, n)


def factorised(M, free, few=0):
    """The factor, by the ways of more samples than ``few``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kronecker, "FEW_SAMPLES", few)
        return factorise_face(M, free)


# The shares make every branch: all free, nearly all (an inverse less what is not), few (packed), and between.
@given(
    st.integers(0, 1000),
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(1, 9),
    st.sampled_from([0.2, 0.7, 0.95, 1]),
    st.sampled_from([0, 9]),
)
def test_a_face_is_solved_as_by_one_large_system(seed, b, k, n, share, few):
    M, free = face(seed, b, k, n, share)
    C, total = normal(b, k, n), uniform(b, 1, n, low=0, high=1)
    factor = factorised(M, free, few)
    found, _ = factor.solve(C, total)
    for i in range(b):
        expected = dense_solution(M[i], free[i], C[i], total[i, 0])
        assert relative_error(found[i], expected) <= 1e-7
    assert factor.regular.all()


def test_a_singular_face_is_told():
    M, free = face(0, 2, 3, 6, 1.0)
    M[1, :, 0] = M[1, :, 1]
    M[1, 0, :] = M[1, 1, :]
    for few in (0, 6):
        assert factorised(M, free, few).regular.tolist() == [True, False]


@given(st.integers(0, 1000), st.sampled_from([0.3, 0.8, 1.0]), st.sampled_from([0, 8]))
def test_what_little_is_left_of_a_sample_is_told(seed, share, few):
    """A sample that others nearly span leaves a pivot of 1e-8, and is free in all classes or, alone, in one."""
    M, free = face(seed, 2, 3, 8, share)
    A = torch.linalg.cholesky(M)
    A[1, 1] = A[1, 0] + 1e-5 * A[1, 1]
    M = A @ A.mT
    free[:, 0, :2] = True
    assert factorised(M, free, few).regular.tolist() == [True, False]
    # Where no class has both of them nothing is singular.
    free[1, :, 0], free[1, :, 1] = torch.tensor([True, False, False]), torch.tensor([False, True, True])
    assert factorised(M, free, few).regular.all()


def ways(M, free):
    """The factor without packing, packed, and by what is taken away from the whole."""
    assume(not free.all(-1).any())
    masked, nothing = kronecker.masked_factor(M, free), M[:, :0, :0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kronecker, "FEW_SAMPLES", 0)
        patch.setattr(kronecker, "PACK_BELOW", 0.99)
        patch.setattr(kronecker, "DOWNDATE_BELOW", 1.0)
        packed, downdated = factorise_face(M, free, nothing), factorise_face(M, free)
    assert masked.inverses.size > packed.inverses.size
    assert isinstance(downdated.inverses, kronecker.Downdate)
    return masked, packed, downdated


@given(st.integers(0, 1000))
def test_all_ways_agree(seed):
    M, free = face(seed, 2, 3, 12, 0.5)
    C = normal(2, 3, 12)
    masked, *others = ways(M, free)
    for factor in others:
        assert relative_error(factor.inverses.times(C), masked.inverses.times(C)) <= 1e-10
        assert not factor.inverses.times(C)[~free].any()
        # A trace bounds the norm, by no more than the root of what it counts.
        assert (factor.inverses.norm() >= masked.inverses.norm() * (1 - 1e-10)).all()
        assert (factor.inverses.norm() <= masked.inverses.norm() * 12**0.5).all()


@given(st.integers(0, 1000))
def test_factors_take_each_others_places(seed):
    """Of any form, and on faces of any size."""
    M, free = face(seed, 4, 3, 12, 0.4)
    C = normal(4, 3, 12)
    index = torch.tensor([1])
    expected = kronecker.masked_factor(M, free).solve(C)[0]
    for first in ways(M[:2], free[:2]):
        for second in ways(M[2:], free[2:]):
            one, other = alike(first, second)
            mixed = put(one, index, pick(other, index))
            assert relative_error(mixed.solve(C[[0, 3]])[0], expected[[0, 3]]) <= 1e-9
            assert not mixed.inverses.times(C[[0, 3]])[~free[[0, 3]]].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_small_systems_and_the_whole_have_the_same_derivatives(monkeypatch, smoothing):
    def machine(X, y, s):
        return il.MulticlassSVM(0.05, smoothing=smoothing, tol=1e-12, n_classes=3)(X, y, sample_weight=s)

    X, y = normal(2, 12, 30, seed=3), labels(2, 12, k=3)
    s = uniform(2, 12, low=0, high=1)
    # An absent sample has entries in its face, and none of them moves.
    s[0, 3] = 0
    small = jacrev(machine, argnums=(0, 2))(X, y, s)

    def whole(local, Lambda):
        return dual_face.dual_face(local.part.problem, Lambda, kernel=local.part.kernel)

    def never(*_):
        raise AssertionError("the small systems were asked for")

    monkeypatch.setattr(solver, "_at_once", CertifiedPoint)
    monkeypatch.setattr(conjugate_part.QuadraticLocal, "face", whole)
    monkeypatch.setattr(dual_face.KroneckerFace, "step", never)
    for a, b in zip(small, jacrev(machine, argnums=(0, 2))(X, y, s), strict=True):
        assert relative_error(a, b) <= 1e-8


def test_float32_features_have_the_derivatives_of_float64_ones():
    X, y = normal(3, 20, 60, seed=5).to(torch.float32), labels(3, 20, k=4)
    for l1 in (0.0, 0.02):
        gradients = []
        for features in (X, X.double()):
            features = features.clone().requires_grad_()
            il.MulticlassSVM(0.05, l1)(features, y).square().sum().backward()
            gradients.append(features.grad.double())
        assert relative_error(gradients[0], gradients[1]) <= 1e-4


def test_a_rough_system_is_made_again_where_its_condition_asks_for_more(monkeypatch):
    X, y = normal(2, 12, 40, seed=7).to(torch.float32), labels(2, 12, k=3)
    made = []
    original = dual_face._penalised

    def noted(problem, V, edges, dtype):
        made.append(dtype)
        return original(problem, V, edges, dtype)

    monkeypatch.setattr(dual_face, "_penalised", noted)
    il.MulticlassSVM(0.05, 0.05)(X, y)
    assert set(made) == {torch.float32}
    monkeypatch.setattr(dual_face, "ROUGH_ERROR", 0.0)
    il.MulticlassSVM(0.05, 0.05)(X, y)
    assert torch.float64 in made


def sparse_machines():
    """Nine, of which three need more steps than the others."""
    X, Y = normal(9, 14, 25, seed=2), one_hot(labels(9, 14, k=3), 3)
    X[[1, 4, 5]] *= torch.logspace(-1, 1, 25, dtype=torch.float64)
    ones = torch.ones(9, dtype=torch.float64)
    loss = MulticlassHinge(torch.ones(9, 3, dtype=torch.bool))
    weight = torch.full((9, 14), 1 / 14, dtype=torch.float64)
    return Problem(X, Y, weight, loss, GroupL2(0.1 * ones[:, None]), 0.05 * ones)


def test_what_is_finished_leaves_the_batch_and_comes_back(monkeypatch):
    problem = sparse_machines()
    pick, left = dual_newton._Search.pick, []

    def noted(search, index):
        left.append(index.tolist())
        return pick(search, index)

    monkeypatch.setattr(dual_newton._Search, "pick", noted)
    found = dual_newton.minimise(conjugate_part.conjugate_part(problem), torch.full_like(problem.Y, 1 / 3), 1e-9, 100)
    assert any(len(each) > 1 for each in left)
    theta = problem.Y - found.Lambda
    assert (problem.gap(problem.coef_of(problem.correlation(theta)), theta) <= 1e-9 * problem.null_objective()).all()


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(2, 4), st.integers(2, 12))
def test_an_active_set_ends_alike_with_all_elements_or_without_those_that_are_done(seed, b, k, n):
    A = normal(b, n, 2 * n, seed=seed)
    C = normal(b, k, n, seed=seed + 1) * 3 * n**0.5
    total, allowed = torch.full((b, 1, n), 0.3, dtype=torch.float64), torch.ones(b, k, n, dtype=torch.bool)
    program, start = simplex_qp.Program.of(A @ A.mT, C, total, allowed, allowed), total / k * allowed
    found = []
    for worth in (0, 2**60):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(simplex_qp, "WORTH_PICKING", worth)
            found.append(simplex_qp.minimise(program, start, allowed, 12))
    first, second = found
    assert relative_error(first.feasible, second.feasible) <= 1e-9
    assert torch.equal(first.free, second.free)
    # Optimal: slopes of free entries are equal in every column, and those of others no lower.
    slope = torch.where(first.settled[:, None, None], first.feasible @ program.M + C, 0.0)
    lowest = slope.amin(1, keepdim=True)
    assert ((slope - lowest) * first.feasible).abs().amax() <= 1e-8 * C.abs().amax()


def test_a_step_that_overflows_is_not_taken(monkeypatch):
    """Neither in its element nor in one that is finished, whose Λ stays as it is."""
    problem = sparse_machines()
    step = dual_newton._model_step

    def overflowed(some, *arguments):
        made = step(some, *arguments)
        first = torch.isin(some.problem.X[:, 0, 0], problem.X[:2, 0, 0])[:, None, None]
        return made._replace(newton=torch.where(first, torch.nan, made.newton))

    start = torch.full_like(problem.Y, 1 / 3)
    start[1] = dual_newton.minimise(conjugate_part.conjugate_part(problem), start, 1e-9, 100).Lambda[1]
    monkeypatch.setattr(dual_newton, "_model_step", overflowed)
    found = dual_newton.minimise(conjugate_part.conjugate_part(problem), start, 1e-9, 100)
    assert (found.gap[1:] <= 1e-9).all()
    assert found.gap[0].isfinite()


def test_a_face_without_any_free_entry_is_singular():
    """Where Λ has overflowed nothing is positive; that element is reported, and the others go on."""
    M = torch.eye(4, dtype=torch.float64).expand(1, 4, 4)
    factor = factorise_face(M, torch.zeros(1, 3, 4, dtype=torch.bool))
    assert not factor.regular.any()
    assert factor.inverses.times(torch.ones(1, 3, 4, dtype=torch.float64)).isfinite().all()


@given(st.integers(0, 1000), st.floats(0, 1.5), st.sampled_from([0.0, 0.5]))
def test_the_first_point_is_the_best_on_its_way(seed, share, smoothing):
    problem = sparse_machines()
    X = normal(9, 14, 25, seed=seed)
    ones, mask = torch.ones(9, dtype=torch.float64), torch.ones(9, 3, dtype=torch.bool)
    loss = SmoothedHinge(smoothing * ones, mask) if smoothing else MulticlassHinge(mask)
    competitors = (1 - problem.Y) / 2
    V = X.mT @ (problem.weight[..., None] * (problem.Y - competitors))
    l1 = share * V.norm(dim=-1).amax(-1, keepdim=True)
    part = conjugate_part.conjugate_part(problem._replace(X=X, loss=loss, penalty=GroupL2(l1)))

    def value(Lambda):
        return dual_newton.Reached.of(part, Lambda, part.image(problem.Y - Lambda)).value

    reached = value(hinge_search.first(part).Lambda)
    for t in torch.linspace(0, 1, 21, dtype=torch.float64):
        assert (reached <= value(problem.Y + t * (competitors - problem.Y)) + 1e-6).all()


@pytest.mark.parametrize("noise", [0.0, 1e-2])
def test_a_search_on_drafts_ends_as_exactly(monkeypatch, noise):
    """Products in float32 find the point; where they are too rough exact ones take over."""
    X, y = normal(3, 20, 60, seed=5).to(torch.float32), labels(3, 20, k=4)
    exact = il.MulticlassSVM(0.05, 0.02, tol=1e-12)(X.double(), y)
    monkeypatch.setattr("implicitlayers.solve.WHOLE_UP_TO", 0)
    monkeypatch.setattr(continuation, "minimise", None)  # proximal points are for what is hard
    image, drafts = conjugate_part.PenalisedPart.image, []

    def rough(part, Theta):
        if part.products == torch.float64:
            return image(part, Theta)
        drafts.append(part)
        made = image(part, Theta)
        return made + noise * normal(*made.shape, seed=len(drafts))

    monkeypatch.setattr(conjugate_part.PenalisedPart, "image", rough)
    solution = il.MulticlassSVM(0.05, 0.02).solve(X, y)
    assert drafts
    assert solution.converged.all()
    assert relative_error(solution.coef.double(), exact) <= 1e-5
