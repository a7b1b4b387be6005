"""How X lies in memory changes neither the solution nor what it costs: rows, columns, gaps, expanded (case 30).

Costs are counted in passes and in bytes, not in seconds.
"""

import pytest
import torch
from helpers import labels, normal, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import implicitlayers as il
from implicitlayers import products


def rows(X):
    return X.contiguous()


def columns(X):
    return X.mT.contiguous().mT


def gaps(X):
    """Every second column of a matrix."""
    return X.repeat_interleave(2, -1)[..., ::2]


def gaps_by_columns(X):
    """Every second row of a matrix that lies column after column."""
    return columns(X.repeat_interleave(2, -2))[..., ::2, :]


def rows_apart(X):
    return X.repeat_interleave(3, -2)[..., ::3, :]


LAYOUTS = {f.__name__: f for f in (rows, columns, gaps, gaps_by_columns, rows_apart)}
OTHERS = {name: f for name, f in LAYOUTS.items() if name != "rows"}


def expanded(*shape, dim, seed=0, dtype=torch.float64):
    """Equal along a dimension, with stride 0."""
    one = list(shape)
    one[dim] = 1
    return normal(*one, seed=seed, dtype=dtype).expand(*shape)


def windows(n, m, dtype=torch.float64):
    """Rows that overlap in memory."""
    return normal(n + m - 1, dtype=dtype).unfold(0, m, 1)


# Values


def assert_products_agree(X):
    """Against a copy that lies row after row, in float64."""
    exact = X.to(torch.float64).contiguous()
    B, C = normal(*X.shape[:-2], X.shape[-1], 2), normal(*X.shape[:-2], X.shape[-2], 3, seed=1)
    weight = normal(*X.shape[:-2], X.shape[-1], seed=2).abs()
    tight, loose = 1e-13, 8 * torch.finfo(X.dtype).eps
    for name, found, expected, tol in (
        ("product", products.product(X, B), exact @ B, tight),
        ("transposed", products.transposed_product(X, C), exact.mT @ C, tight),
        ("gram", products.gram(X), exact @ exact.mT, tight),
        ("weighted gram", products.gram(X, weight), exact * weight[..., None, :] @ exact.mT, tight),
        ("rows", products.row_squares(X), exact.square().sum(-1), loose),
        ("columns", products.column_norms(X), exact.square().sum(-2).sqrt(), loose),
    ):
        assert found.dtype == torch.float64, name
        assert relative_error(found, expected) <= tol, name


@given(
    st.sampled_from(sorted(LAYOUTS)),
    st.lists(st.integers(1, 3), max_size=1),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1, 8, 10**6]),
)
def test_products_of_every_layout(layout, batch, n, m, dtype, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "CHUNK", chunk)
        assert_products_agree(LAYOUTS[layout](normal(*batch, n, m, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_what_is_expanded_or_overlaps(dtype):
    for dim in (0, 1, 2):
        assert_products_agree(expanded(3, 6, 5, dim=dim, dtype=dtype))
    assert_products_agree(windows(6, 5, dtype=dtype))
    assert_products_agree(windows(6, 5, dtype=dtype).mT)


LAYERS = {
    "ridge": il.Ridge(0.1),
    "lasso": il.Lasso(0.05),
    "lasso, working set": il.Lasso(0.05, solver="working_set"),
    "lasso, intercept": il.Lasso(0.05, fit_intercept=True),
    "elastic net": il.ElasticNet(0.05, 0.1),
    "group lasso": il.GroupLasso(0.05),
    "sparse group lasso": il.SparseGroupLasso(0.02, 0.05, 0.1),
    "sparse ridge": il.SparseRidge(0.1, 2),
    "non-negative": il.NonNegativeRegression(0.05),
    "box": il.BoxRegression(-0.3, 0.2, 0.1),
    "simplex": il.SimplexRegression(l2=0.1),
    "huber": il.HuberRegression(0.05, fit_intercept=True),
    "logistic": il.LogisticRegression(0.05, 0.1),
    "logistic, intercept": il.LogisticRegression(0.05, 0.1, fit_intercept=True),
    "svm": il.MulticlassSVM(0.3),
    "sparse svm": il.MulticlassSVM(0.3, 0.05),
    "binary svm": il.BinarySVM(0.3, 0.05),
}


def solved(layer, X, whole):
    """Coefficients, and the gradient of X; ``whole`` is up to how many entries X is converted as a whole."""
    b, n = X.shape[:2]
    Y = labels(b, n, k=2) if isinstance(layer, il.layers.classification.ClassificationLayer) else normal(b, n, 2)
    X = X.detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(il.solve, "WHOLE_UP_TO", whole)
        solution = layer.solve(X, Y)
        gradient = torch.autograd.grad(solution.coef.square().sum(), X)[0]
    assert solution.converged.all()
    return solution, gradient


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@settings(max_examples=6)
@given(st.sampled_from(sorted(OTHERS)), st.sampled_from([(9, 6), (7, 90)]), st.booleans(), st.integers(0, 20))
def test_every_layout_has_the_same_solution(layer, layout, shape, whole, seed):
    """Float32 where X stays as it is and is converted in parts, float64 where it does not."""
    dtype, tol = (torch.float64, 1e-7) if whole else (torch.float32, 1e-3)
    X = normal(2, *shape, seed=seed, dtype=dtype)
    expected, to_X = solved(layer, X, 2**20 if whole else 0)
    found, gradient = solved(layer, LAYOUTS[layout](X), 2**20 if whole else 0)
    assert relative_error(found.coef, expected.coef) <= tol
    # A tie is one or none according to rounding, and says so.
    certain = (found.derivative_error < 1) & (expected.derivative_error < 1)
    if certain.any():
        assert relative_error(gradient[certain], to_X[certain]) <= 10 * tol


# Cost


class Passes(TorchDispatchMode):
    """Operations on ``numel`` entries or more, by name, with the tensor they were on."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.seen = numel, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for argument in args:
            if isinstance(argument, torch.Tensor) and argument.numel() >= self.numel and not function.is_view:
                self.seen.append((function, argument, args[1:], kwargs or {}))
        return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norms", [products.row_squares, products.column_norms])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_take_one_pass_along_memory_or_in_parts(layout, norms, dtype, monkeypatch):
    """Case 30: a reduction across memory, or in another dtype, takes ten to thirty times as long as one along it."""
    monkeypatch.setattr(products, "CHUNK", 2**8)
    X = LAYOUTS[layout](normal(2, 40, 60, dtype=dtype))
    with Passes(X.numel()) as passes:
        norms(X)
    assert len(passes.seen) <= 1
    for function, at, (_, dims, *_), options in passes.seen:
        assert function is torch.ops.aten.linalg_vector_norm.default
        assert at.stride(dims[0]) == min(at.stride()[-2:])
        assert options.get("dtype") in (None, dtype)


def largest_allocation(run):
    """In bytes, by one operation; those that BLAS asks for to straighten what it is given are among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    return max(event.self_cpu_memory_usage for event in profiled.events())


def test_a_copy_is_seen():
    X = gaps(normal(20, 400))
    assert largest_allocation(lambda: X @ normal(400, 1)) >= X.numel() * 8


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(20, 400), (400, 20), (3, 20, 400), (3, 400, 20)], ids=str)
def test_products_make_no_copy(layout, dtype, shape, monkeypatch):
    """BLAS takes rows or columns without gaps; for anything else a copy is made, of all of X unless it is in parts."""
    monkeypatch.setattr(products, "CHUNK", 2**8)
    X = LAYOUTS[layout](normal(*shape, dtype=dtype))
    B, C = normal(*shape[:-2], shape[-1], 1), normal(*shape[:-2], shape[-2], 1)
    few = min(shape[-2:]) == shape[-2]
    for name, run in {
        "product": lambda: products.product(X, B),
        "transposed": lambda: products.transposed_product(X, C),
        "gram": lambda: products.gram(X if few else X.mT),
        "rows": lambda: products.row_squares(X),
        "columns": lambda: products.column_norms(X),
    }.items():
        assert largest_allocation(run) <= X.numel() * 8 / 4, name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["ridge", "lasso, working set", "group lasso", "logistic", "sparse svm"])
def test_a_solve_makes_no_copy(name, layout, monkeypatch):
    """Where few features are in use, nothing as large as X is ever made."""
    monkeypatch.setattr(products, "CHUNK", 2**14)
    monkeypatch.setattr(il.solve, "WHOLE_UP_TO", 0)
    X = LAYOUTS[layout](normal(40, 4000))
    Y = labels(40, k=2) if name in ("logistic", "sparse svm") else X[:, :2] + 0
    layer = {"lasso, working set": il.Lasso(0.5), "group lasso": il.GroupLasso(0.5)}.get(name, LAYERS[name])
    if name in ("logistic", "sparse svm"):
        layer = type(layer)(l2=0.1, l1=0.15)
    assert largest_allocation(lambda: layer.solve(X, Y)) <= X.numel() * 8 / 2


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("name", ["ridge", "lasso", "sparse svm"])
def test_gradients_lie_as_the_features_do(name, layout):
    """Or autograd makes another copy of each to have them so."""
    X = LAYOUTS[layout](normal(10, 30)).requires_grad_()
    Y = labels(10, k=2) if "svm" in name else normal(10, 2)
    seen = []
    X.register_hook(lambda gradient: seen.append(gradient.stride()))
    LAYERS[name](X, Y).square().sum().backward()
    assert seen == [X.stride()]
