"""Ridge regression with a limit on the number of features."""

from typing import Any

import torch

from ..constraints import Cardinality
from .base import Data, Strength
from .regression import RegressionLayer


class SparseRidge(RegressionLayer):
    """Ridge regression on at most ``n_nonzero`` features, chosen by the layer:

    min over W of Σᵢ s̄ᵢ ½‖xᵢW − yᵢ‖² + (l2/2)‖W‖²    with at most n_nonzero non-zero rows W_j.

    A feature serves all targets or none. Supports are found by swaps from several starts (nothing, which is forward
    selection, and the largest rows of the relaxation, of the ridge and of XᵀY), and proved by the relaxation and branch
    and bound.

    ``gap`` is (P − L)/P(0), L a valid lower bound on the objective of every support: that of the dual point or, where
    it is higher, the one from branch and bound. ``tol`` says how good a proof has to be:

    * tol=None (1e-9, or 1e-6 below float64, before rounding): search until the support is proved optimal. What
      ``max_iter`` rounds of 16 subproblems have not proved is ITERATION_LIMIT, and its gap says how much better another
      support could be, at most; the support is likely optimal all the same. Proofs are quick up to about 20 features,
      or 100 where l2 is a tenth of the features' mean square; they become long with more features, smaller l2 and
      pure noise. Where the relaxation leaves more than 512 features possible there is no search.
    * tol=0.01: stop at a proof that no other support is better by more than 1 % of P(0).
    * tol=math.inf: no search. Every support counts as converged, the gap is that of a few steps on the relaxation.
      This is what training on top of the layer wants: it costs little more than the swaps.

    Derivatives are those of ridge regression on the support, which is constant near the solution except where two
    supports tie; DEGENERATE says that a swap of one feature would tie, to 1e-7·P(0). With l2 = 0 and
    dependent features, or fewer samples than features, there is no relaxation: the bound is that of least squares on
    all features, a proof looks at all supports, and features that depend on others of a support, to 1e-10 of their
    square, do not enter it. ``coef_error`` is infinite, since supports far apart may be equally good;
    ``derivative_error`` is infinite unless the support is proved, to 1e-6·P(0).

    Bertsimas, King and Mazumder (2016), Best subset selection via a modern optimization lens; Bertsimas and Van Parys
    (2020), Sparse high-dimensional regression; Hazimeh and Mazumder (2020), Fast best subset selection (swaps); Xie
    and Deng (2020), Scalable algorithms for the sparse ridge regression (the relaxation).

    Args:
        l2: ≥ 0. scikit-learn's ``Ridge(alpha)`` has alpha = n·l2; Bertsimas and Van Parys have γ = 1/(n·l2).
        n_nonzero: integer ≥ 1; from the number of features on it is `Ridge`.
        options: those of `ArgminLayer`.
    """

    def __init__(self, l2: Strength, n_nonzero: int, **options: Any) -> None:
        super().__init__(**options)
        self._set_strength("l2", l2)
        if isinstance(n_nonzero, bool) or not isinstance(n_nonzero, int) or n_nonzero < 1:
            raise ValueError(f"n_nonzero: given {n_nonzero!r}, expected an integer ≥ 1")
        self.n_nonzero = n_nonzero

    def _penalty(self, data: Data) -> Cardinality:
        return Cardinality(torch.full_like(data.strengths["l2"], self.n_nonzero, dtype=torch.int64))

    def extra_repr(self) -> str:
        """The strengths, the number of features, and the options."""
        return f"n_nonzero={self.n_nonzero}, {super().extra_repr()}"
