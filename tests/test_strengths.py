"""Strengths relative to the l1 at which nothing is left, and paths."""

import pytest
import torch
from helpers import labels, normal, relative_error, uniform
from torch.func import grad, vmap

import implicitlayers as il

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
