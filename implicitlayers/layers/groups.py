"""Disjoint groups of features, and their weights."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import validation
from ..ambient import ordinary


class Groups(nn.Module):
    """``groups`` as lists of feature indices, or None for each feature alone; ``group_weights`` (..., G), or None.

    Raises:
        ValueError: the groups overlap or leave a feature out, or the weights are not one per group.
    """

    def __init__(self, groups: Sequence[Sequence[int]] | None, group_weights: Tensor | None) -> None:
        super().__init__()
        self.number: Tensor | None
        self.weight: Tensor | None
        self.are_features = groups is None
        members = None if groups is None else _members(groups)
        self.size = None if members is None else len(members)
        self.register_buffer("number", None if members is None else _numbers(members), persistent=False)
        _check_weights(group_weights, self.size)
        if isinstance(group_weights, nn.Parameter):
            self.weight = group_weights
        else:
            self.register_buffer("weight", group_weights, persistent=False)

    def check(self) -> None:
        """Raise ValueError if the weights were set to what they cannot be."""
        _check_weights(self.weight, self.size)

    def numbers(self, X: Tensor) -> Tensor:
        """The number of each feature's group, (..., m), for features X (..., n, m)."""
        m = X.shape[-1]
        number = torch.arange(m, device=X.device) if self.number is None else self.number.to(X.device)
        if len(number) != m:
            raise ValueError(f"groups: given groups of {len(number)} features, expected {m}, the features of X")
        return number.expand(*X.shape[:-2], m)

    def weights(self, X: Tensor) -> Tensor:
        """The weight of each feature's group, (..., m), or (1) where all are one."""
        if self.weight is None:
            return torch.ones(1, dtype=torch.float64, device=X.device)
        weight = ordinary(self.weight.to(device=X.device, dtype=torch.float64))
        number = self.numbers(X)
        if self.are_features and weight.shape[-1] != X.shape[-1]:
            raise ValueError(
                f"group_weights: given {weight.shape[-1]} weights, expected {X.shape[-1]}, one per feature"
            )
        return weight.expand(*X.shape[:-2], weight.shape[-1]).gather(-1, number)

    def largest_norm(self, V: Tensor, X: Tensor) -> Tensor:
        """max_g ‖V_g‖/w_g for V (..., m, k), over the groups of a weight > 0, (...); 0 where there is none."""
        number = self.numbers(X)
        square = torch.zeros_like(V[..., 0]).scatter_add(-1, number, V.square().sum(-1)).gather(-1, number)
        positive = square > 0
        norm = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
        weight = self.weights(X)
        penalised = weight > 0
        return torch.where(penalised, norm / torch.where(penalised, weight, 1.0), 0.0).amax(-1)


def _check_weights(weights: Tensor | None, size: int | None) -> None:
    """One floating-point weight per group; ``size`` None: groups are the features of an X that is yet to come."""
    if weights is None:
        return
    validation.strength("group_weights", weights)
    if not isinstance(weights, Tensor) or weights.dim() < 1 or (size is not None and weights.shape[-1] != size):
        given = tuple(weights.shape) if isinstance(weights, Tensor) else weights
        raise ValueError(f"group_weights: given {given}, expected a tensor (..., {size or 'm'}), one per group")


def _members(groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """The features of each group; refuses what lists no features."""
    try:
        each = list(groups)
    except TypeError:
        raise ValueError(f"groups: given {groups!r}, expected lists of feature indices, one for each group") from None
    try:
        # `operator.index` takes every kind of integer, and no other number.
        return [[operator.index(j) for j in group] for group in each]
    except TypeError:
        raise ValueError(
            f"groups: given {groups!r}, expected lists of feature indices, one for each group{_regrouped(each)}"
        ) from None


def _regrouped(numbers: list[Any]) -> str:
    """For a flat list of group numbers, one for each feature: the lists that were meant."""
    try:
        number = [operator.index(g) for g in numbers]
    except TypeError:
        return ""
    lists = [[j for j, g in enumerate(number) if g == name] for name in sorted(set(number))]
    return f"; if these are the groups' numbers, one for each feature, groups={lists}"


def _numbers(groups: list[list[int]]) -> Tensor:
    members = [j for group in groups for j in group]
    if sorted(members) != list(range(len(members))):
        raise ValueError(
            f"groups: given {len(groups)} groups of the features {sorted(members)}, expected each feature from 0 to"
            f" m − 1 in exactly one"
        )
    number = torch.empty(len(members), dtype=torch.int64, device="cpu")
    for g, group in enumerate(groups):
        number[torch.tensor(group, dtype=torch.int64, device="cpu")] = g
    return number
