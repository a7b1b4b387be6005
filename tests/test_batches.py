import gc

import pytest
import torch
from helpers import labels, lasso_gap, normal, one_hot, relative_error, svm_gap, uniform
from torch.func import grad, vmap

import implicitlayers as il

N, M, K = 10, 14, 3
OPTIONS = {"tol": 1e-12}
LAYERS = {
    "ridge_wide": il.Ridge(0.1, **OPTIONS),
    "ridge_tall": il.Ridge(0.1, **OPTIONS),
    "lasso": il.GroupLasso(0.1, **OPTIONS),
    "elastic_net": il.GroupLasso(0.1, 0.1, **OPTIONS),
    "svm": il.MulticlassSVM(0.3, **OPTIONS),
    "sparse_svm": il.MulticlassSVM(0.3, 0.03, **OPTIONS),
    "smooth_svm": il.MulticlassSVM(0.3, 0.03, 0.3, **OPTIONS),
}
named = pytest.mark.parametrize("name", LAYERS)


def data(name, *batch, seed=0):
    """Features and targets that suit the layer; one-hot targets for the SVMs."""
    m = 4 if name == "ridge_tall" else M
    X = normal(*batch, N, m, seed=seed)
    return X, one_hot(labels(*batch, N, k=K, seed=seed), K) if "svm" in name else normal(*batch, N, K, seed=seed + 1)


def quiet(name, **options):
    """The same layer, silent about failures."""
    layer = LAYERS[name]
    strengths = {s: getattr(layer, s) for s in ("l1", "l2", "smoothing") if hasattr(layer, s)}
    return type(layer)(**strengths, **OPTIONS | {"on_fail": "ignore"} | options)


@named
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (2, 1, 3)])
def test_batch_equals_loop(name, batch):
    X, Y = data(name, *batch)
    solution = LAYERS[name].solve(X, Y)
    assert solution.coef.shape == (*batch, X.shape[-1], K)
    assert solution.dual.shape == (*batch, N, K)
    for field in ("objective", "gap", "coef_error", "status", "n_iter", "converged"):
        assert getattr(solution, field).shape == batch, field
    assert solution.support.shape == (*batch, X.shape[-1])
    flat = X.reshape(-1, *X.shape[-2:]), Y.reshape(-1, N, K)
    looped = torch.stack([LAYERS[name](x, y) for x, y in zip(*flat, strict=True)])
    assert relative_error(solution.coef.reshape(looped.shape), looped) <= 1e-8
    assert solution.converged.all()


@named
def test_arguments_broadcast(name):
    """X, targets, weights and strengths, each with its own batch dimensions."""
    X, Y, weight = data(name, 2, 1)[0], data(name, 3)[1], uniform(2, 3, N)
    scale = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    layer = LAYERS[name]
    strengths = {s: getattr(layer, s) * scale for s in ("l1", "l2", "smoothing") if getattr(layer, s, 0)}
    coef = type(layer)(**strengths, **OPTIONS)(X, Y, sample_weight=weight)
    assert coef.shape == (2, 3, X.shape[-1], K)
    for a in range(2):
        for b in range(3):
            one = type(layer)(**{s: float(v[a, 0]) for s, v in strengths.items()}, **OPTIONS)
            assert relative_error(coef[a, b], one(X[a, 0], Y[b], sample_weight=weight[a, b])) <= 1e-8


@named
def test_strengths_alone_make_a_batch(name):
    """A path of strengths for one problem."""
    X, Y = data(name)
    path = torch.tensor([0.2, 0.1, 0.05], dtype=torch.float64)
    main = "l1" if hasattr(LAYERS[name], "l1") else "l2"
    strengths = {s: getattr(LAYERS[name], s) for s in ("l1", "l2", "smoothing") if hasattr(LAYERS[name], s)}
    coef = type(LAYERS[name])(**strengths | {main: path}, **OPTIONS)(X, Y)
    for i, value in enumerate(path):
        one = type(LAYERS[name])(**strengths | {main: float(value)}, **OPTIONS)(X, Y)
        assert relative_error(coef[i], one) <= 1e-8


@named
def test_order_of_the_batch_does_not_matter(name):
    X, Y = data(name, 4)
    order = torch.tensor([2, 0, 3, 1])
    assert relative_error(LAYERS[name](X[order], Y[order]), LAYERS[name](X, Y)[order]) <= 1e-8


def spoilt(name, how):
    """A batch of four whose element 1 is bad."""
    X, Y = data(name, 4)
    if how == "nan_X":
        X[1, 0, 0] = torch.nan
    elif how == "inf_X":
        X[1, 3, 1] = torch.inf
    elif how == "all_nan":
        X[1] = torch.nan
    elif how == "inf_Y":
        Y[1, 2, 0] = torch.inf
    else:
        X[1] = 0
    return X, Y


GOOD = [0, 2, 3]


@named
@pytest.mark.parametrize("how", ["nan_X", "inf_X", "all_nan", "inf_Y", "zeros"])
@pytest.mark.parametrize("mapped", [False, True], ids=["batch", "vmap"])
def test_one_bad_element_leaves_its_neighbours_alone(name, how, mapped):
    """In value and derivatives, flagged itself, its derivatives zero (qpth#22, dpax#5)."""
    X, Y = spoilt(name, how)
    C = normal(X.shape[-1], K, seed=5)
    layer = quiet(name)

    def run(X, Y):
        return (layer(X, Y) * C).sum((-2, -1)).nan_to_num(0.0).sum()

    def gradients(X, Y):
        return vmap(grad(run, (0, 1)))(X, Y) if mapped else grad(run, (0, 1))(X, Y)

    def solve(X, Y):
        solution = layer.solve(X, Y)
        return solution.coef, solution.gap, solution.status, solution.converged

    coef, gap, status, converged = vmap(solve)(X, Y) if mapped else solve(X, Y)
    alone = layer.solve(X[GOOD], Y[GOOD])
    assert relative_error(coef[GOOD], alone.coef) <= 1e-12
    assert torch.equal(status[GOOD], alone.status)
    assert (alone.status == 0).all()
    if how == "zeros":
        assert (coef[1] == 0).all()
        assert converged.all()
    else:
        assert status[1] == il.Status.NOT_FINITE
        assert coef[1].isnan().all()
        assert gap[1].isnan()
        assert converged.tolist() == [True, False, True, True]
    for given, expected in zip(gradients(X, Y), gradients(X[GOOD], Y[GOOD]), strict=True):
        # Near-singular solves amplify rounding: derivatives agree to what the solution's precision gives.
        assert relative_error(given[GOOD], expected) <= 1e-8
        assert torch.isfinite(given).all()
        if how != "zeros":
            assert (given[1] == 0).all()


@named
def test_forward_derivatives_beside_a_bad_element(name):
    X, Y = spoilt(name, "nan_X")
    tangent = torch.ones_like(X)
    layer = quiet(name)
    _, moved = torch.func.jvp(lambda X: layer(X, Y), (X,), (tangent,))
    _, alone = torch.func.jvp(lambda X: layer(X, Y[GOOD]), (X[GOOD],), (tangent[GOOD],))
    assert relative_error(moved[GOOD], alone) <= 1e-8
    assert (moved[1] == 0).all()


@named
@pytest.mark.parametrize("batch", [(0,), (2, 0)])
def test_empty_batches_have_empty_results(name, batch):
    X, Y = data(name, *batch)
    X = X.requires_grad_()
    solution = LAYERS[name].solve(X, Y)
    assert solution.coef.shape == (*batch, X.shape[-1], K)
    assert solution.gap.shape == solution.status.shape == batch
    solution.coef.sum().backward()
    assert X.grad.shape == X.shape


@named
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype_in_is_dtype_out(name, dtype):
    X, Y = (t.to(dtype) for t in data(name, 2))
    X = X.requires_grad_()
    # Coefficients rounded to half precision cannot be certified to the default tolerance.
    solution = quiet(name, tol=None).solve(X, Y)
    assert solution.coef.dtype == solution.dual.dtype == dtype
    assert solution.gap.dtype == torch.float64
    reference = LAYERS[name](X.detach().double(), Y.double())
    rounding = torch.finfo(dtype).eps
    assert relative_error(solution.coef.double(), reference) <= 4 * rounding + 1e-6
    solution.coef.sum().backward()
    assert X.grad.dtype == dtype
    assert torch.isfinite(X.grad).all()
    exact = grad(lambda X: LAYERS[name](X, Y.double()).sum())(X.detach().double())
    assert relative_error(X.grad.double(), exact) <= 8 * rounding + 1e-6


@pytest.mark.parametrize("name", ["ridge_wide", "lasso", "elastic_net", "svm", "sparse_svm", "smooth_svm"])
def test_float32_gap_is_the_one_that_float64_confirms(name):
    """The gap is that of the coefficients as returned, after rounding (qpth#4, cvxpylayers#133)."""
    X, Y = (t.float() for t in data(name))
    layer = quiet(name, tol=None)
    solution = layer.solve(X, Y)
    assert solution.converged
    if "svm" in name:
        confirmed = svm_gap(X, Y, solution.coef, solution.dual, layer.l2, layer.l1, layer.smoothing)
    else:
        confirmed = lasso_gap(X, Y, solution.coef, getattr(layer, "l1", 0.0), layer.l2)
    assert confirmed <= 1e-6
    # The dual point, too, was rounded on its way out.
    assert abs(float(solution.gap) - confirmed) <= 0.1 * 1e-6
    rounded_up = layer.solve(X.double(), Y.double()).gap
    assert float(solution.gap) > float(rounded_up)


def test_targets_of_another_dtype_are_welcome():
    X, Y = data("lasso")
    coef = LAYERS["lasso"](X, Y)
    assert relative_error(LAYERS["lasso"](X, Y.float()), coef) <= 1e-6
    assert LAYERS["lasso"](X.float(), Y).dtype == torch.float32


@pytest.mark.parametrize("name", ["ridge_wide", "elastic_net", "sparse_svm"])
def test_autocast_does_not_reach_inside(name):
    """Half-precision features of an autocast encoder are solved in float64 all the same."""
    X, Y = (t.to(torch.bfloat16) for t in data(name))
    X = X.requires_grad_()
    layer = quiet(name, tol=None)
    outside = layer(X, Y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(X, Y)
    assert torch.equal(inside, outside)
    assert inside.dtype == torch.bfloat16
    encoder = torch.nn.Linear(5, X.shape[-1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coef = layer(encoder(normal(N, 5, dtype=torch.float32)), Y)
        coef.float().square().sum().backward()
    assert torch.isfinite(encoder.weight.grad).all()
    full, half = X.detach().float(), X.detach().double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert relative_error(layer(full, Y.float()).double(), layer(half, Y.double())) <= 1e-6


@pytest.mark.parametrize("name", ["ridge_wide", "lasso", "sparse_svm"])
def test_memory_is_flat_over_a_long_run(name):
    """200 training steps leave no tensor behind (higher#6, torchopt#218)."""
    encoder = torch.nn.Linear(5, M if name != "ridge_tall" else 4).double()
    optimiser = torch.optim.SGD(encoder.parameters(), lr=1e-3)
    inputs, Y = normal(2, N, 5), data(name, 2)[1]
    layer = quiet(name, tol=1e-6)

    def live():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    counts = []
    for step in range(200):
        optimiser.zero_grad()
        layer(encoder(inputs), Y).square().sum().backward()
        optimiser.step()
        if step in (20, 199):
            counts.append(live())
    assert counts[1] <= counts[0]


@named
def test_warm_start_finds_the_same_solution_in_fewer_iterations(name):
    """And the same derivative (cvxpylayers#35, celer#199)."""
    X, Y = data(name, 2)
    layer = LAYERS[name]
    cold = layer.solve(X, Y)
    nearby = X + 1e-3 * normal(*X.shape, seed=9)
    again, fresh = layer.solve(nearby, Y, init=cold), layer.solve(nearby, Y)
    assert relative_error(again.coef, fresh.coef) <= 1e-8
    assert (again.n_iter <= fresh.n_iter).all()
    assert (layer.solve(X, Y, init=cold).n_iter <= cold.n_iter).all()
    given = grad(lambda X: layer(X, Y, init=cold).square().sum())(nearby)
    assert relative_error(given, grad(lambda X: layer(X, Y).square().sum())(nearby)) <= 1e-6


def test_warm_start_saves_iterations():
    for name in ("lasso", "sparse_svm"):
        X, Y = data(name, 2)
        cold = LAYERS[name].solve(X, Y)
        assert (LAYERS[name].solve(X, Y, init=cold).n_iter < cold.n_iter).all(), name


def test_only_the_coefficients_carry_derivatives():
    X, Y = data("sparse_svm")
    solution = LAYERS["sparse_svm"].solve(X.requires_grad_(), Y)
    assert solution.coef.requires_grad
    for field in ("dual", "objective", "gap", "coef_error", "status", "n_iter"):
        assert not getattr(solution, field).requires_grad, field


def test_functional_returns_what_the_layer_returns():
    X, Y = data("sparse_svm")
    weight = uniform(N)
    pairs = [
        (il.functional.ridge(X, Y, l2=0.1, sample_weight=weight), il.Ridge(0.1)(X, Y, sample_weight=weight)),
        (
            il.functional.group_lasso(X, Y, l1=0.1, l2=0.2, sample_weight=weight),
            il.GroupLasso(0.1, 0.2)(X, Y, sample_weight=weight),
        ),
        (
            il.functional.multiclass_svm(X, Y, l2=0.3, l1=0.03, smoothing=0.1, sample_weight=weight),
            il.MulticlassSVM(0.3, 0.03, 0.1)(X, Y, sample_weight=weight),
        ),
    ]
    assert all(torch.equal(a, b) for a, b in pairs)
    mask = torch.tensor([True, True, True, False])
    wide = torch.cat([Y, torch.zeros(N, 1)], -1)
    masked = il.functional.multiclass_svm(X, wide, l2=0.3, class_mask=mask)
    assert torch.equal(masked, il.MulticlassSVM(0.3)(X, wide, class_mask=mask))


def test_every_element_has_its_own_iterations():
    """A hard neighbour costs an element none of its iterations, and the batch does not end when the easy ones do."""
    X, Y = normal(4, N, M), normal(4, N, K, seed=1)
    X[1] *= 10 ** torch.linspace(-3, 1, M, dtype=torch.float64)
    for layer in (il.GroupLasso(il.Relative(0.003)), il.HuberRegression(l1=il.Relative(0.003), delta=0.5)):
        together = layer.solve(X, Y)
        alone = [layer.solve(x, y) for x, y in zip(X, Y, strict=True)]
        # Rounding decides whether Newton's last step counts.
        assert (together.n_iter - torch.stack([one.n_iter for one in alone])).abs().max() <= 2
        assert len(set(together.n_iter.tolist())) > 1
