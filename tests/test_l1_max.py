"""l1_max by its meaning, of every sparse layer: nothing is left at it, something below it, and its derivatives."""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, uniform
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import solve_tightly
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import implicitlayers as il
from implicitlayers.losses import Huber
from implicitlayers.solvers import margin

GROUPS = [[0, 2], [1], [3, 4]]
GROUP_WEIGHTS = torch.tensor([1.2, 0.7, 0.9], dtype=torch.float64)
M = 5


class Sparse(NamedTuple):
    """A layer and its strengths but l1; those by name in ``moving`` take derivatives. ``k`` > 0 says classes."""

    make: Any
    options: dict[str, Any]
    moving: Mapping[str, Any] = MappingProxyType({})
    k: int = 0

    def layer(self, l1, **strengths):
        classes = {"n_classes": self.k} if self.k and self.make is not il.BinarySVM else {}
        return self.make(l1=l1, **{**self.moving, **strengths}, **self.options, **classes)


REGRESSIONS = {
    "lasso": Sparse(il.Lasso, {}),
    "elastic_net": Sparse(il.ElasticNet, {"l2": 0.1}),
    "group_lasso": Sparse(il.GroupLasso, {}),
    "group_lasso_groups": Sparse(il.GroupLasso, {"groups": GROUPS}, {"group_weights": GROUP_WEIGHTS}),
    "sparse_group_lasso": Sparse(il.SparseGroupLasso, {"groups": GROUPS}, {"group_l1": 0.05}),
    "sparse_group_lasso_weights": Sparse(
        il.SparseGroupLasso, {"groups": GROUPS, "group_l1": 0.02}, {"group_weights": GROUP_WEIGHTS}
    ),
    "nonnegative": Sparse(il.NonNegativeRegression, {"l2": 0.1}),
    "huber": Sparse(il.HuberRegression, {}, {"delta": 0.5}),
}
CLASSIFIERS = {
    "logistic": Sparse(il.LogisticRegression, {}, k=3),
    "svm": Sparse(il.MulticlassSVM, {"l2": 0.1}, k=4),
    "svm_two": Sparse(il.MulticlassSVM, {"l2": 0.1}, k=2),
    "smooth_svm": Sparse(il.MulticlassSVM, {"l2": 0.1}, {"smoothing": 0.3}, k=4),
    "very_smooth_svm": Sparse(il.MulticlassSVM, {"l2": 0.1}, {"smoothing": 4.0}, k=3),
    "binary_svm": Sparse(il.BinarySVM, {"l2": 0.1}, k=2),
    "smooth_binary_svm": Sparse(il.BinarySVM, {"l2": 0.1}, {"smoothing": 3.0}, k=2),
}
LAYERS = REGRESSIONS | CLASSIFIERS
HINGES = [name for name, layer in CLASSIFIERS.items() if layer.make is not il.LogisticRegression]
VARIANTS = [(name, b) for name in LAYERS for b in (False, True) if not (b and name in HINGES)]
variants = pytest.mark.parametrize(
    ("name", "fit_intercept"), [pytest.param(n, b, id=f"{n}-intercept" if b else n) for n, b in VARIANTS]
)
FORMS = ("plain", "soft", "tied", "masked", "absent class")
few = settings(max_examples=6, deadline=None)


def variant(name, fit_intercept):
    layer = LAYERS[name]
    return layer._replace(options=layer.options | ({"fit_intercept": True} if fit_intercept else {}))


def drawn(layer, seed, n=9, form="plain", batch=()):
    """X, Y, and further arguments: weights, of which one is zero, and a mask."""
    X, weight = normal(*batch, n, M, seed=seed), uniform(*batch, n, seed=seed)
    weight[..., -1] = 0
    arguments = {"sample_weight": weight}
    if not layer.k:
        return X, normal(*batch, n, 2, seed=seed + 1) + X[..., :2] + 0.3, arguments
    k = layer.k - (form in ("masked", "absent class") and layer.k > 2)
    y = labels(*batch, n, k=k, seed=seed)
    Y = one_hot(y, layer.k)
    if form == "masked":
        arguments["class_mask"] = torch.arange(layer.k) < k
    elif form == "soft":
        Y = 0.7 * Y + 0.3 * uniform(*batch, n, layer.k, seed=seed + 3, low=0.1).softmax(-1)
    elif form == "tied":
        # Labels smoothed: the classes that are not the own one have a little each, and are worst cases alike.
        Y = 0.7 * Y + 0.3 / layer.k
    return X, Y, arguments


def solvable(name, fit_intercept, form):
    """A class without samples has no finite intercept under the logistic loss."""
    return not (name == "logistic" and fit_intercept and form == "absent class")


@variants
@few
@given(seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), n=st.integers(5, 12))
def test_nothing_is_left_at_l1_max_and_something_below(name, fit_intercept, seed, form, n):
    """Zero is as good as the solution at l1_max, where others can be as good; it is the solution two percent above."""
    assume(solvable(name, fit_intercept, form))
    layer = variant(name, fit_intercept)
    X, Y, arguments = drawn(layer, seed, n, form, (2,))
    largest = layer.layer(1.0).l1_max(X, Y, **arguments)
    assume((largest > 1e-6).all())
    below, at, above = (layer.layer(share * largest).solve(X, Y, **arguments) for share in (0.98, 1.0, 1.02))
    assert below.converged.all() & at.converged.all() & above.converged.all()
    assert below.support.any(-1).all()
    assert (above.coef == 0).all()
    assert ((above.objective - at.objective).abs() <= 2e-9 * above.objective).all()


@variants
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_share_above_one_leaves_nothing_and_a_smaller_one_something(name, fit_intercept, dtype):
    layer = variant(name, fit_intercept)
    X, Y, arguments = drawn(layer, 5, batch=(3,))
    X = X.to(dtype)
    assert (layer.layer(il.Relative(1.02)).solve(X, Y, **arguments).coef == 0).all()
    assert layer.layer(il.Relative(0.98)).solve(X, Y, **arguments).support.any(-1).all()
    assert layer.layer(1.0).l1_max(X, Y, **arguments).dtype == dtype


def along(layer, seed, form):
    """t ↦ l1_max where all arguments that move are t further along one direction each."""
    X, Y, arguments = drawn(layer, seed, form=form)
    directions = {"X": normal(*X.shape, seed=seed + 11), "s": uniform(9, seed=seed + 12)}
    # A sample that is absent can only come, and the derivative is then one-sided.
    directions["s"][-1] = 0
    if form == "soft":
        # Rows keep their sum.
        directions["Y"] = 0.1 * Y * (normal(*Y.shape, seed=seed + 13).clamp(-1, 1))
        directions["Y"] = directions["Y"] - Y * directions["Y"].sum(-1, keepdim=True)
    elif not layer.k:
        directions["Y"] = normal(*Y.shape, seed=seed + 13)

    def f(t):
        moved = {name: value * (1 + 0.3 * t) for name, value in layer.moving.items()}
        weight = arguments["sample_weight"] + t * directions["s"]
        given = arguments | {"sample_weight": weight}
        targets = Y + t * directions["Y"] if "Y" in directions else Y
        return layer.layer(1.0, **moved).l1_max(X + t * directions["X"], targets, **given)

    return f


def difference(f, step):
    """Of fourth order, at zero."""
    return (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)


def smooth_difference(f):
    """The derivative at zero; discards what has a kink nearby, where two steps differ."""
    wide, narrow = (difference(f, torch.tensor(h, dtype=torch.float64)) for h in (2e-4, 5e-5))
    assume((wide - narrow).abs() <= 1e-7 * (1 + wide.abs()))
    return narrow


@variants
@few
@given(seed=st.integers(0, 10**6), form=st.sampled_from(FORMS))
def test_derivatives_match_finite_differences(name, fit_intercept, seed, form):
    """First ones in reverse and forward mode, second ones in all four compositions."""
    f = along(variant(name, fit_intercept), seed, form)
    zero = torch.zeros((), dtype=torch.float64)
    expected = smooth_difference(f)
    for derivative in (jacrev, jacfwd):
        assert abs(derivative(f)(zero) - expected) <= 1e-6 * (1 + expected.abs())
    expected = smooth_difference(jacrev(f))
    for outer, inner in itertools.product((jacrev, jacfwd), repeat=2):
        assert abs(outer(inner(f))(zero) - expected) <= 1e-5 * (1 + expected.abs())


@variants
def test_vmap_is_a_loop(name, fit_intercept):
    """Values, gradients and directional derivatives."""
    layer = variant(name, fit_intercept)
    X, Y, arguments = drawn(layer, 7, batch=(3,))
    D = normal(*X.shape, seed=1)

    def f(X, Y, weight):
        return layer.layer(1.0).l1_max(X, Y, sample_weight=weight)

    def forward(X, D, Y, weight):
        return jvp(lambda X: f(X, Y, weight), (X,), (D,))[1]

    weight = arguments["sample_weight"]
    for function, given_ in ((f, (X, Y, weight)), (grad(f), (X, Y, weight)), (forward, (X, D, Y, weight))):
        looped = torch.stack([function(*one) for one in zip(*given_, strict=True)])
        assert relative_error(vmap(function)(*given_), looped) <= 1e-8


def test_the_smoothed_hinge_has_one_dual_point_at_zero():
    """Case 17: one sample, and three; the plain hinge of the latter has a smaller l1_max."""
    X = torch.ones(1, 1, dtype=torch.float64)
    layer = il.BinarySVM(l2=0.1, l1=0.1, smoothing=4)
    assert float(layer.l1_max(X, torch.tensor([1]))) == pytest.approx(0.25, rel=1e-12)
    X, y = torch.tensor([[3.0, 1], [2, 5], [5, 3]], dtype=torch.float64), torch.arange(3)
    smooth, plain = (il.MulticlassSVM(l2=0.1, l1=0.1, smoothing=g).l1_max(X, y) for g in (0.2, 0.0))
    assert float(smooth) == pytest.approx(2**0.5, rel=1e-12)
    mixed = il.MulticlassSVM(l2=0.1, l1=0.1, smoothing=torch.tensor([0.2, 0.0])).l1_max(X, y)
    torch.testing.assert_close(mixed, torch.stack([smooth, plain]), rtol=1e-12, atol=0)


def smallest_norm(X, Y, weight, allowed):
    """min over Λ of max_j ‖V_j‖ by cvxpy."""
    X, Y, s = X.numpy(), Y.numpy(), weight.numpy()
    Lambda = cp.Variable(Y.shape, nonneg=True)
    V = X.T @ cp.multiply(s[:, None], Y - Lambda)
    constraints = [cp.sum(Lambda, axis=1) == 1, cp.multiply(Lambda, (~allowed.numpy()).astype(float)) == 0]
    problem = cp.Problem(cp.Minimize(cp.max(cp.norm(V, 2, axis=1))), constraints)
    solve_tightly(problem)
    return problem.value


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(FORMS))
def test_l1_max_of_the_plain_hinge_is_that_of_another_solver(seed, form):
    X, Y, arguments = drawn(CLASSIFIERS["svm"], seed, 8, form)
    weight = arguments["sample_weight"] / arguments["sample_weight"].sum()
    mask = arguments.get("class_mask", torch.ones(4, dtype=torch.bool))
    allowed = mask & (torch.where(mask, Y, np.inf).amin(-1, keepdim=True) == Y)
    expected = smallest_norm(X, Y, weight, allowed)
    given_ = CLASSIFIERS["svm"].layer(1.0).l1_max(X, Y, **arguments)
    assert float(given_) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def lower_bound(X, Y, weight, mask, u, V):
    """What U, of rows u_j along V_j, proves of l1_max, (b,)."""
    U = u[..., None] * torch.nn.functional.normalize(V, dim=-1, eps=1e-300)
    Z = X @ U
    highest = torch.where(mask[:, None, :] & (Y <= 0), Z, -torch.inf).amax(-1)
    margins = torch.where(highest.isinf(), 0.0, (Y * Z).sum(-1) - highest)
    size = U.norm(dim=-1).sum(-1)
    return (weight * margins).sum(-1) / torch.where(size > 0, size, 1.0)


def bounds(X, Y, weight, mask):
    """A lower one and l1_max, with Λ checked to be feasible and to prove the latter."""
    found = margin._solve(X, Y, weight, mask, 1)
    Lambda = found.Lambda
    assert ((Lambda >= 0) & (mask[:, None, :] | (Lambda == 0))).all()
    assert relative_error(Lambda.sum(-1), torch.ones_like(weight)) <= 1e-12
    V = X.mT @ (weight[..., None] * (Y - Lambda))
    longest = V.norm(dim=-1).amax(-1)
    torch.testing.assert_close(longest, found.l1_max, rtol=1e-9, atol=1e-13)
    return lower_bound(X, Y, weight, mask, found.u, V), found.l1_max


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.integers(2, 5), st.booleans(), st.booleans())
def test_both_bounds_on_the_l1_max_of_the_multiclass_svm_meet(seed, n, m, k, masked, tied):
    """U proves that l1_max is no smaller, Λ that it is no larger; absent samples and masked classes are in neither."""
    X, y = normal(2, n, m, seed=seed), labels(2, n, k=k, seed=seed)
    # Ties, equal samples and features; and elements that differ in scale.
    X = (X.round() if tied else X) * torch.tensor([1e-3, 1e3], dtype=torch.float64)[:, None, None]
    mask = torch.ones(2, k, dtype=torch.bool)
    mask[1, -1] = not masked
    Y, weight = one_hot(y.clamp_max(k - 2 if masked else k), k), uniform(2, n, seed=seed)
    weight[0, 0] = 0
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-300)
    lower, upper = bounds(X, Y, weight, mask)
    scale = (weight[..., None] * X).norm(dim=-1).sum(-1)
    assert (lower >= (1 - 1e-6) * upper - 1e-8 * scale).all()


@pytest.mark.parametrize(("n", "m", "k"), [(1000, 50, 5), (30, 2000, 4), (40, 60, 12), (300, 3, 8)])
def test_bounds_meet_whatever_the_shape(n, m, k):
    """Case 18, and more features, more classes, more samples than there are of all else; correlated, as pictures."""
    Y, mask = one_hot(labels(2, n, k=k), k), torch.ones(2, k, dtype=torch.bool)
    X = (normal(2, n, m) + 3 * Y @ normal(2, k, m, seed=1)).relu()
    weight = torch.full((2, n), 1 / n, dtype=torch.float64)
    lower, upper = bounds(X, Y, weight, mask)
    assert (upper > 1e-3).all()
    assert (lower >= (1 - 1e-8) * upper).all()


@pytest.mark.parametrize(("n", "m"), [(12, 20), (30, 4), (10, 300)])
def test_first_order_steps_alone_end_where_newton_steps_do(n, m, monkeypatch):
    """And with all features in use from the start."""
    X, Y, mask = normal(2, n, m), one_hot(labels(2, n, k=4), 4), torch.ones(2, 4, dtype=torch.bool)
    weight = uniform(2, n)
    weight = weight / weight.sum(-1, keepdim=True)
    found = margin.hinge_l1_max(X, Y, weight, mask)
    monkeypatch.setattr(margin, "QUICK", 0)
    monkeypatch.setattr(margin, "NEAR", 0.0)
    assert relative_error(margin.hinge_l1_max(X, Y, weight, mask), found) <= 1e-8


@pytest.mark.parametrize("m", [1, 3])
def test_samples_that_nothing_tells_apart_have_an_l1_max_of_zero(m):
    """With equal features and one of each class some Λ > 0 makes V zero: l1_max stays zero whichever way X moves."""
    X, Y = normal(2, 1, m).expand(2, 8, m).clone(), one_hot(torch.arange(8) % 4, 4).expand(2, 8, 4)
    mask = torch.ones(2, 4, dtype=torch.bool)
    weight = torch.full((2, 8), 1 / 8, dtype=torch.float64)

    def found(X):
        return margin.hinge_l1_max(X, Y, weight, mask)

    assert found(X).max() <= 1e-9
    X[:, 0] *= 1.01
    assert found(X).max() <= 1e-9
    assert (grad(lambda X: found(X).sum())(X) == 0).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_an_absent_sample_has_a_one_sided_derivative(seed):
    """Of the plain hinge, and of logistic regression where it would be the only one of its class."""
    X, y, weight = normal(9, 7, seed=seed), labels(9, k=4, seed=seed), uniform(9, seed=seed)
    for layer in (il.MulticlassSVM(0.1, 1.0, n_classes=4), il.LogisticRegression(1.0, n_classes=4, fit_intercept=True)):
        labelled = y.clone()
        if isinstance(layer, il.LogisticRegression):
            labelled[labelled == 3] = 0
            labelled[5] = 3
        weight[5] = 0

        def f(w, layer=layer, labelled=labelled):
            return layer.l1_max(X, labelled, sample_weight=torch.cat([weight[:5], w[None], weight[6:]]))

        zero, step = torch.zeros((), dtype=torch.float64), torch.tensor(1e-5, dtype=torch.float64)
        change = [(f(h * step) - f(zero)) / (h * step) for h in (1, 2)]
        extrapolated = 2 * change[0] - change[1]
        assume((change[0] - change[1]).abs() <= 1e-3)
        assert abs(grad(f)(zero) - extrapolated) <= 1e-5 * (1 + extrapolated.abs())


def test_derivatives_through_the_constant_of_the_huber_loss():
    """Case 21: all but the clipped residuals move it, by their shares."""
    X, Y = (torch.tensor(a, dtype=torch.float64)[:, None] for a in ([1, 2, 4], [0, 0.3, 2]))
    layer = il.HuberRegression(0.1, fit_intercept=True, delta=0.5)
    expected = torch.tensor([[-1 / 6], [1 / 6], [0]], dtype=torch.float64)
    for derivative in (jacrev, jacfwd):
        assert relative_error(derivative(lambda Y: layer.l1_max(X, Y))(Y), expected) <= 1e-12


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_derivatives_of_the_constant_of_the_huber_loss(seed):
    """With respect to targets, weights and delta, both orders."""
    Y, weight = normal(9, 2, seed=seed), uniform(9, seed=seed)
    dY, dw = normal(9, 2, seed=seed + 1), normal(9, seed=seed + 2)

    def f(t):
        w = weight + 0.1 * t * dw
        return (Huber(0.5 * (1 + t)).best_constant(Y + t * dY, w / w.sum()) * torch.tensor([1.0, 2.0])).sum()

    zero = torch.zeros((), dtype=torch.float64)
    expected = smooth_difference(f)
    for derivative in (jacrev, jacfwd):
        assert abs(derivative(f)(zero) - expected) <= 1e-6 * (1 + expected.abs())
    expected = smooth_difference(jacrev(f))
    for outer, inner in itertools.product((jacrev, jacfwd), repeat=2):
        assert abs(outer(inner(f))(zero) - expected) <= 1e-5 * (1 + expected.abs())


@pytest.mark.parametrize("weights", [(1.0, 0.6, 1.4), (1.0, 0.0, 1.4), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_the_sparse_group_lasso_has_derivatives_where_groups_have_no_strength(weights, scale):
    """Their largest entry decides then; where the groups alone leave nothing, l1_max is zero and does not move."""
    X, Y, D = normal(12, M), normal(12, 2, seed=1), normal(12, 2, seed=2)
    weights = torch.tensor(weights, dtype=torch.float64)

    def f(t):
        layer = il.SparseGroupLasso(1.0, scale * (0.1 + t), groups=GROUPS, group_weights=weights)
        return layer.l1_max(X, Y + t * D)

    zero = torch.zeros((), dtype=torch.float64)
    expected = difference(f, torch.tensor(1e-4, dtype=torch.float64))
    for derivative in (jacrev, jacfwd):
        assert abs(derivative(f)(zero) - expected) <= 1e-8
