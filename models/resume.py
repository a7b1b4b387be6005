"""Training that Ctrl-C stops without losing a step."""

import math
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


class Resumable(Checkpoint):
    """Keep ``last.ckpt`` such that training continued from it ends exactly as if it had never stopped.

    The first Ctrl-C (SIGINT) waits for the training step in progress, and for a validation due right after it, then
    saves and stops: a checkpoint taken inside a step would hold batch statistics of a step that the weights never
    took. With ``accumulate_grad_batches`` a step has several batches, and it is waited for all of them: gradients
    summed so far are part of no checkpoint. One that another callback took inside a step, at a validation there, is
    refused: training continued from it would end elsewhere.

    A second Ctrl-C, or any exception, stops at once; training then continues from the last periodic save. In both cases
    a message names the checkpoint and, if known, the command that continues.

    Args:
        dirpath: folder of ``last.ckpt``; None for ``checkpoints`` in the trainer's log folder.
        every_n_steps: training steps between periodic saves.

    Attributes:
        command: shell command that continues, with ``{ckpt_path}`` and ``{log_dir}`` for the checkpoint and the
            trainer's log folder; None if there is none to tell.
    """

    command: str | None = None

    def __init__(self, dirpath: Path | None = None, every_n_steps: int = 50):
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: given {every_n_steps}, expected an integer ≥ 1")
        self.dirpath = dirpath
        self.every_n_steps = every_n_steps
        self._saved_step: int | None = None
        self._stop_requested = False
        self._inside_step = False

    def ckpt_path(self, trainer: L.Trainer) -> Path:
        """Where the checkpoint is, or will be."""
        return Path(self.dirpath or Path(trainer.log_dir or ".") / "checkpoints") / "last.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C until the trainer, when it ends, puts back the handlers that it found.

        Python allows that in the main thread only; elsewhere the periodic saves must do.
        """
        self._stop_requested = False
        if trainer.ckpt_path is not None and self._inside_step:
            raise ValueError(
                f"ckpt_path: given {trainer.ckpt_path}, taken between the batches of one step of the optimiser, whose"
                " gradients are lost; expected one taken after a step, such as last.ckpt beside it"
            )
        self._inside_step = False
        continues = trainer.ckpt_path is not None and Path(trainer.ckpt_path) == self.ckpt_path(trainer)
        self._saved_step = trainer.global_step if continues else None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._request_stop)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save or stop after a step, unless a validation follows: see `on_validation_end`."""
        self._inside_step = _is_inside_step(trainer)
        if not _validation_is_next(trainer, batch_idx):
            self._save_or_stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save or stop after a validation, so that none is skipped or repeated when training continues."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_or_stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the finished state."""
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say how to continue."""
        if trainer.state.fn != "fit":
            return
        if self._saved_step is None:
            print(f"\nStopped before the first checkpoint (one is written every {self.every_n_steps} steps).")
            return
        path = self.ckpt_path(trainer)
        print(f"\nStopped; step {self._saved_step} is saved in {path}")
        if self.command:
            print("Continue with:\n  " + self.command.format(ckpt_path=path, log_dir=trainer.log_dir))

    def state_dict(self) -> dict[str, bool]:
        """Part of every checkpoint: whether it was taken inside a step."""
        return {"inside_step": self._inside_step}

    def load_state_dict(self, state_dict: dict[str, bool]) -> None:
        """Remember for `on_train_start`: a checkpoint taken inside a step will do for everything but training."""
        self._inside_step = state_dict["inside_step"]

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self._stop_requested:
            raise KeyboardInterrupt
        self._stop_requested = True
        print("\nStopping after this step; Ctrl-C again stops at once.")

    def _save_or_stop(self, trainer: L.Trainer) -> None:
        if self._inside_step:
            return
        if self._stop_requested or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        if self._stop_requested:
            raise KeyboardInterrupt

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.ckpt_path(trainer))
        self._saved_step = trainer.global_step


def _is_inside_step(trainer: L.Trainer) -> bool:
    """Whether gradients of the batch that just ended wait for those of the next."""
    progress = trainer.fit_loop.epoch_loop.batch_progress.state_dict()
    return not progress["is_last_batch"] and progress["current"]["processed"] % trainer.accumulate_grad_batches != 0


def _validation_is_next(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a validation follows the training step that just ended."""
    return trainer.enable_validation and (batch_idx + 1) % (trainer.val_check_batch or math.inf) == 0
