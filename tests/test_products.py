"""Products with a float32 X are those of its float64 copy, however small the parts in which it is converted."""

import pytest
import torch
from helpers import lasso_gap, normal, relative_error, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad

import implicitlayers as il
from implicitlayers import products, solve

SIZES = st.integers(1, 9)
CHUNKS = st.integers(1, 40)


@pytest.fixture
def small_parts(monkeypatch):
    """Every X counts as large."""
    monkeypatch.setattr(products, "CHUNK", 16)
    monkeypatch.setattr(solve, "WHOLE_UP_TO", 0)


@given(SIZES, SIZES, SIZES, CHUNKS, st.sampled_from([(), (2,), (2, 3)]), st.integers(0, 1000))
def test_products_in_parts_are_products(n, m, k, chunk, batch, seed):
    """To the rounding of float64: each entry of X is converted exactly."""
    X = normal(*batch, n, m, seed=seed).float()
    B, C, weight = normal(*batch, m, k, seed=seed + 1), normal(*batch, n, k, seed=seed + 2), uniform(*batch, m)
    exact = X.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "CHUNK", chunk)
        found = {
            "product": (products.product(X, B), exact @ B),
            "transposed": (products.transposed_product(X, C), exact.mT @ C),
            "gram": (products.gram(X), exact @ exact.mT),
            "weighted gram": (products.gram(X, weight), exact * weight[..., None, :] @ exact.mT),
        }
    for name, (given_, expected) in found.items():
        assert given_.dtype == torch.float64, name
        assert relative_error(given_, expected) <= 1e-14, name


@given(SIZES, SIZES, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 1000))
def test_squares_of_rows_are_as_exact_as_the_features(n, m, dtype, seed):
    X = normal(n, m, seed=seed).to(dtype)
    found = products.row_squares(X)
    assert found.dtype == torch.float64
    assert relative_error(found, X.double().square().sum(-1)) <= 8 * torch.finfo(dtype).eps


def test_squares_of_rows_that_float32_does_not_hold():
    X = torch.tensor([[3e30, 4e30], [0.0, 1.0]])
    assert relative_error(products.row_squares(X), X.double().square().sum(-1)) <= 1e-6


@given(SIZES, SIZES, CHUNKS, st.integers(0, 1000))
def test_rough_gram_matrices_have_the_precision_asked_for(n, m, chunk, seed):
    X, weight = normal(n, m, seed=seed).float(), uniform(m)
    exact = X.double() * weight @ X.double().mT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "CHUNK", chunk)
        found = products.gram(X, weight, torch.float32)
    assert found.dtype == torch.float64
    assert torch.equal(found, found.mT)
    assert relative_error(found, exact) <= 1e-5


@given(SIZES, SIZES, CHUNKS, st.integers(0, 1000))
def test_derivatives_of_products_have_the_precision_of_the_features(n, m, chunk, seed):
    X, B, C = normal(n, m, seed=seed).float(), normal(m, 2, seed=seed + 1), normal(n, 2, seed=seed + 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "CHUNK", chunk)
        one = grad(lambda X: (products.product(X, B) * C).sum())(X)
        other = grad(lambda X: (products.transposed_product(X, C) * B).sum())(X)
        to_B = grad(lambda B: (products.product(X, B) * C).sum())(B)
    for gradient in (one, other):
        assert gradient.dtype == torch.float32
        assert relative_error(gradient.double(), C @ B.mT) <= 1e-6
    # With respect to the narrow argument nothing is rounded.
    assert to_B.dtype == torch.float64
    assert relative_error(to_B, X.double().mT @ C) <= 1e-14


LAYERS = {
    "ridge": lambda **o: il.Ridge(0.1, **o),
    "lasso": lambda **o: il.GroupLasso(0.1, **o),
    "elastic_net": lambda **o: il.ElasticNet(0.05, 0.1, **o),
    "huber": lambda **o: il.HuberRegression(0.05, 0.1, 0.7, **o),
    "nonnegative": lambda **o: il.NonNegativeRegression(0.05, 0.1, **o),
}
named = pytest.mark.parametrize("name", LAYERS)
shaped = pytest.mark.parametrize(("n", "m"), [(6, 23), (23, 6)], ids=["wide", "tall"])


@named
@shaped
@pytest.mark.usefixtures("small_parts")
def test_a_large_float32_problem_has_the_float64_solution(name, n, m):
    """Values to the rounding of the result, and derivatives to that of X."""
    X, Y, C = normal(2, n, m, dtype=torch.float32), normal(2, n, 2, seed=1), normal(m, 2, seed=2)
    solution = LAYERS[name]().solve(X, Y)
    exact = LAYERS[name](tol=1e-12).solve(X.double(), Y)
    assert solution.converged.all()
    assert solution.coef.dtype == torch.float32
    # A gap of 1e-6 allows a thousandth, in the worst case.
    tight = LAYERS[name](tol=1e-12, on_fail="ignore").solve(X, Y)
    assert relative_error(solution.coef.double(), exact.coef) <= 1e-3
    assert relative_error(tight.coef.double(), exact.coef) <= 1e-6
    gradient = grad(lambda X: (LAYERS[name](tol=1e-12, on_fail="ignore")(X, Y) * C).sum())(X)
    expected = grad(lambda X: (LAYERS[name](tol=1e-12)(X, Y) * C).sum())(X.double())
    assert gradient.dtype == torch.float32
    assert relative_error(gradient.double(), expected) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@named
@pytest.mark.usefixtures("small_parts")
def test_a_large_problem_in_half_precision_is_solved_in_more(name, dtype):
    """As good as rounding the float64 solution of the same features: nothing is accumulated in half precision."""
    X, Y = normal(2, 6, 23).to(dtype), normal(2, 6, 2, seed=1)
    solution = LAYERS[name](on_fail="ignore", tol=1e-12).solve(X, Y)
    exact = LAYERS[name](tol=1e-12)(X.double(), Y)
    assert solution.coef.dtype == dtype
    # The one rounding of the result, and float32 in the polish.
    assert relative_error(solution.coef.double(), exact) <= torch.finfo(dtype).eps
    gradient = grad(lambda X: LAYERS[name](on_fail="ignore", tol=1e-12)(X, Y).sum())(X)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@pytest.mark.usefixtures("small_parts")
def test_the_gap_of_a_large_float32_problem_is_one_that_float64_confirms():
    X, Y = normal(6, 40, dtype=torch.float32), normal(6, 2, seed=1)
    solution = il.GroupLasso(0.1).solve(X, Y)
    # At the residual of the rounded coefficients, which is a worse dual point than the layer's own.
    assert -1e-12 <= float(solution.gap) <= lasso_gap(X, Y, solution.coef, 0.1) + 1e-12 <= 1e-6
