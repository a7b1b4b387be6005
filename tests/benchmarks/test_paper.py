import csv

import pytest
import torch
from sklearn.linear_model import Lasso, Ridge

from benchmarks.paper import released, studies
from benchmarks.paper.__main__ import main
from benchmarks.paper.figures import generalisation_figure, study_figure
from benchmarks.paper.generalisation import MEASURED as R2_MEASURED
from benchmarks.paper.generalisation import SETTING as R2_SETTING
from benchmarks.paper.generalisation import evaluate, folds, regressions
from benchmarks.paper.results import ResultsFile
from benchmarks.paper.settings import MEASURED, SETTING, Setting, Study, settings_of
from benchmarks.paper.training import pools, unmix
from implicitlayers.models.disentanglement import mcc
from tests.helpers import normal

QUICK = {"steps": 3, "tasks": 2, "samples": 20, "pool": 200, "evaluation": 100}


def quick_options(output, *more):
    base = [option for name, value in QUICK.items() for option in (f"--base.{name}", str(value))]
    return ["latents", *base, "--output", str(output), *more]


def rows_in(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_kept_row_by_row_and_found_again(tmp_path):
    path = tmp_path / "new" / "results.csv"
    first = ResultsFile(path, ("seed", "noise"), ("mcc",))
    assert first.of({"seed": 1, "noise": None}) == []
    first.append([{"seed": 1, "noise": None, "mcc": 0.123456789}, {"seed": 1, "noise": 0.5, "mcc": 1.0}])
    again = ResultsFile(path, ("seed", "noise"), ("mcc",))
    assert again.of({"seed": 1, "noise": None}) == [{"seed": "1", "noise": "", "mcc": "0.123457"}]
    assert again.of({"seed": 2, "noise": None}) == []
    again.append([{"seed": 2, "noise": None, "mcc": 0.0}])
    assert len(rows_in(path)) == 3
    assert [each.name for each in path.parent.iterdir()] == ["results.csv"]


def test_results_of_other_columns_are_refused(tmp_path):
    path = tmp_path / "results.csv"
    ResultsFile(path, ("seed",), ("mcc",)).append([{"seed": 1, "mcc": 0.5}])
    with pytest.raises(ValueError, match=r"results.csv: has columns .*'mcc'.*expected .*'r'.*another --output"):
        ResultsFile(path, ("seed",), ("r",))


def test_a_study_is_all_combinations_for_every_seed_with_the_strength_of_each_method():
    study = Study(vary={"method": ["lasso", "ridge"], "blocks": [1, 2]}, fix={"split": True}, seeds=2)
    settings = settings_of(study, Setting(correlation=0.5, strength=0.7), {"lasso": 0.3})
    assert len(settings) == len(set(settings)) == 8
    assert [each.seed for each in settings] == [0] * 4 + [1] * 4
    assert {(each.method, each.strength) for each in settings} == {("lasso", 0.3), ("ridge", 0.7)}
    assert all(each.split and each.correlation == 0.5 for each in settings)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="given the settings corelation, expected some of data"):
        settings_of(Study(vary={"corelation": [0]}), Setting(), {})
    with pytest.raises(ValueError, match="method: given 'elastic'"):
        Setting(method="elastic")
    with pytest.raises(ValueError, match="data: given 'cars'"):
        pools(Setting(data="cars"))
    with pytest.raises(ValueError, match="path: given none, expected the file of shapes3d"):
        pools(Setting(data="shapes3d"))


def test_a_study_ends_in_a_table_figures_and_rows_and_continues_where_it_stopped(tmp_path, monkeypatch, capsys):
    """Interrupted after two runs, it trains the other two; called again, none."""
    trained = []
    train = studies.train

    def interrupted_train(setting, advance):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return counted_train(setting, advance)

    def counted_train(setting, advance):
        trained.append(setting)
        return train(setting, advance)

    studied = quick_options(tmp_path, "--studies", '{"few": {"x": "blocks", "vary": {"blocks": [1, 2]}, "seeds": 2}}')
    monkeypatch.setattr(studies, "train", interrupted_train)
    with pytest.raises(KeyboardInterrupt):
        main([*studied, "--study", "few"])
    assert len(rows_in(tmp_path / "results.csv")) == 2
    monkeypatch.setattr(studies, "train", counted_train)
    main([*studied, "--study", "few"])
    main([*studied, "--study", "few"])
    assert len(trained) == len(set(trained)) == 4
    rows = rows_in(tmp_path / "results.csv")
    assert len(rows) == 4
    assert all(0 <= float(row["mcc"]) <= float(row["r"]) <= 1 and float(row["worst_gap"]) < 1e-6 for row in rows)
    assert (tmp_path / "few.png").stat().st_size > 0
    assert "blocks" in capsys.readouterr().out


def test_the_ridge_is_scored_with_ica_too_and_pictures_show_what_was_learnt(tmp_path):
    main(
        quick_options(tmp_path, "--study", "main", "--studies", '{"main": {"vary": {"method": ["ridge"]}, "seeds": 1}}')
    )
    assert [row["method"] for row in rows_in(tmp_path / "results.csv")] == ["ridge", "ridge+ica"]
    assert {path.name for path in (tmp_path / "main").iterdir()} == {"ridge.pt", "correlations.png", "codes.png"}


def test_an_unknown_study_is_an_error_with_the_known_ones(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["latents", "--study", "strengths", "--output", str(tmp_path)])
    assert "study: given 'strengths', expected all or one of main, strength" in capsys.readouterr().err


def test_ica_unmixes_independent_codes():
    Z = normal(4000, 3).sign() * normal(4000, 3, seed=1).abs() ** 0.2
    codes = Z @ torch.linalg.qr(normal(3, 3, seed=2)).Q
    assert mcc(Z, codes) < 0.95
    assert mcc(Z, unmix(codes, codes, seed=0)) > 0.99


@pytest.mark.parametrize("representation", ["disentangled", "entangled"])
def test_cross_validated_fits_are_those_of_scikit_learn(representation):
    """The same R² with the strengths chosen here, and no other strength does better over the folds."""
    data = regressions([3], 0.05, 50, representation)
    X, Y, X_test, Y_test = (tensor[0].numpy() for tensor in data)
    for method in ("lasso", "ridge"):
        (measured,) = evaluate(method, data)
        if method == "lasso":
            alpha = measured["strength"] * abs(X.T @ Y).max() / len(X)
            fit = Lasso(alpha=alpha, fit_intercept=False, tol=1e-10, max_iter=100_000)
        else:
            fit = Ridge(alpha=len(X) * measured["strength"] * (X**2).mean(), fit_intercept=False)
        assert measured["r2"] == pytest.approx(fit.fit(X, Y[:, 0]).score(X_test, Y_test[:, 0]), abs=1e-3)
        assert measured["worst_gap"] <= 1e-5


def test_entangled_features_are_a_rotation_of_the_disentangled_and_folds_a_partition():
    one, other = (regressions([0, 5], 0.2, 25, name) for name in ("disentangled", "entangled"))
    torch.testing.assert_close(other.X @ other.X.mT, one.X @ one.X.mT)
    assert torch.equal(one.Y, other.Y)
    held_out = torch.cat([fold.X_test for fold in folds(one.X, one.Y)], 1)
    torch.testing.assert_close(held_out, one.X)
    assert all(fold.X.shape[1] + fold.X_test.shape[1] == 25 for fold in folds(one.X, one.Y))


def test_the_released_numbers_agree_with_themselves_and_with_no_others():
    theirs = released.released()
    same = released.agreement(theirs, theirs)
    assert same.ordered == same.pairs > 50
    assert same.close == same.cells == 66
    opposite = released.agreement({cell: -value for cell, value in theirs.items()}, theirs)
    assert opposite.ordered == 0
    assert opposite.close == 0


def test_figures_have_a_curve_for_every_method():
    row = dict.fromkeys(SETTING, "1") | dict.fromkeys(MEASURED, "0.5")
    figure = study_figure(
        [{**row, "method": m, "seed": s} for m in ("lasso", "ridge") for s in "01"], "blocks", "title"
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lasso", "ridge"]
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["MCC", "R"]
    row = dict.fromkeys(R2_SETTING, "25") | dict.fromkeys(R2_MEASURED, "0.5")
    figure = generalisation_figure([{**row, "share": "0.05", "method": "lasso", "representation": "entangled"}])
    assert len(figure.axes) == 3
