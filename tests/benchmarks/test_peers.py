import json
import math
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
from helpers import normal

from benchmarks.peers import peak, records
from benchmarks.peers.__main__ import main
from benchmarks.peers.compare import Judge, compare
from benchmarks.peers.contenders.jaxopt_svm import Jaxopt
from benchmarks.peers.contenders.ours import Ours
from benchmarks.peers.contenders.registry import BY_NAME, contenders_for
from benchmarks.peers.contenders.regressions import ScikitLearn
from benchmarks.peers.effort import QUICK
from benchmarks.peers.figures import FIGURES
from benchmarks.peers.plans import PLANS
from benchmarks.peers.problems import Case, functional, problem_of
from benchmarks.peers.records import Record
from benchmarks.peers.scaling import GROUP, growth
from benchmarks.peers.timing import interleave, ratios

SVM = Case("an SVM", "svm", 8, 12, 3, 2, 0.1, 0.1)
LASSO = Case("a Lasso", "lasso", 10, 20, l1_share=0.1)
KEYS = ["case", "peer", "version", "n", "m", "k", "batch", "dtype"]
KEYS += ["forward_s", "total_s", "gap", "derivative_error", "peak_mb", "ratio"]


def silent(doing):
    pass


class Changed(Ours):
    """Ours, with another answer."""

    def answer(self, found):
        return super().answer(found)._replace(coef=self.changed(super().answer(found).coef))

    def changed(self, W):
        return W


class Missing(Changed):
    name, distribution = "missing", "no-such-distribution"


class Unimportable(Changed):
    name = "unimportable"

    def __init__(self, problem):
        import no_such_module  # noqa: F401


class Raising(Changed):
    name = "raising"

    def forward(self):
        raise ValueError("it did not work\nfor many reasons")


class NotANumber(Changed):
    name = "not a number"

    def changed(self, W):
        return W * np.nan


class Sloppy(Changed):
    name = "sloppy"

    def changed(self, W):
        return 1.1 * W


class Undifferentiated(Changed):
    name, differentiable = "undifferentiated", False


def test_every_contender_has_a_record_whatever_happens_to_it():
    contenders = (Ours, Missing, Unimportable, Raising, NotANumber, Sloppy, Undifferentiated)
    found = {each.peer: each for each in compare(SVM, QUICK, silent, contenders)}
    assert list(found) == [each.name for each in contenders]
    assert found["missing"].error == "not installed (no-such-distribution)"
    assert found["unimportable"].error == "not installed (no_such_module)"
    assert found["raising"].error == "ValueError: it did not work"
    assert found["not a number"].error == "ArithmeticError: the answer is not a number"
    assert found["raising"].forward_s is found["raising"].ratio is None
    ours, sloppy, plain = found["ours"], found["sloppy"], found["undifferentiated"]
    assert ours.error is None
    assert 0 <= abs(ours.gap) < 1e-9
    assert ours.derivative_error < 1e-9
    assert ours.ratio == ours.ratio_min == 1
    assert sloppy.gap > 1e-3
    assert sloppy.ratio > 0
    assert plain.total_s is plain.derivative_error is None
    assert plain.ratio > 0
    assert ours.repetitions == QUICK.repetitions


def test_records_have_the_keys_and_survive_json(tmp_path):
    found = compare(SVM, QUICK, silent, (Ours, Missing))
    found[1].gap, found[1].derivative_error = math.inf, math.nan
    path = tmp_path / "new" / "records.json"
    records.write(found, path)
    rows = json.loads(path.read_text())
    assert all(set(KEYS) <= set(row) for row in rows)
    assert (rows[0]["n"], rows[0]["m"], rows[0]["k"], rows[0]["batch"], rows[0]["dtype"]) == (8, 12, 3, 2, "float64")
    again = records.read(path)
    assert again[1].gap == math.inf
    assert math.isnan(again[1].derivative_error)
    assert again[0].total_s == pytest.approx(found[0].total_s, rel=1e-4)
    assert asdict(again[0])["case"] == "an SVM"
    assert [each.name for each in path.parent.iterdir()] == ["records.json"]


@pytest.mark.parametrize("case", [SVM, replace(SVM, l1_share=0.0), LASSO], ids=["sparse SVM", "SVM", "Lasso"])
def test_the_reference_gradient_matches_finite_differences(case):
    problem, C = problem_of(case), functional(problem_of(case))
    exact = Judge(problem).reference
    direction = normal(*problem.X.shape, seed=2)

    def score(t):
        return float((Ours(problem._replace(X=problem.X + t * direction), tol=1e-12).forward()[0] * C).sum())

    step = 1e-6
    difference = (score(step) - score(-step)) / (2 * step)
    assert (exact * direction.numpy()).sum() == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("kind", ["svm", "lasso", "group_lasso"])
def test_ours_has_a_small_gap_for_every_kind(kind):
    case = Case(kind, kind, 8, 20, 1 if kind == "lasso" else 3, 2, 0.2, 0.1 if kind == "svm" else 0.0, "float32")
    problem = problem_of(case)
    record = Record.of(case, "ours")
    Judge(problem)(Ours(problem), record)
    assert abs(record.gap) < 1e-6
    assert record.derivative_error < 1e-5
    assert 0 < record.active_share < 1
    assert record.dtype == "float32"


def test_the_release_has_no_l1_but_the_sparse_contenders_leave_qpth_out():
    dense, sparse = contenders_for(replace(SVM, l1_share=0.0)), contenders_for(SVM)
    assert BY_NAME["qpth"] in dense
    assert BY_NAME["qpth"] not in sparse
    assert dense[0] is sparse[0] is contenders_for(LASSO)[0] is Ours


@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_jaxopt_is_right_to_its_tolerance(share):
    problem = problem_of(replace(SVM, l1_share=share))
    record = Record.of(SVM, "jaxopt")
    Judge(problem)(Jaxopt(problem), record)
    assert 0 <= record.gap < 1e-3
    assert record.derivative_error < 0.01


@pytest.mark.parametrize("case", [LASSO, replace(LASSO, kind="group_lasso", k=3)], ids=["Lasso", "group Lasso"])
def test_regressions_reach_the_gap_that_was_asked_for(case):
    problem = problem_of(case)
    contender = ScikitLearn(problem)
    record = Record.of(case, contender.name)
    Judge(problem)(contender, record)
    assert record.gap <= 1e-8
    assert record.remark.startswith("tol=1e-")
    assert record.derivative_error is None


def test_timing_interleaves_and_slow_functions_may_take_part_in_fewer_repetitions():
    order = []
    functions = {name: partial(order.append, name) for name in "ab"}
    times = interleave(functions, 3)
    assert order == ["a", "b"] * 4
    assert [len(each) for each in times.values()] == [3, 3]
    times = interleave(functions, 3, {"a": 2})
    assert [len(each) for each in times.values()] == [2, 3]


def test_ratios_are_medians_of_pairs_and_of_the_least():
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == (3.0, 2.0)


def test_memory_is_that_of_another_process_beyond_its_inputs():
    case = Case("memory", "svm", 20, 50_000, 3, l2=0.1, dtype="float32")
    size = 20 * 50_000 * 4 / 1e6
    assert size < peak.peak_in_process(case, "ours", 300) < 20 * size


def test_a_time_limit_ends_a_process():
    with pytest.raises(peak.TimeLimit, match=r"more than 0\.1 s"):
        peak.peak_in_process(SVM, "ours", 0.1)


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="Unsupported: regressions only"):
        peak.peak_in_process(SVM, "scikit-learn", 300)


def test_growth_has_a_record_for_each_size_and_an_exponent():
    found = growth("time", "m", (10, 20, 40), replace(GROUP, n=8, k=2, batch=1), QUICK, silent)
    assert [each.m for each in found] == [10, 20, 40, None]
    assert math.isfinite(found[-1].exponent)
    assert "m^" in found[-1].remark


@pytest.mark.parametrize("name", PLANS)
def test_plans_list_jobs_for_both_efforts(name):
    assert 0 < len(PLANS[name](True)) <= len(PLANS[name](False))


def test_the_command_runs_and_reports(tmp_path, capsys):
    path = tmp_path / "regression.json"
    main(["regression", "--quick", "--json", str(path)])
    assert str(path) in capsys.readouterr().out.replace("\n", "")
    found = records.read(path)
    assert {each.peer for each in found} == {"ours", "scikit-learn", "celer", "skglm"}
    assert all(each.error.startswith("not installed") if each.error else each.gap <= 1e-8 for each in found)
    main(["report", "--results", str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    assert "## regression" in text
    assert "![seconds of the regressions](regression.png)" in text
    assert {each.name for each in tmp_path.iterdir()} == {"README.md", "regression.json", "regression.png"}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_where_much_is_missing(name, tmp_path):
    failed = Record("SVM, l1 = 0", "qpth", n=5, m=6, dtype="float32", error="not installed (qpth)")
    made = replace(failed, peer="ours", gap=1e-9, forward_s=0.1, total_s=0.2, error=None)
    others = [replace(made, case="SVM against m", m=m, active_share=0.1) for m in (10, 20)]
    figure = FIGURES[name].draw([made, failed, *others])
    figure.savefig(tmp_path / "figure.png")


def test_what_was_not_measured_is_not_drawn():
    made = Record("SVM against m", "ours", n=5, m=6, dtype="float32", forward_s=0.1, total_s=0.2)
    assert len(FIGURES["sizes"].draw([made]).axes) == 1
    assert FIGURES["sizes"].is_of([made])
    assert not FIGURES["share"].is_of([made])
    assert not FIGURES["gap"].is_of([])
