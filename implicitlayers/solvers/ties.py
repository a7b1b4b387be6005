"""Kinks: where derivatives are one-sided."""

import torch
from torch import Tensor

from ..penalties import GroupL2, Penalty

# A margin or a group this close to its threshold, relatively, is a tie.
TIE = 1e-7


def groups_tied(penalty: Penalty, V: Tensor) -> Tensor:
    """Elements with a group whose norm is l1, (b,), at V (b, m, k); no ties without a penalty or with l1 = 0."""
    if not isinstance(penalty, GroupL2):
        return torch.zeros_like(V[:, 0, 0], dtype=torch.bool)
    l1 = penalty.l1[:, None]
    return (((V.norm(dim=-1) - l1).abs() <= TIE * l1) & (l1 > 0)).any(-1)
