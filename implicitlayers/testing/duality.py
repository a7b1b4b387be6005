"""Lower bounds of a problem's least value, from its dual; float64."""

import torch
from torch import Tensor

from . import intercepts
from .losses import Squared
from .terms import Data, Point, centred, correlation


def dual_bound(data: Data, point: Point) -> Tensor:
    """D (...), the better of two dual points made feasible: the residuals at W, and Θ where there is one."""
    bound = _dual_value(data, point._replace(Theta=None))
    return bound if point.Theta is None else torch.maximum(bound, _dual_value(data, point))


def least(data: Data) -> Tensor:
    """The least value itself of ridge regression, (...), by a singular value decomposition."""
    A, Y = centred(data)
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


def null(data: Data) -> Tensor:
    """P(0, b) at the best intercept b, if any, (...)."""
    Z = torch.zeros_like(data.Y)
    if data.fit_intercept:
        Z = Z + intercepts.best(data.loss, Z, data.Y, data.weight)[..., None, :]
    return (data.weight * data.loss.value(Z, data.Y)).sum(-1)


def _dual_value(data: Data, point: Point) -> Tensor:
    """D at the point's Θ made feasible; without one, at the residuals."""
    Theta = point.Theta
    if Theta is None:
        Z = data.X @ point.W
        if data.fit_intercept:
            Z = Z + intercepts.best(data.loss, Z, data.Y, data.weight)[..., None, :]
        Theta = data.loss.dual_point(Z, data.Y)
    Theta = data.loss.feasible(Theta, data.Y)
    if data.fit_intercept:
        off = (data.weight[..., None] * Theta).sum(-2, keepdim=True)
        if isinstance(data.loss, Squared):
            Theta = Theta - off
        elif point.Theta is not None:
            # Moving it may leave the domain of the conjugate: the residuals' own point has to do.
            return torch.full_like(data.l2, -torch.inf)
    V = correlation(data, Theta)
    scale = torch.where(data.l2 > 0, 1.0, data.penalty.feasible_scale(V))[..., None, None]
    Theta, V = data.loss.feasible(Theta * scale, data.Y), V * scale
    return -(data.weight * data.loss.conjugate(Theta, data.Y)).sum(-1) - _conjugate(data, V)


def _conjugate(data: Data, V: Tensor) -> Tensor:
    """R*(V), R = Ω + (l2/2)‖·‖²."""
    safe = torch.where(data.l2 > 0, data.l2, 1.0)
    U = data.penalty.prox(V / safe[..., None, None], 1 / safe)
    strong = (V * U).sum((-2, -1)) - data.penalty.value(U) - data.l2 / 2 * U.square().sum((-2, -1))
    return torch.where(data.l2 > 0, strong, data.penalty.conjugate(V))
