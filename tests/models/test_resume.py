"""Training that is stopped and continued ends as training that was not."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import lightning as L
import pytest
import torch

from implicitlayers.models.cli import quiet_lightning
from implicitlayers.models.encoders import Conv4
from implicitlayers.models.few_shot import FewShotData, FewShotLearner
from implicitlayers.models.heads import SVMHead
from implicitlayers.models.resume import Resumable

STEPS = 7
VALIDATE_EVERY = 3


class Diary(L.Callback):
    """Notes losses by step and by batch, steps of validations, and does something at one point of the training."""

    def __init__(self, hook=None, step=None, action=None):
        self.losses, self.validations, self.batches = {}, [], []
        self.step, self.action = step, action
        if hook is not None:
            setattr(self, hook, self.act)

    def act(self, trainer, *args):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            self.step = None
            self.action()

    def on_train_batch_end(self, trainer, module, outputs, *args):
        self.losses[trainer.global_step] = outputs["loss"].item()
        self.batches.append((trainer.current_epoch, args[-1], outputs["loss"].item()))

    def on_validation_epoch_end(self, trainer, module):
        self.validations.append(trainer.global_step)


def fit(root, folder, ckpt_path=None, num_workers=0, trainer_options=None, steps=STEPS, diary=None, **point):
    """Train from a checkpoint or from scratch; returns the learner and the diary, also after an interruption."""
    quiet_lightning()
    L.seed_everything(0, verbose=False)
    learner = FewShotLearner(Conv4(widths=(8,) * 4), SVMHead(l2=0.01, l1=0.001))
    data = FewShotData(root, 3, 2, 2, 2, batch_size=2, steps=steps, val_episodes=4, num_workers=num_workers)
    diary = diary or Diary(**point)
    trainer = L.Trainer(
        accelerator="cpu",
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Resumable(folder, every_n_steps=2), diary],
        **{"max_epochs": 1, "val_check_interval": VALIDATE_EVERY, **(trainer_options or {})},
    )
    interrupted = False
    try:
        trainer.fit(learner, data, ckpt_path=ckpt_path)
    except (SystemExit, RuntimeError):
        interrupted = True
    return learner, diary, interrupted


def assert_same_weights(learner, expected):
    for name, value in expected.state_dict().items():
        assert torch.equal(learner.state_dict()[name], value), name


@pytest.fixture(scope="module")
def uninterrupted(glyphs_root, tmp_path_factory):
    learner, diary, interrupted = fit(glyphs_root, tmp_path_factory.mktemp("uninterrupted"))
    assert not interrupted
    assert list(diary.losses) == list(range(1, STEPS + 1))
    assert diary.validations == [3, 6]
    return learner, diary


@pytest.fixture(autouse=True)
def own_handler():
    """No test leaves a handler of its own behind, and so training does not either."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # let Python run the handler


@pytest.mark.parametrize("step", range(STEPS - 1))
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_after_backward", "on_before_zero_grad"])
def test_ctrl_c_in_a_step_loses_nothing(hook, step, glyphs_root, tmp_path, uninterrupted):
    expected, whole = uninterrupted
    # `on_before_zero_grad` of step t sees the count before the step as well: optimiser closures come first.
    _, before, interrupted = fit(glyphs_root, tmp_path, hook=hook, step=step, action=press_ctrl_c)
    assert interrupted
    assert list(before.losses) == list(range(1, step + 2))
    learner, after, _ = fit(glyphs_root, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert before.losses | after.losses == whole.losses
    assert len(before.losses) + len(after.losses) == STEPS
    assert before.validations + after.validations == whole.validations
    assert_same_weights(learner, expected)


@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_validation_epoch_start"])
def test_ctrl_c_in_a_validation_loses_nothing(hook, glyphs_root, tmp_path, uninterrupted):
    expected, whole = uninterrupted
    _, before, interrupted = fit(glyphs_root, tmp_path, hook=hook, step=3, action=press_ctrl_c)
    assert interrupted
    learner, after, _ = fit(glyphs_root, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert before.losses | after.losses == whole.losses
    assert before.validations + after.validations == whole.validations
    assert_same_weights(learner, expected)


def test_a_second_ctrl_c_stops_at_once_and_loses_the_steps_since_the_last_save(
    glyphs_root, tmp_path, uninterrupted, capsys
):
    expected, whole = uninterrupted

    def press_twice():
        press_ctrl_c()
        press_ctrl_c()

    _, before, interrupted = fit(glyphs_root, tmp_path, hook="on_after_backward", step=5, action=press_twice)
    assert interrupted
    assert "step 4 is saved" in capsys.readouterr().out
    learner, after, _ = fit(glyphs_root, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert list(after.losses) == [5, 6, 7]
    assert before.losses | after.losses == whole.losses
    assert_same_weights(learner, expected)


def test_an_exception_leaves_the_last_save(glyphs_root, tmp_path, uninterrupted):
    expected, _ = uninterrupted

    def fail():
        raise RuntimeError("disk full")

    _, _, interrupted = fit(glyphs_root, tmp_path, hook="on_after_backward", step=3, action=fail)
    assert interrupted
    learner, after, _ = fit(glyphs_root, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert list(after.losses) == [3, 4, 5, 6, 7]
    assert_same_weights(learner, expected)


def test_workers_continue_with_the_right_episodes(glyphs_root, tmp_path, uninterrupted):
    expected, whole = uninterrupted
    fit(glyphs_root, tmp_path, hook="on_train_batch_start", step=2, action=press_ctrl_c)
    learner, after, _ = fit(glyphs_root, tmp_path, ckpt_path=tmp_path / "last.ckpt", num_workers=1)
    assert after.losses == {step: loss for step, loss in whole.losses.items() if step > 3}
    assert_same_weights(learner, expected)


# Case 26, optimiser steps are not batches (Lightning#19549, #20277).


class StopAtBatch(Diary):
    """Ctrl-C in the n-th batch of this run."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_after_backward(self, trainer, module):
        if len(self.batches) + 1 == self.batch:
            press_ctrl_c()


def accumulated(root, folder, accumulate, limit, ckpt_path=None, stop=0):
    """Two epochs of 5 batches, or of 4 of them; validations after the second and fourth, inside steps of three."""
    options = {"max_epochs": 2, "val_check_interval": 2, "accumulate_grad_batches": accumulate}
    options |= {} if limit is None else {"limit_train_batches": limit}
    diary = StopAtBatch(stop)
    learner, _, interrupted = fit(root, folder, ckpt_path, trainer_options=options, steps=5, diary=diary)
    return learner, diary, interrupted


@pytest.mark.parametrize(("accumulate", "limit"), [(1, None), (2, None), (3, None), (2, 4)])
def test_accumulated_gradients_change_no_episode_and_are_not_lost(accumulate, limit, glyphs_root, tmp_path):
    whole, diary, interrupted = accumulated(glyphs_root, tmp_path, accumulate, limit)
    assert not interrupted
    length = 5 if limit is None else 4
    # Both epochs have all batches, whatever the number of steps.
    assert [batch[:2] for batch in diary.batches] == [(epoch, i) for epoch in (0, 1) for i in range(length)]
    for stop in (2, length, length + 1):
        folder = tmp_path / str(stop)
        _, before, interrupted = accumulated(glyphs_root, folder, accumulate, limit, stop=stop)
        # Where gradients wait for those of other batches, so does Ctrl-C.
        in_epoch = (stop - 1) % length + 1
        waits = min(-in_epoch % accumulate, length - in_epoch)
        assert interrupted
        assert len(before.batches) == stop + waits
        learner, after, _ = accumulated(glyphs_root, folder, accumulate, limit, folder / "last.ckpt")
        assert before.batches + after.batches == diary.batches
        assert before.validations + after.validations == diary.validations
        assert_same_weights(learner, whole)


def test_a_checkpoint_from_inside_a_step_is_refused_for_training(glyphs_root, tmp_path):
    """Its gradients are lost; for a test it will do."""
    checkpoint = tmp_path / "inside.ckpt"

    class Save(Diary):
        def on_validation_end(self, trainer, module):
            trainer.save_checkpoint(checkpoint)

    options = {"val_check_interval": 4, "accumulate_grad_batches": 3}
    fit(glyphs_root, tmp_path, trainer_options=options, diary=Save())
    with pytest.raises(ValueError, match=r"^ckpt_path: given .*inside.ckpt.* expected .*last.ckpt"):
        fit(glyphs_root, tmp_path, ckpt_path=checkpoint, trainer_options=options)
    learner, data = FewShotLearner(Conv4(widths=(8,) * 4), SVMHead()), FewShotData(glyphs_root, 3, 2, test_episodes=2)
    trainer = L.Trainer(accelerator="cpu", logger=False, callbacks=[Resumable(tmp_path)], enable_progress_bar=False)
    trainer.test(learner, data, ckpt_path=checkpoint, verbose=False)


def test_finished_training_is_not_repeated(glyphs_root, tmp_path, uninterrupted):
    expected, _ = uninterrupted
    fit(glyphs_root, tmp_path)
    learner, after, _ = fit(glyphs_root, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert after.losses == {}
    assert_same_weights(learner, expected)


def test_a_continued_training_that_fails_at_once_still_names_its_checkpoint(glyphs_root, tmp_path, capsys):
    def fail():
        raise RuntimeError("disk full")

    fit(glyphs_root, tmp_path, hook="on_train_batch_start", step=2, action=press_ctrl_c)
    fit(glyphs_root, tmp_path, ckpt_path=tmp_path / "last.ckpt", hook="on_after_backward", step=3, action=fail)
    assert capsys.readouterr().out.count("step 3 is saved") == 2


def test_before_the_first_save_the_message_says_so(glyphs_root, tmp_path, capsys):
    def fail():
        raise RuntimeError("disk full")

    fit(glyphs_root, tmp_path, hook="on_after_backward", step=0, action=fail)
    assert "before the first checkpoint" in capsys.readouterr().out


def test_the_command_that_is_printed_continues_to_the_same_end(glyphs_root, tmp_path, monkeypatch):
    """In a process of its own, as users do it: a real Ctrl-C, then the printed command."""
    command = [
        *(sys.executable, "-m", "implicitlayers.models", "fit", "--config", "glyphs"),
        *(
            f"--data.root={glyphs_root}",
            "--data.batch_size=2",
            "--data.way=3",
            "--data.steps=40",
            "--data.val_episodes=2",
        ),
        *("--model.encoder.widths=[8,8,8,8]", "--model.head=RidgeHead", "--trainer.val_check_interval=20"),
        "--trainer.enable_progress_bar=false",
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tiny convolutions: more threads only wait for each other
    whole = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Continue with" not in whole.stdout

    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    config = tmp_path / "runs/glyphs/version_1/config.yaml"
    while not config.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "Continue with" in output, output
    printed = re.search(r"Continue with:\n  python (.*)", output).group(1)
    subprocess.run([sys.executable, *shlex.split(printed)], cwd=tmp_path, capture_output=True, check=True)

    ends = [torch.load(tmp_path / f"runs/glyphs/version_{v}/checkpoints/last.ckpt", weights_only=False) for v in (0, 1)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 40
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(ends[1]["state_dict"][name], value), name
