"""Problems with an intercept: ours is free, as `objective` says it should be, and each usual mistake is told."""

import warnings
from functools import partial

import pytest
import torch
from helpers import labels, normal, one_hot, uniform
from hypothesis import given, settings
from hypothesis import strategies as st

import implicitlayers as il
from implicitlayers.testing import Example, Subject, check_certificate, check_layer, check_optimal, examples, objective
from implicitlayers.testing.intercepts import best
from implicitlayers.testing.losses import Huber, Multinomial, Squared

LAYERS = {
    "ridge": il.Ridge,
    "elastic_net": il.ElasticNet,
    "huber": il.HuberRegression,
    "logistic": il.LogisticRegression,
    "sparse_ridge": partial(il.SparseRidge, n_nonzero=2),
}
named = pytest.mark.parametrize("name", LAYERS)


def problem_of(name):
    return objective(name, fit_intercept=True, n_nonzero=2 if name == "sparse_ridge" else None)


def apart(X):
    """Features whose means are far from zero, so that an intercept matters."""
    return X + torch.linspace(1, 2, X.shape[-1], dtype=X.dtype)


def example_of(name):
    X, weight = apart(normal(9, 4)), uniform(9, low=0.2, high=2.0)
    Y = one_hot(labels(9, k=3), 3) if name == "logistic" else X[:, :2] + normal(9, 2, seed=1) + 4.0
    strengths = {"l1": 0.02, "l2": 0.1, "delta": 0.6}
    strengths = {key: value for key, value in strengths.items() if key in problem_of(name).strengths}
    return Example(X, Y, strengths, weight)


# What people get wrong: (layer with strengths, X, Y, sample_weight) -> (W, b).


def penalised(make, X, Y, sample_weight=None):
    """A column of ones, its coefficient penalised like the others."""
    W = make()(torch.cat([X, torch.ones_like(X[..., :1])], -1), Y, sample_weight=sample_weight)
    return W[..., :-1, :], W[..., -1, :]


def dropped(make, X, Y, sample_weight=None):
    """The coefficients are those with intercept, which is lost on the way out."""
    W, b = make(fit_intercept=True)(X, Y, sample_weight=sample_weight)
    return W, torch.zeros_like(b)


def unweighted(make, X, Y, sample_weight=None):
    """Centred with means that do not know of the weights."""
    x, y = X.mean(-2, keepdim=True), Y.mean(-2, keepdim=True)
    W = make()(X - x, Y - y, sample_weight=sample_weight)
    return W, (y - x @ W)[..., 0, :]


def after(make, X, Y, sample_weight=None):
    """Fitted to the residuals of the coefficients without one."""
    W = make()(X, Y, sample_weight=sample_weight)
    s = sample_weight / sample_weight.sum(-1, keepdim=True)
    return W, (s[..., None] * (Y - X @ W)).sum(-2)


def by_squares(make, X, Y, sample_weight=None):
    """Centred with weighted means, which is right for the squared loss alone."""
    s = (sample_weight / sample_weight.sum(-1, keepdim=True))[..., None]
    x, y = (s * X).sum(-2, keepdim=True), (s * Y).sum(-2, keepdim=True)
    W = make()(X - x, Y - y, sample_weight=sample_weight)
    return W, (y - x @ W)[..., 0, :]


def without_centre(make, X, Y, sample_weight=None):
    """Not a mistake: adding one number to all of a sample's scores changes no probability."""
    W, b = make(fit_intercept=True)(X, Y, sample_weight=sample_weight)
    return W, b + 3.0


def subject_of(name, mistake=None):
    make = LAYERS[name]
    if mistake is None:
        return Subject(None, problem_of(name), partial(make, fit_intercept=True))

    def wrong(**strengths):
        def layer(X, Y, sample_weight=None):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", il.ConvergenceWarning)
                return mistake(partial(make, **strengths), X, Y, sample_weight)

        return layer

    return Subject(None, problem_of(name), wrong)


@named
def test_ours_is_free(name):
    @settings(max_examples=6)
    @given(examples(problem_of(name), weights=True))
    def holds(example):
        subject = subject_of(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", il.ConvergenceWarning)
            check_optimal(subject, example)
            check_certificate(subject, example)

    check_optimal(subject_of(name), example_of(name))
    holds()


MISTAKES = [
    *((name, mistake) for name in LAYERS for mistake in (penalised, dropped)),
    *((name, mistake) for name in LAYERS if name != "logistic" for mistake in (unweighted, after)),
    ("huber", by_squares),
]


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_mistake_with_the_intercept_is_told(name, mistake):
    with pytest.raises(AssertionError, match=r"expected a relative duality gap of at most 1e-06\n +found \d\.\de"):
        check_optimal(subject_of(name, mistake), example_of(name))


@pytest.mark.parametrize("name", ["ridge", "elastic_net", "sparse_ridge"])
def test_without_weights_plain_means_do(name):
    """The same layer is wrong above for its weights alone."""
    example = example_of(name).replace(sample_weight=torch.ones(9, dtype=torch.float64))
    assert check_optimal(subject_of(name, unweighted), example) <= 1e-6
    assert check_optimal(subject_of(name, by_squares), example_of(name)) <= 1e-6


def test_the_gauge_of_a_multinomial_intercept_is_nobodys_mistake():
    assert check_optimal(subject_of("logistic", without_centre), example_of("logistic")) <= 1e-6


@pytest.mark.parametrize("name", ["elastic_net", "huber", "logistic"])
def test_a_dual_point_that_does_not_balance_bounds_nothing(name):
    """That of the problem without intercept, whose optimum is higher: a gap from it would be negative."""
    example, problem = example_of(name), problem_of(name)
    coefficients = subject_of(name).answer(example).coefficients
    alone = LAYERS[name](**example.strengths).solve(example.X, example.Y, sample_weight=example.sample_weight)
    gap = float(problem.gap(example, coefficients, alone.dual))
    assert -1e-12 <= gap <= 1e-6


def test_the_suite_takes_layers_with_an_intercept():
    properties = ["metamorphic", "bad input", "derivatives of the argmin"]
    make = partial(il.Ridge, fit_intercept=True)
    rows = check_layer(None, problem_of("ridge"), make=make, max_examples=6, properties=properties)
    assert [row.holds for row in rows] == [True, True, None]
    assert "without intercept" in rows[-1].detail


LOSSES = {"squared": Squared(), "huber": Huber(torch.tensor(0.7, dtype=torch.float64)), "multinomial": Multinomial()}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@settings(max_examples=40)
@given(
    n=st.integers(2, 12),
    k=st.integers(2, 5),
    scale=st.sampled_from([0.0, 0.1, 0.5, 3.0, 10.0, 30.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_the_best_constant_balances_the_dual_point(loss, n, k, scale, seed):
    """Σ s̄θ = 0, whether the scores at hand say nothing or leave no doubt."""
    k = min(n, k)
    Z, weight = scale * normal(2, n, k, seed=seed), uniform(2, n, seed=seed, low=0.05)
    weight = weight / weight.sum(-1, keepdim=True)
    Y = one_hot(labels(2, n, k=k, seed=seed), k) if isinstance(loss, Multinomial) else normal(2, n, k, seed=seed + 1)
    b = best(loss, Z, Y, weight)
    off = (weight[..., None] * loss.dual_point(Z + b[..., None, :], Y)).sum(-2)
    assert b.shape == (2, k)
    assert float(off.abs().max()) <= 1e-10
    if isinstance(loss, Multinomial):
        assert float(b.sum(-1).abs().max()) <= 1e-9 * (1 + float(b.abs().max()))


def test_the_best_constant_of_a_class_without_samples_gives_it_no_probability():
    """There is none, strictly: the others' balance all the same, at any scores."""
    Y, weight = one_hot(labels(6, k=2), 3), torch.full((6,), 1 / 6, dtype=torch.float64)
    for scale in (0.0, 1.0, 100.0):
        Z = scale * normal(6, 3)
        b = best(Multinomial(), Z, Y, weight)
        assert float(Multinomial().dual_point(Z + b, Y).mean(-2).abs().max()) <= 1e-10


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_best_constant_of_scores_that_are_no_numbers_is_none_either(value):
    """The search ends, and what comes of it passes no comparison."""
    Y, weight = one_hot(labels(2, 6, k=3), 3), torch.full((2, 6), 1 / 6, dtype=torch.float64)
    Z = normal(2, 6, 3)
    alone = best(Multinomial(), Z[1], Y[1], weight[1])
    Z[0, 2, 1] = value
    b = best(Multinomial(), Z, Y, weight)
    assert not Multinomial().dual_point(Z[0] + b[0], Y[0]).isfinite().all()
    torch.testing.assert_close(b[1], alone)
