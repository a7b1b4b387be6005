"""Which columns of X take part: all of them, or a support whose size may differ from element to element."""

from typing import NamedTuple

import torch
from torch import Tensor

from .implicit import is_transformed


class AllFeatures(NamedTuple):
    """Every column, in order."""

    def take(self, X: Tensor) -> Tensor:
        """X itself."""
        return X

    def put(self, W: Tensor, n_features: int) -> Tensor:
        """W itself."""
        return W


class Support(NamedTuple):
    """The ``columns`` (..., S); elements with a smaller support are padded with columns that are not ``real``."""

    columns: Tensor
    real: Tensor

    @classmethod
    def of(cls, chosen: Tensor) -> "Support":
        """The support of a boolean (b, m), S the size of the largest in the batch; looks at the data.

        Columns are in order, in which memory is read several times faster.
        """
        size = int(chosen.sum(-1).amax()) if chosen.numel() else 0
        real, columns = chosen.sort(dim=-1, descending=True, stable=True)
        return cls(columns[..., :size], real[..., :size])

    def take(self, X: Tensor) -> Tensor:
        """Gather the columns of X (..., n, m) to (..., n, S), zero (or false) in the padding."""
        index = self.columns[..., None, :].expand(*X.shape[:-1], self.columns.shape[-1])
        # What is taken lies in memory as X does, and so does its gradient.
        by_columns = X.stride(-2) < X.stride(-1)
        taken = X.mT.gather(-2, index.mT).mT if by_columns else X.gather(-1, index)
        # In place, and where there is padding: a second matrix of this size would cost more than the first.
        padded = self._padded()
        taken[..., padded].masked_fill_(~self.real[..., None, padded], 0)
        return taken

    def _padded(self) -> slice:
        """The columns, the last ones, that are padding in some element; all, where no value may be looked at."""
        if is_transformed(self.real):
            return slice(None)
        return slice(int(self.real[None].flatten(0, -2).all(0).sum()), None)

    def put(self, W: Tensor, n_features: int) -> Tensor:
        """Scatter rows W (..., S, k) to (..., m, k), zero elsewhere."""
        rows = torch.where(self.real[..., None], W, 0.0)
        index = self.columns[..., None].expand_as(rows)
        return rows.new_zeros(*rows.shape[:-2], n_features, rows.shape[-1]).scatter_add(-2, index, rows)


Features = AllFeatures | Support


def gathered(chosen: Tensor, below: float) -> Features:
    """The support of a boolean (b, m), or, where it is at least that share of the features, all of them.

    Columns are slow to gather: leaving out a few saves less than their copy costs.
    """
    if not chosen.numel() or int(chosen.sum(-1).amax()) >= below * chosen.shape[-1]:
        return AllFeatures()
    return Support.of(chosen)
