"""Strengths relative to the l1 at which nothing is left, and paths."""

import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap

import implicitlayers as il
from implicitlayers.solvers import margin, smallest_norm

N, M = 24, 10
GROUPS = [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9]]
WEIGHTS = torch.tensor([1.3, 0.5, 1.5, 0.8], dtype=torch.float64)
SPARSE = {
    "lasso": (il.Lasso, {}),
    "elastic_net": (il.ElasticNet, {"l2": 0.1}),
    "group_lasso": (il.GroupLasso, {}),
    "group_lasso_groups": (il.GroupLasso, {"groups": GROUPS, "group_weights": WEIGHTS}),
    "sparse_group_lasso": (il.SparseGroupLasso, {"group_l1": 0.05, "groups": GROUPS}),
    "nonnegative": (il.NonNegativeRegression, {"l2": 0.1}),
    "huber": (il.HuberRegression, {"delta": 0.5}),
    "logistic": (il.LogisticRegression, {}),
    "binary_svm": (il.BinarySVM, {"l2": 0.1}),
}
CASES = [
    pytest.param(layer, options | ({"fit_intercept": True} if b else {}), id=f"{name}-intercept" if b else name)
    for name, (layer, options) in SPARSE.items()
    for b in ((False,) if layer is il.BinarySVM else (False, True))
]
sparse = pytest.mark.parametrize(("layer", "options"), CASES)


def data(layer):
    X, weight = normal(3, N, M), uniform(3, N)
    if layer is il.BinarySVM:
        return X, labels(3, N, k=2), weight
    if layer is il.LogisticRegression:
        return X, labels(3, N, k=4), weight
    return X, X[..., :2] + normal(3, N, 2, seed=1), weight


@sparse
def test_zero_at_l1_max_and_not_below(layer, options):
    X, Y, weight = data(layer)
    largest = layer(l1=1.0, **options).l1_max(X, Y, sample_weight=weight)
    above = layer(l1=largest * (1 + 1e-9), **options).solve(X, Y, sample_weight=weight)
    below = layer(l1=largest * (1 - 1e-6), tol=1e-14, **options).solve(X, Y, sample_weight=weight)
    assert (above.coef == 0).all()
    assert above.converged.all()
    assert below.support.any(-1).all()
    assert below.converged.all()


def test_l1_max_of_the_multiclass_svm():
    """It is found iteratively: W vanishes there, and not a hundred-thousandth below."""
    X, y = normal(2, 16, 30), labels(2, 16, k=3)
    largest = il.MulticlassSVM(0.1, 1.0).l1_max(X, y)
    above = il.MulticlassSVM(0.1, largest * (1 + 1e-8)).solve(X, y)
    assert (above.coef == 0).all()
    assert above.converged.all()
    below = il.MulticlassSVM(0.1, largest * (1 - 1e-5)).solve(X, y)
    assert below.support.any(-1).all()
    assert below.converged.all()


@pytest.mark.parametrize(("n", "m"), [(12, 20), (20, 4)])
def test_l1_max_of_the_multiclass_svm_is_the_same_without_an_interior_point(n, m, monkeypatch):
    """What is too large for one takes another way, and one that is cut short still proves that W vanishes there."""
    X, Y, mask = normal(2, n, m), one_hot(labels(2, n, k=3), 3), torch.ones(2, 3, dtype=torch.bool)
    weight = uniform(2, n)
    weight = weight / weight.sum(-1, keepdim=True)
    found = margin.hinge_l1_max(X, Y, weight, mask)
    monkeypatch.setattr(smallest_norm, "LARGEST", -1)
    assert relative_error(margin.hinge_l1_max(X, Y, weight, mask), found) <= 1e-5
    monkeypatch.setattr(margin, "STEPS", 1)
    bound = margin.hinge_l1_max(X, Y, weight, mask)
    assert (bound >= found * (1 - 1e-6)).all()
    zero = il.MulticlassSVM(0.1, bound * (1 + 1e-6)).solve(X, Y, sample_weight=weight)
    assert zero.converged.all()
    assert zero.coef.abs().max() <= 1e-6


def lower_bound(X, Y, weight, mask, U):
    """What U proves of l1_max, (b,)."""
    Z = X @ U
    own = (Y * Z).sum(-1)
    highest = torch.where(mask[:, None, :] & (Y <= 0), Z, -torch.inf).amax(-1)
    margins = torch.where(highest.isinf(), 0.0, own - highest)
    size = U.norm(dim=-1).sum(-1)
    return (weight * margins).sum(-1) / torch.where(size > 0, size, 1.0)


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
    U, Lambda, _, upper = margin._solve(X, Y, weight, mask)
    scale = (weight[..., None] * X).norm(dim=-1).sum(-1)
    assert (lower_bound(X, Y, weight, mask, U) >= (1 - 1e-6) * upper - 1e-8 * scale).all()
    assert ((Lambda >= 0) & (mask[:, None, :] | (Lambda == 0))).all()
    assert relative_error(Lambda.sum(-1), torch.ones(2, n)) <= 1e-12
    V = X.mT @ (weight[..., None] * (Y - Lambda))
    assert relative_error(V.norm(dim=-1).amax(-1) / upper.clamp_min(1e-300), (upper > 0).to(V)) <= 1e-9


def test_features_out_of_use_count_for_the_l1_max_of_the_multiclass_svm(monkeypatch):
    """Few of many features are looked at in every step, and elements one by one: it is the same as with all."""
    X, Y, mask = normal(3, 10, 2000).relu(), one_hot(labels(3, 10, k=4), 4), torch.ones(3, 4, dtype=torch.bool)
    weight = torch.full((3, 10), 0.1, dtype=torch.float64)
    U, _, _, upper = margin._solve(X, Y, weight, mask)
    assert relative_error(lower_bound(X, Y, weight, mask, U), upper) <= 1e-8
    monkeypatch.setattr(smallest_norm, "NEAR", 0.0)
    monkeypatch.setattr(smallest_norm, "TOGETHER", 1)
    assert relative_error(margin._solve(X, Y, weight, mask).upper, upper) <= 1e-8


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


@given(st.integers(0, 10**6))
def test_derivatives_of_the_l1_max_of_the_multiclass_svm(seed):
    """With respect to X and the weights; to that of an absent sample, one-sided."""
    X, Y, mask = normal(1, 9, 7, seed=seed), one_hot(labels(1, 9, k=4), 4), torch.ones(1, 4, dtype=torch.bool)
    weight = uniform(1, 9, seed=seed) / 9
    weight[0, 5] = 0
    dX, dw = 1e-5 * normal(1, 9, 7, seed=seed + 1), 1e-5 * uniform(1, 9, seed=seed + 1)

    def found(X, weight):
        return margin.hinge_l1_max(X, Y, weight, mask).sum()

    slope = grad(found, argnums=(0, 1))(X, weight)
    for at, direction in ((slope[0], dX), (slope[1], dw)):
        step = (dX, 0.0) if direction is dX else (0.0, dw)
        change = found(X + step[0], weight + step[1]) - found(X, weight)
        assert abs(change - (at * direction).sum()) <= 1e-3 * (at.abs() * direction.abs()).sum()


@sparse
def test_relative_is_a_share_of_l1_max(layer, options):
    X, Y, weight = data(layer)
    largest = layer(l1=1.0, **options).l1_max(X, Y, sample_weight=weight)
    relative = layer(l1=il.Relative(0.3), **options).solve(X, Y, sample_weight=weight)
    absolute = layer(l1=0.3 * largest, **options).solve(X, Y, sample_weight=weight)
    assert relative_error(relative.coef, absolute.coef) <= 1e-9


SPARSE_AND_SVM = [*CASES, pytest.param(il.MulticlassSVM, {"l2": 0.1}, id="multiclass_svm")]


@pytest.mark.parametrize("mapped", [False, True], ids=["batch", "vmap"])
@pytest.mark.parametrize(("layer", "options"), SPARSE_AND_SVM)
def test_an_element_without_an_l1_max_leaves_its_neighbours_alone(layer, options, mapped):
    """NaN in one element's features: it has no l1_max and no derivatives, and the others have theirs."""
    X, Y, weight = data(il.BinarySVM if layer is il.MulticlassSVM else layer)
    classes = {} if Y.is_floating_point() or layer is il.BinarySVM else {"n_classes": int(Y.max()) + 1}
    relative = layer(l1=il.Relative(0.3, differentiate=True), **options, **classes, on_fail="ignore")

    def total(X):
        if mapped:
            outputs = vmap(lambda *a: (relative(*a[:2], sample_weight=a[2]), relative.l1_max(*a[:2])))(X, Y, weight)
        else:
            outputs = relative(X, Y, sample_weight=weight), relative.l1_max(X, Y)
        coef, largest = outputs
        coef = coef[0] if isinstance(coef, tuple) else coef
        return coef[[0, 2]].square().sum() + largest[[0, 2]].sum(), (coef, largest)

    expected, (coef, largest) = grad(total, has_aux=True)(X)
    X[1, 2, 3] = torch.nan
    found, (beside, l1_max) = grad(total, has_aux=True)(X)
    assert l1_max[1].isnan()
    assert beside[1].isnan().all()
    assert (found[1] == 0).all()
    kept = [0, 2]
    assert relative_error(l1_max[kept], largest[kept]) <= 1e-6
    assert relative_error(beside[kept], coef[kept]) <= 1e-6
    assert relative_error(found[kept], expected[kept]) <= 1e-5


def test_relative_is_held_constant_unless_differentiated():
    X, Y, _ = data(il.Lasso)
    X, Y = X[0], Y[0, :, :1]
    largest = il.Lasso(1.0).l1_max(X, Y)

    def total(layer_of):
        return grad(lambda Y: layer_of(Y)(X, Y).square().sum())(Y)

    held = total(lambda Y: il.Lasso(il.Relative(0.3)))
    torch.testing.assert_close(held, total(lambda Y: il.Lasso(0.3 * largest)))
    moving = total(lambda Y: il.Lasso(il.Relative(0.3, differentiate=True)))
    torch.testing.assert_close(moving, total(lambda Y: il.Lasso(0.3 * il.Lasso(1.0).l1_max(X, Y))))
    # Scaling Y scales the Lasso with a relative strength: ⟨∂‖W‖²/∂Y, Y⟩ = 2‖W‖² (Euler).
    W = il.Lasso(il.Relative(0.3))(X, Y)
    torch.testing.assert_close((moving * Y).sum(), 2 * W.square().sum(), rtol=1e-6, atol=0)


def test_a_relative_parameter_learns_and_moves_with_its_layer():
    X, Y, _ = data(il.Lasso)
    layer = il.Lasso(il.Relative(torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))))
    layer(X, Y).square().sum().backward()
    (parameter,) = layer.parameters()
    assert parameter.grad < 0


def test_a_relative_tensor_is_a_share_for_each_element_and_moves_with_its_layer():
    """An argument, not learnt: in no state_dict, and moved with the layer all the same."""
    X, Y, _ = data(il.Lasso)
    shares = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    layer = il.Lasso(il.Relative(shares), tol=1e-12)
    alone = [il.Lasso(il.Relative(float(r)), tol=1e-12)(x, y) for r, x, y in zip(shares, X, Y, strict=True)]
    assert relative_error(layer(X, Y), torch.stack(alone)) <= 1e-8
    assert not list(layer.parameters())
    assert not layer.state_dict()
    assert layer.to("meta").l1.r.device.type == "meta"


def test_relative_under_vmap_is_a_loop():
    X, Y, _ = data(il.Lasso)
    layer = il.Lasso(il.Relative(0.3))
    torch.testing.assert_close(vmap(layer)(X, Y), torch.stack([layer(x, y) for x, y in zip(X, Y, strict=True)]))


@pytest.mark.parametrize("r", [-0.1, float("nan"), "a"])
def test_a_bad_share_is_an_error(r):
    with pytest.raises(ValueError, match=f"^r: given {r!r}, expected a number ≥ 0"):
        il.Relative(r)


def test_only_l1_can_be_relative():
    with pytest.raises(ValueError, match=r"l2.*Relative"):
        il.Ridge(il.Relative(0.1))


@sparse
def test_a_path_is_its_solutions(layer, options):
    X, Y, weight = data(layer)
    l1s = il.Lasso(1.0).l1_max(X, Y.to(X.dtype)[..., None] if Y.dim() == 2 else Y) * torch.tensor([[0.9], [0.4], [0.1]])
    path = layer(l1=1.0, **options).path(X, Y, l1s, sample_weight=weight)
    assert path.coef.shape[0] == 3
    for i, l1 in enumerate(l1s):
        alone = layer(l1=l1, **options).solve(X, Y, sample_weight=weight)
        assert relative_error(path.coef[i], alone.coef, floor=1e-3) <= 1e-4
        assert (path.gap[i] <= 1e-9).all()


@pytest.mark.parametrize(
    ("layer", "fewer"),
    [(il.Lasso, False), (il.GroupLasso, False), (il.HuberRegression, True), (il.LogisticRegression, True)],
)
def test_a_path_needs_no_more_iterations_than_its_solutions(layer, fewer):
    """Each begins where the one before ended; what a Gram matrix holds takes a step or two from anywhere."""
    X, Y, _ = data(layer)
    l1s = layer(l1=1.0).l1_max(X, Y).max() * torch.logspace(-0.1, -2, 20, dtype=torch.float64)
    alone = sum(layer(l1=float(l1)).solve(X, Y).n_iter for l1 in l1s).sum()
    path = layer(l1=1.0).path(X, Y, l1s).n_iter.sum()
    assert path < alone if fewer else path <= alone


def test_a_path_needs_strengths():
    X, Y, _ = data(il.Lasso)
    with pytest.raises(ValueError, match="l1s: given"):
        il.Lasso(0.1).path(X, Y, 0.1)


def test_a_start_of_another_shape_is_an_error():
    X, Y, _ = data(il.Lasso)
    with pytest.raises(ValueError, match="init: given"):
        il.Lasso(0.1).solve(X, Y, init=il.Lasso(0.1).solve(X[..., :5], Y))
