"""qpth: a batched interior-point method for dense quadratic programs, as MetaOptNet (Lee et al., 2019) uses it."""

import torch
from torch import Tensor

from ..problems import Problem
from .base import TorchDualContender, Unsupported


class Qpth(TorchDualContender):
    """The SVM's dual without l1 as a quadratic program in n·k variables, in one batch, ``QPFunction(maxIter=15)``.

    min ½ λᵀ(G ⊗ I)λ/(n·l2) + ⟨Y − GY/(n·l2), Λ⟩ with G = XXᵀ, rows that sum to one, Λ ≥ 0. In the dtype of the
    features; the check that Q is positive definite is off.
    """

    name = "qpth"
    distribution = "qpth"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if problem.kind != "svm" or problem.l1 > 0:
            raise Unsupported("quadratic programs only, and with l1 the dual is none of n·k variables")
        from qpth.qp import QPFunction

        self.qp = QPFunction(verbose=-1, maxIter=15, check_Q_spd=False)
        n, k = problem.Y.shape[-2:]
        dtype = problem.X.dtype
        self.lower = -torch.eye(n * k, dtype=dtype), torch.zeros(n * k, dtype=dtype)
        self.sums = torch.eye(n, dtype=dtype).repeat_interleave(k, 1), torch.ones(n, dtype=dtype)

    def dual(self, X: Tensor) -> Tensor:
        """See `TorchDualContender.dual`."""
        Y = self.problem.Y.to(X.dtype)
        b, n, k = Y.shape
        G = X @ X.mT / (n * self.problem.l2)
        Q = torch.einsum("bij,kl->bikjl", G, torch.eye(k, dtype=G.dtype)).reshape(b, n * k, n * k)
        linear = (Y - G @ Y).reshape(b, n * k)
        return self.qp(Q, linear, *self.lower, *self.sums).reshape(b, n, k)
