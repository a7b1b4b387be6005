"""Products with a float32 X are those of its float64 copy, however small the parts in which it is converted."""

import pytest
import torch
from helpers import lasso_gap, normal, one_hot, relative_error, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.func import grad

import implicitlayers as il
from implicitlayers import products, solve
from implicitlayers.features import Support
from implicitlayers.losses import Squared
from implicitlayers.penalties import GroupL2
from implicitlayers.problem import Problem
from implicitlayers.solvers import conjugate_part
from implicitlayers.testing import Subject, check_memory

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


@given(SIZES, SIZES, st.sampled_from([torch.float32, torch.float64]), CHUNKS, st.integers(0, 1000))
def test_norms_of_columns_are_as_exact_as_the_features(n, m, dtype, chunk, seed):
    X = normal(2, n, m, seed=seed).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "CHUNK", chunk)
        found = products.column_norms(X)
    assert found.dtype == torch.float64
    assert relative_error(found, X.double().square().sum(-2).sqrt()) <= 8 * torch.finfo(dtype).eps


def test_norms_of_columns_that_float32_does_not_hold():
    X = torch.tensor([[3e30, 0.0], [4e30, 1.0]])
    assert relative_error(products.column_norms(X), torch.tensor([5e30, 1.0]).double()) <= 1e-6


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


def known(A):
    return products.known_gram(A, (A @ A.mT).detach())


DIFFERENTIABLE = {
    "product": (products.product, (2, 3, 4), (2, 4, 2)),
    "transposed": (products.transposed_product, (2, 3, 4), (2, 3, 2)),
    "known gram": (known, (2, 3, 4)),
}
multiplied = pytest.mark.parametrize("name", DIFFERENTIABLE)


@multiplied
@pytest.mark.filterwarnings("ignore:.*vmap")
def test_products_have_first_and_second_derivatives_in_every_mode(name):
    """One by one and in batches, forward mode, and forward over reverse."""
    function, *shapes = DIFFERENTIABLE[name]
    inputs = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_batched_grad=True, check_fwd_over_rev=True)


@multiplied
def test_products_have_third_derivatives(name):
    function, *shapes = DIFFERENTIABLE[name]
    A, *B = (normal(*shape, seed=i) for i, shape in enumerate(shapes))

    def cubed(A):
        return function(A, *B).pow(3).sum()

    found = A.clone().requires_grad_()
    (first,) = torch.autograd.grad(cubed(found), found, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), found, create_graph=True)
    (third,) = torch.autograd.grad(second.square().sum(), found)
    expected = grad(lambda A: grad(lambda A: grad(cubed)(A).square().sum())(A).square().sum())(A)
    assert relative_error(third, expected) <= 1e-12


def test_products_with_a_tangent_of_the_narrow_argument_alone():
    A, B, T = normal(3, 4).requires_grad_(), normal(4, 2, seed=1), normal(4, 2, seed=2)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(products.product(A, forward_ad.make_dual(B, T))).tangent
    assert relative_error(found, A @ T) <= 1e-14


def test_a_known_gram_matrix_is_not_computed_again():
    A, value = normal(3, 4), normal(3, 3, seed=1)
    assert torch.equal(products.known_gram(A, value), value)
    assert torch.equal(products.known_gram(A.requires_grad_(), value), value)


@multiplied
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_further_products_take_no_further_memory_for_the_gradient(name, dtype):
    """Autograd adds up gradients of X in place: two of them are alive, however many products there are."""

    def five(X, Y):
        X, Y = X[None], Y[None]
        arguments = {
            "product": (products.product, normal(1, X.shape[-1], 2)),
            "transposed": (products.transposed_product, Y),
            "known gram": (products.known_gram, Y @ Y.mT),
        }
        function, argument = arguments[name]
        return torch.stack([function(X, argument).sum() for _ in range(5)]).sum()

    X, Y = normal(50, 20_000, dtype=dtype), normal(50, 1)
    assert check_memory(Subject(five, "lasso"), X, Y, {}, bound=2.5, rounds=2) >= 2


@pytest.mark.parametrize("order", [1, 2])
def test_what_is_saved_in_float32_has_its_precision(order):
    """Also the second derivatives, and no value is touched."""
    X, B = normal(3, 4).float().requires_grad_(), normal(4, 2, seed=1)

    def norm(context):
        with context:
            root = (products.transposed_product(X, normal(3, 2).double()) + B).square().sum(-1).sqrt()
            return (root * root.exp()).sum()

    plain, saved = norm(products.saved_like(normal(1))), norm(products.saved_like(X))
    assert torch.equal(plain, saved)
    gradients = []
    for value in (plain, saved):
        (gradient,) = torch.autograd.grad(value, X, create_graph=True)
        if order == 2:
            (gradient,) = torch.autograd.grad(gradient.square().sum(), X)
        gradients.append(gradient)
    assert relative_error(gradients[1], gradients[0]) <= 1e-5


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


@pytest.mark.parametrize(("largest", "bound"), [(0, 2.8), (2**24, 4.5)], ids=["no copy", "a copy"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_machines_on_many_float32_features_take_little_memory(monkeypatch, share, largest, bound):
    """Less than three times that of X, gradient included, whatever the share of active features; more with a copy."""
    monkeypatch.setattr(conjugate_part, "LARGEST_COPY", largest)
    monkeypatch.setattr(solve, "WHOLE_UP_TO", 0)
    X, y = normal(50, 100_000, dtype=torch.float32).relu() / 300, torch.arange(50) % 5
    l1_max = (X.mT @ (1.25 * one_hot(y, 5) - 0.25).float()).norm(dim=-1).max() / len(X)
    layer = il.MulticlassSVM(0.002, share * float(l1_max), n_classes=5)
    assert check_memory(Subject(lambda X, y: layer(X, y), "svm"), X, y, {}, bound=bound, rounds=2) > 1


@pytest.mark.parametrize(
    ("used", "largest", "gathered"),
    [(10, 0, True), (20, 240, True), (20, 119, False), (38, 240, False)],
)
def test_a_large_copy_of_active_features_is_not_made(monkeypatch, used, largest, gathered):
    """Less than a quarter are always gathered, and more while the copy has few entries."""
    monkeypatch.setattr(conjugate_part, "LARGEST_COPY", largest)
    one, V = torch.ones(1, dtype=torch.float64), torch.zeros(1, 41, 2, dtype=torch.float64)
    V[:, :used] = 2
    problem = Problem(normal(1, 6, 41), normal(1, 6, 2), one[:, None], Squared(), GroupL2(one[:, None]), one)
    features = conjugate_part.active_features(problem, V)
    assert isinstance(features, Support) == gathered
