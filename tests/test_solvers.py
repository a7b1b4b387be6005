"""Which algorithm solves a problem: read, overridden, and refused; whichever it is, the solution is the same."""

import hypothesis.strategies as st
import pytest
from helpers import normal, relative_error
from hypothesis import given

import implicitlayers as il

LASSOS = [il.Lasso, il.GroupLasso]


def solved(layer, X, Y, solver):
    strength = il.Relative(0.2) if issubclass(layer, tuple(LASSOS)) else 0.1
    return layer(strength, solver=solver, tol=1e-12).solve(X, Y)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 1000))
def test_ridge_in_the_smaller_system_and_in_the_other(n, m, seed):
    X, Y = normal(3, n, m, seed=seed), normal(3, n, 2, seed=seed + 1)
    automatic = il.Ridge(0.1).solve(X, Y)
    assert automatic.solver == ("primal" if m <= n else "dual")
    for name in ("primal", "dual"):
        found = solved(il.Ridge, X, Y, name)
        assert found.solver == name
        assert relative_error(found.coef, automatic.coef) <= 1e-10


@pytest.mark.parametrize("layer", LASSOS)
@given(st.integers(5, 30), st.integers(5, 200), st.integers(0, 1000))
def test_a_working_set_finds_what_all_features_give(layer, n, m, seed):
    X, Y = normal(2, n, m, seed=seed), normal(2, n, 3, seed=seed + 1)
    few, all_ = (solved(layer, X, Y, name) for name in ("working_set", "proximal_point"))
    assert (few.solver, all_.solver) == ("working_set", "proximal_point")
    assert few.converged.all()
    assert all_.converged.all()
    assert relative_error(few.coef, all_.coef) <= 1e-6


@pytest.mark.parametrize(
    ("layer", "n", "m", "k"), [(il.GroupLasso, 12, 400, 5), (il.GroupLasso, 20, 1000, 3), (il.Lasso, 20, 2000, 1)]
)
def test_small_strengths_converge_within_the_steps_there_are(layer, n, m, k):
    """With few samples and l1 far below l1_max nearly all samples are fitted, and no ridge helps."""
    solution = layer(il.Relative(0.005)).solve(normal(4, n, m), normal(4, n, k, seed=1))
    assert solution.converged.all()
    assert (solution.n_iter < 70).all()


@pytest.mark.parametrize(("m", "expected"), [(20, "proximal_point"), (400, "working_set")])
def test_working_sets_are_for_many_features(m, expected):
    X, Y = normal(10, m), normal(10, 1, seed=1)
    assert il.Lasso(il.Relative(0.3)).solve(X, Y).solver == expected


@pytest.mark.parametrize("layer", [il.LogisticRegression, il.SparseGroupLasso, il.HuberRegression])
def test_working_sets_serve_every_penalty_that_selects(layer):
    X, Y = normal(20, 300), normal(20, 2, seed=1)
    Y = Y.argmax(-1) if layer is il.LogisticRegression else Y
    arguments = (
        {"group_l1": 0.1, "groups": [list(range(i, i + 6)) for i in range(0, 300, 6)]}
        if layer is il.SparseGroupLasso
        else {"l2": 0.01}
    )
    results = [
        layer(l1=0.05, fit_intercept=True, tol=1e-12, solver=name, **arguments).solve(X, Y)
        for name in ("working_set", "proximal_point")
    ]
    assert all(result.converged for result in results)
    assert 0 < results[0].support.sum() < 300
    assert relative_error(results[0].coef, results[1].coef) <= 1e-6
    assert relative_error(results[0].intercept, results[1].intercept) <= 1e-6


def test_derivatives_do_not_depend_on_the_solver():
    X, Y = normal(10, 100), normal(10, 2, seed=1)
    gradients = []
    for name in ("working_set", "proximal_point"):
        leaf = X.clone().requires_grad_()
        il.GroupLasso(il.Relative(0.3), solver=name, tol=1e-13)(leaf, Y).square().sum().backward()
        gradients.append(leaf.grad)
    assert relative_error(*gradients) <= 1e-6


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (il.Ridge(0.1, solver="dual_newton"), "'primal' or 'dual' for this Ridge"),
        (il.Lasso(0.1, solver="dual"), "'proximal_point' or 'working_set' for this Lasso"),
        (il.MulticlassSVM(0.1, solver="primal"), "'dual_newton' for this MulticlassSVM"),
    ],
)
def test_a_solver_that_does_not_fit_is_an_error(layer, expected):
    X, Y = normal(12, 3), normal(12, 2, seed=1)
    with pytest.raises(ValueError, match=f"solver: given '.*', expected {expected}, or None for the first"):
        layer.solve(X, Y.argmax(-1) if isinstance(layer, il.MulticlassSVM) else Y)
