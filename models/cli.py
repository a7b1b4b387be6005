"""The command line: ``python -m implicitlayers.models {fit,validate,test} --config glyphs``.

Every constructor argument of the learner, its encoder and head, the data and the trainer is an option; a YAML file
given by ``--config`` sets any of them, and options override it. ``--config NAME`` without a file of that name means
the configuration shipped as ``implicitlayers/models/configs/NAME.yaml``.

``validate`` and ``test`` of a checkpoint take learner and data as they were in training, which is part of the
checkpoint, whatever a configuration file says. An option such as ``--data.shot 1`` still has its way. What differs
from the training, or from the file, is said.
"""

import logging
import sys
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from .divergence import Diverged
from .encoders import Encoder
from .few_shot import FewShotData, FewShotLearner
from .heads import Head
from .resume import Resumable
from .trained import KEY, Arguments, SaveConfig, check_parameters, differences, read_checkpoint, without_local

PROGRAM = "python -m implicitlayers.models"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line on ``args``, by default those of the process."""
    quiet_lightning()
    FewShotCLI(
        FewShotLearner,
        FewShotData,
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        parser_class=FewShotParser,
        parser_kwargs={"prog": PROGRAM, "description": __doc__}
        # In place of a hundred lines of options before every error message.
        | {name: {"usage": f"{PROGRAM} {name} [options]"} for name in FewShotCLI.subcommands()},
        args=list(sys.argv[1:] if args is None else args),
    )


class FewShotParser(LightningArgumentParser):
    """The parser of LightningCLI, which also says what encoders and heads there are when a name is unknown."""

    def error(self, message: str, *args: Any) -> NoReturn:
        """Print the message and end the program."""
        choices: dict[str, type[nn.Module]] = {"model.encoder": Encoder, "model.head": Head}
        for key, base in choices.items():
            if f'"{key}"' in message:
                message += f"\n  - Known names: {', '.join(cls.__name__ for cls in base.__subclasses__())}"
        super().error(message, *args)


class ResumableFit(Resumable):
    """Resumable, with the command that continues; the configuration was saved to the log folder at the start."""

    command = PROGRAM + " fit --config {log_dir}/config.yaml --ckpt_path {ckpt_path}"


class Best(ModelCheckpoint):
    """The checkpoint of highest validation accuracy, also over training that was stopped and continued."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best so far, even if its folder was moved or is now written differently."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class FewShotCLI(LightningCLI):
    """LightningCLI with checkpoints that training resumes from, and bad values reported in one line."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Those of Lightning without ``predict``: episodes come with their labels."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the list ``args``, in which a shipped configuration may be called by its name."""
        args = named_configs(args)
        arguments = Arguments.of(args)
        trained = self._trained(arguments)
        if trained is None:
            self.config = parser.parse_args(args)
            return
        self.config = parser.parse_args(arguments.in_order(without_local(trained)))
        used = self._settings(parser, self.config)
        for name, now, then in differences(used, yaml.safe_load(trained)):
            print(f"{name} is {now}, as asked for; in training it was {then}.", file=sys.stderr)
        if arguments.configs:
            file = self._settings(parser, parser.parse_args(arguments.in_order()))
            for name, now, written in differences(used, file):
                print(
                    f"{name} is {now}, as in training; the configuration file's {written} is not used.", file=sys.stderr
                )

    def _trained(self, arguments: Arguments) -> str | None:
        """The configuration in the checkpoint that is to be validated or tested, if there is one."""
        if arguments.subcommand not in (["validate"], ["test"]) or arguments.ckpt_path is None:
            return None
        try:
            trained = read_checkpoint(arguments.ckpt_path).get(KEY)
        except ValueError as error:
            self._parser(arguments.subcommand[0]).error(str(error))
        if trained is None:
            print(
                f"{arguments.ckpt_path} does not hold the configuration of its training; that of this command is used.",
                file=sys.stderr,
            )
        return trained

    def _settings(self, parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
        """A parsed configuration of a subcommand as plain values."""
        return yaml.safe_load(parser.dump(config, skip_none=False))[config.subcommand]

    def _parse_ckpt_path(self) -> None:
        """Settings come from the command line and from `_trained` alone, not from Lightning's look at a checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Always save: the last state to resume from, and the best by validation accuracy."""
        parser.add_lightning_class_args(ResumableFit, "resume")
        parser.add_lightning_class_args(Best, "best")
        parser.set_defaults({"best.monitor": "val/accuracy", "best.mode": "max", "best.filename": "best"})

    def before_instantiate_classes(self) -> None:
        """Training that continues keeps its checkpoints in the folder where they are."""
        config = self.config[self.subcommand]
        if config.ckpt_path and Path(config.ckpt_path).is_file():
            for callback in (config.best, config.resume):
                callback.dirpath = callback.dirpath or str(Path(config.ckpt_path).parent)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer; its progress bar shows gaps such as 3e-08, which the usual three decimals would hide."""
        if self.config[self.subcommand].trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [progress_bar()]
        return super().instantiate_trainer(**kwargs)

    def instantiate_classes(self) -> None:
        """Build the learner, the data and the trainer; a value that they refuse ends the program with its message."""
        try:
            super().instantiate_classes()
            path = self.config[self.subcommand].ckpt_path
            if path and path not in ("last", "best", "hpc"):
                check_parameters(path, read_checkpoint(path), self.model)
            self.datamodule.setup(self.subcommand)
        except (ValueError, MisconfigurationException) as error:
            self._parser(self.subcommand).error(str(error))

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; what ends it, but for a fault of the program, is one sentence, and an exit code other than 0."""
        try:
            super()._run_subcommand(subcommand)
        except Diverged as error:
            sys.exit(f"{self._parser(subcommand).prog}: {error}")
        except (ValueError, MisconfigurationException) as error:
            self._parser(subcommand).error(str(error))


def named_configs(args: Sequence[str]) -> list[str]:
    """Replace the name of a shipped configuration after ``--config``, ``-c`` or ``--config=`` by its path."""
    shipped = {Path(str(path)).stem: str(path) for path in files(__package__).joinpath("configs").iterdir()}
    args = list(args)
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if equals and flag in ("--config", "-c"):
            args[i] = flag + equals + _shipped(value, shipped)
        elif i and args[i - 1] in ("--config", "-c"):
            args[i] = _shipped(arg, shipped)
    return args


def _shipped(name: str, shipped: dict[str, str]) -> str:
    return name if Path(name).exists() else shipped.get(name, name)


def progress_bar() -> RichProgressBar:
    """A progress bar with three significant digits."""
    return RichProgressBar(theme=RichProgressBarTheme(metrics_format=".3g"))


def quiet_lightning() -> None:
    """Silence what Lightning says on every run, so that what it says once is read."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning's own use of an interface that torch deprecates.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
    # Episodes are drawn from images in memory: worker processes would cost more than they save.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Not so here: see EpisodeSampler.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
