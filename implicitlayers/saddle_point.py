"""The optimal pair of min over Λ, max over U of ⟨U, V⟩, Σ_j ‖U_j‖ ≤ 1, as an equation: its derivatives, and its digits.

    V = Xᵀ diag(s̄)(Y − Λ),  rows of Λ in simplices

With Λ moving along the edges T_e of the face that it is on, c_e along each, and U_j = u_j V_j/‖V_j‖ on the features
of the longest V_j, the pair is the stationary point of

    ℒ(c, u, t) = t + Σ_j u_j(‖V_j‖ − t):    ∂ℒ/∂c_e = −s̄ᵢ⟨T_e, (XU)ᵢ⟩,    ∂ℒ/∂u_j = ‖V_j‖ − t,    ∂ℒ/∂t = 1 − Σ_j u_j.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .domains import Edges, Simplex
from .features import Support
from .linear import EIGENVALUE_CUTOFF


class Saddle(NamedTuple):
    """What ℒ is made of: X (..., n, m), Y and Λ (..., n, k), s̄ (..., n), and u of all features (..., m)."""

    X: Tensor
    Y: Tensor
    weight: Tensor
    Lambda: Tensor
    u: Tensor

    @property
    def V(self) -> Tensor:
        """(..., m, k)."""
        return self.X.mT @ (self.weight[..., None] * (self.Y - self.Lambda))

    @property
    def value(self) -> Tensor:
        """Σ_j u_j‖V_j‖/Σ_j u_j, (...), stationary at the optimal pair."""
        size = self.u.sum(-1)
        return (self.u * directions(self.V)[1]).sum(-1) / torch.where(size > 0, size, 1.0)


def directions(V: Tensor) -> tuple[Tensor, Tensor]:
    """V_j/‖V_j‖ and ‖V_j‖, zero where V_j is."""
    square = V.square().sum(-1)
    positive = square > 0
    norm = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
    return V / torch.where(positive, norm, 1.0)[..., None], norm


class SaddlePoint(NamedTuple):
    """The face and features in use, and the inverse (..., E + S + 1, E + S + 1) of the Hessian of ℒ in (c, u, t)."""

    edges: Edges
    features: Support
    inverse: Tensor

    def residual(self, at: Saddle) -> Tensor:
        """∇ℒ at t = the mean of the ‖V_j‖ in use, (..., E + S + 1)."""
        X, u = self.features.take(at.X), self._used(at.u)
        unit, norm = directions(at._replace(X=X).V)
        slope = at.weight[..., None] * (X @ (u[..., None] * unit))
        index = self.edges.sample[..., None].expand_as(self.edges.direction)
        along = -(slope.gather(-2, index) * self.edges.direction).sum(-1)
        real = self.features.real
        t = torch.where(real, norm, 0.0).sum(-1, keepdim=True) / real.sum(-1, keepdim=True).clamp_min(1)
        return torch.cat([along, torch.where(real, norm - t, 0.0), 1 - u.sum(-1, keepdim=True)], -1)

    def _used(self, u: Tensor) -> Tensor:
        return self.features.take(u[..., None, :])[..., 0, :]

    def moved(self, at: Saddle, r: Tensor) -> Saddle:
        """A Newton step for the residual r."""
        step = -(self.inverse @ r[..., None])[..., 0]
        E, S = self.edges.sample.shape[-1], self.features.real.shape[-1]
        along = step[..., :E, None] * self.edges.direction
        index = self.edges.sample[..., None].expand_as(along)
        Lambda = at.Lambda + torch.zeros_like(at.Lambda).scatter_add(-2, index, along)
        u = self.features.put(step[..., E : E + S, None], at.u.shape[-1])[..., 0]
        return at._replace(Lambda=Lambda, u=at.u + u)

    def scaled(self, scale: Tensor) -> "SaddlePoint":
        """The system for features that are ``scale`` (...) > 0 times as long, which only changes the unit of t."""
        # ∇ℒ is that many times as long but for ∂ℒ/∂t, and c and u are the same.
        inverse = self.inverse / scale[..., None, None]
        inverse[..., -1] *= scale[..., None]
        return self._replace(inverse=inverse)

    def attach(self, at: Saddle) -> Saddle:
        """The pair with first derivatives, by which `Saddle.value` has second ones too."""
        r = self.residual(at)
        return self.moved(at, r - r.detach())


def saddle_point(at: Saddle, free: Tensor, used: Tensor, largest: int) -> SaddlePoint:
    """The system at an optimal pair of one batch, ``free`` (b, n, k) being the entries of Λ that can move and ``used``
    (b, m) the features with u_j > 0; if it is larger than ``largest``, an empty one, in which nothing moves.
    """
    features = Support.of(used)
    edges = Simplex(free).edges(torch.where(free, at.Lambda, 0.0), at.weight > 0)
    if edges.sample.shape[-1] + features.real.shape[-1] > largest:
        return saddle_point(at, torch.zeros_like(free), torch.zeros_like(used), 0)
    return SaddlePoint(edges, features, _inverse(_hessian(at, edges, features)))


def _hessian(at: Saddle, edges: Edges, features: Support) -> Tensor:
    """With B = ∂‖V‖/∂c, [Tᵀ(Σ_j u_j/‖V_j‖ (x_j x_jᵀ ⊗ I))T − B diag(u/‖V‖)Bᵀ, B, 0; Bᵀ, 0, −1; 0, −1ᵀ, 0]."""
    X = features.take(at.X)
    unit, norm = directions(at._replace(X=X).V)
    u = features.take(at.u[..., None, :])[..., 0, :]
    bent = u / torch.where(norm > 0, norm, 1.0)
    sample, direction = edges
    rows = (at.weight[..., None] * X).gather(-2, sample[..., None].expand(*sample.shape, X.shape[-1]))
    B = -rows * (direction @ unit.mT)
    K = (rows * bent[..., None, :]) @ rows.mT * (direction @ direction.mT) - (B * bent[..., None, :]) @ B.mT
    b, E, S = B.shape
    H = B.new_zeros(b, E + S + 1, E + S + 1)
    H[:, :E, :E], H[:, :E, E:-1], H[:, E:-1, :E] = K, B, B.mT
    H[:, E:-1, -1] = H[:, -1, E:-1] = -features.real.to(B.dtype)
    # Ones for the padding.
    idle = torch.cat([(direction == 0).all(-1), ~features.real, ~features.real.any(-1, keepdim=True)], -1)
    return H + idle.to(B.dtype).diag_embed()


def _inverse(H: Tensor) -> Tensor:
    """Of symmetric matrices, with ones on the diagonal of a scaled one; the pseudo-inverse where there is none."""
    scale = H.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(H.dtype).tiny).rsqrt()
    scaled = scale * H * scale.mT
    inverse, info = torch.linalg.inv_ex(scaled)
    condition = scaled.norm(dim=(-2, -1)) * inverse.norm(dim=(-2, -1))
    singular = (info != 0) | ~(condition <= 1 / EIGENVALUE_CUTOFF)
    if singular.any():
        inverse[singular] = _pseudo_inverse(scaled[singular])
    return scale * inverse * scale.mT


def _pseudo_inverse(H: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(torch.where(H.isfinite(), H, 0.0))
    kept = values.abs() > EIGENVALUE_CUTOFF * values.abs().amax(-1, keepdim=True)
    return (vectors * torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)[..., None, :]) @ vectors.mT
