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
        """Add episodes: logits (B, q, way), labels (B, q)."""
        self.accuracies.append((logits.argmax(dim=-1) == labels).float().mean(dim=-1))

    def compute(self) -> Estimate:
        """The estimate over all episodes so far."""
        accuracies = dim_zero_cat(self.accuracies)
        n_episodes = len(accuracies)
        sd = accuracies.std() if n_episodes > 1 else torch.tensor(torch.inf)
        return Estimate(accuracies.mean(), 1.96 * sd / n_episodes**0.5)
