"""What a checkpoint was trained with: its configuration travels inside it, and a test takes it from there."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from lightning.pytorch.cli import SaveConfigCallback

KEY = "configuration"
# Where the images are and how they are read is up to the machine.
LOCAL = {"data.root", "data.num_workers"}


class SaveConfig(SaveConfigCallback):
    """The configuration in the log folder, and what concerns learner and data in every checkpoint."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add it as text."""
        whole = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        checkpoint[KEY] = yaml.safe_dump({section: whole[section] for section in ("model", "data")})


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint, with nothing in it executed.

    Raises:
        ValueError: there is no such file, or it is not one that training wrote.
    """
    expected = "expected a .ckpt file that `fit` wrote"
    if not Path(path).is_file():
        raise ValueError(f"ckpt_path: given {path}, which is no file; {expected}")
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever bytes make the reader of archives and pickles raise
        reason = str(error).strip().split("\n")[0][:100]
        raise ValueError(f"ckpt_path: given {path}, which cannot be read ({reason}); {expected}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "epoch" not in checkpoint:
        raise ValueError(f"ckpt_path: given {path}, which is a file of another kind; {expected}")
    return checkpoint


def check_parameters(path: str, checkpoint: Mapping[str, Any], learner: L.LightningModule) -> None:
    """Raise ValueError where a checkpoint's parameters are not those of the learner."""
    given, expected = (
        {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}
        for state in (checkpoint["state_dict"], learner.state_dict())
    )
    different = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"ckpt_path: given {path}, where {name} has shape {given.get(name)}, expected {expected.get(name)}, and"
            f" {len(different) - 1} more differ: encoder and head must be those that were trained"
        )


class Arguments(NamedTuple):
    """A subcommand, its configuration files, and its other options."""

    subcommand: list[str]
    configs: list[str]
    options: list[str]

    @staticmethod
    def of(args: Sequence[str]) -> "Arguments":
        """Take a command line apart; the files come in ``--config NAME``, ``--config=NAME`` or with ``-c``."""
        configs, options = [], []
        rest = iter(args[1:])
        for arg in rest:
            if arg in ("--config", "-c"):
                configs += [arg, *(value for value in (next(rest, None),) if value is not None)]
            elif arg.startswith(("--config=", "-c=")):
                configs.append(arg)
            else:
                options.append(arg)
        return Arguments(list(args[:1]), configs, options)

    def in_order(self, *configuration: str) -> list[str]:
        """The command line on which options override a further configuration, if any, and that the files."""
        further = [f"--config={text}" for text in configuration]
        return [*self.subcommand, *self.configs, *further, *self.options]

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint, if an option names it."""
        path = None
        for i, option in enumerate(self.options):
            if option == "--ckpt_path" and i + 1 < len(self.options):
                path = self.options[i + 1]
            elif option.startswith("--ckpt_path="):
                path = option.removeprefix("--ckpt_path=")
        return path


def without_local(configuration: str) -> str:
    """The configuration of a checkpoint without what is up to the machine."""
    sections = yaml.safe_load(configuration)
    for name in LOCAL:
        section, key = name.split(".")
        sections[section].pop(key, None)
    return yaml.safe_dump(sections, default_flow_style=True, width=10**6).strip()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name and values of settings of learner and data that differ; None where one has no such setting."""
    first, second = (dict(_flat({s: tree.get(s) for s in ("model", "data")})) for tree in (one, other))
    for name in sorted(first.keys() | second.keys()):
        if name not in LOCAL and first.get(name) != second.get(name):
            yield name, first.get(name), second.get(name)


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree
