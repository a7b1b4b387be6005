"""Squared loss on few features, one group per feature: everything in the Gram matrix of the features.

    P(W) = ½Σᵢ s̄ᵢ‖yᵢ‖² − ⟨C, W⟩ + ½⟨W, GW⟩ + Σ_j l1_j‖W_j‖ + (l2/2)‖W‖²,    G = Xᵀ diag(s̄) X,  C = Xᵀ diag(s̄) Y

Nothing here reads a sample, whatever their number. Rounds of accelerated proximal gradient steps, one product with a
matrix each, come near the support (Beck and Teboulle, 2009); Newton's on the normal map (see `NormalMap`) then ends at
rounding. Its systems are solved by conjugate gradients on all targets at once, with one factorisation of the size of
the support: every row's derivative of prox is replaced by its mean, which for one target is exact.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..curvature import Entrywise
from ..features import Support
from ..linear import Factor, factorise
from ..losses import Squared
from ..penalties import L1, GroupL2
from ..problem import Problem, penalty_gap, relative
from ..products import gram
from . import clock
from .batch import few, pick, put

# Features per equation, of which there are at least as many as features in use, and features altogether, up to which
# their Gram matrix costs less than the products with X that it saves.
PER_EQUATION, MOST = 4, 1000
# Gradient steps of the first round, by how much every further one is longer, and the number of rounds.
STEPS, LONGER, ROUNDS = 40, 2, 5
# Newton steps after each round; every one must lower the gap to this share, down to rounding.
NEWTON_STEPS, FALL, ROUNDING = 8, 0.5, 1e-15
# What rounding may add to the objective, relative to P(0) and to itself.
SLACK = 1e-13
# The gap below which Newton's method is tried first, and the share of its gap then at which it is tried again.
NEAR, AGAIN = 0.1, 0.3
# Conjugate gradients: how many, and the reduction of the residual, which is the root of the gap within these bounds.
CG_STEPS, CG_REDUCTION = 25, (1e-8, 0.1)
# The power method takes so many steps, and what it may have missed is made up for by a factor.
POWER_STEPS, POWER_FACTOR = 4, 1.5


class _Quadratic(NamedTuple):
    """G (b, S, S), C (b, S, k), Σᵢ s̄ᵢ‖yᵢ‖² (b,), the penalty and l2 (b,); and ``thin`` A (b, n, S) with AᵀA = G, where
    a product with both costs less than one with G, else of no rows.
    """

    G: Tensor
    thin: Tensor
    C: Tensor
    square: Tensor
    penalty: L1 | GroupL2
    l2: Tensor

    @property
    def ridge(self) -> Tensor:
        """l2 (b, 1, 1)."""
        return self.l2[:, None, None]

    def times(self, W: Tensor) -> Tensor:
        """GW, (b, S, k), columns contiguous in memory."""
        if self.thin.shape[1]:
            return (W.mT @ self.thin.mT @ self.thin).mT
        return (W.mT @ self.G).mT

    def at(self, W: Tensor) -> "_At":
        """W with its V and its gap: `Problem.gap` with ‖θ‖² = Σᵢ s̄ᵢ‖yᵢ‖² − ⟨C + V, W⟩."""
        V = self.C - self.times(W)
        scale = torch.where(self.l2 > 0, 1.0, self.penalty.feasible_scale(V))
        theta = (self.square - ((self.C + V) * W).sum((1, 2))).clamp_min(0)
        value = (theta + (self.ridge * W * W).sum((1, 2))) / 2 + self.penalty.value(W)
        gap = (1 - scale).square() * theta / 2
        gap = gap + penalty_gap(self.penalty, self.l2, self.ridge, W, V * scale[:, None, None])
        return _At(W, V, relative(value, self.square / 2), relative(gap, self.square / 2))

    def least(self, enough: Tensor) -> Tensor:
        """The gap at which Newton's method ends, (b,): that of rounding, which with a ridge is its square."""
        return torch.maximum(enough, torch.where(self.l2 > 0, ROUNDING**2, torch.full_like(self.l2, ROUNDING)))

    def step(self) -> Tensor:
        """1/L, (b,), with L about the largest eigenvalue of G + l2·I, rather above."""
        x = torch.arange(1.0, self.G.shape[-1] + 1, dtype=self.G.dtype, device=self.G.device).cos()
        x = x[:, None].expand_as(self.C[..., :1])
        for _ in range(POWER_STEPS):
            size = x.square().sum((1, 2)).sqrt()
            x = self.times(x / torch.where(size > 0, size, 1.0)[:, None, None])
        about = POWER_FACTOR * x.square().sum((1, 2)).sqrt()
        largest = torch.minimum(about, self.G.abs().sum(-1).amax(-1))
        largest = torch.maximum(largest, self.G.diagonal(dim1=1, dim2=2).amax(-1)) + self.l2
        return torch.where(largest > 0, 1 / torch.where(largest > 0, largest, 1.0), 1.0)


class _At(NamedTuple):
    """Coefficients and their V (b, S, k), P and the gap, relative to P(0), (b,)."""

    W: Tensor
    V: Tensor
    value: Tensor
    gap: Tensor

    def where(self, use: Tensor, other: "_At") -> "_At":
        """Itself where ``use`` (b,) is true, else the other."""
        rows = use[:, None, None]
        W, V = torch.where(rows, self.W, other.W), torch.where(rows, self.V, other.V)
        return _At(W, V, torch.where(use, self.value, other.value), torch.where(use, self.gap, other.gap))

    def is_below(self, other: "_At") -> Tensor:
        """Whether the objective is no higher, but for rounding, (b,); NaN is not."""
        return self.value <= other.value + SLACK * (1 + other.value)


class Found(NamedTuple):
    """Coefficients (b, S, k), the relative gap (b,) on these features, and the steps (b,)."""

    coef: Tensor
    gap: Tensor
    n_iter: Tensor


def serves(problem: Problem) -> bool:
    """Whether the problem is one of those above."""
    return isinstance(problem.loss, Squared) and isinstance(problem.penalty, L1 | GroupL2)


def pays(problem: Problem) -> bool:
    """Whether it is, and the Gram matrix of all features is small enough."""
    n, m = problem.X.shape[-2:]
    equations = n * problem.Y.shape[-1] if isinstance(problem.penalty, GroupL2) else n
    return serves(problem) and 0 < m <= min(MOST, PER_EQUATION * equations)


def search(problem: Problem, start: Tensor, tol: Tensor, enough: Tensor, max_iter: Tensor) -> Found:
    """From coefficients ``start`` (b, S, k) to a gap of at most ``tol`` (b,), if that comes easily.

    Newton's method goes on to a gap that is ``enough`` (b,), or rounding. A round counts as one step.
    """
    square = (problem.weight[..., None] * problem.Y.square()).sum(1)
    penalty = problem.penalty
    assert isinstance(penalty, L1 | GroupL2)
    G, C = gram(problem.X.mT, problem.weight), problem.correlation(problem.Y)
    n, m = problem.X.shape[-2:]
    thin = problem.weight.sqrt()[..., None] * problem.X if 2 * n < m else G[:, :0]
    whole = _Quadratic(G, thin, C, square.sum(-1), penalty, problem.l2)
    limits = _Limits(tol, enough, max_iter)
    if isinstance(penalty, L1) and problem.Y.shape[-1] > 1:
        return _by_targets(whole, square, start, limits)
    grouped = penalty if isinstance(penalty, GroupL2) else GroupL2(penalty.l1[:, None])
    return _search(whole._replace(penalty=grouped), start, limits)


def _by_targets(whole: _Quadratic, square: Tensor, start: Tensor, limits: "_Limits") -> Found:
    """The Lasso: every target is a problem of its own, and its entries are groups of one; ``square`` (b, k).

    One dual point certifies them all, scaled until it is feasible for the worst: they are solved once more, to
    rounding, where that takes too much from the others.
    """
    G, thin, C, _, penalty, l2 = whole
    assert isinstance(penalty, L1)
    k = C.shape[-1]
    repeated = (t.repeat_interleave(k, 0) for t in (G, thin, penalty.l1[:, None], l2))
    G, thin, l1, l2 = repeated
    columns = _Quadratic(G, thin, _to_columns(C), square.flatten(), GroupL2(l1), l2)
    at, n_iter = whole.at(start), torch.zeros_like(limits.max_iter)
    for share in (1.0, 0.0):
        todo = (at.gap > limits.tol) & (n_iter < limits.max_iter)
        if not todo.any():
            break
        # Near the end, at a start that somebody knows, going to rounding at once costs a step and saves one.
        each = torch.where(at.gap < NEAR, 0.0, share * limits.tol).clamp_min(ROUNDING)
        tol = torch.where(todo, each, torch.inf)
        part = _Limits(*(t.repeat_interleave(k, 0) for t in (tol, limits.enough, limits.max_iter - n_iter)))
        found = _search(columns, _to_columns(at.W), part)
        at = whole.at(found.coef.unflatten(0, (-1, k))[..., 0].mT)
        n_iter = n_iter + found.n_iter.unflatten(0, (-1, k)).amax(-1)
    return Found(at.W, at.gap, n_iter)


def _to_columns(A: Tensor) -> Tensor:
    """(b, p, k) as (b·k, p, 1)."""
    return A.mT.flatten(0, 1)[..., None]


def _search(quadratic: _Quadratic, start: Tensor, limits: "_Limits") -> Found:
    """The same, in groups."""
    at, step = quadratic.at(start), quadratic.step()
    # Beside a solution on other features Newton's method often needs no gradient steps.
    near = (at.gap > limits.tol) & (at.gap < NEAR)
    tried = torch.where(near, at.gap, torch.inf)
    at = _newton(quadratic, at, step, limits.enough, near, NEWTON_STEPS)
    # They count as a step where they suffice, and else as a part of the first round.
    n_iter = (near & (at.gap <= limits.tol)).to(limits.max_iter.dtype)
    at, n_iter = _rounds(_State(quadratic, at, step, limits, tried, n_iter), 0)
    return Found(at.W, at.gap, n_iter)


class _Limits(NamedTuple):
    """See `search`, (b,) each."""

    tol: Tensor
    enough: Tensor
    max_iter: Tensor


class _State(NamedTuple):
    """The problem, the point, the step length τ (b,), the limits, the gap at which Newton's method was last ``tried``
    (b,), and the steps so far (b,).
    """

    quadratic: _Quadratic
    at: _At
    step: Tensor
    limits: _Limits
    tried: Tensor
    n_iter: Tensor


def _rounds(state: _State, number: int) -> tuple[_At, Tensor]:
    """Rounds from this ``number`` on, until every element is done; and the steps.

    Points are judged by the objective: with a small ridge the gap may grow for a long time while that falls.
    """
    quadratic, at, step, limits, tried, n_iter = state
    while (
        number < ROUNDS and (live := (at.gap > limits.tol) & (n_iter < limits.max_iter)).any() and not clock.is_over()
    ):
        if (some := few(live)) is not None:
            part = _rounds(pick(_State(quadratic, at, step, limits, tried, n_iter), some), number)
            return put((at, n_iter), some, part)
        new = quadratic.at(_descend(quadratic, at.W, step, STEPS * LONGER**number))
        fallen = new.is_below(at)
        # Where it has risen the power method has missed the largest eigenvalue.
        at, step = new.where(fallen & live, at), torch.where(fallen, step, step / 2)
        going = live & (at.gap > quadratic.least(limits.enough)) & (at.gap < (AGAIN * tried).maximum(limits.tol))
        tried = torch.where(going, at.gap, tried)
        at = _newton(quadratic, at, step, limits.enough, going, NEWTON_STEPS)
        n_iter, number = n_iter + live.to(n_iter.dtype), number + 1
    return at, n_iter


def _descend(quadratic: _Quadratic, W: Tensor, step: Tensor, steps: int) -> Tensor:
    """Coefficients (b, S, k) after so many accelerated proximal gradient steps."""
    forward, ahead = _forward(quadratic, step), W
    for i in range(steps):
        new = quadratic.penalty.prox(forward(ahead), step)
        # New and i/(i + 3) of what was moved.
        W, ahead = new, torch.lerp(W, new, 1 + i / (i + 3))
    return W


def _forward(quadratic: _Quadratic, step: Tensor) -> Callable[[Tensor], Tensor]:
    """W ↦ W − τ∇f(W), f the loss and the ridge, in as few calls as possible."""
    tau, thin = step[:, None, None], quadratic.thin
    offset, kept = (tau * quadratic.C).mT.contiguous(), 1 - tau * quadratic.ridge
    if thin.shape[1]:
        shorter = -tau * thin
        return lambda W: torch.baddbmm(torch.addcmul(offset, kept, W.mT), W.mT @ thin.mT, shorter).mT
    matrix = -tau * quadratic.G
    matrix.diagonal(dim1=1, dim2=2).add_(kept[..., 0])
    return lambda W: torch.baddbmm(offset, W.mT, matrix).mT


def _newton(quadratic: _Quadratic, at: _At, step: Tensor, enough: Tensor, going: Tensor, most: int) -> _At:
    """After at most ``most`` Newton steps of the elements ``going`` (b,)."""
    while most and going.any() and not clock.is_over():
        if (some := few(going)) is not None:
            return put(at, some, _newton(*pick((quadratic, at, step, enough, going), some), most))
        new, most = quadratic.at(_newton_step(quadratic, at, step, going)), most - 1
        # The last step ties at rounding, and is the better one.
        fallen = going & (new.gap <= at.gap + ROUNDING) & new.is_below(at)
        going = fallen & (new.gap < FALL * at.gap) & (new.gap > quadratic.least(enough))
        at = new.where(fallen, at)
    return at


def _newton_step(quadratic: _Quadratic, at: _At, step: Tensor, going: Tensor) -> Tensor:
    """Coefficients (b, S, k) after a step from v = W − τ∇f(W) on the support of prox(v)."""
    tau = step[:, None, None]
    v = at.W + tau * (at.V - quadratic.ridge * at.W)
    support = Support.of(quadratic.penalty.support(v, step) & going[:, None])
    v, C = support.take(v.mT).mT, support.take(quadratic.C.mT).mT
    penalty = quadratic.penalty.take(support)
    assert isinstance(penalty, GroupL2)
    system = _system(quadratic, penalty, v, step, support)
    W = penalty.prox(v, step)
    r = v - W - tau * C + system.times(W)
    v = v - system.solve(r, at.gap.sqrt().clamp(*CG_REDUCTION))
    return support.put(penalty.prox(v, step), at.W.shape[1])


class _System(NamedTuple):
    """N = I − B + B^½ H B^½, H = τ(G + l2·I) (b, A, A), on rows (b, A, k): ``across`` is that factor of B, (b, A, 1),
    ``unit`` u; ``factor`` is that of what N is for the mean of B's eigenvalues in each row.
    """

    H: Tensor
    across: Tensor
    unit: Tensor
    factor: Factor

    def times(self, D: Tensor) -> Tensor:
        """HD."""
        return (D.mT @ self.H).mT

    def power(self, D: Tensor, power: float) -> Tensor:
        """B^power D; B is one along u, and on rows that are none."""
        a = self.across.pow(power)
        return a * D + (1 - a) * self.unit * (self.unit * D).sum(-1, keepdim=True)

    def product(self, D: Tensor) -> Tensor:
        """ND."""
        return D - self.power(D, 1.0) + self.power(self.times(self.power(D, 0.5)), 0.5)

    def solve(self, r: Tensor, reduction: Tensor) -> Tensor:
        """J⁻¹r = B^(−½) N⁻¹ B^(½) r by conjugate gradients, until the residual has fallen by ``reduction`` (b,)."""
        if r.shape[-1] == 1:
            return self.factor.solve(r)
        R = self.power(r, 0.5)
        X = torch.zeros_like(R)
        D = Z = self.factor.solve(R)
        rz = _dot(R, Z)
        enough = rz * reduction[:, None, None].square()
        for _ in range(CG_STEPS):
            ND = self.product(D)
            curvature = _dot(D, ND)
            length = torch.where(curvature > 0, rz / torch.where(curvature > 0, curvature, 1.0), 0.0)
            X, R = X + length * D, R - length * ND
            Z = self.factor.solve(R)
            rz, before = _dot(R, Z), rz
            if (rz <= enough).all():
                break
            D = Z + rz / torch.where(before > 0, before, 1.0) * D
        return self.power(X, -0.5)


def _system(quadratic: _Quadratic, penalty: GroupL2, v: Tensor, step: Tensor, support: Support) -> _System:
    tau, real = step[:, None, None], support.real[..., None]
    H = tau * support.take(support.take(quadratic.G).mT)
    H.diagonal(dim1=1, dim2=2).add_(torch.where(support.real, (tau * quadratic.ridge)[..., 0], 1.0))
    bend = penalty.curvature(v, step)
    if isinstance(bend, Entrywise):
        return _System(H, bend.factor, bend.unit, factorise(H))
    across = torch.where(real, bend.across[..., :1], 1.0)
    unit = torch.where(real, bend.unit, 0.0)
    k = v.shape[-1]
    mean = ((k - 1) * across + 1) / k
    N = H * mean.sqrt() * mean.sqrt().mT
    N.diagonal(dim1=1, dim2=2).add_((1 - mean)[..., 0])
    return _System(H, across, unit, factorise(N))


def _dot(A: Tensor, B: Tensor) -> Tensor:
    return (A * B).sum((-2, -1), keepdim=True)
