"""The one family of problems that every layer states: a weighted mean loss, a penalty, a ridge.

    P(W) = Σᵢ s̄ᵢ ℓ(zᵢ; yᵢ) + R(W),    Z = XW,    R(W) = Ω(W) + (l2/2)‖W‖²,    s̄ = s/Σs
    D(Θ) = −Σᵢ s̄ᵢ ℓ*(−θᵢ; yᵢ) − R*(V),    V = Xᵀ diag(s̄) Θ

P ≥ D for every pair (W, Θ), with equality at the optimum: P − D certifies W. An intercept is the coefficient of a
constant column of X, the last, whose row of W is in neither Ω nor the ridge (`Partly`); it asks that V be 0 there.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from .constraints import ColumnSimplex
from .features import AllFeatures, Features, gathered
from .losses import DualLoss, Loss, SmoothLoss
from .penalties import NoPenalty, Partly, Penalty
from .products import product, transposed_product

# A P(0) below this share of what it is a difference of is rounding; it is of second order in the scores.
VANISHING = 1e-24
# P(0) is no scale of an optimum that is this many times as large.
FAR_MORE = 100
# Columns are gathered where they are at most one in so many.
FEW = 4


class Problem(NamedTuple):
    """Tensors of one batch of problems; all share the leading batch dimensions.

    ``X`` (..., n, m), ``Y`` (..., n, k), ``weight`` = s̄ (..., n) with sum one (or zero: no sample at all),
    ``l2`` (...). X may be of any floating dtype (see `products`), all else is float64. A tuple of tensors throughout,
    so that ``torch.utils._pytree`` takes it apart and together again.
    """

    X: Tensor
    Y: Tensor
    weight: Tensor
    loss: Loss
    penalty: Penalty
    l2: Tensor

    @property
    def smooth_loss(self) -> SmoothLoss:
        """The loss, where a solver in W was chosen for it."""
        return cast(SmoothLoss, self.loss)

    @property
    def dual_loss(self) -> DualLoss:
        """The loss, where a solver in the dual was chosen for it."""
        return cast(DualLoss, self.loss)

    @property
    def ridge(self) -> Tensor:
        """l2 for every row of W, (..., 1 or m, 1); an intercept's is zero."""
        l2 = self.l2[..., None, None]
        return torch.where(self.intercept, 0.0, l2) if isinstance(self.penalty, Partly) else l2

    @property
    def intercept(self) -> Tensor:
        """True at the row of an intercept, (..., m, 1)."""
        if isinstance(self.penalty, Partly):
            return ~self.penalty.penalised[..., None]
        return torch.zeros_like(self.X[..., 0, :, None], dtype=torch.bool)

    def restrict(self, features: Features, dtype: torch.dtype | None = torch.float64) -> "Problem":
        """The problem on some of the features; where these are few, X is converted, unless ``dtype`` is None."""
        X = features.take(self.X)
        X = X if isinstance(features, AllFeatures) or dtype is None else X.to(dtype)
        return self._replace(X=X, penalty=self.penalty.take(features))

    def objective(self, W: Tensor, Z: Tensor | None = None) -> Tensor:
        """P(W), (...); Z = XW, where that is known."""
        Z = self.scores(W) if Z is None else Z
        return self._data(Z) + self.penalty.value(W) + (self.ridge * W.square()).sum((-2, -1)) / 2

    def null_objective(self) -> Tensor:
        """P(0), with the best intercept where there is one: the scale of every relative gap, (...).

        Where that intercept leaves nothing but rounding it is P(0) without an intercept; and where W = 0 is not allowed
        it is P at the best corner of the simplex, if P(0) is so small beside that as to say nothing of the optimum.
        """
        scores = torch.zeros_like(self.Y)
        null = self._data(scores)
        if isinstance(self.penalty, Partly):
            return _unless_vanishing(self._data(scores + self.loss.best_constant(self.Y, self.weight)), null)
        if isinstance(self.penalty, ColumnSimplex):
            return self._simplex_scale(self.penalty, null)
        return null

    def _simplex_scale(self, simplex: ColumnSimplex, null: Tensor) -> Tensor:
        """P(0), or P where every column is at its best corner if that is far more; P at the centre if both vanish."""
        V = self.correlation(self.Y)
        square = transposed_product(self.X.square(), self.weight[..., None])[..., 0]
        best = null + simplex.corners(square + self.l2[..., None], V).amin(-2).sum(-1)
        centre = simplex.prox(torch.zeros_like(V), torch.ones_like(self.l2))
        return _unless_vanishing(torch.where(best > FAR_MORE * null, best, null), self.objective(centre))

    def _data(self, scores: Tensor) -> Tensor:
        """The weighted mean loss, (...)."""
        return (self.weight * self.loss.value(scores, self.Y)).sum(-1)

    def correlation(self, Theta: Tensor) -> Tensor:
        """V = Xᵀ diag(s̄) Θ, (..., m, k)."""
        return transposed_product(self.X, self.weight[..., None] * Theta)

    def scores(self, W: Tensor) -> Tensor:
        """Z = XW, (..., n, k)."""
        return product(self.X, W)

    def sparse_scores(self, W: Tensor) -> Tensor:
        """The same from the rows of W that are not zero, where these are few: other columns of X are not read."""
        rows = gathered((W != 0).any(-1), below=1 / FEW)
        return product(rows.take(self.X), rows.take(W.mT).mT)

    def slope(self, W: Tensor, V: Tensor) -> Tensor:
        """The gradient of loss and ridge at W, (..., m, k), V = Xᵀ diag(s̄) Θ being that of the dual point of XW."""
        slope = self.ridge * W - V
        if self.gauge is not None:
            slope = slope + torch.where(self.intercept, W @ self.gauge, 0.0)
        return slope

    @property
    def gauge(self) -> Tensor | None:
        """What fixes an intercept that the loss leaves free, (..., k, k), or None.

        Adding ½⟨b, Gb⟩, G the projection on constant vectors (and on masked classes), changes no minimum: of the
        intercepts that are the same model it picks the one with ⟨b, Gb⟩ = 0.
        """
        return self.smooth_loss.gauge() if isinstance(self.penalty, Partly) else None

    def coef_of(self, V: Tensor) -> Tensor:
        """∇R*(V), the coefficients that belong to a dual point; l2 > 0."""
        return self.penalty.prox(V / self.l2[..., None, None], 1 / self.l2)

    def conjugate(self, V: Tensor) -> Tensor:
        """R*(V), (...), for l2 > 0 and a penalty that is a norm.

        With U = ∇R*(V) it is ⟨V, U⟩ − Ω(U) − (l2/2)‖U‖², and ⟨V − l2·U, U⟩ = Ω(U) because Ω is a norm.
        """
        return self.l2 / 2 * self.coef_of(V).square().sum((-2, -1))

    def gap(
        self,
        W: Tensor,
        Theta: Tensor,
        Z: Tensor | None = None,
        V: Tensor | None = None,
        precision: torch.dtype = torch.float64,
    ) -> Tensor:
        """P(W) − D(Θ′) ≥ 0, (...), where Θ′ is Θ made feasible (see `feasible`); Z = XW and V, where they are known.

        Infinite for a W outside a constraint by more than its rounding to ``precision``.

        Computed as one Fenchel–Young term per sample plus one for the penalty, each ≥ 0, and never as the
        difference of two large numbers.
        """
        Theta, V = self.feasible(Theta, V)
        Z = self.scores(W) if Z is None else Z
        samples = (self.weight * self.loss.fenchel_young(Z, Theta, self.Y)).sum(-1)
        gap = samples + penalty_gap(self.penalty, self.l2, self.ridge, W, V)
        return torch.where(self._is_outside(W, precision), torch.inf, gap)

    def _is_outside(self, W: Tensor, precision: torch.dtype) -> Tensor:
        """Whether W (..., m, k) violates a constraint by more than rounding does, (...).

        An entry rounded to ``precision`` is off by half its eps; a sum of m entries, in float64, by m of its.
        """
        rounding = torch.finfo(precision).eps + W.shape[-2] * torch.finfo(torch.float64).eps
        return self.penalty.violation(W) > rounding

    def relative_gap(self, W: Tensor, Theta: Tensor, Z: Tensor | None = None, V: Tensor | None = None) -> Tensor:
        """(P(W) − D(Θ))/P(0); 0 where there is nothing to learn (P(0) = 0 and W = 0)."""
        return relative(self.gap(W, Theta, Z, V), self.null_objective())

    def feasible(self, Theta: Tensor, V: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A dual point with R*(V) finite, and its V; the V of the given Θ, where that is known.

        An intercept asks for a weighted sum of zero. Otherwise with l2 > 0 every Θ will do; without, Θ is scaled until
        Ω*(V) is finite, or, with no penalty either, projected on the null space of Xᵀ.
        """
        if isinstance(self.penalty, Partly):
            Theta, V = self.smooth_loss.balanced(Theta, self.Y, self.weight), None
        if isinstance(self.penalty, NoPenalty):
            return self._least_squares_feasible(Theta, V)
        V = self.correlation(Theta) if V is None else V
        scale = torch.where(self.l2 > 0, 1.0, self.penalty.feasible_scale(V))[..., None, None]
        return Theta * scale, V * scale

    def _least_squares_feasible(self, Theta: Tensor, V: Tensor | None) -> tuple[Tensor, Tensor]:
        free = self.l2 <= 0
        if not free.any():
            return Theta, self.correlation(Theta) if V is None else V
        root = self.weight.sqrt()[..., None]
        # In units of their own, features of quite different sizes are told from dependent ones.
        A = self.X * root
        norm = torch.linalg.vector_norm(A, dim=-2, keepdim=True)
        A = A / torch.where(norm > 0, norm, 1.0)
        fitted = A @ (torch.linalg.pinv(A) @ (Theta * root))
        projected = Theta - fitted / torch.where(root > 0, root, 1.0)
        Theta = torch.where(free[..., None, None], projected, Theta)
        return Theta, torch.where(free[..., None, None], 0.0, self.correlation(Theta))


def penalty_gap(penalty: Penalty, l2: Tensor, ridge: Tensor, W: Tensor, V: Tensor) -> Tensor:
    """R(W) + R*(V) − ⟨W, V⟩, (...), with l2 (...), and row by row as ``ridge`` (..., 1 or m, 1).

    With l2 > 0 and U = ∇R*(V), V − l2·U ∈ ∂Ω(U), it is (l2/2)‖W − U‖² + [Ω(W) − Ω(U) − ⟨V − l2·U, W − U⟩]; without
    it is Ω(W) + Ω*(V) − ⟨V, W⟩. Both brackets are ≥ 0. An intercept's part is −⟨V, W⟩ with V zero up to rounding.
    """
    convex = l2 > 0
    safe = torch.where(convex, l2, 1.0)
    if isinstance(penalty, NoPenalty):
        # Both brackets are zero; and so is V where l2 is, see `Problem.feasible`.
        return l2 / 2 * (W - V / safe[..., None, None]).square().sum((-2, -1))
    if not convex.any():
        return _norm_gap(penalty, W, V)
    U = penalty.prox(V / safe[..., None, None], 1 / safe)
    U = torch.where(ridge > 0, U, W)
    strong = ridge * (W - U)
    bracket = penalty.value(W) - penalty.value(U) - ((V - ridge * U) * (W - U)).sum((-2, -1))
    norm = bracket if convex.all() else torch.where(convex, bracket, _norm_gap(penalty, W, V))
    return (strong * (W - U)).sum((-2, -1)) / 2 + norm.clamp_min(0)


def _norm_gap(penalty: Penalty, W: Tensor, V: Tensor) -> Tensor:
    """Ω(W) + Ω*(V) − ⟨V, W⟩ ≥ 0."""
    return (penalty.value(W) + penalty.conjugate(V) - (V * W).sum((-2, -1))).clamp_min(0)


def relative(gap: Tensor, null_objective: Tensor) -> Tensor:
    """gap/P(0), and the gap itself where P(0) = 0: there W = 0 is optimal with gap 0, and no other W is.

    NaN where P(0) has overflown: a share of infinity would certify anything.
    """
    share = gap / torch.where(null_objective > 0, null_objective, 1.0)
    return torch.where(null_objective < torch.inf, share, torch.nan)


def _unless_vanishing(null: Tensor, before: Tensor) -> Tensor:
    """``null``, or what it was before a subtraction that left nothing but rounding of it, (...)."""
    return torch.where(null > VANISHING * before, null, before)
