"""A problem known by its name, and how far a point is from solving it.

Everything is computed in float64 from the definition of the problem:

    P(W, b) = Σᵢ s̄ᵢ ℓ(xᵢW + b; yᵢ) + Ω(W) + (l2/2)‖W‖²,    s̄ = s/Σs

and nothing is shared with the library's solvers, losses and penalties.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import intercepts, judged, subsets
from .duality import dual_bound, least, null
from .example import Example
from .losses import Hinge
from .regularity import face_matrix, natural_jacobian
from .terms import (
    Coefficients,
    Data,
    Point,
    centred,
    correlation,
    encoded,
    loss_and_penalty,
    primal,
    scores,
    slope,
)


@dataclass(frozen=True)
class Named:
    """A problem of the table that `objectives.objective` explains.

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

    @property
    def constrained(self) -> bool:
        """Whether there are coefficients that it forbids."""
        return self.name in ("nonnegative", "box", "simplex", "sparse_ridge")

    def targets(self, example: Example, k: int) -> Tensor:
        """Y in float64 (..., n, k), as the loss wants it."""
        return encoded(example.Y, self.classes, k)

    @torch.no_grad()
    def value(self, example: Example, coefficients: Coefficients) -> Tensor:
        """P(W, b), (...); constraints are `infeasibility`'s."""
        return primal(*self.spelt_out(example, coefficients))

    @torch.no_grad()
    def infeasibility(self, example: Example, coefficients: Coefficients) -> Tensor:
        """How far W is outside the constraints, (...), in its own units."""
        data, point = self.spelt_out(example, coefficients)
        if self.n_nonzero is not None:
            return ((point.W != 0).any(-1).sum(-1) - self.n_nonzero).clamp_min(0).to(torch.float64)
        return data.penalty.distance(point.W)

    @torch.no_grad()
    def gap(self, example: Example, coefficients: Coefficients, dual: Tensor | None = None) -> Tensor:
        """(P − D)/P(0), an upper bound on the relative suboptimality of the coefficients, (...).

        D is the best of the dual points that the residuals at the coefficients, and ``dual``, give when made feasible.

        Raises:
            ValueError: strengths with which no dual point certifies anything, see `refuse`.
        """
        data, point = self.spelt_out(example, coefficients, dual)
        judged.refuse_uncertifiable(self.name, data, example.strengths)
        scale = null(data)
        if self.n_nonzero is not None:
            X, Y = centred(data)
            bound = subsets.minimum(X, Y, data.weight, data.l2, self.n_nonzero)
        else:
            free = judged.penalty_free(data)
            bound = least(data) if bool(free.all()) else torch.where(free, least(data), dual_bound(data, point))
        return (primal(data, point) - bound) / torch.where(scale > 0, scale, 1.0)

    @torch.no_grad()
    def null(self, example: Example) -> Tensor:
        """P(0, b) at the best intercept b, if any, (...)."""
        return null(self.spelt_out(example, self.zeros(example))[0])

    def refuse(self, example: Example) -> None:
        """Raise ValueError, with the reason, for strengths without meaning, or with which nothing can be certified."""
        judged.refuse_meaningless(example.strengths)
        data, _ = self.spelt_out(example, self.zeros(example))
        judged.refuse_uncertifiable(self.name, data, example.strengths)

    @torch.no_grad()
    def subdifferential_distance(
        self, example: Example, coefficients: Coefficients, dual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """How far 0 is from the subdifferential, and how far a relative gap of 1 would let it be, (...).

        Measured a proximal step W⁺ = prox(W − τ∇f(W)) further, where it is ‖W − W⁺‖/τ up to a factor of two, and
        continuous in W. (τ/2)·distance² ≤ P(W) − P*, so a gap ε allows √ε times the second number.
        """
        data, point = self.spelt_out(example, coefficients, dual)
        slope_W, slope_b = slope(data, point)
        step = data.step
        W = data.penalty.prox(point.W - step[..., None, None] * slope_W, step)
        moved = (point.W - W).square().sum((-2, -1)) + (step[..., None] * slope_b).square().sum(-1)
        return moved.sqrt() / step, (2 * null(data) / step).sqrt()

    @torch.no_grad()
    def kinks(self, example: Example, coefficients: Coefficients, dual: Tensor | None = None) -> Tensor:
        """Signed distances (..., q) from everything that makes derivatives one-sided, in shares of the scale.

        Their signs name the face of the solution; the smallest of them in absolute value is its margin.
        """
        data, point = self.spelt_out(example, coefficients, dual)
        if self.n_nonzero is not None:
            X, Y = centred(data)
            return subsets.kinks(X, Y, data.weight, data.l2, self.n_nonzero, point.W)
        step = data.step
        V = point.W - step[..., None, None] * slope(data, point)[0]
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
        data, point = self.spelt_out(example, coefficients, dual)
        if not self.smooth and bool((data.loss.smoothing > 0).all()):  # type: ignore[attr-defined]
            # Strongly concave in the dual.
            return torch.ones_like(data.l2)
        J = natural_jacobian(data, point) if self.smooth else face_matrix(data, point)
        values = torch.linalg.svdvals(J)
        return values[..., -1] / values[..., 0].clamp_min(1e-300)

    def solvable(self, example: Example) -> Tensor:
        """Whether there is a minimiser, (...): a multinomial's intercept runs off where a class has no sample."""
        present = torch.ones(example.batch, dtype=torch.bool)
        if self.name != "logistic" or not self.fit_intercept:
            return present
        Y = self.targets(example, self._columns(example))
        weight = (
            torch.ones(Y.shape[-2], dtype=torch.float64) if example.sample_weight is None else example.sample_weight
        )
        return present & ((weight[..., None] * Y).sum(-2) > 0).all(-1)

    @torch.no_grad()
    def scale_to_zero(self, example: Example) -> Tensor:
        """The factor (...) of X below which the solution is zero for the strengths given; infinite: always zero.

        For "svm" the solution is zero below it, and may be zero somewhat above.
        """
        data, point = self.spelt_out(example, self.zeros(example))
        b, k = point.b, point.W.shape[-1]
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

    def spelt_out(self, example: Example, coefficients: Coefficients, dual: Tensor | None = None) -> tuple[Data, Point]:
        """The problem and the point in float64."""
        W, b = coefficients if isinstance(coefficients, tuple) else (coefficients, None)
        W = W.to(torch.float64)
        b = W.new_zeros(*W.shape[:-2], W.shape[-1]) if b is None else b.to(torch.float64)
        point = Point(W, b, None if dual is None else dual.to(torch.float64))
        return self._data(example, W), point

    def zeros(self, example: Example) -> Tensor:
        """Coefficients of zero, (..., m, k)."""
        return torch.zeros(*example.batch, example.X.shape[-1], self._columns(example), dtype=torch.float64)

    def _columns(self, example: Example) -> int:
        if self.classes == 2:
            return 1
        return example.Y.shape[-1] if example.Y.is_floating_point() else 1 + int(example.Y.max())

    def _data(self, example: Example, W: Tensor) -> Data:
        batch = torch.broadcast_shapes(example.batch, W.shape[:-2])
        X = example.X.to(torch.float64)
        n, m = X.shape[-2:]
        Y = self.targets(example, W.shape[-1])
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
            fit_intercept=self.fit_intercept,
        )
