"""What layers with an l1 add: the l1 at which nothing is left, l1 relative to it, and the path that leads there."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import ambient
from ..ambient import entry
from ..finite import finite_elements, zeroed
from ..losses import Loss
from ..penalties import NoPenalty
from ..problem import Problem
from ..relative import Relative
from ..solution import Solution, stack
from .base import ArgminLayer, Data


class SparseLayer(ArgminLayer):
    """A layer whose strength ``l1`` makes features drop out."""

    @entry
    def l1_max(self, X: Tensor, Y: Tensor, **arguments: Any) -> Tensor:
        """The smallest l1 at which the solution is zero, (...), differentiable; it depends neither on l1 nor on l2.

        NaN for an element with NaN or infinities in X or Y, without derivatives.

        Of a hinge it depends on the smoothing, and jumps where that becomes zero: smoothed, it has one dual point
        at W = 0 instead of many. Its derivatives without smoothing are those of `solvers.margin.hinge_l1_max`.

        Of a `GroupLasso` with groups of weight 0, the smallest at which the others are zero; that depends on l2.

        Args:
            X: (..., n, m).
            Y: targets as in ``solve``.
            arguments: ``sample_weight`` and ``class_mask`` as in ``solve``.
        """
        data = self._data(X, Y, **arguments, l1=torch.ones((), dtype=torch.float64, device="cpu"))
        finite = finite_elements(data.X, data.Y)
        with ambient.threads(self.options.threads_for(X)):
            return torch.where(finite, self._l1_max(_clean(data, finite)), torch.nan).to(X.dtype)

    @entry
    def path(self, X: Tensor, Y: Tensor, l1s: Tensor, **arguments: Any) -> Solution:
        """Solutions for every l1 of ``l1s``, each begun from the one before; their fields gain a first dimension L.

        Args:
            X: (..., n, m).
            Y: targets as in ``solve``.
            l1s: (L, ...), absolute, in the layer's l1's place; quickest from large to small.
            arguments: ``sample_weight`` and ``class_mask`` as in ``solve``.
        """
        if not isinstance(l1s, Tensor) or l1s.dim() < 1 or not len(l1s):
            given = f"shape {tuple(l1s.shape)}" if isinstance(l1s, Tensor) else type(l1s).__name__
            raise ValueError(f"l1s: given {given}, expected a tensor (L, ...) of L ≥ 1 strengths, each over the batch")
        solutions: list[Solution] = []
        for l1 in l1s:
            before = solutions[-1] if solutions else None
            # A path may well begin where nothing is in use; it is dead only if it ends there.
            last = len(solutions) == len(l1s) - 1
            solutions.append(self._solution(X, Y, init=before, warn_empty=last, **arguments, l1=l1))
        return stack(solutions)

    @abstractmethod
    def _dual_norm(self, V: Tensor, data: Data) -> Tensor:
        """The smallest l1 with solution zero, from V (..., m, k) = Xᵀ diag(s̄) Θ at that solution."""

    def _l1_max(self, data: Data) -> Tensor:
        loss = self._loss(data)
        problem = Problem(data.X.to(torch.float64), data.Y, data.weight, loss, NoPenalty(), data.weight[..., 0])
        Theta = loss.dual_point(self._free_scores(data, loss), data.Y)
        if self.fit_intercept:
            # Its mean is zero, and so is that of its derivative, though a class without samples has no finite score.
            Theta = Theta - (data.weight[..., None] * Theta).sum(-2, keepdim=True)
        return self._dual_norm(problem.correlation(Theta), data)

    def _free_scores(self, data: Data, loss: Loss) -> Tensor:
        """What is fitted where l1 leaves nothing that it penalises, (..., n, k)."""
        scores = torch.zeros_like(data.Y)
        return scores + loss.best_constant(data.Y, data.weight) if self.fit_intercept else scores

    def _resolved(self, data: Data, values: Mapping[str, Any]) -> Data:
        """With a `Relative` l1 multiplied out."""
        share = values["l1"]
        if not isinstance(share, Relative):
            return data
        with ambient.threads(self.options.threads_for(data.X)):
            largest = self._l1_max(_clean(data, finite_elements(data.X, data.Y)))
        largest = largest if share.differentiate else largest.detach()
        return data._replace(strengths=data.strengths | {"l1": data.strengths["l1"] * largest})


def _clean(data: Data, finite: Tensor) -> Data:
    """Without the elements that have NaN or infinities, as in the solve."""
    return data._replace(X=zeroed(data.X, finite), Y=zeroed(data.Y, finite))
