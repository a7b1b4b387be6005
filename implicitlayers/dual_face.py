"""Optimality systems of a dual problem, on the face of its feasible set that holds the solution."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .domains import Edges
from .implicit import attach
from .kronecker import FaceFactor
from .linear import Inverse, invert, spectral_condition
from .penalties import NoPenalty
from .problem import Problem
from .products import gram, known_gram, product, saved_like


class DualFace(NamedTuple):
    """The dual on the face of its feasible set that holds the solution.

    Edge e moves sample i along a direction T_e (k). The system, on s̄Λ, is symmetric:
    M_ee′ = T_eᵀ [Σ_j x_ij x_i′j C_j/l2] T_e′ + [i = i′] (κ/s̄_i) T_eᵀT_e′, with C_j = α_j I + q_j q_jᵀ the derivative of
    prox at V_j and κ the curvature of the conjugate. Dividing by s̄ comes last, and an absent sample has no edges.
    """

    edges: Edges
    factor: Inverse

    @property
    def singular(self) -> Tensor:
        """Elements in which the face has a direction along which nothing bends."""
        return self.factor.singular

    @property
    def condition(self) -> Tensor:
        """A bound on the condition number of M."""
        return self.factor.condition

    def attach(self, problem: Problem, Lambda: Tensor, order: int) -> Tensor:
        """Coefficients (..., S, k) with derivatives."""
        return attach_dual(self, problem, Lambda, order)

    def residual(self, problem: Problem, Lambda: Tensor, scores: Tensor) -> Tensor:
        """Slope of the dual objective along every edge, (..., E), ``scores`` being those of Λ."""
        slope = problem.dual_loss.conjugate_gradient(Lambda, problem.Y) - scores
        index = self.edges.sample[..., None].expand_as(self.edges.direction)
        return (slope.gather(-2, index) * self.edges.direction).sum(-1)

    def step(self, problem: Problem, r: Tensor) -> Tensor:
        """The change of Λ that the residual r asks for, (..., n, k)."""
        moved = self.factor.solve(r[..., None]) * self.edges.direction
        index = self.edges.sample[..., None].expand_as(moved)
        weight = problem.weight.detach()[..., None]
        inverse = torch.where(weight > 0, 1 / torch.where(weight > 0, weight, 1.0), 0.0)
        still = moved.new_zeros(*inverse.shape[:-1], moved.shape[-1])
        return still.scatter_add(-2, index, moved) * inverse


def dual_face(
    problem: Problem,
    Lambda: Tensor,
    V: Tensor | None = None,
    *,
    kernel: Tensor | None = None,
    diagonal: Tensor | None = None,
    precision: torch.dtype = torch.float64,
) -> DualFace:
    """The system at Λ (b, n, k), whose zeros are exact: they tell the face.

    V (b, S, k) is that of Λ; without a penalty it is not needed, and ``kernel`` XXᵀ/l2 may be given. ``diagonal``
    (b, n, k) adds to the Hessian in s̄Λ. With a ``precision`` below float64 that is enough for the condition found, M
    is made in it.
    """
    edges = problem.dual_loss.domain.edges(Lambda, problem.weight > 0)
    if kernel is None and isinstance(problem.penalty, NoPenalty):
        kernel = gram(problem.X) / problem.l2[..., None, None]
    along = _along_edges(problem, edges, diagonal)
    if precision != torch.float64:
        assert V is not None
        M = along + _penalised(problem, V, edges, precision)
        factor = invert(M)
        most = ROUGH_ERROR / torch.finfo(precision).eps
        if (factor.condition <= most).all() or (spectral_condition(M, factor) <= most).all():
            return DualFace(edges, factor)
    sample, direction = edges
    if kernel is not None:
        M = _rows_and_columns(kernel, sample) * (direction @ direction.mT)
    else:
        assert V is not None
        M = _penalised(problem, V, edges, torch.float64)
    return DualFace(edges, invert(M + along))


# Of derivatives attached twice a Jacobian with this relative error makes the square of it.
ROUGH_ERROR = 3e-3


def _along_edges(problem: Problem, edges: Edges, diagonal: Tensor | None) -> Tensor:
    """The part of M (b, E, E) within samples: that of the loss, with ones on the diagonal of the padding."""
    curvature = problem.dual_loss.conjugate_curvature(problem.l2)
    if diagonal is None and not curvature.any():
        return _padding(edges)
    weight = torch.where(problem.weight > 0, problem.weight, 1.0)
    kappa = (curvature[..., None] / weight)[..., None].expand_as(problem.Y)
    return within_samples(edges, kappa if diagonal is None else kappa + diagonal)


def within_samples(edges: Edges, kappa: Tensor) -> Tensor:
    """[i = i′] T_eᵀ diag(κ_i) T_e′, (b, E, E) for κ (b, n, k), with ones on the diagonal of the padding."""
    sample, direction = edges
    along = direction * kappa.gather(-2, sample[..., None].expand_as(direction))
    same = sample[..., :, None] == sample[..., None, :]
    return torch.where(same, along @ direction.mT, 0.0) + _padding(edges)


def _padding(edges: Edges) -> Tensor:
    return (edges.direction == 0).all(-1).to(edges.direction.dtype).diag_embed()


def _penalised(problem: Problem, V: Tensor, edges: Edges, dtype: torch.dtype) -> Tensor:
    """Σ_j x_ij x_i′j T_eᵀ C_j T_e′/l2, (b, E, E) in float64, the products in ``dtype``."""
    return edge_gram(problem.X, *bends(problem, V), edges, dtype) / problem.l2[..., None, None]


def edge_gram(
    X: Tensor, alpha: Tensor, q: Tensor, edges: Edges, dtype: torch.dtype = torch.float64, limit: int = 2**20
) -> Tensor:
    """Σ_j x_ij x_i′j T_eᵀ (α_j I + q_j q_jᵀ) T_e′, (b, E, E) for α (b, m) and q (b, m, k).

    The part of the q_j by so many elements at a time, or features of one element, that the intermediate matrix stays
    below ``limit``: in a processor's cache, and long enough for fast products.
    """
    sample, direction = edges
    (b, e), (n, m) = sample.shape, X.shape[-2:]
    # Edge by edge, or sample by sample, whichever are fewer.
    inner = gram(_rows(X, sample), alpha, dtype) if e < n else _rows_and_columns(gram(X, alpha, dtype), sample)
    M = inner * (direction @ direction.mT)
    bent, narrow, q = torch.zeros(b, e, e, dtype=dtype, device=X.device), direction.to(dtype), q.to(dtype)
    together = max(1, limit // max(1, e * m))
    width = max(1, limit // max(1, e * together))
    row = sample + n * (torch.arange(b, device=X.device) % together)[:, None]
    for first in range(0, b, together):
        some = slice(first, first + together)
        for x, q_x in zip(X[some].split(width, dim=-1), q[some].split(width, dim=-2), strict=True):
            A = x.to(dtype).flatten(0, 1).index_select(0, row[some].flatten()).view(len(x), e, x.shape[-1])
            _add_square(bent[some], A.mul_(narrow[some] @ q_x.mT))
    M = M + bent
    return (M + M.mT) / 2


def _add_square(M: Tensor, A: Tensor) -> None:
    """Add A Aᵀ to M, both halves of it from three of four blocks: a quarter of the time less."""
    half = M.shape[-1] // 2
    first, second = A[:, :half], A[:, half:]
    M[:, :half, :half].baddbmm_(first, first.mT)
    M[:, half:, half:].baddbmm_(second, second.mT)
    M[:, half:, :half].baddbmm_(second, first.mT)
    M[:, :half, half:] = M[:, half:, :half].mT


def bends(problem: Problem, V: Tensor) -> tuple[Tensor, Tensor]:
    """l2 times the derivative of V → W(V), row by row: α_j·I + q_j q_jᵀ, as α (b, S) and q (b, S, k)."""
    bend = problem.penalty.curvature(V / problem.l2[:, None, None], 1 / problem.l2)
    across, along = bend.across[..., :1], bend.along[..., :1]
    return across[..., 0], bend.unit * (along - across).clamp_min(0).sqrt()


def _rows(A: Tensor, index: Tensor) -> Tensor:
    return A.gather(-2, index[..., None].expand(*index.shape, A.shape[-1]))


def _rows_and_columns(M: Tensor, index: Tensor) -> Tensor:
    rows = _rows(M, index)
    return rows.gather(-1, index[..., None, :].expand(*index.shape, index.shape[-1]))


class KroneckerFace(NamedTuple):
    """`DualFace` without a penalty: the Hessian in √s̄Λ is M ⊗ I, and systems are n×n, one per class and one more.

    ``gram`` XXᵀ (b, n, n); ``root`` √s̄ and its inverse ``unroot`` (b, n, 1), zero for absent samples. The step J⁻¹r is
    the minimiser within the face of ½⟨D, MD⟩ − ⟨√s̄r, D⟩, over √s̄.
    """

    gram: Tensor
    root: Tensor
    unroot: Tensor
    factor: FaceFactor
    singular: Tensor
    condition: Tensor

    def attach(self, problem: Problem, Lambda: Tensor, order: int) -> Tensor:
        """Coefficients (..., m, k) with derivatives."""
        return attach_dual(self, problem, Lambda, order)

    def residual(self, problem: Problem, Lambda: Tensor, scores: Tensor) -> Tensor:
        """Slope of the dual objective, (..., n, k); ``step`` takes what lies within the face."""
        return problem.dual_loss.conjugate_gradient(Lambda, problem.Y) - scores

    def step(self, problem: Problem, r: Tensor) -> Tensor:
        """The change of Λ that the residual r asks for, (..., n, k)."""
        return -self.unroot * self.factor.solve((self.root * r).mT)[0].mT


def kronecker_model(problem: Problem, model: Tensor) -> Tensor:
    """M (b, n, n): ``model`` = diag(√s̄) XXᵀ diag(√s̄)/l2 and the curvature of the conjugate.

    An absent sample has a row of zeros; with a one on its diagonal it is regular, and no residual moves it.
    """
    absent = (problem.weight <= 0).to(model.dtype)
    return model + (problem.dual_loss.conjugate_curvature(problem.l2)[:, None] + absent).diag_embed()


def kronecker_face(problem: Problem, kernel: Tensor, M: Tensor, factor: FaceFactor) -> KroneckerFace:
    """The system of `kronecker_model` on the face of its ``factor``; ``kernel`` is XXᵀ/l2."""
    root = problem.weight.sqrt()[..., None]
    present = root > 0
    unroot = torch.where(present, 1 / torch.where(present, root, 1.0), 0.0)
    gram, condition = kernel * problem.l2[:, None, None], M.square().sum((-2, -1)).sqrt() * factor.inverses.norm()
    return KroneckerFace(gram, root, unroot, factor, ~factor.regular, condition)


class Face(Protocol):
    """What every system of a dual offers."""

    def residual(self, problem: Problem, Lambda: Tensor, scores: Tensor) -> Tensor:
        """What is zero at the solution, ``scores`` being those of Λ."""

    def step(self, problem: Problem, r: Tensor) -> Tensor:
        """The change of Λ that the residual r asks for, (..., n, k)."""


def attach_dual(face: Face, problem: Problem, Lambda: Tensor, order: int) -> Tensor:
    """Coefficients with the derivatives of Λ on its face."""
    scores = _scores(face, problem)
    Lambda = attach(Lambda, lambda L: face.residual(problem, L, scores(L)), lambda r: face.step(problem, r), order)
    return _coef(problem, Lambda)


def _coef(problem: Problem, Lambda: Tensor) -> Tensor:
    """W(Λ)."""
    V = problem.correlation(problem.Y - Lambda)
    with saved_like(problem.X):
        return problem.coef_of(V)


def _scores(face: Face, problem: Problem) -> Callable[[Tensor], Tensor]:
    """Λ → XW(Λ). Without a penalty all of it lives in the Gram matrix: one pass over X, however often it is asked."""
    if isinstance(problem.penalty, NoPenalty):
        products = known_gram(problem.X, face.gram) if isinstance(face, KroneckerFace) else gram(problem.X)
        kernel = products / problem.l2[..., None, None]
        return lambda L: product(kernel, problem.weight[..., None] * (problem.Y - L))
    return lambda L: problem.scores(_coef(problem, L))
