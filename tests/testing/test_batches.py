"""What the checks of batches say of layers that mix their elements, or fail as a whole."""

from types import SimpleNamespace

import pytest
import torch
from handmade import ridge
from helpers import normal

from implicitlayers.testing import Example, Subject, check_batching, check_isolation

EXAMPLE = Example(normal(3, 5, 2), normal(3, 5, 2, seed=1), {"l2": 0.1})


def refuses(check, layer, *parts):
    with pytest.raises(AssertionError) as caught:
        check(Subject(layer, "ridge"), EXAMPLE)
    for part in (*parts, "likely cause: ", "example = Example(", f"{check.__name__}(Subject(layer, 'ridge'), example)"):
        assert part in str(caught.value)


def finite_only(X, Y):
    if not bool(X.isfinite().all()):
        raise ValueError("X: given NaN, expected finite numbers")
    return ridge(X, Y)


def filled(X, Y):
    """NaN becomes a number on its way in, and nobody hears of it."""
    return ridge(X.nan_to_num(posinf=1e3), Y.nan_to_num())


class Told:
    """The same, but said so."""

    def __init__(self, **field):
        self.field = field

    def __call__(self, X, Y):
        return filled(X, Y)

    def solve(self, X, Y):
        bad = ~(X.isfinite() & Y.isfinite().all(-1, keepdim=True)).flatten(-2).all(-1)
        return SimpleNamespace(coef=filled(X, Y), **{name: of(bad) for name, of in self.field.items()})


def test_a_plain_layer_passes():
    check_batching(Subject(ridge, "ridge"), EXAMPLE)
    check_isolation(Subject(ridge, "ridge"), EXAMPLE)


def test_one_element_that_fails_the_batch_is_told():
    refuses(check_isolation, finite_only, "a NaN in X in one element of a batch to leave the others alone", "fails the")


def test_a_bad_element_must_show():
    refuses(check_isolation, filled, "a NaN in X to show in that element's coefficients, or status", "no word of it")


@pytest.mark.parametrize(
    "field",
    [{"status": lambda bad: bad.int()}, {"converged": lambda bad: ~bad}, {"status": lambda bad: bad.int() * 4}],
    ids=["status", "converged", "another status"],
)
def test_in_its_status_is_enough(field):
    check_isolation(Subject(Told(**field), "ridge"), EXAMPLE)


@pytest.mark.parametrize(
    "field",
    [{}, {"status": lambda bad: 0 * bad.int()}, {"converged": lambda bad: bad | True}],
    ids=["nothing", "status", "converged"],
)
def test_a_status_that_does_not_tell_is_none(field):
    refuses(check_isolation, Told(**field), "a NaN in X to show in that element's coefficients, or status")


def test_zero_features_are_no_bad_element():
    def divided(X, Y):
        size = X.square().sum((-2, -1), keepdim=True)
        return ridge(X, Y) * (size / size)

    refuses(check_isolation, divided, "finite coefficients of zero features", "NaN or infinity", "norm that is zero")


def test_a_layer_need_not_broadcast():
    def strict(X, Y):
        if X.dim() != Y.dim():
            raise ValueError("X and Y: given other numbers of dimensions, expected equal ones")
        return ridge(X, Y)

    check_batching(Subject(strict, "ridge"), EXAMPLE)


def test_a_layer_that_vmap_cannot_take_is_told():
    def branching(X, Y):
        return ridge(X, Y) if float(X.detach().abs().max()) > 0 else torch.zeros_like(X[..., :1, :].mT @ Y[..., :1, :])

    refuses(check_batching, branching, "torch.func.vmap over the layer to work", "RuntimeError", "a branch on data")


def test_a_result_of_another_shape_is_told():
    def flat(X, Y):
        W = ridge(X, Y)
        return W.flatten(0, -3) if W.dim() > 3 else W

    refuses(check_batching, flat, "two leading dimensions to equal a loop", "the shape (6, 2, 2), not (2, 3, 2, 2)")


def first_counts(X, Y):
    """As if the step length were the first element's, and that of the example happened to suit all."""
    other = X.dim() == 3 and float(X[0, 0, 0]) != float(EXAMPLE.X[0, 0, 0])
    return ridge(X, Y) * (1.5 if other else 1.0)


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        (lambda X, Y: ridge(X, Y - (Y.mean(0) if Y.dim() > 2 else Y)), "a batch to equal a loop over its elements"),
        (lambda X, Y: ridge(X, Y) * (1 + (X.dim() > 3)), "two leading dimensions to equal a loop"),
        (first_counts, "the order of the batch not to matter"),
    ],
    ids=["a mean over the batch", "four dimensions", "the order"],
)
def test_elements_that_know_of_each_other_are_told(layer, part):
    refuses(check_batching, layer, part, "a relative difference of")
