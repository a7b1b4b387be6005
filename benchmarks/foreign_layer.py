"""The checks of `implicitlayers.testing` on a layer that is not ours: a Lasso by unrolled proximal gradient steps.

    python benchmarks/foreign_layer.py

It is what one finds in papers on unrolling: 100 steps of ISTA that autograd follows.
"""

import torch
from torch import Tensor

from implicitlayers.testing import check_layer


def unrolled_lasso(X: Tensor, Y: Tensor, l1: float = 0.1, steps: int = 100) -> Tensor:
    """Minimise over W ‖XW − Y‖²/(2n) + l1·Σ|W|."""
    n = X.shape[-2]
    step = n / torch.linalg.matrix_norm(X, 2, keepdim=True).square()
    W = torch.zeros(*X.shape[:-2], X.shape[-1], Y.shape[-1], dtype=X.dtype)
    for _ in range(steps):
        V = W - step * (X.mT @ (X @ W - Y)) / n
        W = V.sign() * (V.abs() - step * l1).clamp_min(0)
    return W


if __name__ == "__main__":
    check_layer(unrolled_lasso, problem="lasso", strengths={"l1": 0.1}, max_examples=50)
