"""A dual point with its certificate and its optimality system, and Newton's method on the face it lies on."""

from functools import cached_property

import torch
from torch import Tensor

from ..domains import Simplex
from ..penalties import Kinks
from ..problem import Problem
from .conjugate_part import ConjugatePart, FaceSystem, QuadraticLocal, conjugate_part
from .ties import at_kink, derivative_error

# Newton's steps on the face, and the step in Λ that is the last one.
POLISH_STEPS, SETTLED_STEP = 5, 1e-8
# A step this small is rounding, beside that of the features, and not taken.
ROUNDING_STEP = {torch.float64: 1e-13, torch.float32: 1e-8}
# Gaps that differ by less are the same.
ROUNDING = 1e-15


class CertifiedPoint:
    """Λ (b, n, k), projected on its domain, R* there, its gap (b,), and the optimality system."""

    def __init__(self, part: ConjugatePart, Lambda: Tensor) -> None:
        problem = part.problem
        self.part = part
        Lambda = problem.dual_loss.domain.project(Lambda)
        self.image = part.image(problem.Y - Lambda)
        self.local = part.local(self.image)
        if part.has_absent:
            # A sample of weight zero sits at its worst class: the right one-sided derivative in its weight.
            worst = problem.Y - problem.loss.dual_point(self.local.scores, problem.Y)
            Lambda = torch.where((problem.weight > 0)[..., None], Lambda, worst)
        self.Lambda = Lambda
        samples = problem.loss.fenchel_young(self.local.scores, problem.Y - self.Lambda, problem.Y)
        self.gap = (problem.weight * samples).sum(-1)

    @property
    def theta(self) -> Tensor:
        """The dual point Θ (b, n, k)."""
        return self.part.problem.Y - self.Lambda

    @cached_property
    def V(self) -> Tensor:
        """That of Θ, (b, m, k)."""
        return self.local.full_image(self.theta)

    @cached_property
    def face(self) -> FaceSystem:
        """The system at Λ, unless it is set to one made where it is as good."""
        return self.local.face(self.Lambda)

    @cached_property
    def newton_step(self) -> Tensor:
        """The change of Λ that Newton's method asks for, with the opposite sign."""
        problem = self.local.small
        return self.face.step(problem, self.face.residual(problem, self.Lambda, self.local.scores))

    @cached_property
    def margins(self) -> Kinks:
        """Of classes with λ = 0, how far their margin is from a tie; of the others, λ itself, (b, n, k).

        A sample whose only positive λ is one moves along no edge: there λ is no kink.
        """
        problem = self.part.problem
        slope = problem.dual_loss.conjugate_gradient(self.Lambda, problem.Y) - self.local.scores
        positive = self.Lambda > 0
        lowest = torch.where(positive, slope, torch.inf).amin(-1, keepdim=True)
        distance = torch.where(positive, self.Lambda, slope - lowest)
        alone = positive & (positive.sum(-1, keepdim=True) == 1)
        counts = allowed_classes(problem) & (problem.weight > 0)[..., None] & ~alone
        return Kinks(torch.where(counts, distance, torch.inf), 1 + slope.abs().amax(-1, keepdim=True))

    @cached_property
    def degenerate(self) -> Tensor:
        """Elements (b,) with a margin, a λ or a group about to bend."""
        # Where W does not move with Λ a tie between classes is of no consequence.
        margins = at_kink(self.margins) & self.local.moves()
        return margins if isinstance(self.local, QuadraticLocal) else margins | at_kink(self.local.kinks())

    def derivative_error(self) -> Tensor:
        """From how far the solution may be: scores by ‖xᵢ‖·√(2(P − D)/l2), λ and V by Newton's next step."""
        step = self.newton_step
        scores = self.part.row_norms() * (2 * self.gap / self.part.problem.l2).sqrt()[:, None]
        uncertainty = torch.where(self.Lambda > 0, step.abs(), 2 * scores[..., None])
        error = derivative_error(self.margins.distance, uncertainty, self.face)
        if isinstance(self.local, QuadraticLocal):
            return error
        moved = self.local.coef_change(step)[:, None, None]
        kinks = self.local.kinks()
        of_groups = derivative_error(kinks.distance, moved, self.face)
        # Where W does not move with Λ its system is of no consequence.
        return torch.where(self.local.moves(), torch.maximum(error, of_groups), self._error_of_zero(kinks))

    def _error_of_zero(self, kinks: Kinks) -> Tensor:
        """Of derivatives that are zero, as W is: none where some Λ of gap zero is within every group's threshold.

        With W = 0 the gap is what λ the samples' own classes have, and V moves by at most 2‖xᵢ‖ times what it moves.
        """
        reach = 2 * self.gap * self.part.row_norms().amax(-1) / self.part.problem.l2
        within = (kinks.distance > reach[:, None, None]).flatten(1).all(-1) & ~at_kink(kinks)
        return torch.where(within, 0.0, torch.inf)


def allowed_classes(problem: Problem) -> Tensor:
    """The classes each sample may be at, (b, n, k)."""
    domain = problem.dual_loss.domain
    assert isinstance(domain, Simplex)
    return domain.allowed


def polish(problem: Problem, Lambda: Tensor) -> Tensor:
    """Λ after Newton on the face it lies on, as exact as rounding allows."""
    return polished(CertifiedPoint(conjugate_part(problem), Lambda)).Lambda


def polished(at: CertifiedPoint) -> CertifiedPoint:
    """Newton on the face until Λ stands still: the value is then as exact as rounding allows, and so is the factor."""
    part, made_at = at.part, at
    for _ in range(POLISH_STEPS):
        if (at.newton_step.abs() <= ROUNDING_STEP[part.precision]).all():
            break
        new = CertifiedPoint(part, at.Lambda - at.newton_step)
        # NaN compares false: a step into nowhere is not taken.
        better = (new.gap <= at.gap + ROUNDING)[:, None, None]
        if not better.all():
            new = CertifiedPoint(part, torch.where(better, new.Lambda, at.Lambda))
        settled = bool(((new.Lambda - at.Lambda).abs() <= SETTLED_STEP).all())
        if _on_one_face(new.Lambda, made_at.Lambda, part.same_system):
            new.face = at.face
        else:
            made_at = new
        at = new
        if settled:
            break
    return at


def _on_one_face(new: Tensor, old: Tensor, distance: float) -> bool:
    """Whether the two Λ are positive at the same places, and no further apart."""
    return bool(((new > 0) == (old > 0)).all() and ((new - old).abs() <= distance).all())
