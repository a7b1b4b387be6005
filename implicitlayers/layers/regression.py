"""Layers with real targets: the squared loss, and Huber's, with one penalty each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import validation
from ..ambient import entry
from ..constraints import Box, ColumnSimplex
from ..losses import Huber, Loss, Squared
from ..penalties import L1, GroupL2, NoPenalty, Penalty, SparseGroup
from ..problem import Problem
from ..relative import Relative
from ..solution import Solution
from ..solve import solve
from ..validation import POSITIVE, Range
from .base import ArgminLayer, Coefficients, Data, Strength, returned
from .groups import Groups
from .sparse import SparseLayer


class RegressionLayer(ArgminLayer):
    """Targets Y (..., n, k), by default the loss ½‖xᵢW − yᵢ‖²."""

    @entry
    def forward(
        self, X: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None, init: Solution | None = None
    ) -> Coefficients:
        """The coefficients W (..., m, k), with ``fit_intercept`` (W, b); arguments as in `solve`."""
        return returned(self.solve(X, Y, sample_weight=sample_weight, init=init))

    @entry
    def solve(
        self, X: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None, init: Solution | None = None
    ) -> Solution:
        """The coefficients with their certificate; leading dimensions broadcast.

        Args:
            X: (..., n, m), features of any floating dtype; the result has it too.
            Y: (..., n, k), targets.
            sample_weight: (..., n), each ≥ 0, scaled to sum one; 0 means absent, so that problems of different sizes
                share a batch.
            init: a previous solution of a similar problem, to start from.

        Raises:
            ValueError: wrong shapes, dtypes, strengths or weights.
            ConvergenceError: an element has not converged, and the layer has ``on_fail="raise"``.
        """
        return self._solution(X, Y, sample_weight, init=init)

    def _targets(self, X: Tensor, Y: Tensor) -> Tensor:
        return validation.regression_targets(Y, X)

    def _loss(self, data: Data) -> Loss:
        return Squared()


class Ridge(RegressionLayer):
    """Ridge regression: min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + (l2/2)‖W‖².

    l2 = 0 is least squares, and among several minimisers the one of least norm. Solved by one factorisation, m×m or
    n×n, whichever is smaller. scikit-learn's ``Ridge(alpha)`` has alpha = n·l2 (Hoerl and Kennard, 1970).

    Args:
        l2: strength of the ridge.
        options: those of `ArgminLayer`.
    """

    def __init__(self, l2: Strength, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("l2", l2)

    def _penalty(self, data: Data) -> Penalty:
        return NoPenalty()


class ElasticNet(SparseLayer, RegressionLayer):
    """Elastic net: min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + l1·Σ|W_jc| + (l2/2)‖W‖².

    Targets do not share their features: each is a problem of its own. scikit-learn's ``ElasticNet(alpha, l1_ratio)``
    has l1 = alpha·l1_ratio and l2 = alpha·(1 − l1_ratio) (Zou and Hastie, 2005).

    Args:
        l1: strength of the absolute values.
        l2: strength of the ridge.
        options: those of `ArgminLayer`.
    """

    def __init__(self, l1: Strength | Relative, l2: Strength = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("l1", l1)
        self._set_strength("l2", l2)

    def _penalty(self, data: Data) -> Penalty:
        return L1(data.strengths["l1"])

    def _dual_norm(self, V: Tensor, data: Data) -> Tensor:
        return V.abs().amax((-2, -1))


class Lasso(ElasticNet):
    """The Lasso: min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + l1·Σ|W_jc|.

    scikit-learn's ``Lasso(alpha)`` has alpha = l1; LIBLINEAR and the paper's sums have n·l1 (Tibshirani, 1996).

    Args:
        l1: strength of the absolute values.
        options: those of `ArgminLayer`.
    """

    def __init__(self, l1: Strength | Relative, **options: Any) -> None:
        super().__init__(l1, 0.0, **options)


class GroupLayer(SparseLayer, RegressionLayer):
    """With groups of features, and weights of the groups."""

    groups: Groups

    def _check(self) -> None:
        super()._check()
        self.groups.check()

    def _weights(self) -> dict[str, Tensor]:
        return {} if self.groups.weight is None else {"group_weights": self.groups.weight}


class GroupLasso(GroupLayer):
    """Group Lasso: min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + l1·Σ_g w_g‖W_g‖ + (l2/2)‖W‖².

    By default one group per feature, across targets, so that a feature serves all targets or none; with one target that
    is the Lasso. scikit-learn's ``MultiTaskLasso(alpha)`` has alpha = l1 (Yuan and Lin, 2006). A group of weight 0 is
    not penalised: like an intercept it is fitted at any l1, and `l1_max` is where the other groups are zero. It wants
    an l2 > 0: without, no dual point certifies the solution, and `l1_max` has no reliable derivatives.

    Args:
        l1: strength of the groups.
        l2: strength of the ridge.
        groups: disjoint groups of features that cover all, as lists of indices; None: each feature for itself.
        group_weights: w (..., number of groups), each ≥ 0, a tensor over the batch or an ``nn.Parameter``; None: ones.
        options: those of `ArgminLayer`.
    """

    def __init__(
        self,
        l1: Strength | Relative,
        l2: Strength = 0.0,
        groups: Sequence[Sequence[int]] | None = None,
        group_weights: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._set_strength("l1", l1)
        self._set_strength("l2", l2)
        self.groups = Groups(groups, group_weights)

    def _penalty(self, data: Data) -> Penalty:
        l1 = data.strengths["l1"][..., None]
        if self.groups.are_features:
            return GroupL2(l1 * self.groups.weights(data.X))
        number = self.groups.numbers(data.X)
        return SparseGroup(torch.zeros_like(l1[..., 0]), l1 * self.groups.weights(data.X), number)

    def _free_scores(self, data: Data, loss: Loss) -> Tensor:
        """Of groups without penalty, by ridge regression on them, and of the intercept."""
        scores = super()._free_scores(data, loss)
        if self.groups.weight is None:
            return scores
        X, Y = data.X.to(torch.float64), data.Y - scores
        if self.fit_intercept:
            X = X - (data.weight[..., None] * X).sum(-2, keepdim=True)
        X = torch.where((self.groups.weights(data.X) == 0)[..., None, :], X, 0.0)
        problem = Problem(X, Y, data.weight, loss, NoPenalty(), data.strengths["l2"])
        # A factorisation is as good as it gets, whatever the layer's own tolerance.
        fit = solve(problem, None, self.options._replace(tol=None, on_fail="ignore"), torch.float64)
        return scores + X @ fit.coef

    def _dual_norm(self, V: Tensor, data: Data) -> Tensor:
        return self.groups.largest_norm(V, data.X)


class SparseGroupLasso(GroupLayer):
    """Sparse group Lasso: min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + l1·Σ|W_jc| + group_l1·Σ_g w_g‖W_g‖ + (l2/2)‖W‖².

    Groups drop out as a whole, and entries within the groups that stay (Simon et al., 2013).

    Args:
        l1: strength of the absolute values.
        group_l1: strength of the groups.
        l2: strength of the ridge.
        groups: disjoint groups of features that cover all, as lists of indices; None: each feature for itself.
        group_weights: w (..., number of groups), each ≥ 0, a tensor over the batch or an ``nn.Parameter``; None: ones.
        options: those of `ArgminLayer`.
    """

    def __init__(
        self,
        l1: Strength | Relative,
        group_l1: Strength,
        l2: Strength = 0.0,
        groups: Sequence[Sequence[int]] | None = None,
        group_weights: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._set_strength("l1", l1)
        self._set_strength("group_l1", group_l1)
        self._set_strength("l2", l2)
        self.groups = Groups(groups, group_weights)

    def _penalty(self, data: Data) -> Penalty:
        group_l1 = data.strengths["group_l1"][..., None] * self.groups.weights(data.X)
        group_l1 = group_l1.expand(*data.X.shape[:-2], data.X.shape[-1])
        return SparseGroup(data.strengths["l1"], group_l1, self.groups.numbers(data.X))

    def _dual_norm(self, V: Tensor, data: Data) -> Tensor:
        """The l1 at which the last group's soft-thresholded V falls to its strength."""
        penalty = self._penalty(data._replace(strengths=data.strengths | {"l1": torch.zeros_like(V[..., 0, 0])}))
        assert isinstance(penalty, SparseGroup)
        return penalty.l1_max(V)


class NonNegativeRegression(SparseLayer, RegressionLayer):
    """Non-negative least squares: min over W ≥ 0 of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + l1·ΣW_jc + (l2/2)‖W‖².

    At least one of l1 and l2 must be > 0: without either no dual point certifies the solution.

    Args:
        l1: strength of the sum.
        l2: strength of the ridge.
        options: those of `ArgminLayer`.
    """

    def __init__(self, l1: Strength | Relative = 0.0, l2: Strength = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("l1", l1)
        self._set_strength("l2", l2)
        self._check()

    def _check(self) -> None:
        super()._check()
        validation.not_both_zero(l1=self.l1, l2=self.l2)

    def _penalty(self, data: Data) -> Penalty:
        l1 = data.strengths["l1"]
        return Box(torch.zeros_like(l1), torch.full_like(l1, torch.inf), l1)

    def _dual_norm(self, V: Tensor, data: Data) -> Tensor:
        return V.amax((-2, -1)).clamp_min(0)


class BoxRegression(RegressionLayer):
    """Least squares in a box: min over lower ≤ W ≤ upper of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + (l2/2)‖W‖².

    Args:
        lower: ≤ 0, −∞ for no bound; a missing bound wants an l2 > 0, or no dual point certifies the solution.
        upper: ≥ 0, ∞ for no bound.
        l2: strength of the ridge.
        options: those of `ArgminLayer`.
    """

    def __init__(self, lower: Strength, upper: Strength, l2: Strength = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("lower", lower, Range("≤ 0", finite=False))
        self._set_strength("upper", upper, Range("≥ 0", finite=False))
        self._set_strength("l2", l2)

    def _penalty(self, data: Data) -> Penalty:
        upper = data.strengths["upper"]
        return Box(data.strengths["lower"], upper, torch.zeros_like(upper))


class SimplexRegression(RegressionLayer):
    """Least squares on a simplex: min of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + (l2/2)‖W‖² over W ≥ 0 with Σ_j W_jc = total for all c.

    Args:
        total: > 0.
        l2: strength of the ridge.
        options: those of `ArgminLayer`.
    """

    def __init__(self, total: Strength = 1.0, l2: Strength = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("total", total, POSITIVE)
        self._set_strength("l2", l2)

    def _penalty(self, data: Data) -> Penalty:
        allowed = torch.ones_like(data.X[..., 0, :], dtype=torch.bool)
        return ColumnSimplex(data.strengths["total"], allowed)


class HuberRegression(ElasticNet):
    """Huber regression: min over W of Σᵢ s̄ᵢ Σ_c h(x_iW_c − y_ic) + l1·Σ|W_jc| + (l2/2)‖W‖².

    h(r) = ½r² for |r| ≤ delta, else delta·|r| − ½delta²: large residuals count by their size, not its square (Huber,
    1964). One of l1 and l2 must be > 0. scikit-learn's ``HuberRegressor`` also fits a scale, which this does not.

    Args:
        l1: strength of the absolute values.
        l2: strength of the ridge.
        delta: > 0, where the loss becomes linear.
        options: those of `ArgminLayer`.
    """

    def __init__(
        self, l1: Strength | Relative = 0.0, l2: Strength = 0.0, delta: Strength = 1.0, **options: Any
    ) -> None:
        super().__init__(l1, l2, **options)
        self._set_strength("delta", delta, POSITIVE)
        self._check()

    def _check(self) -> None:
        super()._check()
        validation.not_both_zero(l1=self.l1, l2=self.l2)

    def _loss(self, data: Data) -> Loss:
        return Huber(data.strengths["delta"])
