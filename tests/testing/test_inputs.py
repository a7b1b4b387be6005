"""What the checks of dtypes and of bad arguments say of layers that look at neither."""

import pytest
import torch
from handmade import ridge
from helpers import labels, normal

import implicitlayers as il
from implicitlayers.testing import Example, Subject, check_bad_input, check_dtypes

EXAMPLE = Example(normal(5, 2), normal(5, 2, seed=1), {"l2": 0.1})


def refuses(check, layer, *parts):
    with pytest.raises(AssertionError) as caught:
        check(Subject(layer, "ridge"), EXAMPLE)
    for part in (*parts, "likely cause: ", f"{check.__name__}(Subject(layer, 'ridge'), example)"):
        assert part in str(caught.value)


def rough(X, Y):
    return ridge(X.bfloat16().to(X.dtype), Y) if X.dtype == torch.float32 else ridge(X, Y)


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        (lambda X, Y: ridge(X.double(), Y.double()), ("torch.float32 coefficients", "torch.float64", "never undone")),
        (
            lambda X, Y: ridge(X, Y) + (0 * X[:1, :1]).sqrt(),
            ("expected a finite torch.float32 gradient", "found 1 of 10 entries that are not, the first nan", "root"),
        ),
        (rough, ("the torch.float32 result within 1e-03 of the float64 one", "a relative difference of", "digits")),
    ],
    ids=["float64 for float32", "NaN for a gradient", "half precision inside"],
)
def test_dtypes_that_go_wrong_are_told(layer, parts):
    check_dtypes(Subject(ridge, "ridge"), EXAMPLE)
    refuses(check_dtypes, layer, *parts)


def test_a_layer_that_changes_its_input_is_told():
    def centres(X, Y):
        return ridge(X.sub_(X.mean(-2, keepdim=True)), Y)

    example = EXAMPLE.replace(X=EXAMPLE.X.clone())
    with pytest.raises(AssertionError, match=r"the input to stay as it is\n +found X or Y changed in place"):
        check_bad_input(Subject(centres, "ridge"), example)


def careless(X, Y):
    """Whatever comes: an answer."""
    try:
        return ridge(X, Y)
    except Exception:
        return torch.zeros(2, 2)


def nameless(X, Y):
    try:
        return ridge(X, Y)
    except Exception:
        raise ValueError("wrong arguments") from None


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        (ridge, ("X a vector: a ValueError that names X", "RuntimeError", "an operation inside")),
        (nameless, ("X a vector: a message that names X", "ValueError: wrong arguments")),
        (careless, ("X a vector: a ValueError", "found a result", "broadcast by accident")),
    ],
    ids=["unchecked", "nameless", "careless"],
)
def test_arguments_that_are_not_checked_are_told(layer, parts):
    refuses(check_bad_input, layer, *parts)


def test_a_negative_strength_is_tried_where_layers_are_made():
    def make(l2):
        return lambda X, Y: il.Ridge(abs(l2))(X, Y)

    with pytest.raises(AssertionError, match=r"l2 negative: a ValueError\n +found a result"):
        check_bad_input(Subject(None, "ridge", make), EXAMPLE)
    check_bad_input(Subject(il.Ridge(0.1), "ridge"), EXAMPLE)


@pytest.mark.parametrize(("name", "layer"), [("logistic", il.LogisticRegression(0.05)), ("svm", il.MulticlassSVM(0.1))])
def test_integer_labels_are_targets_too(name, layer):
    example = Example(EXAMPLE.X, labels(5, k=3), {"l1": 0.05} if name == "logistic" else {"l2": 0.1})
    check_bad_input(Subject(layer, name), example)
    check_dtypes(Subject(layer, name), example)
