"""The unpenalised intercept: for the squared loss by centring, for others as the coefficient of a constant column."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..finite import finite_elements, zeroed
from ..implicit import is_transformed
from ..penalties import Partly
from ..problem import Problem
from ..solution import Solution

if TYPE_CHECKING:
    from .base import Data

# Samples of a column that differ by no more than this share of it differ by rounding: that of a few operations, by
# which what should be the same may have been computed. The mean is as exact.
ROUNDING = 16 * torch.finfo(torch.float64).eps


class Means(NamedTuple):
    """Weighted means over samples, (..., 1, m) and (..., 1, k), zero in elements that are not ``finite`` (...)."""

    X: Tensor
    Y: Tensor
    finite: Tensor


def centred(data: "Data") -> tuple[Means, "Data"]:
    """X and Y less their weighted means: min over b of Σ s̄ᵢ ½‖xᵢW + b − yᵢ‖² is attained at b = ȳ − x̄W.

    Elements that are not finite are NaN throughout, and whatever is asked of them has derivatives of zero.
    """
    finite = finite_elements(data.X, data.Y)
    X, x = _centred(zeroed(data.X, finite), data.weight)
    Y, y = _centred(zeroed(data.Y, finite), data.weight)
    return Means(x, y, finite), data._replace(X=_shown(X, finite), Y=_shown(Y, finite))


def centred_features(data: "Data") -> tuple[Means, "Data"]:
    """X less its weighted means, which changes no scores but for a constant that the intercept takes up.

    Beside features far from zero a constant column is nearly one of them, and the intercept as good as undetermined.
    """
    finite = finite_elements(data.X, data.Y)
    X, x = _centred(zeroed(data.X, finite), data.weight)
    return Means(x, torch.zeros_like(data.Y[..., :1, :]), finite), data._replace(X=_shown(X, finite))


def centred_start(init: Solution, means: Means) -> Solution:
    """A solution as one of the problem whose features are centred: b + x̄W; what does not fit stays, for an error."""
    if not isinstance(init, Solution) or init.intercept is None or init.coef.shape[-2] != means.X.shape[-1]:
        return init
    moved = means.X.detach() @ init.coef.detach().to(torch.float64)
    return replace(init, intercept=init.intercept.detach() + moved[..., 0, :])


def _centred(A: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A (..., n, p) less its mean, and the mean (..., 1, p).

    Only beside A can it be seen that a difference is rounding. In a constant column it is made zero, or its least
    squares would be a quotient of two roundings; derivatives are those of the difference all the same.
    """
    # Differences from one of the samples: the mean of a constant is exact, however many they are.
    heaviest = weight.detach().argmax(-1)[..., None, None]
    present = (weight.detach() > 0)[..., None]
    one = torch.where(present.any(-2, keepdim=True), A.detach().take_along_dim(heaviest, -2), 0.0).to(weight.dtype)
    mean = one + (weight[..., None] * (A - one)).sum(-2, keepdim=True)
    difference = A - mean
    seen = torch.where(present, A.detach(), one.to(A.dtype))
    low, high = (end.to(weight.dtype) for end in (seen.amin(-2, keepdim=True), seen.amax(-2, keepdim=True)))
    is_constant = high - low <= ROUNDING * torch.maximum(low.abs(), high.abs())
    if not is_transformed(is_constant) and not bool(is_constant.any()):
        return difference, mean
    return torch.where(is_constant & present, difference - difference.detach(), difference), mean


def from_means(solution: Solution, means: Means) -> Solution:
    """The intercept ȳ − x̄W that belongs to a solution of the centred problem."""
    dtype = solution.coef.dtype
    coef = zeroed(solution.coef.to(torch.float64), means.finite)
    offset = _shown(means.Y - means.X @ coef, means.finite)
    return replace(solution, intercept=offset[..., 0, :].to(dtype))


def _shown(A: Tensor, finite: Tensor) -> Tensor:
    """A (..., p, q), NaN in elements that are not finite."""
    if not is_transformed(finite) and bool(finite.all()):
        return A
    return torch.where(finite[..., None, None], A, torch.nan)


def augmented(problem: Problem) -> Problem:
    """The problem with a constant column behind the features, whose coefficients are free."""
    X = torch.cat([problem.X, torch.ones_like(problem.X[..., :1])], dim=-1)
    penalised = torch.arange(X.shape[-1], device=X.device) < X.shape[-1] - 1
    return problem._replace(X=X, penalty=Partly(problem.penalty, penalised.expand(*X.shape[:-2], -1)))


def split(solution: Solution, means: Means) -> Solution:
    """The last row of the coefficients as the intercept, of features that are not centred: b − x̄W."""
    coef, last = solution.coef[..., :-1, :], solution.coef[..., -1:, :]
    return from_means(replace(solution, coef=coef), means._replace(Y=zeroed(last.to(torch.float64), means.finite)))
