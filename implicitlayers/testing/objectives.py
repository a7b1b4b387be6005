"""What a layer claims to minimise, by name, and how far a point is from doing so.

Everything is computed in float64 from the definition of the problem:

    P(W, b) = Σᵢ s̄ᵢ ℓ(xᵢW + b; yᵢ) + Ω(W) + (l2/2)‖W‖²,    s̄ = s/Σs

and nothing is shared with the library's solvers, losses and penalties.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp

from . import intercepts, subsets
from .example import Example
from .losses import Hinge, Multinomial, Squared
from .terms import (
    Data,
    Point,
    centred,
    conjugate,
    correlation,
    encoded,
    face_matrix,
    least,
    loss_and_penalty,
    primal,
    scores,
    slope,
)

Coefficients = Tensor | tuple[Tensor, Tensor]


class Objective(Protocol):
    """What every check needs to know of a problem."""

    @property
    def name(self) -> str:
        """What to call it."""

    def value(self, example: Example, coefficients: Coefficients) -> Tensor:
        """P(W, b), (...)."""


@dataclass(frozen=True)
class OwnObjective:
    """A user's ``function(X, Y, W, **strengths)``, the value (...) of each element of the batch; convex in W.

    Nothing else is known of it: what needs a dual point or the places of kinks is left out.
    """

    function: Callable[..., Tensor]

    @property
    def name(self) -> str:
        """The function's."""
        return getattr(self.function, "__name__", "objective")

    def value(self, example: Example, coefficients: Coefficients) -> Tensor:
        """The function's value."""
        return self.function(example.X, example.Y, coefficients, **example.strengths)


@dataclass(frozen=True)
class Named:
    """A problem of the table below.

    Attributes:
        name: its name.
        strengths: names and default values of its strengths; None: must be given.
        classes: 0 for real targets, 2 for two classes with one column of coefficients, 3 for any number of classes.
        groups: groups of features, where it has any.
        n_nonzero: the most features in use, for "sparse_ridge".
        fit_intercept: whether the layer returns (W, b).
    """

    name: str
    strengths: dict[str, float | None]
    classes: int = 0
    groups: tuple[tuple[int, ...], ...] | None = None
    n_nonzero: int | None = None
    fit_intercept: bool = False

    @property
    def smooth(self) -> bool:
        """Whether the loss is: derivatives then need no dual point."""
        return self.name not in ("svm", "binary_svm")

    @property
    def sparse(self) -> bool:
        """Whether a large strength makes the solution zero."""
        return "l1" in self.strengths

    def targets(self, example: Example, k: int) -> Tensor:
        """Y in float64 (..., n, k), as the loss wants it."""
        return encoded(example.Y, self.classes, k)

    @torch.no_grad()
    def value(self, example: Example, coefficients: Coefficients) -> Tensor:
        """P(W, b), (...); constraints are `infeasibility`'s."""
        point = self._point(example, coefficients)
        return primal(self._data(example, point), point)

    @torch.no_grad()
    def infeasibility(self, example: Example, coefficients: Coefficients) -> Tensor:
        """How far W is outside the constraints, (...), in its own units."""
        point = self._point(example, coefficients)
        data = self._data(example, point)
        if self.n_nonzero is not None:
            return ((point.W != 0).any(-1).sum(-1) - self.n_nonzero).clamp_min(0).to(torch.float64)
        return data.penalty.distance(point.W)

    @torch.no_grad()
    def gap(self, example: Example, coefficients: Coefficients, dual: Tensor | None = None) -> Tensor:
        """(P − D)/P(0), an upper bound on the relative suboptimality of the coefficients, (...).

        D is the best of the dual points that the residuals at the coefficients, and ``dual``, give when made feasible.
        """
        point = self._point(example, coefficients, dual)
        data = self._data(example, point)
        reached, null = primal(data, point), self._null(data, point)
        if self.n_nonzero is not None:
            X, Y = centred(data) if self.fit_intercept else (data.X, data.Y)
            bound = subsets.minimum(X, Y, data.weight, data.l2, self.n_nonzero)
        else:
            bound = self._dual_value(data, point._replace(Theta=None))
            if dual is not None:
                bound = torch.maximum(bound, self._dual_value(data, point))
        return (reached - bound) / torch.where(null > 0, null, 1.0)

    @torch.no_grad()
    def subdifferential_distance(
        self, example: Example, coefficients: Coefficients, dual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """How far 0 is from the subdifferential, and how far a relative gap of 1 would let it be, (...).

        Measured a proximal step W⁺ = prox(W − τ∇f(W)) further, where it is ‖W − W⁺‖/τ up to a factor of two, and
        continuous in W. (τ/2)·distance² ≤ P(W) − P*, so a gap ε allows √ε times the second number.
        """
        point = self._point(example, coefficients, dual)
        data = self._data(example, point)
        slope_W, slope_b = slope(data, point, self.fit_intercept)
        step = data.step
        W = data.penalty.prox(point.W - step[..., None, None] * slope_W, step)
        moved = (point.W - W).square().sum((-2, -1)) + (step[..., None] * slope_b).square().sum(-1)
        return moved.sqrt() / step, (2 * self._null(data, point) / step).sqrt()

    @torch.no_grad()
    def kinks(self, example: Example, coefficients: Coefficients, dual: Tensor | None = None) -> Tensor:
        """Signed distances (..., q) from everything that makes derivatives one-sided, in shares of the scale.

        Their signs name the face of the solution; the smallest of them in absolute value is its margin.
        """
        point = self._point(example, coefficients, dual)
        data = self._data(example, point)
        if self.n_nonzero is not None:
            X, Y = centred(data) if self.fit_intercept else (data.X, data.Y)
            return subsets.kinks(X, Y, data.weight, data.l2, self.n_nonzero, point.W)
        step = data.step
        V = point.W - step[..., None, None] * slope(data, point, self.fit_intercept)[0]
        scale = V.abs().amax((-2, -1)).clamp_min(1e-300)
        Z = scores(data, point)
        Theta = data.loss.dual_point(Z, data.Y) if point.Theta is None else point.Theta
        absent = (data.weight == 0)[..., None]
        losses = torch.where(absent, 1.0, data.loss.kinks(Z, Theta, data.Y)).flatten(-2)
        return torch.cat([data.penalty.kinks(V, step) / scale[..., None], losses], -1)

    @torch.no_grad()
    def regularity(self, example: Example, coefficients: Coefficients, dual: Tensor | None = None) -> Tensor:
        """The smallest singular value of the optimality conditions' Jacobian over its largest, (...).

        Zero where the solution, or its derivative, is not unique.
        """
        point = self._point(example, coefficients, dual)
        data = self._data(example, point)
        if not self.smooth and bool((data.loss.smoothing > 0).all()):  # type: ignore[attr-defined]
            # Strongly concave in the dual.
            return torch.ones_like(data.l2)
        J = self._natural_jacobian(data, point) if self.smooth else face_matrix(data, point)
        values = torch.linalg.svdvals(J)
        return values[..., -1] / values[..., 0].clamp_min(1e-300)

    def solvable(self, example: Example) -> Tensor:
        """Whether there is a minimiser, (...): a multinomial's intercept runs off where a class has no sample."""
        present = torch.ones(example.batch, dtype=torch.bool)
        if self.name != "logistic" or not self.fit_intercept:
            return present
        Y = self.targets(example, _columns(self, example))
        weight = (
            torch.ones(Y.shape[-2], dtype=torch.float64) if example.sample_weight is None else example.sample_weight
        )
        return present & ((weight[..., None] * Y).sum(-2) > 0).all(-1)

    @torch.no_grad()
    def scale_to_zero(self, example: Example) -> Tensor:
        """The factor (...) of X below which the solution is zero for the strengths given; infinite: always zero.

        For "svm" the solution is zero below it, and may be zero somewhat above.
        """
        W = zeros(self, example)
        k = W.shape[-1]
        b = torch.zeros(*example.batch, k, dtype=torch.float64)
        data = self._data(example, Point(W, b, None))
        if self.fit_intercept:
            b = intercepts.best(data.loss, torch.zeros_like(data.Y), data.Y, data.weight)
        Theta = data.loss.dual_point(b[..., None, :].expand_as(data.Y), data.Y)
        if isinstance(data.loss, Hinge):
            Theta = (k * data.Y - 1) / (k - 1)
        V = correlation(data, Theta)
        largest = V.abs().amax((-2, -1))
        # What rounding leaves of a correlation that is zero is no threshold.
        noise = 1e-11 * data.X.abs().amax((-2, -1)) * data.Y.abs().amax((-2, -1))
        largest = torch.where(largest > noise, largest, 0.0)
        unit = V / torch.where(largest > 0, largest, 1.0)[..., None, None]
        # Scaled up far beyond any threshold, so that what comes back is the threshold itself.
        huge = 1e8
        reached = data.penalty.feasible_scale(unit * huge) * huge
        return torch.where(largest > 0, reached / torch.where(largest > 0, largest, 1.0), torch.inf)

    def _point(self, example: Example, coefficients: Coefficients, dual: Tensor | None = None) -> Point:
        W, b = coefficients if isinstance(coefficients, tuple) else (coefficients, None)
        W = W.to(torch.float64)
        b = W.new_zeros(*W.shape[:-2], W.shape[-1]) if b is None else b.to(torch.float64)
        return Point(W, b, None if dual is None else dual.to(torch.float64))

    def _data(self, example: Example, point: Point) -> Data:
        batch = torch.broadcast_shapes(example.batch, point.W.shape[:-2])
        X = example.X.to(torch.float64)
        n, m = X.shape[-2:]
        Y = self.targets(example, point.W.shape[-1])
        weight = torch.ones(n, dtype=torch.float64)
        if example.sample_weight is not None:
            weight = example.sample_weight.to(torch.float64)
        total = weight.sum(-1, keepdim=True)
        weight = weight / torch.where(total > 0, total, 1.0)
        given: dict[str, float | Tensor] = {
            name: default for name, default in self.strengths.items() if default is not None
        }
        given |= {name: value for name, value in example.strengths.items() if name != "group_weights"}
        missing = [name for name in self.strengths if name not in given]
        if missing or set(given) - set(self.strengths):
            raise ValueError(f"strengths: given {sorted(example.strengths)}, expected {sorted(self.strengths)}")
        values = {name: torch.as_tensor(value, dtype=torch.float64).expand(batch) for name, value in given.items()}
        weights = torch.as_tensor(example.strengths.get("group_weights", 1.0), dtype=torch.float64)
        loss, penalty = loss_and_penalty(self.name, self.groups, values, weights, m)
        return Data(
            X=X.expand(*batch, n, m),
            Y=Y.expand(*batch, *Y.shape[-2:]),
            weight=weight.expand(*batch, n),
            loss=loss,
            penalty=penalty,
            l2=values.get("l2", torch.zeros(batch, dtype=torch.float64)),
            n_nonzero=self.n_nonzero,
        )

    def _null(self, data: Data, point: Point) -> Tensor:
        b = torch.zeros_like(point.b)
        if self.fit_intercept:
            b = intercepts.best(data.loss, torch.zeros_like(data.Y), data.Y, data.weight)
        Z = b[..., None, :].expand_as(data.Y)
        return (data.weight * data.loss.value(Z, data.Y)).sum(-1)

    def _dual_value(self, data: Data, point: Point) -> Tensor:
        """D at the point's Θ made feasible; without one, at the residuals."""
        if isinstance(data.loss, Squared) and not self.strengths.keys() & {"l1", "total", "upper"}:
            return least(data, self.fit_intercept)
        Theta = point.Theta
        if Theta is None:
            Z = data.X @ point.W
            if self.fit_intercept:
                Z = Z + intercepts.best(data.loss, Z, data.Y, data.weight)[..., None, :]
            Theta = data.loss.dual_point(Z, data.Y)
        Theta = data.loss.feasible(Theta, data.Y)
        if self.fit_intercept:
            off = (data.weight[..., None] * Theta).sum(-2, keepdim=True)
            if isinstance(data.loss, Squared):
                Theta = Theta - off
            elif point.Theta is not None:
                # Moving it may leave the domain of the conjugate: the residuals' own point has to do.
                return torch.full_like(data.l2, -torch.inf)
        V = correlation(data, Theta)
        scale = torch.where(data.l2 > 0, 1.0, data.penalty.feasible_scale(V))[..., None, None]
        Theta, V = data.loss.feasible(Theta * scale, data.Y), V * scale
        return -(data.weight * data.loss.conjugate(Theta, data.Y)).sum(-1) - conjugate(data, V)

    def _natural_jacobian(self, data: Data, point: Point) -> Tensor:
        """Of (W, b) ↦ what a proximal step moves, by forward derivatives of this file's own formulas."""
        m, k = point.W.shape[-2:]
        step = data.step
        used = torch.ones_like(point.W[..., :1]) if self.n_nonzero is None else (point.W != 0).any(-1, keepdim=True)
        rows = m + self.fit_intercept

        def residual(U: Tensor) -> Tensor:
            W = U[..., :m, :]
            b = U[..., m, :] if self.fit_intercept else torch.zeros_like(U[..., 0, :])
            slope_W, slope_b = slope(data, Point(W, b, None), self.fit_intercept)
            if self.n_nonzero is None:
                moved = W - data.penalty.prox(W - step[..., None, None] * slope_W, step)
            else:
                moved = torch.where(used > 0, step[..., None, None] * slope_W, W)
            if not self.fit_intercept:
                return moved
            gauge = b.mean(-1, keepdim=True) if isinstance(data.loss, Multinomial) else 0.0
            return torch.cat([moved, (step[..., None] * slope_b + gauge)[..., None, :]], -2)

        U = torch.cat([point.W, point.b[..., None, :]], -2)[..., :rows, :]
        size = rows * k
        # All columns at once: one more leading dimension, over which everything broadcasts.
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *[1] * (U.dim() - 2), rows, k)
        many = U.expand(size, *U.shape).clone()
        columns = jvp(residual, (many,), (basis.expand_as(many).clone(),))[1]
        return columns.flatten(-2).movedim(0, -1)


def unrolled_step(problem: Named, example: Example) -> Callable[[Tensor], Tensor]:
    """One proximal gradient step W ↦ W⁺ for a smooth loss without intercept, differentiable in everything."""

    def step(W: Tensor) -> Tensor:
        point = problem._point(example, W)
        data = problem._data(example, point)
        return data.penalty.prox(W - length[..., None, None] * slope(data, point, False)[0], length)

    with torch.no_grad():
        length = problem._data(example, problem._point(example, zeros(problem, example))).step
    return step


def zeros(problem: Named, example: Example) -> Tensor:
    """Coefficients of zero, (..., m, k)."""
    return torch.zeros(*example.batch, example.X.shape[-1], _columns(problem, example), dtype=torch.float64)


def _columns(problem: Named, example: Example) -> int:
    if problem.classes == 2:
        return 1
    return example.Y.shape[-1] if example.Y.is_floating_point() else 1 + int(example.Y.max())


_PROBLEMS: dict[str, Named] = {
    problem.name: problem
    for problem in (
        Named("ridge", {"l2": None}),
        Named("lasso", {"l1": None}),
        Named("elastic_net", {"l1": None, "l2": 0.0}),
        Named("group_lasso", {"l1": None, "l2": 0.0}),
        Named("sparse_group_lasso", {"l1": None, "group_l1": None, "l2": 0.0}),
        Named("nonnegative", {"l1": 0.0, "l2": 0.0}),
        Named("box", {"lower": None, "upper": None, "l2": 0.0}),
        Named("simplex", {"total": 1.0, "l2": 0.0}),
        Named("huber", {"l1": 0.0, "l2": 0.0, "delta": 1.0}),
        Named("logistic", {"l1": 0.0, "l2": 0.0}, classes=3),
        Named("svm", {"l2": None, "l1": 0.0, "smoothing": 0.0}, classes=3),
        Named("binary_svm", {"l2": None, "l1": 0.0, "smoothing": 0.0}, classes=2),
        Named("sparse_ridge", {"l2": None}),
    )
}
NAMES = tuple(_PROBLEMS)


def objective(
    problem: "str | Named | OwnObjective | Callable[..., Tensor]",
    *,
    groups: Sequence[Sequence[int]] | None = None,
    n_nonzero: int | None = None,
    fit_intercept: bool = False,
) -> Named | OwnObjective:
    """The problem called so; a callable ``(X, Y, W, **strengths) -> (...)`` is a user's own, convex, objective.

    All have the mean loss over samples, weighted by s̄ = s/Σs, plus (l2/2)‖W‖² where they have an l2:

    ==================  ==========================  ================================================================
    name                loss                        penalty
    ==================  ==========================  ================================================================
    ridge               ½‖z − y‖²
    lasso, elastic_net  ½‖z − y‖²                   l1·Σ|W_jc|
    group_lasso         ½‖z − y‖²                   l1·Σ_g w_g‖W_g‖, features of ``groups`` across targets
    sparse_group_lasso  ½‖z − y‖²                   l1·Σ|W_jc| + group_l1·Σ_g w_g‖W_g‖
    nonnegative         ½‖z − y‖²                   l1·ΣW_jc, W ≥ 0
    box                 ½‖z − y‖²                   lower ≤ W ≤ upper
    simplex             ½‖z − y‖²                   W ≥ 0, Σ_j W_jc = total
    huber               ½r², linear beyond delta    l1·Σ|W_jc|
    logistic            log Σ exp z_l − z_y         l1·Σ_j‖W_j‖
    svm                 max_l (1 − y_l + z_l) − z_y l1·Σ_j‖W_j‖; ``smoothing`` as in `implicitlayers.MulticlassSVM`
    binary_svm          max(0, 1 − yz), y = ±1      l1·Σ|w_j|
    sparse_ridge        ½‖z − y‖²                   at most ``n_nonzero`` rows of W other than zero
    ==================  ==========================  ================================================================

    Args:
        problem: a name, or a function.
        groups: disjoint groups of features that cover all; None: each feature for itself.
        n_nonzero: for "sparse_ridge".
        fit_intercept: the layer returns (W, b), and b (..., k) is added to the scores without penalty.

    Raises:
        ValueError: no problem has that name.
    """
    if isinstance(problem, Named | OwnObjective):
        return problem
    if callable(problem):
        return OwnObjective(problem)
    if problem not in _PROBLEMS:
        raise ValueError(f"problem: given {problem!r}, expected one of {', '.join(NAMES)}, or a function of (X, Y, W)")
    if (problem == "sparse_ridge") != (n_nonzero is not None):
        raise ValueError(f"n_nonzero: given {n_nonzero} for {problem!r}, expected a number for 'sparse_ridge' alone")
    known = _PROBLEMS[problem]
    tuples = None if groups is None else tuple(tuple(group) for group in groups)
    return Named(known.name, known.strengths, known.classes, tuples, n_nonzero, fit_intercept)
