"""cvxpylayers: any disciplined convex program, one element of the batch at a time, by diffcp."""

import torch
from torch import Tensor

from ..problems import Problem
from .base import TorchDualContender, Unsupported


class Cvxpylayers(TorchDualContender):
    """``CvxpyLayer`` on the SVM's dual, solved by Clarabel at its default tolerances through diffcp.

    Without l1, ½‖Fᵀ(Y − Λ)‖²/(n·l2) + ⟨Y, Λ⟩, its parameter the Cholesky factor F of XXᵀ (n × n instead of n × m, by
    far the fastest of the formulations). With l1, ½‖Xᵀ(Y − Λ) − U‖²/(n·l2) + ⟨Y, Λ⟩ over Λ and U with rows of norm at
    most n·l1, which is the same as the shrunk norm. diffcp shares the elements
    of a batch out among as many threads as there are cores.
    """

    name = "cvxpylayers"
    distribution = "cvxpylayers"
    most_repetitions = 2

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if problem.kind != "svm":
            raise Unsupported("set up here for the SVM's dual")
        import cvxpy as cp
        from cvxpylayers.torch import CvxpyLayer

        n, k = problem.Y.shape[-2:]
        rows = n if problem.l1 == 0 else problem.X.shape[-1]
        Y = problem.Y[0].numpy()  # classes are the same for all elements
        A, dual = cp.Parameter((rows, n)), cp.Variable((n, k))
        constraints = [dual >= 0, cp.sum(dual, axis=1) == 1]
        score = A @ (Y - dual)
        if problem.l1 > 0:
            inside = cp.Variable((rows, k))
            constraints.append(cp.norm(inside, axis=1) <= n * problem.l1)
            score = score - inside
        objective = cp.sum_squares(score) / (2 * n * problem.l2) + cp.sum(cp.multiply(Y, dual))
        self.layer = CvxpyLayer(
            cp.Problem(cp.Minimize(objective), constraints),
            [A],
            [dual],
            solver_args={"solve_method": "Clarabel"},
        )

    def dual(self, X: Tensor) -> Tensor:
        """See `TorchDualContender.dual`."""
        X = X.double()
        if self.problem.l1 == 0:
            return self.layer(torch.linalg.cholesky(X @ X.mT).mT)[0].to(self.problem.X.dtype)
        return self.layer(X.mT)[0].to(self.problem.X.dtype)
