"""One run of the disentanglement experiments: data, training, scores."""

import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch.utils.data import DataLoader

import implicitlayers as il
from implicitlayers.models import disentanglement
from implicitlayers.models.cli import quiet_lightning
from implicitlayers.models.code_encoders import MLP, ConvEncoder
from implicitlayers.models.datasets.correlated import Pool, PoolSource
from implicitlayers.models.datasets.dsprites import DSprites
from implicitlayers.models.datasets.latents import Latents
from implicitlayers.models.datasets.rendered_shapes import RenderedShapes
from implicitlayers.models.datasets.shapes3d import Shapes3D
from implicitlayers.models.inner import InnerProblem, RelativeRidge, StartedLasso, UnrolledLasso
from implicitlayers.models.multi_task import MultiTaskLearner
from implicitlayers.models.tasks import BinomialGaussian, TaskStream

from .settings import Setting

N_NONZERO = 3  # of the sparse ridge: the mean size of a support of six latents with probability ½
UNROLLED_STEPS = 50
ICA_SAMPLES, ICA_ITERATIONS = 10_000, 500
HELD_OUT = 1_000  # added to a seed, for tasks that training has not seen

SourceOptions = tuple[str, int, float | None, str | None, int]


class Advance(L.Callback):
    """Calls a function after every training step."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self.advance = advance

    def on_train_batch_end(self, *args: Any) -> None:
        """See `Advance`."""
        self.advance()


def learner_of(setting: Setting) -> MultiTaskLearner:
    """An untrained learner."""
    pool, _ = pools(setting)
    return MultiTaskLearner(
        encoder(pool, setting),
        inner_problem(setting.method, setting.strength),
        normalisation=setting.normalisation,
        split=setting.split,
        outer_l1=setting.outer_l1,
        outer_l2=setting.outer_l2,
        lr=setting.lr,
    )


def save(learner: MultiTaskLearner, path: Path) -> None:
    """Keep the encoder's weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(learner.encoder.state_dict(), path)


def load(setting: Setting, path: Path) -> MultiTaskLearner:
    """A learner with weights from a file, in which nothing but tensors is read."""
    learner = learner_of(setting)
    learner.encoder.load_state_dict(torch.load(path, weights_only=True))
    return learner


def train(setting: Setting, advance: Callable[[], None] = lambda: None) -> MultiTaskLearner:
    """A learner trained as ``setting`` says, with its logged ``worst_gap`` and ``flagged`` in ``trainer``."""
    quiet_lightning()
    L.seed_everything(setting.seed, verbose=False)
    pool, _ = pools(setting)
    learner = learner_of(setting)
    trainer = L.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Advance(advance)],
    )
    trainer.fit(learner, DataLoader(stream(pool, setting, setting.steps, setting.seed), batch_size=None))
    return learner


def score(learner: MultiTaskLearner, setting: Setting, started: float) -> list[dict[str, Any]]:
    """Rows of results: that of the learner, and for a ridge a second one with its codes unmixed by FastICA.

    Args:
        learner: as trained.
        setting: what it was trained with.
        started: time at which the run began, of ``time.perf_counter``.
    """
    pool, uniform = pools(setting)
    codes = learner.encode(uniform.observations)
    metrics = {name: value.item() for name, value in learner.trainer.callback_metrics.items()}
    certificate = {"worst_gap": metrics["worst_gap"], "flagged": int(metrics["flagged"])}
    rows = [{"method": setting.method, **scores(uniform.latents, codes), "sparsity": codes_used(learner, setting)}]
    if setting.method == "ridge":
        unmixed = unmix(learner.encode(pool.observations[:ICA_SAMPLES]), codes, setting.seed)
        rows.append({**rows[0], "method": "ridge+ica", **scores(uniform.latents, unmixed)})
    seconds = time.perf_counter() - started
    return [{**vars(setting), **row, **certificate, "seconds": seconds} for row in rows]


def scores(latents: Tensor, codes: Tensor) -> dict[str, float]:
    """MCC, R and DCI of codes."""
    return {
        "mcc": disentanglement.mcc(latents, codes).item(),
        "r": disentanglement.r_score(latents, codes).item(),
        "dci_d": disentanglement.dci_disentanglement(latents, codes).item(),
        "dci_c": disentanglement.dci_completeness(latents, codes).item(),
    }


@torch.no_grad()
def codes_used(learner: MultiTaskLearner, setting: Setting, batches: int = 10) -> float:
    """Share of codes that a task of the training distribution uses, mean over new tasks."""
    pool, _ = pools(setting)
    tasks = stream(pool, setting, batches, setting.seed + HELD_OUT)
    coef = torch.cat([learner(batch).solution.coef.flatten(0, 1) for batch in tasks])
    return disentanglement.sparsity(coef).mean().item()


def unmix(training: Tensor, codes: Tensor, seed: int) -> Tensor:
    """Codes (n, m) as independent components, FastICA fitted on codes of the training distribution."""
    ica = FastICA(whiten="unit-variance", max_iter=ICA_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # Correlated latents are no independent components: the search often wanders to its limit, and that is that.
        warnings.simplefilter("ignore", ConvergenceWarning)
        ica.fit(training.double().numpy())
    return torch.from_numpy(ica.transform(codes.double().numpy()))


def inner_problem(method: str, strength: float) -> InnerProblem:
    """The layer that each task solves; what it fails to solve is counted, not reported."""
    options: dict[str, Any] = {"derivative_order": 1, "on_fail": "ignore"}
    if strength == 0 or method == "ridge":
        return RelativeRidge(strength, **options)
    if method == "lasso":
        return StartedLasso(il.Relative(strength), **options)
    if method == "sparse-ridge":
        return il.SparseRidge(strength, N_NONZERO, tol=torch.inf, **options)
    return UnrolledLasso(il.Relative(strength), UNROLLED_STEPS)


def encoder(pool: Pool, setting: Setting) -> nn.Module:
    """One code for each latent: a dense network for vectors, the paper's convolutions for images."""
    n_codes = pool.latents.shape[-1]
    if pool.observations.dim() == 2:
        return MLP(pool.observations.shape[-1], n_codes)
    _, channels, size, _ = pool.observations.shape
    return ConvEncoder(size, n_codes, channels)


def stream(pool: Pool, setting: Setting, steps: int, seed: int) -> TaskStream:
    """Tasks of ``setting``."""
    distribution = BinomialGaussian(block=setting.blocks)
    shape = {"tasks": setting.tasks, "samples": setting.samples, "shared": setting.shared}
    return TaskStream(pool, distribution, steps=steps, seed=seed, **shape)


def pools(setting: Setting) -> tuple[Pool, Pool]:
    """Observations to train on, from the correlated law, and to evaluate on, from the uniform one."""
    return _pools(_source_options(setting), setting.correlation, setting.pool, setting.evaluation)


def source(setting: Setting) -> PoolSource:
    """The data set of ``setting``; one that comes from a file is always on its grid.

    Raises:
        ValueError: an unknown name, or no path for data that need one.
    """
    return _source(*_source_options(setting))


def _source_options(setting: Setting) -> SourceOptions:
    # Every seed has a random network of its own; images are rendered, or read, once for all seeds.
    seed = setting.seed if setting.data == "latents" else 0
    return (setting.data, setting.size, setting.noise, setting.path, seed)


@lru_cache(maxsize=2)  # a study goes from run to run with the same images
def _pools(options: SourceOptions, correlation: float, n: int, n_evaluation: int) -> tuple[Pool, Pool]:
    data, seed = _source(*options), options[-1]
    return data.pool(n, correlation=correlation, seed=seed), data.uniform_pool(n_evaluation, seed=seed + 1)


def _source(data: str, size: int, noise: float | None, path: str | None, seed: int) -> PoolSource:
    if data == "latents":
        return Latents(noise=noise, seed=seed)
    if data == "shapes":
        return RenderedShapes(size, noise)
    if data not in ("shapes3d", "dsprites"):
        raise ValueError(f"data: given {data!r}, expected latents, shapes, shapes3d or dsprites")
    if path is None:
        raise ValueError(f"path: given none, expected the file of {data}; for example --base.path 3dshapes.h5")
    grid_noise = 1.0 if noise is None else noise
    return Shapes3D(path, grid_noise) if data == "shapes3d" else DSprites(path, grid_noise)
