"""Our own layers pass the suite that we offer for everyone's."""

from functools import partial

import pytest

import implicitlayers as il
from implicitlayers.testing import PROPERTIES, check_layer, objective

GROUPS = [[0, 3], [1, 2, 4], [5]]
LAYERS = {
    "ridge": (il.Ridge, {}),
    "lasso": (il.Lasso, {}),
    "elastic_net": (il.ElasticNet, {}),
    "group_lasso": (il.GroupLasso, {}),
    "sparse_group_lasso": (partial(il.SparseGroupLasso, groups=GROUPS), {"groups": GROUPS}),
    "nonnegative": (il.NonNegativeRegression, {}),
    "box": (il.BoxRegression, {}),
    "simplex": (il.SimplexRegression, {}),
    "huber": (il.HuberRegression, {}),
    "logistic": (il.LogisticRegression, {}),
    "svm": (il.MulticlassSVM, {}),
    "binary_svm": (il.BinarySVM, {}),
    "sparse_ridge": (partial(il.SparseRidge, n_nonzero=2), {"n_nonzero": 2}),
}


# Those that take long are in test_all_layers too.
QUICK = [name for name in PROPERTIES if name not in ("memory", "derivatives, forward", "second derivatives")]
FIXED = ("sparse_group_lasso", "sparse_ridge")


def checked(name, properties, **options):
    layer, described = LAYERS[name]
    made = partial(layer, tol=1e-12, on_fail="ignore", **options)
    problem = objective(name, **described, **options)
    return check_layer(None, problem, make=made, max_examples=5, shrink_seconds=1.0, properties=properties)


@pytest.mark.parametrize("name", LAYERS)
def test_our_layer_passes(name):
    rows = checked(name, QUICK)
    assert sum(row.holds is True for row in rows) >= 15


@pytest.mark.parametrize("name", [name for name in LAYERS if name in ("nonnegative", "box", "simplex", "sparse_ridge")])
def test_our_layer_is_asked_for_its_constraints(name):
    assert all(row.holds for row in checked(name, ["feasibility"]))


@pytest.mark.parametrize("name", ["huber", "logistic"])
def test_our_layer_takes_constants_for_its_intercept_where_that_is_a_column(name):
    """Where the loss is not squared, centring does not do."""
    assert all(row.holds for row in checked(name, ["offsets", "isolation of losses"], fit_intercept=True))


@pytest.mark.parametrize("name", ["ridge", "lasso"])
def test_our_layer_passes_with_intercept(name):
    checked(name, QUICK, fit_intercept=True)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in FIXED])
def test_our_layer_takes_at_most_four_times_the_memory_of_the_features(name):
    checked(name, ["memory"])
