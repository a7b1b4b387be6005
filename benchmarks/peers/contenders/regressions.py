"""Coordinate descent with working sets or screening: scikit-learn, celer and skglm. None of them has derivatives."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from ..certificate import Answer, relative_gaps
from ..problems import Problem
from .base import Contender, Unsupported

GAP = 1e-8
TOLS = tuple(10.0**-i for i in range(4, 15))


class Regressor(Contender):
    """Lasso or multi-task Lasso, one element of the batch after the other, features in Fortran order.

    The tolerance is the largest power of ten with which all true gaps are ≤ 1e-8; it is found before the clock starts,
    and reported.
    """

    differentiable: ClassVar[bool] = False

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if problem.kind == "svm":
            raise Unsupported("regressions only")
        self.data = [
            (np.asfortranarray(X.double().numpy()), Y[:, 0] if problem.kind == "lasso" else np.asfortranarray(Y))
            for X, Y in zip(problem.X, problem.Y.numpy(), strict=True)
        ]
        for tol in TOLS:
            self.fit = self.make(tol)
            gap = relative_gaps(problem, self.answer(self.forward())).max()
            if gap <= GAP:
                break
        self.remark = f"tol={tol:.0e}"

    @abstractmethod
    def make(self, tol: float) -> Any:
        """A function (X (n, m), y (n) or Y (n, k)) to coefficients (m) or (k, m)."""

    def forward(self) -> list[np.ndarray]:
        """Coefficients, each (m) or (k, m)."""
        return [self.fit(X, Y) for X, Y in self.data]

    def answer(self, found: list[np.ndarray]) -> Answer:
        """See `Contender.answer`."""
        return Answer(coef=np.stack([np.atleast_2d(each).T for each in found]))


class ScikitLearn(Regressor):
    """``Lasso`` and ``MultiTaskLasso`` without intercept, at most 100,000 passes."""

    name = "scikit-learn"
    distribution = "scikit-learn"

    def make(self, tol: float) -> Any:
        """See `Regressor.make`."""
        from sklearn.linear_model import Lasso, MultiTaskLasso

        estimator = {"lasso": Lasso, "group_lasso": MultiTaskLasso}[self.problem.kind]
        model = estimator(alpha=self.problem.l1, tol=tol, fit_intercept=False, max_iter=100_000)
        return lambda X, Y: model.fit(X, Y).coef_


class Celer(Regressor):
    """``celer.Lasso`` without intercept; ``celer.homotopy.mtl_path`` with one l1 for many targets.

    (``celer.MultiTaskLasso`` calls what newer versions of scikit-learn lack; it is that function and little else.)
    """

    name = "celer"
    distribution = "celer"

    def make(self, tol: float) -> Any:
        """See `Regressor.make`."""
        from celer import Lasso
        from celer.homotopy import mtl_path

        if self.problem.kind == "lasso":
            model = Lasso(alpha=self.problem.l1, tol=tol, fit_intercept=False, max_iter=1000)
            return lambda X, Y: model.fit(X, Y).coef_
        return lambda X, Y: mtl_path(X, Y, alphas=np.array([self.problem.l1]), tol=tol, max_iter=1000)[1][:, :, 0]


class Skglm(Regressor):
    """``skglm.Lasso`` and ``skglm.MultiTaskLasso`` without intercept."""

    name = "skglm"
    distribution = "skglm"

    def make(self, tol: float) -> Any:
        """See `Regressor.make`."""
        from skglm import Lasso, MultiTaskLasso

        estimator = {"lasso": Lasso, "group_lasso": MultiTaskLasso}[self.problem.kind]
        model = estimator(alpha=self.problem.l1, tol=tol, fit_intercept=False, max_iter=1000)
        return lambda X, Y: model.fit(X, Y).coef_
