"""An interior point for duals on simplices, with the exact Hessian: slow and steady, for what stops Newton on faces.

    minimise F(Λ) − μ Σᵢ s̄ᵢ Σ_c log λ_ic,    μ → 0

Close to the l1 at which W vanishes few features are active, each bends the dual in one direction only, and a model
that does not know which proposes the wrong face again and again. Here all classes stay free, and one Newton step on the
whole (b, n(k − 1), n(k − 1)) system follows another, μ falling; so this is for problems in which n·k is small.
"""

import torch
from torch import Tensor

from ..domains import Simplex
from ..dual_face import dual_face
from ..problem import Problem
from .conjugate_part import active_features
from .dual_newton import backtrack

# The largest system that is worth it, the steps taken, and how fast μ falls.
LARGEST, STEPS, SHRINK = 800, 80, 0.3
# Steps end at this share of the way to the boundary.
BOUNDARY = 0.95


def is_small(problem: Problem) -> bool:
    """Whether the whole system is worth it."""
    n, k = problem.Y.shape[-2:]
    return n * (k - 1) <= LARGEST


def minimise(problem: Problem, Lambda: Tensor, last: Tensor) -> Tensor:
    """Λ (b, n, k) near the optimum, zero where the slack of a class is larger than its λ.

    ``last`` (b,) is the μ to end at; k times as much is the gap then.
    """
    domain = problem.dual_loss.domain
    assert isinstance(domain, Simplex)
    allowed = domain.allowed.expand_as(Lambda)
    centre = allowed.to(Lambda.dtype) / allowed.sum(-1, keepdim=True)
    Lambda = 0.9 * Lambda + 0.1 * centre
    mu = torch.full_like(problem.l2, 0.1)
    slope = torch.zeros_like(Lambda)
    for _ in range(STEPS):
        Lambda, length, slope = _newton_step(problem, Lambda, mu, allowed)
        mu = torch.where(length > 0.5, torch.maximum(SHRINK * mu, last), mu)
        if ((mu <= last) & (length > 0.5)).all():
            break
    lowest = torch.where(allowed, slope, torch.inf).amin(-1, keepdim=True)
    Lambda = torch.where(Lambda > slope - lowest, Lambda, 0.0)
    return Lambda / Lambda.sum(-1, keepdim=True)


def _newton_step(problem: Problem, Lambda: Tensor, mu: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The next Λ, the length of the step (b,), and the slope of F where it began."""
    V = problem.correlation(problem.Y - Lambda)
    features = active_features(problem, V)
    small, V = problem.restrict(features), features.take(V.mT).mT
    scores = small.scores(small.coef_of(V))
    inverse = torch.where(allowed, 1 / torch.where(allowed, Lambda, 1.0), 0.0)
    weight = torch.where(problem.weight > 0, problem.weight, 1.0)[..., None]
    pull = mu[:, None, None] * inverse
    face = dual_face(small, Lambda, V, diagonal=pull * inverse / weight)
    slope = problem.dual_loss.conjugate_gradient(Lambda, problem.Y) - scores
    index = face.edges.sample[..., None].expand_as(face.edges.direction)
    residual = ((slope - pull).gather(-2, index) * face.edges.direction).sum(-1)
    D = -face.step(small, residual)
    shortest = torch.where(D < 0, -Lambda / torch.where(D < 0, D, 1.0), torch.inf).amin((1, 2))
    longest = (BOUNDARY * shortest).clamp_max(1)

    def value(length: Tensor) -> Tensor:
        moved = Lambda + (length * longest)[:, None, None] * D
        Theta = problem.Y - moved
        data = problem.loss.conjugate(Theta, problem.Y) - mu[:, None] * torch.where(allowed, moved, 1.0).log().sum(-1)
        return (problem.weight * data).sum(-1) + problem.conjugate(problem.correlation(Theta))

    descent = (problem.weight[..., None] * (slope - pull) * D).sum((1, 2)) * longest
    length, _ = backtrack(value, value(torch.zeros_like(descent)), descent)
    length = length * longest
    return Lambda + length[:, None, None] * D, length, slope
