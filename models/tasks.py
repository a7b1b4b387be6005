"""Regression tasks on shared latents: which latents a task needs, with which weights, and its samples.

A task is y = Σ_j w_j z_j + noise. What lets sparsity find the latents is that supports differ: for every latent, the
tasks that use it must have no other latent in common (Lachapelle et al., 2023, assumption on the supports).
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .datasets.correlated import Pool


class Tasks(NamedTuple):
    """A batch of tasks on sets of samples: ``observations`` (sets, samples, ...) and ``targets``

    (sets, tasks, samples, n_targets), those of each task on each set.
    """

    observations: Tensor
    targets: Tensor


class TaskDistribution(ABC):
    """Draws the weights of tasks; a subclass names the law. Targets of one task share its support."""

    @abstractmethod
    def weights(self, n_tasks: int, n_latents: int, n_targets: int, generator: torch.Generator) -> Tensor:
        """Weights float32 (n_tasks, n_latents, n_targets), independent over tasks."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"


class Gaussian(TaskDistribution):
    """All latents, standard normal weights."""

    def weights(self, n_tasks: int, n_latents: int, n_targets: int, generator: torch.Generator) -> Tensor:
        """See `TaskDistribution.weights`."""
        return torch.randn(n_tasks, n_latents, n_targets, generator=generator)


class Laplace(TaskDistribution):
    """All latents, Laplace weights of scale 1: many small, none zero."""

    def weights(self, n_tasks: int, n_latents: int, n_targets: int, generator: torch.Generator) -> Tensor:
        """See `TaskDistribution.weights`."""
        uniform = torch.rand(n_tasks, n_latents, n_targets, generator=generator, dtype=torch.float64) - 0.5
        # |2u| = 1 − e^−|w|; 1 − |2u| is at least 2^−53 from a 53-bit u, so the logarithm is finite.
        return (-uniform.sign() * torch.log1p(-2 * uniform.abs().clamp_max(0.5 - 2.0**-54))).float()


class BinomialGaussian(TaskDistribution):
    """Every latent, or block of latents, is in the support with probability ``p``, drawn for each task; normal weights.

    Empty supports are drawn again, so that no latent or block is more frequent than another.

    Args:
        p: in (0, 1].
        block: number of neighbouring latents that are only ever used together. From 2 on the assumption of the theory
            fails: within a block nothing tells the latents apart.
    """

    def __init__(self, p: float = 0.5, block: int = 1) -> None:
        if not 0 < p <= 1:
            raise ValueError(f"p: given {p}, expected a probability in (0, 1]")
        if block < 1:
            raise ValueError(f"block: given {block}, expected an integer ≥ 1")
        self.p = p
        self.block = block

    def weights(self, n_tasks: int, n_latents: int, n_targets: int, generator: torch.Generator) -> Tensor:
        """See `TaskDistribution.weights`; raises ValueError where the latents are no whole number of blocks."""
        if n_latents % self.block:
            raise ValueError(f"block: given {self.block}, expected a divisor of the number of latents, {n_latents}")
        support = torch.rand(n_tasks, n_latents // self.block, generator=generator) < self.p
        while (empty := ~support.any(-1)).any():
            support[empty] = torch.rand(int(empty.sum()), support.shape[1], generator=generator) < self.p
        support = support.repeat_interleave(self.block, -1)
        return torch.randn(n_tasks, n_latents, n_targets, generator=generator) * support[..., None]


class FixedSize(TaskDistribution):
    """Supports of exactly ``size`` latents, all equally likely; normal weights."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size: given {size}, expected an integer ≥ 1")
        self.size = size

    def weights(self, n_tasks: int, n_latents: int, n_targets: int, generator: torch.Generator) -> Tensor:
        """See `TaskDistribution.weights`; raises ValueError where there are fewer latents than ``size``."""
        if self.size > n_latents:
            raise ValueError(f"size: given {self.size}, expected at most the number of latents, {n_latents}")
        rank = torch.rand(n_tasks, n_latents, generator=generator).argsort(-1).argsort(-1)
        return torch.randn(n_tasks, n_latents, n_targets, generator=generator) * (rank < self.size)[..., None]


class FiniteSet(TaskDistribution):
    """A fixed set of tasks, drawn once from another distribution; then each task is one of them, with replacement.

    Args:
        distribution: to draw the set from.
        n_distinct: size of the set.
        seed: of the set.
    """

    def __init__(self, distribution: TaskDistribution, n_distinct: int, seed: int = 0) -> None:
        if n_distinct < 1:
            raise ValueError(f"n_distinct: given {n_distinct}, expected an integer ≥ 1")
        self.distribution = distribution
        self.n_distinct = n_distinct
        self.seed = seed

    def weights(self, n_tasks: int, n_latents: int, n_targets: int, generator: torch.Generator) -> Tensor:
        """See `TaskDistribution.weights`."""
        own = torch.Generator().manual_seed(self.seed)
        tasks = self.distribution.weights(self.n_distinct, n_latents, n_targets, own)
        return tasks[torch.randint(self.n_distinct, (n_tasks,), generator=generator)]


class TaskStream(Dataset[Tasks]):
    """Training steps, each a batch of new tasks on a pool; step i is a function of (seed, i) alone.

    y = zw + noise, normal, and scaled for each task and target to ‖noise‖ = ``noise``·‖zw‖.

    Args:
        pool: observations and latents; uint8 observations are divided by 255.
        distribution: of the tasks.
        steps: length of the stream.
        tasks: per step.
        samples: per task.
        shared: number of tasks that are about the same samples, a divisor of ``tasks``; 1: each has its own.
        n_targets: per task, on one support.
        noise: ‖noise‖/‖zw‖.
        seed: of everything drawn.
    """

    def __init__(
        self,
        pool: Pool,
        distribution: TaskDistribution,
        *,
        steps: int,
        tasks: int = 8,
        samples: int = 50,
        shared: int = 1,
        n_targets: int = 1,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        counts = {"steps": steps, "tasks": tasks, "samples": samples, "n_targets": n_targets}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}: given {count}, expected an integer ≥ 1")
        if shared < 1 or tasks % shared:
            raise ValueError(f"shared: given {shared}, expected a divisor of the number of tasks, {tasks}")
        if not noise >= 0:
            raise ValueError(f"noise: given {noise}, expected a number ≥ 0")
        self.pool = pool
        self.distribution = distribution
        self.steps = steps
        self.tasks = tasks
        self.samples = samples
        self.shared = shared
        self.n_targets = n_targets
        self.noise = noise
        self.seed = seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Tasks:
        """The tasks of one step."""
        if not 0 <= step < self.steps:  # what ends a loop over a Dataset
            raise IndexError(f"step {step} of {self.steps}")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        sets = self.tasks // self.shared
        rows = torch.randint(len(self.pool.latents), (sets, self.samples), generator=generator)
        latents = self.pool.latents[rows]
        weights = self.distribution.weights(self.tasks, latents.shape[-1], self.n_targets, generator)
        clean = latents[:, None] @ weights.unflatten(0, (sets, self.shared))
        noise = torch.randn(clean.shape, generator=generator)
        ratio = clean.norm(dim=-2, keepdim=True) / noise.norm(dim=-2, keepdim=True)
        observations = self.pool.observations[rows]
        if observations.dtype == torch.uint8:
            observations = observations.float() / 255
        return Tasks(observations, clean + self.noise * ratio * noise)
