"""Multi-task learning of representations: an encoder trained through a regression solved anew for every task."""

import math
from typing import Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

import implicitlayers as il

from .divergence import finite
from .inner import InnerProblem
from .tasks import Tasks

Normalisation = Literal["batch", "layer", "none"]


class MultiTaskOutput(NamedTuple):
    """The ``loss`` of a batch of tasks, and the inner problems' ``solution``."""

    loss: Tensor
    solution: il.Solution


class MultiTaskLearner(L.LightningModule):
    """An encoder f trained so that few of its codes suffice for each task. The bi-level problem over tasks t:

    min over f of mean over t of mean ½‖f(x)Ŵ_t − y‖² + outer_l1·Σ|Ŵ_t| + (outer_l2/2)·‖Ŵ_t‖²
    where Ŵ_t solves the inner problem of task t on the codes f(x) and the targets y.

    The means are over the samples of a task. With an inner Lasso, or an inner `il.SparseRidge`, the codes become the
    latents up to permutation and scale if supports vary enough over tasks; with an inner ridge only up to a linear map.
    Derivatives pass through Ŵ_t, implicitly unless the inner problem is an unrolled one.

    Logs ``loss``, ``codes_used`` (share of codes with a non-zero coefficient, mean over tasks), ``worst_gap`` (largest
    relative duality gap so far in the epoch) and ``flagged`` (number of solves so far that did not converge).

    Args:
        encoder: observations (b, ...) to codes (b, m).
        inner: the inner problem: a regression layer, or another module with ``solve``. Strengths may be absolute or
            `il.Relative`, or a ridge's relative to the codes' variance: `inner.RelativeRidge`.
        normalisation: "batch": codes are centred and scaled to variance 1 over each task's inner samples, without a
            scale or offset to learn; "layer": the same over the codes of each sample; "none".
        split: whether the first half of a task's samples is for the inner problem and the other half for the outer; if
            not, all samples are for both, as in the paper.
        outer_l1: strength of the coefficients' absolute values in the outer problem.
        outer_l2: strength of their squares.
        lr: peak learning rate of AdamW, warmed up over the first tenth of the steps, then annealed by a cosine.
        weight_decay: decoupled weight decay of AdamW.

    Source: Lachapelle et al., "Synergies between disentanglement and sparsity", ICML 2023.
    """

    def __init__(
        self,
        encoder: nn.Module,
        inner: InnerProblem,
        normalisation: Normalisation = "batch",
        split: bool = False,
        outer_l1: float = 0.0,
        outer_l2: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        if normalisation not in ("batch", "layer", "none"):
            raise ValueError(f'normalisation: given {normalisation!r}, expected "batch", "layer" or "none"')
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr: given {lr}, expected a number > 0")
        for name, value in {"outer_l1": outer_l1, "outer_l2": outer_l2, "weight_decay": weight_decay}.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: given {value}, expected a number ≥ 0")
        self.save_hyperparameters(ignore=["encoder", "inner"])
        self.encoder = encoder
        self.inner = inner
        self.normalisation = normalisation
        self.split = split
        self.outer_l1 = outer_l1
        self.outer_l2 = outer_l2
        self.lr = lr
        self.weight_decay = weight_decay

    def forward(self, tasks: Tasks) -> MultiTaskOutput:
        """Encode all samples as one batch, solve each task, and score the solutions.

        Raises:
            ValueError: observations and targets do not pair, or there is a single sample to split.
        """
        n = self._n_inner(tasks)
        observations, Y = tasks
        codes = self.encoder(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])
        X = self._normalised(codes, n)[:, None].expand(*Y.shape[:3], -1)  # every task of a set has the set's codes
        solution = self.inner.solve(X[:, :, :n], Y[:, :, :n])
        outer = slice(n, None) if self.split else slice(None)
        residual = Y[:, :, outer] - X[:, :, outer] @ solution.coef
        W = solution.coef
        loss = residual.square().sum(-1).mean() / 2
        if self.outer_l1 > 0:
            loss = loss + self.outer_l1 * W.abs().sum((-2, -1)).mean()
        if self.outer_l2 > 0:
            loss = loss + self.outer_l2 / 2 * W.square().sum((-2, -1)).mean()
        return MultiTaskOutput(loss, solution)

    def training_step(self, tasks: Tasks, batch_idx: int) -> Tensor:
        """The outer loss of a batch of tasks."""
        loss, solution = self(tasks)
        finite(loss, "loss", self.global_step)
        self.log("loss", loss, prog_bar=True)
        self.log("codes_used", solution.support.float().mean(), prog_bar=True)
        self.log("worst_gap", solution.gap.max().float(), on_step=False, on_epoch=True, reduce_fx="max")
        self.log("flagged", (~solution.converged).sum().float(), on_step=False, on_epoch=True, reduce_fx="sum")
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a linear warm-up and a cosine decay, stepped every batch."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.lr,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.1,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @torch.no_grad()
    def encode(self, observations: Tensor, batch_size: int = 1000) -> Tensor:
        """Codes (n, m) of observations (n, ...); uint8 ones are divided by 255. The encoder runs in evaluation mode.

        Without the batch normalisation: that is a matter of each task, offset and scale of a code mean nothing.
        """
        training = self.training
        self.eval()
        scale = 255 if observations.dtype == torch.uint8 else 1
        parts = (part.to(self.device).float() / scale for part in observations.split(batch_size))
        codes = torch.cat([self.encoder(part) for part in parts])
        self.train(training)
        return codes if self.normalisation == "batch" else self._normalised(codes[None], 0)[0]

    def _n_inner(self, tasks: Tasks) -> int:
        """Number of samples of the inner problem."""
        observations, targets = tasks
        if targets.dim() != 4 or observations.shape[:2] != (targets.shape[0], targets.shape[2]):
            raise ValueError(
                f"tasks: given observations of shape {tuple(observations.shape)} and targets {tuple(targets.shape)},"
                " expected (sets, samples, ...) and (sets, tasks, samples, n_targets)"
            )
        n = targets.shape[2]
        if self.split and n < 2:
            raise ValueError(f"tasks: given {n} sample per task, expected at least 2 to split")
        return n // 2 if self.split else n

    def _normalised(self, codes: Tensor, n_inner: int) -> Tensor:
        """Codes (sets, samples, m), statistics of the first ``n_inner`` samples; constant codes become 0."""
        if self.normalisation == "none":
            return codes
        over = codes[:, :n_inner] if self.normalisation == "batch" else codes
        dim = -2 if self.normalisation == "batch" else -1
        variance, mean = torch.var_mean(over, dim, correction=0, keepdim=True)
        return (codes - mean) / (variance + 1e-5).sqrt()
