"""Squared loss without a penalty: one factorisation, m×m or n×n."""

import torch
from torch import Tensor

from ..features import AllFeatures
from ..linear import Factor, factorise
from ..optimality import RidgeDual, RidgePrimal, normal_equations, ridge_dual
from ..problem import Problem
from ..products import gram
from .result import Result
from .ties import derivative_error


def dual_is_smaller(problem: Problem) -> bool:
    """Whether there are fewer samples than features."""
    return problem.X.shape[-2] < problem.X.shape[-1]


def solve(problem: Problem, dual: bool | None = None) -> Result:
    """Ridge regression by a system n×n, or m×m, by default the smaller; least norm where l2 = 0 leaves a choice."""
    dual = dual_is_smaller(problem) if dual is None else dual
    return _solve_dual(problem) if dual else _solve_primal(problem)


def _solve_primal(problem: Problem) -> Result:
    A, B = normal_equations(problem)
    system = RidgePrimal(factorise(A))
    coef = system.factor.solve(B)
    # One refinement takes the error from cond·eps to about its square.
    coef = coef - system.factor.solve(A @ coef - B)
    coef = _minimum_norm(problem, coef, system.factor.singular)
    return _result(problem, coef, _residual(problem, coef), system, coef, system.factor)


def _solve_dual(problem: Problem) -> Result:
    G = gram(problem.X)
    system, factor = ridge_dual(problem, G)
    rho = system.inverse @ problem.Y
    rho = rho - system.inverse @ system.residual(problem, rho)
    coef = problem.correlation(rho)
    coef = _minimum_norm(problem, coef, factor.singular)
    # θ = l2·ρ belongs to W to the last digit, however large X; the residual does not.
    l2 = problem.l2[:, None, None]
    theta = torch.where(l2 > 0, l2 * rho, _residual(problem, coef))
    return _result(problem, coef, theta, system, rho, factor)


def _residual(problem: Problem, coef: Tensor) -> Tensor:
    return problem.loss.dual_point(problem.scores(coef), problem.Y)


def _minimum_norm(problem: Problem, coef: Tensor, singular: Tensor) -> Tensor:
    """Replace least-squares solutions of singular systems: forming XᵀX lost half of the digits, X itself has them."""
    again = singular & (problem.l2 == 0)
    if not again.any():
        return coef
    root = problem.weight[again].sqrt()[..., None]
    coef = coef.clone()
    coef[again] = torch.linalg.pinv(problem.X[again] * root) @ (problem.Y[again] * root)
    return coef


def _result(
    problem: Problem, coef: Tensor, theta: Tensor, system: RidgePrimal | RidgeDual, state: Tensor, factor: Factor
) -> Result:
    no_kinks = torch.full_like(problem.l2, torch.inf)[:, None]
    return Result(
        coef=coef,
        theta=theta,
        features=AllFeatures(),
        system=system,
        state=state,
        degenerate=torch.zeros_like(factor.singular),
        singular=factor.singular,
        derivative_error=derivative_error(no_kinks, no_kinks, factor),
        n_iter=torch.ones_like(factor.singular, dtype=torch.int64),
    )
