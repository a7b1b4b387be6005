"""Strengths that suit a problem, and problems that suit strengths."""

import torch
from torch import Tensor

from .example import Example
from .named import Named

SPARSITY = ("l1", "group_l1")


def at_ratio(problem: Named, example: Example, ratio: float) -> Example:
    """Features scaled so that the example's strengths are ``ratio`` times those with solution zero.

    Without a sparsity strength: so that l2 is ``ratio`` times the mean square of a feature. Elements without any
    correlation between features and targets stay as they are.
    """
    if any(_positive(example.strengths.get(name)) for name in SPARSITY):
        factor = problem.scale_to_zero(example) / ratio
        factor = torch.where(factor.isfinite() & (factor > 0), factor, 1.0)
        return example.replace(X=example.X * factor[..., None, None])
    l2 = example.strengths.get("l2")
    if l2 is None or not _positive(l2):
        return example
    square = mean_square(example.X)
    factor = torch.where(square > 0, l2 / (ratio * torch.where(square > 0, square, 1.0)), 1.0).sqrt()
    return example.replace(X=example.X * factor[..., None, None])


def drawn_strengths(problem: Named, example: Example, ratio: float | Tensor, ridge: float, smoothing: float) -> Example:
    """The example with strengths: sparsity at ``ratio`` of what makes the solution zero, l2 at ``ridge`` mean squares.

    A strength that must be positive is.
    """
    square = mean_square(example.X)
    square = torch.where(square > 0, square, 1.0)
    spread = example.Y.square().mean((-2, -1)).sqrt() if not problem.classes else torch.ones_like(square)
    spread = torch.where(spread > 0, spread, 1.0)
    size = spread / square.sqrt()
    needs_ridge = problem.name in ("svm", "binary_svm") or not problem.sparse
    strengths: dict[str, Tensor] = {}
    for name in problem.strengths:
        strengths[name] = {
            "l1": torch.ones_like(square),
            "group_l1": torch.ones_like(square),
            "l2": (max(ridge, 1e-3) if needs_ridge else ridge) * square,
            "delta": 0.7 * spread,
            "lower": -0.3 * size,
            "upper": 0.5 * size,
            "total": size,
            "smoothing": smoothing * torch.ones_like(square),
        }[name]
    drawn = example.with_strengths(**strengths)
    if problem.sparse:
        scale = problem.scale_to_zero(drawn)
        factor = torch.where(scale.isfinite(), ratio / scale.clamp_min(1e-300), ratio * size * square)
        drawn = drawn.with_strengths(
            **{name: strengths[name] * factor for name in SPARSITY if name in problem.strengths}
        )
    return drawn if example.X.dim() > 2 else drawn.with_strengths(**{k: float(v) for k, v in drawn.strengths.items()})


def coefficient_size(example: Example) -> Tensor:
    """The size that coefficients have when they matter, (...): that of the targets over that of the features."""
    Y = example.Y.to(torch.float64) if example.Y.is_floating_point() else torch.ones_like(example.X[..., :1])
    size = mean_square(example.X.to(torch.float64)).sqrt()
    return Y.square().mean((-2, -1)).sqrt().clamp_min(1e-300) / torch.where(size > 0, size, 1.0)


def mean_square(X: Tensor) -> Tensor:
    """Of the features, (...)."""
    return X.square().mean((-2, -1))


def _positive(value: float | Tensor | None) -> bool:
    return value is not None and bool((torch.as_tensor(value) > 0).any())
