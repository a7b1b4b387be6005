"""What a solution prints, how it travels, and what it says where no feature is in use."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from helpers import labels, normal, one_hot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.utils import _pytree as pytree

import implicitlayers as il

EMPTY = int(il.Status.EMPTY)


def solved(*batch, dtype=torch.float32, requires_grad=True, fit_intercept=False):
    X = normal(*batch, 20, 12, dtype=dtype).requires_grad_(requires_grad)
    return il.GroupLasso(0.4, fit_intercept=fit_intercept).solve(X, normal(*batch, 20, 2, seed=1, dtype=dtype))


def tensors(solution):
    return {name: value for name, value in vars(solution).items() if isinstance(value, torch.Tensor)}


def assert_same(found, expected):
    assert tensors(found).keys() == tensors(expected).keys()
    for name, value in tensors(expected).items():
        assert torch.equal(getattr(found, name), value), name
    assert found.solver == expected.solver


# What is printed


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (40, 3)])
@pytest.mark.parametrize("show", [repr, str])
def test_printed_in_a_few_lines(batch, show):
    text = show(solved(*batch))
    assert len(text.splitlines()) <= 5
    assert len(text) <= 600
    assert str((*batch, 12, 2)) in text
    assert "float32" in text
    assert "tensor(" not in text


def test_printed_with_what_is_in_use_and_how_well_it_is_solved():
    solution = solved(4)
    text = repr(solution)
    used = solution.support.sum(-1)
    assert used.min() < used.max()
    assert f"{used.min()} to {used.max()} of 12" in text
    assert "4 of 4" in text
    assert f"{solution.gap.max():.1e}" in text
    assert solution.solver in text


def test_printed_with_why_elements_have_not_converged():
    X, Y = normal(2, 3, 20, 12), normal(2, 3, 20, 2, seed=1)
    X[1, 2, 0, 0] = torch.nan
    text = repr(il.GroupLasso(0.4, on_fail="ignore").solve(X, Y))
    assert "converged: 5 of 6" in text
    assert "NOT_FINITE: 1 of 6, first at [1, 2]" in text
    assert "NaN" in text
    assert "worst gap nan" not in text


def test_printed_where_no_gap_is_a_number():
    assert "converged: 0 of 1, worst gap nan" in repr(
        il.Lasso(0.4, on_fail="ignore").solve(torch.full((4, 3), torch.nan), torch.ones(4, 1))
    )


def test_printed_inside_transforms():
    """No value may be looked at there; a print in the middle of a loss must not fail."""
    seen = []

    def loss(X, Y):
        solution = il.GroupLasso(0.4).solve(X, Y)
        seen.append(repr(solution))
        return solution.coef.sum()

    X, Y = normal(3, 20, 12), normal(3, 20, 2, seed=1)
    vmap(loss)(X, Y)
    grad(loss)(X[0], Y[0])
    vmap(grad(loss))(X, Y)
    assert all("(12, 2)" in text for text in seen)
    assert len(seen) == 3


# How it travels


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle", "torch", "pytree"])
def test_a_copy_is_the_same_numbers(how, fit_intercept):
    solution = solved(3, fit_intercept=fit_intercept)
    file = io.BytesIO()
    if how == "torch":
        torch.save({"nested": [solution]}, file)
        file.seek(0)
    found = {
        "deepcopy": lambda: copy.deepcopy(solution),
        "copy": lambda: copy.copy(solution),
        "pickle": lambda: pickle.loads(pickle.dumps(solution)),
        "torch": lambda: torch.load(file, weights_only=True)["nested"][0],
        "pytree": lambda: pytree.tree_map(torch.clone, solution),
    }[how]()
    assert_same(found, solution)
    assert found.coef.requires_grad == (how == "pytree")
    assert (found.predict(normal(3, 4, 12, dtype=torch.float32)).shape) == (3, 4, 2)


def test_detached():
    solution = solved(3, fit_intercept=True)
    assert solution.coef.requires_grad
    assert solution.intercept.requires_grad
    found = solution.detach()
    assert_same(found, solution)
    assert not any(t.requires_grad for t in tensors(found).values())


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_in_another_dtype_the_certificate_stays(fit_intercept):
    solution = solved(3, fit_intercept=fit_intercept)
    found = solution.to(torch.float64)
    for name in ("coef", "dual", *(["intercept"] if fit_intercept else [])):
        assert getattr(found, name).dtype == torch.float64
    for name in ("gap", "objective", "coef_error", "derivative_error", "status", "n_iter"):
        assert getattr(found, name) is getattr(solution, name), name
    assert solution.to("cpu", torch.float16).gap.dtype == torch.float64
    assert torch.autograd.grad(found.coef.sum(), solution.coef)[0].eq(1).all()


def test_on_another_device():
    moved = solved(3, fit_intercept=True).to("meta")
    assert {t.device.type for t in tensors(moved).values()} == {"meta"}
    assert "(3, 12, 2)" in repr(moved)


INDICES = [0, -1, slice(1, 3), (1, 2), (slice(None), 1), ..., (..., 0), None, [0, 1], torch.tensor([1, 0])]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_elements_as_a_tensor_has_them(index):
    solution = solved(2, 3, fit_intercept=True)
    found = solution[index]
    where = torch.arange(6).reshape(2, 3)[index]
    for name, value in tensors(solution).items():
        assert torch.equal(getattr(found, name), value.flatten(0, 1)[where]), name


def test_those_that_converged_and_no_element_of_one_problem():
    solution = solved(2, 3)
    assert solution[solution.converged].coef.shape == (6, 12, 2)
    assert [one.coef.shape for one in solution] == [(3, 12, 2)] * 2
    with pytest.raises(IndexError):
        solution[2]
    with pytest.raises(IndexError):
        solved()[0]
    with pytest.raises(TypeError, match=r"\.coef"):
        _W, _b = solved()


def test_a_path_has_solutions_to_start_from():
    X, Y = normal(20, 12), normal(20, 1, seed=1)
    layer = il.Lasso(0.1)
    path = layer.path(X, Y, layer.l1_max(X, Y) * torch.tensor([0.5, 0.1], dtype=torch.float64))
    assert_same(path[-1], list(path)[1])
    assert il.Lasso(0.1).solve(X, Y, init=path[-1]).converged


def test_solutions_compare_and_hash_as_objects():
    first, second = solved(), solved()
    assert first == first
    assert first != second
    assert len({first, second}) == 2


def test_transforms_return_solutions():
    X, Y = normal(3, 20, 12), normal(3, 20, 2, seed=1)
    layer = il.GroupLasso(0.4)
    batched = vmap(layer.solve)(X, Y)
    assert isinstance(batched, il.Solution)
    assert batched.solver == layer.solve(X, Y).solver
    assert torch.allclose(batched.coef, layer.solve(X, Y).coef, atol=1e-10)
    # As an argument, too: a start per element.
    again = vmap(lambda X, Y, init: layer.solve(X, Y, init=init))(X, Y, batched)
    assert again.converged.all()

    def loss(X, Y):
        solution = layer.solve(X, Y)
        return solution.coef.square().sum(), solution

    gradient, solution = vmap(grad(loss, has_aux=True))(X, Y)
    assert gradient.shape == X.shape
    assert solution.converged.all()


# Nothing in use

SPARSE = {
    "lasso": lambda l1, **o: il.Lasso(l1, **o),
    "elastic_net": lambda l1, **o: il.ElasticNet(l1, 0.1, **o),
    "group_lasso": lambda l1, **o: il.GroupLasso(l1, **o),
    "groups": lambda l1, **o: il.GroupLasso(l1, groups=[[0, 1, 2], [3, 4, 5, 6, 7]], **o),
    "sparse_group_lasso": lambda l1, **o: il.SparseGroupLasso(l1, 0.1, groups=[[0, 1, 2], [3, 4, 5, 6, 7]], **o),
    "non_negative": lambda l1, **o: il.NonNegativeRegression(l1, **o),
    "huber": lambda l1, **o: il.HuberRegression(l1, **o),
    "logistic": lambda l1, **o: il.LogisticRegression(l1, **o),
    "svm": lambda l1, **o: il.MulticlassSVM(0.1, l1, **o),
    "smooth_svm": lambda l1, **o: il.MulticlassSVM(0.1, l1, 0.2, **o),
    "binary_svm": lambda l1, **o: il.BinarySVM(0.1, l1, **o),
}
INTERCEPTS = [(name, False) for name in SPARSE] + [(name, True) for name in SPARSE if "svm" not in name]


def data(name, *batch, m=8, seed=0):
    X = normal(*batch, 12, m, seed=seed)
    if name in ("svm", "smooth_svm", "logistic"):
        return X, labels(*batch, 12, k=3, seed=seed)
    if name == "binary_svm":
        return X, labels(*batch, 12, k=2, seed=seed)
    return X, normal(*batch, 12, 1 if name == "lasso" else 2, seed=seed + 1)


def largest(name, X, Y, **options):
    """The l1 that leaves nothing."""
    if name != "smooth_svm":
        return SPARSE[name](1.0, **options).l1_max(X, Y)
    # At W = 0 this smoothing has each sample's λ uniform over the other classes.
    theta = 1.5 * one_hot(Y, 3) - 0.5
    return (X.mT @ theta).norm(dim=-1).amax(-1) / X.shape[-2]


def with_intercept(fit_intercept):
    return {"fit_intercept": True} if fit_intercept else {}


@pytest.mark.parametrize(("name", "fit_intercept"), INTERCEPTS)
@settings(max_examples=8)
@given(share=st.sampled_from([0.5, 0.9, 1.1, 3.0]), m=st.sampled_from([8, 100]), seed=st.integers(0, 20))
def test_empty_is_where_no_derivative_reaches_features_or_strengths(name, fit_intercept, share, m, seed):
    """Case 33: l1 above l1_max. The flag is up there, and only there, and is no failure."""
    if "group" in name and name != "group_lasso":
        m = 8
    options = with_intercept(fit_intercept)
    X, Y = data(name, m=m, seed=seed)
    l1 = (share * largest(name, X, Y, **options)).detach().requires_grad_()
    X = X.requires_grad_()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = SPARSE[name](l1, **options).solve(X, Y)
    assert solution.converged
    weights = normal(*solution.coef.shape, seed=5)
    total = (solution.coef * weights).sum()
    if fit_intercept:
        total = total + solution.intercept.square().sum()
    to_X, to_l1 = torch.autograd.grad(total, (X, l1), allow_unused=True)
    dead = all(g is None or not g.any() for g in (to_X, to_l1))
    assert bool(solution.status & EMPTY) == dead == (share > 1)
    assert not dead or not solution.support.any()
    assert [w.category for w in caught] == [il.EmptySolutionWarning] * dead


def test_what_no_penalty_empties_is_never_empty():
    X, Y = normal(12, 8), normal(12, 2, seed=1)
    for layer in (il.Ridge(1e9), il.SimplexRegression(), il.SparseRidge(1e9, 2), il.MulticlassSVM(1e9)):
        targets = labels(12, k=2) if isinstance(layer, il.MulticlassSVM) else Y
        assert not layer.solve(X, targets).status & EMPTY


def test_a_box_is_empty_where_nothing_can_move():
    """Zero inside the box moves with the data, and zero on a bound that the data press against does not."""
    X = torch.eye(2, dtype=torch.float64).requires_grad_()
    inside = il.BoxRegression(-1.0, 1.0, 0.1).solve(X, torch.zeros(2, 1, dtype=torch.float64))
    assert not inside.status & EMPTY
    with pytest.warns(il.EmptySolutionWarning, match="constraint"):
        pressed = il.BoxRegression(0.0, 1.0, 0.1).solve(X, -torch.ones(2, 1, dtype=torch.float64))
    assert pressed.status & EMPTY
    at_the_other = il.BoxRegression(0.0, 1.0).solve(X, 5 * torch.ones(2, 1, dtype=torch.float64))
    assert not at_the_other.status & EMPTY


@pytest.mark.parametrize(("name", "fit_intercept"), INTERCEPTS)
@pytest.mark.parametrize("m", [8, 100])
def test_each_element_is_told_and_one_that_learns_is_enough(name, fit_intercept, m):
    """Tasks that use nothing are part of a life with l1: the status says which, and no warning comes, an error here."""
    if "group" in name and name != "group_lasso":
        m = 8
    options = with_intercept(fit_intercept)
    X, Y = data(name, 3, m=m)
    l1 = largest(name, X, Y, **options) * torch.tensor([2.0, 0.5, 2.0], dtype=torch.float64)
    solution = SPARSE[name](l1, **options).solve(X.requires_grad_(), Y)
    assert ((solution.status & EMPTY) != 0).tolist() == [True, False, True]
    assert solution.converged.all()


def test_no_warning_where_there_is_nothing_to_learn():
    """scikit-learn#20144: zero targets, or what an intercept alone explains, whatever their rounding."""
    for n in (2, 3, 7, 11):
        X = normal(n, 3).requires_grad_()
        for c in (0.0, 0.1, 1e5 / 3, 1e-8 / 3):
            Y = torch.full((n, 1), c, dtype=torch.float64)
            for make in (il.Lasso, il.GroupLasso, il.HuberRegression):
                layer = make(0.1 * c + 1e-3, fit_intercept=True)
                assert layer.solve(X, Y, sample_weight=torch.rand(n) + 0.1).status & EMPTY
        assert il.Lasso(0.1).solve(X, torch.zeros(n, 1, dtype=torch.float64)).status & EMPTY


def dead(*, layer=None, X=None, **options):
    X = normal(2, 12, 8).requires_grad_() if X is None else X
    return (layer or il.Lasso(1e3, **options)).solve(X, normal(2, 12, 1, seed=1))


def test_no_warning_unless_a_derivative_is_wanted():
    """Of the features or a strength; of the targets alone there is nothing to train."""
    dead(X=normal(2, 12, 8))
    dead(derivative_order=0)
    dead(on_fail="ignore")
    with torch.no_grad():
        dead()
    il.Lasso(1e3).solve(normal(12, 8), normal(12, 1, seed=1).requires_grad_())
    vmap(il.Lasso(1e3).solve)(normal(2, 12, 8), normal(2, 12, 1, seed=1))


@pytest.mark.parametrize("on_fail", ["warn", "raise"])
def test_an_empty_solution_is_a_warning_and_no_failure(on_fail):
    with pytest.warns(il.EmptySolutionWarning, match="Lasso: no feature is in use"):
        assert dead(on_fail=on_fail).converged.all()


def test_a_strength_that_is_learnt_is_warned_about():
    l1 = torch.nn.Parameter(torch.tensor(1e3))
    with pytest.warns(il.EmptySolutionWarning):
        dead(layer=il.Lasso(l1), X=normal(2, 12, 8))
    with pytest.warns(il.EmptySolutionWarning):
        dead(layer=il.GroupLasso(1e3, group_weights=torch.nn.Parameter(torch.ones(8))), X=normal(2, 12, 8))


def test_an_element_that_is_not_finite_does_not_hide_that_the_others_are_empty():
    X = normal(2, 12, 8)
    X[0, 0, 0] = torch.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dead(X=X.requires_grad_())
    assert {w.category for w in caught} == {il.ConvergenceWarning, il.EmptySolutionWarning}


@pytest.mark.parametrize(
    "transformed",
    [
        lambda f, X, Y: vmap(grad(lambda X, Y: f(X, Y).sum()))(X, Y),
        lambda f, X, Y: grad(lambda X: vmap(f)(X, Y).sum())(X),
        lambda f, X, Y: vmap(f)(X.requires_grad_(), Y),
        lambda f, X, Y: torch.func.jvp(lambda X: f(X, Y), (X,), (X,)),
    ],
)
def test_a_transform_that_differentiates_is_warned_about(transformed):
    with pytest.warns(il.EmptySolutionWarning):
        transformed(il.Lasso(1e3), normal(2, 12, 8), normal(2, 12, 1, seed=1))


def test_a_path_may_begin_with_nothing_but_not_end_there():
    X, Y = normal(12, 8).requires_grad_(), normal(12, 1, seed=1)
    largest = il.Lasso(1.0).l1_max(X, Y).detach()
    path = il.Lasso(1.0).path(X, Y, largest * torch.tensor([2.0, 1.5, 0.5], dtype=torch.float64))
    assert ((path.status & EMPTY) != 0).tolist() == [True, True, False]
    with pytest.warns(il.EmptySolutionWarning):
        il.Lasso(1.0).path(X, Y, largest * torch.tensor([3.0, 2.0], dtype=torch.float64))


def test_the_message_says_what_to_do():
    assert "l1_max" in il.Status.EMPTY.message
    assert "Relative" in il.Status.EMPTY.message
    assert not il.Status.EMPTY & (il.Status.ITERATION_LIMIT | il.Status.NOT_FINITE)
