"""The linear system of one step of an interior point for the hinge, in L or in W, whichever is smaller.

    D dL − X dW = r + dν 1,    dL 1 = 0,    dW = G(−Xᵀ dL + ρ) + h

D (b, n, k) is a positive diagonal, G_j = α_j I + β_j u_j u_jᵀ couples the classes of a feature. Without dW it is one
in L along the edges T of the simplices, n(k − 1) unknowns; without dL, one in W, whose rows sum to zero, S(k − 1):

    Tᵀ(D + X G Xᵀ)T d = Tᵀ(r + X(Gρ + h)),    (G⁻¹ + XᵀBX) dW = ρ + G⁻¹h − XᵀBr,    B = D⁻¹ − D⁻¹11ᵀD⁻¹/(1ᵀD⁻¹1)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..domains import Simplex
from ..dual_face import edge_gram, within_samples
from ..linear import cholesky_where_it_exists
from ..products import product, transposed_product

# What is added to a diagonal of ones where rounding has left no factor: at first, and how many times as much again.
LEAST_SHIFT, MORE_SHIFT = 1e-14, 10.0


class Groups(NamedTuple):
    """α ``across`` and β ``along`` (b, S) with the ``unit`` u (b, S, k), zero or of length one; and the ``gain``
    (b, S) by which a shift of a feature's own condition moves W along u.
    """

    across: Tensor
    along: Tensor
    unit: Tensor
    gain: Tensor

    def apply(self, V: Tensor) -> Tensor:
        """GV."""
        inner = (self.unit * V).sum(-1, keepdim=True)
        return self.across[..., None] * V + self.along[..., None] * inner * self.unit

    @property
    def inverse(self) -> "Groups":
        """G⁻¹."""
        along = 1 / (self.across + self.along) - 1 / self.across
        return self._replace(across=1 / self.across, along=along)


def primal_is_smaller(Y: Tensor, n_features: int) -> bool:
    """Whether the system in W is less work to make and to factor, for Y (b, n, k)."""
    n, k = Y.shape[-2:]
    samples, features = n * (k - 1), n_features * (k - 1)
    # Edges know no batched product of small blocks; a system in W without features is none.
    return 0 < n * features**2 + features**3 / 3 < n_features * samples**2 + samples**3 / 3


def size_of(Y: Tensor, n_features: Tensor) -> Tensor:
    """The size (b,) of the smaller one."""
    n, k = Y.shape[-2:]
    return n_features.clamp_max(n) * (k - 1)


class _Scaled:
    """A factor of a positive definite matrix, scaled to ones on its diagonal: entries differ by many powers of ten.

    Near the end it is singular up to rounding, and whether there is a factor is chance: another order of summation
    decides otherwise. Where there is none, a shift of the diagonal makes one, and a refined solution is that without
    the shift in all directions that rounding tells from zero.
    """

    def __init__(self, M: Tensor) -> None:
        self.scale = M.diagonal(dim1=-2, dim2=-1).rsqrt()[..., None]
        self.matrix = self.scale * M * self.scale.mT
        self.lower, exists = cholesky_where_it_exists(self.matrix)
        identity, shift = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device), LEAST_SHIFT
        while not exists.all() and shift < 1:
            shifted, now = cholesky_where_it_exists(self.matrix + shift * identity)
            self.lower = torch.where(exists[:, None, None], self.lower, shifted)
            exists, shift = exists | now, shift * MORE_SHIFT

    def solve(self, r: Tensor) -> Tensor:
        """M⁻¹r for r (b, d)."""
        r = self.scale * r[..., None]
        x = torch.cholesky_solve(r, self.lower)
        x = x + torch.cholesky_solve(r - self.matrix @ x, self.lower)
        return (self.scale * x)[..., 0]


class DualSystem:
    """In L along edges."""

    def __init__(self, X: Tensor, groups: Groups, L: Tensor, D: Tensor, free: Tensor) -> None:
        self.X, self.groups = X, groups
        self.edges = Simplex(free).edges(torch.where(free, L, 0.0), free.any(-1))
        q = groups.along.sqrt()[..., None] * groups.unit
        M = edge_gram(X, groups.across, q, self.edges) + within_samples(self.edges, D)
        self.factor = _Scaled(M)

    def solve(self, r: Tensor, rho: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The changes dL (b, n, k) and −Xᵀ dL + ρ (b, S, k)."""
        slope = r + product(self.X, self.groups.apply(rho) + h)
        direction = self.edges.direction
        index = self.edges.sample[..., None].expand_as(direction)
        moved = self.factor.solve((slope.gather(-2, index) * direction).sum(-1))[..., None] * direction
        dL = torch.zeros_like(r).scatter_add(-2, index, moved)
        return dL, rho - transposed_product(self.X, dL)


class PrimalSystem:
    """In W, in an orthonormal basis of what sums to zero over classes.

    B is large where L is not small; what rounding does to dL is then no longer small in Xᵀ dL, and dV follows from dW.
    """

    def __init__(self, X: Tensor, groups: Groups, L: Tensor, D: Tensor, free: Tensor) -> None:
        self.X, self.inverse = X.to(L.dtype), groups.inverse
        inner = torch.where(free, 1 / torch.where(free, D, 1.0), 0.0)
        total = inner.sum(-1, keepdim=True)
        share = inner / torch.where(total > 0, total, 1.0)
        weights = inner[..., None] * share[..., None, :]
        weights.diagonal(dim1=-2, dim2=-1).zero_()
        # Each row sums to zero; the diagonal by sums, in which no digits cancel.
        self.B = weights.sum(-1).diag_embed() - weights
        self.largest = inner.argmax(-1, keepdim=True)
        self.basis = _centred(L.shape[-1], L)
        self.factor = _Scaled(self._matrix())

    def _matrix(self) -> Tensor:
        """Σᵢ xᵢxᵢᵀ ⊗ Bᵢ + G⁻¹, (b, S(k − 1), S(k − 1))."""
        Q, X, own = self.basis, self.X, self.inverse
        b, n, S = X.shape
        c = Q.shape[-1]
        spread = (X[:, :, None, :, None] * (Q.mT @ self.B @ Q)[:, :, :, None, :]).view(b, n, c * S * c)
        M = (X.mT @ spread).view(b, S, c, S, c)
        unit = own.unit @ Q
        blocks = own.across[..., None, None] * torch.eye(c, dtype=X.dtype, device=X.device)
        blocks = blocks + own.along[..., None, None] * unit[..., :, None] * unit[..., None, :]
        M.diagonal(dim1=1, dim2=3).add_(blocks.permute(0, 2, 3, 1))
        return M.view(b, S * c, S * c)

    def solve(self, r: Tensor, rho: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The changes dL (b, n, k) and −Xᵀ dL + ρ (b, S, k)."""
        dL, dV = self._solve(r, rho, h)
        # What it is off by is small, and so is what rounding does to the correction.
        more = self._solve(torch.zeros_like(r), rho - dV - transposed_product(self.X, dL), torch.zeros_like(h))
        return dL + more[0], dV + more[1]

    def _solve(self, r: Tensor, rho: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rhs = rho + self.inverse.apply(h) - transposed_product(self.X, self._within(r))
        dW = self.factor.solve((rhs @ self.basis).flatten(1)).view(*rhs.shape[:-1], -1) @ self.basis.mT
        return self._within(r + product(self.X, dW)), self.inverse.apply(dW - h)

    def _within(self, r: Tensor) -> Tensor:
        """Br, of the differences to r of the largest L: digits of a constant would be lost."""
        return (self.B @ (r - r.gather(-1, self.largest))[..., None])[..., 0]


def _centred(k: int, like: Tensor) -> Tensor:
    """(k, k − 1)."""
    start = torch.eye(k, k - 1, dtype=like.dtype, device=like.device) - 1 / k
    return torch.linalg.qr(start)[0]
