"""Losses ℓ(z; y) of scores z against targets y, with what duality needs of them.

Scores ``Z``, targets ``Y``, dual points ``Theta`` are (..., n, k); values are one number per sample, (..., n). The dual
point of a score is θ ∈ −∂ℓ(z), and λ = y − θ. A loss is a tuple of the tensors it depends on, over the batch.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .domains import Domain, Free
from .implicit import attach, opaque


class Loss(Protocol):
    """What every loss offers."""

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """ℓ(z; y)."""

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """An element of −∂ℓ(z)."""

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """ℓ*(−θ; y), for feasible θ."""

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """ℓ(z) + ℓ*(−θ) + ⟨θ, z⟩ ≥ 0, written as a sum of terms that are each ≥ 0."""

    def best_constant(self, Y: Tensor, weight: Tensor) -> Tensor:
        """The score (..., 1, k) that all samples would share under an intercept alone."""


class SmoothLoss(Loss, Protocol):
    """A loss with Lipschitz gradient: what solvers in W, and their derivatives, need besides."""

    def smoothness(self) -> float:
        """A bound on the eigenvalues of ∂²ℓ."""

    def curvature(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The Hessian ∂²ℓ(z), (..., n, k, k)."""

    def curvature_root(self, Z: Tensor, Y: Tensor) -> Tensor:
        """L (..., n, k, k) with LLᵀ = ∂²ℓ(z), which may be singular."""

    def proximal_scores(self, Theta: Tensor, Z0: Tensor, tau: Tensor, Y: Tensor) -> Tensor:
        """argmin_z ℓ(z) + ⟨θ, z⟩ + (τ/2)‖z − z⁰‖², ``tau`` (...): the scores at which −∇ℓ − τ(z − z⁰) is θ.

        τ > 0, unless the loss is strongly convex.
        """

    def balanced(self, Theta: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
        """A feasible dual point near Θ whose weighted sum over samples is zero, as an intercept asks."""

    def gauge(self) -> Tensor | None:
        """The projection (..., k, k) on scores that change no loss when added to all samples; None if none."""

    def splits(self) -> bool:
        """Whether it is a sum over targets, each of which knows nothing of the others."""


class DualLoss(Loss, Protocol):
    """A loss whose conjugate is quadratic on a simple domain: what solvers in the dual need besides."""

    @property
    def domain(self) -> Domain:
        """Where λ may lie."""

    def conjugate_gradient(self, Lambda: Tensor, Y: Tensor) -> Tensor:
        """∂/∂λ of ℓ*(λ − y; y), (..., n, k)."""

    def conjugate_curvature(self, like: Tensor) -> Tensor:
        """Its derivative, a number per element, in the shape (...) of ``like``."""


class Squared(NamedTuple):
    """ℓ(z; y) = ½‖z − y‖²."""

    def splits(self) -> bool:
        """Target by target."""
        return True

    def smoothness(self) -> float:
        """One."""
        return 1.0

    def gauge(self) -> None:
        """Every constant matters."""
        return

    @property
    def domain(self) -> Free:
        """λ = z is free."""
        return Free()

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """½‖z − y‖²."""
        return (Z - Y).square().sum(-1) / 2

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """θ = y − z, the residual."""
        return Y - Z

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """½‖θ‖² − ⟨θ, y⟩."""
        return Theta.square().sum(-1) / 2 - (Theta * Y).sum(-1)

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """½‖z − y + θ‖²."""
        return (Z - Y + Theta).square().sum(-1) / 2

    def best_constant(self, Y: Tensor, weight: Tensor) -> Tensor:
        """The weighted mean."""
        return _mean(Y, weight)

    def curvature(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The identity."""
        return torch.ones_like(Z).diag_embed()

    def curvature_root(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The identity."""
        return self.curvature(Z, Y)

    def proximal_scores(self, Theta: Tensor, Z0: Tensor, tau: Tensor, Y: Tensor) -> Tensor:
        """(y − θ + τz⁰)/(1 + τ)."""
        tau = tau[..., None, None]
        return (Y - Theta + tau * Z0) / (1 + tau)

    def balanced(self, Theta: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
        """Θ less its weighted mean."""
        return Theta - _mean(Theta, weight)

    def conjugate_gradient(self, Lambda: Tensor, Y: Tensor) -> Tensor:
        """With θ = y − λ the conjugate is ½‖λ‖² − ½‖y‖²; its gradient in λ is λ."""
        return Lambda

    def conjugate_curvature(self, like: Tensor) -> Tensor:
        """The Hessian of ½‖λ‖² is one times the identity."""
        return torch.ones_like(like)


class Multinomial(NamedTuple):
    """ℓ(z; y) = log Σ exp z_l − ⟨y, z⟩ over the classes of ``class_mask`` (..., k): logistic regression."""

    class_mask: Tensor

    def splits(self) -> bool:
        """Classes compete."""
        return False

    def smoothness(self) -> float:
        """½, which bounds the eigenvalues of diag(p) − ppᵀ (Böhning, 1992)."""
        return 0.5

    def gauge(self) -> Tensor:
        """The projection (..., k, k) on scores that change no probability: equal ones, and those of masked classes."""
        mask = self.class_mask.to(torch.float64)
        equal = mask[..., :, None] * mask[..., None, :] / mask.sum(-1)[..., None, None]
        return equal + (1 - mask).diag_embed()

    def _masked(self, Z: Tensor) -> Tensor:
        return torch.where(self.class_mask[..., None, :], Z, -torch.inf)

    def _probabilities(self, Z: Tensor) -> Tensor:
        return self._masked(Z).softmax(-1)

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """logsumexp(z) − ⟨y, z⟩."""
        return self._masked(Z).logsumexp(-1) - (Y * Z).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """θ = y − softmax(z)."""
        return Y - self._probabilities(Z)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """Σ p log p, p = y − θ in the simplex."""
        P = Y - Theta
        return torch.special.xlogy(P, P).sum(-1)

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """KL(p ‖ softmax z), p = y − θ; each term p log(p/q) − p + q is ≥ 0."""
        P = (Y - Theta).clamp_min(0)
        log_q = self._masked(Z).log_softmax(-1)
        log_q = torch.where(self.class_mask[..., None, :], log_q, 0.0)
        Q = torch.where(self.class_mask[..., None, :], log_q.exp(), 0.0)
        return (torch.special.xlogy(P, P) - P * log_q - P + Q).clamp_min(0).sum(-1)

    def best_constant(self, Y: Tensor, weight: Tensor) -> Tensor:
        """Logarithms of the class means; a class without samples stays at a finite score of probability 1e-300."""
        mean = _mean(Y, weight)
        mean = torch.where(self.class_mask[..., None, :], mean, 1.0)
        return mean.clamp_min(1e-300).log()

    def curvature(self, Z: Tensor, Y: Tensor) -> Tensor:
        """diag(p) − ppᵀ."""
        P = self._probabilities(Z)
        return P.diag_embed() - P[..., :, None] * P[..., None, :]

    def curvature_root(self, Z: Tensor, Y: Tensor) -> Tensor:
        """diag(√p)(I − √p√pᵀ): the bracket is a projection, its own square."""
        P = self._probabilities(Z)
        root = P.sqrt()
        return root.diag_embed() - P[..., :, None] * root[..., None, :]

    def proximal_scores(self, Theta: Tensor, Z0: Tensor, tau: Tensor, Y: Tensor) -> Tensor:
        """τz + p = c with p = softmax(z), c = τz⁰ + y − θ.

        With ν = logsumexp(z), p/τ + log(p/τ) = c/τ − ν − log τ: p = τω(·), ω the Wright function, and ν is where they
        sum to one. The sum is convex in ν and falls: from ν = (max c − 1)/τ, where it is at least one, Newton's method
        only ever moves up, to the root.
        """
        tau = tau[..., None, None]
        c = self._masked(tau * Z0 + Y - Theta)
        largest = c.amax(-1, keepdim=True)
        # From the largest score, so that no two large numbers are subtracted; ν is counted from there, too.
        level = (c - largest) / tau - tau.log()
        nu = (-1 / tau).expand_as(largest)
        for _ in range(50):
            u = wright_omega(level - nu)
            step = (u.sum(-1, keepdim=True) - 1 / tau) / (u / (1 + u)).sum(-1, keepdim=True)
            nu = nu + step
            if (step <= 1e-15 * (1 + nu.abs())).all():
                break
        u = wright_omega(level - nu)
        return torch.where(self.class_mask[..., None, :], largest / tau - u + (c - largest) / tau, Z0 - Theta / tau)

    def balanced(self, Theta: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
        """Θ less its weighted mean, mixed with Y − Ȳ, which is balanced and interior, until p = y − θ ≥ 0."""
        means = _mean(Y, weight)
        P = Y - (Theta - _mean(Theta, weight))
        missing = (-P).clamp_min(0)
        share = torch.where(missing > 0, missing / (missing + means).clamp_min(1e-300), 0.0).amax(
            (-2, -1), keepdim=True
        )
        return Y - (P + share * (means - P)).clamp_min(0)


class Huber(NamedTuple):
    """Σ_c h(z_c − y_c) with h(r) = ½r² for |r| ≤ δ, else δ|r| − ½δ² (Huber, 1964); ``delta`` (...) > 0."""

    delta: Tensor

    def splits(self) -> bool:
        """Target by target."""
        return True

    def smoothness(self) -> float:
        """One."""
        return 1.0

    def gauge(self) -> None:
        """Every constant matters."""
        return

    def value(self, Z: Tensor, Y: Tensor) -> Tensor:
        """Σ h: with θ the clipped residual, θr − ½θ²."""
        theta = self.dual_point(Z, Y)
        return (theta * (Y - Z) - theta.square() / 2).sum(-1)

    def dual_point(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The residual y − z clipped to ±δ."""
        delta = self.delta[..., None, None]
        return (Y - Z).clamp(-delta, delta)

    def conjugate(self, Theta: Tensor, Y: Tensor) -> Tensor:
        """½‖θ‖² − ⟨θ, y⟩ for |θ| ≤ δ."""
        return Theta.square().sum(-1) / 2 - (Theta * Y).sum(-1)

    def fenchel_young(self, Z: Tensor, Theta: Tensor, Y: Tensor) -> Tensor:
        """With θ* the dual point, ½(θ* − θ)² + (θ* − θ)(r − θ*), r = y − z; both terms are ≥ 0."""
        best = self.dual_point(Z, Y)
        step = best - Theta
        return (step.square() / 2 + (step * (Y - Z - best)).clamp_min(0)).sum(-1)

    def best_constant(self, Y: Tensor, weight: Tensor) -> Tensor:
        """Where the clipped residuals have a weighted sum of zero, by bisection: it falls with the constant."""
        delta = self.delta.expand(weight.shape[:-1])
        loss = Huber(delta)

        def balance(constant: Tensor) -> Tensor:
            return -_mean(loss.dual_point(constant.expand_as(Y), Y), weight)

        def solve(r: Tensor) -> Tensor:
            return r / torch.where(slope > 0, slope, 1.0)

        constant, slope = opaque(lambda tree: _balanced_constant(*tree), (delta, Y, weight), weight.dim() - 1)
        return attach(constant, balance, solve, 2)

    def curvature(self, Z: Tensor, Y: Tensor) -> Tensor:
        """One where |y − z| ≤ δ, else zero."""
        return ((Y - Z).abs() <= self.delta[..., None, None]).to(Z.dtype).diag_embed()

    def curvature_root(self, Z: Tensor, Y: Tensor) -> Tensor:
        """The same: ones and zeros are their own squares."""
        return self.curvature(Z, Y)

    def proximal_scores(self, Theta: Tensor, Z0: Tensor, tau: Tensor, Y: Tensor) -> Tensor:
        """As for the squared loss where that residual is within ±δ; else z⁰ − (θ ± δ)/τ."""
        tau, delta = tau[..., None, None], self.delta[..., None, None]
        residual = (tau * (Z0 - Y) - Theta) / (1 + tau)
        return torch.where(residual.abs() <= delta, Y + residual, Z0 - (Theta + delta * residual.sign()) / tau)

    def balanced(self, Theta: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
        """Θ less its weighted mean, scaled back to ±δ, target by target: none loses by what another exceeds."""
        Theta = Theta - _mean(Theta, weight)
        largest, delta = Theta.abs().amax(-2, keepdim=True), self.delta[..., None, None]
        return Theta * (delta / torch.maximum(largest, delta))


def _balanced_constant(delta: Tensor, Y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The constant (b, 1, k) of the Huber loss, and how fast its weighted sum of clipped residuals falls there.

    Where every residual is clipped that is zero: other constants nearby do as well, and this one does not move.
    """
    present, loss = weight[..., None] > 0, Huber(delta)
    low = torch.where(present, Y, torch.inf).amin(-2, keepdim=True)
    high = torch.where(present, Y, -torch.inf).amax(-2, keepdim=True)
    low, high = torch.where(low.isfinite(), low, 0.0), torch.where(high.isfinite(), high, 0.0)
    for _ in range(100):
        middle = (low + high) / 2
        above = _mean(loss.dual_point(middle.expand_as(Y), Y), weight) > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    constant = (low + high) / 2
    return constant, _mean(((Y - constant).abs() <= delta[..., None, None]).to(Y.dtype), weight)


def wright_omega(y: Tensor) -> Tensor:
    """ω with ω + log ω = y, by two steps of fourth order (Fritsch, Shafer and Crowley, 1973); 0 at −∞."""
    tiny = y < -700
    y = torch.where(tiny, 0.0, y)
    w = torch.where(y > 1, y - y.clamp_min(1).log(), (y.clamp_max(1) - 0.3 * (y + 2).clamp(0, 3)).exp())
    for _ in range(2):
        r = y - w - w.log()
        a = (1 + w) * (1 + w + 2 / 3 * r)
        w = w * (1 + r / (1 + w) * (a - r / 2) / (a - r))
    return torch.where(tiny, 0.0, w)


def _mean(A: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over samples, (..., 1, k); the weights sum to one, or to zero."""
    return (weight[..., None] * A).sum(-2, keepdim=True)
