from itertools import chain
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from implicitlayers.models.cli import quiet_lightning
from implicitlayers.models.divergence import Diverged
from implicitlayers.models.encoders import Conv4
from implicitlayers.models.episodes import Episode
from implicitlayers.models.few_shot import EpisodeSampler, FewShotData, FewShotLearner
from implicitlayers.models.heads import ProtoNet, RidgeHead, SVMHead


def small_learner(head=None, **options) -> FewShotLearner:
    torch.manual_seed(0)
    return FewShotLearner(Conv4(widths=(8,) * 4), head or RidgeHead(l2=0.01), **options)


def small_data(root, **options) -> FewShotData:
    return FewShotData(
        root, **{"way": 3, "shot": 2, "query": 2, "batch_size": 2, "steps": 4, "val_episodes": 3, **options}
    )


def quiet_trainer(**options) -> L.Trainer:
    quiet_lightning()
    defaults = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", enable_model_summary=False, **{**defaults, **options})


def batch_of(data: FewShotData, split="train", size=2) -> Episode:
    return Episode.collate([data.episodes[split][i] for i in range(size)])


@pytest.fixture
def data(glyphs_root) -> FewShotData:
    data = small_data(glyphs_root)
    data.setup("fit")
    return data


def test_episodes_are_solved_on_their_own_images(data):
    """A batch of episodes gives each the logits that it gets alone, which a mixed-up order of images would not."""
    learner = small_learner().eval()
    batch = batch_of(data, size=3)
    alone = [learner(Episode(*(field[i : i + 1] for field in batch))).logits for i in range(3)]
    torch.testing.assert_close(learner(batch).logits, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", [ProtoNet(), RidgeHead(), SVMHead(l2=0.003, l1=0.001)], ids=lambda h: type(h).__name__)
def test_a_few_steps_on_one_batch_lower_its_loss(data, head):
    learner = small_learner(head).train()
    batch = batch_of(data)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        logits = learner(batch).logits
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.query_labels.flatten()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_training_logs_loss_accuracy_sparsity_and_certificate(glyphs_root):
    trainer = quiet_trainer()
    trainer.fit(small_learner(SVMHead(l2=0.003, l1=0.002)), small_data(glyphs_root))
    logged = trainer.callback_metrics
    assert {"loss", "accuracy", "features_used", "worst_gap", "flagged", "val/accuracy", "val/ci95"} <= set(logged)
    assert 0 < logged["features_used"] < 1
    assert 0 <= logged["worst_gap"] <= 1e-6
    assert logged["flagged"] == 0


def test_evaluation_does_not_change_the_encoder_and_repeats_itself(glyphs_root):
    learner, data, trainer = small_learner(), small_data(glyphs_root, test_episodes=5), quiet_trainer()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    first, second = (trainer.test(learner, data, verbose=False) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_label_smoothing_is_in_the_loss(data):
    batch = batch_of(data)
    plain, smooth = small_learner().eval(), small_learner(label_smoothing=0.2).eval()
    for learner in (plain, smooth):
        learner.log = lambda *args, **kwargs: None
    logits = plain(batch).logits
    log_p = logits.log_softmax(dim=-1)
    expected = 0.8 * plain.training_step(batch, 0) - 0.2 * log_p.mean()
    torch.testing.assert_close(smooth.training_step(batch, 0), expected)


def test_the_learning_rate_warms_up_and_ends_at_zero(glyphs_root):
    rates = []

    class Recorder(L.Callback):
        def on_train_batch_start(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_end(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    learner = small_learner(lr=1e-3)
    quiet_trainer(callbacks=[Recorder()], limit_val_batches=0).fit(
        learner, small_data(glyphs_root, steps=20, batch_size=1)
    )
    assert rates[0] == pytest.approx(5e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


def sampler(n_episodes, step, world_size=1, rank=0) -> EpisodeSampler:
    process = SimpleNamespace(world_size=world_size, global_rank=rank, limit_train_batches=1.0)
    return EpisodeSampler(range(n_episodes), process, batch_size=2, batches_taken=lambda: step)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_the_sampler_continues_where_training_stands(world_size, step):
    per_step = 2 * world_size
    shares = [list(sampler(4 * per_step, step, world_size, rank)) for rank in range(world_size)]
    assert sorted(chain(*shares)) == list(range(step * per_step, 4 * per_step))


def test_the_sampler_starts_the_next_epoch_at_its_beginning():
    assert list(sampler(8, step=4)) == list(range(8))


def test_workers_give_the_same_episodes(glyphs_root):
    losses = []
    for num_workers in (0, 2):
        trainer = quiet_trainer(limit_val_batches=0)
        trainer.fit(small_learner(), small_data(glyphs_root, num_workers=num_workers))
        losses.append(trainer.callback_metrics["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["batch_size", "steps", "val_episodes", "test_episodes", "way", "shot"])
def test_impossible_counts_are_refused(name, glyphs_root):
    with pytest.raises(ValueError, match=rf"^{name}(: given 0,|=0:) expected an integer ≥ 1$"):
        FewShotData(glyphs_root, **{name: 0}).setup("fit")


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"lr": torch.inf}, {"weight_decay": -1.0}, {"weight_decay": torch.inf}, {"label_smoothing": 1.0}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: given .* expected"):
        small_learner(**options)


@pytest.mark.parametrize("value", [-1, 0.5, None, True])
def test_impossible_numbers_of_workers_are_refused(value, glyphs_root):
    with pytest.raises(ValueError, match=rf"^num_workers: given {value}, expected an integer ≥ 0$"):
        FewShotData(glyphs_root, num_workers=value)


def test_training_ends_where_its_loss_is_no_number(glyphs_root):
    """Case 31: it trained on NaN to the end, and said nothing."""
    learner, trainer = small_learner(ProtoNet()), quiet_trainer(num_sanity_val_steps=0)
    with torch.no_grad():
        next(learner.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(Diverged, match=r"^loss: given nan at step 0, expected a finite number"):
        trainer.fit(learner, small_data(glyphs_root))
