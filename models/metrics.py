"""Metrics of few-shot learning."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Estimate(NamedTuple):
    """A mean over episodes and the half-width of its 95 % confidence interval."""

    mean: Tensor
    ci95: Tensor


class EpisodeAccuracy(Metric):
    """Mean accuracy over episodes, with the 95 % confidence interval 1.96·sd/√episodes (sd with n − 1).

    The episode, not the query, is the unit: queries of one episode share its classifier, so their errors are
    correlated and an interval over queries would be too narrow. One episode alone has an infinite interval.
    """

    full_state_update = False
    higher_is_better = True
    accuracies: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("accuracies", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add episodes: logits (B, q, way), labels (B, q).

        Raises:
            ValueError: shapes that do not fit, or logits with NaN, which have no largest.
        """
        if logits.dim() != 3 or labels.shape != logits.shape[:-1] or 0 in logits.shape[1:]:
            raise ValueError(
                f"labels: given shape {tuple(labels.shape)} for logits {tuple(logits.shape)}, expected (B, q) for"
                " (B, q, way), q and way ≥ 1"
            )
        broken = logits.isnan().flatten(1).any(1)
        if broken.any():
            raise ValueError(
                f"logits: given NaN in {int(broken.sum())} of {len(broken)} episodes, the first"
                f" {int(broken.nonzero()[0])}, expected numbers; a diverged encoder, or missing values in the images?"
            )
        self.accuracies.append((logits.argmax(dim=-1) == labels).float().mean(dim=-1))

    def compute(self) -> Estimate:
        """The estimate over all episodes so far."""
        accuracies = dim_zero_cat(self.accuracies)
        n_episodes = len(accuracies)
        sd = accuracies.std() if n_episodes > 1 else torch.tensor(torch.inf)
        return Estimate(accuracies.mean(), 1.96 * sd / n_episodes**0.5)
