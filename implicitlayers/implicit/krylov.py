"""J⁻¹r by products with J and Jᵀ: `CG`, `NormalCG`, `GMRES`.

The solve is one custom Function whose `jvp` and `backward` call the Function itself. It is linear and nothing it saves
is differentiated, so unlike a custom Function in general it is right in nested forward mode too.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..ambient import without_autocast
from .linear_solve import (
    LinearReport,
    LinearSolve,
    Map,
    PointMap,
    Products,
    System,
    check_count,
    check_tol,
    outsiders_named,
    transposed_map,
)

_INEXACT = (
    "Likely causes: (a) J is singular, or not symmetric positive definite where CG needs it: NormalCG or Dense serve;"
    " (b) max_iter is too small: a preconditioner helps; (c) tol is below what the precision allows"
)


@dataclass(frozen=True)
class Krylov(LinearSolve):
    """J⁻¹r by products with J and Jᵀ, J never formed: for systems too large for `Dense`. The base of three methods.

    Parameters
    ----------
    tol : relative residual ‖Jy − r‖/‖r‖ to reach; a solve that ends above it warns, or raises. None means 1e-10 for
        float64 and 1e-5 for other dtypes.
    max_iter : None means ten times the number of unknowns, at most 1000.
    preconditioner : ``preconditioner(v, x, *args, **kwargs)``, about J⁻¹v: linear in v, which like the result is
        structured as the solution x, in differentiable PyTorch operations; args and kwargs are the residual's.
    """

    tol: float | None = None
    max_iter: int | None = None
    preconditioner: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.tol is not None:
            check_tol(self.tol)
        if self.max_iter is not None:
            check_count("max_iter", self.max_iter)
        if self.preconditioner is not None and not callable(self.preconditioner):
            given = type(self.preconditioner).__name__
            raise ValueError(f"preconditioner: given {given}, expected a function (v, x, *args, **kwargs) -> v")

    def tolerance(self, dtype: torch.dtype) -> float:
        """The relative residual at which a solve is done."""
        return self.tol if self.tol is not None else 1e-10 if dtype == torch.float64 else 1e-5

    def at(self, system: System, x: Tensor, parameters: list[Tensor], report: LinearReport) -> Map:
        """By products alone, each time a derivative asks for it."""
        return lambda r: _Solve.apply(_Plan(self, system, report), False, (), r, x, *parameters)

    def roughly(self, system: System, x: Tensor, parameters: list[Tensor], r: Tensor) -> Tensor | None:
        """J⁻¹r to about a tenth."""
        plan = _Plan(replace(self, tol=0.1), system, LinearReport(on_fail="ignore"))
        return _Solve.apply(plan, False, (), r, x, *parameters)

    @abstractmethod
    def iterate(self, A: Products, b: Tensor, target: Tensor, max_iter: int) -> tuple[Tensor, int]:
        """A step y from zero towards ‖Ay − b‖ ≤ ``target``, b (..., d), target (..., 1); and its iterations."""


class CG(Krylov):
    """Conjugate gradients, for symmetric positive definite J: the choice for large `argmin` problems.

    One product with J per iteration. Not for singular J, where `NormalCG` gives the pseudo-inverse. The preconditioner
    must be symmetric positive definite too. Parameters: see `Krylov` (Hestenes and Stiefel, 1952).
    """

    def iterate(self, A: Products, b: Tensor, target: Tensor, max_iter: int) -> tuple[Tensor, int]:
        """Preconditioned conjugate gradients; keeps the best iterate, as the residual may grow in between."""
        y, r = torch.zeros_like(b), b
        p = z = A.preconditioner(r)
        rz = _dot(r, z)
        best, best_norm = y, _norm(r)
        n_iter = 0
        while n_iter < max_iter and bool((active := _norm(r) > target).any()):
            Ap = A.forward(p)
            alpha = _ratio(rz, _dot(p, Ap)) * active
            y, r = y + alpha * p, r - alpha * Ap
            z = A.preconditioner(r)
            before, rz = rz, _dot(r, z)
            p = z + _ratio(rz, before) * p
            better = _norm(r) < best_norm
            best, best_norm = torch.where(better, y, best), torch.where(better, _norm(r), best_norm)
            n_iter += 1
        return best, n_iter


class NormalCG(Krylov):
    """Conjugate gradients on the normal equations JᵀJy = Jᵀr (CGLS), for any J, singular ones included.

    Two products per iteration, one with J and one with Jᵀ; iterations grow with the condition number of J, not with
    its root. For a singular J, without preconditioner, it gives the pseudo-inverse as `Dense` does, and warns where
    the system has no solution. Parameters: see `Krylov` (Paige and Saunders, 1982).
    """

    def iterate(self, A: Products, b: Tensor, target: Tensor, max_iter: int) -> tuple[Tensor, int]:
        """CGLS for A M z = b, y = Mz."""
        z, r = torch.zeros_like(b), b
        p = s = A.preconditioner_transposed(A.transposed(r))
        ss = _dot(s, s)
        tol = _ratio(target, _norm(b))
        scale = torch.zeros_like(ss)  # A lower bound on ‖AM‖.
        n_iter = 0
        # Second condition: r is orthogonal to the range, so that it cannot become smaller.
        while n_iter < max_iter and bool((active := (_norm(r) > target) & (_norm(s) > tol * scale * _norm(r))).any()):
            q = A.forward(A.preconditioner(p))
            scale = torch.maximum(scale, _ratio(_norm(q), _norm(p)))
            alpha = _ratio(ss, _dot(q, q)) * active
            z, r = z + alpha * p, r - alpha * q
            s = A.preconditioner_transposed(A.transposed(r))
            before, ss = ss, _dot(s, s)
            p = s + _ratio(ss, before) * p
            n_iter += 1
        return A.preconditioner(z), n_iter


@dataclass(frozen=True)
class GMRES(Krylov):
    """Generalised minimal residuals with restarts, for regular J that need not be symmetric: `root`, `fixed_point`.

    One product per iteration, and ``restart`` vectors in memory between restarts. Other parameters: see `Krylov`
    (Saad and Schultz, 1986).
    """

    restart: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("restart", self.restart)

    def iterate(self, A: Products, b: Tensor, target: Tensor, max_iter: int) -> tuple[Tensor, int]:
        """One cycle for A M z = b, y = Mz: the z in span{b, AMb, ...} with the smallest ‖AMz − b‖."""
        steps = min(self.restart, max_iter, b.shape[-1])
        length = _norm(b)
        basis = _ratio(b, length)[..., None]
        H = b.new_zeros(*b.shape[:-1], steps + 1, steps)
        for k in range(1, steps + 1):
            w = A.forward(A.preconditioner(basis[..., -1]))
            before = _norm(w)
            for _ in range(2):  # Once loses orthogonality, twice is enough.
                h = (basis.mT @ w[..., None])[..., 0]
                w = w - (basis @ h[..., None])[..., 0]
                H[..., :k, k - 1] += h
            # Where the space is exhausted, vectors of zeros follow, hence the pseudo-inverse.
            after = torch.where(_norm(w) > 4 * torch.finfo(b.dtype).eps * before, _norm(w), 0.0)
            H[..., k, k - 1] = after[..., 0]
            small, rhs = H[..., : k + 1, :k], torch.nn.functional.pad(length, (0, k))[..., None]
            y = torch.linalg.pinv(small) @ rhs
            if bool((torch.linalg.vector_norm(small @ y - rhs, dim=-2) <= target).all()):
                break
            if k < steps:
                basis = torch.cat([basis, _ratio(w, after)[..., None]], -1)
        return A.preconditioner((basis @ y)[..., 0]), k


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=-1, keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, zero where that is not a finite number: a search that breaks down stands still."""
    return (a / torch.where(b == 0, 1.0, b) * (b != 0)).nan_to_num(0.0, 0.0, 0.0)


class _Plan(NamedTuple):
    """A Krylov method, the system it solves, and where it reports."""

    method: Krylov
    system: System
    report: LinearReport

    def solve(self, b: Tensor, transposed: bool, bind: Callable[[PointMap], Map]) -> Tensor:
        """J⁻¹b or J⁻ᵀb, b (..., d); ``bind`` turns maps of one problem into maps of the batch."""
        A = self._products(bind)
        A = A.transpose() if transposed else A
        tol = self.method.tolerance(b.dtype)
        target = tol * _norm(b)
        left = max_iter = self.method.max_iter or min(1000, 10 * b.shape[-1])
        y, r = torch.zeros_like(b), b
        # Residuals that are updated drift from b − Ay, and GMRES restarts: what is left is solved for again.
        while left > 0 and bool((_norm(r) > target).any()):
            step, n_iter = self.method.iterate(A, r, target, left)
            left -= max(1, n_iter)
            rest = b - A.forward(y + step)
            progress = bool((_norm(rest) < 0.9 * _norm(r)).any())
            better = _norm(rest) < _norm(r)
            y, r = torch.where(better, y + step, y), torch.where(better, rest, r)
            if not progress:
                break
        self.report.add(_ratio(_norm(r), _norm(b))[..., 0], max_iter - left, tol, _INEXACT)
        return torch.where(b.isfinite().all(-1, keepdim=True), y, torch.nan)

    def _products(self, bind: Callable[[PointMap], Map]) -> Products:
        A = bind(self.system.product(False)), bind(self.system.product(True))
        if self.method.preconditioner is None:
            return Products(*A, lambda v: v, lambda v: v)
        M = self.system.preconditioner(self.method.preconditioner)
        return Products(*A, bind(M), bind(transposed_map(M)))


class _Solve(torch.autograd.Function):
    """v ↦ J⁻¹v or J⁻ᵀv on plain tensors, linear in v; ``point`` is x and the parameters, constants.

    ``levels`` holds, for every `vmap` from the innermost outwards, the mapped dimensions of ``point``; those of v
    come first, outermost first.
    """

    @staticmethod
    def forward(plan: _Plan, transposed: bool, levels: tuple[Any, ...], v: Tensor, *point: Tensor) -> Tensor:
        def bind(of_one: PointMap) -> Map:
            for in_dims in levels:
                of_one = vmap(of_one, in_dims=(0, *in_dims))
            return lambda v: of_one(v, *point).detach()

        # Backward passes come here, too.
        with without_autocast(), outsiders_named():
            return plan.solve(v, transposed, bind)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.static = inputs[:3]
        ctx.save_for_backward(*inputs[4:])
        ctx.save_for_forward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        plan, transposed, levels = ctx.static
        point = ctx.saved_tensors
        return None, None, None, _Solve.apply(plan, not transposed, levels, grad, *point), *(None,) * len(point)

    @staticmethod
    def jvp(ctx: Any, _plan: None, _transposed: None, _levels: None, tangent: Tensor, *_: Any) -> Tensor:
        return _Solve.apply(*ctx.static, tangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        plan: _Plan,
        transposed: bool,
        levels: tuple[Any, ...],
        v: Tensor,
        *point: Tensor,
    ) -> tuple[Tensor, int]:
        v = v.expand(info.batch_size, *v.shape) if in_dims[3] is None else v.movedim(in_dims[3], 0)
        return _Solve.apply(plan, transposed, (*levels, in_dims[4:]), v, *point), 0
