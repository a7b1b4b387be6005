import warnings

import pytest
import yaml

from implicitlayers.models.cli import main, named_configs

# Lightning calls parts of jsonargparse that are about to go; Python hides that from users too.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.pytorch.cli")


def run(*args: str, capsys, code: int) -> str:
    """The command line in this process; what it printed when it ended with ``code``."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_help_names_the_subcommands(capsys):
    text = run("--help", capsys=capsys, code=0)
    assert {"fit", "validate", "test"} <= set(text.split())
    assert "predict" not in text


def test_help_describes_every_option_of_learner_data_and_resume(capsys):
    text = " ".join(run("fit", "--help", capsys=capsys, code=0).split())
    for option in ("--model.lr", "--model.label_smoothing", "--data.way", "--data.steps", "--resume.every_n_steps"):
        assert option in text
    for description in ("peak learning rate", "classes per episode", "training steps between periodic saves"):
        assert description in text


@pytest.mark.parametrize("name", ["ProtoNet", "RidgeHead", "SVMHead"])
def test_heads_have_short_names(name, capsys):
    config = run("fit", "--config", "glyphs", "--model.head", name, "--print_config", capsys=capsys, code=0)
    assert yaml.safe_load(config)["model"]["head"]["class_path"] == f"implicitlayers.models.heads.{name}"


def test_options_override_the_named_configuration(capsys):
    config = run("fit", "--config", "glyphs", "--model.head.l1", "0.5", "--print_config", capsys=capsys, code=0)
    assert yaml.safe_load(config)["model"]["head"]["init_args"]["l1"] == 0.5


def test_a_file_goes_before_a_shipped_configuration_of_its_name(tmp_path, monkeypatch):
    assert named_configs(["fit", "--config", "glyphs"])[2].endswith("glyphs.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glyphs").write_text("data: {way: 3}")
    assert named_configs(["fit", "--config", "glyphs"])[2] == "glyphs"


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--model.head", "Perceptron", "ProtoNet, RidgeHead, SVMHead"),
        ("--model.encoder", "ResNet", "Conv4"),
        ("--model.head.l1", "-0.1", "l1: given -0.1, expected a number ≥ 0"),
        ("--model.lr", "0", "lr: given 0.0, expected a number > 0"),
        ("--data.way", "100000", "way=100000: expected at most"),
        ("--data.query", "40", "query=40: expected at most"),
        ("--data.batch_size", "0", "batch_size: given 0, expected an integer ≥ 1"),
        ("--data.steps", "many", "data.steps"),
        ("--data.shots", "5", "--data.shots"),
        ("--config", "miniglyphs", "miniglyphs"),
    ],
)
def test_a_bad_value_is_one_short_message(option, value, expected, glyphs_root, capsys):
    text = run("fit", "--config", "glyphs", f"--data.root={glyphs_root}", option, value, capsys=capsys, code=2)
    assert option.removeprefix("--").split(".")[-1] in text
    assert expected in text
    assert len(text.splitlines()) <= 8


def test_fit_then_test_from_its_best_checkpoint(glyphs_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = [f"--data.root={glyphs_root}", "--data.steps=4", "--data.batch_size=2", "--data.val_episodes=4"]
    small += [
        "--model.encoder.widths=[8,8,8,8]",
        "--trainer.val_check_interval=2",
        "--trainer.enable_progress_bar=false",
        "--trainer.log_every_n_steps=2",
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        main(["fit", "--config", "glyphs", *small])
    assert [str(warning.message) for warning in caught] == []
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    logs = tmp_path / "runs/glyphs/version_0"
    assert (logs / "metrics.csv").read_text().count("\n") > 1
    config, best = str(logs / "config.yaml"), str(logs / "checkpoints/best.ckpt")
    main(["test", "--config", config, "--ckpt_path", best, "--data.test_episodes=4"])
    assert "test/accuracy" in capsys.readouterr().out
