"""Heads: per-episode classifiers on top of an encoder, trained through by their exact derivatives.

Every head scales an episode's features by one number, so that the support features have mean squared norm one (see
`normalise`). Strengths therefore mean the same for every encoder, width and data set, and an encoder cannot escape a
penalty by growing its features. All objectives are a *mean* loss plus penalties; l2 from 0.001 to 0.01 and l1 from
0.0005 to 0.01 are sensible for five shots of features such as Conv4's.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import implicitlayers as il


class HeadOutput(NamedTuple):
    """What a head says about a batch of episodes.

    Attributes:
        logits: (B, q, way), differentiable with respect to the features and the logit scale.
        used: (B, m) bool, the features with a nonzero row of coefficients; all of them for heads without l1, although
            a feature that vanishes on the whole support gets a zero row there too.
        gap: (B,) relative duality gap of each solve, 0 for heads in closed form.
        converged: (B,) bool, false where the solver gave up.
    """

    logits: Tensor
    used: Tensor
    gap: Tensor
    converged: Tensor

    @property
    def features_used(self) -> Tensor:
        """(B,) share of features in use; 1.0 for dense heads."""
        return self.used.float().mean(dim=-1)


class Head(nn.Module, ABC):
    """Classifies queries from a few labelled supports, every episode of a batch on its own.

    Logits are multiplied by a learnable positive scale (as in R2D2 and MetaOptNet), because scores of a few-shot
    classifier are margins, not log-odds. It is stored as its logarithm, which keeps it positive.
    """

    def __init__(self, scale: float):
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale: given {scale}, expected a number > 0")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, way: int) -> HeadOutput:
        """Solve each episode on its support and score its queries.

        Args:
            support: (B, n, m) features.
            support_labels: (B, n) integers in [0, way).
            query: (B, q, m) features.
            way: number of classes of every episode.
        """
        support, query = normalise(support, query)
        targets = one_hot(support_labels, way).to(support.dtype)
        output = self.scores(support, targets, query)
        return output._replace(logits=self.log_scale.exp() * output.logits)

    @abstractmethod
    def scores(self, support: Tensor, targets: Tensor, query: Tensor) -> HeadOutput:
        """Unscaled logits from normalised features; targets are one-hot (B, n, way)."""


class ProtoNet(Head):
    """Nearest class mean: scores are −‖query − prototype‖².

    Source: Snell, Swersky, Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017, equations 1 and 2.
    """

    def __init__(self, scale: float = 10.0):
        super().__init__(scale)

    def scores(self, support: Tensor, targets: Tensor, query: Tensor) -> HeadOutput:
        """See `Head.scores`."""
        prototypes = targets.mT @ support / targets.sum(dim=-2).unsqueeze(-1)
        logits = -(query.unsqueeze(-2) - prototypes.unsqueeze(-3)).square().sum(dim=-1)
        solved_exactly = torch.zeros(len(support), dtype=torch.float64, device=support.device)
        return HeadOutput(logits, _all_features(support), gap=solved_exactly, converged=solved_exactly == 0)


class RidgeHead(Head):
    """Ridge regression on one-hot targets Y: min over W of mean ½‖xW − y‖² + l2/2·‖W‖²; scores are query·W.

    Source: Bertinetto et al., "Meta-learning with differentiable closed-form solvers" (R2D2), ICLR 2019.
    """

    def __init__(self, l2: float = 0.01, scale: float = 5.0):
        super().__init__(scale)
        self.layer = il.Ridge(l2=l2)

    def scores(self, support: Tensor, targets: Tensor, query: Tensor) -> HeadOutput:
        """See `Head.scores`."""
        solution = self.layer.solve(support, targets)
        return HeadOutput(query @ solution.coef, _all_features(support), solution.gap, solution.converged)


class SVMHead(Head):
    """Crammer–Singer SVM, with l1 > 0 the group-Lasso SVM; scores are query·W.

    min over W of the mean of max_c (1[c ≠ y] + z_c − z_y), z = xW, plus l1·Σ_j ‖W_j‖ + l2/2·‖W‖². A row W_j of zeros
    drops feature j for all classes of the episode. ``smoothing`` rounds the hinge off (see `il.MulticlassSVM`).

    Source: Lee et al., "Meta-learning with differentiable convex optimization" (MetaOptNet), CVPR 2019, for l1 = 0;
    Lachapelle et al., "Synergies between disentanglement and sparsity", ICML 2023, for l1 > 0.
    """

    def __init__(self, l2: float = 0.003, l1: float = 0.0, smoothing: float = 0.0, scale: float = 5.0):
        super().__init__(scale)
        self.l1 = l1
        self.layer = il.MulticlassSVM(l2=l2, l1=l1, smoothing=smoothing)

    def scores(self, support: Tensor, targets: Tensor, query: Tensor) -> HeadOutput:
        """See `Head.scores`."""
        solution = self.layer.solve(support, targets)
        used = solution.support if self.l1 > 0 else _all_features(support)
        return HeadOutput(query @ solution.coef, used, solution.gap, solution.converged)


def normalise(support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each episode's features by the root mean squared norm of its support features.

    An episode whose support features all vanish is left as it is.
    """
    mean_square = support.square().sum(dim=-1).mean(dim=-1)[..., None, None]
    rms = torch.where(mean_square > 0, mean_square, 1.0).sqrt()
    return support / rms, query / rms


def _all_features(support: Tensor) -> Tensor:
    return torch.ones_like(support[..., 0, :], dtype=torch.bool)
