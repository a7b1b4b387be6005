"""A problem spelt out in float64, and the terms of its value, slope and dual."""

from typing import NamedTuple

import torch
from torch import Tensor

from .losses import BinaryHinge, Hinge, Huber, Loss, Multinomial, Squared
from .penalties import Interval, Norms, Penalty, Simplex


class Data(NamedTuple):
    """A problem spelt out, float64, every tensor over the batch."""

    X: Tensor
    Y: Tensor
    weight: Tensor
    loss: Loss
    penalty: Penalty
    l2: Tensor
    n_nonzero: int | None

    @property
    def step(self) -> Tensor:
        """A step length 1/L, L the smoothness of loss and ridge; 1/l2 where the loss is not smooth, (...)."""
        if self.loss.smoothness == torch.inf:
            return 1 / self.l2
        one = torch.ones_like(self.X[..., :1])
        A = torch.cat([self.X, one], -1) * self.weight.sqrt()[..., None]
        return 1 / (self.loss.smoothness * torch.linalg.matrix_norm(A, 2).square() + self.l2)


class Point(NamedTuple):
    """Coefficients W (..., m, k), an intercept b (..., k) that is zero where there is none, a dual point or None."""

    W: Tensor
    b: Tensor
    Theta: Tensor | None


def primal(data: Data, point: Point) -> Tensor:
    """P(W, b), (...)."""
    losses = (data.weight * data.loss.value(scores(data, point), data.Y)).sum(-1)
    return losses + data.penalty.value(point.W) + data.l2 / 2 * point.W.square().sum((-2, -1))


def scores(data: Data, point: Point) -> Tensor:
    """XW + b, (..., n, k)."""
    return data.X @ point.W + point.b[..., None, :]


def correlation(data: Data, Theta: Tensor) -> Tensor:
    """V = Xᵀ diag(s̄)Θ, (..., m, k)."""
    return data.X.mT @ (data.weight[..., None] * Theta)


def slope(data: Data, point: Point, fit_intercept: bool) -> tuple[Tensor, Tensor]:
    """The gradient of loss and ridge with respect to W and b, at the point's Θ if it has one."""
    Theta = point.Theta
    if Theta is None:
        Theta = data.loss.dual_point(scores(data, point), data.Y)
    slope_b = -(data.weight[..., None] * Theta).sum(-2)
    slope_W = data.l2[..., None, None] * point.W - correlation(data, Theta)
    return slope_W, slope_b if fit_intercept else torch.zeros_like(slope_b)


def conjugate(data: Data, V: Tensor) -> Tensor:
    """R*(V), R = Ω + (l2/2)‖·‖²."""
    safe = torch.where(data.l2 > 0, data.l2, 1.0)
    U = data.penalty.prox(V / safe[..., None, None], 1 / safe)
    strong = (V * U).sum((-2, -1)) - data.penalty.value(U) - data.l2 / 2 * U.square().sum((-2, -1))
    return torch.where(data.l2 > 0, strong, data.penalty.conjugate(V))


def centred(data: Data) -> tuple[Tensor, Tensor]:
    """X and Y less their weighted means: what is left of a squared loss once the intercept is minimised."""
    weight = data.weight[..., None]
    return data.X - (weight * data.X).sum(-2, keepdim=True), data.Y - (weight * data.Y).sum(-2, keepdim=True)


def least(data: Data, fit_intercept: bool) -> Tensor:
    """The least value itself where there is no penalty: by a singular value decomposition."""
    A, Y = centred(data) if fit_intercept else (data.X, data.Y)
    root = data.weight.sqrt()[..., None]
    U, S, _ = torch.linalg.svd(root * A, full_matrices=False)
    B = U.mT @ (root * Y)
    cut = 1e-14 * S[..., :1] < S
    l2 = data.l2[..., None]
    # min ½‖SV − B‖² + l2/2‖V‖² = ½ Σ l2/(S² + l2) B² + the part outside the range.
    kept = torch.where(cut, l2 / (S.square() + l2).clamp_min(1e-300), 1.0)
    inside = (kept[..., None] * B.square()).sum((-2, -1))
    outside = ((root * Y) - U @ B).square().sum((-2, -1))
    return (inside + outside) / 2


def face_matrix(data: Data, point: Point) -> Tensor:
    """The moves of W that the free multipliers of a hinge can make, as a Gram matrix over samples and classes.

    Padded with the identity for multipliers that are not free.
    """
    assert point.Theta is not None
    if isinstance(data.loss, BinaryHinge):
        Lambda = torch.cat([point.Theta * data.Y, 1 - point.Theta * data.Y], -1)
        directions = data.Y[..., None] * torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    else:
        Lambda = data.Y - point.Theta
        largest = torch.nn.functional.one_hot(Lambda.argmax(-1), Lambda.shape[-1]).to(Lambda)
        directions = torch.eye(Lambda.shape[-1], dtype=torch.float64) - largest[..., None, :]
    reference = directions.abs().sum(-1) == 0
    whole = Lambda.amin(-1, keepdim=True) > 1e-9 if isinstance(data.loss, BinaryHinge) else Lambda > 1e-9
    free = (whole & ~reference & (data.weight[..., None] > 0)).flatten(-2)
    moves = torch.einsum("...im,...iek->...iemk", data.X, directions).flatten(-4, -3)
    used = (point.W != 0).any(-1) if isinstance(data.penalty, Norms) else torch.ones_like(data.X[..., 0, :])
    moves = (moves * used[..., None, :, None]).flatten(-2)
    moves = torch.where(free[..., None], moves / moves.norm(dim=-1, keepdim=True).clamp_min(1e-300), 0.0)
    return moves @ moves.mT + (~free).to(moves).diag_embed()


def encoded(Y: Tensor, classes: int, k: int) -> Tensor:
    """Targets as float64 (..., n, k): one-hot for classes, ±1 for two classes with one column."""
    if classes == 0:
        return Y.to(torch.float64)
    if not Y.is_floating_point():
        if classes == 2:
            return (2.0 * Y.to(torch.float64) - 1)[..., None]
        return torch.nn.functional.one_hot(Y, k).to(torch.float64)
    Y = Y.to(torch.float64)
    if classes == 2 and Y.shape[-1] == 2:
        return Y[..., 1:] - Y[..., :1]
    return Y


def loss_and_penalty(
    name: str, groups: tuple[tuple[int, ...], ...] | None, values: dict[str, Tensor], group_weights: Tensor, m: int
) -> tuple[Loss, Penalty]:
    """Of the problem called so, with strengths (...) by name."""
    zero = torch.zeros_like(next(iter(values.values())))
    smoothing = values.get("smoothing", zero)
    losses: dict[str, Loss] = {
        "svm": Hinge(smoothing),
        "binary_svm": BinaryHinge(smoothing),
        "logistic": Multinomial(),
        "huber": Huber(values.get("delta", zero)),
    }
    loss = losses.get(name, Squared())
    l1, group_l1 = values.get("l1", zero), values.get("group_l1", zero)
    if name == "nonnegative":
        return loss, Interval(zero, zero + torch.inf, l1)
    if name == "box":
        return loss, Interval(values["lower"], values["upper"], zero)
    if name == "simplex":
        return loss, Simplex(values["total"])
    groups = groups or tuple((j,) for j in range(m))
    number = torch.empty(m, dtype=torch.int64)
    for g, members in enumerate(groups):
        number[list(members)] = g
    if name in ("group_lasso", "svm", "logistic"):
        return loss, Norms(zero, l1[..., None] * group_weights.expand(*group_weights.shape[:-1], len(groups)), number)
    group = group_l1[..., None] * group_weights.expand(*group_weights.shape[:-1], len(groups))
    return loss, Norms(l1, group, number)
