"""What solvers of smooth losses share: points with their certificate, and Newton on the support.

A point is a W with the gap that its own dual point Θ = −∂ℓ(XW) certifies. Newton works in the normal map (see
`NormalMap`): one proximal-gradient step from W gives v with W′ = prox(v) exactly, its support and its signs, and the
step from there is Newton's on the smooth system that holds as long as these do. Where the ridge makes the support
larger than the number of samples it works in the scores (see `ScoreEquation`), in the same way.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..features import AllFeatures, Features, Support, gathered
from ..losses import Squared
from ..optimality import NormalMap, NoSystem, normal_map
from ..penalties import GroupL2, Partly
from ..problem import Problem
from ..products import column_norms, gram
from ..score_equation import ScoreEquation, score_equation, unknown_at
from . import clock
from .batch import few, pick, put
from .result import Result
from .ties import at_kink, derivative_error

# Newton begins below this gap, and ends when the coefficients stand still to this precision.
POLISH_BELOW, POLISH_STEPS, SETTLED_STEP = 0.3, 8, 1e-10
# Newton's systems have at most so many unknowns, or rows of a support that are never too many; a larger one is made
# once, for derivatives, if somebody asks for them.
MOST_UNKNOWNS, ALWAYS_SMALL = 1500, 100
# Where proximal steps cost n×n systems whatever k, fewer unknowns pay, and more than this multiple of n only from a gap
# on at which a step or two are the end.
MOST_BESIDE_KRONECKER, PER_SAMPLE, LATE = 400, 2, 1e-7
# Eigenvalues are computed up to this number of samples or features, which is less than Newton's systems cost; else the
# power method takes so many steps, and what it may have missed is made up for by a factor.
EXACT_UP_TO, POWER_STEPS, POWER_FACTOR = 32, 4, 1.5
# Newton steps on the scores beyond those that belong to W.
SCORE_STEPS = 2
# A support is gathered below this share of the features.
SHARE_TAKEN = 0.5
# Newton's method is tried once more where derivatives are known no better than this and the gap is above rounding.
BLURRED, ROUNDING = 1e-3, 1e-15


class Point(NamedTuple):
    """Coefficients (b, m, k), their dual point Θ (b, n, k) and its V (b, m, k), and the relative gap (b,)."""

    coef: Tensor
    theta: Tensor
    V: Tensor
    gap: Tensor


def start_of(problem: Problem, start: Tensor | None) -> Tensor:
    """Coefficients (b, m, k) to begin with, zero where ``start`` is None: the nearest that no constraint forbids.

    A start is the solution of another problem. Where there is nothing to learn the end is zero, which no step from
    elsewhere reaches to the last digit.
    """
    if start is None:
        size = problem.X.shape[-1], problem.Y.shape[-1]
        start = problem.Y.new_zeros(*problem.Y.shape[:-2], *size)
    else:
        start = torch.where((problem.null_objective() > 0)[:, None, None], start, 0.0)
    # A step of length zero is a projection.
    return problem.penalty.prox(start, torch.zeros_like(problem.l2))


def point(problem: Problem, W: Tensor, Z: Tensor | None = None) -> Point:
    """W with its certificate; Z = XW, where that is known."""
    Z = problem.sparse_scores(W) if Z is None else Z
    theta = problem.loss.dual_point(Z, problem.Y)
    V = problem.correlation(theta)
    return Point(W, theta, V, problem.relative_gap(W, theta, Z, V))


def better(new: Point, old: Point) -> Point:
    """Element by element the point of smaller gap, the new one if they tie at rounding; NaN never wins."""
    use = _wins(new, old)
    return Point(*(torch.where(use.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old, strict=True)))


def _wins(new: Point, old: Point) -> Tensor:
    return new.gap <= old.gap + 1e-15


def is_kronecker(problem: Problem) -> bool:
    """Squared loss and groups of one feature: proximal steps cost n×n systems, whatever k."""
    return isinstance(problem.loss, Squared) and isinstance(problem.penalty, GroupL2)


def step_length(problem: Problem) -> Tensor:
    """1/L with L the largest eigenvalue of the Hessian in the penalised rows, (b,), in large problems about that.

    An intercept has no threshold that asks for a step of its size, and features may have quite other units than its.
    """
    n, m = problem.X.shape[-2:]
    penalised = ~problem.intercept[..., 0]
    columns = penalised.to(torch.float64) if isinstance(problem.penalty, Partly) else None
    if not m:
        largest = torch.zeros_like(problem.l2)
    elif min(n, m) <= EXACT_UP_TO:
        if n <= m:
            root = problem.weight.sqrt()[..., None]
            G = root * gram(problem.X, columns) * root.mT
        else:
            G = gram(problem.X.mT, problem.weight)
            G = G if columns is None else G * columns[:, None, :] * columns[:, :, None]
        largest = torch.linalg.eigvalsh(G)[..., -1].clamp_min(0)
    else:
        largest = _power_method(problem)
    smoothness = problem.smooth_loss.smoothness() * largest + problem.l2
    return torch.where(smoothness > 0, 1 / torch.where(smoothness > 0, smoothness, 1.0), 1.0)


def _power_method(problem: Problem) -> Tensor:
    """About the largest eigenvalue of Xᵀ diag(s̄) X on penalised columns, (b,), in some passes and no Gram matrix."""
    x = torch.ones_like(problem.Y[..., :1])
    size = torch.zeros_like(problem.l2)
    for _ in range(POWER_STEPS):
        x = problem.scores(torch.where(problem.intercept, 0.0, problem.correlation(x)))
        size = x.square().sum((-2, -1)).sqrt()
        x = x / torch.where(size > 0, size, 1.0)[:, None, None]
    return POWER_FACTOR * size


class Polished(NamedTuple):
    """The point, and how many steps led there (b,)."""

    at: Point
    n_iter: Tensor


def polish(problem: Problem, at: Point, step: Tensor, enough: Tensor) -> Polished:
    """Newton on the support where the gap is above ``enough`` (b,), until W stands still or the gap does not fall."""
    # Coefficients count by what they do to scores, whatever the units of their features.
    unit = column_norms(problem.X)[..., None]
    return _polish(problem, at, step, unit, (at.gap < POLISH_BELOW) & (at.gap > enough), POLISH_STEPS)


def _polish(problem: Problem, at: Point, step: Tensor, unit: Tensor, going: Tensor, most: int) -> Polished:
    """At most ``most`` steps of the elements ``going`` (b,)."""
    n_iter = torch.zeros_like(at.gap, dtype=torch.int64)
    while most and going.any() and not clock.is_over():
        if (some := few(going)) is not None:
            part = _polish(*pick((problem, at, step, unit, going), some), most)
            return put(Polished(at, n_iter), some, part._replace(n_iter=n_iter[some] + part.n_iter))
        chosen, v = _support(problem, at, step)
        going = going & _ready(problem, chosen, going, at.gap)
        if not going.any():
            break
        local, n_iter = _linearised(problem, chosen & going[:, None], at, v, step), n_iter + going.to(torch.int64)
        new = point(problem, local.features.put(local.newton(), problem.X.shape[-1]))
        moved = (unit * (new.coef - at.coef)).abs().amax((1, 2))
        going = going & _wins(new, at) & (moved > SETTLED_STEP * (unit * at.coef).abs().amax((1, 2)))
        at, most = better(new, at), most - 1
    return Polished(at, n_iter)


def _ready(problem: Problem, chosen: Tensor, going: Tensor, gap: Tensor) -> Tensor:
    """Elements (b,) whose ``chosen`` features (b, m) make a system of bearable size; n·k scores do for all at once."""
    n, k = problem.Y.shape[-2:]
    most = _most_rows(problem)
    if n <= most and _in_scores(problem, chosen & going[:, None]):
        return going
    rows = chosen.sum(-1)
    if is_kronecker(problem):
        return (rows <= most) & ((k * rows <= max(PER_SAMPLE * n, ALWAYS_SMALL)) | (gap < LATE))
    return rows <= min(most, max(n * k, ALWAYS_SMALL))


def _most_rows(problem: Problem) -> int:
    """The most rows of k unknowns that a system may have for a solver's sake."""
    k = problem.Y.shape[-1]
    return MOST_BESIDE_KRONECKER // k if is_kronecker(problem) else max(MOST_UNKNOWNS // k, ALWAYS_SMALL)


def _support(problem: Problem, at: Point, step: Tensor) -> tuple[Tensor, Tensor]:
    """The support (b, m) after a proximal-gradient step, and v (b, m, k), of which that is the prox."""
    v = _forward(problem, at.coef, at.V, step)
    return problem.penalty.support(v, step), v


def _forward(problem: Problem, W: Tensor, V: Tensor, step: Tensor) -> Tensor:
    """W − τ∇f(W), and W where prox is the identity: the same at a solution, without the rounding of a sum."""
    return W - torch.where(problem.intercept, 0.0, step[:, None, None] * problem.slope(W, V))


class _Local(NamedTuple):
    """The problem on the features that take part, the optimality system there, and its unknown."""

    features: Features
    small: Problem
    system: NormalMap | ScoreEquation
    state: Tensor

    def newton(self) -> Tensor:
        """Coefficients (b, S, k) after Newton's step."""
        return self.system.coef(
            self.small, self.state - self.system.solve(self.system.residual(self.small, self.state))
        )


def _in_scores(problem: Problem, chosen: Tensor) -> bool:
    """Whether n·k equations in the scores, which take a ridge, are fewer than S·k in the ``chosen`` coefficients.

    The answer is for the whole batch. Without a ridge a support larger than n·k is no unique solution; the normal map
    then takes its pseudo-inverse, with a matrix of (S·k)².
    """
    equations = problem.Y.shape[-2] + int(isinstance(problem.penalty, Partly))
    return bool((chosen.sum(-1) > equations).any() and (problem.l2 > 0).all())


def _linearised(problem: Problem, chosen: Tensor, at: Point, v: Tensor, step: Tensor) -> _Local:
    """The smaller of the two systems, on the ``chosen`` features (b, m), near W and v = W − τ∇f(W)."""
    if not _in_scores(problem, chosen):
        support = Support.of(chosen)
        small, v = problem.restrict(support), support.take(v.mT).mT
        return _Local(support, small, normal_map(small, v, step, support.real), v)
    features = gathered(chosen, SHARE_TAKEN)
    real = features.real if isinstance(features, Support) else torch.ones_like(chosen)
    small, W = problem.restrict(features), features.take(at.coef.mT).mT
    x = unknown_at(small, W)
    system = score_equation(small, x, real)
    for _ in range(SCORE_STEPS):
        # W(Z) differs from W by what is wrong with Z over l2: derivatives are taken where the two agree.
        step = system.solve(system.residual(small, x))
        x = x - step
        if (step.abs().amax((1, 2)) <= SETTLED_STEP * x.abs().amax((1, 2))).all():
            break
        system = score_equation(small, x, real)
    return _Local(features, small, system, x)


# From coefficients W (b, m, k), or None, to a point of at most a gap (b,), and the steps it took, of at most (b,).
Search = Callable[[Problem, Tensor | None, Tensor, Tensor], tuple[Point, Tensor]]


def searched(
    search: Search, problem: Problem, start: Tensor | None, tol: float, max_iter: int, differentiated: bool
) -> Result:
    """What ``search`` finds, certified and ready to be differentiated."""
    limits = torch.full_like(problem.l2, tol), torch.full_like(problem.l2, max_iter, dtype=torch.int64)
    at, n_iter = search(problem, start, *limits)
    at = _or_zero(problem, at)
    result = _result(problem, at, n_iter, differentiated)
    # What is computed in a Gram matrix is as exact as its condition allows, which is the square of that of X.
    blurred = (result.derivative_error > BLURRED) & (at.gap > ROUNDING) & (at.gap <= tol)
    if isinstance(problem.loss, Squared) and not isinstance(result.system, NoSystem) and blurred.any():
        at = polish(problem, at, step_length(problem), torch.where(blurred, 0.0, torch.inf)).at
        result = _result(problem, at, n_iter, differentiated)
    return result


def _or_zero(problem: Problem, at: Point) -> Point:
    """The point, or W = 0 with the best intercept where that has the smaller gap.

    At the l1 that leaves nothing a search may end within its tolerance of zero, and Newton's method, where the best
    intercept is not unique, at no better point.
    """
    null = problem.null_objective()
    gained = null - problem.objective(at.coef, problem.sparse_scores(at.coef))
    if not ((gained <= at.gap * null) & (at.gap > ROUNDING) & at.coef.flatten(1).any(-1)).any():
        return at
    best = problem.loss.best_constant(problem.Y, problem.weight)
    return better(at, point(problem, torch.where(problem.intercept, best, torch.zeros_like(at.coef))))


def _result(problem: Problem, at: Point, n_iter: Tensor, differentiated: bool) -> Result:
    """What the solver hands over; without a system where that is large and nobody has asked for derivatives."""
    # Any length will do at a solution; this one suits the features in use.
    step = step_length(problem.restrict(gathered((at.coef != 0).any(-1), SHARE_TAKEN)))
    chosen, v = _support(problem, at, step)
    kinks = problem.penalty.kinks(v, step)
    (theta, V), degenerate = problem.feasible(at.theta, at.V), at_kink(kinks)
    empty = ~((chosen | (at.coef != 0).any(-1)) & ~problem.intercept[..., 0]).any(-1)
    rows = problem.Y.shape[-2] if _in_scores(problem, chosen) else int(chosen.sum(-1).amax())
    if not differentiated and rows > _most_rows(problem):
        unknown = torch.full_like(at.gap, torch.inf)
        nothing = AllFeatures(), NoSystem(), torch.zeros_like(unknown)
        return Result(at.coef, theta, *nothing, degenerate, degenerate & False, unknown, n_iter, V=V, empty=empty)
    local = _linearised(problem, chosen, at, v, step)
    uncertainty = _uncertainty(problem, at, local, v, step)
    return Result(
        coef=at.coef,
        theta=theta,
        features=local.features,
        system=local.system,
        state=local.state,
        degenerate=degenerate,
        singular=local.system.factor.singular,
        derivative_error=derivative_error(kinks.distance, uncertainty, local.system.factor),
        n_iter=n_iter,
        V=V,
        empty=empty,
    )


def _uncertainty(problem: Problem, at: Point, local: _Local, v: Tensor, step: Tensor) -> Tensor:
    """How far v may be from that of the solution, (b, m, 1).

    On the support by about Newton's next step. Anywhere by τ‖x_j‖ times what θ is wrong by, in the norm weighted by s̄:
    that step, or ‖θ − θ*‖² ≤ 2L(P − D), ∂²ℓ being at most L.
    """
    small, features = local.small, local.features
    W = local.newton()
    theta = problem.loss.dual_point(small.scores(W), problem.Y)
    moved = _forward(small, W, small.correlation(theta), step) - features.take(v.mT).mT
    on_support = moved.abs().flatten(1).amax(-1) if moved.numel() else torch.zeros_like(step)
    changed = (problem.weight[..., None] * (theta - at.theta).square()).sum((1, 2)).sqrt()
    unknown = (2 * problem.smooth_loss.smoothness() * at.gap * problem.null_objective()).sqrt()
    slope = step * (changed + unknown) * problem.weight.amax(-1).sqrt()
    return (on_support[:, None] + slope[:, None] * column_norms(problem.X))[..., None]
