"""Layers with real targets and the squared loss."""

from typing import Any

from torch import Tensor

from .. import validation
from ..losses import Squared
from ..solution import Solution
from .base import ArgminLayer, Strength


class RegressionLayer(ArgminLayer):
    """Targets Y (..., n, k), loss ½‖xᵢW − yᵢ‖²."""

    def forward(
        self, X: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None, init: Solution | None = None
    ) -> Tensor:
        """The coefficients W (..., m, k); arguments as in `solve`."""
        return self.solve(X, Y, sample_weight=sample_weight, init=init).coef

    def solve(
        self, X: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None, init: Solution | None = None
    ) -> Solution:
        """The coefficients with their certificate.

        Parameters
        ----------
        X : (..., n, m), features of any floating dtype; the result has it too.
        Y : (..., n, k), targets.
        sample_weight : (..., n), each ≥ 0, scaled to sum one; 0 means absent, so that problems of different sizes
            share a batch.
        init : a previous solution of a similar problem, to start from.

        Leading dimensions broadcast. Raises ValueError for wrong shapes, dtypes, strengths or weights.
        """
        validation.features(X)
        Y = validation.regression_targets(Y, X)
        return self._solve(X, Y, lambda batch, strengths: Squared(), sample_weight, init, {})


class Ridge(RegressionLayer):
    """Ridge regression: min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + (l2/2)‖W‖².

    l2 = 0 is least squares, and among several minimisers the one of least norm. Solved by one factorisation, m×m or
    n×n, whichever is smaller. scikit-learn's ``Ridge(alpha)`` has alpha = n·l2 (Hoerl and Kennard, 1970).
    """

    def __init__(self, l2: Strength, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("l2", l2)


class GroupLasso(RegressionLayer):
    """Group Lasso: min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + l1·Σ_j ‖W_j‖ + (l2/2)‖W‖².

    One group per feature, across targets, so that a feature serves all targets or none; with one target it is the
    Lasso. scikit-learn's ``MultiTaskLasso(alpha)`` has alpha = l1 (Yuan and Lin, 2006).
    """

    def __init__(self, l1: Strength, l2: Strength = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("l1", l1)
        self._set_strength("l2", l2)
