"""The unpenalised intercept: for the squared loss by centring, for others as the coefficient of a constant column."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..penalties import Partly
from ..problem import Problem
from ..solution import Solution

if TYPE_CHECKING:
    from .base import Data


class Means(NamedTuple):
    """Weighted means over samples, (..., 1, m) and (..., 1, k)."""

    X: Tensor
    Y: Tensor


def centred(data: "Data") -> tuple[Means, "Data"]:
    """X and Y less their weighted means: min over b of Σ s̄ᵢ ½‖xᵢW + b − yᵢ‖² is attained at b = ȳ − x̄W."""
    weight = data.weight[..., None]
    # Less one of them first, so that equal targets leave exactly zero, and not the rounding of their mean.
    one = data.Y.take_along_dim(weight.argmax(-2, keepdim=True), -2)
    mean = one + (weight * (data.Y - one)).sum(-2, keepdim=True)
    means = Means((weight * data.X).sum(-2, keepdim=True), mean)
    return means, data._replace(X=data.X - means.X, Y=data.Y - means.Y)


def from_means(solution: Solution, means: Means) -> Solution:
    """The intercept ȳ − x̄W that belongs to a solution of the centred problem."""
    dtype = solution.coef.dtype
    offset = means.Y - means.X @ solution.coef.to(torch.float64)
    return replace(solution, intercept=offset[..., 0, :].to(dtype))


def augmented(problem: Problem) -> Problem:
    """The problem with a constant column behind the features, whose coefficients are free."""
    X = torch.cat([problem.X, torch.ones_like(problem.X[..., :1])], dim=-1)
    penalised = torch.arange(X.shape[-1], device=X.device) < X.shape[-1] - 1
    return problem._replace(X=X, penalty=Partly(problem.penalty, penalised.expand(*X.shape[:-2], -1)))


def split(solution: Solution) -> Solution:
    """The last row of the coefficients as the intercept."""
    return replace(solution, coef=solution.coef[..., :-1, :], intercept=solution.coef[..., -1, :])
