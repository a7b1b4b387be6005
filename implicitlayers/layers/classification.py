"""Layers with classes for targets."""

from typing import Any

import torch
from torch import Tensor

from .. import validation
from ..losses import MulticlassHinge
from ..solution import Solution
from .base import ArgminLayer, Strength


class MulticlassSVM(ArgminLayer):
    """Multiclass support vector machine, with group Lasso across classes:

    min over W of Σᵢ s̄ᵢ [max_l (1 − y_il + z_il) − z_i,yᵢ] + l1·Σ_j ‖W_j‖ + (l2/2)‖W‖²,    zᵢ = xᵢW.

    The hinge is that of Crammer and Singer (2001). With l1 > 0 each problem uses a share of the features (Lachapelle
    et al., 2023); their sums instead of means make their λ₁ = n·l1, λ₂ = n·l2. ``smoothing`` γ subtracts
    (γ/2)·‖λᵢ − yᵢ‖² in the maximum over λᵢ in the simplex that the hinge is; the paper's ``dual_reg`` is n·l2·γ, and
    MetaOptNet (Lee et al., 2019) has C = 1/(n·l2) and a dual_reg of 1.

    There is no intercept: append a constant column to X, whose coefficient is then penalised like the others.

    Parameters
    ----------
    l2 : > 0. Without it the dual does not determine W.
    l1, smoothing : ≥ 0.
    n_classes : number of classes k of integer labels; None: one more than the largest label (not under `vmap`).
    """

    def __init__(
        self,
        l2: Strength,
        l1: Strength = 0.0,
        smoothing: Strength = 0.0,
        *,
        n_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._set_strength("l2", l2, positive=True)
        self._set_strength("l1", l1)
        self._set_strength("smoothing", smoothing)
        if n_classes is not None and (isinstance(n_classes, bool) or not isinstance(n_classes, int) or n_classes < 2):
            raise ValueError(f"n_classes: given {n_classes!r}, expected an integer ≥ 2, or None")
        self.n_classes = n_classes

    def forward(
        self,
        X: Tensor,
        Y: Tensor,
        *,
        sample_weight: Tensor | None = None,
        class_mask: Tensor | None = None,
        init: Solution | None = None,
    ) -> Tensor:
        """The coefficients W (..., m, k); arguments as in `solve`."""
        return self.solve(X, Y, sample_weight=sample_weight, class_mask=class_mask, init=init).coef

    def solve(
        self,
        X: Tensor,
        Y: Tensor,
        *,
        sample_weight: Tensor | None = None,
        class_mask: Tensor | None = None,
        init: Solution | None = None,
    ) -> Solution:
        """The coefficients with their certificate.

        Parameters
        ----------
        X : (..., n, m), features of any floating dtype; the result has it too.
        Y : integer labels (..., n), or one-hot targets (..., n, k).
        sample_weight : (..., n), each ≥ 0, scaled to sum one; 0 means absent, so that problems of different sizes
            share a batch. An absent sample's label is not looked at.
        class_mask : boolean (..., k), the classes each problem has; the others are outside its maximum and get
            coefficients of zero. A class without samples that is not masked is a class all the same.
        init : a previous solution of a similar problem, to start from.

        Leading dimensions broadcast. Raises ValueError for wrong shapes, dtypes, strengths, weights or labels.
        """
        validation.features(X)
        Y = validation.class_targets(Y, X, self.n_classes)
        k = Y.shape[-1]
        if class_mask is None:
            class_mask = torch.ones(k, dtype=torch.bool, device=X.device)
        validation.mask("class_mask", class_mask, k, "class")
        mask = class_mask

        def loss(batch: torch.Size, strengths: dict[str, Tensor]) -> MulticlassHinge:
            return MulticlassHinge(strengths["smoothing"], mask.expand(*batch, k))

        return self._solve(X, Y, loss, sample_weight, init, {"class_mask": mask})
