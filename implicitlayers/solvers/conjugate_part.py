"""The part R*(V) of the dual objective, V = Xᵀ diag(s̄) Θ: its value, and what Newton steps need of it at a point.

The *image* of Θ is whatever linear function of Θ the part works with; a step along a segment combines images.
"""

from collections.abc import Callable
from copy import copy
from functools import cached_property

import torch
from torch import Tensor

from ..dual_face import DualFace, KroneckerFace, bends, dual_face, kronecker_face, kronecker_model
from ..features import AllFeatures, Features, gathered
from ..kronecker import factorise_face
from ..low_rank_face import LowRankFace, low_rank_face
from ..penalties import Kinks, NoPenalty, row_norm
from ..problem import Problem
from ..products import gram, product, row_squares, transposed_product
from .batch import pick
from .effort import LARGEST

# Gathering the active features pays below this share of all features, and while their copy has at most so many entries
# over the batch, or is a small share of X: several are alive at a time.
GATHER_BELOW, LARGEST_COPY, SMALL_SHARE = 0.9, 2**24, 0.25
# Faces of up to so many edges have a system of their own, even where it is singular for certain.
FEW_EDGES = 300
# What is rounding beside one.
ROUNDING = 1e-13
# How far Λ may be from where its system was made: an error of that size in the Jacobian still makes Newton converge,
# and of the derivatives it makes the square, since they are attached twice.
SAME_SYSTEM = {torch.float64: 1e-12, torch.float32: 1e-5}

FaceSystem = DualFace | LowRankFace | KroneckerFace


class _Part:
    """What both kinds know of their problem."""

    problem: Problem

    @cached_property
    def null(self) -> Tensor:
        """P(0), (b,)."""
        return self.problem.null_objective()

    @cached_property
    def has_absent(self) -> bool:
        """Whether some sample has weight zero."""
        return not bool((self.problem.weight > 0).all())


class QuadraticPart(_Part):
    """No penalty: R*(V) = ‖V‖²/(2 l2). The image of Θ is Z = XXᵀ diag(s̄) Θ/l2; all of it lives in the Gram matrix."""

    # Without a penalty a face has the same system wherever on it Λ is.
    same_system = torch.inf

    def __init__(self, problem: Problem, kernel: Tensor | None = None) -> None:
        self.problem = problem
        self.kernel = gram(problem.X) / problem.l2[:, None, None] if kernel is None else kernel
        self.precision = self.model_precision = torch.float64
        self.weight = problem.weight[..., None]
        self.model = self.kernel * self.weight.sqrt() * self.weight.sqrt().mT
        self.scale = self.model.diagonal(dim1=-2, dim2=-1).mean(-1)

    def pick(self, index: Tensor) -> "QuadraticPart":
        """Some elements of the batch."""
        return QuadraticPart(pick(self.problem, index), self.kernel[index])

    def image(self, Theta: Tensor) -> Tensor:
        """Z, (b, n, k)."""
        return product(self.kernel, self.weight * Theta)

    def local(self, image: Tensor) -> "QuadraticLocal":
        """At this image."""
        return QuadraticLocal(self, image)

    def row_norms(self) -> Tensor:
        """‖xᵢ‖, (b, n)."""
        return (self.kernel.diagonal(dim1=-2, dim2=-1) * self.problem.l2[:, None]).sqrt()


class QuadraticLocal:
    """A quadratic is the same everywhere, and has no kinks: the model is exact."""

    features: Features = AllFeatures()
    hessian = None

    def __init__(self, part: QuadraticPart, image: Tensor) -> None:
        self.part, self.small = part, part.problem
        self.image = self.scores = image

    def value(self, Theta: Tensor) -> Tensor:
        """R*, (b,), Θ being that of the image."""
        return (self.part.weight * Theta * self.scores).sum((-2, -1)) / 2

    @property
    def model(self) -> Tensor:
        """The Hessian in √s̄Λ is this (b, n, n) for every class."""
        return self.part.model

    def full_image(self, Theta: Tensor) -> Tensor:
        """V (b, m, k)."""
        return self.part.problem.correlation(Theta)

    def coef(self, V: Tensor) -> Tensor:
        """W (b, m, k)."""
        return self.part.problem.coef_of(V)

    def moves(self) -> Tensor:
        """All of W moves with V, (b,)."""
        return torch.ones_like(self.part.scale, dtype=torch.bool)

    def face(self, Lambda: Tensor) -> FaceSystem:
        """The optimality system at Λ: one n×n system per class, or, where such a one is singular, the whole."""
        problem = self.part.problem
        M = kronecker_model(problem, self.part.model)
        face = kronecker_face(problem, self.part.kernel, M, factorise_face(M, (Lambda > 0).mT))
        if not face.singular.any():
            return face
        if more_free_than_moves(problem, Lambda):
            return low_rank_face(problem, Lambda, self.full_image(problem.Y - Lambda))
        return dual_face(problem, Lambda, kernel=self.part.kernel)


class PenalisedPart(_Part):
    """With a penalty; the image of Θ is V (b, m, k), and only the features it leaves active enter the model.

    Optimality systems are made in ``precision``, float32 if that is what features came in, and so are models of
    problems so large that X has stayed in it: they err by no more than X does. Scores, values and V are in float64, and
    so are ``products`` with X for them, unless somebody asks for those of a `draft`.
    """

    products = torch.float64

    def __init__(self, problem: Problem, precision: torch.dtype = torch.float64) -> None:
        self.problem, self.precision = problem, precision
        self.same_system = SAME_SYSTEM[precision]
        self.model_precision = precision if problem.X.dtype == precision else torch.float64
        # √s̄ and, so that nothing of the size of X is multiplied, 1/√l2 in one.
        self.root = (problem.weight / problem.l2[:, None]).sqrt()[..., None]
        self.scale = (row_squares(problem.X) * problem.weight).mean(-1) / problem.l2

    def pick(self, index: Tensor) -> "PenalisedPart":
        """Some elements of the batch."""
        part = PenalisedPart(pick(self.problem, index), self.precision)
        part.products = self.products
        return part

    def draft(self) -> "PenalisedPart":
        """The same with products in the dtype of X: of a large X in float32 much faster, and as exact as most steps of
        a search need, the last ones excepted.
        """
        part = copy(self)
        part.products = self.problem.X.dtype
        return part

    def image(self, Theta: Tensor) -> Tensor:
        """V, (b, m, k)."""
        return transposed_product(self.problem.X, (self.problem.weight[..., None] * Theta).to(self.products)).to(Theta)

    def local(self, image: Tensor) -> "PenalisedLocal":
        """At this image."""
        return PenalisedLocal(self, image)

    def row_norms(self) -> Tensor:
        """‖xᵢ‖, (b, n)."""
        return row_squares(self.problem.X).sqrt()


class PenalisedLocal:
    """R* at one V; the model takes C_j = α_j I + q_j q_jᵀ for (α_j + ‖q_j‖²/2) I."""

    def __init__(self, part: PenalisedPart, image: Tensor) -> None:
        self.part, self.image = part, image
        self._W = part.problem.coef_of(image)

    def value(self, Theta: Tensor) -> Tensor:
        """R*, (b,): see `Problem.conjugate`."""
        return self.part.problem.l2 / 2 * self._W.square().sum((-2, -1))

    @cached_property
    def features(self) -> Features:
        """Those that are active, or all."""
        return active_features(self.part.problem, self.image)

    @cached_property
    def small(self) -> Problem:
        """The problem on these."""
        return self.part.problem.restrict(self.features, dtype=None)

    @cached_property
    def V(self) -> Tensor:
        """The image there, (b, S, k)."""
        return self.features.take(self.image.mT).mT

    @cached_property
    def W(self) -> Tensor:
        """The coefficients there, (b, S, k)."""
        return self.features.take(self._W.mT).mT

    @cached_property
    def scores(self) -> Tensor:
        """XW, (b, n, k)."""
        return product(self.small.X, self.W.to(self.part.products)).to(self.W)

    @cached_property
    def _rough(self) -> tuple[Tensor, Tensor, Tensor]:
        """X, α and q on the active features, in the precision of the model."""
        alpha, q = bends(self.small, self.V)
        return tuple(t.to(self.part.model_precision) for t in (self.small.X, alpha, q))  # type: ignore[return-value]

    @cached_property
    def model(self) -> Tensor:
        """M (b, n, n), for which M ⊗ I stands for the Hessian in √s̄Λ."""
        X, alpha, q = self._rough
        M = gram(X, alpha + q.square().sum(-1) / 2, self.part.model_precision)
        return M * self.part.root * self.part.root.mT

    @property
    def hessian(self) -> Callable[[Tensor], Tensor]:
        """That Hessian itself, on (b, n, k)."""
        X, alpha, q = self._rough
        root = self.part.root

        def hessian(D: Tensor) -> Tensor:
            v = product(X.mT, (root * D).to(X.dtype))
            moved = product(X, torch.addcmul(alpha[..., None] * v, q, (q * v).sum(-1, keepdim=True)))
            return root * moved.to(D.dtype)

        return hessian

    def full_image(self, Theta: Tensor) -> Tensor:
        """V (b, m, k)."""
        return self.image

    def coef(self, V: Tensor) -> Tensor:
        """W (b, m, k), a row of which is zero where its V is beyond the threshold by rounding alone."""
        beyond = self.part.problem.l2[:, None] * row_norm(self.W) > ROUNDING * row_norm(self.V)
        W = torch.where(beyond[..., None], self.W, 0.0)
        return self.features.put(W, self.part.problem.X.shape[-1])

    def _steps(self) -> tuple[Tensor, Tensor]:
        l2 = self.part.problem.l2
        return self.image / l2[:, None, None], 1 / l2

    def moves(self) -> Tensor:
        """Elements (b,) in which W moves with V."""
        return self.part.problem.penalty.support(*self._steps()).any(-1)

    def kinks(self) -> Kinks:
        """How far each group is from its threshold."""
        return self.part.problem.penalty.kinks(*self._steps())

    def coef_change(self, Theta: Tensor) -> Tensor:
        """About the largest change of V/l2 that a change of Θ makes, (b,)."""
        return self.part.draft().image(Theta).abs().amax((1, 2)) / self.part.problem.l2

    def face(self, Lambda: Tensor) -> FaceSystem:
        """The optimality system at Λ."""
        if more_free_than_moves(self.small, Lambda):
            return low_rank_face(self.small, Lambda, self.V)
        return dual_face(self.small, Lambda, self.V, precision=self.part.precision)


def edges_of(Lambda: Tensor) -> int:
    """The most edges of the face of Λ (b, n, k) in an element: positive entries beyond one a sample."""
    return int(((Lambda > 0).sum((1, 2)) - Lambda.shape[1]).amax()) if len(Lambda) else 0


def more_free_than_moves(problem: Problem, Lambda: Tensor) -> bool:
    """Whether the face has many edges, and more than the features of ``problem``, those in use, have coefficients."""
    return edges_of(Lambda) > max(FEW_EDGES, problem.X.shape[-1] * (Lambda.shape[-1] - 1))


ConjugatePart = QuadraticPart | PenalisedPart
Local = QuadraticLocal | PenalisedLocal


def conjugate_part(problem: Problem, precision: torch.dtype = torch.float64) -> ConjugatePart:
    """The part of this problem's penalty; without any, and with so many samples that no matrix of them fits in memory,
    that of a group Lasso of strength zero.
    """
    b, n, k = problem.Y.shape
    if isinstance(problem.penalty, NoPenalty) and b * k * n**2 <= LARGEST:
        return QuadraticPart(problem)
    return PenalisedPart(problem, precision)


def active_features(problem: Problem, V: Tensor) -> Features:
    """The support of W(V), V (b, m, k), or all features where gathering would not pay or take too much memory."""
    # Of a norm it is the same at V/l2 and a step of 1/l2.
    support = problem.penalty.support(V, torch.ones_like(problem.l2))
    affordable = max(SMALL_SHARE, LARGEST_COPY / max(1, problem.X.numel()))
    return gathered(support, min(GATHER_BELOW, affordable))
