"""Every layer, with and without an intercept: derivatives against finite differences, vmap against loops, certificates.

A case names a layer and its strengths. Its *section* is the solution along one random direction per argument, so that
Jacobians with respect to all arguments, and all their mixed second derivatives, are small.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, uniform
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import implicitlayers as il

GROUPS = [[0, 3], [1, 2, 4], [5]]
WEIGHTS = torch.tensor([1.0, 0.6, 1.4], dtype=torch.float64)
EXACT: dict[str, Any] = {"tol": 1e-12, "on_fail": "raise"}


class Case(NamedTuple):
    """``strengths`` by their names in ``make``; ``classes`` says whether targets are classes, which do not move."""

    make: Callable[..., Any]
    strengths: Mapping[str, Any]
    n: int = 10
    m: int = 6
    k: int = 2
    classes: bool = False

    def arguments(self, *batch: int, seed: int = 0, scale: Tensor | float = 1.0) -> dict[str, Tensor]:
        """Random arguments by name; ``scale`` (..., m) or a number multiplies the features."""
        X = normal(*batch, self.n, self.m, seed=seed) * scale
        Y = normal(*batch, self.n, self.k, seed=seed + 1)
        made = {"X": X, "sample_weight": uniform(*batch, self.n, seed=seed)}
        if self.classes:
            made["Y"] = one_hot(labels(*batch, self.n, k=self.k, seed=seed), self.k)
        else:
            made["Y"] = Y + X[..., :2].sum(-1, keepdim=True)
        strengths = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in self.strengths.items()}
        moved = uniform(*batch, seed=seed, low=0.9, high=1.1)
        return made | {name: value * moved.reshape((*batch, *[1] * value.dim())) for name, value in strengths.items()}

    def solve(self, arguments: Mapping[str, Tensor], **options: Any) -> il.Solution:
        """The solution at arguments by name."""
        strengths = {name: arguments[name] for name in self.strengths}
        layer = self.make(**strengths, **EXACT | options)
        return layer.solve(arguments["X"], arguments["Y"], sample_weight=arguments["sample_weight"])

    def coefficients(self, arguments: Mapping[str, Tensor], **options: Any) -> Tensor:
        """W, and b as one more row."""
        return rows(self.solve(arguments, **options))

    @property
    def moving(self) -> list[str]:
        """The arguments that take derivatives."""
        return ["X", *([] if self.classes else ["Y"]), "sample_weight", *self.strengths]


def rows(solution):
    if solution.intercept is None:
        return solution.coef
    return torch.cat([solution.coef, solution.intercept[..., None, :]], -2)


CASES = {
    "ridge_tall": Case(il.Ridge, {"l2": 0.1}),
    "ridge_wide": Case(il.Ridge, {"l2": 0.1}, n=6, m=9),
    "lasso_one_target": Case(il.Lasso, {"l1": 0.2}, k=1),
    "lasso": Case(il.Lasso, {"l1": 0.2}),
    "elastic_net": Case(il.ElasticNet, {"l1": 0.2, "l2": 0.1}),
    "group_lasso": Case(il.GroupLasso, {"l1": 0.2, "l2": 0.1}),
    "group_lasso_wide": Case(il.GroupLasso, {"l1": 0.3, "group_weights": torch.linspace(0.8, 1.2, 9)}, n=6, m=9),
    "group_lasso_groups": Case(
        partial(il.GroupLasso, groups=GROUPS), {"l1": 0.3, "l2": 0.05, "group_weights": WEIGHTS}
    ),
    "sparse_group_lasso": Case(
        partial(il.SparseGroupLasso, groups=GROUPS),
        {"l1": 0.1, "group_l1": 0.2, "l2": 0.05, "group_weights": WEIGHTS},
    ),
    "nonnegative": Case(il.NonNegativeRegression, {"l1": 0.05, "l2": 0.05}),
    "box": Case(il.BoxRegression, {"lower": -0.1, "upper": 0.6, "l2": 0.05}),
    "simplex": Case(il.SimplexRegression, {"total": 1.0, "l2": 0.05}, n=14),
    "huber": Case(il.HuberRegression, {"l2": 0.1, "delta": 0.7}),
    "huber_l1": Case(il.HuberRegression, {"l1": 0.05, "delta": 0.7}, n=14),
    "logistic": Case(il.LogisticRegression, {"l1": 0.05, "l2": 0.05}, k=3, classes=True),
    "logistic_l1": Case(il.LogisticRegression, {"l1": 0.08}, n=14, k=3, classes=True),
    "logistic_l2": Case(il.LogisticRegression, {"l2": 0.1}, k=3, classes=True),
    "svm": Case(il.MulticlassSVM, {"l2": 0.6}, n=9, m=12, k=3, classes=True),
    "sparse_svm": Case(il.MulticlassSVM, {"l2": 0.4, "l1": 0.05}, n=9, m=12, k=3, classes=True),
    "smooth_svm": Case(il.MulticlassSVM, {"l2": 0.3, "l1": 0.05, "smoothing": 0.3}, k=3, classes=True),
    "binary_svm": Case(il.BinarySVM, {"l2": 0.4, "l1": 0.05, "smoothing": 0.2}, classes=True),
    "binary_svm_l2": Case(il.BinarySVM, {"l2": 0.5}, n=8, m=10, classes=True),
    "sparse_ridge": Case(partial(il.SparseRidge, n_nonzero=2), {"l2": 0.1}),
}
HINGES = ("svm", "sparse_svm", "smooth_svm", "binary_svm", "binary_svm_l2")
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
VARIANTS = [(name, b) for name in CASES for b in (False, True) if not (b and name in HINGES)]
variants = pytest.mark.parametrize(
    ("case", "fit_intercept"),
    [pytest.param(CASES[name], b, id=f"{name}-intercept" if b else name) for name, b in VARIANTS],
)
batches = pytest.mark.parametrize("batch", [(), (2,)], ids=["alone", "batch"])


def test_every_layer_is_here():
    """A new layer must enter the table."""
    made = {case.make.func if isinstance(case.make, partial) else case.make for case in CASES.values()}
    assert made == {getattr(il.layers, name) for name in il.layers.__all__}


class Section(NamedTuple):
    """p ↦ the solution at arguments + p·directions, one entry of p per moving argument."""

    case: Case
    arguments: Mapping[str, Tensor]
    directions: Mapping[str, Tensor]
    options: Mapping[str, Any]

    @classmethod
    def random(cls, case, arguments, **options):
        """Strengths move in proportion to their size, data as it comes."""
        directions = {name: normal(*arguments[name].shape, seed=20 + i) for i, name in enumerate(case.moving)}
        sizes = {name: arguments[name].abs() if name in case.strengths else 1.0 for name in directions}
        return cls(case, arguments, {name: sizes[name] * d for name, d in directions.items()}, options)

    def at(self, p):
        moved = {name: self.arguments[name] + p[i] * d for i, (name, d) in enumerate(self.directions.items())}
        return {**self.arguments, **moved}

    def coefficients(self, p):
        return self.case.coefficients(self.at(p), **self.options)

    def faces(self, p):
        """What is constant where the solution is smooth: zeros, entries at bounds, clipped residuals, vertices."""
        arguments = self.at(p)
        solution = self.case.solve(arguments, **self.options)
        coef, dual = solution.coef, solution.dual
        found = [coef == 0]
        for bound in ("lower", "upper"):
            if bound in arguments:
                found.append(coef == arguments[bound][..., None, None])
        if "delta" in arguments:
            found.append(dual.abs() >= arguments["delta"][..., None, None] * (1 - 1e-12))
        if self.case.make in (il.MulticlassSVM, il.BinarySVM):
            Lambda = arguments["Y"][..., -dual.shape[-1] :] - dual
            found += [Lambda > 1e-12, Lambda < 1 - 1e-12]
        return torch.cat([f.to(torch.int64) for f in found], -2)


# Of first derivatives, exact to O(h⁴): Σ coefficient·f(offset·h)/h.
STENCIL = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
STEP = 1e-4


def stencil(size):
    """All points of the stencils around zero, (4, size, size): offset, direction, coordinates."""
    offsets = STEP * torch.tensor(list(STENCIL), dtype=torch.float64)
    return offsets[:, None, None] * torch.eye(size, dtype=torch.float64)


def differences(f, size):
    """The Jacobian of ``f`` at zero by central differences of fourth order, derivatives last."""
    values = vmap(vmap(f))(stencil(size))
    coefficients = torch.tensor(list(STENCIL.values()), dtype=torch.float64) / STEP
    return torch.tensordot(coefficients, values, dims=1).movedim(0, -1)


def draw(case, batch, number, **options):
    """A random section, and whether it is smooth: no kink lies within its stencil."""
    section = Section.random(case, case.arguments(*batch, seed=10 * number), **options)
    faces = vmap(section.faces)(stencil(len(case.moving)).flatten(0, 1))
    return section, bool((faces == faces[0]).all())


def smooth_section(case, batch, **options):
    """The first smooth draw; most are."""
    drawn = (draw(case, batch, number, **options) for number in range(3))
    return next(section for section, smooth in drawn if smooth)


def test_kinks_within_a_stencil_are_rare():
    """So that the tests of derivatives do not choose their problems."""
    smooth = [draw(CASES[name], (), number, fit_intercept=b)[1] for name, b in VARIANTS for number in range(2)]
    assert sum(smooth) >= 0.95 * len(smooth)


@variants
@batches
def test_derivatives_match_finite_differences(case, fit_intercept, batch):
    """First derivatives in both modes with respect to every argument; second ones of all pairs in all compositions."""
    section = smooth_section(case, batch, fit_intercept=fit_intercept)
    size = len(case.moving)
    origin = torch.zeros(size, dtype=torch.float64)
    first = differences(section.coefficients, size)
    assert (first.flatten(0, -2).abs().amax(0) > 1e-4).all(), "an argument without influence tests nothing"
    for jacobian in (jacrev, jacfwd):
        given = jacobian(section.coefficients)(origin)
        for i, name in enumerate(case.moving):
            assert relative_error(given[..., i], first[..., i]) <= 1e-5, name
    second = differences(jacfwd(section.coefficients), size)
    largest = second.abs().max()
    assert largest > 1e-3
    for outer, inner in itertools.product((jacrev, jacfwd), repeat=2):
        given = outer(inner(section.coefficients))(origin)
        for (i, one), (j, other) in itertools.product(enumerate(case.moving), repeat=2):
            # Where a mixed derivative vanishes, differences have their rounding left.
            scale = second[..., i, j].abs().max().clamp_min(1e-3 * largest)
            assert (given[..., i, j] - second[..., i, j]).abs().max() <= 1e-5 * scale, (one, other)


def projected(case, fixed, name, **options):
    """One argument ↦ a linear function of the solution."""
    k = 1 if case.make is il.BinarySVM else case.k
    C = normal(case.m + 1, k, seed=9)

    def function(a):
        coefficients = case.coefficients({**fixed, name: a}, **options)
        return (coefficients * C[: coefficients.shape[-2]]).sum((-2, -1))

    return function


@variants
def test_vmap_over_each_argument_equals_a_loop(case, fit_intercept):
    """Coefficients, reverse and forward derivatives, the other arguments being shared."""
    shared, many = case.arguments(), case.arguments(3, seed=1)
    for name in many:
        a, d = many[name], normal(*many[name].shape, seed=7)

        def one(a, name=name):
            return case.coefficients({**shared, name: a}, fit_intercept=fit_intercept)

        looped = torch.stack([one(x) for x in a])
        assert relative_error(vmap(one)(a), looped) <= 1e-9, name
        if name not in case.moving:
            continue
        function = projected(case, shared, name, fit_intercept=fit_intercept)
        reverse = torch.stack([grad(function)(x) for x in a])
        assert relative_error(vmap(grad(function))(a), reverse) <= 1e-7, name

        def forward(x, t, function=function):
            return jvp(function, (x,), (t,))[1]

        given = vmap(forward)(a, d)
        assert relative_error(given, torch.stack([forward(x, t) for x, t in zip(a, d, strict=True)])) <= 1e-7, name
        products = (reverse * d).reshape(len(a), -1).sum(-1)
        assert relative_error(given, products, floor=1e-6 * float(reverse.abs().max())) <= 1e-7, name


@variants
def test_batch_equals_a_loop(case, fit_intercept):
    many = case.arguments(2, 2, seed=2)
    solution = case.solve(many, fit_intercept=fit_intercept)
    for i, j in itertools.product(range(2), repeat=2):
        alone = case.solve({name: a[i, j] for name, a in many.items()}, fit_intercept=fit_intercept)
        assert relative_error(rows(solution)[i, j], rows(alone)) <= 1e-9
        assert relative_error(solution.objective[i, j], alone.objective) <= 1e-12
        assert solution.status[i, j] == alone.status == 0
    assert solution.coef.shape[:-1] == (2, 2, case.m)
    assert (solution.intercept is not None) == fit_intercept


@variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_in_is_dtype_out(case, fit_intercept, dtype):
    """Values and derivatives, to the rounding of their last digit."""
    arguments = case.arguments(2, seed=3)
    X = arguments["X"].to(dtype).requires_grad_()
    options = {"fit_intercept": fit_intercept, "tol": None, "on_fail": "ignore"}
    solution = case.solve({**arguments, "X": X}, **options)
    fields = {"coef": solution.coef, "dual": solution.dual, "intercept": solution.intercept}
    assert all(field.dtype == dtype for field in fields.values() if field is not None)
    assert solution.gap.dtype == torch.float64
    exact = X.detach().double().requires_grad_()
    reference = case.coefficients({**arguments, "X": exact}, fit_intercept=fit_intercept)
    rounding = torch.finfo(dtype).eps
    assert relative_error(rows(solution).double(), reference) <= 2 * rounding
    C = normal(*reference.shape, seed=5)
    (rows(solution).double() * C).sum().backward()
    (reference * C).sum().backward()
    assert X.grad.dtype == dtype
    assert relative_error(X.grad.double(), exact.grad) <= 8 * rounding


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_binary_svm_minimises_the_hinge_of_its_documentation(smoothing):
    """0 beyond the margin, d − γ/2 well inside it, d²/2γ in between: stationary there, and that is its objective."""
    X, y, weight = normal(12, 15), labels(12, k=2), uniform(12)
    solution = il.BinarySVM(0.4, 0.03, smoothing, tol=1e-12).solve(X, y, sample_weight=weight)
    sign = 2.0 * y[:, None] - 1

    def objective(w):
        d = (1 - sign * (X @ w)).clamp_min(0)
        hinge = torch.where(d < smoothing, d.square() / (2 * (smoothing or 1.0)), d - smoothing / 2)
        return (weight / weight.sum() * hinge[:, 0]).sum() + 0.03 * w.abs().sum() + 0.2 * w.square().sum()

    least = objective(solution.coef)
    assert float(solution.objective) == pytest.approx(float(least), rel=1e-12)
    for seed in range(20):
        assert objective(solution.coef + 1e-3 * normal(15, 1, seed=seed)) > least


DRAWS = 300


def ill_conditioned(X, how, seed=11):
    """Generic features; columns of scales from 1e-4 to 1e4; mixed, with condition numbers up to 1e8."""
    m = X.shape[-1]
    exponents = uniform(len(X), 1, m, seed=seed, low=-4, high=4)
    if how == "scales":
        return X * 10**exponents
    if how == "correlated":
        Q = torch.linalg.qr(normal(len(X), m, m, seed=seed)).Q
        return (X @ Q) * 10 ** (exponents - 4) @ Q.mT
    return X


@pytest.mark.parametrize("how", ["generic", "scales", "correlated"])
@pytest.mark.parametrize(("name", "fit_intercept"), VARIANTS)
def test_generic_problems_are_certified_at_the_default_tolerance(name, fit_intercept, how):
    """Hundreds of draws, none flagged: gaps of 1e-9, in float32 1e-6; strengths in proportion to the features."""
    case = CASES[name]
    arguments = case.arguments(DRAWS, seed=11)
    X = ill_conditioned(arguments["X"], how)
    square = X.square().mean((-2, -1)) if how != "generic" else torch.ones(DRAWS, dtype=torch.float64)
    powers = {"l2": 1.0, "l1": 0.5, "group_l1": 0.5, "lower": -0.5, "upper": -0.5, "total": -0.5}
    scaled = {key: arguments[key] * square**power for key, power in powers.items() if key in arguments}
    for dtype, gap in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        given = {**arguments, **scaled, "X": X.to(dtype)}
        solution = case.solve(given, tol=None, on_fail="ignore", fit_intercept=fit_intercept)
        assert (solution.gap <= gap).all()
        assert solution.converged.all()
        # Where features have scales far apart, supports with and without a small one tie; and a hinge's margins, which
        # nearly as many samples can attain as there are features, do so within the little that small ones contribute.
        if how == "generic" or name not in ("sparse_ridge", *HINGES):
            assert (solution.status & ~int(il.Status.EMPTY) == 0).all()
