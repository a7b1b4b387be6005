import re
import warnings

import pytest
import torch
from helpers import labels, normal
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
