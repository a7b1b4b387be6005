"""Accelerated projected gradient on the hinge's dual: two products with X a step, where Newton's systems cost more.

    minimise F(Λ) = R*(V) + Σᵢ s̄ᵢ ℓ*(−θᵢ; yᵢ),    Θ = Y − Λ,  V = Xᵀ diag(s̄) Θ,  Λ in a product of simplices

In √s̄Λ the gradient of F changes at most by L = λ_max(diag(√s̄) XXᵀ diag(√s̄))/l2 + κ, κ the curvature of ℓ*. A step
of length 1/L there moves λᵢ by (∂ℓ*ᵢ − zᵢ)/L, whatever its weight. Momentum starts anew where it leads uphill
(Beck and Teboulle, 2009; O'Donoghue and Candès, 2015).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import relative
from ..products import product
from . import clock
from .batch import few, pick, put
from .conjugate_part import ConjugatePart, PenalisedPart
from .dual_newton import DualPoint
from .effort import Limits, promises

# Steps between two looks at the gap; of the power method for L, and the factor that makes up for what it misses.
LOOK, POWER_STEPS, POWER_FACTOR = 10, 10, 1.1
# So many steps count as an iteration beside one of Newton's method.
PER_ITERATION = 100


class _State(NamedTuple):
    """Λ and the point ``ahead`` of it (b, n, k), their images, the momentum's t (b,); and the best that was seen with
    its relative gap (b,).
    """

    Lambda: Tensor
    ahead: Tensor
    image: Tensor
    image_ahead: Tensor
    t: Tensor
    best: Tensor
    gap: Tensor


def minimise(part: ConjugatePart, Lambda: Tensor, tol: Tensor, limits: Limits) -> DualPoint:
    """From ``Lambda`` (b, n, k) until each gap is at most ``tol`` (b,), or as long as `Limits` allows."""
    image = part.image(part.problem.Y - Lambda)
    gap = _gap(part, Lambda, image)
    state = _State(Lambda, Lambda, image, image, torch.ones_like(gap), Lambda, gap)
    n_iter = torch.zeros_like(gap, dtype=torch.int64)
    if not (gap > tol).any():
        return DualPoint(Lambda, gap, n_iter)
    seen: list[float] = []
    found = _advance(part, state, _lipschitz(part), tol, limits, seen)
    iterations = -(-LOOK * len(seen) // PER_ITERATION)
    return DualPoint(found.best, found.gap, n_iter + torch.where(gap > tol, iterations, 0))


def _advance(part: ConjugatePart, state: _State, L: Tensor, tol: Tensor, limits: Limits, seen: list[float]) -> _State:
    """Until every element is done; ``seen`` are the largest gaps beside their tolerance so far."""
    while (live := state.gap > tol).any() and not clock.is_over():
        seen.append(float((state.gap / tol).amax()))
        if not promises(seen, LOOK, limits):
            break
        if (some := few(live)) is not None:
            seen.pop()
            return put(state, some, _advance(part.pick(some), *pick((state, L, tol), some), limits, seen))
        for _ in range(LOOK):
            state = _step(part, state, L)
        gap = _gap(part, state.Lambda, state.image)
        better = gap < state.gap
        best = torch.where(better[:, None, None], state.Lambda, state.best)
        state = state._replace(best=best, gap=torch.where(better, gap, state.gap))
    return state


def _step(part: ConjugatePart, state: _State, L: Tensor) -> _State:
    problem = part.problem
    slope = problem.dual_loss.conjugate_gradient(state.ahead, problem.Y) - _scores(part, state.image_ahead)
    new = problem.dual_loss.domain.project(state.ahead - slope / L[:, None, None])
    moved, image = new - state.Lambda, part.image(problem.Y - new)
    uphill = (problem.weight[..., None] * (state.ahead - new) * moved).sum((1, 2)) > 0
    later = (1 + (1 + 4 * state.t.square()).sqrt()) / 2
    momentum = torch.where(uphill, 0.0, (state.t - 1) / later)[:, None, None]
    ahead, image_ahead = torch.addcmul(new, momentum, moved), torch.addcmul(image, momentum, image - state.image)
    return state._replace(
        Lambda=new, ahead=ahead, image=image, image_ahead=image_ahead, t=torch.where(uphill, 1.0, later)
    )


def _scores(part: ConjugatePart, image: Tensor) -> Tensor:
    """XW (b, n, k) for an image; columns are not gathered, which costs as much as a step."""
    if not isinstance(part, PenalisedPart):
        return image
    W = part.problem.coef_of(image)
    return product(part.problem.X, W.to(part.products)).to(W)


def _gap(part: ConjugatePart, Lambda: Tensor, image: Tensor) -> Tensor:
    """The relative gap (b,) that Λ certifies."""
    problem = part.problem
    samples = problem.loss.fenchel_young(_scores(part, image), problem.Y - Lambda, problem.Y)
    return relative((problem.weight * samples).sum(-1), part.null)


def _lipschitz(part: ConjugatePart) -> Tensor:
    """L (b,), by the power method from below and a factor."""
    problem = part.problem
    root = problem.weight.sqrt()[..., None]
    # The mean and a wave: of features that share a direction the first is nearly the eigenvector, of others the sum.
    x = root * (1 + 0.5 * torch.arange(problem.X.shape[-2], device=root.device, dtype=root.dtype).cos()[:, None])
    size = torch.zeros_like(problem.l2)
    for _ in range(POWER_STEPS):
        x = x / torch.where(size > 0, size, 1.0)[:, None, None]
        if isinstance(part, PenalisedPart):
            V = product(problem.X.mT, (root * x).to(part.products))
            x = root * product(problem.X, V).to(x) / problem.l2[:, None, None]
        else:
            x = product(part.model, x)
        size = x.square().sum((1, 2)).sqrt()
    largest = POWER_FACTOR * size + problem.dual_loss.conjugate_curvature(problem.l2)
    return torch.where(largest > 0, largest, 1.0)
