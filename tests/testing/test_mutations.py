"""The checks are able to fail: each mistake is caught, and by the check that is there for it."""

from functools import partial

import pytest
import torch
from handmade import ElasticNet, Simplex, WithIntercept

from implicitlayers.testing import PROPERTIES, check_layer, objective

# Mistake: the property that must fail, what its message must say, and a property that holds all the same.
MUTATIONS = {
    "sign in prox": ("optimality", "duality gap", "bad input"),
    "1/n for 1/(2n)": ("optimality", "all strengths times 1/2", "bad input"),
    "loose support": ("derivatives, reverse", "wrong support", "optimality"),
    "mean over the batch": ("batching", "mean over the batch", "derivatives, reverse"),
    "no l2 in H": ("derivatives, forward", "the l2 term", "optimality"),
    "infeasible dual": ("certificate", "not feasible", "bad input"),
    "detached strength": ("derivatives, reverse", "l1 is detached", "optimality"),
    "flags everything": ("flags", "20 of 20", "optimality"),
    "NaN from zeros": ("optimality", "finite coefficients", "dtypes"),
    "no isolation": ("isolation", "not to change the others", "optimality"),
    "float64 for float32": ("dtypes", "torch.float32 coefficients", "optimality"),
    "half of l1_max": ("l1_max", "no coefficients better than zero at l1_max", "optimality"),
    "a sum for a maximum": ("l1_max", "other than zero at 0.98·l1_max", "optimality"),
    "detached l1_max": ("l1_max", "the derivative of l1_max in reverse mode", "optimality"),
    "the start is the answer": ("warm starts", "from the solution of", "optimality"),
    "takes duals apart": ("forward over vmap", "jvp(vmap(layer)) to work", "derivatives, forward"),
    "products in the input's precision": ("autocast", "the same value with autocast around forward", "dtypes"),
    "a mean of strengths": ("batched strengths", "to solve each problem of a batch of 7 with its own", "batching"),
    "reads memory": ("memory layout", "to be that of contiguous tensors", "optimality"),
}
# The same of other layers: what makes them, and the problem that they solve.
OTHERS = {
    "zero where there is nothing to fit": (Simplex, "simplex", "feasibility", "of zero targets within", "optimality"),
    "a step after the projection": (Simplex, "simplex", "feasibility", "coefficients within", None),
    "a rounding becomes a feature": (WithIntercept, "ridge", "offsets", "a constant column", "optimality"),
    "centred after": (WithIntercept, "elastic_net", "offsets", "features moved by 1e+06", "batching"),
    "an intercept that is not masked": (
        WithIntercept, "elastic_net", "isolation of losses", "the other elements' intercepts to have no", "optimality"
    ),
}  # fmt: skip


def run(mistake, *properties, max_examples=20):
    made = partial(ElasticNet, mistake=mistake)
    problem = "elastic_net" if mistake == "no l2 in H" else "lasso"
    return check_layer(None, problem, make=made, properties=properties, max_examples=max_examples, shrink_seconds=1.0)


@pytest.mark.parametrize("mistake", MUTATIONS)
def test_a_mistake_is_caught_by_the_check_that_is_there_for_it(mistake):
    fails, message, holds = MUTATIONS[mistake]
    with pytest.raises(AssertionError) as caught:
        run(mistake, fails, holds, max_examples=80 if mistake == "loose support" else 20)
    listed = str(caught.value)
    assert listed.startswith("1 of 2 properties do not hold"), listed
    assert f"\n{fails}: expected" in listed
    assert message in listed
    assert "example = Example(" in listed or fails == "flags"


# What does not apply: the simplex layer has no intercept, and fails a whole batch for one NaN.
ABSENT = {Simplex: ["offsets", "isolation of losses"], WithIntercept: ["feasibility"]}


def problem_of(layer, name):
    return objective(name, fit_intercept=layer is WithIntercept)


@pytest.mark.parametrize("mistake", OTHERS)
def test_a_mistake_with_constraints_or_intercepts_is_caught_too(mistake):
    layer, name, fails, message, holds = OTHERS[mistake]
    made = partial(layer, mistake=mistake)
    options = {"make": made, "max_examples": 20 if name == "ridge" else 4, "shrink_seconds": 1.0}
    properties = [fails] if holds is None else [fails, holds]
    with pytest.raises(AssertionError) as caught:
        check_layer(None, problem_of(layer, name), properties=properties, **options)
    listed = str(caught.value)
    assert listed.startswith(f"1 of {len(properties)} properties do not hold"), listed
    assert f"\n{fails}: expected" in listed
    assert message in listed


@pytest.mark.parametrize(("layer", "name"), [(Simplex, "simplex"), (WithIntercept, "elastic_net")])
def test_without_a_mistake_what_they_are_there_for_holds(layer, name):
    properties = ["optimality", "feasibility", "offsets", "isolation of losses", "memory layout", "batched strengths"]
    rows = check_layer(None, problem_of(layer, name), make=layer, max_examples=2, properties=properties)
    assert [row.name for row in rows if row.holds is None] == ABSENT[layer]


def test_a_matrix_of_features_by_features_is_caught_by_the_memory_check():
    with pytest.raises(AssertionError, match=r"memory: expected at most 4 times the memory of X"):
        run("", "memory")


def test_copies_kept_for_the_backward_pass_are_caught_by_the_memory_check():
    def unrolled(X, Y, l1=0.1):
        W = torch.zeros(X.shape[-1], Y.shape[-1], dtype=X.dtype)
        for scale in range(1, 9):
            copy = X * scale
            W = W - 1e-6 * copy.mT @ (copy @ W - Y)
        return W

    with pytest.raises(AssertionError, match=r"memory: expected at most 4 times the memory of X"):
        check_layer(unrolled, problem="lasso", strengths={"l1": 0.1}, properties=["memory"])


def test_without_a_mistake_everything_else_holds():
    rows = run("", *(name for name in PROPERTIES if name != "memory"))
    assert {row.name for row in rows if not row.holds} == {"feasibility", "offsets"}, rows
