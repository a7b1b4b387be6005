import itertools

import pytest
import torch
from helpers import normal, relative_error

import implicitlayers as il

JACOBIANS = {"rev": torch.func.jacrev, "fwd": torch.func.jacfwd}
ORDERS = [c for order in (1, 2, 3) for c in itertools.product(JACOBIANS, repeat=order)]
compositions = pytest.mark.parametrize("composition", ORDERS, ids="-".join)


def cubic(a, order=3):
    """The root of a·x³ − x − 2 near 1.5, found by Newton's method on numbers, then attached."""

    def solve(a):
        x = torch.full_like(a, 1.5)
        for _ in range(20):
            x = x - (a * x**3 - x - 2) / (3 * a * x**2 - 1)
        return x

    x = il.implicit.opaque(solve, a, 0 if a.dim() == 0 else 1)
    slope = (3 * a * x**2 - 1).detach()
    return il.implicit.attach(x, lambda x: a * x**3 - x - 2, lambda r: r / slope, order)


def quadratic(lam, order=3):
    """x* = −λ + √(λ² + 1), the root of x² + 2λx − 1."""
    x = (-lam + (lam**2 + 1).sqrt()).detach()
    slope = (2 * x + 2 * lam).detach()
    return il.implicit.attach(x, lambda x: x**2 + 2 * lam * x - 1, lambda r: r / slope, order)


def one():
    return torch.tensor(1.0, dtype=torch.float64)


def test_scalar_roots_as_scalars():
    """0-d tensors in, 0-d tensors out (torchopt#222, diffcp#57)."""
    x, dx = cubic(one()), torch.func.grad(cubic)(one())
    assert x.shape == dx.shape == ()
    assert float(x) == pytest.approx(1.52138, abs=1e-5)
    assert float(dx) == pytest.approx(-0.59245, abs=1e-5)
    assert float(quadratic(one())) == pytest.approx(0.414214, abs=1e-6)
    assert float(torch.func.grad(quadratic)(one())) == pytest.approx(-0.292893, abs=1e-6)


@compositions
def test_derivatives_are_exact_in_every_composition(composition):
    """Against the closed form, up to the order attached."""

    def closed(lam):
        return -lam + (lam**2 + 1).sqrt()

    f, g = quadratic, closed
    for name in composition:
        f, g = JACOBIANS[name](f), JACOBIANS["rev"](g)
    assert float(f(one())) == pytest.approx(float(g(one())), rel=1e-12)


@compositions
def test_derivatives_of_the_cubic_match_finite_differences(composition):
    f = cubic
    for name in composition[1:]:
        f = JACOBIANS[name](f)
    step = 1e-4
    expected = (f(one() + step) - f(one() - step)) / (2 * step)
    assert float(JACOBIANS[composition[0]](f)(one())) == pytest.approx(float(expected), rel=1e-5)


def test_derivatives_beyond_the_order_attached_are_not_promised():
    second = torch.func.grad(torch.func.grad(lambda a: cubic(a, order=1)))(one())
    exact = torch.func.grad(torch.func.grad(lambda a: cubic(a, order=2)))(one())
    assert abs(float(second - exact)) > 0.1
    assert cubic(one().requires_grad_(), order=0).requires_grad is False


def test_value_is_bit_identical():
    for seed in range(20):
        a = 1 + normal(5, seed=seed).abs()
        plain = cubic(a, order=0)
        for order in (1, 2, 3):
            assert torch.equal(cubic(a.clone().requires_grad_(), order), plain)
            value, _ = torch.func.jvp(lambda a: cubic(a, order), (a,), (a,))  # noqa: B023
            assert torch.equal(value, plain)


def test_vmap_equals_a_loop():
    a = 1 + normal(6).abs()
    mapped = torch.func.vmap(torch.func.grad(cubic))(a)
    looped = torch.stack([torch.func.grad(cubic)(x) for x in a])
    assert relative_error(mapped, looped) <= 1e-12


def test_systems_of_equations():
    """Least squares from its normal equations, a non-symmetric parametrisation, against the closed form."""
    A, b = normal(6, 3), normal(6, seed=1)

    def attached(A):
        H = (A.mT @ A).detach()
        x = il.implicit.opaque(lambda t: torch.linalg.lstsq(t[0], t[1][..., None]).solution[..., 0], (A, b), 0)
        return il.implicit.attach(x, lambda x: A.mT @ (A @ x - b), lambda r: torch.linalg.inv(H) @ r, 2)

    def closed(A):
        return torch.linalg.inv(A.mT @ A) @ (A.mT @ b)

    for first, second in itertools.product(JACOBIANS.values(), repeat=2):
        assert relative_error(first(attached)(A), torch.func.jacrev(closed)(A)) <= 1e-10
        expected = torch.func.jacrev(torch.func.jacrev(closed))(A)
        assert relative_error(second(first(attached))(A), expected) <= 1e-9


def nonzero_entries(x):
    """The indices of the positive entries (b, largest count): a size that depends on the data."""
    size = int((x > 0).sum(-1).max())
    return (x > 0).to(torch.uint8).topk(size, dim=-1).indices, (x > 0).sum(-1)


def test_opaque_blocks_derivatives():
    x = normal(3, 4).requires_grad_()
    y = il.implicit.opaque(lambda x: 2 * x, x, 1)
    assert torch.equal(y, 2 * x.detach())
    assert not y.requires_grad
    _, tangent = torch.func.jvp(lambda x: il.implicit.opaque(torch.sin, x, 1), (x.detach(),), (x.detach(),))
    assert tangent is None or (tangent == 0).all()
    assert (torch.func.grad(lambda x: il.implicit.opaque(torch.sin, x, 1).sum())(x.detach()) == 0).all()


def test_opaque_sees_plain_tensors_with_one_batch_dimension():
    seen = []

    def run(x):
        assert not torch._C._functorch.is_functorch_wrapped_tensor(x)
        seen.append(tuple(x.shape))
        return x.sum(-1)

    x = normal(2, 3, 4)
    assert il.implicit.opaque(run, x, 2).shape == (2, 3)
    assert il.implicit.opaque(run, x[0, 0], 0).shape == ()
    assert torch.func.vmap(lambda x: il.implicit.opaque(run, x, 1))(x).shape == (2, 3)
    torch.func.vmap(torch.func.grad(lambda x: (x * il.implicit.opaque(run, x, 0)).sum()))(x[0])
    assert seen == [(6, 4), (1, 4), (6, 4), (3, 4)]


def test_opaque_may_return_sizes_that_depend_on_data_under_vmap():
    x = normal(2, 3, 5)
    index, count = torch.func.vmap(lambda x: il.implicit.opaque(nonzero_entries, x, 1))(x)
    expected_index, expected_count = nonzero_entries(x.reshape(6, 5))
    assert torch.equal(count.flatten(), expected_count)
    assert torch.equal(index.reshape(6, -1), expected_index)


def test_opaque_takes_unmapped_arguments_under_vmap():
    x, y = normal(4, 3), normal(3, seed=1)
    mapped = torch.func.vmap(lambda x: il.implicit.opaque(lambda t: (t[0] * t[1]).sum(-1), (x, y), 0))(x)
    torch.testing.assert_close(mapped, x @ y)
    last = torch.func.vmap(lambda x: il.implicit.opaque(lambda t: t[0] * t[1], (x, y), 0), 1, 1)(x.mT.contiguous())
    torch.testing.assert_close(last, (x * y).mT)


def test_opaque_returns_the_tree_of_the_function():
    out = il.implicit.opaque(lambda t: {"a": t["x"] + 1, "b": (t["x"].sum(-1),)}, {"x": normal(2, 3)}, 1)
    assert set(out) == {"a", "b"}
    assert out["b"][0].shape == (2,)
