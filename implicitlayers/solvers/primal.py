"""What solvers of smooth losses share: points with their certificate, and Newton on the support.

A point is a W with the gap that its own dual point Θ = −∂ℓ(XW) certifies. Newton works in the normal map (see
`NormalMap`): one proximal-gradient step from W gives v with W′ = prox(v) exactly, its support and its signs, and the
step from there is Newton's on the smooth system that holds as long as these do. Where the ridge makes the support
larger than the number of samples it works in the scores (see `ScoreEquation`), in the same way.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..features import AllFeatures, Features, Support
from ..optimality import NormalMap, NoSystem, normal_map
from ..penalties import Partly
from ..problem import Problem
from ..products import gram
from ..score_equation import ScoreEquation, score_equation, unknown_at
from .result import Result
from .ties import at_kink, derivative_error

# Newton begins below this gap, and ends when the coefficients stand still to this precision.
POLISH_BELOW, POLISH_STEPS, SETTLED_STEP = 0.3, 8, 1e-10
# Newton's systems have at most so many unknowns, or rows of a support that are never too many; a larger one is made
# once, for derivatives, if somebody asks for them.
MOST_UNKNOWNS, ALWAYS_SMALL = 1500, 100
# Eigenvalues are computed up to this number of samples or features, which is less than Newton's systems cost; else the
# power method takes so many steps, and what it may have missed is made up for by a factor.
EXACT_UP_TO, POWER_STEPS, POWER_FACTOR = 128, 4, 1.5
# Newton steps on the scores beyond those that belong to W.
SCORE_STEPS = 2
# A support is gathered where it is at most one in so many of the features.
SHARE_TAKEN = 2


class Point(NamedTuple):
    """Coefficients (b, m, k), their dual point Θ (b, n, k), and the relative gap (b,) of the two."""

    coef: Tensor
    theta: Tensor
    gap: Tensor


def point(problem: Problem, W: Tensor) -> Point:
    """W with its certificate."""
    theta = problem.loss.dual_point(problem.scores(W), problem.Y)
    return Point(W, theta, problem.relative_gap(W, theta))


def better(new: Point, old: Point) -> Point:
    """Element by element the point of smaller gap, the new one if they tie at rounding; NaN never wins."""
    use = new.gap <= old.gap + 1e-15
    return Point(*(torch.where(use.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old, strict=True)))


def step_length(problem: Problem) -> Tensor:
    """1/L with L the largest eigenvalue of the Hessian in the penalised rows, (b,), in large problems about that.

    An intercept has no threshold that asks for a step of its size, and features may have quite other units than its.
    """
    n, m = problem.X.shape[-2:]
    penalised = ~problem.intercept[..., 0]
    columns = penalised.to(torch.float64) if isinstance(problem.penalty, Partly) else None
    if min(n, m) <= EXACT_UP_TO:
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


def polish(problem: Problem, at: Point, step: Tensor) -> Point:
    """Newton on the support until W stands still, where that lowers the gap.

    Elements far from their solution, which shows in the gap or, where no equation in the scores will do, in more
    features than n·k equations determine, wait.
    """
    n, k = problem.Y.shape[-2:]
    size, few_scores = max(min(n * k, MOST_UNKNOWNS // k), ALWAYS_SMALL), n * k <= MOST_UNKNOWNS or n <= ALWAYS_SMALL
    # Coefficients count by what they do to scores, whatever the units of their features.
    unit = torch.linalg.vector_norm(problem.X, dim=-2, dtype=at.coef.dtype)[..., None]
    for _ in range(POLISH_STEPS):
        chosen, v = _support(problem, at, step)
        ready = at.gap < POLISH_BELOW
        if not (few_scores and _in_scores(problem, chosen & ready[:, None])):
            ready = ready & (chosen.sum(-1) <= size)
        if not ready.any():
            break
        local = _linearised(problem, chosen & ready[:, None], at, v, step)
        new = better(point(problem, local.newton(problem)), at)
        moved = (unit * (new.coef - at.coef)).abs().amax((1, 2))
        at = new
        if (moved <= SETTLED_STEP * (unit * at.coef).abs().amax((1, 2))).all():
            break
    return at


def _support(problem: Problem, at: Point, step: Tensor) -> tuple[Tensor, Tensor]:
    """The support (b, m) after a proximal-gradient step, and v (b, m, k), of which that is the prox."""
    v = _forward(problem, at.coef, at.theta, step)
    return problem.penalty.support(v, step), v


def _forward(problem: Problem, W: Tensor, theta: Tensor, step: Tensor) -> Tensor:
    """W − τ∇f(W), and W where prox is the identity: the same at a solution, without the rounding of a sum."""
    return W - torch.where(problem.intercept, 0.0, step[:, None, None] * problem.slope(W, theta))


class _Local(NamedTuple):
    """The problem on the features that take part, the optimality system there, and its unknown."""

    features: Features
    small: Problem
    system: NormalMap | ScoreEquation
    state: Tensor

    def newton(self, problem: Problem) -> Tensor:
        """Coefficients (b, m, k) of the whole problem after Newton's step."""
        x = self.state - self.system.solve(self.system.residual(self.small, self.state))
        return self.features.put(self.system.coef(self.small, x), problem.X.shape[-1])


def _in_scores(problem: Problem, chosen: Tensor) -> bool:
    """Whether n·k equations in the scores, which take a ridge, are fewer than S·k in the ``chosen`` coefficients.

    The answer is for the whole batch. Without a ridge a support larger than n·k is no unique solution; the normal map
    then takes its pseudo-inverse, with a matrix of (S·k)².
    """
    equations = problem.Y.shape[-2] + int(isinstance(problem.penalty, Partly))
    return bool((chosen.sum(-1) > equations).any() and (problem.l2 > 0).all())


def _linearised(problem: Problem, chosen: Tensor, at: Point, v: Tensor, step: Tensor) -> _Local:
    """The smaller of the two systems, on the ``chosen`` features (b, m), near W and v = W − τ∇f(W)."""
    support = Support.of(chosen)
    if not _in_scores(problem, chosen):
        small, v = problem.restrict(support), support.take(v.mT).mT
        return _Local(support, small, normal_map(small, v, step, support.real), v)
    # Leaving out a few features saves less than their copy costs.
    few = SHARE_TAKEN * support.columns.shape[-1] <= chosen.shape[-1]
    features, real = (support, support.real) if few else (AllFeatures(), torch.ones_like(chosen))
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


def result(problem: Problem, at: Point, step: Tensor, n_iter: Tensor, differentiated: bool) -> Result:
    """What the solver hands over; without a system where that is large and nobody has asked for derivatives."""
    chosen, v = _support(problem, at, step)
    kinks = problem.penalty.kinks(v, step)
    theta, degenerate = problem.feasible(at.theta)[0], at_kink(kinks)
    n, k = problem.Y.shape[-2:]
    rows = n if _in_scores(problem, chosen) else int(chosen.sum(-1).amax())
    if not differentiated and rows * k > MOST_UNKNOWNS and rows > ALWAYS_SMALL:
        unknown = torch.full_like(at.gap, torch.inf)
        nothing = AllFeatures(), NoSystem(), torch.zeros_like(unknown)
        return Result(at.coef, theta, *nothing, degenerate, degenerate & False, unknown, n_iter)
    local = _linearised(problem, chosen, at, v, step)
    # How far v may be from its optimum: τ∇f moves by at most √(2τ(P − D)), since P − P* ≥ τ‖δ∇f‖²/2; W by about
    # Newton's next step, and v with it.
    W = local.newton(problem)
    newton = _forward(problem, W, problem.loss.dual_point(problem.scores(W), problem.Y), step) - v
    uncertainty = newton.abs().amax((1, 2)) + (2 * step * at.gap * problem.null_objective()).sqrt()
    return Result(
        coef=at.coef,
        theta=theta,
        features=local.features,
        system=local.system,
        state=local.state,
        degenerate=degenerate,
        singular=local.system.factor.singular,
        derivative_error=derivative_error(kinks.distance, uncertainty[:, None, None], local.system.factor),
        n_iter=n_iter,
    )
