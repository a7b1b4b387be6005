"""Few-shot learning: meta-train an encoder through a head's exact derivatives, on episodes."""

import math
import signal
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

from implicitlayers import arguments

from .datasets.glyphs import Glyphs
from .divergence import finite
from .encoders import Encoder
from .episodes import Episode, EpisodeDataset
from .heads import Head, HeadOutput
from .metrics import EpisodeAccuracy


class FewShotLearner(L.LightningModule):
    """An encoder and a head, trained on the cross-entropy of each episode's queries.

    The head is solved on the support of every episode; the loss on the queries flows back through its solution to
    the encoder (a bi-level problem). Optimiser: AdamW, the learning rate warmed up linearly over the first tenth of
    the steps, then annealed to zero by a cosine.

    Logs ``loss``, ``accuracy``, ``features_used`` (share of features with a nonzero row, mean over episodes),
    ``worst_gap`` (largest relative duality gap) and ``flagged`` (number of solves that did not converge).

    Args:
        encoder: images to features.
        head: the per-episode classifier.
        lr: peak learning rate.
        weight_decay: decoupled weight decay of AdamW.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1).
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        lr: float = 3e-3,
        weight_decay: float = 5e-4,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr: given {lr}, expected a number > 0")
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise ValueError(f"weight_decay: given {weight_decay}, expected a number ≥ 0")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: given {label_smoothing}, expected a number in [0, 1)")
        self.save_hyperparameters(ignore=["encoder", "head"])
        self.encoder = encoder
        self.head = head
        self.lr = lr
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.accuracy = EpisodeAccuracy()

    def forward(self, episode: Episode) -> HeadOutput:
        """Encode a batch of episodes as one batch of images, then solve each episode."""
        n_support = episode.support.shape[1]
        images = torch.cat([episode.support, episode.query], dim=1)
        features = self.encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        support, query = features[:, :n_support], features[:, n_support:]
        return self.head(support, episode.support_labels, query, way=episode.classes.shape[-1])

    def training_step(self, episode: Episode, batch_idx: int) -> Tensor:
        """Mean cross-entropy over the queries of a batch of episodes."""
        output = self(episode)
        loss = self._log(episode, output, prefix="")
        accuracy = (output.logits.argmax(dim=-1) == episode.query_labels).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)
        return loss

    def validation_step(self, episode: Episode, batch_idx: int) -> None:
        """See `on_validation_epoch_end`."""
        self._evaluation_step(episode, prefix="val/")

    def test_step(self, episode: Episode, batch_idx: int) -> None:
        """See `on_test_epoch_end`."""
        self._evaluation_step(episode, prefix="test/")

    def on_validation_epoch_end(self) -> None:
        """Log val/accuracy and val/ci95, the half-width of its 95 % confidence interval over episodes."""
        self._log_accuracy(prefix="val/")

    def on_test_epoch_end(self) -> None:
        """Log test/accuracy and test/ci95, the half-width of its 95 % confidence interval over episodes."""
        self._log_accuracy(prefix="test/")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a linear warm-up and a cosine decay, stepped every batch."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        factor = partial(_warmup_cosine, total=int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _evaluation_step(self, episode: Episode, prefix: str) -> None:
        output = self(episode)
        self._log(episode, output, prefix)
        self.accuracy.update(output.logits, episode.query_labels)

    def _log(self, episode: Episode, output: HeadOutput, prefix: str) -> Tensor:
        """Log everything but the accuracy, return the loss."""
        loss = cross_entropy(
            output.logits.flatten(0, 1), episode.query_labels.flatten(), label_smoothing=self.label_smoothing
        )
        finite(loss, f"{prefix}loss", self.global_step)
        log = partial(self.log, prog_bar=True, batch_size=len(output.logits))
        log(f"{prefix}loss", loss)
        log(f"{prefix}features_used", output.features_used.mean())
        log(f"{prefix}worst_gap", output.gap.max().float(), reduce_fx="max")
        log(f"{prefix}flagged", (~output.converged).sum().float(), reduce_fx="sum", prog_bar=False)
        return loss

    def _log_accuracy(self, prefix: str) -> None:
        accuracy, ci95 = self.accuracy.compute()
        self.accuracy.reset()
        self.log(f"{prefix}accuracy", accuracy, prog_bar=True)
        self.log(f"{prefix}ci95", ci95, prog_bar=True)


class FewShotData(L.LightningDataModule):
    """Episodes of the Glyphs alphabets: training, validation and test classes are disjoint.

    Episode i of each split is a function of (seed, i) alone. Batch t of B episodes has the episodes tB … tB + B − 1 of
    its epoch, also when training resumes in the middle of an epoch, where Lightning would start over with the epoch's
    first episodes. With ``accumulate_grad_batches`` of the trainer a step of the optimiser takes several batches.

    Args:
        root: folder for the cached images; None for the default of `Glyphs`.
        way: classes per episode.
        shot: labelled images per class.
        query: images to classify per class, in training.
        test_query: the same, in validation and test.
        batch_size: episodes per batch.
        steps: training batches per epoch; every epoch has the same episodes, so rather raise this than the epochs.
        val_episodes: episodes of a validation.
        test_episodes: episodes of a test.
        seed: of all episodes.
        num_workers: processes that prepare episodes; 0 prepares them in the main process.
    """

    def __init__(
        self,
        root: Path | None = None,
        way: int = 5,
        shot: int = 5,
        query: int = 6,
        test_query: int = 8,
        batch_size: int = 8,
        steps: int = 200,
        val_episodes: int = 200,
        test_episodes: int = 1000,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__()
        counts = {
            "batch_size": batch_size,
            "steps": steps,
            "val_episodes": val_episodes,
            "test_episodes": test_episodes,
        }
        for name, value in counts.items():
            arguments.integer(name, value, least=1)
        arguments.integer("num_workers", num_workers, least=0)
        self.root = root
        self.batch_size = batch_size
        self.num_workers = num_workers
        episodes = partial(EpisodeDataset, way=way, shot=shot, seed=seed)
        self._make = {
            "train": partial(episodes, query=query, n_episodes=steps * batch_size, augment=True),
            "val": partial(episodes, query=test_query, n_episodes=val_episodes),
            "test": partial(episodes, query=test_query, n_episodes=test_episodes),
        }
        self.episodes: dict[str, EpisodeDataset] = {}
        self._restored_batches = 0

    def setup(self, stage: str) -> None:
        """Draw up the episodes that ``stage`` (fit, validate or test) needs.

        Raises:
            ValueError: where a split has too few classes or images for the episodes.
        """
        self._restored_batches = 0
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]
        for split in splits:
            if split not in self.episodes:
                self.episodes[split] = self._make[split](Glyphs(split, self.root))

    def train_dataloader(self) -> DataLoader:
        """Training episodes, from where training stands."""
        assert self.trainer is not None, "train_dataloader() is called by a Trainer"
        sampler = EpisodeSampler(self.episodes["train"], self.trainer, self.batch_size, self._batches_taken)
        return self._loader("train", sampler)

    def val_dataloader(self) -> DataLoader:
        """Validation episodes."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Test episodes."""
        return self._loader("test")

    def state_dict(self) -> dict[str, int]:
        """Part of a checkpoint: the number of training batches taken."""
        return {"batches_taken": self._batches_taken()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches of a checkpoint."""
        self._restored_batches = state_dict["batches_taken"]

    def _batches_taken(self) -> int:
        # Lightning may ask for the loader before it restores the trainer's own count, and so may its workers. Batches
        # are counted, not steps of the optimiser, which may take several of them.
        if self.trainer is None:
            return self._restored_batches
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()
        return max(self._restored_batches, int(progress["total"]["processed"]))

    def _loader(self, split: str, sampler: "EpisodeSampler | None" = None) -> DataLoader:
        return DataLoader(
            self.episodes[split],
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=Episode.collate,
            num_workers=self.num_workers,
            worker_init_fn=_ignore_interrupt,
        )


class EpisodeSampler(DistributedSampler):
    """Episode indices in order, shared out among the trainer's processes, without the steps already taken.

    Args:
        episodes: of one epoch.
        trainer: whose processes share them.
        batch_size: episodes per batch and process.
        batches_taken: says how many batches were taken, over all epochs, when an epoch starts.
    """

    def __init__(self, episodes: EpisodeDataset, trainer: L.Trainer, batch_size: int, batches_taken: Callable[[], int]):
        super().__init__(episodes, trainer.world_size, trainer.global_rank, shuffle=False)
        self.batch_size = batch_size
        self.batches_taken = batches_taken
        self._limit = trainer.limit_train_batches

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.batches_taken() % self._batches_per_epoch() * self.batch_size, None)

    def _batches_per_epoch(self) -> int:
        """All of them, or as many, or the share, that the trainer is limited to."""
        batches = math.ceil(self.num_samples / self.batch_size)
        return min(batches, self._limit) if isinstance(self._limit, int) else int(batches * self._limit)


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main process alone decides what to do about it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _warmup_cosine(step: int, total: int) -> float:
    """Factor of the peak learning rate: linear over the first tenth of the steps, then half a cosine down to 0."""
    warmup = max(1, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
