"""Other ways to the same solution: unrolled differentiation, cvxpy, scikit-learn and skglm.

Each of the libraries is optional; an oracle whose library is missing raises ImportError.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .example import Example
from .named import Named
from .terms import slope


def unrolled(problem: Named, example: Example, steps: int = 3000, tol: float = 1e-10) -> Tensor | None:
    """The argmin (..., m, k) by proximal gradient steps in float64 that autograd follows; smooth losses, no intercept.

    Returns:
        The coefficients, differentiable to any order in reverse mode, or None where the steps did not suffice for
        the derivative too: coefficients still move by more than ``tol`` of their size over the last tenth.
    """
    if not problem.smooth or problem.fit_intercept or problem.n_nonzero is not None:
        raise ValueError(f"problem: given {problem.name!r}, expected one with a smooth loss, convex, without intercept")
    with torch.no_grad():
        W, count = _converged(problem, example, steps, tol)
    if count is None:
        return None
    # Derivatives of the steps from the solution converge like the steps themselves.
    step = _step(problem, example)
    for _ in range(count):
        W = step(W)
    return W


def _converged(problem: Named, example: Example, steps: int, tol: float) -> tuple[Tensor, int | None]:
    step = _step(problem, example)
    W = problem.zeros(example)
    for count in range(1, steps + 1):
        before, W = W, step(W)
        if float((W - before).abs().max()) <= 1e-3 * tol * float(W.abs().max()):
            return W, count
    return W, None


def _step(problem: Named, example: Example) -> Callable[[Tensor], Tensor]:
    """One proximal gradient step W ↦ W⁺ for a smooth loss without intercept, differentiable in everything."""

    def step(W: Tensor) -> Tensor:
        data, point = problem.spelt_out(example, W)
        return data.penalty.prox(W - length[..., None, None] * slope(data, point)[0], length)

    with torch.no_grad():
        length = problem.spelt_out(example, problem.zeros(example))[0].step
    return step


def as_numpy(value: Any) -> np.ndarray:
    """Float64 numpy, from tensors of any floating dtype."""
    return (
        value.detach().to(torch.float64).numpy() if isinstance(value, Tensor) else np.asarray(value, dtype=np.float64)
    )


def weights_of(X: Any, sample_weight: Any) -> np.ndarray:
    """s/Σs as numpy (n,)."""
    s = np.ones(X.shape[-2]) if sample_weight is None else as_numpy(sample_weight)
    return s / s.sum()
