"""The method of the code released with Lachapelle et al. (2023): a few steps, and torchopt's implicit derivative."""

from typing import ClassVar

import torch
from torch import Tensor

from ..problems import Problem
from .base import TorchDualContender, Unsupported
from .dual import Dual, project_simplex


class Release(TorchDualContender):
    """Projected gradient on the dual, a fixed number of steps of length 1/λ_max from the uniform point.

    Derivatives: ``torchopt.diff.implicit.custom_root`` on the residual of a projected step, solved by
    ``torchopt.linear_solve.solve_normal_cg(maxiter=5, atol=0)`` over the whole batch. Written anew, after the paper.
    """

    distribution = "torchopt"
    steps: ClassVar[int]

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if problem.kind != "svm":
            raise Unsupported("the SVM's dual only")
        import torchopt

        self.start = torch.full_like(problem.Y, 1 / problem.Y.shape[-1], dtype=problem.X.dtype)
        solve = torchopt.linear_solve.solve_normal_cg(maxiter=5, atol=0)
        self.run = torchopt.diff.implicit.custom_root(self._residual, argnums=1, solve=solve)(self._descend)

    def dual(self, X: Tensor) -> Tensor:
        """See `TorchDualContender.dual`."""
        return self.run(self.start, X)

    def _descend(self, start: Tensor, X: Tensor) -> Tensor:
        problem = Dual(self.problem, X.detach())
        L = problem.curvature()
        dual = start
        for _ in range(self.steps):
            dual = project_simplex(dual - problem.gradient(dual) / L)
        return dual

    def _residual(self, dual: Tensor, X: Tensor) -> Tensor:
        problem = Dual(self.problem, X)
        return dual - project_simplex(dual - problem.gradient(dual) / problem.curvature())


class Release5(Release):
    """As released."""

    name = "release, 5 steps"
    steps = 5


class Release100(Release):
    """With twenty times the steps."""

    name = "release, 100 steps"
    steps = 100
