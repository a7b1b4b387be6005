"""Quadratic programs over products of simplices whose Hessian is M ⊗ I, by a primal–dual active set.

    minimise ½⟨L, L M⟩ + ⟨C, L⟩    over L (k, n), every column in a simplex: L ≥ 0, Σ_c L_ci = total_i

Because the Hessian does not couple classes, the equality-constrained problem on a face splits into one n×n system per
class and one n×n Schur complement for the multipliers: nothing of size nk×nk. The active set changes as a whole in
every step (Hintermüller, Ito and Kunisch, 2002), which takes a handful of steps where a pivoting method takes hundreds.

Layout: classes before samples, (b, k, n), the layout in which batched products are fast.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..prox import project_simplex


class FaceFactor(NamedTuple):
    """``inverse`` (b, k, n, n): for each class the inverse of M on its free samples, zero elsewhere; ``schur`` (b, n, n):
    the Cholesky factor of their sum, the Schur complement of the constraints Σ_c L_ci = total_i."""

    inverse: Tensor
    schur: Tensor

    def solve(self, C: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The minimiser on the face and its multipliers (b, 1, n); ``total`` None means zero: a step within the face."""
        unconstrained = (self.inverse @ C[..., None])[..., 0]
        rhs = unconstrained.sum(1, keepdim=True)
        rhs = rhs if total is None else rhs + total
        multiplier = torch.cholesky_solve(rhs.mT, self.schur)
        return (self.inverse @ multiplier[:, None])[..., 0] - unconstrained, multiplier.mT


def factorise_face(M: Tensor, free: Tensor) -> FaceFactor:
    """Factor the face on which the entries ``free`` (b, k, n) may move; each sample has at least one."""
    b, k, n = free.shape
    if free.all():
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(M)[0])
        return FaceFactor(inverse[:, None].expand(b, k, n, n), torch.linalg.cholesky_ex(k * inverse)[0])
    mask = free.to(M.dtype)
    blocks = M[:, None] * mask[..., None] * mask[..., None, :]
    blocks.diagonal(dim1=-2, dim2=-1).add_(1 - mask)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(blocks)[0])
    inverse.diagonal(dim1=-2, dim2=-1).sub_(1 - mask)
    return FaceFactor(inverse, torch.linalg.cholesky_ex(inverse.sum(1))[0])


class FaceMinimum(NamedTuple):
    """``feasible``: the best feasible point seen; ``point``: the minimiser on the last face, feasible if ``settled``;
    ``free``: that face, with its ``factor``; ``settled`` (b,): the active set repeated itself, the optimum is found."""

    feasible: Tensor
    point: Tensor
    free: Tensor
    factor: FaceFactor
    settled: Tensor


def minimise(
    M: Tensor, C: Tensor, start: Tensor, free: Tensor, total: Tensor, allowed: Tensor, max_iter: int
) -> FaceMinimum:
    """Solve the program from the feasible ``start`` and the guess ``free`` of its face.

    ``total`` (b, 1, n) ≥ 0; columns with total 0 stay at zero. Elements leave the batch as they settle.
    """
    total_rows = total.expand_as(start)
    pinned = allowed & (allowed.cumsum(1) == 1)
    free = torch.where(total > 0, free & allowed, pinned)
    feasible, value = start, _value(M, C, start)
    todo = torch.arange(len(M), device=M.device)
    point, factor, settled = start, None, torch.zeros_like(todo, dtype=torch.bool)
    for _ in range(max_iter):
        M_, C_, free_, total_ = (t if len(todo) == len(t) else t[todo] for t in (M, C, free, total))
        allowed_, rows_ = allowed[todo], total_rows[todo]
        factor_ = factorise_face(M_, free_)
        point_, multiplier = factor_.solve(C_, total_)
        slope = point_ @ M_ + C_ - multiplier
        scale = 1e-12 * C_.abs().amax((1, 2), keepdim=True)
        next_free = torch.where(free_, point_ > 1e-14 * rows_, slope < -scale) & allowed_
        next_free = torch.where(total_ > 0, next_free, free_)
        same = (next_free == free_).flatten(1).all(1)
        candidate = project_simplex(point_, total_, allowed_, dim=1)
        value_ = _value(M_, C_, candidate)
        better = (value_ <= value[todo]) | same
        feasible = _put(feasible, todo, torch.where(better[:, None, None], candidate, feasible[todo]))
        value = _put(value, todo, torch.where(better, value_, value[todo]))
        point = _put(point, todo, point_)
        factor = factor_ if factor is None else FaceFactor(*(_put(f, todo, f_) for f, f_ in zip(factor, factor_)))
        settled = _put(settled, todo, same)
        moving = ~same & value_.isfinite()
        if not moving.any():
            break
        last, todo = todo, todo[moving]
        if _ < max_iter - 1:
            free = _put(free, todo, next_free[moving])
    assert factor is not None
    return FaceMinimum(feasible, point, free, factor, settled)


def _value(M: Tensor, C: Tensor, L: Tensor) -> Tensor:
    return ((L @ M / 2 + C) * L).sum((1, 2))


def _put(whole: Tensor, index: Tensor, part: Tensor) -> Tensor:
    return part if len(index) == len(whole) else whole.index_copy(0, index, part)
