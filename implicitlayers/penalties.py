"""Penalties and constraints Ω(W) on coefficients W (..., m, k), strengths included.

Strengths and bounds are tensors over the batch (...), those by feature (..., m), or (..., 1) for all. A penalty is a
tuple of them.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .curvature import Curvature, Entrywise, Grouped, Rowwise
from .features import Features
from .prox import block_soft_threshold, soft_threshold


class Penalty(Protocol):
    """What every penalty offers."""

    def value(self, W: Tensor) -> Tensor:
        """Ω(W), (...); 0 for a constraint, which prox keeps."""

    def violation(self, W: Tensor) -> Tensor:
        """How far W lies outside the set that a constraint is, relative to the numbers that bound it, (...).

        0 inside, and where nothing is forbidden. Rounding of a feasible W is of the size of its last digit.
        """

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """argmin_W ½‖W − V‖² + step·Ω(W), ``step`` (...)."""

    def conjugate(self, V: Tensor) -> Tensor:
        """Ω*(V), (...), at a V where it is finite."""

    def feasible_scale(self, V: Tensor) -> Tensor:
        """The largest c ≤ 1 with Ω*(c·V) finite, (...)."""

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """Rows (..., m) of prox at V that are not zero, or move with V."""

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """The derivative of prox at V."""

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """How far each entry or group of V is from where prox bends."""

    def take(self, features: Features) -> "Penalty":
        """The penalty on some of the features."""

    def by_target(self) -> "Penalty | None":
        """The penalty on one target, of which there is one per target, or None where targets share features."""


class Kinks(NamedTuple):
    """The ``distance`` of entries or groups from a kink of prox, infinite where there is none, and the ``scale`` that
    makes it small; both (..., m, k) or (..., m, 1).
    """

    distance: Tensor
    scale: Tensor

    @classmethod
    def at(cls, size: Tensor, threshold: Tensor) -> "Kinks":
        """|size − threshold| against the threshold; a threshold of zero is no kink."""
        size, threshold = torch.broadcast_tensors(size, threshold)
        kinked = threshold > 0
        distance = torch.where(kinked, (size - threshold).abs(), torch.inf)
        return cls(distance, torch.where(kinked, threshold, 1.0))


class NoPenalty(NamedTuple):
    """Ω = 0."""

    def value(self, W: Tensor) -> Tensor:
        """Zero."""
        return W.new_zeros(W.shape[:-2])

    def violation(self, W: Tensor) -> Tensor:
        """None: nothing is forbidden."""
        return W.new_zeros(W.shape[:-2])

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """The identity."""
        return V

    def conjugate(self, V: Tensor) -> Tensor:
        """Zero, at V = 0."""
        return V.new_zeros(V.shape[:-2])

    def feasible_scale(self, V: Tensor) -> Tensor:
        """1 where V = 0, else 0."""
        return (V == 0).flatten(-2).all(-1).to(V.dtype)

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """All rows."""
        return torch.ones_like(V[..., 0], dtype=torch.bool)

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """The identity."""
        return Entrywise(torch.ones_like(V))

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """None."""
        return Kinks(torch.full_like(V, torch.inf), torch.ones_like(V))

    def take(self, features: Features) -> "NoPenalty":
        """Itself."""
        return self

    def by_target(self) -> "NoPenalty":
        """Itself."""
        return self


class L1(NamedTuple):
    """Ω(W) = Σ_jc l1·|W_jc| (Tibshirani, 1996)."""

    l1: Tensor

    def value(self, W: Tensor) -> Tensor:
        """l1·Σ|W|."""
        return self.l1 * W.abs().sum((-2, -1))

    def violation(self, W: Tensor) -> Tensor:
        """None: nothing is forbidden."""
        return W.new_zeros(W.shape[:-2])

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """Soft-thresholding."""
        return soft_threshold(V, (self.l1 * step)[..., None, None])

    def conjugate(self, V: Tensor) -> Tensor:
        """Zero where |V| ≤ l1."""
        return V.new_zeros(V.shape[:-2])

    def feasible_scale(self, V: Tensor) -> Tensor:
        """min(1, l1/max|V|)."""
        return feasible_share(self.l1, V.abs().amax((-2, -1)))

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """Rows with some |V| > l1."""
        return _beyond(V.abs(), (self.l1 * step)[..., None, None]).any(-1)

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """One where |V| > l1, else zero."""
        return Entrywise(_beyond(V.abs(), (self.l1 * step)[..., None, None]).to(V.dtype))

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """||V| − l1| against l1."""
        return Kinks.at(V.abs(), (self.l1 * step)[..., None, None])

    def take(self, features: Features) -> "L1":
        """Itself."""
        return self

    def by_target(self) -> "GroupL2":
        """The entries of one target are groups of one."""
        return GroupL2(self.l1[..., None])


class GroupL2(NamedTuple):
    """Group Lasso by rows, one group per feature across targets: Σ_j l1_j·‖W_j‖ (Yuan and Lin, 2006).

    ``l1`` (..., 1), or (..., m) with a weight per feature.
    """

    l1: Tensor

    def value(self, W: Tensor) -> Tensor:
        """Σ_j l1_j·‖W_j‖."""
        return (self.l1 * row_norm(W)).sum(-1)

    def violation(self, W: Tensor) -> Tensor:
        """None: nothing is forbidden."""
        return W.new_zeros(W.shape[:-2])

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """Block soft-thresholding of the rows."""
        if V.shape[-1] == 1:
            return soft_threshold(V, (self.l1 * step[..., None])[..., None])
        return block_soft_threshold(V, (self.l1 * step[..., None])[..., None])

    def conjugate(self, V: Tensor) -> Tensor:
        """Zero where every ‖V_j‖ ≤ l1_j."""
        return V.new_zeros(V.shape[:-2])

    def feasible_scale(self, V: Tensor) -> Tensor:
        """min(1, min_j l1_j/‖V_j‖)."""
        norm = row_norm(V)
        return feasible_share(self.l1, norm).amin(-1)

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """Rows longer than l1."""
        return _beyond(row_norm(V), self.l1 * step[..., None])

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """On rows longer than l1, 1 − l1/‖v‖ across v and 1 along it; elsewhere zero."""
        norm = row_norm(V)[..., None]
        threshold = (self.l1 * step[..., None])[..., None]
        active = _beyond(norm, threshold)
        if V.shape[-1] == 1:
            return Entrywise(active.to(V.dtype))
        norm = torch.where(norm > 0, norm, 1.0)
        across = torch.where(active, 1 - threshold / norm, 0.0).expand_as(V)
        along = active.to(V.dtype)
        return Rowwise(across, along.expand_as(V), V * (along / norm))

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """|‖V_j‖ − l1_j| against l1_j."""
        return Kinks.at(row_norm(V)[..., None], (self.l1 * step[..., None])[..., None])

    def take(self, features: Features) -> "GroupL2":
        """With the weights of these features."""
        return GroupL2(taken(self.l1, features))

    def by_target(self) -> None:
        """A feature serves all targets or none."""
        return


class SparseGroup(NamedTuple):
    """Σ_jc l1·|W_jc| + Σ_g l1_g·‖W_g‖ over disjoint groups of features (Simon et al., 2013).

    ``l1`` (...); ``group_l1`` (..., m), the strength of each feature's group; ``group`` (..., m), its number, below m.
    """

    l1: Tensor
    group_l1: Tensor
    group: Tensor

    def value(self, W: Tensor) -> Tensor:
        """The two sums."""
        entries = self.l1 * W.abs().sum((-2, -1))
        # Each group's norm is counted once: by its share of the squares, feature by feature.
        square = W.square().sum(-1)
        norm = self._sum(square).clamp_min(0)
        norm = torch.where(norm > 0, norm, 1.0).sqrt()
        return entries + (self.group_l1 * square / norm).sum(-1)

    def violation(self, W: Tensor) -> Tensor:
        """None: nothing is forbidden."""
        return W.new_zeros(W.shape[:-2])

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """Soft-thresholding of the entries, then block soft-thresholding of the groups."""
        V = soft_threshold(V, (self.l1 * step)[..., None, None])
        threshold = self.group_l1 * step[..., None]
        square = self._sum(V.square().sum(-1))
        active = square > threshold.square()
        shrunk = 1 - threshold / torch.where(active, square, 1.0).sqrt()
        return V * torch.where(active, shrunk, (threshold == 0).to(V.dtype))[..., None]

    def conjugate(self, V: Tensor) -> Tensor:
        """Zero where feasible: ‖soft(V_g, l1)‖ ≤ l1_g for every group."""
        return V.new_zeros(V.shape[:-2])

    def feasible_scale(self, V: Tensor) -> Tensor:
        """The largest c with ‖soft(c·V_g, l1)‖ ≤ l1_g for every group, by bisection: the norm grows with c."""
        low, high = torch.zeros_like(self.l1), torch.ones_like(self.l1)
        low = torch.where(self._fits(V, high), high, low)
        for _ in range(60):
            middle = (low + high) / 2
            fits = self._fits(V, middle)
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return low

    def l1_max(self, V: Tensor) -> Tensor:
        """The smallest l1 with ‖soft(V_g, l1)‖ ≤ l1_g for every group, whatever this penalty's own l1, (...).

        The norm falls with l1; the root is found by bisection, and two Newton steps that do not move it carry its
        derivatives.
        """

        def excess(l1: Tensor) -> Tensor:
            square = self._sum(soft_threshold(V, l1[..., None, None]).square().sum(-1))
            positive = square > 0
            norm = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
            return (norm - self.group_l1).amax(-1)

        low, high = torch.zeros_like(self.l1), V.detach().abs().amax((-2, -1))
        for _ in range(60):
            middle = (low + high) / 2
            above = excess(middle).detach() > 0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        root = torch.where(low > 0, high, 0.0)
        width = 1e-6 * root
        slope = (excess(root) - excess(root - width)).detach() / torch.where(width > 0, width, 1.0)
        for _ in range(2):
            r = excess(root)
            root = root - torch.where(slope < 0, (r - r.detach()) / torch.where(slope < 0, slope, 1.0), 0.0)
        return root

    def _fits(self, V: Tensor, scale: Tensor) -> Tensor:
        inside = soft_threshold(scale[..., None, None] * V, self.l1[..., None, None])
        return (self._sum(inside.square().sum(-1)) <= self.group_l1.square()).all(-1)

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """Rows with an entry beyond l1, in groups that are then longer than theirs."""
        return (self.curvature(V, step).across != 0).any(-1)

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """That of the groups, on the entries that are not zero."""
        free = _beyond(V.abs(), (self.l1 * step)[..., None, None]).to(V.dtype)
        V = soft_threshold(V, (self.l1 * step)[..., None, None])
        threshold = self.group_l1 * step[..., None]
        square = self._sum(V.square().sum(-1))
        active = (square > threshold.square()) | (threshold == 0)
        norm = torch.where(square > 0, square, 1.0).sqrt()
        across = torch.where(active, 1 - threshold / norm, 0.0)[..., None] * free
        unit = torch.where(active, 1 / norm, 0.0)[..., None] * V
        return Grouped(across, active[..., None] * free, unit, self.group[..., None].expand_as(V))

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """The nearer of an entry's and its group's."""
        entry = Kinks.at(V.abs(), (self.l1 * step)[..., None, None])
        norm = self._sum(soft_threshold(V, (self.l1 * step)[..., None, None]).square().sum(-1)).sqrt()
        group = Kinks.at(norm[..., None], (self.group_l1 * step[..., None])[..., None])
        nearer = entry.distance / entry.scale < group.distance / group.scale
        return Kinks(*(torch.where(nearer, e, g) for e, g in zip(entry, group, strict=True)))

    def take(self, features: Features) -> "SparseGroup":
        """On these features; a group keeps its number's meaning, not the number, which stays below their count."""
        # Padding, which is filled with zeros, must not fall into the group of that number: its l1 is not the group's.
        group, group_l1 = taken(self.group + 1, features) - 1, taken(self.group_l1, features)
        # Renumber: a group's first feature among those taken gives it its number.
        if group.shape[-1]:
            group = (group[..., :, None] == group[..., None, :]).to(torch.uint8).argmax(-1)
        return SparseGroup(self.l1, group_l1, group)

    def by_target(self) -> None:
        """A group serves all targets or none."""
        return

    def _sum(self, x: Tensor) -> Tensor:
        """Sums over groups, handed to each of their features; x (..., m)."""
        group = self.group.expand_as(x)
        return torch.zeros_like(x).scatter_add(-1, group, x).gather(-1, group)


class Partly(NamedTuple):
    """A penalty on some rows only: ``penalised`` (..., m) is false for an intercept, which is free."""

    penalty: Penalty
    penalised: Tensor

    def _hidden(self, V: Tensor) -> Tensor:
        return torch.where(self.penalised[..., None], V, 0.0)

    def value(self, W: Tensor) -> Tensor:
        """Of the penalised rows."""
        return self.penalty.value(self._hidden(W))

    def violation(self, W: Tensor) -> Tensor:
        """That of the penalised rows."""
        return self.penalty.violation(self._hidden(W))

    def prox(self, V: Tensor, step: Tensor) -> Tensor:
        """The identity on free rows."""
        return torch.where(self.penalised[..., None], self.penalty.prox(self._hidden(V), step), V)

    def conjugate(self, V: Tensor) -> Tensor:
        """Of the penalised rows; free rows of V must be zero."""
        return self.penalty.conjugate(self._hidden(V))

    def feasible_scale(self, V: Tensor) -> Tensor:
        """Of the penalised rows."""
        return self.penalty.feasible_scale(self._hidden(V))

    def support(self, V: Tensor, step: Tensor) -> Tensor:
        """That of the penalised rows, and the free ones."""
        return self.penalty.support(self._hidden(V), step) | ~self.penalised

    def curvature(self, V: Tensor, step: Tensor) -> Curvature:
        """The identity on free rows."""
        return self.penalty.curvature(self._hidden(V), step).free(~self.penalised)

    def kinks(self, V: Tensor, step: Tensor) -> "Kinks":
        """None on free rows."""
        distance, scale = self.penalty.kinks(self._hidden(V), step)
        return Kinks(torch.where(self.penalised[..., None], distance, torch.inf), scale)

    def take(self, features: Features) -> "Partly":
        """On these features."""
        return Partly(self.penalty.take(features), taken(self.penalised, features))

    def by_target(self) -> "Partly | None":
        """With an intercept for each target."""
        penalty = self.penalty.by_target()
        return None if penalty is None else Partly(penalty, self.penalised)


def row_norm(V: Tensor) -> Tensor:
    """‖V_j‖, (...), for plain tensors: in the layout of products forty times as fast as `torch.linalg.vector_norm`."""
    if V.shape[-1] == 1:
        return V[..., 0].abs()
    return V.square().sum(-1).sqrt()


def _beyond(size: Tensor, threshold: Tensor) -> Tensor:
    """True where soft-thresholding at ``size`` moves with what it thresholds; a threshold of zero is none."""
    return (size > threshold) | (threshold == 0)


def feasible_share(strength: Tensor, size: Tensor) -> Tensor:
    """min(1, strength/size), and 1 where both are 0."""
    return torch.where(size > strength, strength / torch.where(size > 0, size, 1.0), 1.0)


def taken(by_feature: Tensor, features: Features) -> Tensor:
    """(..., m) on some features; (..., 1) is for all of them and stays."""
    return by_feature if by_feature.shape[-1] == 1 else features.take(by_feature[..., None, :])[..., 0, :]
