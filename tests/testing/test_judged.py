"""What can be told from a wrong layer: the rest is refused beforehand, and no right layer ever is."""

from functools import partial

import numpy as np
import pytest
import torch
from handmade import ridge
from helpers import normal
from scipy.optimize import nnls

from implicitlayers.testing import Example, LayerSuite, Subject, check_layer, check_optimal, larger, objective

INFINITE = float("inf")
GROUPS = objective("group_lasso", groups=[[0], [1]])
SPARSE_GROUPS = objective("sparse_group_lasso", groups=[[0], [1]])
FREE = torch.tensor([1.0, 0.0], dtype=torch.float64)


def never(X, Y):
    raise AssertionError("a layer that cannot be judged is not asked")


@pytest.mark.parametrize(
    ("problem", "strengths", "given", "expected"),
    [
        ("nonnegative", {}, "none for 'nonnegative'", "l2 > 0, l1 > 0 where there is one, or finite bounds: "),
        ("nonnegative", {"l1": 0.0, "l2": 0.0}, "l1=0, l2=0 for 'nonnegative'", "l2 > 0, l1 > 0 where there is one"),
        ("box", {"lower": -INFINITE, "upper": 1.0}, "lower=-inf, upper=1 for 'box'", "l2 > 0, l1 > 0 where"),
        ("box", {"lower": 0.0, "upper": INFINITE}, "lower=0, upper=inf for 'box'", "l2 > 0, l1 > 0 where"),
        ("huber", {}, "none for 'huber'", "l1 or l2 > 0: without either there may be no minimiser"),
        ("logistic", {"l1": 0.0}, "l1=0 for 'logistic'", "l1 or l2 > 0: without either there may be no minimiser"),
        ("svm", {"l2": 0.0}, "l2=0 for 'svm'", "l2 > 0: without it the dual of a hinge"),
        ("binary_svm", {"l2": 0.0, "l1": 0.1}, "l2=0, l1=0.1 for 'binary_svm'", "l2 > 0"),
        (GROUPS, {"l1": 0.1, "group_weights": FREE}, "l1=0.1, group_weights=[1.0, 0.0]", "l2 > 0 beside groups"),
        (SPARSE_GROUPS, {"l1": 0.0, "group_l1": 0.1, "group_weights": FREE}, "l1=0", "l2 > 0 beside groups"),
        ("lasso", {"l1": -0.1}, "l1=-0.1", "a number ≥ 0"),
        ("ridge", {"l2": float("nan")}, "l2=nan", "a number ≥ 0"),
        ("box", {"lower": 0.1, "upper": 1.0}, "lower=0.1", "a number ≤ 0"),
        ("simplex", {"total": 0.0}, "total=0", "a number > 0"),
    ],
    ids=str,
)
def test_what_cannot_be_certified_is_refused_beforehand_with_the_reason(problem, strengths, given, expected):
    """Case 35: without l1 and l2 exact non-negative least squares were called wrong, with gaps up to 1."""

    class Suite(LayerSuite):
        layer = staticmethod(never)

    Suite.problem, Suite.strengths = problem, strengths
    for run in (lambda: check_layer(never, problem, strengths), Suite().test_optimality):
        with pytest.raises(ValueError, match="strengths: given ") as caught:
            run()
        assert given in str(caught.value)
        assert f"expected {expected}" in str(caught.value)


def test_a_single_check_refuses_it_too():
    with pytest.raises(ValueError, match="strengths: given none for 'nonnegative', expected l2 > 0, l1 > 0"):
        check_optimal(
            Subject(lambda X, Y: torch.zeros(3, 2).double(), "nonnegative"), Example(normal(5, 3), normal(5, 2))
        )


def by_nnls(X, Y, l1=0.0, l2=0.0):
    """min ‖XW − Y‖²/(2n) + l1·ΣW + (l2/2)‖W‖² over W ≥ 0, exactly, as least squares of more rows."""
    n, m = X.shape
    A = torch.cat([X / n**0.5, l2**0.5 * torch.eye(m, dtype=X.dtype)])
    B = torch.cat([Y / n**0.5, -l1 / l2**0.5 * torch.ones(m, Y.shape[1], dtype=X.dtype)])
    columns = [nnls(A.numpy(), B[:, c].numpy())[0] for c in range(Y.shape[1])]
    return torch.from_numpy(np.stack(columns, -1))


def least_squares(X, Y):
    return torch.linalg.pinv(X) @ Y


@pytest.mark.parametrize(
    ("problem", "strengths", "layer"),
    [
        ("nonnegative", {"l2": 1e-3}, partial(by_nnls, l2=1e-3)),
        ("nonnegative", {"l1": 0.05, "l2": 0.1}, partial(by_nnls, l1=0.05, l2=0.1)),
        ("ridge", {"l2": 0.0}, least_squares),
        ("lasso", {"l1": 0.0}, least_squares),
        ("elastic_net", {"l1": 0.0}, least_squares),
        ("elastic_net", {"l1": 0.0, "l2": 0.1}, ridge),
        ("group_lasso", {"l1": 0.0}, least_squares),
        ("sparse_group_lasso", {"l1": 0.0, "group_l1": 0.0}, least_squares),
        ("box", {"lower": -INFINITE, "upper": INFINITE, "l2": 0.1}, ridge),
    ],
    # Not the address of a function, which another process has elsewhere.
    ids=lambda value: "exact" if callable(value) else str(value),
)
def test_exact_solvers_are_right_whatever_strengths_are_missing(problem, strengths, layer):
    """Case 35: the same with a strength of zero that leaves a closed form, or an infinite bound beside an l2."""
    rows = check_layer(layer, problem, strengths, max_examples=20, properties=["optimality", "feasibility"])
    assert rows[0].holds


def few_steps(X, Y, l2=1e-3, steps=20):
    """Ridge regression by so many steps of conjugate gradients."""
    A, R = X.mT @ X / X.shape[-2], X.mT @ Y / X.shape[-2]
    W, D = torch.zeros_like(R), R
    for _ in range(steps):
        product = A @ D + l2 * D
        square = R.square().sum((-2, -1), keepdim=True)
        length = square / (D * product).sum((-2, -1), keepdim=True).clamp_min(1e-300)
        W, R = W + length * D, R - length * product
        D = R + R.square().sum((-2, -1), keepdim=True) / square.clamp_min(1e-300) * D
    return W


def test_a_solver_that_stops_early_is_told_by_the_larger_problem(capsys):
    """Case 36: 20 steps of conjugate gradients are exact for the few features of small problems."""
    small = Example(normal(8, 5), normal(8, 2, seed=1), {"l2": 1e-3})
    assert check_optimal(Subject(few_steps, "ridge"), small) <= 1e-9
    with pytest.raises(AssertionError, match=r"optimality: expected a relative duality gap") as caught:
        check_layer(few_steps, "ridge", {"l2": 1e-3}, max_examples=10, properties=["optimality"])
    code = str(caught.value)
    assert "example = larger(objective('ridge'), {'l2': 0.001}, n=100, m=200, " in code
    with pytest.raises(AssertionError, match="expected a relative duality gap"):
        exec(code[code.index("import torch\n") :], {"layer": few_steps})
    check_layer(partial(few_steps, steps=2000), "ridge", {"l2": 1e-3}, max_examples=10, properties=["optimality"])
    assert "up to 100 × 200" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["lasso", "logistic", "binary_svm"])
def test_the_larger_problem_is_badly_conditioned_and_the_same_each_time(name):
    one, other = larger(objective(name)), larger(objective(name))
    assert torch.equal(one.X, other.X)
    assert one.X.shape == (100, 200)
    scales = one.X.square().mean(-2).sqrt()
    assert 5 < float(scales[:20].mean() / scales[-20:].mean()) < 20
    # A copy that is changed is no longer what the code would make.
    assert one.code() == other.code() != one.replace(X=2 * one.X).code()


def numbers_only(l2):
    return partial(ridge, l2=l2)


PROPERTIES = ["batched strengths", "derivatives, reverse", "second derivatives", "batching"]


def test_what_makes_layers_need_not_take_strengths_over_a_batch():
    """Case 36: they were passed without a word, and the derivatives were blamed."""
    rows = check_layer(None, "ridge", make=numbers_only, max_examples=10, properties=PROPERTIES)
    assert [row.holds for row in rows] == [None, True, True, True]
    assert rows[0].detail.startswith("make takes no l2 of shape (7,)")
    assert rows[0].detail.endswith("in the other checks a batch shares its strengths")


def test_strengths_that_meet_the_targets_are_told_by_that_name():
    def transposed(l2):
        l2 = torch.as_tensor(l2)
        return partial(ridge, l2=(l2.flip(0) if l2.dim() else l2)[..., None, None])

    with pytest.raises(
        AssertionError, match=r"1 of 4 properties do not hold\s+batched strengths: expected a layer made"
    ):
        check_layer(None, "ridge", make=transposed, max_examples=10, properties=PROPERTIES)


def mean_square(X, Y, W):
    return (X @ W - Y).square().sum((-2, -1)) / (2 * X.shape[-2]) + 0.05 * W.square().sum((-2, -1))


def raises(X, Y, W):
    return (X @ W - Y.mT).square().sum((-2, -1))


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (
            raises,
            r"raises, which raises RuntimeError: .*called with X, Y, W, of shapes \(6, 2\), \(6, 2\)",
        ),
        (lambda X, Y: 0.0, r"which raises TypeError: .* 3 were given"),
        (lambda X, Y, W: mean_square(X, Y, W.detach()), "whose value is detached from W"),
        (lambda X, Y, W: torch.tensor(float(mean_square(X, Y, W))), "whose value is detached from W"),
        (lambda X, Y, W: float(mean_square(X, Y, W)), "which returns float"),
        (lambda X, Y, W: None, "which returns NoneType"),
        (lambda X, Y, W: (W > 0).sum(), r"which returns torch\.int64"),
        (lambda X, Y, W: (X @ W - Y).square().sum(-1), r"which returns a tensor of shape \(6,\) for one problem"),
    ],
    ids=["raises", "arguments", "detached", "item", "float", "None", "integer", "shape"],
)
def test_an_objective_that_is_none_is_named(function, found):
    """Case 31: one that raises, detaches or returns a float ended in an error from inside."""
    with pytest.raises(ValueError, match=rf"problem: given the function .*{found}.*; expected a function \(X, Y, W"):
        check_layer(ridge, function, max_examples=2, properties=["batching"])


def test_an_objective_that_fails_later_is_named_too():
    def moody(X, Y, W):
        if len(X) != 6:
            raise KeyError("six")
        return mean_square(X, Y, W)

    with pytest.raises(ValueError, match="problem: given the function moody, which raises KeyError: 'six'"):
        check_layer(ridge, moody, max_examples=6, properties=["optimality"])
    check_layer(ridge, mean_square, max_examples=4, properties=["optimality"])
