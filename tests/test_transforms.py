"""Transforms of `torch.func` in every nesting: `jvp` over `vmap` raised "Batching rule not implemented" (case 15)."""

import itertools

import pytest
import torch
from helpers import labels, normal, relative_error, uniform
from test_all_layers import CASES, variants
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import implicitlayers as il

# What makes a function of a number into its derivative.
DERIVATIVES = {
    "jacrev": jacrev,
    "jacfwd": jacfwd,
    "grad": grad,
    "jvp": lambda f: lambda p: jvp(f, (p,), (torch.ones_like(p),))[1],
}
NESTED = [*itertools.product(["jacrev", "jacfwd"], repeat=2), ("jvp", "grad")]
ZERO = torch.zeros((), dtype=torch.float64)


def lines(case, fit_intercept, size=2):
    """Per element of a batch, a number p ↦ a linear function of the solution at arguments moved by p."""
    arguments = case.arguments(size)
    directions = {name: normal(*a.shape, seed=i) * a.abs().mean() / 4 for i, (name, a) in enumerate(arguments.items())}
    fixed = {name: a for name, a in arguments.items() if name not in case.moving}
    moving = {name: (arguments[name], directions[name]) for name in case.moving}
    C = normal(case.m + 1, 1 if case.make is il.BinarySVM else case.k, seed=9)

    def at(p, fixed, moving):
        moved = {name: a + p * d for name, (a, d) in moving.items()}
        W = case.coefficients({**fixed, **moved}, fit_intercept=fit_intercept)
        return (W * C[: len(W)]).sum()

    return at, fixed, moving


def element(tree, i):
    return torch.utils._pytree.tree_map(lambda t: t[i], tree)


@variants
def test_derivatives_of_vmap_are_sums_over_a_loop(case, fit_intercept):
    """First and second, in every composition; and those inside `vmap`, element by element."""
    at, fixed, moving = lines(case, fit_intercept)

    def mapped(p):
        return vmap(lambda f, m: at(p, f, m))(fixed, moving).sum()

    ones = [lambda p, i=i: at(p, element(fixed, i), element(moving, i)) for i in range(2)]
    first = torch.stack([jacrev(one)(ZERO) for one in ones])
    second = torch.stack([jacrev(jacrev(one))(ZERO) for one in ones])
    # Summands may cancel.
    scale, scale2 = float(first.abs().sum()), float(second.abs().sum())
    for name, derivative in DERIVATIVES.items():
        assert relative_error(derivative(mapped)(ZERO), first.sum(), floor=scale) <= 1e-9, name
        inside = vmap(lambda f, m, d=derivative: d(lambda p: at(p, f, m))(ZERO))(fixed, moving)
        assert relative_error(inside, first) <= 1e-9, name
    for outer, inner in NESTED:
        d, e = DERIVATIVES[outer], DERIVATIVES[inner]
        assert relative_error(d(e(mapped))(ZERO), second.sum(), floor=scale2) <= 1e-7, (outer, inner)
        inside = vmap(lambda f, m, d=d, e=e: d(e(lambda p: at(p, f, m)))(ZERO))(fixed, moving)
        assert relative_error(inside, second) <= 1e-7, (outer, inner)
        # vmap between the two.
        between = d(lambda p, e=e: vmap(lambda f, m: e(lambda p: at(p, f, m))(p))(fixed, moving).sum())(ZERO)
        assert relative_error(between, second.sum(), floor=scale2) <= 1e-7, (outer, inner)


@pytest.mark.parametrize("name", ["ridge_wide", "sparse_group_lasso", "sparse_svm", "logistic", "sparse_ridge"])
def test_vmap_of_vmap(name):
    case = CASES[name]
    many = case.arguments(2, 2)
    directions = {key: normal(*a.shape, seed=5) if key == "X" else torch.zeros_like(a) for key, a in many.items()}
    looped = torch.stack([torch.stack([case.coefficients(element(many, (i, j))) for j in (0, 1)]) for i in (0, 1)])
    twice = vmap(vmap(case.coefficients))
    assert relative_error(twice(many), looped) <= 1e-9
    value, tangent = jvp(twice, (many,), (directions,))
    assert relative_error(value, looped) <= 1e-9
    for i, j in itertools.product((0, 1), repeat=2):
        alone = jvp(case.coefficients, (element(many, (i, j)),), (element(directions, (i, j)),))[1]
        assert relative_error(tangent[i, j], alone) <= 1e-9


def masked(X, y, mask, weight):
    layer = il.LogisticRegression(l1=0.02, l2=0.1, n_classes=3, tol=1e-12)
    start = layer.solve(X.detach(), y, class_mask=mask)
    return layer(X, y, class_mask=mask, sample_weight=weight, init=start)


def path(X, y, mask, weight):
    strengths = torch.tensor([0.1, 0.05], dtype=torch.float64)
    layer = il.MulticlassSVM(l2=0.2, l1=0.0, n_classes=3, tol=1e-12)
    return layer.path(X, y, strengths, class_mask=mask, sample_weight=weight).coef


def largest(X, y, mask, weight):
    return il.LogisticRegression(l1=il.Relative(0.3), n_classes=3).l1_max(X, y, class_mask=mask, sample_weight=weight)


def relative(X, y, mask, weight):
    layer = il.LogisticRegression(l1=il.Relative(0.3), l2=0.1, n_classes=3, tol=1e-12)
    return layer(X, y, class_mask=mask, sample_weight=weight)


@pytest.mark.parametrize("function", [masked, path, largest, relative], ids=lambda f: f.__name__)
def test_with_masks_weights_and_starts(function):
    X, y = normal(2, 9, 5), labels(2, 9, k=2)
    mask, weight = torch.tensor([[True, True, True], [True, True, False]]), uniform(2, 9)
    T = normal(2, 9, 5, seed=3)

    def mapped(X):
        return vmap(function)(X, y, mask, weight)

    looped = [jvp(lambda x, i=i: function(x, y[i], mask[i], weight[i]), (X[i],), (T[i],)) for i in (0, 1)]
    value, tangent = jvp(mapped, (X,), (T,))
    assert relative_error(value, torch.stack([v for v, _ in looped])) <= 1e-9
    assert relative_error(tangent, torch.stack([t for _, t in looped])) <= 1e-7
    full = jacfwd(mapped)(X)
    assert relative_error((full * T).sum((-3, -2, -1)), tangent) <= 1e-7


@il.implicit.root(lambda x, a: a * x**3 - x - 2)
def root(a):
    x = torch.full_like(a, 1.5)
    for _ in range(30):
        x = x - (a * x**3 - x - 2) / (3 * a * x**2 - 1)
    return x


@il.implicit.argmin(lambda x, a: a * x**4 / 4 - x**2 / 2 - 2 * x)
def argmin(a):
    return root(a)


@il.implicit.fixed_point(lambda x, a: ((x + 2) / a) ** (1 / 3), linear_solve=il.implicit.GMRES())
def fixed_point(a):
    return root(a)


@pytest.mark.parametrize("function", [root, argmin, fixed_point], ids=["root", "argmin", "fixed_point"])
def test_implicit_functions(function):
    """Roots of a·x³ − x − 2, whose derivatives are dx/da = −x³/(3ax² − 1) and so on."""
    a = torch.tensor([0.8, 1.0, 1.3], dtype=torch.float64)
    x = torch.stack([root(t) for t in a]).detach()

    def slope(a, x):
        return -(x**3) / (3 * a * x**2 - 1)

    first = slope(a, x)
    to_a, to_x = grad(lambda a, x: slope(a, x).sum(), argnums=(0, 1))(a, x)
    second = to_a + to_x * first
    one = torch.ones_like(a)
    assert relative_error(vmap(function)(a), x) <= 1e-12
    assert relative_error(jvp(vmap(function), (a,), (one,))[1], first) <= 1e-9
    for name in ("jacrev", "jacfwd"):
        assert relative_error(DERIVATIVES[name](vmap(function))(a).diagonal(), first) <= 1e-9
    outer = jvp(grad(lambda a: vmap(function)(a).sum()), (a,), (one,))[1]
    assert relative_error(outer, second) <= 1e-9
    for d, e in itertools.product((jacrev, jacfwd), repeat=2):
        assert relative_error(vmap(d(e(function)))(a), second) <= 1e-9
        assert relative_error(d(e(lambda a: vmap(function)(a).sum()))(a).diagonal(), second) <= 1e-9
