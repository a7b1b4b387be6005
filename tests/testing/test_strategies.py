"""What is generated: nasty on purpose, as asked for, small when shrunk, and printed as code that makes it again."""

import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from implicitlayers.testing import KINDS, NAMES, Example, examples, objective
from implicitlayers.testing.scaling import at_ratio
from implicitlayers.testing.strategies import kinds_of_problem

GENERATE = settings(phases=(Phase.generate,), max_examples=20)
OPTIONS = {"sparse_ridge": {"n_nonzero": 1}, "sparse_group_lasso": {"groups": [[0, 2], [1]]}}


def problem_of(name, **options):
    return objective(name, **OPTIONS.get(name, {}), **options)


def first(problem, kind, **options):
    return find(examples(problem, kinds=(kind,), n=4, m=3, k=3, **options), lambda _: True)


def rank(X):
    return int(torch.linalg.matrix_rank(X))


SHOWS = {
    "duplicate columns": lambda e: bool((e.X[:, 0] == e.X[:, -1]).all()),
    "nearly tied columns": lambda e: 0 < float((e.X[:, 0] - e.X[:, -1]).abs().max()) < 1e-7,
    "constant column": lambda e: bool((e.X[:, -1] == e.X[0, -1]).all()),
    "zero column": lambda e: bool((e.X[:, -1] == 0).all()),
    "zero features": lambda e: bool((e.X == 0).all()),
    "duplicate samples": lambda e: bool((e.X[0] == e.X[-1]).all() and (e.Y[0] == e.Y[-1]).all()),
    "fewer samples than features": lambda e: len(e.X) < e.X.shape[-1],
    "one sample": lambda e: len(e.X) == 1,
    "zero weights": lambda e: bool((e.sample_weight == 0).any() and (e.sample_weight > 0).any()),
    "tiny scale": lambda e: 0 < float(e.X.abs().max()) < 1e-4,
    "huge scale": lambda e: float(e.X.abs().max()) > 1e4,
    "ill conditioned": lambda e: float(e.X[:, -1].abs().max()) < 1e-2 * float(e.X[:, 0].abs().max()),
    "correlated": lambda e: float(torch.corrcoef(e.X.T)[0, 1]) > 0.9,
    "absent class": lambda e: bool((e.Y.sum(0) == 0).any()),
    "one sample per class": lambda e: bool((e.Y.sum(0) == 1).all()),
    "at l1_max": lambda e: abs(float(problem_of("logistic").scale_to_zero(e)) - 1) < 1e-9,
    "around l1_max": lambda e: 0 < abs(float(problem_of("logistic").scale_to_zero(e)) - 1) < 2e-3,
}


def test_every_kind_has_something_to_show():
    assert set(SHOWS) == set(KINDS) - {"generic"}


@pytest.mark.parametrize("kind", SHOWS)
def test_a_nasty_problem_is_nasty_in_the_way_it_says(kind):
    @GENERATE
    @given(examples(problem_of("logistic"), kinds=(kind,), n=5, m=3, k=3, weights=True))
    def shows(example):
        # Rounded numbers may coincide, or be zero, by chance.
        if float(example.X[..., 0].abs().min()) > 0 or kind == "zero features":
            assert example.kind == kind
            assert SHOWS[kind](example)

    shows()


@pytest.mark.parametrize("name", ["ridge", "lasso", "svm"])
def test_all_kinds_occur_among_a_few_hundred(name):
    problem, seen = problem_of(name), set()

    @settings(max_examples=600, phases=(Phase.generate,))
    @given(examples(problem, weights=True))
    def collect(example):
        seen.add(example.kind)

    collect()
    assert seen == set(kinds_of_problem(problem, weights=True))


def test_no_class_is_absent_where_its_intercept_would_run_off():
    problem = problem_of("logistic", fit_intercept=True)
    assert {"absent class", "one sample"} & set(kinds_of_problem(problem, weights=True)) == set()

    @GENERATE
    @given(examples(problem, kinds=("generic", "one sample per class", "zero weights"), weights=True))
    def present(example):
        weight = 1.0 if example.sample_weight is None else example.sample_weight[:, None]
        assert bool(((weight * example.Y).sum(0) > 0).all())
        assert bool(problem.solvable(example).all())

    present()


@pytest.mark.parametrize("name", NAMES)
def test_problems_have_the_shapes_and_strengths_asked_for(name):
    problem = problem_of(name)

    @GENERATE
    @given(examples(problem, batch=(2, 3), n=4, m=3, k=2, kinds=("generic",), dtype=torch.float32, weights=True))
    def look(example):
        assert example.X.shape == (2, 3, 4, 3)
        assert example.Y.shape == (2, 3, 4, 2)
        assert example.X.dtype == torch.float32
        assert set(example.strengths) == set(problem.strengths)
        assert all(strength.shape == (2, 3) for strength in example.strengths.values())
        assert example[1, 2].X.shape == (4, 3)

    look()


@given(examples(problem_of("lasso"), strengths={"l1": 0.1}, ratio=st.floats(0.1, 0.9), kinds=("generic",), n=6))
def test_given_strengths_stay_and_the_features_are_scaled_to_them(example):
    assert example.strengths == {"l1": 0.1}
    assert 1 < 1 / float(problem_of("lasso").scale_to_zero(example)) < 10.1 or float(example.X.abs().max()) == 0


@pytest.mark.parametrize(
    ("name", "strengths"), [("simplex", {"total": 2.0}), ("box", {"lower": -0.1, "upper": 0.2}), ("ridge", {"l2": 0.0})]
)
def test_where_no_strength_has_a_scale_the_features_stay(name, strengths):
    @GENERATE
    @given(examples(problem_of(name), strengths=strengths, kinds=("generic",), n=4, m=2), st.floats(0.1, 10))
    def stays(example, ratio):
        assert example.strengths == strengths
        assert torch.equal(example.X, example.X.round(decimals=2))
        assert torch.equal(at_ratio(problem_of(name), example, ratio).X, example.X)

    stays()


@given(examples(problem_of("ridge"), n=8, m=3, kinds=("generic",), scale=1e6, condition=100.0, correlation=0.5))
def test_scale_condition_and_correlation_are_the_callers(example):
    norms = example.X.norm(dim=0)
    assert norms[0] > 1e4
    assert norms[2] < norms[0]


def test_shrinking_ends_at_a_small_problem():
    seen = []

    @settings(phases=(Phase.generate, Phase.shrink), max_examples=100)
    @given(examples(problem_of("lasso")))
    def fails(example):
        seen.append(example)
        assert min(example.X.shape) < 2

    with pytest.raises(AssertionError):
        fails()
    # The last is the one that is reported.
    assert max(len(example.X) for example in seen) > 4
    assert seen[-1].X.shape == (2, 2)
    assert seen[-1].kind == "generic"
    assert len(seen[-1].code().splitlines()) <= 7


@given(examples(problem_of("svm"), batch=(2,), weights=True))
def test_the_code_of_an_example_makes_it_again_exactly(example):
    scope = {"torch": torch, "Example": Example}
    exec(example.code(), scope)
    made = scope["example"]
    assert torch.equal(made.X, example.X)
    assert torch.equal(made.Y, example.Y)
    assert all(torch.equal(made.strengths[name], strength) for name, strength in example.strengths.items())
    assert made.kind == example.kind
    assert (made.sample_weight is None) == (example.sample_weight is None)
