"""Accelerated proximal gradient with restarts: cheap steps that come near enough to the support for Newton's.

(Beck and Teboulle, 2009; O'Donoghue and Candès, 2015; the momentum of Chambolle and Dossal, 2015.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..losses import Squared
from ..penalties import Partly
from ..problem import Problem
from ..products import gram
from .batch import few, pick, put
from .primal import Point, better, point

# The gap is looked at after so many steps, and must have fallen to this share for as many more.
STEPS, SLOW = 40, 0.5
# The matrix of a linear gradient is formed up to so many features per sample: a product with it costs less than two
# with X, and it costs about as much as the steps.
SQUARE = 1.5


class _Linear(NamedTuple):
    """For squared loss, a step from W against the gradient in one call: (Wᵀ ``matrix`` + ``offset``)ᵀ."""

    matrix: Tensor
    offset: Tensor


class _Fixed(NamedTuple):
    """What stays: the problem, the ``step`` in the penalised rows, the ``length`` row by row, the gap that is ``enough``
    and the gradient's matrix, if that pays.
    """

    problem: Problem
    step: Tensor
    length: Tensor
    enough: Tensor
    linear: _Linear | None

    def forward(self, W: Tensor) -> Tensor:
        """A step from W against the gradient of loss and ridge."""
        if self.linear is not None:
            return torch.baddbmm(self.linear.offset, W.mT, self.linear.matrix).mT
        theta = self.problem.loss.dual_point(self.problem.scores(W), self.problem.Y)
        return W - self.length * self.problem.slope(W, self.problem.correlation(theta))


class _State(NamedTuple):
    """The best point and the gap ``before``, W and the point ``ahead`` of it, and the steps ``since`` a restart."""

    at: Point
    before: Tensor
    W: Tensor
    ahead: Tensor
    since: Tensor


def descend(problem: Problem, at: Point, step: Tensor, enough: Tensor) -> Point:
    """A point whose gap is ``enough`` (b,), or from where further steps would not lower it much.

    Steps are of length ``step`` (b,), at most 1/L for the penalised rows. With an intercept beside them, for which L is
    that of the loss, both go half as far: two blocks bend together at most twice as much as each alone.
    """
    step = step / 2 if isinstance(problem.penalty, Partly) else step
    length = torch.where(problem.intercept, 0.5 / problem.smooth_loss.smoothness(), step[:, None, None])
    fixed = _Fixed(problem, step, length, enough, _linear(problem, length))
    before, since = torch.full_like(at.gap, torch.inf), torch.zeros_like(at.gap)
    return _descend(fixed, _State(at, before, at.coef, at.coef, since)).at


def _linear(problem: Problem, length: Tensor) -> _Linear | None:
    """With H the Hessian, I − H diag(length) and (XᵀSY)ᵀ diag(length), where H is constant and small."""
    n, m = problem.X.shape[-2:]
    if not isinstance(problem.loss, Squared) or m > SQUARE * n:
        return None
    length = length.expand(-1, m, 1)
    matrix = -gram(problem.X.mT, problem.weight) * length.mT
    matrix.diagonal(dim1=1, dim2=2).add_((1 - problem.ridge * length)[..., 0])
    return _Linear(matrix, (length * problem.correlation(problem.Y)).mT.contiguous())


def _descend(fixed: _Fixed, state: _State) -> _State:
    """Rounds of steps until no element goes on."""
    at, before, W, ahead, since = state
    while (going := (at.gap > fixed.enough) & (at.gap <= SLOW * before)).any():
        if (some := few(going)) is not None:
            state = _State(at, before, W, ahead, since)
            return put(state, some, _descend(pick(fixed, some), pick(state, some)))
        for _ in range(STEPS):
            new = fixed.problem.penalty.prox(fixed.forward(ahead), fixed.step)
            moved = new - W
            uphill = ((ahead - new) * moved).sum((1, 2)) > 0
            since = torch.where(uphill, 0.0, since)
            W, ahead = new, torch.addcmul(new, moved, (since / (since + 3))[:, None, None])
            since = since + 1
        before, at = at.gap, better(point(fixed.problem, W), at)
    return _State(at, before, W, ahead, since)
