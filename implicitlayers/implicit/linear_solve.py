"""J⁻¹r for the Jacobian J of a residual at a solution: J formed and inverted, or products with J alone.

J is constant, so r ↦ J⁻¹r is linear: its derivative along a tangent is the same map of the tangent, and its transpose
is the map of Jᵀ. `Dense` makes it a product with a matrix; the methods of `krylov` need products only.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev, vjp, vmap

from ..solution import ConvergenceError, ConvergenceWarning, OnFail
from .newton import opaque

# A function of one vector (..., d); a function of a vector and of the point (x, parameters) of one problem.
Map = Callable[[Tensor], Tensor]
PointMap = Callable[..., Tensor]


@dataclass
class LinearReport:
    """What the linear solves for one solution achieved so far; reverse mode makes its own when it runs.

    Attributes
    ----------
    relative_residual : the largest ‖Jy − r‖/‖r‖ of all solves; for `Dense` ‖J J⁻¹ − I‖/√d (Frobenius norm).
    n_solves : number of calls; one call may solve for many right-hand sides.
    n_iter : iterations of all calls together; 0 for `Dense`.
    """

    relative_residual: float = 0.0
    n_solves: int = 0
    n_iter: int = 0
    name: str = field(default="", repr=False)
    on_fail: OnFail = field(default="warn", repr=False)

    def add(self, relative_residual: Tensor, n_iter: int, tol: float, hint: str) -> None:
        """Record a call; warn or raise about right-hand sides whose residual is above ``tol``."""
        worst = float(relative_residual.max()) if relative_residual.numel() else 0.0
        self.relative_residual = worst if math.isnan(worst) else max(self.relative_residual, worst)
        self.n_solves += 1
        self.n_iter += n_iter
        failed = int((~(relative_residual <= tol)).sum())
        if failed:
            fail(
                self.on_fail,
                f"{self.name}: {failed} of {relative_residual.numel()} linear solves with the Jacobian of the residual"
                f" are inexact, and so are derivatives: relative residual {worst:.1e}, tolerance {tol:.1e}. {hint}",
            )


def fail(on_fail: OnFail, message: str) -> None:
    """Raise `ConvergenceError`, warn, or stay silent."""
    if on_fail == "raise":
        raise ConvergenceError(message)
    if on_fail == "warn":
        warnings.warn(message, ConvergenceWarning, stacklevel=3)


@contextmanager
def outsiders_named() -> Iterator[None]:
    """Says what is wrong where an opaque call meets a tensor of a transform that it stands outside of."""
    try:
        yield
    except RuntimeError as error:
        if "functorch" not in str(error):
            raise
        raise ValueError(
            "solver, residual or objective: given, from outside their arguments, a tensor that torch.func maps or"
            " differentiates, expected all such tensors among the arguments"
        ) from error


class System(NamedTuple):
    """The residual of one problem on vectors: ``residual(x, *parameters)``, x and the result (d,).

    ``symmetric`` says that its Jacobian is. ``unflatten(v, *parameters)`` and ``flatten`` lead from vectors to the
    user's structure and back, ``arguments`` from parameters to the user's arguments: for preconditioners.
    """

    residual: PointMap
    symmetric: bool
    unflatten: PointMap
    flatten: Callable[[Any], Tensor]
    arguments: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]

    def probe(self, point: list[Tensor]) -> Tensor:
        """The residual at the first of a batch of points; an error if it uses tensors of a transform from outside.

        Inside a product with J, a level of their transform could be taken for one of ours, unnoticed.
        """
        with outsiders_named():
            r = self.residual(*(t[0] for t in point)).detach()
            if torch._C._functorch.is_functorch_wrapped_tensor(r):
                raise RuntimeError("the residual is a functorch tensor")
            return r.expand(len(point[0]), *r.shape)

    def product(self, transposed: bool) -> PointMap:
        """(v, x, *parameters) ↦ Jv or Jᵀv of one problem."""

        def transpose(v: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
            return vjp(lambda x: self.residual(x, *parameters), x)[1](v)[0]

        return transpose if transposed or self.symmetric else transposed_map(transpose)

    def preconditioner(self, given: Callable[..., Any]) -> PointMap:
        """(v, x, *parameters) ↦ the user's ``given``(v, x, *args, **kwargs), on vectors."""

        def apply(v: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
            args, kwargs = self.arguments(*parameters)
            result = self.flatten(
                given(self.unflatten(v, *parameters), self.unflatten(x, *parameters), *args, **kwargs)
            )
            if result.shape != v.shape:
                raise ValueError(f"preconditioner: given a result of {len(result)} numbers, expected {len(v)}, like v")
            return result

        return apply


def transposed_map(linear: PointMap) -> PointMap:
    """(v, *point) ↦ Aᵀv for a map (v, *point) ↦ Av that is linear in v, square, and differentiable.

    The transpose in reverse mode, also of a transpose: forward mode cannot be entered anew inside an opaque call.
    """

    def transpose(v: Tensor, *point: Tensor) -> Tensor:
        return vjp(lambda w: linear(w, *point), torch.zeros_like(v))[1](v)[0]

    return transpose


class Products(NamedTuple):
    """Products with A (J or Jᵀ) and its transpose, and with M ≈ A⁻¹ and its transpose, for a batch (..., d)."""

    forward: Map
    transposed: Map
    preconditioner: Map
    preconditioner_transposed: Map

    def transpose(self) -> "Products":
        """The same of Aᵀ."""
        return Products(self.transposed, self.forward, self.preconditioner_transposed, self.preconditioner)


class LinearSolve(ABC):
    """How J⁻¹r is found: `Dense`, `CG`, `NormalCG` or `GMRES`."""

    @abstractmethod
    def at(self, system: System, x: Tensor, parameters: list[Tensor], report: LinearReport) -> Map:
        """The map r ↦ J⁻¹r, differentiable to any order in r, for J at the constants x and ``parameters``."""

    def roughly(self, system: System, x: Tensor, parameters: list[Tensor], r: Tensor) -> Tensor | None:
        """J⁻¹r to about a tenth, or None if `at` gives it at no cost."""
        return None


@dataclass(frozen=True)
class Dense(LinearSolve):
    """Forms J (d, d), d the number of unknowns, by d vector–Jacobian products, and inverts it in float64.

    Where J is singular it takes the pseudo-inverse: the derivative of the solution of least norm, if that is what the
    solver returns. An element of a batch counts as singular if the reciprocal condition number of its J is below 1e-13
    (float64; about 5e-7 for other dtypes). Memory d², time d³: fine to a few thousand unknowns.

    Parameters
    ----------
    tol : warn if ‖J J⁻¹ − I‖/√d is above it; it always is for a singular J.
    """

    tol: float = 1e-6

    def __post_init__(self) -> None:
        check_tol(self.tol)

    def at(self, system: System, x: Tensor, parameters: list[Tensor], report: LinearReport) -> Map:
        """As a product with the inverse, in ordinary operations."""

        def run(point: list[Tensor]) -> Tensor:
            with outsiders_named():
                J = _jacobian(system.residual, point)
            inverse, relative_residual = invert(J)
            report.add(relative_residual, 0, self.tol, _SINGULAR)
            return inverse

        inverse: Tensor = opaque(run, [x, *parameters], 0)
        # In float64, of which autocast around a backward pass makes nothing less.
        return lambda r: (inverse @ r.to(inverse.dtype)[..., None])[..., 0].to(r.dtype)


def _jacobian(residual: PointMap, point: list[Tensor]) -> Tensor:
    """∂residual/∂x, (b, d, d), at points (b, ...)."""
    if len(point[0]) == 1:  # Not mapped: the residual need not support vmap.
        return jacrev(residual)(*(t[0] for t in point)).detach()[None]
    return vmap(jacrev(residual))(*point).detach()


def invert(J: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of J (b, d, d) in float64, the pseudo-inverse where J is singular, zero where it is not finite.

    Also ‖J J⁻¹ − I‖/√d (b,), NaN where J is not finite.
    """
    double = J.dtype == torch.float64
    # Rounding alone makes entries of J wrong by eps: what is that close to singular cannot be told from it.
    singular_below, cutoff = (1e-13, 1e-10) if double else (4 * torch.finfo(torch.float32).eps, 2e-6)
    J = J.to(torch.float64)
    finite = J.isfinite().flatten(1).all(-1)
    identity = torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)
    J = torch.where(finite[:, None, None], J, identity)
    inverse, _ = torch.linalg.inv_ex(J)
    norms = torch.linalg.matrix_norm(J, 1) * torch.linalg.matrix_norm(inverse, 1)
    singular = ~(norms * singular_below < 1)
    if singular.any():
        inverse = inverse.clone()
        inverse[singular] = torch.linalg.pinv(J[singular], rtol=cutoff)
    relative_residual = torch.linalg.matrix_norm(J @ inverse - identity) / math.sqrt(J.shape[-1])
    return torch.where(finite[:, None, None], inverse, 0.0), torch.where(finite, relative_residual, torch.nan)


def check_tol(tol: float) -> None:
    """An error unless tol > 0."""
    if not tol > 0:
        raise ValueError(f"tol: given {tol}, expected a number > 0")


def check_count(name: str, count: int) -> None:
    """An error unless ``count`` is a positive integer."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{name}: given {count!r}, expected an integer ≥ 1")


_SINGULAR = (
    "Likely causes: (a) J is singular, because the solution is not unique (duplicates, redundant constraints):"
    " derivatives are those of the solution of least norm, and on_fail='ignore' accepts them; (b) the residual has no"
    " finite derivative at the solution; (c) J is badly scaled"
)
