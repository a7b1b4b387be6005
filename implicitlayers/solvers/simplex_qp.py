"""Quadratic programs over products of simplices whose Hessian is M ⊗ I.

    minimise ½⟨L, L M⟩ + ⟨C, L⟩    over L (k, n), every column in a simplex: L ≥ 0, Σ_c L_ci = total_i

Every linear system splits into n×n ones (`kronecker`). A primal–dual active set, which changes as a whole in every
step (Hintermüller, Ito and Kunisch, 2002), needs a handful of steps where it works; where it cycles, which it does when
M has low rank, and makes nothing better, an interior point finds the face instead.

Layout: classes before samples, (b, k, n), the layout in which batched products are fast.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..kronecker import FaceFactor, factorise_face, in_order, masked_inverse
from ..linear import cholesky
from ..prox import project_simplex
from .batch import pick, put

# An interior point ends when its complementarity gap is below this share of the objective's scale.
INTERIOR_GAP, INTERIOR_STEPS = 1e-15, 40


class Program(NamedTuple):
    """``M`` (b, n, n), ``C`` (b, k, n), ``total`` (b, 1, n) ≥ 0, ``allowed`` (b, k, n); columns with total 0 stay 0."""

    M: Tensor
    C: Tensor
    total: Tensor
    allowed: Tensor

    def value(self, L: Tensor) -> Tensor:
        """The objective, (b,)."""
        return ((L @ self.M / 2 + self.C) * L).sum((1, 2))

    def faces(self, free: Tensor) -> Tensor:
        """``free`` made a face: within the allowed entries, exactly one entry in columns of total 0."""
        pinned = self.allowed & (self.allowed.cumsum(1) == 1)
        return torch.where(self.total > 0, free & self.allowed, pinned)


class FaceMinimum(NamedTuple):
    """``feasible``: the best feasible point seen; ``point``: the minimiser on the last face, feasible if ``settled``;
    ``free``: that face, with its ``factor``; ``settled`` (b,): the face is the right one.
    """

    feasible: Tensor
    point: Tensor
    free: Tensor
    factor: FaceFactor
    settled: Tensor

    def put(self, index: Tensor, part: "FaceMinimum") -> "FaceMinimum":
        """The same with some elements replaced."""
        size = max(self.factor.samples.shape[-1], part.factor.samples.shape[-1])
        mine, other = (found._replace(factor=found.factor.resized(size)) for found in (self, part))
        return put(mine, index, other)


def minimise(program: Program, start: Tensor, free: Tensor, max_iter: int) -> FaceMinimum:
    """Solve from the feasible ``start`` and the guess ``free`` of its face; ``max_iter`` bounds the active set."""
    found = _active_set(program, start, free, max_iter)
    if found.settled.all():
        return found
    stuck = (~found.settled & ~(program.value(found.feasible) < program.value(start))).nonzero().flatten()
    if len(stuck):
        some = pick(program, stuck)
        inside, face = _interior_point(some)
        again = _active_set(some, inside, face, 2)
        again = again._replace(settled=torch.ones_like(again.settled))
        found = found.put(stuck, again)
    return found


def _active_set(program: Program, start: Tensor, free: Tensor, max_iter: int) -> FaceMinimum:
    """Elements leave the batch as their face repeats itself."""
    found, free = _active_set_step(program, start, program.faces(free))
    todo, part = torch.arange(len(start), device=start.device), found
    for _ in range(max_iter - 1):
        moving = (~part.settled & part.point.isfinite().all(-1).all(-1)).nonzero().flatten()
        if not len(moving):
            break
        todo = pick(todo, moving)
        part, free = _active_set_step(pick(program, todo), pick(part.feasible, moving), pick(free, moving))
        found = found.put(todo, part)
    return found


def _active_set_step(program: Program, start: Tensor, free: Tensor) -> tuple[FaceMinimum, Tensor]:
    """The minimiser on a face, and the face its signs ask for: positive entries, and those of negative slope."""
    factor = factorise_face(program.M, free)
    point, multiplier = factor.solve(program.C, program.total)
    slope = point @ program.M + program.C - multiplier
    rounding = 1e-12 * program.C.abs().amax((1, 2), keepdim=True)
    wanted = program.faces(torch.where(free, point > 1e-14 * program.total, slope < -rounding))
    settled = (wanted == free).flatten(1).all(1)
    # A settled point is feasible as it is, and no feasible one is lower.
    feasible = point
    if not settled.all():
        projected = project_simplex(point, program.total, program.allowed, dim=1)
        lower = settled | (program.value(projected) <= program.value(start))
        feasible = torch.where(lower[:, None, None], projected, start)
    return FaceMinimum(feasible, point, free, factor, settled), wanted


def _interior_point(program: Program) -> tuple[Tensor, Tensor]:
    """Mehrotra's predictor–corrector method from a feasible start: a point (b, k, n), and the face it tells.

    Stationarity LM + C − 1θᵀ = S ≥ 0 and ΣL = total hold in every step; complementarity L∘S → 0 is what is driven.
    """
    M, C, total, allowed = program
    free = allowed & (total > 0)
    mask = free.to(M.dtype)
    entries = mask.sum((1, 2), keepdim=True).clamp_min(1)
    L = torch.where(free, total / mask.sum(1, keepdim=True).clamp_min(1), 0.0)
    slope = L @ M + C
    spread = (slope - slope.amin(1, keepdim=True)).amax((1, 2), keepdim=True)
    S = torch.where(free, slope - torch.where(free, slope, torch.inf).amin(1, keepdim=True) + spread / 10, 0.0)
    scale = (L * S).sum((1, 2), keepdim=True)
    empty = (total <= 0)[:, 0].to(M.dtype).diag_embed()

    def ratio(A: Tensor, B: Tensor) -> Tensor:
        return torch.where(free, A / torch.where(free, B, 1.0), 0.0)

    def longest(X: Tensor, D: Tensor) -> Tensor:
        steps = torch.where(D < 0, -X / torch.where(D < 0, D, 1.0), torch.inf)
        return steps.amin((1, 2), keepdim=True).clamp_max(1)

    for _ in range(INTERIOR_STEPS):
        mu = (L * S).sum((1, 2), keepdim=True) / entries
        if (mu * entries <= INTERIOR_GAP * scale).all():
            break
        inverse, pivot = masked_inverse(M, free, ratio(S, L))
        factor = FaceFactor(inverse, in_order(free), cholesky(inverse.sum(1) + empty), pivot.amin(-1) > 0)
        # Predictor: towards μ = 0. The change of S follows from complementarity, S dL + L dS = target − L∘S.
        dL = factor.solve(S)[0]
        dS = -S - ratio(S, L) * dL
        length = torch.minimum(longest(L, dL), longest(S, dS))
        after = ((L + length * dL) * (S + length * dS)).sum((1, 2), keepdim=True) / entries
        target = mu * (after / mu.clamp_min(1e-300)) ** 3 - dL * dS
        dL = factor.solve(S - ratio(target, L))[0]
        dS = ratio(target, L) - S - ratio(S, L) * dL
        length = 0.995 * torch.minimum(longest(L, dL), longest(S, dS))
        moving = (mu * entries > INTERIOR_GAP * scale) & dL.isfinite().all(-1).all(-1)[:, None, None]
        L = torch.where(moving, L + length * dL, L)
        S = torch.where(moving, S + length * dS, S)
    return L, free & (L / total.clamp_min(1e-300) > S / spread.clamp_min(1e-300))
