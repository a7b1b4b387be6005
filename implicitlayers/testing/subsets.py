"""Ridge regression on every support of a given size: the truth about `SparseRidge` for a few features; float64."""

import itertools

import torch
from torch import Tensor


def values(X: Tensor, Y: Tensor, weight: Tensor, l2: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The least objective on every support (..., S), and the supports, boolean (S, m)."""
    m = X.shape[-1]
    members = torch.tensor(list(itertools.combinations(range(m), min(size, m))))
    root = weight.sqrt()[..., None]
    A, B = root * X, root * Y
    some = A[..., members].movedim(-2, -3)  # (..., S, n, size)
    U, S, _ = torch.linalg.svd(some, full_matrices=False)
    projected = U.mT @ B[..., None, :, :]
    ridge = l2[..., None, None]
    kept = torch.where(1e-12 * S[..., :1] < S, S.square() / (S.square() + ridge).clamp_min(1e-300), 0.0)
    explained = (kept[..., None] * projected.square()).sum((-2, -1))
    total = B.square().sum((-2, -1))
    supports = torch.zeros(len(members), m, dtype=torch.bool).scatter(1, members, True)
    return (total[..., None] - explained) / 2, supports


def minimum(X: Tensor, Y: Tensor, weight: Tensor, l2: Tensor, size: int) -> Tensor:
    """The least objective of all, (...)."""
    return values(X, Y, weight, l2, size)[0].amin(-1)


def kinks(X: Tensor, Y: Tensor, weight: Tensor, l2: Tensor, size: int, W: Tensor) -> Tensor:
    """How much worse than W every other support is, in shares of P(0), signed by whether a feature is used, (..., m).

    A support ties with that of W where a feature outside can enter, or one inside leave, at no cost.
    """
    value, supports = values(X, Y, weight, l2, size)
    used = (W != 0).any(-1)
    null = ((weight[..., None] * Y.square()).sum((-2, -1)) / 2).clamp_min(1e-300)
    # The best support that treats feature j otherwise than W does.
    other = supports != used[..., None, :]
    best_other = torch.where(other, value[..., None], torch.inf).amin(-2)
    margin = ((best_other - value.amin(-1, keepdim=True)) / null[..., None]).clamp(0, 1)
    return torch.where(used, margin, -margin)
