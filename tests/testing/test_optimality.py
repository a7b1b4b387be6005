"""What the checks of optimality and of certificates say of wrong points, and of wrong claims about right ones."""

from types import SimpleNamespace

import pytest
import torch
from handmade import ridge
from helpers import labels, normal, one_hot

import implicitlayers as il
from implicitlayers.testing import Example, Subject, check_certificate, check_optimal, objective
from implicitlayers.testing.improvement import search

X, Y = normal(8, 4), normal(8, 2, seed=1)


class Says:
    """A layer whose solution has other fields: each a value, or a function of the true solution."""

    def __init__(self, layer, keep=("dual", "gap", "converged", "status"), **other):
        self.layer, self.keep, self.other = layer, keep, other

    def __call__(self, X, Y):
        return self.solve(X, Y).coef

    def solve(self, X, Y):
        true = self.layer.solve(X, Y)
        fields = {name: getattr(true, name) for name in ("coef", *self.keep)}
        return SimpleNamespace(**fields | {name: of(true) for name, of in self.other.items()})


def refuses(check, layer, problem, strengths, *parts, X=X, Y=Y):
    with pytest.raises(AssertionError) as caught:
        check(Subject(layer, problem), Example(X, Y, strengths))
    for part in (*parts, "likely cause: ", "reproduce with:"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "strengths", "layer"),
    [
        ("nonnegative", {"l1": 0.01}, lambda X, Y: il.Lasso(0.01)(X, Y)),
        ("box", {"lower": -0.1, "upper": 0.1}, lambda X, Y: il.BoxRegression(-0.2, 0.1)(X, Y)),
        ("simplex", {"total": 1.0}, lambda X, Y: il.SimplexRegression(1.1)(X, Y)),
        (objective("sparse_ridge", n_nonzero=1), {"l2": 0.1}, lambda X, Y: il.SparseRidge(0.1, n_nonzero=2)(X, Y)),
    ],
    ids=["nonnegative", "box", "simplex", "sparse_ridge"],
)
def test_a_point_outside_the_constraints_is_told(problem, strengths, layer):
    refuses(check_optimal, layer, problem, strengths, "coefficients within the constraints", "a violation of")


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (lambda X, Y: ridge(X, Y)[:-1], "(3, 2)"),
        (lambda X, Y: ridge(X, Y).mT, "(2, 4)"),
        (lambda X, Y: ridge(X, Y).tolist(), "list"),
    ],
    ids=["shorter", "transposed", "list"],
)
def test_coefficients_of_another_shape_are_told(layer, found):
    refuses(check_optimal, layer, "ridge", {"l2": 0.1}, "coefficients of shape (4, 'k')", f"found {found}")


def test_a_dual_point_of_another_problem_is_told():
    """The coefficients are right, and the residuals prove it; it is the derivative that would be wrong."""
    layer = il.Lasso(0.1)
    assert check_optimal(Subject(Says(layer), "lasso"), Example(X, Y, {"l1": 0.1})) <= 1e-6
    other = Says(layer, dual=lambda true: 0 * true.dual)
    refuses(check_optimal, other, "lasso", {"l1": 0.1}, "0 within 2e-03 of the subdifferential", "not the layer's")


def gap_of(W):
    return objective("lasso").gap(Example(X, Y, {"l1": 0.1}), W)


@pytest.mark.parametrize("keep", [("gap",), ("converged",), ("dual", "gap"), ()], ids=str)
def test_what_is_not_said_is_not_checked(keep):
    check_certificate(Subject(Says(il.Lasso(0.1), keep), "lasso"), Example(X, Y, {"l1": 0.1}))


def test_a_gap_that_is_too_small_is_told():
    claims = Says(il.Lasso(0.1), ("gap",), coef=lambda true: 0.9 * true.coef)
    refuses(check_certificate, claims, "lasso", {"l1": 0.1}, "a reported gap that its coefficients", "reported,")
    negative = Says(il.Lasso(0.1), ("gap",), gap=lambda true: true.gap - 1e-3)
    refuses(check_certificate, negative, "lasso", {"l1": 0.1}, "never negative", "-1.0e-03 reported")


def test_convergence_that_is_none_is_told():
    """Judged by the change between iterations, for example; where the gap is told as it is, or not at all."""
    far = {"coef": lambda true: 0.9 * true.coef, "gap": lambda true: gap_of(0.9 * true.coef)}
    for keep in (("gap", "converged"), ("converged",)):
        claims = Says(il.Lasso(0.1), keep, **{name: far[name] for name in ("coef", *keep) if name in far})
        refuses(check_certificate, claims, "lasso", {"l1": 0.1}, '"converged" only at a gap of at most 1e-06', "change")
    honest = Says(il.Lasso(0.1), (), **far, converged=lambda true: torch.zeros_like(true.converged))
    check_certificate(Subject(honest, "lasso"), Example(X, Y, {"l1": 0.1}))


@pytest.mark.parametrize(
    ("name", "layer", "strengths"),
    [
        ("logistic", il.LogisticRegression(0.02, 0.1), {"l1": 0.02, "l2": 0.1}),
        ("svm", il.MulticlassSVM(0.1), {"l2": 0.1}),
        ("binary_svm", il.BinarySVM(0.1), {"l2": 0.1}),
    ],
)
def test_labels_and_one_hot_targets_are_the_same_problem(name, layer, strengths):
    k = 2 if name == "binary_svm" else 3
    y = labels(8, k=k)
    as_labels, as_rows = Example(X, y, strengths), Example(X, one_hot(y, k), strengths)
    subject, problem = Subject(layer, name), objective(name)
    assert check_optimal(subject, as_labels) <= 1e-6
    assert check_optimal(subject, as_rows) <= 1e-6
    W = normal(4, 1 if k == 2 else 3, seed=3)
    assert float(problem.value(as_labels, W)) == float(problem.value(as_rows, W))
    assert float(problem.scale_to_zero(as_labels)) == float(problem.scale_to_zero(as_rows))


# An objective known by its values only.


def distance(X, Y, W):
    """Not differentiable where the fit is exact."""
    return (X @ W - Y).norm(dim=(-2, -1))


def test_the_search_needs_no_gradient():
    """At a kink the gradient is NaN; the point is the minimum, and another is told from it."""
    W = normal(4, 2, seed=2)
    example = Example(X, X @ W, {})
    problem = objective(distance)
    assert search(problem, example, W) == 0
    assert search(problem, example, W + torch.eye(4, 2, dtype=torch.float64)) > 1e-3
    flat = objective(lambda X, Y, W: torch.full_like(W[..., 0, 0], torch.nan) * 0 + W.square().sum().sqrt())
    assert not search(flat, Example(X, Y, {}), torch.zeros(4, 2, dtype=torch.float64)) > 0


def test_the_search_ends():
    """A valley so narrow that no number of rounds would do: better is found all the same."""

    def valley(X, Y, W):
        return (X @ W - Y).square().sum((-2, -1))

    narrow = X[:, :1] + 1e-3 * X
    assert search(objective(valley), Example(narrow, Y, {}), torch.zeros(4, 2, dtype=torch.float64)) > 1e-2
