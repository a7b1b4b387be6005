"""Feasibility is part of the certificate, and a start is only a start: the answer does not depend on it."""

import pytest
import torch
from helpers import arrays, labels, normal, relative_error
from hypothesis import given
from hypothesis import strategies as st
from test_all_layers import CASES, HINGES, rows, variants

import implicitlayers as il
from implicitlayers.constraints import Box, ColumnSimplex
from implicitlayers.losses import Squared
from implicitlayers.problem import Problem

EYE = torch.eye(2, dtype=torch.float64)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def column(*values):
    return numbers(*values)[:, None]


def box(lower, upper):
    return Box(*(torch.tensor(x, dtype=torch.float64) for x in (lower, upper, 0.0)))


def simplex(total):
    return ColumnSimplex(torch.tensor(total, dtype=torch.float64), torch.ones(4, dtype=torch.bool))


CONSTRAINTS = {
    "box": box(-0.3, 0.7),
    "nonnegative": box(0.0, torch.inf),
    "small_box": box(-1e-9, 3e-9),
    "simplex": simplex(1.0),
    "small_simplex": simplex(1e-6),
    "large_simplex": simplex(1e6),
}
constraints = pytest.mark.parametrize("penalty", CONSTRAINTS.values(), ids=CONSTRAINTS)


def gap(penalty, W, precision=torch.float64):
    X, Y = normal(5, 4), normal(5, W.shape[-1], seed=1)
    weight = torch.full((5,), 0.2, dtype=torch.float64)
    problem = Problem(X, Y, weight, Squared(), penalty, torch.tensor(0.1, dtype=torch.float64))
    return problem.gap(W, Y - X @ W, precision=precision)


@constraints
@given(arrays(4, 3))
def test_what_prox_returns_is_feasible_and_what_lies_beside_it_is_not(penalty, V):
    """In float64, and once rounded to any other dtype, up to the rounding of that."""
    W = penalty.prox(V, torch.tensor(1.0, dtype=torch.float64))
    assert torch.isfinite(gap(penalty, W))
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.isfinite(gap(penalty, W.to(dtype).to(torch.float64), dtype))
    size = float(penalty.total) if isinstance(penalty, ColumnSimplex) else float(-penalty.lower or 1.0)
    for entry in (0, 7, 11):
        outside = W.clone().flatten()
        outside[entry] = -1.01 * size if isinstance(penalty, Box) else outside[entry] + 0.01 * size
        outside = outside.reshape(W.shape)
        assert gap(penalty, outside) == gap(penalty, outside, torch.bfloat16) == torch.inf


@constraints
@given(arrays(4, 3), st.integers(-60, 60))
def test_violation_is_relative(penalty, V, exponent):
    """The same in any units: V and the constraint times a power of two."""
    scale = 2.0**exponent
    bounds = {name: getattr(penalty, name) * scale for name in ("lower", "upper", "total") if hasattr(penalty, name)}
    given_, scaled = penalty.violation(V), penalty._replace(**bounds).violation(scale * V)
    torch.testing.assert_close(scaled, given_, rtol=1e-12, atol=0)


def test_a_start_outside_the_box_is_not_the_answer():
    """Case 13: the solution for bounds of ±1 as the start for bounds of ±0.1 came back as it was, with gap 0."""
    Y = column(1, -1)
    wide = il.BoxRegression(-1.0, 1.0).solve(EYE, Y)
    solution = il.BoxRegression(-0.1, 0.1).solve(EYE, Y, init=wide)
    torch.testing.assert_close(solution.coef, column(0.1, -0.1), rtol=0, atol=0)
    assert solution.status == 0


def test_nothing_to_fit_but_a_constraint_to_meet():
    """Case 14: with targets of zero W = 0 has no loss, but is not allowed; min ½(w₁² + 4w₂²) has w = (.8, .2)."""
    X = torch.diag(numbers(1, 2))
    solution = il.SimplexRegression(1.0).solve(X, column(0, 0))
    torch.testing.assert_close(solution.coef, column(0.8, 0.2), rtol=1e-12, atol=0)
    assert solution.status == 0
    # Centred columns are (½, −½) and (−1, 1): 1½ w₂ = ½, or XW would not vanish.
    solution = il.SimplexRegression(1.0, fit_intercept=True).solve(X, column(3.3, 3.3))
    torch.testing.assert_close(solution.coef, column(2 / 3, 1 / 3), rtol=1e-12, atol=0)
    torch.testing.assert_close(solution.intercept, numbers(3.3 - 2 / 3), rtol=1e-12, atol=0)
    assert solution.converged


@pytest.mark.parametrize("exponent", [-60, -20, 20, 60])
@pytest.mark.parametrize("share", [0.0, 1e-9])
def test_what_is_optimal_on_the_simplex_does_not_depend_on_the_units_of_features(exponent, share):
    """Nor is it hidden by targets that are much smaller than what the constraint makes of the features."""
    X, Y = normal(8, 5), share * normal(8, 2, seed=1)
    expected, scale = il.SimplexRegression(1.0, tol=1e-13)(X, Y), 2.0**exponent
    solution = il.SimplexRegression(1.0).solve(scale * X, scale * Y)
    assert solution.converged
    assert relative_error(solution.coef, expected) <= 1e-6


def test_targets_out_of_reach():
    """Case 22: beside 1e16 the sum of the simplex was rounded away, and a small relative gap is no reason to stop."""
    Y = column(1e16, 0)
    assert (il.SimplexRegression(1.0)(EYE, Y) == column(1, 0)).all()
    assert (il.SimplexRegression(1.0)(EYE, -Y) == column(0, 1)).all()
    assert (il.BoxRegression(-0.1, 0.2)(EYE, Y)[0] == 0.2).all()
    assert (il.BoxRegression(-0.1, 0.2)(EYE, -Y)[0] == -0.1).all()


@variants
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_the_answer_does_not_depend_on_the_start(case, fit_intercept, size):
    """Case 13 for all layers: any numbers as coefficients and dual point of a start."""
    arguments = case.arguments(2, seed=4)
    expected = case.solve(arguments, fit_intercept=fit_intercept)
    coef, dual = size * normal(*expected.coef.shape, seed=5), size * normal(*expected.dual.shape, seed=6)
    intercept = size * normal(*expected.intercept.shape, seed=7) if fit_intercept else None
    start = il.Solution(**{**vars(expected), "coef": coef, "dual": dual, "intercept": intercept})
    strengths = {name: arguments[name] for name in case.strengths}
    layer = case.make(**strengths, tol=1e-12, on_fail="raise", fit_intercept=fit_intercept)
    solution = layer.solve(arguments["X"], arguments["Y"], sample_weight=arguments["sample_weight"], init=start)
    assert relative_error(rows(solution), rows(expected)) <= 1e-6


REGRESSIONS = [name for name, case in CASES.items() if not case.classes and name != "simplex"]


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0])
def test_nothing_to_learn_from_any_start(name, size):
    """With targets of zero W = 0, not a start whose objective is a small number."""
    case = CASES[name]
    arguments = case.arguments(2, seed=4)
    arguments["Y"] = torch.zeros_like(arguments["Y"])
    strengths = {name: arguments[name] for name in case.strengths}
    layer = case.make(**strengths, on_fail="raise")
    start = layer.solve(arguments["X"], arguments["Y"])
    start = il.Solution(**{**vars(start), "coef": size * normal(*start.coef.shape, seed=5)})
    assert (layer(arguments["X"], arguments["Y"], init=start) == 0).all()


@variants
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_from_its_own_solution_a_layer_is_there(case, fit_intercept, dtype):
    """Case 24: at most two steps, below float32 no more than from nothing."""
    arguments = case.arguments(10, seed=11)
    arguments["X"] = arguments["X"].to(dtype)
    strengths = {name: arguments[name] for name in case.strengths}
    layer = case.make(**strengths, on_fail="raise", fit_intercept=fit_intercept)
    data = {key: arguments[key] for key in ("X", "Y", "sample_weight")}
    cold = layer.solve(**data)
    warm = layer.solve(**data, init=cold)
    assert (warm.n_iter <= cold.n_iter).all()
    if dtype != torch.bfloat16:
        assert (warm.n_iter <= 2).all()
    assert relative_error(rows(warm).double(), rows(cold).double()) <= 8 * max(torch.finfo(dtype).eps, 1e-9)


HINGE_LAYERS = {
    "binary": lambda: il.BinarySVM(0.1, 0.05),
    "binary_smooth": lambda: il.BinarySVM(0.1, 0.05, 0.3),
    "multiclass": lambda: il.MulticlassSVM(0.1, 0.05, n_classes=2),
}


@pytest.mark.parametrize("make", HINGE_LAYERS.values(), ids=HINGE_LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_start_is_in_the_encoding_of_its_layer(make, dtype):
    """Case 24: one score per sample for `BinarySVM`, two inside; its own solution cost 14 steps, nothing 12."""
    X, y = normal(40, 60, dtype=dtype), labels(40, k=2)
    cold = make().solve(X, y)
    assert cold.n_iter > 2
    assert make().solve(X, y, init=cold).n_iter == 0
    strengths = numbers(0.1, 0.1, 0.1)
    path = make().path(X, y, strengths)
    assert (path.n_iter[1:] == 0).all()


@pytest.mark.parametrize("name", ["logistic", *HINGES[:3]])
def test_from_its_own_solution_with_masked_classes(name):
    """Case 24 with a class mask."""
    case = CASES[name]
    arguments = case.arguments(5, seed=12)
    mask = torch.tensor([True, False, True])
    y = 2 * (arguments["Y"].argmax(-1) == 2)
    layer = case.make(**{key: arguments[key] for key in case.strengths}, n_classes=3, on_fail="raise")
    cold = layer.solve(arguments["X"], y, class_mask=mask)
    warm = layer.solve(arguments["X"], y, class_mask=mask, init=cold)
    assert (warm.n_iter <= torch.minimum(cold.n_iter, torch.tensor(1))).all()
    assert relative_error(warm.coef, cold.coef) <= 1e-9
