"""The suite as users meet it: a callable, an objective of one's own, the base class, and what a failure prints."""

import re
import sys
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from handmade import ElasticNet
from helpers import normal
from hypothesis import find

import implicitlayers as il
from implicitlayers.testing import LayerSuite, Subject, check_layer, check_optimal, examples, objective, oracles
from implicitlayers.testing.differences import difference


def ista(X, Y, l1=0.1, steps=10):
    """The Lasso by so few proximal gradient steps that it has not converged."""
    W, n = torch.zeros(X.shape[-1], Y.shape[-1], dtype=X.dtype), X.shape[-2]
    step = n / torch.linalg.matrix_norm(X, 2).square()
    for _ in range(steps):
        V = W - step * X.mT @ (X @ W - Y) / n
        W = V.sign() * (V.abs() - step * l1).clamp_min(0)
    return W


def test_a_failure_prints_code_that_fails_the_same_way():
    with pytest.raises(AssertionError) as caught:
        check_layer(ista, "lasso", {"l1": 0.1}, max_examples=10, shrink_seconds=1.0, properties=["optimality"])
    message = str(caught.value)
    code = message[message.index("import torch\n") :]
    with pytest.raises(AssertionError) as again:
        exec(code, {"layer": ista})
    expected, found = (re.search(r"expected .*\n +found \S+", text).group() for text in (message, str(again.value)))
    assert expected == found


def test_an_unfinished_solver_is_told_apart_by_the_derivatives_of_the_argmin():
    with pytest.raises(AssertionError, match="derivatives of the argmin: expected the derivative of the argmin"):
        check_layer(ista, "lasso", {"l1": 0.1}, max_examples=30, properties=["derivatives of the argmin"])


def lasso_value(X, Y, W, l1):
    return (X @ W - Y).square().sum((-2, -1)) / (2 * X.shape[-2]) + l1 * W.abs().sum((-2, -1))


def test_a_callable_objective_is_searched_for_anything_better():
    exact = il.Lasso(0.1, tol=1e-12)
    check_layer(exact, lasso_value, {"l1": 0.1}, max_examples=6, properties=["optimality", "derivatives, reverse"])
    with pytest.raises(AssertionError, match="no point better"):
        check_layer(
            il.Lasso(0.2), lasso_value, {"l1": 0.1}, max_examples=6, properties=["optimality"], shrink_seconds=1.0
        )


def test_what_does_not_apply_is_shown_with_its_reason():
    rows = check_layer(ista, "lasso", {"l1": 0.1}, max_examples=4, properties=["certificate", "flags"])
    assert [row.holds for row in rows] == [None, None]
    assert all("says nothing" in row.detail for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lasso",), "strengths: given None"),
        (("lazzo", {"l1": 0.1}), "problem: given 'lazzo'"),
        (("sparse_ridge", {"l2": 0.1}), "n_nonzero: given None"),
        (("lasso", {"l2": 0.1}), "strengths: given"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_layer(ista, *arguments, max_examples=2)


def test_a_property_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="properties: given"):
        check_layer(ista, "lasso", {"l1": 0.1}, properties=["speed"])


def test_what_has_no_status_is_not_counted_among_the_flags():
    layer = il.Lasso(0.1)

    class Silent:
        def __call__(self, X, Y):
            return layer(X, Y)

        def solve(self, X, Y):
            return SimpleNamespace(coef=self(X, Y))

    (row,) = check_layer(Silent(), "lasso", {"l1": 0.1}, max_examples=4, properties=["flags"])
    assert row.holds
    assert row.detail == "0 of 0 regular problems flagged"


def test_memory_is_that_of_a_problem_that_suits():
    """Also where the objective is one's own; a number of features that cannot vary is no case for it."""

    def value(X, Y, W):
        return (W - X.mT @ Y).square().sum((-2, -1))

    (row,) = check_layer(lambda X, Y: X.mT @ Y, value, {}, properties=["memory"])
    assert row.holds
    assert "times X beside it, at 50 × 1,000" in row.detail
    subset = objective("sparse_ridge", n_nonzero=2)
    (row,) = check_layer(il.SparseRidge(0.1, 2), subset, {"l2": 0.1}, properties=["memory"])
    assert (row.holds, row.detail) == (None, "needs a layer for any number of features")


@pytest.mark.parametrize("hidden", [False, True], ids=["rich", "plain"])
def test_the_table_has_a_line_for_each_property(hidden, monkeypatch, capsys):
    """The same with and without rich."""
    for module in ("rich.console", "rich.table", "rich.progress") if hidden else ():
        monkeypatch.setitem(sys.modules, module, None)
    properties = ["optimality", "certificate", "bad input"]
    with pytest.raises(AssertionError, match="2 of 3 properties do not hold"):
        check_layer(ista, "lasso", {"l1": 0.1}, max_examples=4, shrink_seconds=0.1, properties=properties)
    title, *lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert title.strip() == "ista as lasso"
    for name, mark in (("optimality", "FAILS"), ("certificate", "–"), ("bad input", "FAILS")):
        (line,) = [line for line in lines if line.strip().startswith(name)]
        assert mark in line.split()


def test_the_base_class_skips_what_does_not_apply_and_fails_with_the_message():
    class Ista(LayerSuite):
        layer = staticmethod(ista)
        strengths: ClassVar = {"l1": 0.1}
        max_examples = 4

    with pytest.raises(pytest.skip.Exception, match="certificate: the layer says nothing of its gap or status"):
        Ista().test_certificate()
    with pytest.raises(pytest.fail.Exception, match=r"(?s)bad input: expected X a vector: .*reproduce with:"):
        Ista().test_bad_input()


def test_a_layer_without_a_signature_takes_no_weights():
    """Compiled functions may have none."""

    class Bare:
        __signature__ = "none of inspect's"

        def __call__(self, X, Y):
            return il.Lasso(0.1)(X, Y)

    assert not Subject(Bare(), "lasso").takes_weights
    assert Subject(il.Lasso(0.1), "lasso").takes_weights
    check_layer(Bare(), "lasso", {"l1": 0.1}, max_examples=4, properties=["optimality"])


class TestHandmade(LayerSuite):
    problem = "lasso"
    make = staticmethod(partial(ElasticNet, mistake=""))
    max_examples = 10

    test_memory = None  # features by features: see test_mutations


def test_differences_know_their_error():
    smooth = difference(lambda t: (t.exp()[:, None], None))
    assert abs(float(smooth.value) - 1) <= float(smooth.error) + 1e-11
    assert float(smooth.error) <= 1e-9
    generator = torch.Generator().manual_seed(0)
    noisy = difference(lambda t: ((t + 1e-3 * torch.randn(t.shape, generator=generator).double())[:, None], None))
    assert float(noisy.error) > 1e-3
    kink = difference(lambda t: (t.abs()[:, None], t[:, None]))
    assert int(kink.steps) == 0


def test_the_unrolled_oracle_agrees_with_implicit_derivatives():
    problem = objective("elastic_net")
    strategy = examples(problem, kinds=("generic",), n=6, m=3, k=2)
    found = find(strategy, lambda e: float(e.strengths["l2"]) >= 0.05)
    X = found.X.clone().requires_grad_()
    exact = oracles.unrolled(problem, found.replace(X=X))
    ours = il.ElasticNet(**found.strengths, tol=1e-13)(X, found.Y)
    C = normal(*ours.shape)
    one, other = (torch.autograd.grad((W * C).sum(), [X])[0] for W in (ours, exact))
    assert float((one - other).abs().max()) <= 1e-8 * max(float(one.abs().max()), 1e-3)


def test_one_check_alone_takes_an_example_of_ones_own():
    problem = objective("ridge")
    example = examples(problem, kinds=("generic",), batch=(3,))
    assert check_optimal(Subject(None, problem, il.Ridge), find(example, lambda _: True)) < 1e-9
