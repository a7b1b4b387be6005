"""What every solver hands over: plain tensors, one leading batch dimension, float64."""

from typing import NamedTuple

from torch import Tensor

from ..features import Features
from ..optimality import System


class Result(NamedTuple):
    """A minimiser with what certifies and differentiates it.

    ``coef`` (b, m, k); ``theta`` (b, n, k), its dual point; ``features``, the columns of X that take part in the
    ``system``, whose unknown at the solution is ``state``; ``degenerate`` and ``singular`` (b,); ``derivative_error``
    (b,), an estimate relative to the derivative, infinite where the support is not certain; ``n_iter`` (b,). ``lower``
    (b,) bounds the optimum from below where the problem is not convex; elsewhere the dual point does.
    ``V`` (b, m, k) is that of the dual point, where it is at hand. ``empty`` (b,) is true where no feature takes part,
    so that all derivatives are zero; None where that cannot be.
    """

    coef: Tensor
    theta: Tensor
    features: Features
    system: System
    state: Tensor
    degenerate: Tensor
    singular: Tensor
    derivative_error: Tensor
    n_iter: Tensor
    lower: Tensor | None = None
    V: Tensor | None = None
    empty: Tensor | None = None
