"""The dual point of smallest norm by first-order steps, however many samples, features and classes.

    min over Λ of max_j ‖V_j‖ = min over Λ of max over U of ⟨U, V⟩,    V = Xᵀ diag(s̄)(Y − Λ),    Σ_j ‖U_j‖ ≤ 1

A step projects Λ + (η/ω)XU on the simplices, and U + ηω(2V⁺ − V) on the ball (Chambolle and Pock, 2011). Both sets are
bounded, so that every pair has a finite gap; near the solution it falls by a factor for so many steps, where η is as
long as the last step allowed and each run begins anew at the average of the one before (Applegate et al., 2021).
"""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..penalties import row_norm
from ..prox import project_simplex
from .batch import few, pick, put
from .bounds import Bounds, Given

T = TypeVar("T")

# Steps between two looks at the bounds, and in all.
STEPS, LIMIT = 16, 20_000
# A run ends when it has come so near; or so near, and no nearer since the last look.
NEAR, NEARER = 0.2, 0.8
# The first ω, which balances the ways that Λ and U go.
BALANCE = 0.1


class _Point(NamedTuple):
    """Λ with its V, and U with its scores Z = XU."""

    Lambda: Tensor
    V: Tensor
    U: Tensor
    Z: Tensor


class _Run(NamedTuple):
    """Where a run began, sums of Λ and U by length of step, the sum of these lengths (b,), and the gaps (b,) at its
    beginning and when it was last looked at.
    """

    start: _Point
    Lambda: Tensor
    U: Tensor
    length: Tensor
    first: Tensor
    last: Tensor

    @classmethod
    def at(cls, start: _Point, gap: Tensor) -> "_Run":
        nothing = torch.zeros_like(gap)
        return cls(start, torch.zeros_like(start.Lambda), torch.zeros_like(start.U), nothing, gap, gap)


class Pace(NamedTuple):
    """η and ω (b,): how long steps are, and how U's compare to those of Λ; and how many there were."""

    eta: Tensor
    omega: Tensor
    steps: Tensor

    @classmethod
    def of(cls, given: Given) -> "Pace":
        """No η is too long for the inverse of the largest singular value, which the Frobenius norm bounds."""
        size = (given.weight * given.X.square().sum(-1)).sum(-1).sqrt()
        return cls(1 / torch.where(size > 0, size, 1.0), torch.full_like(size, BALANCE), torch.zeros_like(size))


class _State(NamedTuple):
    """A point, its run, the pace, and the best bounds."""

    at: _Point
    run: _Run
    pace: Pace
    best: Bounds


def search(given: Given, best: Bounds, pace: Pace, precision: Tensor) -> tuple[Bounds, Pace]:
    """From the pair of some bounds to bounds that are nearer together than ``precision`` (b,), relatively; the pace."""
    at = _at(given, best.Lambda, best.U)
    run = _Run.at(at, torch.full_like(precision, torch.inf))
    state = _State(at, run, pace, _bounds(given, at))
    return _search(given, state, precision)


def _search(given: Given, state: _State, precision: Tensor) -> tuple[Bounds, Pace]:
    while True:
        live = state.best.apart(precision) & (state.pace.steps < LIMIT)
        if not live.any():
            return state.best, state.pace
        if (some := few(live)) is not None:
            part = _search(pick(given, some), pick(state, some), precision[some])
            return put((state.best, state.pace), some, part)
        for _ in range(STEPS):
            state = _step(given, state)
        state = _look(given, state)


def _at(given: Given, Lambda: Tensor, U: Tensor) -> _Point:
    return _Point(Lambda, given.V(Lambda), U, given.scores(U))


def _bounds(given: Given, at: _Point) -> Bounds:
    return Bounds(at.U, at.Lambda, given.lower(at.U, at.Z), row_norm(at.V).amax(-1))


def _ways(given: Given, one: _Point, other: _Point) -> tuple[Tensor, Tensor]:
    """Squared distances (b,): of Λ by the weights of samples, and of U."""
    ways = (given.weight * (one.Lambda - other.Lambda).square().sum(-1)).sum(-1)
    return ways, (one.U - other.U).square().sum((-2, -1))


def _step(given: Given, state: _State) -> _State:
    """A step, if η is short enough for it; and the next η."""
    at, run, (eta, omega, steps) = state.at, state.run, state.pace
    tau, sigma = (eta / omega)[:, None, None], (eta * omega)[:, None, None]
    Lambda = project_simplex(at.Lambda + tau * at.Z, torch.ones_like(tau), given.allowed)
    V = given.V(Lambda)
    U = _on_ball(at.U + sigma * (2 * V - at.V))
    new = _Point(Lambda, V, U, given.scores(U))
    ways = _ways(given, new, at)
    bent = 2 * ((U - at.U) * (V - at.V)).sum((-2, -1)).abs()
    longest = (omega * ways[0] + ways[1] / omega) / torch.where(bent > 0, bent, 1.0)
    longest = torch.where(bent > 0, longest, torch.inf)
    taken = eta <= longest
    at = new if taken.all() else _chosen(taken, new, at)
    share = torch.where(taken, eta, 0.0)
    run = run._replace(
        Lambda=run.Lambda + share[:, None, None] * at.Lambda,
        U=run.U + share[:, None, None] * at.U,
        length=run.length + share,
    )
    steps = steps + 1
    eta = torch.minimum((1 - (steps + 1) ** -0.3) * longest, (1 + (steps + 1) ** -0.6) * eta)
    return state._replace(at=at, run=run, pace=Pace(eta, omega, steps))


def _look(given: Given, state: _State) -> _State:
    """Take note of the bounds, here and at the average of the run, and begin a new run at the better of the two."""
    at, run = state.at, state.run
    length = torch.where(run.length > 0, run.length, 1.0)[:, None, None]
    average = _chosen(run.length > 0, _at(given, run.Lambda / length, run.U / length), at)
    here, there = _bounds(given, at), _bounds(given, average)
    gap = torch.minimum(here.gap, there.gap)
    ends = (gap <= NEAR * run.first) | ((gap <= NEARER * run.first) & (gap > run.last))
    state = state._replace(best=state.best.better(here).better(there), run=run._replace(last=gap))
    if not ends.any():
        return state
    start = _chosen(there.gap < here.gap, average, at)
    ways = _ways(given, start, run.start)
    moved = ends & (ways[0] > 0) & (ways[1] > 0)
    balance = (ways[1] / torch.where(ways[0] > 0, ways[0], 1.0)).pow(0.25) * state.pace.omega.sqrt()
    return state._replace(
        at=_chosen(ends, start, at),
        run=_chosen(ends, _Run.at(start, gap), state.run),
        pace=state.pace._replace(omega=torch.where(moved, balance, state.pace.omega)),
    )


def _on_ball(U: Tensor) -> Tensor:
    """The nearest point with Σ_j ‖U_j‖ ≤ 1: the norms are projected on a simplex."""
    norm = row_norm(U)
    shorter = project_simplex(norm, torch.ones_like(norm[:, :1]), torch.ones_like(norm, dtype=torch.bool))
    share = torch.minimum(shorter / torch.where(norm > 0, norm, 1.0), torch.ones_like(norm))
    return torch.where(norm.sum(-1)[:, None, None] > 1, share[..., None] * U, U)


def _chosen(where: Tensor, new: T, old: T) -> T:
    """The elements ``where`` (b,) of one tree, the others of another."""
    return pytree.tree_map(lambda n, o: torch.where(where.reshape(-1, *[1] * (n.dim() - 1)), n, o), new, old)
