"""A problem spelt out in float64, and the terms of its value and slope."""

from typing import NamedTuple

import torch
from torch import Tensor

from .losses import BinaryHinge, Hinge, Huber, Loss, Multinomial, Squared
from .penalties import Interval, Norms, Penalty, Simplex

Coefficients = Tensor | tuple[Tensor, Tensor]


class Data(NamedTuple):
    """A problem spelt out, float64, every tensor over the batch."""

    X: Tensor
    Y: Tensor
    weight: Tensor
    loss: Loss
    penalty: Penalty
    l2: Tensor
    n_nonzero: int | None
    fit_intercept: bool

    @property
    def step(self) -> Tensor:
        """A step length 1/L, L the smoothness of loss and ridge, (...); 1/l2 where the loss is not smooth."""
        if self.loss.smoothness == torch.inf:
            return 1 / self.l2
        one = torch.ones_like(self.X[..., :1])
        # Without an intercept its column would do nothing but shorten the step, for small features to a crawl.
        A = torch.cat([self.X, one], -1) if self.fit_intercept else self.X
        norm = torch.linalg.matrix_norm(A * self.weight.sqrt()[..., None], 2)
        L = self.loss.smoothness * norm.square() + self.l2
        return torch.where(L > 0, 1 / L, 1.0)


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


def slope(data: Data, point: Point) -> tuple[Tensor, Tensor]:
    """The gradient of loss and ridge with respect to W and b, at the point's Θ if it has one."""
    Theta = point.Theta
    if Theta is None:
        Theta = data.loss.dual_point(scores(data, point), data.Y)
    slope_b = -(data.weight[..., None] * Theta).sum(-2)
    slope_W = data.l2[..., None, None] * point.W - correlation(data, Theta)
    return slope_W, slope_b if data.fit_intercept else torch.zeros_like(slope_b)


def centred(data: Data) -> tuple[Tensor, Tensor]:
    """X and Y less their weighted means: what is left of a squared loss once the intercept, if any, is minimised."""
    if not data.fit_intercept:
        return data.X, data.Y
    weight = data.weight[..., None]
    return data.X - (weight * data.X).sum(-2, keepdim=True), data.Y - (weight * data.Y).sum(-2, keepdim=True)


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
