import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from implicitlayers.models import cli
from implicitlayers.models.cli import FewShotCLI, main, named_configs

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
    assert named_configs(["fit", "--config=glyphs"])[1].endswith("=" + named_configs(["fit", "-c", "glyphs"])[2])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glyphs").write_text("data: {way: 3}")
    assert named_configs(["fit", "--config", "glyphs"])[2] == "glyphs"
    assert named_configs(["fit", "--config=glyphs"])[1] == "--config=glyphs"


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
        ("--data.num_workers", "-1", "num_workers: given -1, expected an integer ≥ 0"),
        ("--model.lr", ".inf", "lr: given inf, expected a number > 0"),
        ("--model.lr", ".nan", "lr: given nan, expected a number > 0"),
        ("--model.weight_decay", ".inf", "weight_decay: given inf, expected a number ≥ 0"),
        ("--trainer.max_epochs", "-5", "max_epochs"),
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


# Case 31: the command line ends in one sentence and an exit code, whatever it is given.


def is_short(text: str) -> bool:
    return "Traceback" not in text and len(text.splitlines()) <= 8


@pytest.fixture(scope="module")
def trained(glyphs_root, tmp_path_factory) -> Path:
    """A checkpoint of one-shot episodes with l1 = .004, where the shipped configuration has five and .002."""
    folder = tmp_path_factory.mktemp("trained")
    small = [f"--data.root={glyphs_root}", "--data.steps=2", "--data.batch_size=2", "--data.val_episodes=2"]
    small += ["--model.encoder.widths=[8,8,8,8]", "--trainer.enable_progress_bar=false"]
    small += ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=1"]
    small += [f"--trainer.logger.init_args.save_dir={folder}"]
    main(["fit", "--config=glyphs", "--data.shot", "1", "--model.head.init_args.l1", ".004", *small])
    return folder / "glyphs/version_0/checkpoints/best.ckpt"


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("kind", ["missing", "folder", "text", "archive", "pickle", "weights"])
def test_a_checkpoint_that_is_none(command, kind, glyphs_root, tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("<html>not found</html>")
    elif kind == "archive":
        path.write_bytes(b"PK\x03\x04truncated")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Path("x")))
    elif kind == "weights":
        torch.save({"weight": torch.ones(2)}, path)
    options = ["--config", "glyphs", f"--data.root={glyphs_root}", "--ckpt_path", str(path)]
    text = run(command, *options, capsys=capsys, code=2)
    assert f"ckpt_path: given {path}" in " ".join(text.split())
    assert "expected a .ckpt file" in " ".join(text.split())
    assert is_short(text)


def test_a_checkpoint_of_another_encoder(trained, glyphs_root, capsys):
    options = [f"--data.root={glyphs_root}", "--ckpt_path", str(trained), "--model.encoder.widths=[4,8,8,8]"]
    text = run("test", "--trainer.logger=false", *options, capsys=capsys, code=2)
    assert "ckpt_path" in text
    assert "(8, 1, 3, 3), expected (4, 1, 3, 3)" in text
    assert is_short(text)


def test_training_that_diverges_ends_with_a_sentence(glyphs_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = [f"--data.root={glyphs_root}", "--data.steps=6", "--data.batch_size=2", "--data.val_episodes=2"]
    small += ["--model.encoder.widths=[8,8,8,8]", "--trainer.enable_progress_bar=false", "--model.head=ProtoNet"]
    small += ["--trainer.val_check_interval=6", "--trainer.log_every_n_steps=1"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "glyphs", *small, "--model.lr=1e30"])
    message = str(ended.value.code)  # Python prints it, and exits with 1
    assert re.search(r"loss: given (nan|inf) at step \d, expected a finite number.*learning rate", message)
    assert is_short(capsys.readouterr().err + message)


# Case 38: another head is tested than was trained.


def settings_of(capsys, *options) -> tuple[dict, str]:
    """The settings with which a test runs, and what it says about them."""
    settings = {}

    class Recorded(FewShotCLI):
        def _run_subcommand(self, subcommand):
            settings.update(self._settings(self.parser, self.config))
            settings["learner"], settings["datamodule"] = self.model, self.datamodule

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "FewShotCLI", Recorded)
        main(list(options))
    return settings, capsys.readouterr().err


@pytest.mark.parametrize("command", ["test", "validate"])
@pytest.mark.parametrize("config", [["--config", "glyphs"], ["--config=glyphs"], ["-c", "glyphs"], []])
def test_a_test_takes_learner_and_data_from_the_checkpoint(command, config, trained, glyphs_root, capsys):
    options = ["--trainer.logger=false", f"--data.root={glyphs_root}", f"--ckpt_path={trained}"]
    settings, said = settings_of(capsys, command, *config, *options)
    (episodes,) = settings["datamodule"].episodes.values()
    assert settings["data"]["shot"] == episodes.shot == 1
    assert settings["model"]["head"]["init_args"]["l1"] == settings["learner"].head.l1 == 0.004
    assert settings["data"]["root"] == str(glyphs_root)
    assert ("data.shot is 1, as in training; the configuration file's 5 is not used." in said) == bool(config)
    assert ("model.head.init_args.l1 is 0.004, as in training; the" in said) == bool(config)
    assert "data.root" not in said


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_option_has_its_way_and_that_is_said(where, trained, glyphs_root, capsys):
    options = ["--data.shot", "3", "--model.head.init_args.l1=0.5"]
    config, path = ["--config", "glyphs"], ["--ckpt_path", str(trained), f"--data.root={glyphs_root}"]
    args = [*options, *config, *path] if where == "before" else [*config, *path, *options]
    settings, said = settings_of(capsys, "test", *args)
    assert settings["data"]["shot"] == 3
    assert settings["learner"].head.l1 == 0.5
    assert "data.shot is 3, as asked for; in training it was 1." in said
    assert "model.head.init_args.l1 is 0.5, as asked for; in training it was 0.004." in said


def test_the_same_configuration_says_nothing(trained, glyphs_root, capsys):
    config = trained.parent.parent / "config.yaml"
    _, said = settings_of(capsys, "test", "--config", str(config), "--ckpt_path", str(trained))
    assert said == ""


def test_a_checkpoint_without_a_configuration_is_tested_with_the_command_lines(trained, glyphs_root, tmp_path, capsys):
    checkpoint = torch.load(trained, weights_only=True)
    del checkpoint["configuration"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    options = ["--config", "glyphs", f"--data.root={glyphs_root}", "--model.encoder.widths=[8,8,8,8]"]
    settings, said = settings_of(capsys, "test", *options, "--ckpt_path", str(tmp_path / "old.ckpt"))
    assert settings["data"]["shot"] == 5
    assert "old.ckpt does not hold the configuration of its training" in said
