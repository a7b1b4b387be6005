"""Layers with classes for targets."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import validation
from ..hinges import Hinge, MulticlassHinge, SmoothedHinge
from ..losses import Loss, Multinomial
from ..penalties import GroupL2, NoPenalty, Penalty
from ..problem import Problem
from ..relative import Relative
from ..solution import Solution
from ..solvers import Start
from ..solvers.margin import hinge_l1_max
from ..validation import POSITIVE
from .base import Coefficients, Data, Strength, returned
from .sparse import SparseLayer


class ClassificationLayer(SparseLayer):
    """Targets are classes; l1 is the strength of the group Lasso, one group per feature, across classes."""

    n_classes: int | None

    def forward(
        self,
        X: Tensor,
        Y: Tensor,
        *,
        sample_weight: Tensor | None = None,
        class_mask: Tensor | None = None,
        init: Solution | None = None,
    ) -> Coefficients:
        """The coefficients W (..., m, k), with ``fit_intercept`` (W, b); arguments as in `solve`."""
        return returned(self.solve(X, Y, sample_weight=sample_weight, class_mask=class_mask, init=init))

    def solve(
        self,
        X: Tensor,
        Y: Tensor,
        *,
        sample_weight: Tensor | None = None,
        class_mask: Tensor | None = None,
        init: Solution | None = None,
    ) -> Solution:
        """The coefficients with their certificate; leading dimensions broadcast.

        Args:
            X: (..., n, m), features of any floating dtype; the result has it too.
            Y: integer labels (..., n), or one-hot targets (..., n, k); rows of non-negative numbers with sum one too.
            sample_weight: (..., n), each ≥ 0, scaled to sum one; 0 means absent, so that problems of different sizes
                share a batch. An absent sample's label is not looked at.
            class_mask: boolean (..., k), the classes each problem has; the others are outside its maximum or softmax
                and get coefficients of zero. A class without samples that is not masked is a class all the same.
            init: a previous solution of a similar problem, to start from.

        Raises:
            ValueError: wrong shapes, dtypes, strengths, weights or labels.
            ConvergenceError: an element has not converged, and the layer has ``on_fail="raise"``.
        """
        return self._solution(X, Y, sample_weight, class_mask, init)

    def _targets(self, X: Tensor, Y: Tensor) -> Tensor:
        return validation.class_targets(Y, X, self.n_classes)

    def _set_classes(self, n_classes: int | None) -> None:
        if n_classes is not None and (isinstance(n_classes, bool) or not isinstance(n_classes, int) or n_classes < 2):
            raise ValueError(f"n_classes: given {n_classes!r}, expected an integer ≥ 2, or None")
        self.n_classes = n_classes

    def _penalty(self, data: Data) -> Penalty:
        return NoPenalty() if "l1" in data.zero else GroupL2(data.strengths["l1"][..., None])

    def _dual_norm(self, V: Tensor, data: Data) -> Tensor:
        square = V.square().sum(-1)
        positive = square > 0
        return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0).amax(-1)


def mask_of(data: Data) -> Tensor:
    """The class mask (..., k), all classes where none was given."""
    return torch.ones_like(data.Y[..., 0, :], dtype=torch.bool) if data.class_mask is None else data.class_mask


def hinge_of(data: Data) -> Hinge:
    """The hinge; smoothed, unless the smoothing is the number 0."""
    mask = mask_of(data)
    return MulticlassHinge(mask) if "smoothing" in data.zero else SmoothedHinge(data.strengths["smoothing"], mask)


class MulticlassSVM(ClassificationLayer):
    """Multiclass support vector machine, with group Lasso across classes.

    min over W of Σᵢ s̄ᵢ [max_l (1 − y_il + z_il) − z_i,yᵢ] + l1·Σ_j ‖W_j‖ + (l2/2)‖W‖²,    zᵢ = xᵢW

    The hinge is that of Crammer and Singer (2001). With l1 > 0 each problem uses a share of the features (Lachapelle et
    al., 2023); their sums instead of means make their λ₁ = n·l1, λ₂ = n·l2. ``smoothing`` γ subtracts (γ/2)·‖λᵢ − yᵢ‖²
    in the maximum over λᵢ in the simplex that the hinge is; the paper's ``dual_reg`` is n·l2·γ, and MetaOptNet (Lee et
    al., 2019) has C = 1/(n·l2) and a dual_reg of 1. LIBLINEAR's Crammer–Singer machine has C = 1/(n·l2).

    There is no intercept: append a constant column to X, whose coefficient is then penalised like the others.

    Args:
        l2: > 0; without it the dual does not determine W.
        l1: strength of the groups.
        smoothing: γ ≥ 0.
        n_classes: number of classes k of integer labels; None: one more than the largest label (not under `vmap`).
        options: those of `ArgminLayer`, but ``fit_intercept``.
    """

    def __init__(
        self,
        l2: Strength,
        l1: Strength | Relative = 0.0,
        smoothing: Strength = 0.0,
        *,
        n_classes: int | None = None,
        **options: Any,
    ) -> None:
        validation.no_intercept(options)
        super().__init__(**options)
        self._set_strength("l2", l2, POSITIVE)
        self._set_strength("l1", l1)
        self._set_strength("smoothing", smoothing)
        self._set_classes(n_classes)

    def _loss(self, data: Data) -> Loss:
        return hinge_of(data)

    def _l1_max(self, data: Data) -> Tensor:
        return hinge_l1_max(data.X, data.Y, data.weight, mask_of(data))


class BinarySVM(ClassificationLayer):
    """Support vector machine for two classes: min over w of Σᵢ s̄ᵢ max(0, 1 − yᵢ xᵢw) + l1·Σ|w_j| + (l2/2)‖w‖².

    It is the multiclass machine with W = (−w/2, w/2), and solved as that: ‖W_j‖ = |w_j|/√2 and ‖W‖² = ‖w‖²/2.
    scikit-learn's ``LinearSVC(loss="hinge", fit_intercept=False)`` has C = 1/(n·l2) (Cortes and Vapnik, 1995).

    Args:
        l2: > 0; without it the dual does not determine w.
        l1: strength of the absolute values.
        smoothing: γ ≥ 0 of the hinge, which is quadratic on an interval of that length.
        options: those of `ArgminLayer`, but ``fit_intercept``.
    """

    def __init__(self, l2: Strength, l1: Strength | Relative = 0.0, smoothing: Strength = 0.0, **options: Any) -> None:
        validation.no_intercept(options)
        super().__init__(**options)
        self._set_strength("l2", l2, POSITIVE)
        self._set_strength("l1", l1)
        self._set_strength("smoothing", smoothing)
        self._set_classes(2)

    def _data(self, *arguments: Any, **keywords: Any) -> Data:
        """With the strengths of the multiclass machine."""
        data = super()._data(*arguments, **keywords)
        factors = {"l2": 2.0, "l1": 2**0.5, "smoothing": 0.5}
        return data._replace(strengths={name: factors[name] * value for name, value in data.strengths.items()})

    def _loss(self, data: Data) -> Loss:
        return hinge_of(data)

    def _l1_max(self, data: Data) -> Tensor:
        return hinge_l1_max(data.X, data.Y, data.weight, mask_of(data)) / 2**0.5

    def _start(self, init: Solution, problem: Problem) -> Start:
        """From w and θ, those of two classes: W = (−w/2, w/2), Θ = (−θ, θ)."""
        if init.coef.shape[-1] == 1 == init.dual.shape[-1]:
            sign = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=init.coef.device)
            init = replace(init, coef=sign / 2 * init.coef, dual=sign * init.dual)
        return super()._start(init, problem)

    def _solution(self, *arguments: Any, **keywords: Any) -> Solution:
        """W (..., m, 1) and Θ (..., n, 1), from those of two classes."""
        two = super()._solution(*arguments, **keywords)
        return replace(
            two, coef=two.coef[..., 1:] - two.coef[..., :1], dual=two.dual[..., 1:], coef_error=two.coef_error * 2**0.5
        )


class LogisticRegression(ClassificationLayer):
    """Multinomial logistic regression, with group Lasso across classes.

    min over W of Σᵢ s̄ᵢ [log Σ_l exp z_il − z_i,yᵢ] + l1·Σ_j ‖W_j‖ + (l2/2)‖W‖²,    zᵢ = xᵢW

    One of l1 and l2 must be > 0, or separable data have no minimiser. scikit-learn's ``LogisticRegression(C)`` has
    C = 1/(n·l2). Of the intercepts b + c·1, which are the same model, the one with sum zero is returned.

    Args:
        l1: strength of the groups.
        l2: strength of the ridge.
        n_classes: number of classes k of integer labels; None: one more than the largest label (not under `vmap`).
        options: those of `ArgminLayer`.
    """

    def __init__(
        self,
        l1: Strength | Relative = 0.0,
        l2: Strength = 0.0,
        *,
        n_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._set_strength("l1", l1)
        self._set_strength("l2", l2)
        self._set_classes(n_classes)
        validation.not_both_zero(l1=l1, l2=l2)

    def _loss(self, data: Data) -> Loss:
        return Multinomial(mask_of(data))
