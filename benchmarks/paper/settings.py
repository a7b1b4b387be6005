"""What a run of the disentanglement experiments depends on, and the studies that vary it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

# What a run is trained with; "ridge" is scored a second time with its codes unmixed by FastICA, as "ridge+ica".
METHODS = ("lasso", "ridge", "sparse-ridge", "lasso, unrolled")


@dataclass(frozen=True)
class Setting:
    """One run: everything that its results depend on.

    Attributes:
        data: latents, shapes (rendered), shapes3d or dsprites.
        method: the inner problem, one of METHODS.
        strength: share of l1_max for the Lasso, of ‖F‖²_F/n for the ridge; l2 of the sparse ridge; 0: least squares.
        correlation: of the latents in training; evaluation is on uniform latents.
        noise: deviation from the grid of 3D Shapes, in half grid steps; None: no grid, and 1 for data from a file.
        blocks: number of latents that tasks use only together.
        outer_l1: strength of Σ|W| in the outer problem.
        outer_l2: strength of ‖W‖²/2 in the outer problem.
        normalisation: of the codes: batch, layer or none.
        split: whether inner and outer problem have samples of their own.
        path: file of shapes3d or dsprites.
        size: of rendered images, in pixels; 0 for other data.
        steps: training steps.
        tasks: per step.
        samples: per task.
        shared: number of tasks about the same samples.
        lr: peak learning rate.
        pool: number of observations to train on.
        evaluation: number of observations to evaluate on.
        seed: of the data, the encoder and the tasks.
    """

    data: str = "latents"
    method: str = "lasso"
    strength: float = 0.2
    correlation: float = 0.9
    noise: float | None = None
    blocks: int = 1
    outer_l1: float = 0.0
    outer_l2: float = 0.0
    normalisation: str = "batch"
    split: bool = False
    path: str | None = None
    size: int = 0
    steps: int = 300
    tasks: int = 64
    samples: int = 50
    shared: int = 1
    lr: float = 0.02
    pool: int = 20_000
    evaluation: int = 5_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no method."""
        if self.method not in METHODS:
            raise ValueError(f"method: given {self.method!r}, expected one of {', '.join(map(repr, METHODS))}")


SETTING = tuple(each.name for each in fields(Setting))
MEASURED = ("mcc", "r", "dci_d", "dci_c", "sparsity", "worst_gap", "flagged", "seconds")


@dataclass(frozen=True)
class Study:
    """Runs whose settings differ in few things.

    Attributes:
        x: the setting on the x-axis of the study's figure; None: a table only.
        vary: values for settings; all combinations are run.
        fix: settings that differ from the experiment's.
        seeds: number of seeds.
    """

    x: str | None = None
    vary: dict[str, list[Any]] = field(default_factory=dict)
    fix: dict[str, Any] = field(default_factory=dict)
    seeds: int = 3


def settings_of(study: Study, base: Setting, strengths: Mapping[str, float]) -> list[Setting]:
    """The runs of a study, seed by seed, so that all curves are there early.

    Args:
        study: what to vary.
        base: the rest.
        strengths: for each method, where the study does not vary them; a method without one has that of ``base``.

    Raises:
        ValueError: the study names a setting that there is not.
    """
    unknown = sorted((set(study.vary) | set(study.fix)) - set(SETTING))
    if unknown:
        raise ValueError(f"studies: given the settings {', '.join(unknown)}, expected some of {', '.join(SETTING)}")
    return list(dict.fromkeys(_expanded(study, base, strengths)))


def _expanded(study: Study, base: Setting, strengths: Mapping[str, float]) -> Iterator[Setting]:
    for seed in range(study.seeds):
        for values in product(*study.vary.values()):
            chosen = {**study.fix, **dict(zip(study.vary, values, strict=True)), "seed": seed}
            method = chosen.get("method", base.method)
            yield replace(base, **{"strength": strengths.get(method, base.strength), **chosen})
