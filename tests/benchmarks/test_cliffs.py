import json
import math
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch
from sklearn import linear_model

from benchmarks.cliffs import reference, rows, stages, summary
from benchmarks.cliffs.draws import CLASSIFIERS, GROUP, LAYERS, MOST_ENTRIES, MOST_WORK, Draw, draw, named, problem_of

SMALL = {
    "MulticlassSVM": Draw(0, 1, "MulticlassSVM", 12, 8, 3, l1=0.2, l2=0.1),
    "MulticlassSVM, smooth": Draw(1, 1, "MulticlassSVM", 12, 8, 3, l1=0.2, l2=0.1, own=0.3),
    "MulticlassSVM, Gram": Draw(2, 1, "MulticlassSVM", 6, 12, 3, l2=0.1),
    "MulticlassSVM, shots": Draw(3, 1, "MulticlassSVM", 12, 8, 4, design="shots", correlation=0.9, l1=0.1, l2=0.1),
    "BinarySVM": Draw(4, 1, "BinarySVM", 14, 6, 1, l1=0.2, l2=0.1),
    "BinarySVM, smooth": Draw(5, 1, "BinarySVM", 14, 6, 1, l1=0.2, l2=0.1, own=0.3),
    "Lasso": Draw(6, 1, "Lasso", 10, 12, 2, l1=0.1),
    "Lasso, intercept": Draw(7, 1, "Lasso", 10, 12, 2, l1=0.1, intercept=True),
    "ElasticNet": Draw(8, 1, "ElasticNet", 10, 12, 1, l1=0.1, l2=0.1, correlation=0.5),
    "GroupLasso": Draw(9, 1, "GroupLasso", 10, 12, 3, l1=0.1),
    "SparseGroupLasso": Draw(10, 1, "SparseGroupLasso", 12, 13, 2, l1=0.1),
    "LogisticRegression": Draw(11, 1, "LogisticRegression", 14, 8, 3, l1=0.1),
    "LogisticRegression, ridge": Draw(12, 1, "LogisticRegression", 14, 8, 3, l2=0.1),
    "LogisticRegression, intercept": Draw(13, 1, "LogisticRegression", 14, 8, 3, l1=0.1, l2=0.1, intercept=True),
    "HuberRegression": Draw(14, 1, "HuberRegression", 14, 8, 2, l1=0.1, l2=0.1, own=0.5),
    "NonNegativeRegression": Draw(15, 1, "NonNegativeRegression", 14, 8, 2, l1=0.05),
    "BoxRegression": Draw(16, 1, "BoxRegression", 14, 8, 2, own=0.5),
    "SimplexRegression": Draw(17, 1, "SimplexRegression", 14, 8, 2),
    "Ridge": Draw(18, 1, "Ridge", 14, 8, 2, l2=0.1),
}


def least(problem):
    """The minimum by cvxpy, from the problem's definition."""
    X, Y = problem.X[0].double().numpy(), problem.Y[0].numpy()
    n, m, k = *X.shape, Y.shape[1]
    W, b = cp.Variable((m, k)), cp.Variable((1, k))
    Z = X @ W + (np.ones((n, 1)) @ b if problem.intercept else 0)
    l1, constraints, layer = problem.l1[0], [], problem.layer
    loss, penalty = cp.sum_squares(Z - Y) / 2, 0
    if layer == "MulticlassSVM":
        loss = smoothed_hinge(1 - Y + Z, Y, problem.own, constraints) - cp.sum(cp.multiply(Y, Z))
    elif layer == "BinarySVM":
        margin = 1 - cp.multiply(Y, Z)
        loss = cp.sum(cp.pos(margin))
        if problem.own:
            loss = cp.sum(cp.huber(cp.pos(margin), problem.own)) / (2 * problem.own)
    elif layer == "LogisticRegression":
        loss = cp.sum(cp.log_sum_exp(Z, axis=1)) - cp.sum(cp.multiply(Y, Z))
    elif layer == "HuberRegression":
        loss = cp.sum(cp.huber(Z - Y, problem.own)) / 2
    elif layer == "NonNegativeRegression":
        constraints = [W >= 0]
    elif layer == "BoxRegression":
        constraints = [cp.abs(W) <= problem.own]
    elif layer == "SimplexRegression":
        constraints = [W >= 0, cp.sum(W, axis=0) == 1]
    if layer in ("MulticlassSVM", "LogisticRegression", "GroupLasso"):
        penalty = l1 * cp.sum(cp.norm(W, axis=1))
    elif l1:
        penalty = l1 * cp.sum(cp.abs(W))
    if problem.group_l1:
        penalty = penalty + problem.group_l1 * sum(cp.norm(W[i : i + GROUP], "fro") for i in range(0, m, GROUP))
    whole = loss / n + penalty + problem.l2 / 2 * cp.sum_squares(W)
    return cp.Problem(cp.Minimize(whole), constraints).solve(solver="CLARABEL")


def smoothed_hinge(margin, Y, gamma, constraints):
    """Σᵢ max over λ in the simplex of ⟨λ, aᵢ⟩ − (γ/2)‖λ − yᵢ‖², as a minimum over its dual."""
    if not gamma:
        return cp.sum(cp.max(margin, axis=1))
    # max over λ of ⟨λ, a⟩ − (γ/2)‖λ − y‖² = min over s ≥ 0, t of t + ⟨y, u⟩ + ‖u‖²/(2γ), u = a + s − t
    n, k = Y.shape
    slack, t = cp.Variable((n, k), nonneg=True), cp.Variable((n, 1))
    u = margin + slack - t @ np.ones((1, k))
    return cp.sum(t) + cp.sum(cp.multiply(Y, u)) + cp.sum_squares(u) / (2 * gamma)


@pytest.mark.parametrize("name", SMALL)
def test_the_reference_reaches_the_minimum_that_cvxpy_finds(name):
    problem = problem_of(SMALL[name])
    found = reference.solve(problem, 0, seconds=20, tol=1e-7)
    assert found.gap <= 1e-7
    expected = least(problem)
    assert found.lower <= expected + 1e-6 * found.null
    assert found.upper >= expected - 1e-6 * found.null
    assert found.upper == pytest.approx(expected, abs=2e-6 * found.null)


def test_the_reference_and_scikit_learn_agree_on_an_elastic_net():
    problem = problem_of(SMALL["ElasticNet"])
    l1, l2 = problem.l1[0], problem.l2
    model = linear_model.ElasticNet(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-12)
    model.fit(problem.X[0].numpy(), problem.Y[0, :, 0].numpy())
    found = reference.solve(problem, 0, seconds=20, tol=1e-10)
    value = reference.function_of(problem, 0).value(torch.from_numpy(model.coef_)[:, None])
    assert found.upper == pytest.approx(value, abs=1e-9 * found.null)


@pytest.mark.parametrize("name", SMALL)
def test_the_layer_solves_the_problem_of_the_reference(name):
    problem = problem_of(SMALL[name])
    found = reference.solve(problem, 0, seconds=20, tol=1e-8)
    solution = stages.layer_of(problem, tol=1e-8).solve(problem.X, stages._targets(problem))
    assert stages._true_gap(problem, solution, [(found.lower, found.null)]) == pytest.approx(0, abs=3e-8)


def test_the_reference_stops_when_it_is_late():
    found = reference.solve(problem_of(replace(SMALL["Lasso"], l1=1e-4)), 0, seconds=0)
    assert found.steps == reference.CHECK_EVERY
    assert found.gap > reference.TOL


def test_a_draw_is_a_function_of_its_number_and_the_seed():
    draws = [draw(number, seed=3) for number in range(300)]
    assert draws[217] == draw(217, seed=3)
    assert draws != [draw(number, seed=4) for number in range(300)]
    assert {one.layer for one in draws} == set(LAYERS)
    assert all(one.k <= one.n for one in draws if one.layer in CLASSIFIERS)
    assert all(one.batch * one.n * one.m <= MOST_ENTRIES for one in draws)
    assert all(one.batch * one.n * one.m * one.k <= MOST_WORK for one in draws)
    small = min(draws, key=lambda one: one.n * one.m)
    assert torch.equal(problem_of(small).X, problem_of(small).X)
    assert [draw(one.number, 3) for one in named(3)] == named(3)


def test_every_class_of_a_drawn_problem_has_a_sample():
    for one in (draw(number, seed=0) for number in range(200)):
        if one.layer in ("MulticlassSVM", "LogisticRegression") and one.n * one.m < 10_000:
            assert (problem_of(one).Y.sum(-2) > 0).all()


def test_above_the_bound_nothing_is_left():
    for layer in sorted(set(LAYERS) - {"BoxRegression", "SimplexRegression", "Ridge"}):
        own = 0.5 if layer == "HuberRegression" else 0.0
        k = 1 if layer == "BinarySVM" else 3
        # Half of each of the two bounds need not do for both penalties together.
        share = 2.1 if layer == "SparseGroupLasso" else 1.05
        problem = problem_of(Draw(0, 2, layer, 12, 8, k, l1=share, l2=0.1, own=own))
        assert not stages.layer_of(problem, tol=1e-9).solve(problem.X, stages._targets(problem)).coef.any(), layer


def test_both_sides_are_measured():
    row = rows.measured(replace(SMALL["MulticlassSVM"], batch=4), rows.Effort(), rows.context())
    assert {"reference_s", "solve_s", "default_s", "total_s", "peak_mb"} <= set(row), row
    assert "failure" not in row
    assert row["gap"] <= 2e-6
    assert row["allowed_mb"] == pytest.approx(4 * 12 * (8 + 3) * 8 / 1e6)
    json.dumps(row)


def dies(out, *_):
    out.send({"solve_s": 1.0})
    stages._limit(0)
    while True:
        pass


def sleeps(_):
    stages.time.sleep(1000)


def test_what_was_measured_before_the_time_was_over_is_kept():
    assert rows._collected(dies, (), 60, rows.context()) == {"solve_s": 1.0, "failure": "time"}


def test_what_does_not_even_compute_is_given_up():
    assert rows._collected(sleeps, (), 1, rows.context())["failure"] == "time"


def row(number, reference_s, **figures):
    draws = {**vars(draw(0, 0)), "number": number}
    return draws | {"reference_s": reference_s, "limit_s": 20.0, "allowed_mb": 1.0} | figures


ROWS = [
    row(0, 1.0, solve_s=2.0, default_s=4.0, total_s=2.0, peak_mb=5.0),
    row(1, 0.01, solve_s=0.04, default_s=0.04, total_s=0.04, peak_mb=20.0),
    row(2, 1.0, solve_s=4.0, default_s=5.0, total_s=6.0, peak_mb=60.0, converged=False),
    row(3, 1.0, failure="time"),
    row(4, 1.0, solve_s=1.0, peak_mb=1.0, failure="time"),
    row(5, 1.0, failure="memory", reference_gap=1e-3),
]


def test_the_summary_counts():
    found = summary.counts(ROWS)
    assert list(found.values()) == [6, 4, 3, 3, 2, 1, 2, 1]
    assert summary.counts(ROWS, "default_s")["over 3 times"] == 6
    assert [one["number"] for one in summary.by_ratio(ROWS)][:2] == [3, 5]
    assert math.isinf(rows.memory_ratio(ROWS[5]))


def test_the_summary_is_written(tmp_path):
    summary.write(ROWS, tmp_path, "a command")
    assert len((tmp_path / "cliffs.csv").read_text().splitlines()) == 1 + len(ROWS)
    page = (tmp_path / "cliffs.md").read_text()
    assert "`a command`" in page
    assert "> 20" in page


def test_two_runs_are_compared_problem_by_problem():
    before, after = ROWS[:3], [ROWS[2] | {"solve_s": 1.0}, ROWS[1]]
    lines = summary.compared([before, after])
    assert [(one["number"], one["ratio 1"], one["ratio 2"]) for one in lines] == [("1", "4", "4"), ("2", "4", "1")]


def test_rows_are_kept_and_a_cut_line_is_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows.Kept(path).put(SMALL["Lasso"], {"solve_s": 1.0})
    rows.Kept(path).put(SMALL["Lasso"], {"solve_s": 2.0})
    with path.open("a") as file:
        file.write('{"number": 1, "se')
    again = rows.Kept(path)
    assert again.get(SMALL["Lasso"]) == {"solve_s": 2.0}
    assert again.get(SMALL["Ridge"]) is None
