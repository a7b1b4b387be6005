"""Ours: the layers at their defaults."""

from torch import Tensor

import implicitlayers as il

from ..problems import Problem
from .base import TorchContender


class Ours(TorchContender):
    """One call for the whole batch: ``MulticlassSVM``, ``Lasso`` or ``GroupLasso``.

    All options are at their defaults: relative gap 1e-6 for float32 features, 1e-9 for float64, derivatives up to the
    second.
    """

    name = "ours"
    distribution = None

    def __init__(self, problem: Problem, **options: float) -> None:
        super().__init__(problem)
        if problem.kind == "svm":
            k = problem.Y.shape[-1]
            self.layer: il.MulticlassSVM | il.Lasso | il.GroupLasso = il.MulticlassSVM(
                problem.l2, problem.l1, n_classes=k, **options
            )
            self.targets = problem.labels
        else:
            self.layer = {"lasso": il.Lasso, "group_lasso": il.GroupLasso}[problem.kind](problem.l1, **options)
            self.targets = problem.Y

    def solve(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """W and Θ."""
        solution = self.layer.solve(X, self.targets)
        flagged = int((~solution.converged).sum())
        self.remark = f"{flagged} not converged, and flagged" if flagged else ""
        return solution.coef, solution.dual
