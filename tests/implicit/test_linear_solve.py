"""Solves with a constant Jacobian: the right answer, linear in every transform, and never silently wrong."""

import itertools
import warnings

import pytest
import torch
from helpers import arrays, normal, relative_error
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jacfwd, jacrev, jvp, vjp, vmap

import implicitlayers as il
from implicitlayers.implicit.linear_solve import LinearReport, System, invert

implicit = il.implicit
D = 4
EVERY = [implicit.Dense(), implicit.CG(tol=1e-12), implicit.NormalCG(tol=1e-12), implicit.GMRES(tol=1e-12)]
GENERAL = [m for m in EVERY if not isinstance(m, implicit.CG)]


def name(value):
    return getattr(value, "__name__", None) or type(value).__name__


def spd(d=D, seed=0):
    A = normal(d, d + 2, seed=seed)
    return A @ A.mT / d + torch.eye(d, dtype=torch.float64)


def nonsymmetric(d=D, seed=0):
    return normal(d, d, seed=seed) / d**0.5 + 3 * torch.eye(d, dtype=torch.float64)


def matrix_system(symmetric=False):
    """The residual Ax, A the only parameter."""
    return System(lambda x, A: A @ x, symmetric, lambda v, A: v, lambda v: v, lambda A: ((A,), {}))


def solution_map(method, A, on_fail="raise", symmetric=False, report=None):
    report = report or LinearReport(name="test", on_fail=on_fail)
    return method.at(matrix_system(symmetric), torch.zeros_like(A[0]), [A], report)


@given(A=arrays(D, D), b=arrays(D))
def test_general_methods_solve_any_regular_system(A, b):
    A = A + 40 * torch.eye(D, dtype=torch.float64)
    for method in GENERAL:
        assert relative_error(solution_map(method, A)(b), torch.linalg.solve(A, b)) < 1e-9


@given(A=arrays(D, D), b=arrays(D))
def test_conjugate_gradients_solve_positive_definite_systems(A, b):
    A = A @ A.mT + torch.eye(D, dtype=torch.float64)
    method = implicit.CG(tol=1e-9, max_iter=200)
    assert relative_error(A @ solution_map(method, A, symmetric=True)(b), b, floor=1e-300) < 1e-8


@given(A=arrays(D, D), rank=st.integers(0, D))
def test_dense_is_the_pseudo_inverse_at_any_rank(A, rank):
    U, _, Vh = torch.linalg.svd(A)
    A = U[:, :rank] @ torch.diag(torch.linspace(1, 3, rank, dtype=torch.float64)) @ Vh[:rank]
    inverse, relative_residual = invert(A[None])
    assert relative_error(inverse[0], torch.linalg.pinv(A, rtol=1e-9)) < 1e-9
    assert abs(float(relative_residual[0]) - ((D - rank) / D) ** 0.5) < 1e-9


def test_normal_cg_is_the_pseudo_inverse_at_any_rank():
    for rank in range(D + 1):
        A = normal(D, rank, seed=rank) @ normal(rank, D, seed=rank + 9)
        b = normal(D, seed=rank)
        found = solution_map(implicit.NormalCG(tol=1e-12), A, on_fail="ignore")(b)
        assert relative_error(found, torch.linalg.pinv(A, rtol=1e-9) @ b) < 1e-8


def test_a_bad_element_changes_no_other():
    good = torch.stack([nonsymmetric(seed=s) for s in range(3)])
    zero, nan = torch.zeros(1, D, D, dtype=torch.float64), torch.full((1, D, D), torch.nan, dtype=torch.float64)
    inverse, relative_residual = invert(torch.cat([good[:1], zero, good[1:], nan]))
    assert torch.equal(inverse[[0, 2, 3]], invert(good)[0])
    assert (inverse[[1, 4]] == 0).all()
    assert relative_residual[1] == 1
    assert relative_residual[4].isnan()


def test_scale_does_not_decide_about_singularity():
    A = nonsymmetric()
    for scale in (1e-12, 1e12):
        assert relative_error(invert(scale * A[None])[0], invert(A[None])[0] / scale) < 1e-12


def test_float32_rounding_counts_as_singular():
    v = normal(D, dtype=torch.float32)
    A = (torch.outer(v, v) / 3).to(torch.float32)
    inverse, _ = invert(A[None])
    assert relative_error(inverse[0], torch.linalg.pinv(A.to(torch.float64), rtol=1e-4)) < 1e-4


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_the_solve_is_linear_in_every_transform(method):
    A = spd()
    solve, exact = solution_map(method, A), torch.linalg.inv(A)

    def composed(v):
        return solve(v**2 * v.sum())

    def expected(v):
        return exact @ (v**2 * v.sum())

    v = normal(D, seed=1)
    assert relative_error(jvp(solve, (v,), (v,))[1], exact @ v) < 1e-10
    assert relative_error(vjp(solve, v)[1](v)[0], exact.mT @ v) < 1e-10
    for order in (1, 2, 3):
        for transforms in itertools.product((jacrev, jacfwd), repeat=order):
            f, g = composed, expected
            for transform in transforms:
                f, g = transform(f), transform(g)
            assert relative_error(f(v), g(v)) < 1e-9, [t.__name__ for t in transforms]


@pytest.mark.parametrize("method", GENERAL, ids=name)
def test_the_transpose_is_that_of_a_matrix_that_is_not_symmetric(method):
    A, v = nonsymmetric(), normal(D, seed=1)
    solve = solution_map(method, A)
    assert relative_error(vjp(solve, v)[1](v)[0], torch.linalg.solve(A.mT, v)) < 1e-10
    assert relative_error(jacrev(solve)(v), torch.linalg.inv(A)) < 1e-10
    assert relative_error(jacfwd(solve)(v), torch.linalg.inv(A)) < 1e-10


@pytest.mark.parametrize("method", EVERY, ids=name)
@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (2, 1)], ids=str)
def test_vmap_is_a_loop(method, in_dims):
    b = 3
    A = torch.stack([spd(seed=s) for s in range(b)]) if in_dims[0] is not None else spd()
    v = normal(b, D) if in_dims[1] is not None else normal(D)
    given_A = A if in_dims[0] in (0, None) else A.movedim(0, in_dims[0])
    given_v = v if in_dims[1] in (0, None) else v.movedim(0, in_dims[1])

    def both(A, v):
        solve = solution_map(method, A)
        return solve(v), jacrev(solve)(v)

    solved, jacobian = vmap(both, in_dims)(given_A, given_v)
    for i in range(b):
        one = A[i] if in_dims[0] is not None else A
        assert relative_error(solved[i], torch.linalg.solve(one, v[i] if in_dims[1] is not None else v)) < 1e-10
        assert relative_error(jacobian[i], torch.linalg.inv(one)) < 1e-10


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_nested_vmap_is_a_nested_loop(method):
    A, v = torch.stack([spd(seed=s) for s in range(3)]), normal(2, D, 5)

    def over_elements(v):
        return vmap(lambda A, w: solution_map(method, A)(w), (0, None))(A, v)

    solved = vmap(vmap(over_elements, 1), 0)(v)
    expected = torch.einsum("aij,bjc->bcai", torch.linalg.inv(A), v)
    assert relative_error(solved, expected) < 1e-10


def diagonal(v, x, A):
    return v / torch.diagonal(A) * torch.linspace(1, 1.5, len(v))


def triangular(v, x, A):
    return torch.linalg.solve_triangular(torch.triu(A), v[:, None], upper=True)[:, 0]


@pytest.mark.parametrize(
    ("method", "preconditioner"),
    [
        (implicit.CG, diagonal),
        (implicit.NormalCG, diagonal),
        (implicit.NormalCG, triangular),
        (implicit.GMRES, diagonal),
        (implicit.GMRES, triangular),
    ],
    ids=name,
)
def test_a_preconditioner_saves_iterations_and_changes_no_result(method, preconditioner):
    d = 30
    A = torch.diag(torch.logspace(0, 4, d, dtype=torch.float64)) + spd(d) / d
    if method is not implicit.CG:
        A = A + torch.triu(normal(d, d), 1) * 2
    v = normal(d)
    iterations = []
    for M in (None, preconditioner):
        report = LinearReport(name="test", on_fail="ignore")
        solve = solution_map(method(preconditioner=M, max_iter=20000), A, report=report)
        assert relative_error(solve(v), torch.linalg.solve(A, v)) < 1e-7
        assert relative_error(vjp(solve, v)[1](v)[0], torch.linalg.solve(A.mT, v)) < 1e-7
        assert report.relative_residual <= 1e-10
        iterations.append(report.n_iter)
    assert iterations[1] < 0.7 * iterations[0]


@pytest.mark.parametrize("method", [implicit.NormalCG, implicit.GMRES], ids=name)
def test_the_transpose_of_the_preconditioner_serves_the_transpose(method):
    A, v = nonsymmetric(12), normal(12)
    report = LinearReport()
    solve = solution_map(method(preconditioner=lambda v, x, A: torch.linalg.inv(A) @ v), A, report=report)
    assert relative_error(vjp(solve, v)[1](v)[0], torch.linalg.solve(A.mT, v)) < 1e-9
    assert report.n_iter <= 2


@pytest.mark.parametrize("method", [implicit.CG, implicit.NormalCG, implicit.GMRES], ids=name)
def test_a_preconditioner_of_another_size_is_refused(method):
    solve = solution_map(method(preconditioner=lambda v, x, A: v[:-1]), spd())
    with pytest.raises(ValueError, match="preconditioner: given a result of 3 numbers, expected 4, like v"):
        solve(normal(D))


def test_gmres_restarts():
    A, v = nonsymmetric(12), normal(12)
    report = LinearReport()
    found = solution_map(implicit.GMRES(restart=3), A, report=report)(v)
    assert relative_error(found, torch.linalg.solve(A, v)) < 1e-9
    assert 3 < report.n_iter < 120


@pytest.mark.parametrize("method", EVERY[1:], ids=name)
def test_a_right_hand_side_of_zero_costs_nothing(method):
    report = LinearReport()
    assert (solution_map(method, spd(), report=report)(torch.zeros(D, dtype=torch.float64)) == 0).all()
    assert report.n_iter == 0
    assert report.relative_residual == 0


@pytest.mark.parametrize("method", EVERY[1:], ids=name)
def test_nan_in_gives_nan_for_that_element_only(method):
    v = normal(3, D)
    v[1, 0] = torch.nan
    found = vmap(solution_map(method, spd()))(v)
    assert found[1].isnan().all()
    assert relative_error(found[[0, 2]], v[[0, 2]] @ torch.linalg.inv(spd())) < 1e-10


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_systems_without_a_solution_are_reported(method):
    A, v = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)), torch.ones(3, dtype=torch.float64)
    report = LinearReport(name="mine")
    with pytest.warns(il.ConvergenceWarning, match=r"^mine: 1 of 1 linear.*causes: \(a\) J is singular") as caught:
        found = solution_map(method, A, report=report)(v)
    assert f"relative residual {report.relative_residual:.1e}, " in str(caught[0].message)
    assert found.isfinite().all()
    assert 0.5 < report.relative_residual <= 1
    with pytest.raises(il.ConvergenceError, match=r"^test: 1 of 1 linear solves.*causes: \(a\) J is singular"):
        solution_map(method, A, on_fail="raise")(v)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution_map(method, A, on_fail="ignore")(v)


def test_a_matrix_that_is_not_symmetric_is_reported_by_conjugate_gradients():
    A = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    message = r"1 of 1 linear solves .*residual 1\.0e\+00, .*not symmetric .*where CG needs it: NormalCG or Dense serve"
    with pytest.warns(il.ConvergenceWarning, match=message):
        solution_map(implicit.CG(), A, on_fail="warn")(torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("method", [implicit.CG, implicit.NormalCG, implicit.GMRES], ids=lambda m: m.__name__)
def test_too_few_iterations_are_reported(method):
    report = LinearReport(name="mine")
    with pytest.warns(il.ConvergenceWarning, match="^mine: 1 of 1 linear solves.*max_iter is too small") as caught:
        solution_map(method(max_iter=2), spd(20), report=report)(normal(20))
    assert f"relative residual {report.relative_residual:.1e}, tolerance 1.0e-10." in str(caught[0].message)
    assert report.n_iter == 2
    assert 1e-8 < report.relative_residual < 1


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_float32_in_float32_out(method):
    A, v = spd().to(torch.float32), normal(D, dtype=torch.float32)
    method = type(method)()
    found = solution_map(method, A)(v)
    assert found.dtype == torch.float32
    assert relative_error(found, torch.linalg.solve(A, v)) < 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: implicit.Dense(tol=-1.0), "tol: given -1.0, expected a number > 0"),
        (lambda: implicit.CG(tol=0), "tol: given 0, expected a number > 0"),
        (lambda: implicit.NormalCG(max_iter=0), "max_iter: given 0, expected an integer ≥ 1"),
        (lambda: implicit.GMRES(restart=1.5), "restart: given 1.5, expected an integer ≥ 1"),
        (lambda: implicit.GMRES(preconditioner=3), "preconditioner: given int, expected a function"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
