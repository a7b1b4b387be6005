"""The part R*(V) of the dual objective, V = Xᵀ diag(s̄) Θ: its value, and what a Newton step needs of it at a point.

The *image* of Θ is whatever linear function of Θ the part works with; a step along a segment combines images.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..features import AllFeatures, Features, Support
from ..optimality import row_curvature
from ..problem import Problem
from ..products import gram, product, row_squares

# Gathering the active features pays below this share of all features.
GATHER_BELOW = 0.6


class Local(NamedTuple):
    """R* at one point: ``scores`` Z = X∇R*(V) (b, n, k); ``model`` M (b, n, n), for which M ⊗ I stands for the Hessian
    in √s̄Λ; and that ``hessian`` itself, as a function of (b, n, k), or None where the model is exact.
    """

    scores: Tensor
    model: Tensor
    hessian: Callable[[Tensor], Tensor] | None


class QuadraticPart:
    """No penalty: R*(V) = ‖V‖²/(2 l2). The image of Θ is Z = XXᵀ diag(s̄) Θ/l2; all of it lives in the Gram matrix."""

    def __init__(self, problem: Problem) -> None:
        self.gram = gram(problem.X) / problem.l2[..., None, None]
        self.weight = problem.weight[..., None]
        self.model = self.gram * self.weight.sqrt() * self.weight.sqrt().mT
        self.scale = self.model.diagonal(dim1=-2, dim2=-1).mean(-1)

    def image(self, Theta: Tensor) -> Tensor:
        """Z, (b, n, k)."""
        return product(self.gram, self.weight * Theta)

    def value(self, Theta: Tensor, image: Tensor) -> Tensor:
        """R*, (b,)."""
        return (self.weight * Theta * image).sum((-2, -1)) / 2

    def local(self, image: Tensor) -> Local:
        """At this image."""
        return Local(image, self.model, None)


class PenalisedPart:
    """With a penalty; the image of Θ is V (b, m, k), and only the features it leaves active enter the model."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.root = problem.weight.sqrt()[..., None]
        self.scale = (row_squares(problem.X) * problem.weight).mean(-1) / problem.l2

    def image(self, Theta: Tensor) -> Tensor:
        """V, (b, m, k)."""
        return self.problem.correlation(Theta)

    def value(self, Theta: Tensor, image: Tensor) -> Tensor:
        """R*, (b,)."""
        return self.problem.conjugate(image)

    def local(self, image: Tensor) -> Local:
        """At this image; the model takes C_j = α_j I + q_j q_jᵀ for (α_j + ‖q_j‖²/2) I."""
        problem = self.problem
        features = active_features(problem, image)
        small, V = problem.restrict(features), features.take(image.mT).mT
        root, l2 = self.root, problem.l2[..., None, None]
        alpha, q = row_curvature(small, V)
        model = root * gram(small.X, alpha + q.square().sum(-1) / 2) * root.mT / l2

        def hessian(D: Tensor) -> Tensor:
            v = product(small.X.mT, root * D)
            return root * product(small.X, alpha[..., None] * v + q * (q * v).sum(-1, keepdim=True)) / l2

        return Local(small.scores(small.coef_of(V)), model, hessian)


ConjugatePart = QuadraticPart | PenalisedPart


def active_features(problem: Problem, V: Tensor) -> Features:
    """The support of W(V), V (b, m, k), or all features where gathering would not pay."""
    support = problem.penalty.support(V / problem.l2[:, None, None], 1 / problem.l2)
    largest = int(support.sum(-1).amax())
    return Support.of(support) if largest < GATHER_BELOW * support.shape[-1] else AllFeatures()
