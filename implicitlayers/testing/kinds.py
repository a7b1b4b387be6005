"""What makes a problem nasty, on purpose: each kind turns an ordinary problem into one that solvers get wrong.

A kind maps (X, Y, weight) of any leading dimensions to the same, changed in a fixed place; ``weight`` (..., n). Ratios
are of the strength at which the solution becomes zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Raw = tuple[Tensor, Tensor, Tensor]


def _last_column(values: Callable[[Tensor], Tensor]) -> Callable[[Raw], Raw]:
    def change(raw: Raw) -> Raw:
        X, Y, weight = raw
        return torch.cat([X[..., :-1], values(X)[..., None]], -1), Y, weight

    return change


def _duplicate_samples(raw: Raw) -> Raw:
    X, Y, weight = raw
    twice = torch.arange(X.shape[-2] + 1).remainder(X.shape[-2])
    return X[..., twice, :], Y[..., twice, :], weight[..., twice]


def _samples(count: Callable[[Tensor], int]) -> Callable[[Raw], Raw]:
    def change(raw: Raw) -> Raw:
        X, Y, weight = raw
        n = max(1, min(count(X), X.shape[-2]))
        return X[..., :n, :], Y[..., :n, :], weight[..., :n]

    return change


def _zero_weights(raw: Raw) -> Raw:
    X, Y, weight = raw
    absent = torch.arange(X.shape[-2]) % 2 == 1
    return X, Y, torch.where(absent, 0.0, weight)


def _scaled(factor: float) -> Callable[[Raw], Raw]:
    return lambda raw: (raw[0] * factor, raw[1], raw[2])


def _ill_conditioned(raw: Raw) -> Raw:
    X, Y, weight = raw
    return X * torch.logspace(0, -4, X.shape[-1], dtype=X.dtype), Y, weight


def _correlated(raw: Raw) -> Raw:
    X, Y, weight = raw
    return 0.01 * X + 0.99 * X.mean(-1, keepdim=True) * X.shape[-1] ** 0.5, Y, weight


def _absent_class(raw: Raw) -> Raw:
    """The first class becomes the last."""
    X, Y, weight = raw
    return X, torch.cat([torch.zeros_like(Y[..., :1]), Y[..., 1:-1], Y[..., -1:] + Y[..., :1]], -1), weight


def _one_per_class(raw: Raw) -> Raw:
    X, Y, weight = raw
    n = min(X.shape[-2], Y.shape[-1])
    labels = torch.eye(Y.shape[-1], dtype=Y.dtype)[:n].expand(*Y.shape[:-2], n, Y.shape[-1])
    return X[..., :n, :], labels, weight[..., :n]


# By what they change: the features, the samples, the classes, the ratio to the strength with solution zero.
DATA: dict[str, Callable[[Raw], Raw]] = {
    "duplicate columns": _last_column(lambda X: X[..., 0]),
    "nearly tied columns": _last_column(lambda X: X[..., 0] * (1 + 1e-9) + 1e-9 * X[..., -1]),
    "constant column": _last_column(lambda X: torch.ones_like(X[..., 0])),
    "zero column": _last_column(lambda X: torch.zeros_like(X[..., 0])),
    "zero features": lambda raw: (torch.zeros_like(raw[0]), raw[1], raw[2]),
    "duplicate samples": _duplicate_samples,
    "fewer samples than features": _samples(lambda X: X.shape[-1] // 2),
    "one sample": _samples(lambda X: 1),
    "zero weights": _zero_weights,
    "tiny scale": _scaled(1e-6),
    "huge scale": _scaled(1e6),
    "ill conditioned": _ill_conditioned,
    "correlated": _correlated,
}
CLASSES: dict[str, Callable[[Raw], Raw]] = {"absent class": _absent_class, "one sample per class": _one_per_class}
RATIOS: dict[str, tuple[float, ...]] = {
    "at l1_max": (1.0,),
    "around l1_max": (1 - 1e-3, 1 + 1e-3, 1 - 1e-6, 1 + 1e-6, 1 - 1e-9, 1 + 1e-9),
}
KINDS = ("generic", *DATA, *CLASSES, *RATIOS)


def applicable(classes: bool, sparse: bool, weights: bool) -> tuple[str, ...]:
    """The kinds that make sense for a problem with ``classes``, with a sparsity strength, with sample weights."""
    data = tuple(kind for kind in DATA if weights or kind != "zero weights")
    return ("generic", *data, *(CLASSES if classes else ()), *(RATIOS if sparse else ()))


def apply(kind: str, raw: Raw) -> Raw:
    """The problem of that kind."""
    change = DATA.get(kind) or CLASSES.get(kind)
    return raw if change is None else change(raw)
