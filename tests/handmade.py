"""Layers written from scratch, right as they stand, with one switch per mistake that people make."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from implicitlayers.testing.losses import simplex_projection


class Found(NamedTuple):
    coef: Tensor
    dual: Tensor
    gap: Tensor
    converged: Tensor
    status: Tensor


class MeanOverBatch(torch.autograd.Function):
    """Expand to a batch, and forget in the backward pass that the sum is due."""

    generate_vmap_rule = True

    @staticmethod
    def forward(X, size):
        return X.expand(size, *X.shape)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient.mean(0), None


class Opaque(torch.autograd.Function):
    """A solver on plain numbers, without derivatives, also under vmap."""

    @staticmethod
    def forward(solver, *tensors):
        return solver(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info, in_dims, solver, *tensors):
        def in_front(t, dim):
            return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

        return Opaque.apply(solver, *(in_front(t, d) for t, d in zip(tensors, in_dims[1:], strict=True))), (0, 0)

    @staticmethod
    def jvp(ctx, *tangents):
        return None, None


@dataclass
class ElasticNet:
    """min Σ ½‖xᵢW − yᵢ‖²/n + l1·Σ|W| + (l2/2)‖W‖² by proximal gradient steps until the gap is below ``tol``."""

    l1: float | Tensor
    l2: float | Tensor = 0.0
    mistake: str = ""
    tol: float = 1e-13

    def __call__(self, X, Y):
        return self.solve(X, Y).coef

    def l1_max(self, X, Y):
        """The smallest l1 with solution zero."""
        V = (X.mT @ Y / X.shape[-2]).abs()
        if self.mistake == "detached l1_max":
            V = V.detach()
        largest = V.sum((-2, -1)) if self.mistake == "a sum for a maximum" else V.amax((-2, -1))
        return largest * (0.5 if self.mistake == "half of l1_max" else 1.0)

    def solve(self, X, Y, init=None):
        self._check(X, Y)
        dtype = X.dtype
        if self.mistake == "products in the input's precision" and dtype == torch.float32:
            X = X @ torch.eye(X.shape[-1])
        if self.mistake == "takes duals apart":
            X = X + 0 * forward_ad.unpack_dual(X).primal
        if self.mistake == "reads memory":
            X = X.as_strided(X.shape, torch.empty(X.shape).stride())
        X, Y = X.double(), Y.double()
        if X.dim() == 2 and Y.dim() == 3:
            expand = (
                MeanOverBatch.apply if self.mistake == "mean over the batch" else lambda X, b: X.expand(b, *X.shape)
            )
            X = expand(X, Y.shape[0])
        l1, l2 = (torch.as_tensor(s, dtype=torch.float64)[..., None, None] for s in (self.l1, self.l2))
        if self.mistake == "detached strength":
            l1 = l1.detach()
        if self.mistake == "a mean of strengths":
            l1 = l1.mean((0, -2, -1), keepdim=True) if l1.dim() == 3 else l1
        bad = ~(X.isfinite().flatten(-2).all(-1) & Y.isfinite().flatten(-2).all(-1))[..., None, None]
        if self.mistake != "no isolation":
            X, Y = torch.where(bad, 0.0, X), torch.where(bad, 0.0, Y)
        l1, l2 = l1.expand(*Y.shape[:-2], 1, 1), l2.expand(*Y.shape[:-2], 1, 1)
        start = torch.zeros_like(X.mT @ Y) if init is None else init.coef.double().expand_as(X.mT @ Y)
        W, gap = Opaque.apply(self._minimise, X.detach(), Y.detach(), l1.detach(), l2.detach(), start.detach())
        if self.mistake == "the start is the answer" and init is not None:
            W, gap = start, torch.zeros_like(gap)
        W = self._attached(W, X, Y, l1, l2)
        W = torch.where(bad, torch.nan, W)
        if self.mistake == "NaN from zeros":
            W = W * (X.square().sum(-2)[..., None] / X.square().sum(-2)[..., None])
        W = W if self.mistake == "float64 for float32" else W.to(dtype)
        converged = gap <= 1e-9
        flag = torch.ones_like(converged) if self.mistake == "flags everything" else bad[..., 0, 0]
        return Found(W, Y - X @ W.to(X), gap, converged & ~bad[..., 0, 0], flag.int())

    def _minimise(self, X, Y, l1, l2, start):
        n = X.shape[-2]
        wrong = 2.0 if self.mistake == "1/n for 1/(2n)" else 1.0
        A, B = wrong * X.mT @ X / n, wrong * X.mT @ Y / n
        largest = torch.linalg.matrix_norm(A.nan_to_num(), 2)[..., None, None]
        if self.mistake == "no isolation":
            largest = largest.max() + 0 * A.sum()
        step = 0.99 / (largest + l2 + 1e-300)
        W = start
        V, t = W, 1.0
        for _ in range(3000):
            U = V - step * (A @ V - B + l2 * V)
            threshold = -step * l1 if self.mistake == "sign in prox" else step * l1
            before, W = W, U.sign() * (U.abs() - threshold).clamp_min(0)
            # Accelerated, restarted where the momentum points uphill.
            uphill = ((V - W) * (W - before)).sum((-2, -1), keepdim=True) > 0
            t, momentum = (1 + (1 + 4 * t * t) ** 0.5) / 2, (t - 1) / ((1 + (1 + 4 * t * t) ** 0.5) / 2)
            V = torch.where(uphill, W, W + momentum * (W - before))
            t = 1.0 if bool(uphill.any()) else t
            gap = self._gap(X, Y, W, l1, l2)
            still = (W - before).abs().amax() <= 1e-15 * W.abs().amax()
            if bool((gap <= self.tol).all()) and (bool(still) or self.mistake == "infeasible dual"):
                break
        return W, gap

    def _gap(self, X, Y, W, l1, l2):
        n = X.shape[-2]
        R = Y - X @ W
        V = X.mT @ R / n
        scale = (l1 / V.abs().amax((-2, -1), keepdim=True).clamp_min(1e-300)).clamp_max(1.0)
        scale = torch.where(l2 > 0, 1.0, scale)
        if self.mistake == "infeasible dual":
            scale = torch.ones_like(scale)
        T, V = R * scale, V * scale
        bent = (V.abs() - l1).clamp_min(0).square() / torch.where(l2 > 0, 2 * l2, 1.0)
        dual = (T * Y - T.square() / 2).sum((-2, -1)) / n - torch.where(l2 > 0, bent, 0.0).sum((-2, -1))
        primal = R.square().sum((-2, -1)) / (2 * n) + (l1 * W.abs() + l2 / 2 * W.square()).sum((-2, -1))
        null = Y.square().sum((-2, -1)) / (2 * n)
        return (primal - dual).clamp_min(0) / torch.where(null > 0, null, 1.0)

    def _attached(self, W, X, Y, l1, l2):
        """W − H⁻¹(r − r.detach()) on the support, twice for second derivatives."""
        n, m = X.shape[-2:]
        support = torch.ones_like(W, dtype=torch.bool) if self.mistake == "loose support" else W != 0
        S = support.mT[..., None].double()  # (..., k, m, 1)
        identity = torch.eye(m, dtype=torch.float64)
        ridge = 0.0 if self.mistake == "no l2 in H" else l2.detach()[..., None]
        H = (X.mT @ X / n).detach()[..., None, :, :] + ridge * identity
        inverse = torch.linalg.pinv((S * H * S.mT + (1 - S) * identity).nan_to_num(), hermitian=True)
        sign = W.sign()
        for _ in range(2):
            r = torch.where(support, X.mT @ (X @ W - Y) / n + l1 * sign + l2 * W, 0.0)
            move = (inverse @ (r - r.detach()).mT[..., None])[..., 0].mT
            W = W - torch.where(support, move, 0.0)
        return W

    def _check(self, X, Y):
        for name in ("l1", "l2"):
            value = getattr(self, name)
            if isinstance(value, float) and value < 0:
                raise ValueError(f"{name}: given {value}, expected a number ≥ 0")
        if not X.is_floating_point() or X.dim() < 2 or 0 in X.shape[-2:]:
            raise ValueError(f"X: given {X.dtype} {tuple(X.shape)}, expected floats (..., n, m)")
        if Y.dim() < 2 or Y.shape[-2] != X.shape[-2]:
            raise ValueError(f"Y: given {tuple(Y.shape)}, expected (..., {X.shape[-2]}, k), as many samples as X has")


@dataclass
class WithIntercept:
    """The elastic net with an intercept b, by centring; (X, Y) -> (W, b)."""

    l1: float | Tensor = 0.0
    l2: float | Tensor = 0.0
    mistake: str = ""

    def __call__(self, X, Y):
        bad = ~(X.isfinite().flatten(-2).all(-1) & Y.isfinite().flatten(-2).all(-1))[..., None, None]
        if self.mistake != "an intercept that is not masked":
            X, Y = torch.where(bad, 0.0, X), torch.where(bad, 0.0, Y)
        x, y = X.mean(-2, keepdim=True), Y.mean(-2, keepdim=True)
        A = X - x
        if self.mistake != "a rounding becomes a feature":
            A = torch.where(A.abs().amax(-2, keepdim=True) <= 1e-14 * x.abs(), 0.0, A)
        scale = A.detach().square().mean(-2, keepdim=True).sqrt()
        scale = torch.where((scale > 0) & (scale < 1e-12), scale, 1.0)
        W = ElasticNet(self.l1, self.l2)(A / scale, Y - y) / scale.mT
        if self.mistake == "centred after":
            W = ElasticNet(self.l1, self.l2)(X, Y)
        b = (y - x @ W)[..., 0, :]
        return torch.where(bad, torch.nan, W), torch.where(bad[..., 0], torch.nan, b)


@dataclass
class Simplex:
    """min Σ ½‖xᵢW − yᵢ‖²/n + (l2/2)‖W‖², W ≥ 0 with columns of sum ``total``, by projected gradient steps; values."""

    total: float | Tensor
    l2: float | Tensor = 0.0
    mistake: str = ""

    def __call__(self, X, Y):
        n, m = X.shape[-2:]
        total, l2 = (torch.as_tensor(s, dtype=torch.float64)[..., None, None] for s in (self.total, self.l2))
        A, B = X.mT @ X / n, X.mT @ Y / n
        step = 1 / (torch.linalg.matrix_norm(A, 2)[..., None, None] + l2 + 1e-300)
        W = total / m + 0 * B
        for _ in range(5000):
            before, W = W, simplex_projection((W - step * (A @ W - B + l2 * W)).mT, total).mT
            if bool(((W - before).abs() <= 1e-14 * total).all()):
                break
        if self.mistake == "zero where there is nothing to fit":
            W = torch.where((Y == 0).all(-2, keepdim=True).all(-1, keepdim=True), 0.0, W)
        return W - 1e-6 * total if self.mistake == "a step after the projection" else W


def ridge(X, Y, l2=0.1):
    """Ridge regression in closed form, with no look at its arguments."""
    identity = torch.eye(X.shape[-1], dtype=X.dtype)
    return torch.linalg.inv(X.mT @ X / X.shape[-2] + l2 * identity) @ (X.mT @ Y / X.shape[-2])
