"""What the checks of derivatives say of wrong ones, and when they say nothing."""

import pytest
import torch
from handmade import ridge
from helpers import labels, normal, one_hot

import implicitlayers as il
from implicitlayers.testing import (
    Example,
    Subject,
    check_argmin_derivatives,
    check_derivatives,
    check_layer,
    objective,
    oracles,
)

EXAMPLE = Example(normal(5, 2), normal(5, 2, seed=1), {"l2": 0.1})


def refuses(layer, *parts, **options):
    with pytest.raises(AssertionError) as caught:
        check_derivatives(Subject(layer, "ridge"), EXAMPLE, **options)
    for part in (*parts, "likely cause: ", "reproduce with:"):
        assert part in str(caught.value)


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.5])
def test_a_factor_is_named(factor):
    def scaled(X, Y):
        W = ridge(X, Y)
        return W.detach() + factor * (W - W.detach())

    refuses(scaled, "with respect to X in forward mode", f"it is {factor:.4g} times what", modes=["forward"])


def test_second_derivatives_of_a_layer_that_has_first_ones_only():
    layer = il.Ridge(0.1, derivative_order=1)
    assert check_derivatives(Subject(layer, "ridge"), EXAMPLE, modes=["reverse", "forward"]) == "checked"
    refuses(layer, "second derivatives (reverse over reverse)", "with respect to X and", modes=["second"])
    refuses(layer, "second derivatives (jacrev of jacrev)", "nested forward mode", modes=["compositions"])


def alone_only(X, Y):
    if X.dim() > 2:
        raise ValueError("X: given a batch, expected (n, m)")
    return ridge(X, Y)


def another_in_batches(X, Y):
    """By a little: differences have to be of one and the same function."""
    return ridge(X, Y) * (1 + 1e-9 * (X.dim() > 2))


@pytest.mark.parametrize("layer", [ridge, alone_only, another_in_batches])
def test_a_layer_need_not_take_batches(layer):
    assert check_derivatives(Subject(layer, "ridge"), EXAMPLE, modes=["reverse", "forward", "second"]) == "checked"


def noisy(X, Y, size=1e-4):
    """A solver that stops anywhere: another value, and another gradient, at each call."""
    W = ridge(X, Y)
    return W + size * torch.randn_like(W) + (W - W.detach()) * size * torch.randn_like(W)


@pytest.mark.parametrize("mode", ["reverse", "forward", "second"])
def test_noise_is_no_verdict(mode):
    assert check_derivatives(Subject(noisy, "ridge"), EXAMPLE, modes=[mode]) == "undecided"


def test_too_much_of_it_is_a_failure():
    with pytest.raises(
        AssertionError, match=r"solutions smooth enough .*\n +found \d of \d problems where differences"
    ):
        check_layer(noisy, "ridge", {"l2": 0.1}, max_examples=20, properties=["derivatives, reverse"])


def test_without_a_dual_point_nothing_is_known_of_a_hinges_kinks():
    example = Example(normal(6, 3), one_hot(labels(6, k=3), 3), {"l2": 0.3, "smoothing": 1.0})
    layer = il.MulticlassSVM(0.3, smoothing=1.0, tol=1e-13)
    for known in (layer, lambda X, Y: layer(X, Y)):
        assert check_derivatives(Subject(known, "svm"), example, modes=["reverse"]) == "checked"


@pytest.mark.parametrize("check", [check_derivatives, check_argmin_derivatives])
def test_a_kink_is_degenerate(check):
    example = Example(EXAMPLE.X, EXAMPLE.Y, {"l1": 0.1})
    at = float(objective("lasso").scale_to_zero(example))
    subject = Subject(il.Lasso(0.1, tol=1e-13), "lasso")
    assert check(subject, example.replace(X=example.X * at)) == "degenerate"
    assert check(subject, example.replace(X=example.X * at * 2)) == "checked"


def test_an_unrolled_solver_that_has_not_converged_says_nothing():
    """Two columns that are all but one, and hardly a ridge: gradient steps crawl."""
    X = torch.cat([EXAMPLE.X[:, :1], EXAMPLE.X[:, :1] + 1e-2 * EXAMPLE.X[:, 1:]], -1)
    example = Example(X, EXAMPLE.Y, {"l2": 1e-6})
    assert oracles.unrolled(objective("ridge"), example, steps=300) is None
    assert check_argmin_derivatives(Subject(il.Ridge(1e-6), "ridge"), example) == "undecided"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_unrolled_solver_does_not_mind_the_scale_of_the_features(scale):
    """With W of a scale inverse to theirs it is the same problem."""
    example = Example(EXAMPLE.X * scale, EXAMPLE.Y, {"l1": 0.1 * scale})
    W = oracles.unrolled(objective("lasso"), example, steps=200)
    assert W is not None
    torch.testing.assert_close(W * scale, il.Lasso(0.1, tol=1e-13)(EXAMPLE.X, EXAMPLE.Y))
    assert check_argmin_derivatives(Subject(il.Lasso(0.1 * scale, tol=1e-13), "lasso"), example) == "checked"


def test_features_of_zero_have_a_margin():
    example = Example(0 * EXAMPLE.X, EXAMPLE.Y, {"l1": 0.1})
    kinks = objective("lasso").kinks(example, il.Lasso(0.1)(example.X, example.Y))
    assert kinks.isfinite().all()
    assert (kinks != 0).all()


@pytest.mark.parametrize(
    "problem",
    [objective("svm"), objective("ridge", fit_intercept=True), objective("sparse_ridge", n_nonzero=1)],
    ids=["hinge", "intercept", "subset"],
)
def test_what_cannot_be_unrolled_is_refused(problem):
    with pytest.raises(ValueError, match=f"problem: given '{problem.name}', expected one with a smooth loss, convex"):
        oracles.unrolled(problem, EXAMPLE)
