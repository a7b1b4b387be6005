"""Numbers at the ends of what a dtype holds, differences that are rounding, and elements that must not harm others."""

import pytest
import torch
from helpers import labels, normal, relative_error, uniform
from hypothesis import given
from hypothesis import strategies as st
from test_all_layers import CASES, rows, variants

import implicitlayers as il

# How strengths follow features in other units, and, of regressions, targets in other units.
WITH_X = {"l2": 2, "l1": 1, "group_l1": 1, "lower": -1, "upper": -1, "total": -1}
WITH_Y = ("l1", "group_l1", "lower", "upper", "total", "delta")


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def column(*values):
    return numbers(*values)[:, None]


def default(case, arguments, fit_intercept):
    """The solution at the default tolerance, failures included."""
    return case.solve(arguments, tol=None, on_fail="ignore", fit_intercept=fit_intercept)


# Rounding is not a feature


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [(torch.float64, 0.0), (torch.float64, 1e6), (torch.float64, 1e8), (torch.float32, 0.0), (torch.float32, 1e6)],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_column_is_zero_once_centred(dtype, offset, weighted):
    """Case 19: least squares of what rounding leaves of a constant gave it a coefficient of 59, a gradient of 5e32."""
    X = torch.stack([torch.full((5,), 0.1), torch.arange(1.0, 6)], -1).to(torch.float64) + offset
    X = X.to(dtype).requires_grad_()
    Y = column(2.1, 2.9, 3.9, 5.1, 7.1)
    weight = torch.ones(5, dtype=torch.float64)
    if weighted:
        # An absent sample may be anywhere.
        X = torch.cat([X, normal(1, 2).to(dtype)])
        Y, weight = torch.cat([Y, column(9)]), torch.cat([3 * weight, numbers(0)])
    W, b = il.Ridge(0.0, fit_intercept=True)(X, Y, sample_weight=weight)
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(W.double(), column(0, 1.22), rtol=rounding, atol=0)
    torch.testing.assert_close(
        b.double(), numbers(0.56 - 1.22 * offset), rtol=rounding, atol=1e-9 * (1 + offset) * 1e-6
    )
    (gradient,) = torch.autograd.grad(W.sum() + b.sum(), X)
    assert gradient.abs().max() <= 10 * (1 + offset)


@given(st.floats(-1e9, 1e9, allow_subnormal=False), st.integers(2, 40), st.integers(0, 3))
def test_a_column_that_is_constant_but_for_its_last_digit_has_no_coefficient(value, n, seed):
    """With samples a rounding apart, as when they were computed in different ways; and targets likewise."""
    last = 1 + torch.finfo(torch.float64).eps * torch.randint(-2, 3, (n, 1)).to(torch.float64)
    X = torch.cat([value * last, normal(n, 1, seed=seed)], -1)
    W, _ = il.Ridge(0.0, fit_intercept=True)(X, normal(n, 1, seed=seed + 10))
    assert W[0] == 0
    solution = il.Ridge(0.0, fit_intercept=True).solve(normal(n, 3, seed=seed), value * last)
    assert (solution.coef == 0).all()
    torch.testing.assert_close(solution.intercept, numbers(value), rtol=1e-14, atol=0)


SQUARED = [name for name, case in CASES.items() if not case.classes and "huber" not in name and name != "simplex"]


@pytest.mark.parametrize("name", SQUARED)
def test_constant_columns_and_targets_in_all_layers_with_the_squared_loss(name):
    """Case 19: coefficients of zero, right derivatives elsewhere."""
    case = CASES[name]
    arguments = case.arguments(seed=3)
    arguments["X"][:, -1] = 0.1
    solution = default(case, arguments, fit_intercept=True)
    assert (solution.coef[-1] == 0).all()
    assert solution.converged
    arguments["Y"] = torch.full_like(arguments["Y"], 0.7)
    solution = default(case, arguments, fit_intercept=True)
    assert (solution.coef == 0).all()
    torch.testing.assert_close(solution.intercept, torch.full_like(solution.intercept, 0.7), rtol=1e-15, atol=0)


def test_an_unpenalised_group_of_a_constant_column():
    """Case 19: nothing but the ridge, or nothing at all, holds its coefficient."""
    X, Y = normal(12, 4), normal(12, 2, seed=1)
    X[:, 0] = 0.1
    for l2 in (0.0, 0.1):
        layer = il.GroupLasso(0.05, l2, group_weights=numbers(0, 1, 1, 1), fit_intercept=True, on_fail="ignore")
        assert (layer(X, Y)[0][0] == 0).all()


def test_derivatives_in_a_constant_column():
    """Those of the difference from the mean, although that is rounding: by finite differences, with a ridge."""
    X, Y = normal(8, 3), normal(8, 1, seed=1)
    X[:, 0] = 0.1
    C = normal(8, 3, seed=2)

    def at(t):
        W, b = il.Ridge(0.1, fit_intercept=True)(X + t * C, Y)
        return torch.cat([W, b[:, None]])

    given_ = torch.func.jacfwd(at)(numbers(0)[0])
    expected = (at(1e-5) - at(-1e-5)) / 2e-5
    assert relative_error(given_, expected) <= 1e-8
    second = torch.func.jacfwd(torch.func.jacrev(at))(numbers(0)[0])
    assert relative_error(second, (at(1e-4) - 2 * at(0) + at(-1e-4)) / 1e-8) <= 1e-6


def test_features_in_units_far_apart_beside_dependent_ones():
    """What a pseudo-inverse leaves out for its size is not certified."""
    a, b, Y = normal(10, 1), normal(10, 1, seed=1), normal(10, 1, seed=2)
    for unit in (1.0, 1e4, 1e9):
        X = torch.cat([unit * a, b / unit, unit * a], -1)
        solution = il.Ridge(0.0, on_fail="ignore").solve(X, Y)
        best = torch.linalg.lstsq(torch.cat([a, b], -1), Y).solution
        residual = (Y - X @ solution.coef).square().sum() - (Y - torch.cat([a, b], -1) @ best).square().sum()
        assert not solution.converged or residual <= 1e-9 * Y.square().sum()


# One element and its neighbours


@variants
@pytest.mark.parametrize("value", [torch.inf, 1e160])
def test_what_overflows_in_an_element_is_its_own_affair(case, fit_intercept, value):
    """Cases 20 and 22: the others as alone; its coefficients are NaN."""
    arguments = case.arguments(3, seed=5)
    spoilt = arguments["X"].clone()
    spoilt[1, 2, 1] = value
    expected = default(case, arguments, fit_intercept)
    solution = default(case, {**arguments, "X": spoilt}, fit_intercept)
    assert solution.status[1] == il.Status.NOT_FINITE
    assert rows(solution)[1].isnan().all()
    for i in (0, 2):
        assert relative_error(rows(solution)[i], rows(expected)[i]) <= 1e-10
        assert solution.status[i] == expected.status[i]


@variants
@pytest.mark.parametrize("where", ["X", "Y"])
def test_derivatives_beside_an_element_with_nan(case, fit_intercept, where):
    """Case 20: a loss on the others' coefficients and intercepts, and one on all, ignoring what is NaN."""
    if where == "Y" and case.classes:
        where = "X"
    arguments = case.arguments(3, seed=5)
    strengths = [name for name in case.moving if name not in ("X", "Y", "sample_weight")]
    shared = {name: arguments[name][0] for name in strengths}
    spoilt = arguments[where].clone()
    spoilt[1, 2, 0] = torch.nan
    C = normal(*rows(default(case, arguments, fit_intercept)).shape, seed=6)

    def loss(X, weight, *values, only):
        moved = {**arguments, where: spoilt, "X": X, "sample_weight": weight}
        if where == "X":
            moved["X"] = torch.where(spoilt.isnan(), torch.nan, X)
        moved |= {name: value.expand(arguments[name].shape) for name, value in zip(strengths, values, strict=True)}
        found = C * rows(default(case, moved, fit_intercept)).tanh()
        return (found[::2] if only else torch.where(found.isnan(), 0.0, found)).sum()

    given_ = (arguments["X"], arguments["sample_weight"], *shared.values())
    everything = tuple(range(len(given_)))
    for only in (True, False):

        def value(*a, only=only):
            return loss(*a, only=only)

        gradients = torch.func.grad(value, everything)(*given_)
        assert all(g.isfinite().all() for g in gradients)
        assert (gradients[0][1] == 0).all()
        assert (gradients[1][1] == 0).all()
        tangents = tuple(normal(*a.shape, seed=7) for a in given_)
        _, forward = torch.func.jvp(value, given_, tangents)
        along = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
        torch.testing.assert_close(forward, along, rtol=1e-7, atol=1e-9)

        def directional(*a, value=value, tangents=tangents):
            return torch.func.jvp(value, a, tangents)[1]

        second = torch.func.grad(directional, everything)(*given_)
        assert all(g.isfinite().all() for g in second)
        assert (second[0][1] == 0).all()


def test_a_gradient_of_nan_goes_no_further_than_its_element():
    """Whoever squares NaN coefficients sends back NaN; shared strengths get what the others ask for."""
    X = normal(2, 6, 3)
    X[0, 1, 1] = torch.nan
    l2 = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    W, b = il.Ridge(l2, fit_intercept=True, on_fail="ignore")(X, normal(2, 6, 1, seed=1))
    (W.square().sum() + b.square().sum()).backward()
    (alone,) = torch.autograd.grad(
        sum(t.square().sum() for t in il.Ridge(l2, fit_intercept=True)(X[1], normal(2, 6, 1, seed=1)[1])), l2
    )
    torch.testing.assert_close(l2.grad, alone, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["lasso", "logistic", "sparse_svm", "huber_l1"])
def test_relative_strengths_beside_an_element_with_nan(name):
    """Case 20: l1_max of one element is no other's, in value and derivative."""
    case = CASES[name]
    arguments = case.arguments(2, seed=5)
    X = arguments["X"].clone()
    X[0, 1, 1] = torch.nan
    X.requires_grad_()
    layer = case.make(
        **{**{k: v[1] for k, v in arguments.items() if k in case.strengths}, "l1": il.Relative(0.3, True)}
    )
    layer.options = layer.options._replace(on_fail="ignore")
    W = layer(X, arguments["Y"], sample_weight=arguments["sample_weight"])
    W[1].sum().backward()
    assert (X.grad[0] == 0).all()
    assert X.grad[1].isfinite().all()
    assert (X.grad[1] != 0).any()


# The ends of the range


def test_weights_whose_sum_overflows():
    """Case 22: (1e308, 1e308) are the same as (1, 1)."""
    X, Y = torch.diag(numbers(1, 2)), column(1, 2)
    solution = il.Ridge(0.1).solve(X, Y, sample_weight=numbers(1e308, 1e308))
    torch.testing.assert_close(solution.coef, column(0.5 / 0.6, 2 / 2.1), rtol=1e-14, atol=0)


@variants
@pytest.mark.parametrize("factor", [1.7e308, 5e-324])
def test_a_factor_of_all_weights_changes_nothing(case, fit_intercept, factor):
    """Case 22; and beside such weights those of 1e-308 of them are as good as none."""
    arguments = case.arguments(2, seed=6)
    weight = torch.ones_like(arguments["sample_weight"])
    weight[..., ::3] = 0
    expected = default(case, {**arguments, "sample_weight": weight}, fit_intercept)
    solution = default(case, {**arguments, "sample_weight": weight * factor}, fit_intercept)
    assert relative_error(rows(solution), rows(expected)) <= 1e-12
    assert (solution.status == expected.status).all()


@variants
@pytest.mark.parametrize("exponent", [-530, -300, 500])
def test_no_scale_of_features_is_silently_wrong(case, fit_intercept, exponent):
    """Case 22: in units of a power of two, W is the same in the inverse units, or not converged."""
    arguments = case.arguments(2, seed=6)
    expected, scale = default(case, arguments, fit_intercept), torch.ldexp(numbers(1)[0], torch.tensor(exponent))
    scaled = {name: arguments[name] * scale**power for name, power in WITH_X.items() if name in arguments}
    solution = default(case, {**arguments, **scaled, "X": arguments["X"] * scale}, fit_intercept)
    silent = solution.converged
    assert relative_error((solution.coef * scale)[silent], expected.coef[silent]) <= 1e-6


@variants
@pytest.mark.parametrize("exponent", [-1000, -600, 600])
def test_no_scale_of_targets_is_silently_wrong(case, fit_intercept, exponent):
    """Case 22: W goes with Y, or has not converged."""
    if case.classes:
        # Nothing but their units, and those of features are above.
        assert "delta" not in case.strengths
        return
    arguments = case.arguments(2, seed=6)
    expected, scale = default(case, arguments, fit_intercept), torch.ldexp(numbers(1)[0], torch.tensor(exponent))
    scaled = {name: arguments[name] * scale for name in WITH_Y if name in arguments}
    solution = default(case, {**arguments, **scaled, "Y": arguments["Y"] * scale}, fit_intercept)
    silent = solution.converged
    assert relative_error((solution.coef / scale)[silent], expected.coef[silent]) <= 1e-6


@variants
def test_strengths_at_the_ends_of_the_range(case, fit_intercept):
    """Case 22: beyond any scale there is nothing left; below any, what there is at none, or not converged."""
    arguments = case.arguments(2, seed=6)
    for name in {"l1", "l2", "group_l1"} & set(case.strengths):
        for size in (1e100, 1e155, 1e300):
            solution = default(case, {**arguments, name: torch.full_like(arguments[name], size)}, fit_intercept)
            # On the simplex the shortest coefficients are equal ones.
            centred = solution.coef - (solution.coef.mean(-2, keepdim=True) if "total" in case.strengths else 0.0)
            assert (centred.abs() <= 1e-15).all()
            assert solution.converged.all()
        least = default(case, {**arguments, name: torch.full_like(arguments[name], 1e-14)}, fit_intercept)
        for size in (1e-300, 5e-324):
            solution = default(case, {**arguments, name: torch.full_like(arguments[name], size)}, fit_intercept)
            both = solution.converged & least.converged
            # Targets are of the size of one.
            assert ((solution.objective - least.objective).abs()[both] <= 1e-6).all()


def test_an_intercept_that_leaves_nothing():
    """Case 22: P(0) with the best intercept is no scale where that fits all; 0 was near enough to 1e-5."""
    for value in (1e-5, 1e-3, 1.0, 1e5):
        layer = il.HuberRegression(l1=0.1, fit_intercept=True)
        solution = layer.solve(normal(6, 3), torch.full((6, 1), value, dtype=torch.float64))
        assert (solution.coef == 0).all()
        assert solution.converged
        torch.testing.assert_close(solution.intercept, numbers(value), rtol=1e-9, atol=0)


# Tolerances that a dtype can reach


@variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_layer_is_flagged_for_the_rounding_of_its_coefficients(case, fit_intercept, dtype):
    """Case 23; and what is certified are the coefficients of float64, rounded."""
    arguments = case.arguments(50, seed=11)
    arguments["X"] = arguments["X"].to(dtype)
    solution = default(case, arguments, fit_intercept)
    assert solution.converged.all()
    exact = default(case, {**arguments, "X": arguments["X"].double()}, fit_intercept)
    assert relative_error(rows(solution).double(), rows(exact)) <= 2 * max(torch.finfo(dtype).eps, 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alike", [False, True])
def test_no_support_vector_machine_is_flagged_for_rounding(dtype, alike):
    """Case 23: 50 of 50 were, because a margin moves with the coefficients and not with their square."""
    X = normal(50, 30, 20)
    # As behind a ReLU: all features positive, and with a common direction.
    X = 0.3 * X.abs() + uniform(50, 1, 20, low=0.0, high=1.0) if alike else X
    for l1 in (0.0, 0.05):
        solution = il.MulticlassSVM(0.01, l1, on_fail="raise").solve(X.to(dtype), labels(50, 30, k=3))
        assert (solution.status & il.Status.ITERATION_LIMIT == 0).all()
        assert (solution.gap <= 8 * torch.finfo(dtype).eps).all()
