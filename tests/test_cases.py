"""Cases that users of neighbouring libraries reported as bugs."""

import subprocess
import sys

import pytest
import torch
from helpers import normal, relative_error
from sklearn.datasets import make_regression
from torch.func import jacrev

import implicitlayers as il


@pytest.mark.parametrize(
    ("share", "derivative"),
    [
        (0.1, [-0.644696, -0.728201, -0.871705, -0.766752]),
        (1e-3, [-0.681420, -0.973256, -0.874399, -0.659694, -1.138227]),
    ],
)
def test_derivatives_are_restricted_to_the_support(share, derivative):
    """jaxopt#274, #17: dW_S/dl1 = −n(X_SᵀX_S)⁻¹ sign(W_S), zero elsewhere; the derivative is per n·l1 there."""
    X, y = make_regression(100, 1000, n_informative=5, random_state=0)
    X, y = torch.from_numpy(X), torch.from_numpy(y)[:, None]
    l1 = share * (X.T @ y).abs().max() / len(X)
    W = il.Lasso(l1, tol=1e-12)(X, y)
    J = jacrev(lambda l1: il.Lasso(l1, tol=1e-12)(X, y))(l1)
    used = W[:, 0] != 0
    assert (J[~used] == 0).all()
    expected = -len(X) * torch.linalg.solve(X[:, used].T @ X[:, used], W[used].sign())
    assert relative_error(J[used], expected) <= 1e-9
    given = torch.tensor(derivative, dtype=torch.float64)
    signed = (J[used] * W[used].sign()).flatten()
    assert relative_error(signed.sort().values, given.sort().values) <= 1e-5


@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
@pytest.mark.parametrize(
    "make",
    [
        lambda tol, l1: il.Lasso(l1, tol=tol),
        lambda tol, l1: il.GroupLasso(l1, 0.05, tol=tol),
        lambda tol, l1: il.LogisticRegression(l1, 0.02, tol=tol),
        lambda tol, l1: il.MulticlassSVM(0.1, l1, tol=tol),
    ],
)
def test_a_derivative_is_as_exact_as_its_solution(make, tol):
    """cvxpylayers#245, #85, #70: where the estimate is finite it bounds the error, and at 1e-12 there is none."""
    X, Y = normal(20, 12), normal(20, 2, seed=1)
    targets = Y if isinstance(make(tol, 0.05), il.Lasso | il.GroupLasso) else (torch.arange(20) % 3)
    l1 = torch.tensor(0.05, dtype=torch.float64)
    J = jacrev(lambda l1: make(tol, l1)(X, targets))(l1)
    exact = jacrev(lambda l1: make(1e-13, l1)(X, targets))(l1)
    estimate = float(make(tol, l1).solve(X, targets).derivative_error)
    error = relative_error(J, exact)
    assert error <= estimate + 1e-9
    if tol <= 1e-12:
        assert error <= 1e-9
        assert estimate <= 1e-3


def test_the_gradient_of_a_sum_is_the_sum_of_gradients():
    """cvxpylayers#85: ∇(f + g) = ∇f + ∇g."""
    X, Y = normal(20, 12), normal(20, 2, seed=1)

    def f(X):
        return il.Lasso(0.1)(X, Y).square().sum()

    def g(X):
        return il.GroupLasso(0.1)(X, Y).sum()

    total = jacrev(lambda X: f(X) + g(X))(X)
    assert relative_error(total, jacrev(f)(X) + jacrev(g)(X)) <= 1e-12


MEMORY = """
import resource, torch, implicitlayers as il
torch.set_num_threads(1)
n, m = 50, 100_000
def run(m):
    X = torch.randn(n, m, dtype=torch.float64).requires_grad_()
    targets = {targets}
    ({layer})(X, targets).square().sum().backward()
    return X
run(200)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
X = torch.zeros(n, m, dtype=torch.float64)
del X
run(m)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(peak * 1024 / (n * m * 8))
"""


@pytest.mark.parametrize(
    ("layer", "targets"),
    [
        ("il.Lasso(il.Relative(0.3))", "X.detach()[:, :1].clone()"),
        ("il.GroupLasso(il.Relative(0.3))", "X.detach()[:, :2].clone()"),
        ("il.MulticlassSVM(0.1, 0.3)", "torch.arange(n) % 5"),
    ],
)
def test_memory_with_many_features(layer, targets):
    """optimistix#93, Theseus#596, DeepEMD#45: forward and backward within three times the memory of X, X included."""
    code = MEMORY.format(layer=layer, targets=targets)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) <= 3
