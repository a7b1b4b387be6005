import math
import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import labels, normal
from torch._subclasses import FakeTensorMode
from torch.func import vmap

import implicitlayers as il

N, M, K = 6, 4, 3
X, Y, LABELS = normal(N, M), normal(N, K, seed=1), labels(N, k=K)
NEGATIVE, NOT_A_NUMBER = (torch.tensor(v, dtype=torch.float64) for v in (-0.1, torch.nan))


def fails(call, *parts, error=ValueError):
    """The message names the argument, what was given, and what was expected."""
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert re.search(part, str(caught.value)), f"{part!r} not in {caught.value}"
    if error is ValueError:
        assert "given" in str(caught.value)
        assert "expected" in str(caught.value)


LAYERS = {
    "ridge": lambda **options: il.Ridge(options.pop("l2", 0.1), **options),
    "lasso": lambda **options: il.GroupLasso(options.pop("l1", 0.1), **options),
    "svm": lambda **options: il.MulticlassSVM(options.pop("l2", 0.1), **options),
}
named = pytest.mark.parametrize("name", LAYERS)


def target(name):
    return LABELS if name == "svm" else Y


@pytest.mark.parametrize("name", ["ridge", "lasso"])
def test_target_vector_suggests_a_column(name):
    fails(lambda: LAYERS[name]()(X, Y[:, 0]), "^Y", r"\(6,\)", r"unsqueeze\(-1\)")


@named
def test_wrong_number_of_samples(name):
    fails(lambda: LAYERS[name]()(X[:-1], target(name)), "^Y", "5")
    fails(lambda: LAYERS[name]()(X, target(name)[:-1]), "^Y", "6")
    fails(lambda: LAYERS[name]()(X, target(name), sample_weight=torch.ones(N + 1)), "^sample_weight", r"\(7,\)", "6")


@named
@pytest.mark.parametrize(
    ("features", "part"),
    [
        (torch.ones(N, M, dtype=torch.int64), "int64"),
        (torch.ones(N, M, dtype=torch.bool), "bool"),
        (torch.ones(N, M, dtype=torch.complex64), "complex64"),
        (torch.ones(N), r"\(6,\)"),
        (torch.ones(N, 0), r"\(6, 0\)"),
        ([[1.0]], "list"),
    ],
    ids=["integer", "bool", "complex", "vector", "no_feature", "list"],
)
def test_features_that_are_no_matrix_of_numbers(name, features, part):
    fails(lambda: LAYERS[name]()(features, target(name)), "^X", part)


@pytest.mark.parametrize("name", ["ridge", "lasso"])
def test_targets_that_are_no_numbers(name):
    fails(lambda: LAYERS[name]()(X, LABELS), "^Y", "int64")
    fails(lambda: LAYERS[name]()(X, Y.tolist()), "^Y", "list")


STRENGTHS = [("ridge", "l2"), ("lasso", "l1"), ("lasso", "l2"), ("svm", "l2"), ("svm", "l1"), ("svm", "smoothing")]
strengths = pytest.mark.parametrize(("name", "strength"), STRENGTHS)


@strengths
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", None, True, [0.1]])
def test_strengths_that_are_no_numbers_from_zero_up(name, strength, value):
    fails(lambda: LAYERS[name](**{strength: value}), f"^{strength}", re.escape(str(value)))


def test_numbers_are_checked_without_a_device():
    """Layers can be made where tensors have no values."""
    with torch.device("meta"):
        assert il.BoxRegression(-0.1, 1, 0.1).lower == -0.1
        fails(lambda: il.Lasso(-0.1), "^l1: given -0.1")


@pytest.mark.parametrize("weight", [torch.arange(N), torch.arange(N) > 2], ids=["integers", "booleans"])
def test_weights_of_any_dtype_are_weights(weight):
    same = il.Lasso(0.1)(X, Y, sample_weight=weight.double())
    torch.testing.assert_close(il.Lasso(0.1)(X, Y, sample_weight=weight), same)


@strengths
@pytest.mark.parametrize("value", [NEGATIVE, NOT_A_NUMBER, torch.nn.Parameter(NEGATIVE)])
def test_strengths_as_tensors_are_checked_when_solving(name, strength, value):
    layer = LAYERS[name](**{strength: value})
    fails(lambda: layer(X, target(name)), f"^{strength}", "-0.1|nan")


def box(name, value):
    return il.BoxRegression(**{"lower": -0.2, "upper": 0.3, "l2": 0.1, name: value})


@pytest.mark.parametrize(("name", "value", "sign"), [("lower", 0.1, "≤"), ("upper", -0.1, "≥"), ("l2", -0.1, "≥")])
def test_bounds_of_a_box_are_called_what_they_are(name, value, sign):
    tensor = torch.tensor([0.0, value], dtype=torch.float64)
    fails(lambda: box(name, value), f"^{name}: given {value}, expected a number {sign} 0")
    fails(lambda: box(name, str(value)), f"^{name}: given '{value}'")
    fails(lambda: box(name, torch.tensor(1)), f"^{name}", "int64")
    fails(lambda: box(name, torch.nan), f"^{name}: given nan")
    fails(lambda: box(name, tensor)(X, Y), f"^{name}: given {value}, expected (finite )?values {sign} 0")
    fails(lambda: vmap(lambda v: box(name, v)(X, Y))(tensor), f"^{name}: given {value}")
    fails(lambda: box(name, torch.zeros(3))(X.expand(2, N, M), Y), "batch", rf"{name} \(3,\)")
    assert f"{name}=0," in repr(box(name, 0.0))


@strengths
@pytest.mark.parametrize("value", [-0.1, torch.nan])
def test_strengths_are_checked_under_vmap(name, strength, value):
    values = torch.tensor([0.1, value], dtype=torch.float64)
    y = torch.nn.functional.one_hot(LABELS, K).double() if name == "svm" else Y
    fails(lambda: vmap(lambda s: LAYERS[name](**{strength: s})(X, y))(values), f"^{strength}", "-0.1|nan")


@strengths
def test_integer_tensors_are_no_strengths(name, strength):
    fails(lambda: LAYERS[name](**{strength: torch.tensor(1)}), f"^{strength}", "int64")


@pytest.mark.parametrize("l2", [0.0, torch.tensor(0.0)])
def test_svm_needs_l2(l2):
    fails(lambda: il.MulticlassSVM(l2)(X, LABELS), "^l2", "> 0")


@named
@pytest.mark.parametrize("value", [-1.0, torch.nan, torch.inf])
def test_weights_below_zero_or_not_finite(name, value):
    weight = torch.ones(N)
    weight[2] = value
    fails(lambda: LAYERS[name]()(X, target(name), sample_weight=weight), "^sample_weight")


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_labels_out_of_range(label):
    y = LABELS.clone()
    y[2] = label
    fails(lambda: il.MulticlassSVM(0.1, n_classes=K)(X, y), "^Y", "sample 2", "0 to 2")


def test_labels_below_zero_without_a_number_of_classes():
    y = LABELS.clone()
    y[2] = -1
    fails(lambda: il.MulticlassSVM(0.1)(X, y), "^Y", "sample 2")


@pytest.mark.parametrize("row", [[0.5, 0.0, 0.0], [1.0, 1.0, 0.0], [2.0, -1.0, 0.0]])
def test_one_hot_rows_that_are_no_distribution(row):
    one_hot = torch.nn.functional.one_hot(LABELS, K).double()
    one_hot[4] = torch.tensor(row, dtype=torch.float64)
    fails(lambda: il.MulticlassSVM(0.1)(X, one_hot), "^Y", "sample 4")


def test_labels_as_floats_suggest_integers():
    fails(lambda: il.MulticlassSVM(0.1)(X, LABELS.float()), "^Y", r"long\(\)")


def test_one_hot_width_other_than_n_classes():
    fails(lambda: il.MulticlassSVM(0.1, n_classes=4)(X, torch.eye(3)[LABELS]), "^Y", "4")


def test_class_outside_the_mask():
    mask = torch.tensor([True, True, False])
    fails(lambda: il.MulticlassSVM(0.1)(X, LABELS, class_mask=mask), "^Y", "sample 2", "class_mask")


@pytest.mark.parametrize(
    ("mask", "part"),
    [
        (torch.ones(K + 1, dtype=torch.bool), r"\(4,\)"),
        (torch.ones(K), "float32"),
        (torch.zeros(K, dtype=torch.bool), "without any class"),
    ],
    ids=["shape", "dtype", "empty"],
)
def test_masks_that_are_none(mask, part):
    fails(lambda: il.MulticlassSVM(0.1)(X, LABELS, class_mask=mask), "^class_mask", part)


@pytest.mark.parametrize("n_classes", [1, 0, -3, 2.0, True, "3"])
def test_numbers_of_classes_that_are_none(n_classes):
    fails(lambda: il.MulticlassSVM(0.1, n_classes=n_classes), "^n_classes", re.escape(repr(n_classes)))


def test_integer_labels_under_vmap_need_the_number_of_classes():
    y = LABELS.expand(2, N)
    fails(lambda: vmap(lambda y: il.MulticlassSVM(0.1)(X, y))(y), "^n_classes", "vmap")
    coef = vmap(lambda y: il.MulticlassSVM(0.1, n_classes=K)(X, y))(y)
    torch.testing.assert_close(coef[1], il.MulticlassSVM(0.1)(X, LABELS))


@named
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tol", 0.0),
        ("tol", -1e-6),
        ("tol", float("nan")),
        ("max_iter", 0),
        ("max_iter", 1.5),
        ("max_iter", True),
        ("on_fail", "explode"),
        ("derivative_order", -1),
        ("derivative_order", 1.0),
    ],
)
def test_options_out_of_range(name, option, value):
    fails(lambda: LAYERS[name](**{option: value}), f"^{option}", re.escape(str(value)))


GROUPED = {
    "group_lasso": lambda **options: il.GroupLasso(0.1, **options),
    "sparse_group_lasso": lambda **options: il.SparseGroupLasso(0.1, 0.1, **options),
}
grouped = pytest.mark.parametrize("make", GROUPED.values(), ids=GROUPED)


@grouped
@pytest.mark.parametrize(
    "groups",
    [[[0, 1], [1, 2, 3]], [[0, 0], [1], [2], [3]], [[0, 1], [3]], [[1, 2], [3, 4]], [[-1, 0], [1, 2]]],
    ids=["overlap", "twice", "gap", "from one", "negative"],
)
def test_groups_that_are_no_partition(make, groups):
    members = sorted(j for group in groups for j in group)
    fails(lambda: make(groups=groups), "^groups", re.escape(str(members)), "each feature from 0", "exactly one")


@grouped
@pytest.mark.parametrize("groups", [[], [[0, 1], [2]], [[0, 1], [2, 3, 4]]], ids=["none", "fewer", "more"])
def test_groups_of_other_than_the_features_of_X(make, groups):
    size = sum(len(group) for group in groups)
    fails(lambda: make(groups=groups)(X, Y), "^groups", f"of {size} features", "expected 4, the features of X")


@grouped
@pytest.mark.parametrize(
    ("weights", "part"),
    [
        (torch.ones(3), r"given \(3,\)"),
        (torch.ones(2, 1), r"given \(2, 1\)"),
        (torch.tensor(1.0), r"given \(\)"),
        (2.0, r"given 2\.0"),
        ([1.0, 1.0], r"given \[1\.0, 1\.0\]"),
        (torch.ones(2, dtype=torch.int64), "int64"),
    ],
    ids=["more", "one over a batch", "scalar", "number", "list", "integers"],
)
def test_group_weights_that_are_not_one_per_group(make, weights, part):
    expected = "expected a tensor|floating-point tensor"
    fails(lambda: make(groups=[[0, 1], [2, 3]], group_weights=weights), "^group_weights", part, expected)


@grouped
@pytest.mark.parametrize("size", [1, 3, 5])
def test_group_weights_of_other_than_the_features_of_X(make, size):
    layer = make(group_weights=torch.ones(size))
    fails(lambda: layer(X, Y), "^group_weights", f"given {size} weights", "expected 4, one per feature")
    assert layer(normal(N, size), Y).shape == (size, K)


@grouped
@pytest.mark.parametrize("kind", [torch.Tensor, torch.nn.Parameter])
@pytest.mark.parametrize("value", [-0.1, torch.nan, torch.inf])
def test_group_weights_below_zero_or_not_finite(make, value, kind):
    """Nothing else is to blame for them, whoever asks."""
    weights = torch.tensor([1.0, 0.5, value, 1.0], dtype=torch.float64)
    layer = make(group_weights=torch.nn.Parameter(weights) if kind is torch.nn.Parameter else weights)
    parts = f"^group_weights: given {value}, expected finite values ≥ 0"
    fails(lambda: layer(X, Y), parts)
    fails(lambda: layer.l1_max(X, Y), parts)
    fails(lambda: vmap(lambda w: make(group_weights=w)(X, Y))(weights.expand(2, M)), parts)


@pytest.mark.parametrize(
    ("layer", "name", "targets"),
    [
        (il.GroupLasso(NEGATIVE, group_weights=torch.full((M,), 2.0)), "l1", Y),
        (il.Lasso(il.Relative(NEGATIVE)), "l1", Y),
        (il.BinarySVM(NEGATIVE), "l2", LABELS % 2),
        (il.BinarySVM(0.1, NEGATIVE), "l1", LABELS % 2),
        (il.BinarySVM(0.1, smoothing=NEGATIVE), "smoothing", LABELS % 2),
    ],
    ids=["group weights", "relative", "l2", "l1", "smoothing"],
)
def test_values_are_told_as_they_were_given(layer, name, targets):
    """Not as what a layer makes of them."""
    fails(lambda: layer(X, targets), f"^{name}: given -0.1,")


def test_weights_are_told_as_they_were_given():
    weight = torch.tensor([3.0, 1.0, -2.0, 0.0, 0.0, 0.0])
    fails(lambda: il.Lasso(0.1)(X, Y, sample_weight=weight), "^sample_weight: given -2,")
    fails(lambda: il.Lasso(0.1).l1_max(X, Y, sample_weight=weight), "^sample_weight: given -2,")


@grouped
def test_batches_of_group_weights_that_do_not_fit(make):
    layer = make(group_weights=torch.ones(3, M))
    fails(lambda: layer(X.expand(2, N, M), Y), "batch", r"X \(2,\)", r"group_weights \(3,\)")


@pytest.mark.parametrize("layer", [il.NonNegativeRegression, il.HuberRegression])
def test_without_any_strength_there_is_no_certificate(layer):
    """The message says what will do, and it does."""
    fails(lambda: layer(l1=0, l2=0.0), "^l1 and l2", "given 0 for both", "expected one > 0", "l2=1e-8 .*will do")
    assert layer(l2=1e-8).solve(X, Y).converged
    # A tensor may be zero somewhere, and that is seen in time by its gap.
    assert layer(l2=torch.tensor(0.0), on_fail="ignore")(X, Y).shape == (M, K)


def test_class_targets_that_are_no_tensor():
    fails(lambda: il.MulticlassSVM(0.1)(X, LABELS.tolist()), "^Y", "given list", "integer labels", "one-hot")


@pytest.mark.parametrize("layer", [il.MulticlassSVM, il.LogisticRegression])
def test_an_empty_batch_of_labels_needs_the_number_of_classes(layer):
    none = torch.zeros(0, N, dtype=torch.int64)
    fails(lambda: layer(l2=0.1)(X.expand(0, N, M), none), "^n_classes", "given None", r"\(0, 6\), has no label")
    assert layer(l2=0.1, n_classes=K)(X.expand(0, N, M), none).shape == (0, M, K)


@named
def test_misspelt_options_are_named(name):
    fails(lambda: LAYERS[name](max_iters=3), "max_iters", error=TypeError)
    fails(lambda: LAYERS[name]().solve(X, target(name), weights=None), "weights", error=TypeError)


def test_misspelt_options_of_functions_are_named():
    fails(lambda: il.functional.ridge(X, Y, l2=0.1, toll=1e-3), "toll", error=TypeError)
    fails(lambda: il.functional.group_lasso(X, Y, l1=0.1, lambda2=1.0), "lambda2", error=TypeError)
    fails(lambda: il.functional.multiclass_svm(X, LABELS, l2=0.1, C=1.0), "C", error=TypeError)


@named
def test_batches_that_do_not_fit(name):
    many = X.expand(2, N, M)
    y = target(name).expand(3, *target(name).shape)
    fails(lambda: LAYERS[name]()(many, y), "batch", r"X \(2,\)", r"Y \(3,\)")
    weight = torch.ones(3, N)
    fails(lambda: LAYERS[name]()(many, target(name), sample_weight=weight), r"sample_weight \(3,\)")
    strength = "l1" if name == "lasso" else "l2"
    fails(lambda: LAYERS[name](**{strength: torch.ones(3)})(many, target(name)), rf"{strength} \(3,\)")


def hard(**options):
    """Layers that cannot reach their tolerance: it is below rounding, and they have one step."""
    options = {"max_iter": 1, "tol": 1e-20} | options
    return {
        "GroupLasso": lambda: il.GroupLasso(1e-3, **options).solve(normal(2, 30, 60), normal(2, 30, 3, seed=1)),
        "MulticlassSVM": lambda: il.MulticlassSVM(1e-2, 1e-2, **options).solve(
            normal(2, 30, 60), labels(2, 30, k=5), init=None
        ),
    }


failing = pytest.mark.parametrize("name", ["GroupLasso", "MulticlassSVM"])


@failing
def test_failure_warns_by_default_and_names_causes(name):
    with pytest.warns(il.ConvergenceWarning, match=f"{name}: 2 of 2 elements .*l2.*max_iter.*tol"):
        solution = hard()[name]()
    assert (solution.status & il.Status.ITERATION_LIMIT).all()
    assert not solution.converged.any()
    assert (solution.gap > 1e-20).all()
    assert torch.isfinite(solution.coef).all()


@failing
def test_failure_raises_on_demand(name):
    with pytest.raises(il.ConvergenceError, match=f"{name}: 2 of 2 elements .*l2.*max_iter.*tol"):
        hard(on_fail="raise")[name]()


@failing
def test_failure_can_be_ignored(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = hard(on_fail="ignore")[name]()
    assert not solution.converged.any()


@named
def test_non_finite_elements_are_reported_like_failures(name):
    """The status, the warning and its causes; the healthy element is not counted."""
    bad = torch.stack([X, X])
    bad[1, 0, 0] = torch.nan
    y = target(name).expand(2, *target(name).shape)
    told = "1 of 2 elements have not converged; the first is 1: X or Y holds NaN.*encoder.*missing"
    with pytest.warns(il.ConvergenceWarning, match=told):
        LAYERS[name]()(bad, y)
    with pytest.raises(il.ConvergenceError, match=told):
        LAYERS[name](on_fail="raise")(bad, y)


def test_status_messages_say_what_to_do():
    assert il.Status(0).message == "solved"
    both = il.Status.ITERATION_LIMIT | il.Status.SINGULAR
    assert il.Status.ITERATION_LIMIT.message in both.message
    assert il.Status.SINGULAR.message in both.message
    assert all(status.message != "solved" for status in il.Status)


def test_degenerate_solutions_are_flagged():
    """A group at its threshold, exactly or nearly: l1 equal to l1_max."""
    l1 = float((X.mT @ Y / N).norm(dim=-1).max())
    for factor in (1.0, 1 + 1e-9):
        assert il.GroupLasso(factor * l1).solve(X, Y).status & il.Status.DEGENERATE
    assert not il.GroupLasso(0.9 * l1).solve(X, Y).status & il.Status.DEGENERATE


@pytest.mark.parametrize(("r", "shown"), [(0.25, "Relative(0.25)"), (torch.ones(3), "Relative(tensor(3,))")])
def test_representation_shows_a_share(r, shown):
    assert repr(il.Relative(r)) == shown
    assert f"l1={shown}," in repr(il.Lasso(il.Relative(r)))
    fails(lambda: il.Ridge(il.Relative(r)), "^l2: given", re.escape(shown))


def test_representation_shows_strengths_and_options():
    shown = repr(il.MulticlassSVM(0.25, torch.ones(3), tol=1e-5))
    for part in ("MulticlassSVM", "l2=0.25", "l1=tensor(3,)", "tol=1e-05", "on_fail='warn'"):
        assert part in shown


# Case 31: what else is given by mistake.

ALL_LAYERS = {
    "Ridge": lambda **o: il.Ridge(**{"l2": 0.1, **o}),
    "Lasso": lambda **o: il.Lasso(**{"l1": 0.1, **o}),
    "ElasticNet": lambda **o: il.ElasticNet(**{"l1": 0.1, "l2": 0.1, **o}),
    "GroupLasso": lambda **o: il.GroupLasso(**{"l1": 0.1, "l2": 0.1, "group_weights": torch.ones(M).double(), **o}),
    "SparseGroupLasso": lambda **o: il.SparseGroupLasso(**{"l1": 0.1, "group_l1": 0.1, "l2": 0.1, **o}),
    "NonNegativeRegression": lambda **o: il.NonNegativeRegression(**{"l1": 0.1, "l2": 0.1, **o}),
    "BoxRegression": lambda **o: il.BoxRegression(**{"lower": -0.2, "upper": 0.3, "l2": 0.1, **o}),
    "SimplexRegression": lambda **o: il.SimplexRegression(**{"total": 1.0, "l2": 0.1, **o}),
    "HuberRegression": lambda **o: il.HuberRegression(**{"l1": 0.1, "l2": 0.1, "delta": 1.0, **o}),
    "SparseRidge": lambda **o: il.SparseRidge(**{"l2": 0.1, "n_nonzero": 2, **o}),
    "MulticlassSVM": lambda **o: il.MulticlassSVM(**{"l2": 0.1, "l1": 0.1, "smoothing": 0.5, **o}),
    "BinarySVM": lambda **o: il.BinarySVM(**{"l2": 0.1, "l1": 0.1, "smoothing": 0.5, **o}),
    "LogisticRegression": lambda **o: il.LogisticRegression(**{"l1": 0.1, "l2": 0.1, **o}),
}
every = pytest.mark.parametrize("name", ALL_LAYERS)
CLASSIFIERS = ("MulticlassSVM", "BinarySVM", "LogisticRegression")


def targets_of(name):
    return LABELS % 2 if name == "BinarySVM" else LABELS if name in CLASSIFIERS else Y


def arguments_of(name):
    """Those of a call, by name, all of them given."""
    given = {"X": X, "Y": targets_of(name), "sample_weight": torch.ones(N, dtype=torch.float64)}
    if name in CLASSIFIERS:
        given["class_mask"] = torch.ones(2 if name == "BinarySVM" else K, dtype=torch.bool)
    return given


def strengths_of(layer):
    """By name; a Lasso's l2 is no argument of its own."""
    return ["l1"] if isinstance(layer, il.Lasso) else list(layer._allowed)


BROKEN = {
    "sparse": (lambda t: t.to_sparse(), "sparse_coo"),
    "meta": (lambda t: t.to("meta"), "meta device"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "numpy": (lambda t: t.numpy(), "ndarray"),
}


@every
@pytest.mark.parametrize("broken", BROKEN)
def test_tensors_without_plain_values_are_named(name, broken):
    change, part = BROKEN[broken]
    for argument, value in arguments_of(name).items():
        given = arguments_of(name) | {argument: change(value)}
        fails(lambda: ALL_LAYERS[name]()(**given), f"^{argument}: given", part)  # noqa: B023


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@named
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_features_suggest_padding(name, layout):
    nested = torch.nested.nested_tensor([X, X[:3]], layout=layout)
    fails(
        lambda: LAYERS[name]()(nested, target(name)), "^X: given a nested tensor", "to_padded_tensor", "sample_weight"
    )


@every
def test_tensors_on_another_device_are_named(name):
    """No such device is needed to say so: fake tensors have shapes and devices, and no values."""
    layer = ALL_LAYERS[name](**({"n_classes": K} if name in CLASSIFIERS[::2] else {}))  # else labels are looked at
    with FakeTensorMode(allow_non_fake_inputs=True):
        for argument, value in arguments_of(name).items():
            if argument == "X":
                continue
            elsewhere = torch.empty(value.shape, dtype=value.dtype, device="cuda")
            given = arguments_of(name) | {argument: elsewhere}
            fails(lambda: layer(**given), rf"^{argument}: .* cuda:0, expected cpu, as X")  # noqa: B023


@every
@pytest.mark.parametrize("broken", ["sparse", "meta"])
def test_strengths_without_plain_values_are_named(name, broken):
    change, part = BROKEN[broken]
    for strength in strengths_of(ALL_LAYERS[name]()):
        value = torch.tensor([0.1 if strength != "lower" else -0.1], dtype=torch.float64)
        layer = ALL_LAYERS[name](**{strength: change(value)})
        fails(lambda: layer(X, targets_of(name)), f"^{strength}: given", part)  # noqa: B023


@pytest.mark.parametrize("name", [name for name in ALL_LAYERS if name not in CLASSIFIERS])
def test_no_target(name):
    fails(lambda: ALL_LAYERS[name]()(X, Y[:, :0]), r"^Y: given shape \(6, 0\)", "k ≥ 1")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_no_class(name):
    fails(lambda: ALL_LAYERS[name]()(X, torch.zeros(N, 0)), r"^Y: given shape \(6, 0\)")


@every
@pytest.mark.parametrize("init", [torch.zeros(M, K), torch.zeros(()), "last", 0, (X, Y)], ids=str)
def test_a_start_that_is_no_solution(name, init):
    fails(lambda: ALL_LAYERS[name]()(X, targets_of(name), init=init), f"^init: given {type(init).__name__}", "Solution")


@every
def test_a_start_of_another_shape(name):
    other = il.Ridge(0.1).solve(normal(N, M + 1), Y)
    fails(lambda: ALL_LAYERS[name]()(X, targets_of(name), init=other), "^init: given a solution with coef", r"\(5, 3\)")


@pytest.mark.parametrize("label", [10**13, 2000])
@pytest.mark.parametrize("name", ["MulticlassSVM", "LogisticRegression"])
def test_labels_that_are_no_class_numbers(name, label):
    """Without them being made one-hot, 80 TB of it; and the repair that the message names works."""
    y = LABELS.clone()
    y[2] = label
    fails(lambda: ALL_LAYERS[name]()(X, y), f"^Y: given the label {label} among 6", f"n_classes={label + 1}", "unique")
    assert ALL_LAYERS[name]()(X, torch.unique(y, return_inverse=True)[1]).shape == (M, len(y.unique()))


def test_a_few_classes_without_samples_are_classes():
    y = LABELS.clone()
    y[2] = 100
    assert il.MulticlassSVM(0.1)(X, y).shape == (M, 101)
    assert il.MulticlassSVM(0.1)(X, y.to(torch.uint8)).shape == (M, 101)


@pytest.mark.parametrize("n_classes", [10**13, 10**30])
def test_numbers_of_classes_that_no_memory_holds(n_classes):
    fails(lambda: il.MulticlassSVM(0.1, n_classes=n_classes)(X, LABELS), f"^n_classes: given {n_classes}", "GiB")


@grouped
@pytest.mark.parametrize(
    ("groups", "part"),
    [
        ([0, 0, 1, 0], r"groups=\[\[0, 1, 3\], \[2\]\]"),
        (torch.tensor([1, 0, 0, 1]), r"groups=\[\[1, 2\], \[0, 3\]\]"),
        ([[0, 1.0], [2, 3]], "expected lists"),
        (["ab", "cd"], "expected lists"),
        (2, "given 2, expected lists"),
        ([[0, 1], 2, 3], "expected lists"),
    ],
    ids=["numbers of groups", "tensor", "floats", "names", "number", "mixed"],
)
def test_groups_that_list_no_features(make, groups, part):
    fails(lambda: make(groups=groups), "^groups: given", part)


@pytest.mark.parametrize("kind", [tuple, torch.tensor, np.array, lambda g: (range(2), {2, 3})])
def test_groups_may_be_any_sequences_of_integers(kind):
    groups = [[0, 1], [2, 3]]
    assert torch.equal(il.GroupLasso(0.1, groups=kind(groups))(X, Y), il.GroupLasso(0.1, groups=groups)(X, Y))


OPTIONS = [
    ("tol", "x"),
    ("tol", True),
    ("tol", float("nan")),
    ("tol", 1j),
    ("tol", [1e-6]),
    ("max_iter", "10"),
    ("max_iter", None),
    ("on_fail", None),
    ("on_fail", True),
    ("derivative_order", True),
    ("derivative_order", None),
    ("fit_intercept", "no"),
    ("fit_intercept", 1),
    ("fit_intercept", None),
    ("solver", "nope"),
    ("solver", 3),
]


@every
@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_options_are_checked_at_construction_and_when_set_later(name, option, value):
    fails(lambda: ALL_LAYERS[name](**{option: value}), f"^{option}: given {re.escape(repr(value))}")
    layer = ALL_LAYERS[name]()
    setattr(layer, option, value)
    fails(lambda: layer(X, targets_of(name)), f"^{option}: given {re.escape(repr(value))}")


@every
def test_options_set_later_hold(name):
    layer = ALL_LAYERS[name](on_fail="ignore")
    layer.max_iter, layer.tol = 77, 1e-3
    assert layer.options.max_iter == 77
    assert "max_iter=77" in repr(layer)
    assert (layer.solve(X, targets_of(name)).gap <= 1e-3).all()
    if name != "SparseRidge":  # one algorithm for all of these: it is always allowed
        layer.solver = layer.solve(X, targets_of(name)).solver
        assert layer.solve(X, targets_of(name)).solver == layer.solver


@every
def test_every_solver_has_a_name_that_is_known(name):
    solved = ALL_LAYERS[name]().solve(X, targets_of(name))
    assert ALL_LAYERS[name](solver=solved.solver).solver == solved.solver


NUMBERS = [np.float32(0.25), np.float64(0.25), np.array(0.25), Fraction(1, 4), np.float16(0.25)]


@every
@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: type(n).__name__)
def test_real_numbers_of_any_kind_are_strengths(name, number):
    for strength in strengths_of(ALL_LAYERS[name]()):
        value = -number if strength == "lower" else number
        given, plain = (ALL_LAYERS[name](**{strength: v}) for v in (value, float(value)))
        assert repr(given) == repr(plain)
        assert torch.equal(given(X, targets_of(name)), plain(X, targets_of(name)))


@pytest.mark.parametrize("number", [1, np.int64(1), np.uint8(1), np.array(1)])
def test_integers_of_any_kind_are_strengths(number):
    assert torch.equal(il.Ridge(number)(X, Y), il.Ridge(1.0)(X, Y))
    assert il.SparseRidge(0.1, np.int64(2))(X, Y).shape == (M, K)


@every
@pytest.mark.parametrize("value", [np.bool_(True), np.array([0.1]), 1j, np.complex64(1j), 10**400, Fraction(-1, 3)])
def test_what_is_no_real_number_is_no_strength(name, value):
    for strength in strengths_of(ALL_LAYERS[name]()):
        if strength in ("lower", "upper") and isinstance(value, int | Fraction):
            continue  # These may be infinite, and a lower bound negative.
        fails(lambda: ALL_LAYERS[name](**{strength: value}), f"^{strength}: given")  # noqa: B023


@pytest.mark.parametrize("strengths", [{"l1": 0.1}, {"l2": 0.1}])
def test_a_class_without_samples_has_no_finite_intercept(strengths):
    """Not l2 is to blame. Masked, or with an intercept for none, there is a solution."""
    layer = il.LogisticRegression(n_classes=3, fit_intercept=True, **strengths)
    many, y = normal(2, N, M), torch.stack([LABELS, LABELS % 2])
    parts = "^Y: class 2 of element 1 has no sample", "class_mask", "fit_intercept=False"
    fails(lambda: layer(many, y), *parts)
    absent = torch.stack([torch.ones(N), (LABELS != 2).float()])
    fails(lambda: layer(many, LABELS, sample_weight=absent), *parts)
    fails(lambda: vmap(layer)(many, y), *parts)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert layer.solve(many, y, class_mask=mask).converged.all()
    assert il.LogisticRegression(n_classes=3, **strengths).solve(many, y).converged.all()


# Case 37: strengths set later.


@every
@pytest.mark.parametrize("value", [-0.5, math.nan, "0.1", None, True])
def test_strengths_set_later_are_checked_as_at_construction(name, value):
    for strength in strengths_of(ALL_LAYERS[name]()):
        wrong = 0.5 if strength == "lower" and value == -0.5 else value
        with pytest.raises(ValueError, match=f"^{strength}: given") as at_construction:
            ALL_LAYERS[name](**{strength: wrong})
        layer = ALL_LAYERS[name]()
        setattr(layer, strength, wrong)
        with pytest.raises(ValueError, match=f"^{strength}: given") as later:
            layer(X, targets_of(name))
        assert str(later.value) == str(at_construction.value)


@every
def test_strengths_changed_in_place_are_checked(name):
    """By an optimiser, or by a checkpoint."""
    for strength in strengths_of(ALL_LAYERS[name]()):
        sign = -1.0 if strength == "lower" else 1.0
        layer = ALL_LAYERS[name](**{strength: torch.nn.Parameter(torch.tensor(sign * 0.2, dtype=torch.float64))})
        layer(X, targets_of(name))
        layer.load_state_dict({strength: torch.tensor(-0.5 * sign)})
        fails(lambda: layer(X, targets_of(name)), f"^{strength}: given {-0.5 * sign}")  # noqa: B023


@every
def test_strengths_set_later_hold(name):
    layer = ALL_LAYERS[name]()
    for strength in strengths_of(layer):
        value = -0.05 if strength == "lower" else 0.05
        setattr(layer, strength, value)
        fresh = ALL_LAYERS[name](**{s: getattr(layer, s) for s in strengths_of(layer)})
        assert torch.equal(layer(X, targets_of(name)), fresh(X, targets_of(name)))


@every
def test_shares_set_later_are_checked(name):
    layer = ALL_LAYERS[name]()
    for strength in strengths_of(layer):
        changed = ALL_LAYERS[name]()
        setattr(changed, strength, il.Relative(0.5))
        if strength == "l1":
            changed(X, targets_of(name))
            changed.l1.r = -0.5
            fails(lambda: changed(X, targets_of(name)), "^r: given -0.5")  # noqa: B023
        else:
            fails(lambda: changed(X, targets_of(name)), f"^{strength}: given Relative", "only l1")  # noqa: B023


@pytest.mark.parametrize("name", ["LogisticRegression", "HuberRegression", "NonNegativeRegression"])
def test_both_strengths_set_to_zero_later(name):
    layer = ALL_LAYERS[name]()
    layer.l1 = 0.0
    layer(X, targets_of(name))
    layer.l2 = 0
    fails(lambda: layer(X, targets_of(name)), "^l1 and l2: given 0 for both")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_numbers_of_features_and_classes_set_later(value):
    layer = ALL_LAYERS["SparseRidge"]()
    layer.n_nonzero = value
    fails(lambda: layer(X, Y), f"^n_nonzero: given {value!r}")
    svm = ALL_LAYERS["MulticlassSVM"]()
    svm.n_classes = value
    if value is not None:
        fails(lambda: svm(X, LABELS), f"^n_classes: given {value!r}")


@pytest.mark.parametrize("name", ["MulticlassSVM", "BinarySVM"])
def test_an_intercept_of_the_hinge_set_later(name):
    fails(lambda: ALL_LAYERS[name](fit_intercept=True), "^fit_intercept: given True", "constant column")
    layer = ALL_LAYERS[name]()
    layer.fit_intercept = True
    fails(lambda: layer(X, targets_of(name)), "^fit_intercept: given True", "constant column")


@grouped
@pytest.mark.parametrize(("weights", "part"), [(torch.ones(3), r"\(3,\)"), (torch.ones(2, dtype=torch.int64), "int64")])
def test_group_weights_set_later(make, weights, part):
    layer = make(groups=[[0, 1], [2, 3]], group_weights=torch.ones(2))
    layer.groups.weight = weights
    fails(lambda: layer(X, Y), "^group_weights: given", part)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.tensor(0.1), "tensor(0.1)"),
        (torch.nn.Parameter(torch.tensor(0.1)), "Parameter(0.1)"),
        (torch.nn.Parameter(torch.ones(2, 1)), "Parameter(2, 1)"),
        (torch.rand(10), "tensor(10,)"),
        (torch.empty((), device="meta"), "tensor()"),
    ],
)
def test_representation_shows_one_number_by_its_value_and_a_batch_by_its_shape(value, shown):
    assert f"l1={shown}," in repr(il.Lasso(value))
    assert repr(il.Relative(value)) == f"Relative({shown})"


def test_representation_shows_what_was_set_later_even_if_it_is_wrong():
    layer = il.Lasso(0.1)
    layer.l1 = "x"
    layer.tol = -1
    assert "l1='x'," in repr(layer)
    assert "tol=-1," in repr(layer)


def test_representation_inside_a_transform():
    seen = []
    vmap(lambda l1: (seen.append(repr(il.Lasso(l1))), l1)[1])(torch.rand(3))
    assert "l1=tensor()," in seen[0]


def test_strengths_are_a_batch():
    """As the contract says, and the docstring."""
    l1 = torch.linspace(0.1, 0.2, 10, dtype=torch.float64)
    coef = il.Lasso(l1)(X, Y)
    assert coef.shape == (10, M, K)
    torch.testing.assert_close(coef[3], il.Lasso(float(l1[3]))(X, Y))
    assert "one for each of its entries" in " ".join(il.layers.base.ArgminLayer.__doc__.split())
