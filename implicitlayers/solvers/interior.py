"""A primal-dual interior point for the hinge with group Lasso and ridge: as many steps, however ill conditioned.

    minimise over L = s̄Λ ≥ 0, L1 = s̄:    ⟨L, Y⟩ + (γ/2) Σᵢ s̄ᵢ‖λᵢ − yᵢ‖² + R*(V),    V = Xᵀ(s̄Y − L)

Newton's method on the dual creeps along where few features are in use: the Hessian is then singular on the faces that
it tries. Here all classes stay free until what is zero and what is not lie far apart. The groups' thresholds are
inequalities, too: with ω_j ≥ 0 for ‖W_j‖ over that of a subgradient, the optimum is where

    W_j = ω_j/(1 + l2·ω_j)·V_j,    q_j = l1_j(1 + l2·ω_j) − ‖V_j‖ ≥ 0,    l1_j·ω_j·q_j = 0
    y_il = νᵢ + Y_il + γ(λ_il − Y_il) − (XW)_il ≥ 0 for some ν,    L_il·y_il = 0

since either ω_j = 0 or ‖V_j‖ = l1_j(1 + l2·ω_j), that is ‖V_j‖ − l1_j = l2·‖W_j‖. The products become μ instead of 0;
each step linearises all, with the predictor and the corrector of Mehrotra (1992), and μ → 0. W moves with V by

    dW_j = G_j dV_j + h_j u_j,    G_j = α_j I + β_j u_j u_jᵀ,  u_j = V_j/‖V_j‖,  α_j = ω_j/(1 + l2·ω_j),
    β_j = ‖V_j‖ ω_j/((1 + l2·ω_j)²(q_j + l1_j·l2·ω_j))

where h_j is what ω_j q_j lacks: as q_j → 0 it is the derivative of prox, as ω_j → 0 it is zero, and no digits cancel on
the way. (In the scaling of Nesterov and Todd second-order cones come to half the digits.) A feature with l1_j = 0 has
no threshold, and W_j = V_j/l2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..domains import Simplex
from ..features import AllFeatures, Features, Support
from ..penalties import GroupL2, row_norm
from ..problem import Problem, relative
from ..products import product, transposed_product
from . import clock
from .batch import few, pick, put
from .newton_system import DualSystem, Groups, PrimalSystem, primal_is_smaller, size_of

# The share of the way to the boundary, and of the centre in the first Λ.
BOUNDARY, CENTRE = 0.99, 0.1
# The relative gap at which a search ends, if what is zero and what is not are this far apart; at which it ends anyway;
# below which the later point is the better one; and the steps that do not lessen it, after which nothing will.
PRECISION, APART, EXACT, ROUNDING, PATIENCE = 1e-11, 1e-3, 1e-18, 1e-15, 10
# Features take part from this share of l1 on, and before a step has led them beyond the other.
NEAR, ENTRANCE = 0.8, 0.95
# The largest system; and the number of features in use for each sample up to which they are few.
LARGEST, FEW = 2000, 0.5


class _State(NamedTuple):
    """L and y (b, n, k); V (b, m, k) of L; of the features that are ``chosen`` (b, m), ω and q (b, m) and the V that
    they go with, ``own`` (b, m, k), which is that of L up to what rounding does to L; and the best that was seen: Λ,
    its measure (b,), for how many steps nothing was better, and the steps in all.
    """

    L: Tensor
    y: Tensor
    V: Tensor
    own: Tensor
    omega: Tensor
    q: Tensor
    chosen: Tensor
    Lambda: Tensor
    measure: Tensor
    idle: Tensor
    n_iter: Tensor


class _Step(NamedTuple):
    """A change of L and y, and of ω, q and V on the features in use."""

    L: Tensor
    y: Tensor
    omega: Tensor
    q: Tensor
    V: Tensor


class Suits(NamedTuple):
    """Where (b,) a step's system is ``small``; and where Newton's method is slow because features are ``few`` beside
    samples, and no smoothing makes up for that. Without l1 its model is exact, and only a singular one makes it slow.
    """

    small: Tensor
    few: Tensor


def suits(problem: Problem, norm: Tensor) -> Suits:
    """By the features that are near their threshold, and beyond it, where ‖V_j‖ is ``norm`` (b, m)."""
    l1 = _l1(problem)
    small = size_of(problem.Y, (norm >= NEAR * l1).sum(-1)) <= LARGEST
    sharp = problem.dual_loss.conjugate_curvature(problem.l2) == 0
    few = FEW * problem.Y.shape[-2] if isinstance(problem.penalty, GroupL2) else problem.Y.shape[-2] - 1
    return Suits(small, small & sharp & ((norm >= l1).sum(-1) <= few))


def minimise(problem: Problem, Lambda: Tensor, max_iter: Tensor) -> tuple[Tensor, Tensor]:
    """Λ (b, n, k), exactly zero where it is smaller than the slack of its class, and the steps (b,) that led there
    from ``Lambda``, at most ``max_iter`` (b,).
    """
    found = _advance(problem, _start(problem, Lambda), max_iter)
    return found.Lambda, found.n_iter


def _advance(problem: Problem, state: _State, max_iter: Tensor) -> _State:
    while True:
        used = _Used(problem, state)
        state, live = _look(problem, state, used)
        live = live & (state.n_iter < max_iter)
        if not live.any() or clock.is_over():
            return state
        if (some := few(live)) is not None:
            return put(state, some, _advance(pick(problem, some), pick(state, some), max_iter[some]))
        state = _step(problem, state, used)._replace(n_iter=state.n_iter + live.to(torch.int64))


def _l1(problem: Problem) -> Tensor:
    """(b, m), or (b, 1) for all features."""
    penalty = problem.penalty
    return penalty.l1 if isinstance(penalty, GroupL2) else torch.zeros_like(problem.l2)[:, None]


def _allowed(problem: Problem) -> Tensor:
    domain = problem.dual_loss.domain
    assert isinstance(domain, Simplex)
    return domain.allowed.expand_as(problem.Y)


def _free(problem: Problem) -> Tensor:
    """The entries (b, n, k) of Λ that can move at all."""
    allowed = _allowed(problem)
    return allowed & (problem.weight > 0)[..., None] & (allowed.sum(-1, keepdim=True) > 1)


def _over(A: Tensor, B: Tensor, where: Tensor) -> Tensor:
    """A/B, and zero elsewhere."""
    return torch.where(where, A / torch.where(where, B, 1.0), 0.0)


def _start(problem: Problem, Lambda: Tensor) -> _State:
    """A point at which all products are μ or more: near the centre for the gap that Λ has."""
    allowed, free, weight = _allowed(problem), _free(problem), problem.weight[..., None]
    centre = allowed.to(Lambda.dtype) / allowed.sum(-1, keepdim=True)
    inner = (1 - CENTRE) * Lambda + CENTRE * centre
    V = problem.correlation(problem.Y - inner)
    scores = problem.scores(problem.coef_of(V))
    gap = (problem.weight * problem.loss.fenchel_young(scores, problem.Y - inner, problem.Y)).sum(-1)
    mu = gap / free.sum((1, 2)).clamp_min(1)
    chosen = row_norm(V) >= NEAR * _l1(problem)
    omega, q = _centre(problem, V, mu)
    nothing = torch.zeros_like(mu, dtype=torch.int64)
    L = weight * inner
    state = _State(L, L, V, V, omega, q, chosen, Lambda, torch.full_like(mu, torch.inf), nothing, nothing)
    slope = _Used(problem, state).slope
    lowest = torch.where(free, slope, torch.inf).amin(-1, keepdim=True)
    lift = mu[:, None, None] / torch.where(free, L, torch.inf).amin(-1, keepdim=True)
    return state._replace(y=torch.where(free, slope - lowest + lift, 0.0))


def _centre(problem: Problem, V: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """ω and q (b, m) with l1·ω·q = μ (b,), a root of l1·l2·ω² + (l1 − ‖V‖)ω = μ/l1; one where there is no l1."""
    l1, norm = _l1(problem).expand(V.shape[:-1]), row_norm(V)
    bent = l1 > 0
    safe = torch.where(bent, l1, 1.0)
    beyond, aim, bend = norm - l1, mu[:, None] / safe, safe * problem.l2[:, None]
    root = (beyond.square() + 4 * bend * aim).sqrt()
    # Of the two forms of the root the one in which nothing cancels.
    omega = torch.where(beyond > 0, (beyond + root) / (2 * bend), 2 * aim / (root - beyond))
    return torch.where(bent, omega, 1.0), torch.where(bent, aim / omega, 1.0)


class _Used:
    """What the features in use have, S of them: X (b, n, S), l1, ω and q (b, S), V (b, S, k), W, and the ``slope``
    Y + γ(λ − Y) − XW (b, n, k).
    """

    def __init__(self, problem: Problem, state: _State) -> None:
        self.features: Features = AllFeatures() if state.chosen.all() else Support.of(state.chosen)
        self.X = self.features.take(problem.X)
        rows = [_l1(problem).expand_as(state.omega), state.omega, state.q]
        self.l1, omega, q = self.features.take(torch.stack(rows, 1)).unbind(1)
        self.V, self.missing = (self.features.take(A.mT).mT for A in (state.own, state.V - state.own))
        # Padding has l1 = 0 as well, and zeros in X and V.
        self.bent = self.l1 > 0
        self.omega, self.q = torch.where(self.bent, omega, 1.0), torch.where(self.bent, q, 1.0)
        self.l2 = problem.l2[:, None]
        self.across = torch.where(self.bent, self.omega / (1 + self.l2 * self.omega), 1 / self.l2)
        self.W = self.across[..., None] * self.V
        self.norm = row_norm(self.V)
        Lambda = _over(state.L, problem.weight[..., None].expand_as(state.L), _free(problem))
        self.slope = problem.dual_loss.conjugate_gradient(Lambda, problem.Y) - product(self.X, self.W)

    def groups(self) -> Groups:
        """How W moves with V."""
        unit = self.V / torch.where(self.norm > 0, self.norm, 1.0)[..., None]
        grown, pivot = 1 + self.l2 * self.omega, self.q + self.l1 * self.l2 * self.omega
        gain = torch.where(self.bent, self.norm / (grown.square() * pivot), 0.0)
        return Groups(self.across, self.omega * gain, unit, gain)

    def products(self) -> Tensor:
        """l1·ω·q, (b, S)."""
        return self.l1 * self.omega * self.q

    def lack(self) -> Tensor:
        """By how much q, which is a variable, is off."""
        return torch.where(self.bent, self.l1 * (1 + self.l2 * self.omega) - self.norm - self.q, 0.0)


def _look(problem: Problem, state: _State, used: _Used) -> tuple[_State, Tensor]:
    """Take note of Λ, if it is the best; the elements (b,) to go on with.

    The measure is the sum of the products, which is the gap, and what the conditions that are not met yet add to it.
    """
    free, weight = _free(problem), problem.weight[..., None]
    off = torch.where(free, used.slope - state.y, 0.0)
    off = off - _over((state.L * off).sum(-1, keepdim=True), weight, weight > 0)
    total = (state.L * (state.y + off.abs())).sum((1, 2))
    total = total + (used.products() + used.l1 * used.omega * used.lack().abs()).masked_fill(~used.bent, 0).sum(-1)
    total = total + (used.W * used.missing).sum(-1).abs().sum(-1)
    measure = relative(total, problem.null_objective())
    Lambda, slack = _over(state.L, weight.expand_as(state.L), free), state.y
    # NaN compares false: an element that rounding has ended stays as good as it was.
    better = (measure < state.measure) | (measure <= ROUNDING)
    positive = (Lambda > slack) | (Lambda == Lambda.amax(-1, keepdim=True))
    decided = torch.where(~free, state.Lambda, torch.where(positive, Lambda, 0.0))
    decided = decided / decided.sum(-1, keepdim=True)
    idle = torch.where(measure < 0.9 * state.measure, 0, state.idle + 1)
    pairs = [(Lambda.flatten(1), slack.flatten(1)), (used.l1 * used.l2 * used.omega, used.q)]
    apart = torch.stack([(torch.minimum(a, b) <= APART * torch.maximum(a, b)).all(-1) for a, b in pairs]).all(0)
    small = size_of(problem.Y, state.chosen.sum(-1)) <= LARGEST
    live = ((measure > PRECISION) | (~apart & (measure > EXACT))) & measure.isfinite() & (idle <= PATIENCE) & small
    new = torch.where(better[:, None, None], decided, state.Lambda), torch.where(better, measure, state.measure)
    return state._replace(Lambda=new[0], measure=new[1], idle=idle), live


def _step(problem: Problem, state: _State, used: _Used) -> _State:
    """Predictor, corrector, and as far as the boundaries allow."""
    free = _free(problem)
    direction = _Direction(problem, state, used)
    no, none = torch.zeros_like(used.omega), torch.zeros_like(state.L)
    affine = direction.step(no, none)
    length = _longest(state, used, affine).clamp_max(1)
    entries = free.sum((1, 2)) + used.bent.sum(-1)
    total = (state.L * state.y).sum((1, 2)) + used.products().sum(-1)
    mu = (1 - length) ** 3 * total / entries
    omega = mu[:, None] / torch.where(used.bent, used.l1, 1.0) - affine.omega * affine.q
    y = _over(mu[:, None, None] - affine.L * affine.y, state.L, free)
    return _moved(problem, state, used, direction.step(omega, y), mu)


def _longest(state: _State, used: _Used, step: _Step) -> Tensor:
    """Until something is zero, (b,)."""
    at = torch.cat([state.L.flatten(1), state.y.flatten(1), used.omega, used.q], 1)
    D = torch.cat([step.L.flatten(1), step.y.flatten(1), step.omega, step.q], 1)
    return torch.where(D < 0, -at / torch.where(D < 0, D, 1.0), torch.inf).amin(1)


def _moved(problem: Problem, state: _State, used: _Used, step: _Step, mu: Tensor) -> _State:
    """As far as all stays positive, and no feature passes its threshold before it is in use; those that the step leads
    near theirs are in use from then on.
    """
    length = (BOUNDARY * _longest(state, used, step)).clamp_max(1)
    change = -transposed_product(problem.X, step.L)
    near = row_norm(state.V + length[:, None, None] * change) >= NEAR * _l1(problem)
    length = torch.minimum(length, _until_near(problem, state.V, change, near & ~state.chosen))[:, None, None]
    V = state.V + length * change
    rows = torch.cat([used.omega[..., None], used.q[..., None], used.V], -1)
    steps = torch.cat([step.omega[..., None], step.q[..., None], step.V], -1)
    rows = used.features.put(rows + length * steps, V.shape[-2])
    omega, q = _centre(problem, V, mu)
    omega, q = torch.where(state.chosen, rows[..., 0], omega), torch.where(state.chosen, rows[..., 1], q)
    own = torch.where(state.chosen[..., None], rows[..., 2:], V)
    L, y = state.L + length * step.L, state.y + length * step.y
    return state._replace(L=L, y=y, V=V, own=own, omega=omega, q=q, chosen=state.chosen | near)


def _until_near(problem: Problem, V: Tensor, change: Tensor, new: Tensor) -> Tensor:
    """How far (b,) the ``change`` (b, m, k) of V may go until a feature that is ``new`` (b, m) is at its threshold, but
    for a margin.

    Beyond it W would jump by ‖V_j‖ − l1_j over l2, which no step has foreseen: a small l2 throws the search back.
    """
    a, c = change.square().sum(-1), (ENTRANCE * _l1(problem)).square() - V.square().sum(-1)
    half = (V * change).sum(-1)
    root = (half.square() + a * c.clamp_min(0)).sqrt()
    # Of the two forms of the root the one in which nothing cancels.
    length = torch.where(half > 0, _over(c, half + root, half + root > 0), _over(root - half, a, a > 0))
    return torch.where(new & (a > 0), length, torch.inf).amin(-1)


class _Direction:
    """The linearised conditions at a point; towards different aims."""

    def __init__(self, problem: Problem, state: _State, used: _Used) -> None:
        self.state, self.used = state, used
        self.groups, free = used.groups(), _free(problem)
        self.ratio = _over(state.y, state.L, free)
        gamma = problem.dual_loss.conjugate_curvature(problem.l2)[:, None, None]
        weight = problem.weight[..., None].expand_as(state.L)
        diagonal = self.ratio + _over(gamma.expand_as(state.L), weight, free)
        kind = PrimalSystem if primal_is_smaller(problem.Y, used.X.shape[-1]) else DualSystem
        self.system: PrimalSystem | DualSystem = kind(used.X, self.groups, state.L, diagonal, free)

    def step(self, omega: Tensor, y: Tensor) -> _Step:
        """Towards ωq = ``omega`` (b, S) and y = ``y`` (b, n, k) where L would not move."""
        used, state = self.used, self.state
        lack = used.lack()
        h = torch.where(used.bent, omega - used.omega * (used.q + lack), 0.0)
        shift = (self.groups.gain * h)[..., None] * self.groups.unit
        dL, dV = self.system.solve(y - used.slope, used.missing, shift)
        along = (self.groups.unit * dV).sum(-1)
        pivot = used.q + used.l1 * used.l2 * used.omega
        d_omega = torch.where(used.bent, (h + used.omega * along) / pivot, 0.0)
        d_q = torch.where(used.bent, used.l1 * used.l2 * d_omega - along + lack, 0.0)
        return _Step(dL, y - state.y - self.ratio * dL, d_omega, d_q, dV)
