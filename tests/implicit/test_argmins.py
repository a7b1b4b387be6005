"""A user's own solver: values untouched, derivatives exact in every mode, failures told."""

import doctest
import functools
import importlib
import itertools
import warnings
from typing import NamedTuple

import pytest
import torch
from helpers import arrays, directional_derivative, normal, relative_error, uniform
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, vmap

import implicitlayers as il

implicit = il.implicit
float64 = functools.partial(torch.tensor, dtype=torch.float64)
COMPOSITIONS = list(itertools.product((jacrev, jacfwd), repeat=2))


def name(value):
    return getattr(value, "__name__", None) or type(value).__name__


# Problems with a solver each: three unknowns, four parameters in one vector p.


def cubic_residual(x, p):
    """Not symmetric: Ax + x³ = (p₀, p₁, p₂ p₃), A depending on p."""
    A = float64([[3.0, -1.0, 0.5], [1.0, 4.0, -2.0], [0.0, 1.0, 3.0]])
    return (A + 0.1 * torch.outer(p[:3], p[1:])) @ x + x**3 - torch.stack([p[0], p[1], p[2] * p[3]])


def quartic_objective(x, p):
    S = float64([[3.0, -1.0, 0.5], [-1.0, 4.0, 1.0], [0.5, 1.0, 3.0]])
    return x @ S @ x / 2 * (1 + p[3] ** 2) + (x**4).sum() / 4 - p[:3] @ x + p[0] * p[1] * x[2]


def cosine_map(x, p):
    return torch.cos(p[:3] * x.roll(1)) / 2 + p[3] * x / 3


def newton(residual, p, steps=12):
    x = torch.zeros(3, dtype=p.dtype)
    for _ in range(steps):
        x = x - torch.linalg.solve(jacrev(residual)(x, p), residual(x, p))
    return x


def iterate(p, steps=100):
    x = torch.zeros(3, dtype=p.dtype)
    for _ in range(steps):
        x = cosine_map(x, p)
    return x


KINDS = {
    "root": (implicit.root(cubic_residual), lambda p: newton(cubic_residual, p)),
    "argmin": (implicit.argmin(quartic_objective), lambda p: newton(grad(quartic_objective), p)),
    "fixed_point": (implicit.fixed_point(cosine_map), iterate),
}
P = float64([0.7, -0.4, 0.9, 0.5])
METHODS = [implicit.Dense(), implicit.CG(tol=1e-12), implicit.NormalCG(tol=1e-12), implicit.GMRES(tol=1e-12)]


@functools.cache
def finite_differences(kind):
    """Solution's derivatives along u, and along u and w, by central differences of the solver itself."""
    solver = KINDS[kind][1]
    u, w = normal(4, seed=1), normal(4, seed=2)
    first = directional_derivative(solver, P, u)
    second = directional_derivative(lambda p: directional_derivative(solver, p, u), P, w, step=2e-3)
    return u, w, first, second


def decorated(kind, **options):
    decorate = {"root": implicit.root, "argmin": implicit.argmin, "fixed_point": implicit.fixed_point}[kind]
    function = {"root": cubic_residual, "argmin": quartic_objective, "fixed_point": cosine_map}[kind]
    return decorate(function, **options)(KINDS[kind][1])


@pytest.mark.parametrize("method", METHODS, ids=name)
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_match_finite_differences(kind, method):
    """Nested forward mode (pytorch#197867) among them."""
    if kind != "argmin" and isinstance(method, implicit.CG):
        method = implicit.CG(tol=1e-9)  # Not symmetric: only the failure is tested, below.
        with pytest.warns(il.ConvergenceWarning):
            jacrev(decorated(kind, linear_solve=method))(P)
        return
    solve = decorated(kind, linear_solve=method, on_fail="raise")
    u, w, first, second = finite_differences(kind)
    for transform in (jacrev, jacfwd):
        assert relative_error(transform(solve)(P) @ u, first) < 1e-9
    for outer, inner in COMPOSITIONS:
        assert relative_error(outer(inner(solve))(P) @ w @ u, second) < 1e-6, (outer, inner)


@pytest.mark.parametrize("method", [implicit.Dense(), implicit.GMRES(tol=1e-12)], ids=name)
def test_gradcheck_in_both_modes(method):
    solve = decorated("root", linear_solve=method)
    p = P.clone().requires_grad_()
    torch.autograd.gradcheck(solve, p, check_forward_ad=True)
    torch.autograd.gradgradcheck(solve, p, check_fwd_over_rev=True)


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_vmap_is_a_loop(method):
    solve = decorated("argmin", linear_solve=method)
    batch = P + 0.1 * normal(3, 4)
    for f in (solve, jacrev(solve), jacfwd(solve), jacrev(jacfwd(solve)), jacfwd(jacfwd(solve))):
        assert relative_error(vmap(f)(batch), torch.stack([f(p) for p in batch])) < 1e-9
    summed = grad(lambda batch: vmap(solve)(batch).sum())(batch)
    assert relative_error(summed, torch.stack([grad(lambda p: solve(p).sum())(p) for p in batch])) < 1e-9


def test_the_third_order_is_exact_on_request_only():
    def third(order):
        solve = decorated("root", derivative_order=order)
        return jacfwd(jacrev(jacfwd(solve)))(P)

    solve = decorated("root")
    expected = directional_derivative(jacfwd(jacrev(solve)), P, normal(4))
    assert relative_error(third(3) @ normal(4), expected) < 1e-6
    assert relative_error(third(2) @ normal(4), expected) > 1e-3


@pytest.mark.parametrize("order", [0, 1])
def test_derivative_order_is_the_number_of_exact_orders(order):
    solve, exact = decorated("root", derivative_order=order), decorated("root")
    J = jacrev(solve)(P)
    assert (J == 0).all() if order == 0 else relative_error(J, jacrev(exact)(P)) < 1e-12
    assert relative_error(jacrev(jacrev(solve))(P), jacrev(jacrev(exact))(P)) > 1e-3


@given(a=st.floats(0.2, 5), seed=st.integers(0, 100))
def test_the_value_is_bit_for_bit_the_solvers(a, seed):
    p = P + float64(a) * 0.1 * normal(4, seed=seed)
    for kind, (decorate, solver) in KINDS.items():
        found = decorate(solver)(p.clone().requires_grad_())
        assert torch.equal(found, solver(p)), kind
        assert found.requires_grad


# Cases that users of other libraries reported.


def test_scalars():
    """torchopt#222, diffcp#57: 0-d tensors in and out."""

    def cubic(x, a):
        return a * x**3 - x - 2

    @implicit.root(cubic)
    def solve(a):
        x = torch.tensor(1.5, dtype=a.dtype)
        for _ in range(30):
            x -= cubic(x, a) / (3 * a * x**2 - 1)
        return x

    a = float64(1.0)
    assert solve(a).shape == ()
    assert abs(solve(a).item() - 1.52138) < 1e-5
    assert abs(grad(solve)(a).item() - -0.59245) < 1e-5
    assert abs(jacfwd(solve)(a).item() - -0.59245) < 1e-5
    assert vmap(grad(solve))(float64([1.0, 2.0])).shape == (2,)

    @implicit.argmin(lambda x, lam: x**3 / 3 + lam * x**2 - x)
    def positive_minimum(lam):
        return -lam + (lam**2 + 1).sqrt()

    lam = float64(1.0)
    assert abs(positive_minimum(lam).item() - 0.414214) < 1e-6
    for transform in (jacrev, jacfwd):
        assert abs(transform(positive_minimum)(lam).item() - -0.292893) < 1e-6
    for outer, inner in COMPOSITIONS:
        assert abs(outer(inner(positive_minimum))(lam).item() - 8**-0.5) < 1e-12


def test_a_derivative_is_as_exact_as_its_solution():
    """cvxpylayers#245, #85, #70: the error falls with the solver's tolerance, and the estimate bounds it."""
    exact, J = KINDS["fixed_point"][1](P), jacrev(decorated("fixed_point"))(P)
    x, errors = torch.zeros(3, dtype=torch.float64), []
    for tol in (1e-4, 1e-6, 1e-8, 1e-10, 1e-12):
        while (cosine_map(x, P) - x).norm() > tol:
            x = cosine_map(x, P)
        solve = implicit.fixed_point(cosine_map)(lambda p, at=x: at)
        found, info = solve.with_info(P.clone().requires_grad_())
        assert info.residual <= tol
        assert (found - exact).norm() <= 1.01 * info.error + 1e-15
        errors.append(float((jacrev(solve)(P) - J).norm()))
        assert errors[-1] <= 5 * info.error + 1e-15
    assert errors[0] > 1e-6
    assert errors[-1] < 1e-11
    assert errors == sorted(errors, reverse=True)


def test_the_derivative_of_a_sum_is_the_sum_of_derivatives():
    """cvxpylayers#70."""
    solve = decorated("argmin")
    f, g = (lambda p: solve(p).square().sum()), (lambda p: solve(p)[0] * p[1])
    assert relative_error(grad(lambda p: f(p) + g(p))(P), grad(f)(P) + grad(g)(P)) < 1e-12


# Ridge regression: the layer of this library as oracle.


def ridge_objective(W, X, Y, l2):
    return ((X @ W - Y) ** 2).sum() / (2 * X.shape[0]) + l2 / 2 * (W**2).sum()


def ridge(X, Y, l2):
    n, m = X.shape
    return torch.linalg.solve(X.mT @ X / n + l2 * torch.eye(m, dtype=X.dtype), X.mT @ Y / n)


@given(X=arrays(5, 3, bound=3.0), Y=arrays(5, 2), l2=st.floats(0.1, 10))
def test_ridge_equals_the_layer(X, Y, l2):
    mine = implicit.argmin(ridge_objective, linear_solve=implicit.Dense(tol=1e-9))(ridge)
    problem = X, Y, float64(l2)

    def layer(X, Y, l2):
        return il.Ridge(l2=l2)(X, Y)

    assert relative_error(mine(*problem), layer(*problem)) < 1e-9
    for argnum in range(3):
        assert relative_error(jacrev(mine, argnum)(*problem), jacrev(layer, argnum)(*problem), floor=1e-3) < 1e-8
    assert (
        relative_error(
            jacfwd(grad(lambda *a: mine(*a).sum(), 2))(*problem),
            jacfwd(grad(lambda *a: layer(*a).sum(), 2))(*problem),
            floor=1e-3,
        )
        < 1e-7
    )


@pytest.mark.parametrize("method", METHODS, ids=name)
@pytest.mark.parametrize(
    "in_dims", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (1, 2, None)], ids=str
)
def test_vmap_over_any_argument_is_a_loop(method, in_dims):
    b, X, Y, l2 = 3, normal(5, 3), normal(5, 2), float64(0.5)
    many = normal(b, 5, 3, seed=1), normal(b, 5, 2, seed=2), uniform(b)
    solve = implicit.argmin(ridge_objective, linear_solve=method, on_fail="raise")(ridge)
    first = grad(lambda *problem: solve(*problem).square().sum(), (0, 1, 2))
    mapped = [
        one if d is None else every.movedim(0, d) for one, every, d in zip((X, Y, l2), many, in_dims, strict=True)
    ]
    values, derivatives = vmap(solve, in_dims)(*mapped), vmap(first, in_dims)(*mapped)
    for i in range(b):
        problem = [one if d is None else every[i] for one, every, d in zip((X, Y, l2), many, in_dims, strict=True)]
        assert relative_error(values[i], ridge(*problem)) < 1e-10
        for found, expected in zip(derivatives, first(*problem), strict=True):
            assert relative_error(found[i], expected) < 1e-9


# Structures and conventions.


class Parameters(NamedTuple):
    offset: torch.Tensor
    rest: tuple


def tree_residual(x, parameters, *, scale, power=2):
    shift, (factor, label) = parameters
    assert label == "label"
    return {"b": x["b"] * factor - shift, "list": [x["list"][0] ** power - scale * factor]}


def tree_solver(parameters, *, scale, power=2):
    shift, (factor, _) = parameters
    return {"b": shift / factor, "count": torch.tensor(7), "list": [(scale * factor) ** (1 / power)], "note": "done"}


@pytest.mark.parametrize("method", [implicit.Dense(), implicit.GMRES(), implicit.NormalCG()], ids=name)
def test_trees_keywords_and_leaves_that_are_no_tensors(method):
    solve = implicit.root(tree_residual, linear_solve=method, on_fail="raise")(tree_solver)

    def wrapped(call):
        def f(shift, factor, scale):
            return call(Parameters(shift, (factor, "label")), scale=scale, power=3)

        return f

    problem = normal(2, 2), float64(2.0), float64(1.5)
    found = wrapped(solve)(*problem)
    assert found["note"] == "done"
    assert found["count"].item() == 7
    assert list(found) == ["b", "count", "list", "note"]

    def tensors(f):
        return lambda *args: (lambda x: (x["b"], x["list"][0]))(f(*args))

    mine, exact = tensors(wrapped(solve)), tensors(wrapped(tree_solver))
    for transform in (jacrev, jacfwd):
        derivative, expected = (transform(f, (0, 1, 2))(*problem) for f in (mine, exact))
        for a, b in zip(sum(derivative, ()), sum(expected, ()), strict=True):
            assert relative_error(a, b) < 1e-9
    batch = vmap(lambda *args: wrapped(solve)(*args)["count"], (None, None, 0))(*problem[:2], float64([1.0, 2.0]))
    assert batch.tolist() == [7, 7]


def test_integer_results_follow_the_batch():
    """A chosen index belongs to its element: the residual may use it."""

    @implicit.root(lambda x, A: {"value": x["value"] - A.gather(0, x["index"][None])[0] ** 2})
    def largest(A):
        index = int(A.argmax())
        return {"value": A[index] ** 2, "index": torch.tensor([index])[0]}

    def value(A):
        return largest(A)["value"]

    A = float64([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0]])
    index_free = vmap(lambda A: largest(A)["index"])(A)
    assert index_free.tolist() == [1, 0]
    for a, row in zip(A, ([0.0, 6.0, 0.0], [10.0, 0.0, 0.0]), strict=True):
        assert grad(value)(a).tolist() == row


def test_arguments_without_derivatives_pass_through():
    @implicit.root(lambda x, a, n, flag, mask: torch.where(mask, a - x**n, a - x) if flag else None)
    def solve(a, n, flag, mask):
        return torch.where(mask, a ** (1 / n), a)

    a, mask = float64([4.0, 9.0]), torch.tensor([True, False])
    assert relative_error(jacrev(solve)(a, 2, True, mask), torch.diag(float64([0.25, 1.0]))) < 1e-12
    assert relative_error(vmap(grad(lambda a, m: solve(a, 2, True, m)))(a, mask), float64([0.25, 1.0])) < 1e-12


def test_keywords_for_the_solver_alone():
    seen = []

    @implicit.root(lambda x, a: x**2 - a, solver_only=("init", "steps"))
    def solve(a, init=None, steps=20):
        x = torch.ones_like(a) if init is None else init
        seen.append((x.item(), steps))
        for _ in range(steps):
            x = (x + a / x) / 2
        return x

    a, init = float64(2.0), float64(1.5).requires_grad_()
    assert abs(grad(solve)(a, init=init, steps=9).item() - 8**-0.5) < 1e-12
    assert seen == [(1.5, 9)]
    assert grad(lambda init: solve(a, init=init))(init).item() == 0


def test_methods():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(float64(4.0))

        def residual(self, x, a):
            return self.weight * x - a

        @implicit.root(residual)
        def forward(self, a):
            """Documented."""
            assert isinstance(self, Model)
            return a / self.weight

    model, a = Model(), float64(2.0).requires_grad_()
    model(a).backward()
    assert a.grad.item() == 0.25
    assert model.weight.grad.item() == -0.125
    assert Model.forward.__doc__ == "Documented."
    assert model.forward.with_info(a)[1].residual.item() == 0


@pytest.mark.parametrize("method", [implicit.Dense(), implicit.CG()], ids=name)
def test_parameters_from_outside_have_reverse_derivatives(method):
    c = float64(3.0).requires_grad_()

    @implicit.argmin(lambda x, a: c * x**2 / 2 - a * x, linear_solve=method)
    def solve(a):
        return a / c

    (first,) = torch.autograd.grad(solve(float64(2.0)), c, create_graph=True)
    (second,) = torch.autograd.grad(first, c)
    assert abs(first.item() - -2 / 9) < 1e-12
    assert abs(second.item() - 4 / 27) < 1e-12


@pytest.mark.parametrize("method", [implicit.Dense(), implicit.GMRES()], ids=name)
@pytest.mark.parametrize("transform", [jacfwd, lambda f: lambda c: vmap(jacrev(f))(c[None])], ids=["jacfwd", "vmap"])
def test_transformed_tensors_from_outside_are_refused(transform, method):
    a = float64(2.0)

    def outside(c):
        return implicit.root(lambda x, a: c * x - a, linear_solve=method)(lambda a: a / 3)(a)

    with pytest.raises(ValueError, match=r"given, from outside their arguments.*expected all such tensors among"):
        transform(outside)(float64(3.0))


@pytest.mark.parametrize("method", [implicit.Dense(), implicit.GMRES()], ids=name)
def test_a_residual_that_is_itself_from_outside_is_refused(method):
    """Also where no operation of ours meets it: what a product with J would make of it is anyone's guess."""

    def outside(c):
        return grad(implicit.root(lambda x, a: c, linear_solve=method)(lambda a: a / 3))(float64(2.0))

    with pytest.raises(ValueError, match=r"residual.*given, from outside their arguments"):
        vmap(outside)(float64([3.0, 4.0]))


def mapped(f):
    return lambda c: vmap(f)(c[None])


@pytest.mark.parametrize(
    ("transform", "solver"),
    [(mapped, lambda c: 2 * c), *((transform, lambda c: c) for transform in (mapped, grad, jacfwd, jacrev))],
    ids=["vmap-computed", "vmap", "grad", "jacfwd", "jacrev"],
)
def test_a_solution_from_outside_is_refused(transform, solver):
    """A derivative of zero would be wrong without a word."""

    def outside(c):
        return implicit.root(lambda x, a: x - a)(lambda a: solver(c))(float64(2.0))

    with pytest.raises(ValueError, match=r"^solver.*given, from outside their arguments"):
        transform(outside)(float64(3.0))


@pytest.mark.parametrize("method", [implicit.Dense(), implicit.GMRES()], ids=name)
def test_errors_of_the_users_own_functions_arrive_as_they_are(method):
    def fails(*_):
        raise RuntimeError("singular matrix, says the user")

    with pytest.raises(RuntimeError, match=r"^singular matrix, says the user$"):
        implicit.root(fails, linear_solve=method)(lambda a: a / 3)(float64(2.0).requires_grad_())
    with pytest.raises(RuntimeError, match=r"^singular matrix, says the user$"):
        implicit.root(lambda x, a: x - a, linear_solve=method)(fails)(float64(2.0))


# What the solver is allowed to do.


def test_the_solver_may_work_in_place_branch_and_return_its_argument():
    @implicit.root(lambda x, a: x - a.abs())
    def solve(a):
        for i in range(len(a)):
            if a[i].item() < 0:
                a[i] *= -1
        return a

    a = float64([-1.0, 2.0]).requires_grad_()
    x = solve(a)
    assert x.tolist() == [1.0, 2.0]
    assert a.tolist() == [-1.0, 2.0]
    assert torch.autograd.grad(x.sum(), a)[0].tolist() == [-1.0, 1.0]
    assert vmap(solve)(float64([[-3.0], [4.0]])).tolist() == [[3.0], [4.0]]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=name)
def test_the_solver_may_use_autograd_in_any_mode(mode):
    @implicit.argmin(ridge_objective)
    def solve(X, Y, l2):
        W = torch.zeros(X.shape[1], Y.shape[1], dtype=X.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([W], max_iter=100, tolerance_grad=1e-12, tolerance_change=0)

        def closure():
            optimizer.zero_grad()
            value = ridge_objective(W, X, Y, l2)
            value.backward()
            return value

        optimizer.step(closure)
        return W

    problem = normal(5, 3), normal(5, 2), float64(0.5)
    with mode():
        W = solve(*problem)
    assert not W.requires_grad
    assert relative_error(W, ridge(*problem)) < 1e-9
    assert relative_error(jacrev(solve, 2)(*problem), jacrev(ridge, 2)(*problem)) < 1e-8


def test_the_solver_may_use_forward_mode_inside_forward_mode():
    @implicit.root(lambda x, a: x**2 - a)
    def solve(a):
        x = torch.ones_like(a)
        for _ in range(20):
            value, slope = torch.func.jvp(lambda x: x**2 - a, (x,), (torch.ones_like(x),))
            x = x - value / slope
        return x

    assert abs(jacfwd(jacfwd(solve))(float64(2.0)).item() - -0.25 * 2**-1.5) < 1e-12


def test_dual_numbers():
    with forward_ad.dual_level():
        x = decorated("root")(forward_ad.make_dual(P, torch.ones_like(P)))
        tangent = forward_ad.unpack_dual(x).tangent
    assert relative_error(tangent, jacrev(decorated("root"))(P).sum(-1)) < 1e-12


def test_undifferentiated_calls_solve_nothing_more():
    def unused(*_):
        raise AssertionError("preconditioner was called")

    solve = decorated("root", linear_solve=implicit.GMRES(preconditioner=unused))
    found, info = solve.with_info(P)
    assert info.linear.n_solves == 0
    assert info.residual < 1e-14
    assert info.error.isnan()
    assert torch.equal(found, KINDS["root"][1](P))


def test_batched_solvers_see_one_batch_dimension():
    shapes = []

    def solver(X, Y, l2):
        shapes.append((tuple(X.shape), tuple(l2.shape)))
        n, m = X.shape[-2:]
        gram = X.mT @ X / n + l2[:, None, None] * torch.eye(m, dtype=X.dtype)
        return torch.linalg.solve(gram, X.mT @ Y / n)

    solve, one_by_one = implicit.argmin(ridge_objective, batched=True)(solver), implicit.argmin(ridge_objective)(ridge)
    X, Y, l2 = normal(2, 3, 5, 3), normal(5, 2), uniform(2)
    many = vmap(vmap(solve, (0, None, None)), (0, None, 0))(X, Y, l2)
    expected = vmap(vmap(one_by_one, (0, None, None)), (0, None, 0))(X, Y, l2)
    assert relative_error(many, expected) < 1e-12
    assert solve(X[0, 0], Y, l2[0]).shape == (3, 2)
    assert shapes == [((6, 5, 3), (6,)), ((1, 5, 3), (1,))]
    first = jacrev(lambda l2: solve(X[0, 0], Y, l2))(l2[0])
    assert relative_error(first, jacrev(lambda l2: ridge(X[0, 0], Y, l2))(l2[0])) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_the_solvers(dtype):
    a = torch.tensor([2.0, 3.0], dtype=dtype).requires_grad_()
    x = implicit.root(lambda x, a: x**2 - a, tol=0.1)(lambda a: a.sqrt())(a)
    assert x.dtype == dtype
    (derivative,) = torch.autograd.grad(x.sum(), a)
    assert derivative.dtype == dtype
    assert (
        relative_error(derivative.double(), a.detach().double() ** -0.5 / 2) < 1e-2 if dtype != torch.float32 else 1e-6
    )


def test_mixed_dtypes_keep_theirs():
    @implicit.root(lambda x, a: (x[0] - a, x[1] - a.double() ** 2))
    def solve(a):
        return a * 1, a.double() ** 2

    a = torch.tensor(1.1, requires_grad=True)
    x = solve(a)
    assert [t.dtype for t in x] == [torch.float32, torch.float64]
    assert torch.equal(x[1], a.detach().double() ** 2)
    assert abs(torch.autograd.grad(x[1], a)[0].item() - 2.2) < 1e-5


def test_solutions_without_entries():
    a = float64([1.0]).requires_grad_()
    assert implicit.root(lambda x, a: x * a)(lambda a: a[:0] * 1)(a).shape == (0,)


def test_without_tensors_among_the_arguments():
    assert implicit.root(lambda x, a: x - a)(lambda a: float64([a]))(3.0).tolist() == [3.0]


# Singular problems and failures.


@pytest.mark.parametrize("method", [implicit.Dense(), implicit.NormalCG()], ids=name)
def test_duplicate_features_have_the_derivative_of_the_minimum_norm_solution(method):
    X = normal(6, 3)
    X = torch.cat([X, X[:, :1]], -1)
    Y = normal(6)

    def least_squares(X, Y):
        return torch.linalg.pinv(X) @ Y

    @implicit.argmin(lambda w, X, Y: ((X @ w - Y) ** 2).sum() / 2, linear_solve=method)
    def quiet(X, Y):
        return least_squares(X, Y)

    message = r"^quiet: \d of \d linear solves .*inexact.*relative residual [1-9].*causes: \(a\) J is singular"
    with pytest.warns(il.ConvergenceWarning, match=message):
        found = jacrev(quiet, 1)(X, Y)
    assert relative_error(found, torch.linalg.pinv(X)) < 1e-8


def test_a_zero_jacobian_gives_zero_and_a_warning():
    solve = implicit.root(lambda x, a: (x - a) ** 3)(lambda a: a * 1)
    message = r"1 of 1 linear solves .*relative residual 1\.0e\+00, .*J is singular.* solution of least norm"
    with pytest.warns(il.ConvergenceWarning, match=message):
        found = jacrev(solve)(float64([1.0, 2.0]))
    assert (found == 0).all()


def test_one_singular_element_does_not_change_the_others():
    solve = implicit.root(lambda x, A: A @ x - 1.0, on_fail="ignore")(lambda A: torch.linalg.pinv(A).sum(-1))
    A = torch.stack([normal(3, 3, seed=s) + 3 * torch.eye(3, dtype=torch.float64) for s in range(3)])
    A[1] = 0
    many = vmap(jacrev(solve))(A)
    assert many.isfinite().all()
    for i in (0, 2):
        assert relative_error(many[i], jacrev(solve)(A[i])) < 1e-12


def test_an_inexact_solution_is_reported():
    def early(p):
        return KINDS["argmin"][1](p) + 0.01

    p = P.clone().requires_grad_()
    with pytest.warns(il.ConvergenceWarning, match=r"early: 1 of 1 solutions are inexact.*estimated error [0-9.]+e-0"):
        _, info = implicit.argmin(quartic_objective)(early).with_info(p)
    assert abs(info.error.item() / (0.01 * 3**0.5) - 1) < 0.1
    with pytest.raises(il.ConvergenceError, match="solutions are inexact"):
        implicit.argmin(quartic_objective, on_fail="raise")(early)(p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        implicit.argmin(quartic_objective, on_fail="ignore")(early)(p)
        implicit.argmin(quartic_objective, tol=0.1)(early)(p)
        implicit.argmin(quartic_objective, tol=None)(early)(p)
        implicit.argmin(quartic_objective)(early)(P)  # Nobody asks for derivatives.


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_the_error_is_estimated_under_vmap_by_every_method(method):
    offsets = float64([0.0, 0.003, 0.0001])
    solve = implicit.argmin(quartic_objective, linear_solve=method, derivative_order=1, solver_only=("offset",))(
        lambda p, offset: KINDS["argmin"][1](p) + offset
    )
    call = vmap(lambda p, offset: solve.with_info(p, offset=offset)[1].error, (None, 0))
    with pytest.warns(il.ConvergenceWarning, match="1 of 3 solutions are inexact"):
        errors = call(P, offsets)
    assert ((errors - offsets * 3**0.5).abs() < 0.3 * offsets + 1e-14).all()


def test_results_that_are_not_finite_are_reported():
    solve = implicit.root(lambda x, a: x - a.log())(lambda a: a.log())
    with pytest.warns(il.ConvergenceWarning, match="not finite in 1 of 2 elements"):
        found = vmap(solve)(float64([1.0, -1.0]))
    assert found[0] == 0
    assert found[1].isnan()
    diverged = implicit.root(lambda x, a: 1 / x - a, on_fail="ignore")(lambda a: a * 0)
    assert diverged(float64(2.0).requires_grad_()).item() == 0


def test_linear_solves_of_the_derivative_are_reported():
    solve = decorated("argmin", linear_solve=implicit.CG(tol=1e-10, max_iter=1), tol=None)
    x, info = solve.with_info(P.clone().requires_grad_())
    assert info.linear.n_solves <= 2
    assert info.linear.relative_residual == 0
    with pytest.warns(il.ConvergenceWarning, match="linear solves with the Jacobian"):
        x.sum().backward()
    assert 1e-6 < info.linear.relative_residual <= 1


CALLS = [
    (lambda: implicit.root(3), "residual: given int, expected a function"),
    (lambda: implicit.argmin(None), "objective: given NoneType, expected a function"),
    (lambda: implicit.fixed_point(1.5), "map: given float, expected a function"),
    (lambda: implicit.root(cubic_residual)(3), "solver: given int, expected a function"),
    (lambda: decorated("root", derivative_order=-1), "derivative_order: given -1, expected an integer ≥ 0"),
    (lambda: decorated("root", linear_solve="cg"), "linear_solve: given 'cg', expected Dense"),
    (lambda: decorated("root", linear_solve=implicit.CG), "linear_solve: given CG, expected Dense"),
    (lambda: decorated("root", tol=0), "tol: given 0, expected a number > 0, or None"),
    (lambda: decorated("root", on_fail="print"), "on_fail: given 'print', expected 'raise', 'warn' or 'ignore'"),
    (
        lambda: implicit.root(lambda x, a: (x - a).sum())(lambda a: a * 1)(float64([1.0, 2.0])),
        r"residual: given a result of shapes \[\(\)\], expected \[\(2,\)\]",
    ),
    (
        lambda: implicit.root(lambda x, a: [x - a, a])(lambda a: a * 1)(float64(1.0)),
        r"residual: given a result of shapes \[\(\), \(\)\], expected \[\(\)\]",
    ),
    (
        lambda: implicit.fixed_point(lambda x, a: a[:1])(lambda a: a * 1)(float64([1.0, 2.0])),
        r"map: given a result of shapes \[\(1,\)\], expected \[\(2,\)\]",
    ),
    (
        lambda: implicit.argmin(lambda x, a: x - a)(lambda a: a * 1)(float64([1.0])),
        r"objective: given a result of shape \(1,\), dtype torch.float64, expected a tensor of shape \(\)",
    ),
    (lambda: implicit.root(lambda x, a: x)(lambda a: 3.0)(float64(1.0)), "solver: given a result of type float"),
    (lambda: implicit.root(lambda x, a: x)(lambda a: a + 1j)(float64(1.0)), "solver: given a complex result"),
    (
        lambda: (
            vmap(implicit.root(lambda x, a: x))(lambda a: a)(float64(1.0))
            if False
            else vmap(implicit.root(lambda x, a: x - 1)(lambda a: torch.ones(int(a))))(float64([1.0, 2.0]))
        ),
        "solver: given results that differ in structure or shape",
    ),
    (
        lambda: implicit.root(lambda x, a: x, batched=True)(lambda a: a[0])(float64([1.0, 2.0])),
        r"solver: given a result of shape \(2,\), expected \(1, ...\)",
    ),
    (
        lambda: (
            decorated("root", linear_solve=implicit.GMRES(preconditioner=lambda v, x, p: v[:1]))(
                P.clone().requires_grad_()
            )
            .sum()
            .backward()
        ),
        r"preconditioner: given a result of shapes \[\(1,\)\], expected \[\(3,\)\]",
    ),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_errors_name_what_was_given_and_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_preconditioners_receive_the_users_structure():
    def preconditioner(v, x, parameters, *, scale, power=2):
        return {"b": v["b"] / parameters[1][0], "list": [v["list"][0] / (power * x["list"][0] ** (power - 1))]}

    method = implicit.GMRES(preconditioner=preconditioner)
    solve = implicit.root(tree_residual, linear_solve=method)(tree_solver)
    scale = float64(1.5).requires_grad_()
    x, info = solve.with_info(Parameters(normal(2), (float64(2.0), "label")), scale=scale)
    x["list"][0].backward()
    assert abs(scale.grad.item() - 2 / (2 * 3**0.5)) < 1e-10
    assert info.linear.n_iter <= 3  # The preconditioner is J⁻¹.


def test_the_examples_in_the_docstrings():
    module = importlib.import_module("implicitlayers.implicit.argmins")
    finder, runner = doctest.DocTestFinder(recurse=True), doctest.DocTestRunner()
    for test in finder.find(module, globs={"il": il, "torch": torch}):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= 8
