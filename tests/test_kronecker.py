"""Systems of M ⊗ I on a face, and what is made of them: the hinge without a penalty."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error
from hypothesis import given
from torch.func import jacrev

import implicitlayers as il
from implicitlayers import dual_face, kronecker
from implicitlayers.hinges import MulticlassHinge
from implicitlayers.kronecker import factorise_face
from implicitlayers.penalties import GroupL2
from implicitlayers.problem import Problem
from implicitlayers.solvers import conjugate_part, dual_newton
from implicitlayers.solvers import hinge as solver


def face(seed, b, k, n, share):
    """M, and free entries of which every column has one."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(b, n, 2 * n, generator=generator, dtype=torch.float64)
    free = torch.rand(b, k, n, generator=generator) < share
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


# The shares make every branch: all free, nearly all (an inverse less what is not), few (packed), and between.
@given(
    st.integers(0, 1000), st.integers(1, 3), st.integers(2, 4), st.integers(1, 9), st.sampled_from([0.2, 0.7, 0.95, 1])
)
def test_a_face_is_solved_as_by_one_large_system(seed, b, k, n, share):
    M, free = face(seed, b, k, n, share)
    C, total = torch.randn(b, k, n, dtype=torch.float64), torch.rand(b, 1, n, dtype=torch.float64)
    factor = factorise_face(M, free)
    found, _ = factor.solve(C, total)
    for i in range(b):
        expected = dense_solution(M[i], free[i], C[i], total[i, 0])
        assert relative_error(found[i], expected) <= 1e-7
    assert factor.regular.all()


def test_a_singular_face_is_told():
    M, free = face(0, 2, 3, 6, 1.0)
    M[1, :, 0] = M[1, :, 1]
    M[1, 0, :] = M[1, 1, :]
    assert factorise_face(M, free).regular.tolist() == [True, False]


def test_downdated_and_packed_inverses_agree(monkeypatch):
    M, free = face(1, 2, 3, 12, 0.7)
    assert free.sum(-1).amax() < 12
    found = []
    for pack, downdate in ((0.0, 0.0), (0.99, 0.0), (0.0, 1.1)):
        monkeypatch.setattr(kronecker, "PACK_BELOW", pack)
        monkeypatch.setattr(kronecker, "DOWNDATE_BELOW", downdate)
        found.append(factorise_face(M, free).inverse)
    assert relative_error(found[1], found[0]) <= 1e-10
    assert relative_error(found[2], found[0]) <= 1e-10


@given(st.integers(0, 1000), st.integers(1, 12))
def test_blocks_are_padded_up_to_the_whole(seed, size):
    M, free = face(seed, 2, 3, 12, 0.3)
    C = torch.randn(2, 3, 12, dtype=torch.float64)
    factor = factorise_face(M, free)
    larger = factor.resized(max(size, factor.samples.shape[-1]))
    assert larger.blocks.shape[-1] == larger.samples.shape[-1] == max(size, factor.samples.shape[-1])
    assert relative_error(larger.solve(C)[0], factor.solve(C)[0]) <= 1e-12
    assert relative_error(larger.inverse, factor.inverse) <= 1e-12


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_small_systems_and_the_whole_have_the_same_derivatives(monkeypatch, smoothing):
    def machine(X, y, s):
        return il.MulticlassSVM(0.05, smoothing=smoothing, tol=1e-12, n_classes=3)(X, y, sample_weight=s)

    X, y = normal(2, 12, 30, seed=3), labels(2, 12, k=3)
    s = torch.rand(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # An absent sample has entries in its face, and none of them moves.
    s[0, 3] = 0
    small = jacrev(machine, argnums=(0, 2))(X, y, s)

    def whole(local, Lambda):
        return dual_face.dual_face(local.part.problem, Lambda, kernel=local.part.kernel)

    def never(*_):
        raise AssertionError("the small systems were asked for")

    monkeypatch.setattr(solver, "_at_once", lambda *_: None)
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
    assert factor.inverse.isfinite().all()
