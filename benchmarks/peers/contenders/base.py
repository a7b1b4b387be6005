"""What a contender is: somebody who solves a `Problem`, and perhaps differentiates its solution."""

from abc import ABC, abstractmethod
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..certificate import Answer
from ..problems import Problem, functional


class Unsupported(Exception):
    """The contender does not solve such problems."""


class Contender(ABC):
    """Set up for one problem: whatever need not be done again for new features of the same shape is not timed.

    Compilation, translation to another framework's arrays, and the choice of a tolerance happen in the constructor or
    in the first call, which is not timed either.

    Attributes:
        name: in the results.
        distribution: the package whose version is reported; None: ours.
        differentiable: whether there is a `total`.
        most_repetitions: for those that are so slow that few must do.
        remark: how it was set, where that is not the same for all problems.
    """

    name: ClassVar[str]
    distribution: ClassVar[str | None]
    differentiable: ClassVar[bool] = True
    most_repetitions: ClassVar[int | None] = None
    remark: str = ""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @classmethod
    def version(cls) -> str:
        """Of the package, as installed."""
        return metadata.version(cls.distribution or "implicitlayers")

    @abstractmethod
    def forward(self) -> Any:
        """Solve all problems of the batch; nothing is kept for derivatives."""

    @abstractmethod
    def answer(self, found: Any) -> Answer:
        """What `forward` returned, as arrays; not timed."""

    def total(self) -> Any:
        """Solve, then the gradient of ⟨C, W⟩ with respect to X."""
        raise Unsupported("the contender differentiates nothing")

    def gradient(self, found: Any) -> np.ndarray:
        """What `total` returned, as an array; not timed."""
        return np.asarray(found, dtype=np.float64)


class TorchContender(Contender):
    """A differentiable function of X in torch."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.C = functional(problem).to(problem.X.dtype)

    @abstractmethod
    def solve(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        """W (b, m, k), and Θ (b, n, k) where W alone is no certificate."""

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """W and Θ."""
        with torch.no_grad():
            return self.solve(self.problem.X)

    def total(self) -> Tensor:
        """The gradient of ⟨C, W⟩, by backward."""
        X = self.problem.X.detach().requires_grad_()
        W, _ = self.solve(X)
        return torch.autograd.grad((W * self.C).sum(), X)[0]

    def answer(self, found: tuple[Tensor, Tensor | None]) -> Answer:
        """See `Contender.answer`."""
        W, dual = found
        return Answer(W.double().numpy(), None if dual is None else dual.double().numpy())


class TorchDualContender(TorchContender):
    """A differentiable function from X to the dual point Λ (b, n, k) of the SVM; W follows from it."""

    @abstractmethod
    def dual(self, X: Tensor) -> Tensor:
        """Λ, rows in the simplex."""

    def solve(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """W = BST(Xᵀ(Y − Λ)/n, l1)/l2, and Θ = Y − Λ."""
        Y = self.problem.Y.to(X.dtype)
        theta = Y - self.dual(X)
        return shrink(X.mT @ theta / X.shape[-2], self.problem.l1) / self.problem.l2, theta

    def answer(self, found: tuple[Tensor, Tensor | None]) -> Answer:
        """Θ alone: W is then the float64 one."""
        assert found[1] is not None
        return Answer(dual=found[1].double().numpy())


def shrink(V: Tensor, l1: float) -> Tensor:
    """Block soft-thresholding of the rows, differentiable at zero rows too."""
    if l1 == 0:
        return V
    square = V.square().sum(-1, keepdim=True)
    norm = torch.where(square > 0, square, 1.0).sqrt()
    return V * (1 - l1 / norm).clamp_min(0) * (square > 0)
