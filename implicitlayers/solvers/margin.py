"""The smallest l1 at which the hinge with group Lasso has the solution zero.

    l1_max = min over Λ of max_j ‖V_j‖,  V = Xᵀ diag(s̄)(Y − Λ),  rows of Λ in the simplex, λ_{i,yᵢ} = 0
           = max over U of Σᵢ s̄ᵢ (u_{i,yᵢ} − max_{l≠yᵢ} u_il)/Σ_j ‖U_j‖,  u = XU

Both are convex, and an interior point finds them together (`smallest_norm`). Where its system is too large: near W = 0
the hinge is 1 + max_{l≠y} z_l − z_y; at an l1 below l1_max the minimiser of that with group Lasso and a ridge is some
U ≠ 0, whose ratio is a lower bound on l1_max, and the next l1 (Dinkelbach, 1967).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..domains import Simplex
from ..implicit import opaque, with_value
from ..penalties import GroupL2, row_norm
from ..problem import Problem
from ..products import transposed_product
from . import certified, dual_newton, smallest_norm
from .conjugate_part import conjugate_part
from .smallest_norm import Bounds

# Of the search by ratios.
STEPS, NEWTON_STEPS, PRECISION = 20, 30, 1e-8


class Competitor(NamedTuple):
    """ℓ(z) = max z_l over the classes ``allowed`` (..., n, k), the sample's own left out, less ⟨y, z⟩."""

    allowed: Tensor

    @property
    def domain(self) -> Simplex:
        """λ lies in the simplex of the competing classes."""
        return Simplex(self.allowed)

    def worst_case(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The competing class of the highest score."""
        highest = torch.where(self.allowed, Z, -torch.inf).argmax(-1, keepdim=True)
        return torch.zeros_like(Z).scatter(-1, highest, 1.0)

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The highest competing score less the own."""
        return ((self.worst_case(Z, Y) - Y) * Z).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """θ = y − λ at the competing class of the highest score."""
        return Y - self.worst_case(Z, Y)

    def best_constant(self, Y: Tensor, weight: Tensor) -> Tensor:
        """Zero: there is no intercept."""
        return torch.zeros_like(Y[..., :1, :])

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """Zero on the simplex."""
        return torch.zeros_like(Theta[..., 0])

    def conjugate_gradient(self, Lambda: Tensor, Y: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(Lambda)

    def conjugate_curvature(self, like: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(like)

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """⟨λ* − λ, z⟩, λ* the competing class of the highest score."""
        return ((self.worst_case(Z, Y) - (Y - Theta)) * Z).sum(-1).clamp_min(0)


def hinge_l1_max(X: Tensor, Y: Tensor, weight: Tensor, class_mask: Tensor) -> Tensor:
    """l1_max, (...), for X (..., n, m), one-hot Y (..., n, k), s̄ (..., n) and a mask (..., k); float64.

    The value is the upper bound, whose Λ proves that W = 0 there. The lower bound meets it to 1e-9, to 1e-7 in
    degenerate problems, and to 1e-2 where n(k − 2) is too large for the interior point. First derivatives are those of
    ⟨U, V(Λ)⟩/Σ‖U_j‖ at the optimal pair, held constant (the envelope theorem); second ones are wrong.
    """
    X = X.to(torch.float64)
    found: Bounds = opaque(lambda tree: _solve(*tree), (X, Y, weight, class_mask), weight.dim() - 1)
    V = X.mT @ (weight[..., None] * (Y - found.Lambda))
    size = found.U.norm(dim=-1).sum(-1)
    return with_value(found.upper, (found.U * V).sum((-2, -1)) / torch.where(size > 0, size, 1.0))


def _solve(X: Tensor, Y: Tensor, weight: Tensor, class_mask: Tensor) -> Bounds:
    allowed = class_mask[:, None, :] & (Y <= 0)
    # A sample without competitors (its own class alone in the mask) loses nothing: it competes with itself.
    allowed = torch.where(allowed.any(-1, keepdim=True), allowed, Y > 0)
    Lambda = allowed.to(Y.dtype) / allowed.sum(-1, keepdim=True)
    scale = _norms(X, Y, weight, Lambda).amax(-1)
    # In units in which the first upper bound is one; without any correlation l1_max is zero. What is not finite has
    # none, and its element is a zero to the others.
    X = torch.where(scale.isfinite()[:, None, None], X, 0.0) / torch.where(scale > 0, scale, 1.0)[:, None, None]
    if smallest_norm.is_small(Y):
        best = smallest_norm.minimise(X, Y, weight, allowed)
    else:
        best = _by_ratios(X, Y, weight, allowed, Lambda)
    upper = _norms(X, Y, weight, best.Lambda).amax(-1)
    return best._replace(lower=best.lower * scale, upper=upper * scale)


def _by_ratios(X: Tensor, Y: Tensor, weight: Tensor, allowed: Tensor, Lambda: Tensor) -> Bounds:
    """Each ratio is the l1 of the next problem, whose U has a higher one."""
    upper = _norms(X, Y, weight, Lambda).amax(-1)
    U = torch.zeros_like(transposed_product(X, Y))
    best = Bounds(U, Lambda, torch.zeros_like(upper), upper)
    for _ in range(STEPS):
        l1 = best.lower
        problem = Problem(X, Y, weight, Competitor(allowed), GroupL2(l1[:, None]), torch.ones_like(l1))
        Lambda = dual_newton.minimise(conjugate_part(problem), Lambda, 1e-20, NEWTON_STEPS).Lambda
        Lambda = certified.polish(problem, Lambda)
        U = problem.coef_of(problem.correlation(Y - Lambda))
        size = row_norm(U).sum(-1)
        ratio = -(weight * problem.loss.value(problem.scores(U), Y)).sum(-1) / torch.where(size > 0, size, 1.0)
        best = best.better(Bounds(U, Lambda, ratio, _norms(X, Y, weight, Lambda).amax(-1)))
        if (best.lower - l1 <= PRECISION * best.lower).all():
            break
    return best


def _norms(X: Tensor, Y: Tensor, weight: Tensor, Lambda: Tensor) -> Tensor:
    """‖V_j‖, (b, m)."""
    return row_norm(transposed_product(X, weight[..., None] * (Y - Lambda)))
