"""Newton's method on the dual, with a Kronecker model of the Hessian; l2 > 0, any number of features.

    minimise F(Λ) = R*(V) + Σᵢ s̄ᵢ ℓ*(−θᵢ; yᵢ),    Θ = Y − Λ,  V = Xᵀ diag(s̄) Θ + offset,  Λ in the loss's domain

The Hessian on √s̄Λ is diag(√s̄) X C_j Xᵀ diag(√s̄)/l2 + κ, C_j (k, k) the derivative of prox at V_j. Each step

1. replaces C_j by a multiple of the identity: the Hessian becomes M ⊗ I, and the model's constrained minimum and its
   face are found exactly, with n×n systems only (`simplex_qp`);
2. takes the exact Newton step on that face by conjugate gradients, preconditioned by the factors just used;
3. goes there as far as F decreases enough, along the segment, where F costs no pass over X.

Without a penalty the model is the Hessian, and one or two steps suffice. Features whose rows are zero do not enter the
model; the full product that yields V checks them all in every step.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..domains import Simplex
from ..problem import Problem, relative
from . import clock
from .batch import few, put
from .conjugate_part import ConjugatePart, Local
from .face import Face, free_face, simplex_face

# Conjugate gradients stop at the root of the gap, which is how far Λ is from the minimum: Newton's method is then as
# fast as with exact steps. It is the reduction of the residual in the norm of the preconditioner, within these bounds;
# what is below them is rounding.
CG_REDUCTION = 1e-8, 0.1
CG_STEPS = 20
# Steps of the active set: with a penalty the model is only a model.
MODEL_STEPS, EXACT_MODEL_STEPS = 6, 12
HALVINGS = 30
# Steps without a better gap after which the search ends.
PATIENCE = 10


class DualPoint(NamedTuple):
    """``Lambda`` (b, n, k), the relative ``gap`` (b,) it certifies, and the steps (b,) in which an element moved."""

    Lambda: Tensor
    gap: Tensor
    n_iter: Tensor


def minimise(
    part: ConjugatePart, Lambda: Tensor, tol: float | Tensor, max_iter: int | Tensor, offset: Tensor | None = None
) -> DualPoint:
    """Minimise F from ``Lambda`` until every element's relative gap is at most ``tol``, or no step helps any more.

    ``tol`` and ``max_iter``, the most steps, are numbers or one per element (b,).

    ``offset`` (b, m, k) states a proximal term: with offset σW₀ and l2 = l2′ + σ the problem is the one with l2′ plus
    (σ/2)‖W − W₀‖², and so is the gap.
    """
    image = part.image(part.problem.Y - Lambda)
    search = _Search(part, Lambda, image if offset is None else image + offset, tol, max_iter)
    found, todo = search.best, torch.arange(len(Lambda), device=Lambda.device)
    while True:
        live = search.look()
        if not live.any() or search.idle > PATIENCE or clock.is_over():
            return put(found, todo, search.best)
        if (some := few(live)) is not None:
            found, todo, live = put(found, todo, search.best), todo[some], live[some]
            search = search.pick(some)
        search.step(live)


class _Search:
    """Λ with its image, the best that was seen, and what the next step depends on."""

    def __init__(
        self, part: ConjugatePart, Lambda: Tensor, image: Tensor, tol: float | Tensor, max_iter: int | Tensor
    ) -> None:
        self.part, self.at = part, Reached.of(part, Lambda, image)
        self.null = part.null
        self.gap = torch.full_like(self.null, torch.inf)
        steps = torch.zeros_like(self.null, dtype=torch.int64)
        self.best, self.idle = DualPoint(Lambda, self.gap, steps), 0
        self.tol, self.max_iter = torch.zeros_like(self.null) + tol, steps + max_iter
        self.damping = Damping(part)

    def pick(self, index: Tensor) -> "_Search":
        """Some elements of the batch."""
        at = self.at
        some = _Search(
            self.part.pick(index), at.Lambda[index], at.local.image[index], self.tol[index], self.max_iter[index]
        )
        some.best, some.gap, some.idle = DualPoint(*(t[index] for t in self.best)), self.gap[index], self.idle
        some.damping.factor = self.damping.factor[index]
        return some

    def look(self) -> Tensor:
        """Take note of the gap; the elements (b,) to go on with."""
        problem, best, Lambda = self.part.problem, self.best, self.at.Lambda
        samples = problem.loss.fenchel_young(self.at.local.scores, problem.Y - Lambda, problem.Y)
        self.gap = gap = relative((problem.weight * samples).sum(-1), self.null)
        self.idle = 0 if ((gap < 0.9 * best.gap) & (best.gap > self.tol)).any() else self.idle + 1
        Lambda = torch.where((gap < best.gap)[:, None, None], Lambda, best.Lambda)
        live = (gap > self.tol) & (best.n_iter < self.max_iter)
        self.best = DualPoint(Lambda, torch.minimum(gap, best.gap), best.n_iter + live.to(torch.int64))
        return live

    def step(self, live: Tensor) -> None:
        """One step of Newton's method in the elements ``live`` (b,)."""
        at, slope = self.at, _slope(self.part.problem, self.at.Lambda, self.at.local)
        step = _model_step(
            self.part, at.Lambda, at.local, slope, self.damping.value, self.gap.sqrt().clamp(*CG_REDUCTION)
        )
        length, self.at = _line_search(self.part, at, slope, step, live)
        self.damping.update(live, length, step.settled)


class Reached(NamedTuple):
    """Λ, what R* is like there, and F (b,)."""

    Lambda: Tensor
    local: Local
    value: Tensor

    @classmethod
    def of(cls, part: ConjugatePart, Lambda: Tensor, image: Tensor) -> "Reached":
        """At Λ and its image."""
        problem, local = part.problem, part.local(image)
        Theta = problem.Y - Lambda
        return cls(
            Lambda, local, (problem.weight * problem.loss.conjugate(Theta, problem.Y)).sum(-1) + local.value(Theta)
        )


class Damping:
    """A multiple of the identity added to the model: more after steps cut short, less after full ones."""

    RESTART, LARGEST = 1e-7, 1.0

    def __init__(self, part: ConjugatePart) -> None:
        # Without any feature there is nothing to scale by, and anything positive will do.
        self.scale = torch.where(part.scale > 0, part.scale, 1.0)
        # Rounding must not make a model indefinite.
        self.smallest = 1e-10 if part.model_precision == torch.float64 else 2e-7
        self.factor = torch.full_like(part.scale, self.smallest)

    @property
    def value(self) -> Tensor:
        """(b,)."""
        return self.factor * self.scale

    def update(self, live: Tensor, length: Tensor, settled: Tensor) -> None:
        """``length`` (b,) of the step taken, 1 for a full one; ``settled`` (b,) if the model's minimum was found."""
        more = (self.factor.clamp_min(self.RESTART) * 20).clamp_max(self.LARGEST)
        less = (self.factor / 10).clamp_min(self.smallest)
        adapted = torch.where(~settled | (length < 0.5), more, torch.where(length >= 1, less, self.factor))
        self.factor = torch.where(live, adapted, self.factor)


class Step(NamedTuple):
    """Two targets for Λ (b, n, k): ``newton``, and the ``safe`` minimum of the model, made when asked for; ``settled``
    (b,).
    """

    newton: Tensor
    safe: Callable[[], Tensor]
    settled: Tensor


def _model_step(
    part: ConjugatePart, Lambda: Tensor, local: Local, slope: Tensor, damping: Tensor, reduction: Tensor
) -> Step:
    """Parts 1 and 2 of a step, on L = √s̄Λ, ``slope`` being that of F in it."""
    problem = part.problem
    diagonal = problem.dual_loss.conjugate_curvature(problem.l2) + damping
    M = local.model.clone()
    M.diagonal(dim1=-2, dim2=-1).add_(diagonal[:, None])
    face = model_face(problem, M, Lambda, local, slope)
    point = face.point
    if local.hessian is not None:
        curved, L = local.hessian, problem.weight.sqrt()[..., None] * Lambda
        diagonal = diagonal[:, None, None]
        point = _conjugate_gradients(lambda D: torch.addcmul(curved(D), diagonal, D), face, slope, L, reduction)
    return Step(unscaled(problem, point, Lambda), lambda: unscaled(problem, face.feasible, Lambda), face.settled)


def model_face(problem: Problem, M: Tensor, Lambda: Tensor, local: Local, slope: Tensor | None = None) -> Face:
    """The constrained minimum of the model with Hessian M ⊗ I in L = √s̄Λ around ``Lambda``, and the face it is on.

    ``slope`` is that of F in L, where it is known.
    """
    domain = problem.dual_loss.domain
    slope = _slope(problem, Lambda, local) if slope is None else slope
    C = slope - M @ (problem.weight.sqrt()[..., None] * Lambda)
    if not isinstance(domain, Simplex):
        return free_face(M, C)
    # First guess of the face: what is positive, and what would become so, its slope being below the sample's mean.
    free = (Lambda > 0) | (slope < (slope * Lambda).sum(-1, keepdim=True))
    steps = EXACT_MODEL_STEPS if local.hessian is None else MODEL_STEPS
    return simplex_face(M, C, free, problem.weight, domain.allowed, steps, Lambda)


def _slope(problem: Problem, Lambda: Tensor, local: Local) -> Tensor:
    """The gradient of F in √s̄Λ."""
    return problem.weight.sqrt()[..., None] * (problem.dual_loss.conjugate_gradient(Lambda, problem.Y) - local.scores)


def unscaled(problem: Problem, L: Tensor, Lambda: Tensor) -> Tensor:
    """L/√s̄ in Λ's domain. An absent sample's λ acts on nothing; it stays where it is, at that of ``Lambda``."""
    root = problem.weight.sqrt()[..., None]
    return problem.dual_loss.domain.project(torch.where(root > 0, L / torch.where(root > 0, root, 1.0), Lambda))


def _conjugate_gradients(
    hessian: Callable[[Tensor], Tensor], face: Face, slope: Tensor, L: Tensor, reduction: Tensor
) -> Tensor:
    """Improve the model's minimum on its face towards the minimum of the exact quadratic around L."""
    X = face.point
    # Without what is normal to the face, which rounding would take for a residual. What later products add of it is
    # seen neither by the preconditioner nor by directions within the face.
    R = face.tangent(-slope - hessian(X - L))
    D = Z = face.precondition(R)
    rz = _dot(R, Z).clamp_min(0)
    enough, on = rz * reduction[:, None, None].square(), rz > 0
    for _ in range(CG_STEPS):
        HD = hessian(D)
        curvature = _dot(D, HD)
        on = on & (curvature > 0)
        length = torch.where(on, rz / curvature, 0.0)
        X, R = torch.addcmul(X, length, D), torch.addcmul(R, length, HD, value=-1)
        Z = face.precondition(R)
        rz, before = _dot(R, Z).clamp_min(0), rz
        on = on & (rz > enough)
        if not on.any():
            break
        D = torch.addcmul(Z, torch.where(on, rz / before, 0.0), D)
    return X


def _dot(A: Tensor, B: Tensor) -> Tensor:
    return (A * B).sum((-2, -1), keepdim=True)


def _line_search(part: ConjugatePart, at: Reached, slope: Tensor, step: Step, live: Tensor) -> tuple[Tensor, Reached]:
    """Go to the Newton target as far as F decreases enough; to the model's minimum where that is hardly anywhere.

    The length (b,) of the step, and where it leads.
    """
    root = part.problem.weight.sqrt()[..., None]

    def towards(target: Tensor) -> "_Segment":
        # Where nothing is to move, and where a step has overflowed, it stays.
        target = torch.where(live[:, None, None] & target.isfinite(), target, at.Lambda)
        return _Segment(part, at, target, slope * root)

    newton = towards(step.newton)
    short = live & (newton.length < 0.1)
    if not short.any():
        return newton.length, newton.end()
    safe = towards(step.safe())
    use = short & ((safe.value < newton.value) | (newton.length == 0))
    length, pick = torch.where(use, safe.length, newton.length), use[:, None, None]
    target, moved = torch.where(pick, safe.target, newton.target), torch.where(pick, safe.moved, newton.moved)
    return length, _on_the_way(part, at, target, moved, length)


class _Segment:
    """From a point to a ``target`` (b, n, k), by ``moved`` in the image; the ``length`` (b,) that lowers F enough, and
    F there.
    """

    def __init__(self, part: ConjugatePart, at: Reached, target: Tensor, slope: Tensor) -> None:
        self.part, self.at, self.target = part, at, target
        D = target - at.Lambda
        self.moved, self.tried = part.image(-D), at
        self.length, self.value = backtrack(self._value, at.value, (slope * D).sum((-2, -1)))

    def _value(self, length: Tensor) -> Tensor:
        self.tried = _on_the_way(self.part, self.at, self.target, self.moved, length)
        return self.tried.value

    def end(self) -> Reached:
        """At that length: what was tried last, unless nothing helped."""
        if (self.length > 0).all():
            return self.tried
        return _on_the_way(self.part, self.at, self.target, self.moved, self.length)


def _on_the_way(part: ConjugatePart, at: Reached, target: Tensor, moved: Tensor, length: Tensor) -> Reached:
    t = length[:, None, None]
    # A full step lands on its target exactly, zeros included.
    Lambda = torch.where(t == 1, target, at.Lambda + t * (target - at.Lambda))
    return Reached.of(part, Lambda, torch.addcmul(at.local.image, t, moved))


def backtrack(value: Callable[[Tensor], Tensor], start: Tensor, descent: Tensor) -> tuple[Tensor, Tensor]:
    """Halve the step until F falls from ``start`` by a share of what its slope ``descent`` promises (Armijo).

    The length (b,), 0 if it never does, and F there.
    """
    length = torch.ones_like(descent)
    slack = 1e-13 * start.abs()
    for _ in range(HALVINGS):
        reached = value(length)
        failed = ~(reached <= start + 1e-4 * length * descent + slack)
        if not failed.any():
            return length, reached
        length = torch.where(failed, length / 2, length)
    return torch.where(failed, 0.0, length), torch.where(failed, start, reached)
