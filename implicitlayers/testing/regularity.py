"""Matrices that are singular where a solution, or its derivative, is not unique; float64."""

import torch
from torch import Tensor
from torch.func import jvp

from .losses import BinaryHinge, Multinomial
from .penalties import Norms
from .terms import Data, Point, slope


def natural_jacobian(data: Data, point: Point) -> Tensor:
    """Of (W, b) ↦ what a proximal step moves, by forward derivatives of the formulas of `terms`."""
    m, k = point.W.shape[-2:]
    step = data.step
    used = torch.ones_like(point.W[..., :1]) if data.n_nonzero is None else (point.W != 0).any(-1, keepdim=True)
    rows = m + data.fit_intercept

    def residual(U: Tensor) -> Tensor:
        W = U[..., :m, :]
        b = U[..., m, :] if data.fit_intercept else torch.zeros_like(U[..., 0, :])
        slope_W, slope_b = slope(data, Point(W, b, None))
        if data.n_nonzero is None:
            moved = W - data.penalty.prox(W - step[..., None, None] * slope_W, step)
        else:
            moved = torch.where(used > 0, step[..., None, None] * slope_W, W)
        if not data.fit_intercept:
            return moved
        gauge = b.mean(-1, keepdim=True) if isinstance(data.loss, Multinomial) else 0.0
        return torch.cat([moved, (step[..., None] * slope_b + gauge)[..., None, :]], -2)

    U = torch.cat([point.W, point.b[..., None, :]], -2)[..., :rows, :]
    size = rows * k
    # All columns at once: one more leading dimension, over which everything broadcasts.
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *[1] * (U.dim() - 2), rows, k)
    many = U.expand(size, *U.shape).clone()
    columns = jvp(residual, (many,), (basis.expand_as(many).clone(),))[1]
    return columns.flatten(-2).movedim(0, -1)


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
