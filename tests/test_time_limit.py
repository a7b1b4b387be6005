"""A limit of time ends every solver with what it has, its gap, and a status that says so."""

import math
import threading
import time

import pytest
import torch
from helpers import normal
from test_all_layers import CASES, rows

import implicitlayers as il
from implicitlayers.solvers import clock


@pytest.mark.parametrize("name", CASES)
def test_a_limit_that_is_over_at_once_leaves_an_honest_point(name):
    """The first look is all there is: nothing raises, the gap says how far it is, and neighbours are as they are."""
    case = CASES[name]
    arguments = case.arguments(3, seed=1)
    exact = case.solve(arguments)
    options = {"on_fail": "ignore", "time_limit": 1e-9}
    solution = case.solve(arguments, **options)
    assert solution.coef.isfinite().all()
    over = solution.gap > 1e-12
    assert ((solution.status & il.Status.ITERATION_LIMIT > 0) == over).all()
    assert (solution.objective >= exact.objective - 1e-9).all()
    arguments["X"].requires_grad_()
    rows(case.solve(arguments, **options)).square().sum().backward()
    assert arguments["X"].grad.isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [il.Lasso(0.02), il.MulticlassSVM(0.01, 0.02), il.LogisticRegression(l1=0.01), il.BoxRegression(-0.1, 0.1)],
    ids=lambda layer: type(layer).__name__,
)
def test_some_solve_needs_the_time(layer):
    """Or the limit would end nothing; what needed it is not converged."""
    X, Y = normal(3, 40, 60, seed=1), normal(3, 40, 4, seed=2)
    targets = Y.argmax(-1) if isinstance(layer, il.MulticlassSVM | il.LogisticRegression) else Y
    layer.options = layer.options._replace(on_fail="ignore", time_limit=1e-9)
    assert (layer.solve(X, targets).status & il.Status.ITERATION_LIMIT > 0).any()


def test_a_limit_that_is_not_reached_changes_nothing():
    X, Y = normal(3, 20, 10), normal(3, 20, 2, seed=1)
    assert torch.equal(il.Lasso(0.1, time_limit=1000)(X, Y), il.Lasso(0.1)(X, Y))


def test_a_limit_is_that_of_its_thread_and_ends_with_it():
    seen = []
    with clock.limited(1e-9):
        time.sleep(1e-3)
        assert clock.is_over()
        with clock.limited(None):
            assert not clock.is_over()
        thread = threading.Thread(target=lambda: seen.append(clock.is_over()))
        thread.start()
        thread.join()
        assert clock.is_over()
    assert seen == [False]
    assert not clock.is_over()


@pytest.mark.parametrize("given", [0, -1.0, math.nan, True, "1"])
def test_what_is_no_time_is_refused(given):
    with pytest.raises(ValueError, match="time_limit"):
        il.Lasso(0.1, time_limit=given)
