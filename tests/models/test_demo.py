import csv

import pytest

from implicitlayers.models import comparison, demo

COLUMNS = "head l1 way shot episodes accuracy ci95 features_used worst_gap flagged seconds selected"


@pytest.fixture(scope="module")
def folder(glyphs_root, tmp_path_factory):
    """Where a demo of two steps and a few episodes has run."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMPLICITLAYERS_CACHE", str(glyphs_root))
        patch.setattr(comparison, "L1_GRID", (0.001, 0.004))
        demo.main(["--steps=2", "--episodes=6", f"--output={folder}"])
    return folder


def test_results_have_their_columns_and_plausible_values(folder):
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert " ".join(rows[0]) == COLUMNS
    assert [(row["head"], row["shot"]) for row in rows] == [
        (head, shot) for shot in "15" for head in ("protonet", "ridge", "svm", *["group-lasso-svm"] * 2)
    ]
    for row in rows:
        assert (row["way"], row["episodes"]) == ("5", "6")
        assert 0 <= float(row["accuracy"]) <= 1
        assert 0 < float(row["features_used"]) <= 1
        assert float(row["worst_gap"]) <= 1e-6
        assert row["flagged"] == "0"
    for shot in "15":
        assert [row["selected"] for row in rows if row["shot"] == shot].count("True") == 4


def test_a_figure_is_written(folder):
    assert (folder / "figure.png").stat().st_size > 10_000


def test_a_second_call_does_not_train_again(folder, glyphs_root, monkeypatch):
    monkeypatch.setenv("IMPLICITLAYERS_CACHE", str(glyphs_root))
    monkeypatch.setattr(comparison, "L1_GRID", (0.001, 0.004))
    monkeypatch.setattr(demo.FewShotLearner, "training_step", lambda *args: pytest.fail("trained again"))
    first = (folder / "results.csv").read_text()
    results = demo.demo(steps=2, episodes=6, output=folder)
    again = [f"{r.accuracy}" for r in results]
    assert again == [row["accuracy"] for row in csv.DictReader(first.splitlines())]


def test_help_describes_the_options(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    text = capsys.readouterr().out
    assert all(option in text for option in ("--steps", "--episodes", "--seed", "--output", "--quick"))
