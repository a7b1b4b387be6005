"""The dual point of smallest norm, min over Λ of max_j ‖V_j‖, by a primal-dual interior point.

    minimise t    with (t, V_j) in the second-order cone Q for every j,    V = Xᵀ(s̄Y − L),  L = s̄Λ ≥ 0,  L1 = s̄
    maximise Σᵢ s̄ᵢ (u_{i,yᵢ} − max_l u_il),  u = XU,    with multipliers (z_j, −U_j) in Q,  Σ_j z_j = 1

Multipliers are y_il = νᵢ − u_il ≥ 0 for L, with some ν. Each step solves the linearised conditions s_j ∘ z_j = μe and
L y = μ in the scaling of Nesterov and Todd (1997), with the corrector of Mehrotra (1992), μ → 0.

Cones are tensors (b, 1 + k, m), their first row the axis; e = (1, 0) and x ∘ z = (⟨x, z⟩, x₀z₁ + z₀x₁).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..domains import Simplex
from ..dual_face import edge_gram, within_samples
from ..features import gathered
from ..linear import cholesky
from ..penalties import row_norm
from ..products import product, transposed_product

# The most steps, the share of the way to the boundary, and the relative distance of the bounds that is small enough.
STEPS, BOUNDARY, PRECISION = 60, 0.99, 1e-9
# A distance that is rounding where the first upper bound is one; steps that do not lessen it, after which all end.
ROUNDING, PATIENCE = 1e-13, 10
# t begins so far outside of the longest V_j. Features take part from this share of t on; all, where they are so many.
FIRST, NEAR, WHOLE_FROM = 1.05, 0.8, 0.9
# The largest system; and the entries of the systems that are in memory at a time, if they are not those of one.
LARGEST, TOGETHER = 5000, 2**23


class Bounds(NamedTuple):
    """The U (b, m, k) of the best lower bound (b,), and the Λ (b, n, k) of the best upper one."""

    U: Tensor
    Lambda: Tensor
    lower: Tensor
    upper: Tensor

    def better(self, new: "Bounds") -> "Bounds":
        """Of each bound the better one, with what proves it; NaN is none."""
        rises, falls = new.lower > self.lower, new.upper < self.upper
        return Bounds(
            torch.where(rises[:, None, None], new.U, self.U),
            torch.where(falls[:, None, None], new.Lambda, self.Lambda),
            torch.where(rises, new.lower, self.lower),
            torch.where(falls, new.upper, self.upper),
        )


def is_small(Y: Tensor) -> bool:
    """Whether the system is worth it, for Y (b, n, k)."""
    n, k = Y.shape[-2:]
    return n * (k - 2) <= LARGEST


def minimise(X: Tensor, Y: Tensor, weight: Tensor, allowed: Tensor) -> Bounds:
    """Bounds that meet, with Λ positive on classes that are ``allowed`` (b, n, k) only; the first upper one about one.

    A sample of weight zero is at its worst class: the right one-sided derivative with respect to its weight.
    """
    n, k = Y.shape[-2:]
    together = max(1, TOGETHER // max(1, n * (k - 2)) ** 2)
    parts = zip(*(t.split(together) for t in (X, Y, weight, allowed)), strict=True)
    found = Bounds(*map(torch.cat, zip(*(_minimise(*part) for part in parts), strict=True)))
    scores = torch.where(allowed, product(X, found.U), -torch.inf)
    worst = torch.zeros_like(Y).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
    return found._replace(Lambda=torch.where((weight > 0)[..., None], found.Lambda, worst))


def _minimise(X: Tensor, Y: Tensor, weight: Tensor, allowed: Tensor) -> Bounds:
    search = _Search(X, Y, weight, allowed)
    for _ in range(STEPS):
        if not search.look().any():
            break
        search.step()
    return search.best


class _Scaling(NamedTuple):
    """W = η [w₀, w₁ᵀ; w₁, I + w₁w₁ᵀ/(1 + w₀)], w (b, 1 + k, m) with w₀² − ‖w₁‖² = 1, η (b, 1, m): Wz = W⁻¹s."""

    w: Tensor
    eta: Tensor

    @classmethod
    def of(cls, s: Tensor, z: Tensor) -> "_Scaling":
        """With s and z of determinant one, w = (s + Jz)/√(2 + 2⟨s, z⟩), J the reflection at the axis."""
        det_s, det_z = _determinant(s), _determinant(z)
        s, z = s / det_s.sqrt(), z / det_z.sqrt()
        w = (s + _reflected(z)) / (2 + 2 * (s * z).sum(-2, keepdim=True)).sqrt()
        return cls(w, (det_s / det_z).pow(0.25))

    @property
    def inverse(self) -> "_Scaling":
        return _Scaling(_reflected(self.w), 1 / self.eta)

    def __call__(self, x: Tensor) -> Tensor:
        (w0, w1), (x0, x1) = _parts(self.w), _parts(x)
        inner = (w1 * x1).sum(-2, keepdim=True)
        return self.eta * torch.cat([w0 * x0 + inner, x1 + w1 * (x0 + inner / (1 + w0))], -2)


def _cones(axis: Tensor, tail: Tensor) -> Tensor:
    """(b, 1 + k, m) of an axis (b,) and a tail (b, k, m)."""
    return torch.cat([axis[:, None, None].expand_as(tail[:, :1]), tail], -2)


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :1], x[:, 1:]


def _reflected(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1], -x[:, 1:]], -2)


def _determinant(x: Tensor) -> Tensor:
    """x₀² − ‖x₁‖², (b, 1, m)."""
    head, tail = _parts(x)
    length = tail.square().sum(-2, keepdim=True).sqrt()
    return (head - length) * (head + length)


def _inverse(x: Tensor) -> Tensor:
    """The z with x ∘ z = e."""
    return _reflected(x) / _determinant(x)


def _axis(x: Tensor) -> Tensor:
    """e, (1 + k, 1)."""
    return torch.eye(x.shape[-2], 1, dtype=x.dtype, device=x.device)


def _times(x: Tensor, z: Tensor) -> Tensor:
    """The product x ∘ z."""
    (x0, x1), (z0, z1) = _parts(x), _parts(z)
    return torch.cat([(x * z).sum(-2, keepdim=True), x0 * z1 + z0 * x1], -2)


def _divided(r: Tensor, x: Tensor) -> Tensor:
    """The z with x ∘ z = r."""
    (x0, x1), (r0, r1) = _parts(x), _parts(r)
    z0 = (x0 * r0 - (x1 * r1).sum(-2, keepdim=True)) / _determinant(x)
    return torch.cat([z0, (r1 - z0 * x1) / x0], -2)


def _to_boundary(x: Tensor, dx: Tensor) -> Tensor:
    """The longest step along dx within the cones, (b,): the first root a > 0 of c + 2βa + γa² = det(x + a·dx)."""
    (x0, x1), (d0, d1) = _parts(x), _parts(dx)
    beta, gamma, c = x0 * d0 - (x1 * d1).sum(-2, keepdim=True), _determinant(dx), _determinant(x)
    root = (beta.square() - gamma * c).sqrt()
    # c and the negative square root are never small both at a time; NaN, of a negative square, compares false.
    first = torch.where(beta < 0, c / (root - beta), -(beta + root) / gamma)
    return torch.where(first > 0, first, torch.inf).amin((-2, -1))


def _to_zero(x: Tensor, dx: Tensor) -> Tensor:
    """The longest step along dx (b, n, k) with x ≥ 0, (b,)."""
    return torch.where(dx < 0, -x / torch.where(dx < 0, dx, 1.0), torch.inf).amin((-2, -1))


class _Step(NamedTuple):
    """A change of t (b,), L and y (b, n, k), the cones s of the features in use, and their multipliers z."""

    t: Tensor
    L: Tensor
    y: Tensor
    s: Tensor
    z: Tensor


class _Search:
    """A point within all cones, and the best bounds that were seen."""

    def __init__(self, X: Tensor, Y: Tensor, weight: Tensor, allowed: Tensor) -> None:
        self.X, self.Y, self.weight, self.allowed = X, Y, weight, allowed
        self.free = allowed & (weight > 0)[..., None]
        Lambda = allowed.to(Y.dtype) / allowed.sum(-1, keepdim=True)
        self.L = weight[..., None] * Lambda
        self.V = transposed_product(X, weight[..., None] * Y - self.L)
        norms = row_norm(self.V)
        upper = norms.amax(-1)
        # Where Λ cannot move these bounds meet. U = 0 proves that l1_max is not negative.
        longest = torch.where((norms >= upper[:, None])[..., None], self.V, 0.0)
        nothing = Bounds(torch.zeros_like(longest), Lambda, torch.zeros_like(upper), upper)
        self.best = nothing.better(nothing._replace(U=longest, lower=self._ratio(longest, product(X, longest))))
        self.t = FIRST * torch.where(upper > 0, upper, 1.0)
        self.chosen = norms >= NEAR * self.t[:, None]
        self.features = gathered(self.chosen, WHOLE_FROM)
        self.used = self.features.take(X)
        inverse = _inverse(self.s)
        # In the centre, and with multipliers that add up.
        self.mu = 1 / inverse[:, 0].sum(-1)
        self.z = self.mu[:, None, None] * inverse
        self.y = torch.where(self.free, self.mu[:, None, None] / torch.where(self.free, self.L, 1.0), 0.0)
        self.idle = 0

    @property
    def s(self) -> Tensor:
        """(t, V_j) of the features in use, (b, 1 + k, S)."""
        return _cones(self.t, self.features.take(self.V.mT))

    def look(self) -> Tensor:
        """Take note of the bounds; the elements (b,) to go on with."""
        U = -self.z[:, 1:].mT
        lower = self._ratio(U, product(self.used, U))
        upper = row_norm(self.V).amax(-1)
        Lambda = torch.where(self.weight[..., None] > 0, self.L / self.L.sum(-1, keepdim=True), self.best.Lambda)
        before = self.best.upper - self.best.lower
        self.best = self.best.better(Bounds(self.features.put(U, self.X.shape[-1]), Lambda, lower, upper))
        gap = self.best.upper - self.best.lower
        # NaN compares false: an element that rounding has ended stays as good as it was.
        live = (gap > PRECISION * self.best.upper + ROUNDING) & (self.t > 0)
        self.idle = 0 if (live & (gap < 0.9 * before)).any() else self.idle + 1
        return live & (self.idle <= PATIENCE)

    def _ratio(self, U: Tensor, scores: Tensor) -> Tensor:
        """Σᵢ s̄ᵢ (u_{i,yᵢ} − max_l u_il)/Σ_j ‖U_j‖, (b,)."""
        size = row_norm(U).sum(-1)
        margin = (self.Y * scores).sum(-1) - torch.where(self.allowed, scores, -torch.inf).amax(-1)
        return (self.weight * margin).sum(-1) / torch.where(size > 0, size, 1.0)

    def step(self) -> None:
        """Predictor, corrector, and as far as the boundaries allow; where bounds have met, to no effect."""
        s = self.s
        W = _Scaling.of(s, self.z)
        system = _System(self, s, W)
        nothing = torch.zeros_like(s)
        affine = system.step(nothing, torch.zeros_like(self.L))
        length = torch.minimum(*self._lengths(affine, s)).clamp_max(1)
        count = s.shape[-1] + self.free.sum((1, 2))
        mu = ((s * self.z).sum((1, 2)) + (self.L * self.y).sum((1, 2))) / count
        self.mu = aim = (1 - length) ** 3 * mu
        bent = aim[:, None, None] * _axis(s) - _times(W.inverse(affine.s), W(affine.z))
        z = W.inverse(_divided(bent, W(self.z)))
        L = torch.where(self.free, self.L, 1.0)
        y = torch.where(self.free, (aim[:, None, None] - affine.L * affine.y) / L, 0.0)
        self._move(system.step(z, y), s)

    def _lengths(self, step: _Step, s: Tensor) -> tuple[Tensor, Tensor]:
        """Of the longest steps in s and L, and in z and y."""
        primal = torch.minimum(_to_boundary(s, step.s), _to_zero(self.L, step.L))
        return primal, torch.minimum(_to_boundary(self.z, step.z), _to_zero(self.y, step.y))

    def _move(self, step: _Step, s: Tensor) -> None:
        """As far as no feature, in use or not, leaves its cone; those that have come near are in use from then on."""
        primal, dual = self._lengths(step, s)
        dV = -transposed_product(self.X, step.L)
        primal = torch.minimum(primal, _to_boundary(_cones(self.t, self.V.mT), _cones(step.t, dV.mT)))
        primal, dual = ((BOUNDARY * a).clamp_max(1)[:, None, None] for a in (primal, dual))
        self.t = self.t + primal[:, 0, 0] * step.t
        self.L, self.V = self.L + primal * step.L, self.V + primal * dV
        self.z, self.y = self.z + dual * step.z, self.y + dual * step.y
        self._choose()

    def _choose(self) -> None:
        """Take features that have come near into use, in the centre of their cones."""
        chosen = self.chosen | (row_norm(self.V) >= NEAR * self.t[:, None])
        if torch.equal(chosen, self.chosen):
            return
        z = self.features.put(self.z.mT, self.X.shape[-1])
        self.chosen, self.features = chosen, gathered(chosen, WHOLE_FROM)
        self.used, z = self.features.take(self.X), self.features.take(z.mT)
        self.z = torch.where(z[:, :1] > 0, z, self.mu[:, None, None] * _inverse(self.s))


class _System:
    """The linearised conditions at a point, reduced to L along edges and t.

    With (p, a; a, C) = W⁻² of a cone, C = (I + 2w₁w₁ᵀ)/η², T the edges, and aims ẑ, ŷ for z and y less what follows
    ds = (dt, dV) and dL,

        dz = ẑ − z − W⁻²ds,    dy = ŷ − y − (y/L)dL,
        [Tᵀ(X C Xᵀ + y/L)T, −b; −bᵀ, Σp] (dL, dt) = (−Tᵀ(Xẑ₁ − ŷ), Σẑ₀ − 1),    b = TᵀXa.
    """

    def __init__(self, at: _Search, s: Tensor, W: _Scaling) -> None:
        self.at, self.W = at, W
        self.ratio = torch.where(at.free, at.y / torch.where(at.free, at.L, 1.0), 0.0)
        self.edges = Simplex(at.allowed).edges(at.L, at.weight > 0)
        w0, w1 = _parts(W.w)
        alpha = W.eta[:, 0].square().reciprocal()
        M = edge_gram(at.used, alpha, (2**0.5 * w1 / W.eta).mT, self.edges) + within_samples(self.edges, self.ratio)
        scale = M.diagonal(dim1=-2, dim2=-1).rsqrt()[..., None]
        self.scale, self.lower = scale, cholesky(scale * M * scale.mT)
        self.b = self._along(-2 * alpha[:, None] * w0 * w1)
        self.solved_b = self._solve(self.b)
        self.schur = ((2 * w0[:, 0].square() - 1) * alpha).sum(-1) - (self.b * self.solved_b).sum(-1)

    def step(self, z: Tensor, y: Tensor) -> _Step:
        """Towards these aims."""
        at = self.at
        g = -self._along(z[:, 1:], y)
        solved = self._solve(g)
        dt = (z[:, 0].sum(-1) - 1 + (self.b * solved).sum(-1)) / self.schur
        moved = (solved + self.solved_b * dt[:, None])[..., None] * self.edges.direction
        index = self.edges.sample[..., None].expand_as(moved)
        dL = torch.zeros_like(at.L).scatter_add(-2, index, moved)
        ds = _cones(dt, -transposed_product(at.used, dL).mT)
        dz = z - at.z - self.W.inverse(self.W.inverse(ds))
        return _Step(dt, dL, y - at.y - self.ratio * dL, ds, dz)

    def _along(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Tᵀ(Xz − y), (b, E)."""
        slope = product(self.at.used, z.mT)
        slope = slope if y is None else slope - y
        index = self.edges.sample[..., None].expand_as(self.edges.direction)
        return (slope.gather(-2, index) * self.edges.direction).sum(-1)

    def _solve(self, r: Tensor) -> Tensor:
        return (self.scale * torch.cholesky_solve(self.scale * r[..., None], self.lower))[..., 0]
