"""Ridge regression on at most s features as a small quadratic, and its relaxation, whose value bounds it from below.

    min over z in [0, 1]^m with Σz = s of  min over W of ½‖XW − Y‖² + (l2/2)·Σ_j ‖W_j‖²/z_j
    = max over Θ of ⟨Θ, Y⟩ − ½‖Θ‖² − (the sum of the s largest ‖X_jᵀΘ‖²)/(2·l2),

the perspective relaxation (Xie and Deng, 2020) and its dual. For given shares z, Θ = (I + X diag(z) Xᵀ/l2)⁻¹ Y; for
given W, the best shares are min(1, ‖W_j‖/τ). Alternating between the two descends; every Θ on the way gives a bound.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import Problem

# The least eigenvalue of XᵀX counts from this share of the largest, and almost all of it is moved into l2.
SMALLEST_EIGENVALUE, MOVED = 1e-10, 0.99
# The ridge that stands in for l2 = 0 where shares are estimated, relative to a feature's mean squared norm.
STAND_IN = 1e-6
# The least weight of a feature in the shares, relative to the largest.
LEAST_WEIGHT = 1e-9


class Quadratic(NamedTuple):
    """``constant`` + ½‖XW − Y‖² + (l2/2)‖W‖²: X (b, n, m), Y (b, n, k), ``l2`` and ``constant`` (b,), n ≤ m."""

    X: Tensor
    Y: Tensor
    l2: Tensor
    constant: Tensor

    def at(self, index: Tensor) -> "Quadratic":
        """The elements of that index."""
        return Quadratic(*(part[index] for part in self))

    def on(self, columns: Tensor, real: Tensor) -> Tensor:
        """The columns (b, S) of X; zeros where not ``real``."""
        index = columns[:, None, :].expand(-1, self.X.shape[1], -1)
        return self.X.gather(-1, index) * real[:, None, :]

    @property
    def null(self) -> Tensor:
        """The objective at W = 0, (b,)."""
        return self.constant + self.Y.square().sum((1, 2)) / 2


def reduce(problem: Problem) -> Quadratic:
    """The same objective for every W, with at most m samples and the largest l2 that leaves a sum of squares.

    With fewer features than samples XᵀX ⪰ λ·I, and λ/2·‖W‖² may move from the first term into the second, which
    tightens the relaxation. With E diag(λ_j) Eᵀ the weighted XᵀX, the new X is diag(λ_j − λ)^½ Eᵀ.
    """
    n, m = problem.X.shape[1:]
    root = problem.weight.sqrt()[..., None]
    X, Y = root * problem.X, root * problem.Y
    if n < m:
        return Quadratic(X, Y, problem.l2, torch.zeros_like(problem.l2))
    values, vectors = torch.linalg.eigh(X.mT @ X)
    least, largest = values[:, 0], values[:, -1]
    moved = torch.where(least > SMALLEST_EIGENVALUE * largest, MOVED * least, 0.0)
    spread = (moved > 0)[:, None, None]
    rest = torch.where(spread, (values - moved[:, None])[..., None], 1.0).sqrt()
    # Where nothing is moved a QR does the same, and keeps the digits that XᵀX has not.
    Q, triangle = torch.linalg.qr(X)
    targets = torch.where(spread, vectors.mT @ (X.mT @ Y) / rest, Q.mT @ Y)
    constant = (Y.square().sum((1, 2)) - targets.square().sum((1, 2))) / 2
    return Quadratic(torch.where(spread, rest * vectors.mT, triangle), targets, problem.l2 + moved, constant)


class Relaxation(NamedTuple):
    """Coefficients W (b, m, k), a lower bound (b,) on the objective of every support, and its slopes (b, m).

    The bound falls by the slopes of the s features of largest slope; that is how it changes where features are fixed.
    With l2 = 0 there is no bound but the constant, and the slopes are zero.
    """

    coef: Tensor
    bound: Tensor
    slope: Tensor

    def at(self, index: Tensor) -> "Relaxation":
        """The elements of that index."""
        return Relaxation(*(part[index] for part in self))


def relax(quadratic: Quadratic, inside: Tensor, free: Tensor, size: Tensor, weight: Tensor, steps: int) -> Relaxation:
    """The relaxation with features ``inside``, and ``size`` (b,) of the ``free`` ones (b, m), after so many steps.

    ``weight`` (b, m) is proportional to the first shares of the free features.
    """
    X, Y, l2, _ = quadratic
    scale = torch.where(l2 > 0, l2, STAND_IN * X.square().sum(1).mean(-1))
    scale = torch.where(scale > 0, scale, 1.0)[:, None]
    identity = torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    best: Relaxation | None = None
    for _ in range(steps):
        # A feature whose share is zero would never come back.
        share = torch.where(inside, 1.0, shares(torch.where(free, weight.clamp_min(LEAST_WEIGHT), 0.0), size))
        kernel = (X * (share / scale)[:, None, :]) @ X.mT + identity
        Theta = torch.cholesky_solve(Y, torch.linalg.cholesky_ex(kernel)[0])
        coef = (share / scale)[..., None] * (X.mT @ Theta)
        bound, slope = dual_bound(quadratic, Theta, inside, free, size)
        new = Relaxation(coef, bound, slope)
        best = new if best is None else _higher(new, best)
        weight = coef.norm(dim=-1)
        weight = weight / weight.amax(-1, keepdim=True).clamp_min(1e-300)
    assert best is not None
    return best


def dual_bound(
    quadratic: Quadratic, Theta: Tensor, inside: Tensor, free: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """The bound (b,) of a dual point Θ (b, n, k), whatever it is, and its slopes (b, m) on the free features."""
    X, Y, l2, constant = quadratic
    slope = (X.mT @ Theta).square().sum(-1) / (2 * torch.where(l2 > 0, l2, 1.0))[:, None]
    forced, optional = torch.where(inside, slope, 0.0), torch.where(free, slope, 0.0)
    ordered = optional.sort(-1, descending=True).values
    largest = ordered * (torch.arange(X.shape[-1], device=X.device) < size[:, None])
    value = (Theta * Y).sum((1, 2)) - Theta.square().sum((1, 2)) / 2 - forced.sum(-1) - largest.sum(-1)
    return torch.where(l2 > 0, constant + value, constant), torch.where(l2[:, None] > 0, optional, 0.0)


def root_bound(quadratic: Quadratic, Theta: Tensor, size: int) -> Tensor:
    """The bound (b,) of a dual point with all features free."""
    free = torch.ones_like(quadratic.X[:, 0], dtype=torch.bool)
    return dual_bound(quadratic, Theta, ~free, free, torch.full_like(quadratic.l2, size))[0]


def relax_root(quadratic: Quadratic, size: int, steps: int) -> Relaxation:
    """The relaxation with all features free, from equal shares."""
    free = torch.ones_like(quadratic.X[:, 0], dtype=torch.bool)
    sizes = torch.full_like(quadratic.l2, size)
    return relax(quadratic, ~free, free, sizes, torch.ones_like(quadratic.X[:, 0]), steps)


def _higher(new: Relaxation, old: Relaxation) -> Relaxation:
    """Element by element the one of higher bound, the new one in a tie."""
    use = new.bound >= old.bound
    return Relaxation(
        *(torch.where(use.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old, strict=True))
    )


def shares(weight: Tensor, size: Tensor) -> Tensor:
    """min(1, weight/τ) (b, m), with τ such that they sum to ``size`` (b,), if as many are positive.

    With the c largest at one, τ = (sum of the others)/(size − c); c is the least that leaves the others below one.
    """
    ordered = torch.nn.functional.pad(weight.sort(-1, descending=True).values, (0, 1))
    rest = ordered.flip(-1).cumsum(-1).flip(-1)
    remaining = size[:, None] - torch.arange(ordered.shape[-1], device=weight.device)
    threshold = rest / remaining.clamp_min(1)
    fits = (ordered <= threshold) & (remaining > 0)
    first = fits.to(torch.uint8).argmax(-1, keepdim=True)
    threshold = threshold.gather(-1, first)
    return torch.where(
        weight > 0, weight / torch.where(threshold > 0, threshold, weight.clamp_min(1e-300)), 0.0
    ).clamp_max(1)
