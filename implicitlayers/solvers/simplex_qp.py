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

from ..kronecker import FaceFactor, alike, factorise_face, invert_whole, masked_factor
from ..prox import project_simplex
from .batch import pick, put

# An interior point ends when its complementarity gap is below this share of the objective's scale.
INTERIOR_GAP, INTERIOR_STEPS = 1e-15, 40
# Products b·k·n³ of a factorisation from which on an interior point costs too much, and steps of the gradient method
# that then look for a lower point; they cost as much as one or two factorisations.
LARGEST_INTERIOR, GRADIENT_STEPS = 2**24, 200


# Elements leave the batch from so many products b·k·n³ on: fewer cost less than picking elements does.
WORTH_PICKING = 2**22
# Points of a search that is short: those before this one are not worth keeping.
SHORT = 2


class Program(NamedTuple):
    """``M`` (b, n, n), what its faces share as ``whole``, ``C`` (b, k, n), ``total`` (b, 1, n) ≥ 0; entries of L that
    may be positive are ``open`` (b, k, n), and in columns of total 0 one entry is ``pinned``, all others are closed.

    Rounding: what is at most ``least`` (b, 1, n) is zero, and so is a slope up to ``flat`` (b, 1, 1).
    """

    M: Tensor
    whole: Tensor
    C: Tensor
    total: Tensor
    open: Tensor
    pinned: Tensor
    least: Tensor
    flat: Tensor

    @classmethod
    def of(cls, M: Tensor, C: Tensor, total: Tensor, allowed: Tensor, free: Tensor) -> "Program":
        """With entries ``allowed`` (b, k, n), of which about those ``free`` will be positive."""
        some = total > 0
        pinned = allowed & ~some & (allowed.cumsum(1) == 1)
        least, flat = 1e-14 * total, 1e-12 * C.abs().amax((1, 2), keepdim=True)
        return cls(M, invert_whole(M, free), C, total, allowed & some, pinned, least, flat)

    def value(self, L: Tensor) -> Tensor:
        """The objective, (b,)."""
        return ((L @ self.M / 2 + self.C) * L).sum((1, 2))

    def faces(self, free: Tensor) -> Tensor:
        """``free`` made a face: within the open entries, exactly one entry in columns of total 0."""
        return (free & self.open) | self.pinned


class FaceMinimum(NamedTuple):
    """``feasible``: the best feasible point; ``point``: the minimiser on the last face, feasible if ``settled``;
    ``free``: that face, with its ``factor``; ``settled`` (b,): the face is the right one.
    """

    feasible: Tensor
    point: Tensor
    free: Tensor
    factor: FaceFactor
    settled: Tensor

    def put(self, index: Tensor, part: "FaceMinimum") -> "FaceMinimum":
        """The same with some elements replaced."""
        mine, other = alike(self.factor, part.factor)
        return put(self._replace(factor=mine), index, part._replace(factor=other))


def minimise(program: Program, start: Tensor, free: Tensor, max_iter: int) -> FaceMinimum:
    """Solve from the feasible ``start`` and the guess ``free`` of its face; ``max_iter`` bounds the active set."""
    found = _active_set(program, start, program.faces(free), max_iter)
    if found.settled.all():
        return found
    stuck = (~found.settled & ~(program.value(found.feasible) < program.value(start))).nonzero().flatten()
    if not len(stuck):
        return found
    some = pick(program, stuck)
    if len(stuck) * some.C[0].numel() * some.M.shape[-1] ** 2 > LARGEST_INTERIOR:
        # The face is not the right one; whoever asked adds to M until it has one that is found.
        better = _descend(some, start[stuck])
        return found._replace(feasible=found.feasible.index_copy(0, stuck, better))
    again = _active_set(some, *_interior_point(some), 2)
    return found.put(stuck, again._replace(settled=torch.ones_like(again.settled)))


def _active_set(
    program: Program, start: Tensor, free: Tensor, max_iter: int, seen: tuple[Tensor, ...] = ()
) -> FaceMinimum:
    """From the face ``free`` until it repeats itself; elements leave the batch as theirs does.

    Where it does not, it may cycle: the best feasible point is kept, of the ``start`` and what was ``seen`` of a search
    that is not short.
    """
    found, wanted = _active_set_step(program, free)
    seen = (*seen, found.point)
    b, k, n = free.shape
    while len(seen) < max_iter and not found.settled.all():
        if b * k * n**3 > WORTH_PICKING and found.settled.any():
            some = (~found.settled).nonzero().flatten()
            part = _active_set(pick(program, some), start[some], wanted[some], max_iter, pick(seen, some))
            return found.put(some, part)
        found, wanted = _active_set_step(program, wanted)
        seen = (*seen, found.point)
    if not found.settled.all():
        best = start
        for point in seen[min(len(seen), SHORT) - 1 :]:
            best = _lower(program, point, best)
        found = found._replace(feasible=torch.where(found.settled[:, None, None], found.point, best))
    return found


def _lower(program: Program, point: Tensor, best: Tensor) -> Tensor:
    """A point's projection, or the ``best`` so far where that is lower."""
    projected = project_simplex(point, program.total, program.open | program.pinned, dim=1)
    return torch.where((program.value(projected) <= program.value(best))[:, None, None], projected, best)


def _active_set_step(program: Program, free: Tensor) -> tuple[FaceMinimum, Tensor]:
    """The minimiser on a face, and the face its signs ask for: positive entries, and those of negative slope."""
    factor = factorise_face(program.M, free, program.whole)
    point, multiplier = factor.solve(program.C, program.total)
    slope = torch.baddbmm(program.C, point, program.M) - multiplier
    wanted = program.faces(torch.where(free, point > program.least, slope < -program.flat))
    settled = (wanted == free).flatten(1).all(1)
    return FaceMinimum(point, point, free, factor, settled), wanted


def _descend(program: Program, start: Tensor) -> Tensor:
    """A point (b, k, n) of lower value than the feasible ``start``, by accelerated projected gradient (see
    `accelerated`), whose steps cost a share of 1/n of a factorisation.
    """
    allowed = program.open | program.pinned
    # Gershgorin's bound on the largest eigenvalue.
    L = program.M.abs().sum(-1).amax(-1)[:, None, None]
    length = torch.where(L > 0, 1 / torch.where(L > 0, L, 1.0), 1.0)
    at = ahead = start
    t = torch.ones_like(length)
    for _ in range(GRADIENT_STEPS):
        slope = torch.baddbmm(program.C, ahead, program.M)
        new = project_simplex(ahead - length * slope, program.total, allowed, dim=1)
        moved = new - at
        uphill = ((ahead - new) * moved).sum((1, 2), keepdim=True) > 0
        later = (1 + (1 + 4 * t.square()).sqrt()) / 2
        ahead = torch.addcmul(new, torch.where(uphill, 0.0, (t - 1) / later), moved)
        at, t = new, torch.where(uphill, 1.0, later)
    return torch.where((program.value(at) < program.value(start))[:, None, None], at, start)


def _interior_point(program: Program) -> tuple[Tensor, Tensor]:
    """Mehrotra's predictor–corrector method from a feasible start: a point (b, k, n), and the face it tells.

    Stationarity LM + C − 1θᵀ = S ≥ 0 and ΣL = total hold in every step; complementarity L∘S → 0 is what is driven.
    """
    M, C, total, free = program.M, program.C, program.total, program.open
    mask = free.to(M.dtype)
    entries = mask.sum((1, 2), keepdim=True).clamp_min(1)
    L = torch.where(free, total / mask.sum(1, keepdim=True).clamp_min(1), 0.0)
    slope = L @ M + C
    spread = (slope - slope.amin(1, keepdim=True)).amax((1, 2), keepdim=True)
    S = torch.where(free, slope - torch.where(free, slope, torch.inf).amin(1, keepdim=True) + spread / 10, 0.0)
    scale = (L * S).sum((1, 2), keepdim=True)
    empty = (total <= 0)[:, 0]

    def ratio(A: Tensor, B: Tensor) -> Tensor:
        return torch.where(free, A / torch.where(free, B, 1.0), 0.0)

    def longest(X: Tensor, D: Tensor) -> Tensor:
        steps = torch.where(D < 0, -X / torch.where(D < 0, D, 1.0), torch.inf)
        return steps.amin((1, 2), keepdim=True).clamp_max(1)

    for _ in range(INTERIOR_STEPS):
        mu = (L * S).sum((1, 2), keepdim=True) / entries
        if (mu * entries <= INTERIOR_GAP * scale).all():
            break
        factor = masked_factor(M, free, ratio(S, L), empty)
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
    return L, program.faces(L / total.clamp_min(1e-300) > S / spread.clamp_min(1e-300))
