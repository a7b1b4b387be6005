"""Inner problems of multi-task learning that are not layers of the library: anything with ``solve(X, Y)`` will do."""

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import implicitlayers as il
from implicitlayers.losses import Squared
from implicitlayers.penalties import L1
from implicitlayers.problem import Problem
from implicitlayers.prox import soft_threshold


class InnerProblem(Protocol):
    """Regression of Y (..., n, k) on X (..., n, m), with a certificate: any regression layer of the library."""

    def solve(self, X: Tensor, Y: Tensor) -> il.Solution:
        """The minimiser; ``coef`` (..., m, k) carries derivatives."""
        ...


class RelativeRidge(nn.Module):
    """Ridge regression with l2 = ratio·‖X‖²_F/n, held constant: min over W of mean ½‖xW − y‖² + (l2/2)‖W‖².

    ‖X‖²_F/n is the trace of the covariance, m for standardised features. The paper's λ₂ of its inner-Ridge.

    Args:
        ratio: ≥ 0.
        options: those of `il.Ridge`.
    """

    def __init__(self, ratio: float, **options: Any) -> None:
        super().__init__()
        if not ratio >= 0:
            raise ValueError(f"ratio: given {ratio}, expected a number ≥ 0")
        self.ratio = ratio
        self.options = options

    def solve(self, X: Tensor, Y: Tensor) -> il.Solution:
        """Solve for X (..., n, m), Y (..., n, k)."""
        l2 = self.ratio * X.detach().double().square().sum(-1).mean(-1)
        return il.Ridge(l2, **self.options).solve(X, Y)


class StartedLasso(nn.Module):
    """The Lasso of a few features: `il.Lasso`, started where a number of accelerated proximal gradient steps end.

    With a dozen codes these steps cost next to nothing and mostly end on the support, so that the layer has little
    left to do but to certify: a third of the time that it takes from nothing. The solution is the same.

    Args:
        l1: ≥ 0, or `il.Relative`.
        steps: see `UnrolledLasso`.
        options: those of `il.Lasso`.
    """

    def __init__(self, l1: float | il.Relative, steps: int = 100, **options: Any) -> None:
        super().__init__()
        self.start = UnrolledLasso(l1, steps)
        self.lasso = il.Lasso(l1, **options)

    def solve(self, X: Tensor, Y: Tensor) -> il.Solution:
        """Solve for X (..., n, m), Y (..., n, k)."""
        with torch.no_grad():
            start = self.start.solve(X, Y)
        return self.lasso.solve(X, Y, init=start)


class UnrolledLasso(nn.Module):
    """The Lasso by a fixed number of accelerated proximal gradient steps from W = 0, differentiated through them.

    For comparison with implicit derivatives: memory and time grow with ``steps``, the result is not the minimiser, and
    its ``gap`` says by how much. Where the steps converge, so do the derivatives.

    Args:
        l1: ≥ 0, or `il.Relative`.
        steps: of length 1/L each, L the largest eigenvalue of XᵀX/n, held constant (Beck and Teboulle, 2009).
        tol: relative duality gap up to which an element counts as converged.
    """

    def __init__(self, l1: float | il.Relative, steps: int = 100, tol: float = 1e-6) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: given {steps}, expected an integer ≥ 1")
        if not isinstance(l1, il.Relative) and not l1 >= 0:
            raise ValueError(f"l1: given {l1}, expected a number ≥ 0 or il.Relative")
        self.l1 = l1
        self.steps = steps
        self.tol = tol

    def solve(self, X: Tensor, Y: Tensor) -> il.Solution:
        """Iterate for X (..., n, m), Y (..., n, k)."""
        n, l1 = X.shape[-2], self._l1(X.detach(), Y.detach())
        gram, correlation = X.mT @ X / n, X.mT @ Y / n
        largest = torch.linalg.matrix_norm(gram.detach(), 2)
        step = 1 / torch.where(largest > 0, largest, 1.0)
        step, threshold = step[..., None, None], (step * l1)[..., None, None]
        W = ahead = torch.zeros_like(correlation)
        momentum = 1.0
        for _ in range(self.steps):
            before, W = W, soft_threshold(ahead - step * (gram @ ahead - correlation), threshold)
            last, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = W + (last - 1) / momentum * (W - before)
        return self._solution(X.detach().double(), Y.detach().double(), W, l1.double())

    def _l1(self, X: Tensor, Y: Tensor) -> Tensor:
        if isinstance(self.l1, il.Relative):
            return self.l1.r * il.Lasso(self.l1).l1_max(X, Y)
        return torch.full_like(X[..., 0, 0], self.l1)

    def _solution(self, X: Tensor, Y: Tensor, W: Tensor, l1: Tensor) -> il.Solution:
        weight = torch.full_like(X[..., 0], 1 / X.shape[-2])
        problem = Problem(X, Y, weight, Squared(), L1(l1), torch.zeros_like(l1))
        coef = W.detach().double()
        residual = Y - X @ coef
        gap = problem.relative_gap(coef, residual)
        unknown = torch.full_like(gap, torch.inf)
        return il.Solution(
            coef=W,
            intercept=None,
            dual=problem.feasible(residual)[0].to(W.dtype),
            objective=problem.objective(coef),
            gap=gap,
            coef_error=unknown,
            derivative_error=unknown,
            status=int(il.Status.ITERATION_LIMIT) * ~(gap <= self.tol),
            n_iter=torch.full_like(gap, self.steps, dtype=torch.int64),
            solver="unrolled",
        )
