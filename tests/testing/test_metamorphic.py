"""Each relation tells a layer that breaks it, in its own words, and lets one that does not pass."""

import pytest
import torch
from handmade import ridge
from helpers import normal, uniform

import implicitlayers as il
from implicitlayers.testing import RELATIONS, Example, Subject, check_metamorphic

X, Y, WEIGHT = normal(6, 3), normal(6, 2, seed=1), uniform(6)
STRENGTHS = {
    "ridge": {"l2": 0.1},
    "lasso": {"l1": 0.05},
    "elastic_net": {"l1": 0.05, "l2": 0.1},
    "group_lasso": {"l1": 0.05, "l2": 0.1},
}
RIGHT = {"ridge": il.Ridge, "lasso": il.Lasso, "elastic_net": il.ElasticNet, "group_lasso": il.GroupLasso}


def tilted(l2):
    """The first feature costs more than the others."""
    return lambda X, Y: ridge(X, Y, l2 * torch.arange(1, X.shape[-1] + 1).to(X))


def unnormalised(l2):
    return lambda X, Y, sample_weight=None: (
        il.Ridge(l2)(X, Y)
        if sample_weight is None
        else il.Ridge(l2 / float(sample_weight.mean()))(X, Y, sample_weight=sample_weight)
    )


def counting(l2):
    """Divides by the number of samples, absent ones included."""
    return lambda X, Y, sample_weight=None: (
        il.Ridge(l2)(X, Y)
        if sample_weight is None
        else il.Ridge(l2 * len(X) / int((sample_weight > 0).sum()))(X, Y, sample_weight=sample_weight)
    )


def standardised(l2):
    return lambda X, Y: il.Ridge(l2 * float(X.detach().square().mean()))(X, Y)


def relative(l2):
    return lambda X, Y: il.Ridge(l2 * float(Y.detach().square().mean()))(X, Y)


# Relation: a problem, what makes layers that break it, and what the message says.
BROKEN = {
    "order of samples": ("ridge", lambda l2: lambda X, Y: ridge(X[:-1], Y[:-1], l2), "the order of the samples not to"),
    "order of features": ("ridge", tilted, "permuted features to permute the rows of W"),
    "order of targets": (
        "ridge", lambda l2: lambda X, Y: ridge(X, Y * torch.arange(1.0, 3.0), l2), "permuted targets, or classes, to",
    ),
    "every sample twice": ("ridge", lambda l2: lambda X, Y: ridge(X, Y, l2 / len(X)), "every sample twice to change"),
    "weights": ("ridge", unnormalised, "a duplicate sample to act like twice the weight"),
    "weights, absent": ("ridge", counting, "a sample of weight zero to be absent"),
    "zero from l1_max on": ("lasso", lambda l1: il.Lasso(0.9 * l1), "all coefficients zero from l1_max on"),
    "zero from l1_max on, below": ("lasso", lambda l1: il.Lasso(2 * l1), "a coefficient other than zero below l1_max"),
    "scaling of X": ("ridge", standardised, "X·3, l1·3 and l2·9 to divide W by 3"),
    "scaling of Y": ("ridge", relative, "Y·3 and l1·3 to multiply W by 3"),
    "targets apart": (
        "ridge", lambda l2: lambda X, Y: ridge(X, Y, l2 * Y.shape[-1]), "targets solved together to be targets solved",
    ),
    "groups of one": (
        "group_lasso", lambda l1, l2: il.GroupLasso(l1, l2, groups=[[0, 1], [2]]), "with one target and groups of one",
    ),
    "l1 to zero": ("elastic_net", lambda l1, l2: il.ElasticNet(l1, 2 * l2), "ridge regression in the limit of no l1"),
}  # fmt: skip


def test_all_relations_are_broken_below():
    assert {name.split(",")[0] for name in BROKEN} == set(RELATIONS)


@pytest.mark.parametrize("name", BROKEN)
def test_a_layer_that_breaks_a_relation_is_told(name):
    problem, wrong, message = BROKEN[name]
    relation, applies = RELATIONS[name.split(",")[0]]
    weight = WEIGHT if name == "weights" else None
    example = Example(X, Y, STRENGTHS[problem], weight)
    right = Subject(None, problem, RIGHT[problem])
    assert applies(right, example)
    relation(right, example)
    with pytest.raises(AssertionError) as caught:
        relation(Subject(None, problem, wrong), example)
    assert message in str(caught.value)
    assert "likely cause: " in str(caught.value)


def test_the_check_finds_it_too_and_says_how_to_see_it_again():
    example = Example(X, Y, STRENGTHS["ridge"])
    with pytest.raises(
        AssertionError, match=r"(?s)permuted features .*check_metamorphic\(Subject\(layer, 'ridge', make="
    ):
        check_metamorphic(Subject(None, "ridge", tilted), example)


def test_of_an_objective_of_ones_own_only_the_order_of_samples_is_known():
    def value(X, Y, W):
        return (X @ W - Y).square().sum((-2, -1)) / (2 * X.shape[-2]) + 0.05 * W.square().sum((-2, -1))

    assert check_metamorphic(Subject(ridge, value), Example(X, Y)) == ["order of samples"]


def test_a_solution_that_is_not_unique_is_left_out():
    """Twice the same column, and no ridge: any split is a solution, and a permutation may take another."""
    twice = Example(torch.cat([X, X[:, :1]], -1), Y, {"l1": 0.05})
    assert check_metamorphic(Subject(il.Lasso(0.05), "lasso"), twice) == []
    assert check_metamorphic(Subject(il.Lasso(0.05), "lasso"), twice.replace(X=X))
