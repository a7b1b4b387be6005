"""Derivatives for what a user's own solver returns: `argmin`, `root`, `fixed_point`.

The solver runs opaquely, on plain tensors; what it returned is then a constant to which Newton steps of value zero
attach the derivatives (`newton.attach`). Inside, the unknowns are one vector, whatever the user's structure.
"""

import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import arguments
from ..ambient import entry
from ..solution import ON_FAIL, OnFail
from .linear_solve import Dense, LinearReport, LinearSolve, System, fail, outsiders_named
from .newton import attach, is_differentiated, opaque
from .structure import TENSOR, Arguments, Structure, alike, describe, is_unknown

Solver = Callable[..., Any]


def argmin(
    objective: Callable[..., Tensor],
    *,
    derivative_order: int = 2,
    linear_solve: LinearSolve | None = None,
    tol: float | None = 1e-3,
    on_fail: OnFail = "warn",
    batched: bool = False,
    solver_only: Sequence[str] = ("init",),
) -> Callable[[Solver], "ImplicitFunction"]:
    """Decorate a solver of min over x of ``objective(x, *args, **kwargs)``: its result gets exact derivatives.

    A smooth minimum, constrained by nothing, is a root of the gradient, whose Jacobian is the Hessian H:
    dx = −H⁻¹ ∂(∇objective)/∂args · dargs. Maxima and saddle points qualify as well.

    >>> @il.implicit.argmin(lambda w, X, y, l2: ((X @ w - y) ** 2).sum() / 2 + l2 / 2 * (w**2).sum())
    ... def ridge(X, y, l2):
    ...     return torch.linalg.solve(X.T @ X + l2 * torch.eye(X.shape[1]), X.T @ y)
    >>> X, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 1.0])
    >>> torch.func.jacrev(ridge, argnums=2)(X, y, torch.tensor(1.0))
    tensor([-0.2500, -0.0800])

    Parameters
    ----------
    objective : ``objective(x, *args, **kwargs)``, a tensor of shape (), twice differentiable at the solution, in
        differentiable PyTorch operations. Everything else is as for `root`; `CG` fits large problems.

    Source: Krantz and Parks, The Implicit Function Theorem (2002); Blondel et al., Efficient and modular implicit
    differentiation (2022).
    """
    _check_callable("objective", objective)
    options = _Options(derivative_order, linear_solve or Dense(), tol, on_fail, batched, tuple(solver_only))
    return lambda solver: ImplicitFunction(solver, objective, _gradient, options)


def root(
    residual: Callable[..., Any],
    *,
    derivative_order: int = 2,
    linear_solve: LinearSolve | None = None,
    tol: float | None = 1e-3,
    on_fail: OnFail = "warn",
    batched: bool = False,
    solver_only: Sequence[str] = ("init",),
) -> Callable[[Solver], "ImplicitFunction"]:
    """Decorate a solver of ``residual(x, *args, **kwargs)`` = 0: its result gets exact derivatives.

    dx = −J⁻¹ ∂residual/∂args · dargs with J = ∂residual/∂x, in reverse and forward mode, under `vmap`, and in every
    composition of them up to ``derivative_order``.

    >>> @il.implicit.root(lambda x, a: a * x**3 - x - 2)
    ... def solve(a, init=1.5):
    ...     x = torch.as_tensor(init)
    ...     for _ in range(20):
    ...         x = x - (a * x**3 - x - 2) / (3 * a * x**2 - 1)
    ...     return x
    >>> a = torch.tensor(1.0, requires_grad=True)
    >>> x = solve(a)
    >>> x.backward()
    >>> round(x.item(), 5), round(a.grad.item(), 5)
    (1.52138, -0.59245)

    The calling convention: the decorated function is called as the solver is; the residual receives the solution and
    then the same arguments, except keyword arguments named in ``solver_only``.

    The solver receives plain tensors, copies, and may loop, branch on data, work in place and use autograd. Arguments
    and solution are tensors, 0-d ones too, or dicts, lists, tuples of tensors, nested; the unknowns are the solution's
    floating-point tensors, its other leaves pass through without derivatives. Under `vmap` the solver is called for
    one element after the other. Tensors the residual uses without being given them have derivatives by
    `backward` and `torch.autograd` only; those that `torch.func` differentiates or maps must be arguments. In a class
    solver and residual are methods: ``residual(self, x, a)``, ``solve(self, a)``. Autocast is off inside, so that
    features of an autocast encoder need a ``.float()``; around `backward`, where torch advises against it, it reaches
    the float32 products of the residual, like any others.

    Parameters
    ----------
    residual : result structured as the floating-point tensors of the solution, same shapes; zero at the solution, in
        differentiable PyTorch operations. Dictionaries are matched by key, in whatever order, named tuples and
        registered dataclasses by field, lists and tuples by position.
    derivative_order : derivatives are exact up to this order, wrong beyond. 1 halves the cost of a gradient.
    linear_solve : how systems with J are solved: `Dense` (default), `CG`, `NormalCG`, `GMRES`.
    tol : derivatives are as exact as the solution. Warn if its error, estimated by the length of a Newton step
        ‖J⁻¹r‖, is above tol·(1 + ‖x‖). None: no estimate, which saves a short solve with matrix-free methods.
    on_fail : "warn", "raise" or "ignore", where the solution or a linear solve is not exact to its tolerance.
    batched : the solver takes every tensor argument, and returns every tensor, with one leading batch dimension more
        than the residual sees, of size one without `vmap`; so a solver that vectorises needs no loop.
    solver_only : names of keyword arguments for the solver alone, on which the solution does not depend: a start, an
        iteration limit.

    Raises ValueError where the results of the functions given do not fit each other. Source: Krantz and Parks, The
    Implicit Function Theorem (2002); Blondel et al., Efficient and modular implicit differentiation (2022).
    """
    _check_callable("residual", residual)
    options = _Options(derivative_order, linear_solve or Dense(), tol, on_fail, batched, tuple(solver_only))
    return lambda solver: ImplicitFunction(solver, residual, _vector, options)


def fixed_point(
    map: Callable[..., Any],
    *,
    derivative_order: int = 2,
    linear_solve: LinearSolve | None = None,
    tol: float | None = 1e-3,
    on_fail: OnFail = "warn",
    batched: bool = False,
    solver_only: Sequence[str] = ("init",),
) -> Callable[[Solver], "ImplicitFunction"]:
    """Decorate a solver of x = ``map(x, *args, **kwargs)``: its result gets exact derivatives.

    dx = (I − ∂map/∂x)⁻¹ ∂map/∂args · dargs. The map need not be a contraction.

    >>> @il.implicit.fixed_point(lambda x, a: torch.cos(a * x))
    ... def solve(a):
    ...     x = torch.zeros_like(a)
    ...     for _ in range(100):
    ...         x = torch.cos(a * x)
    ...     return x
    >>> torch.func.grad(solve)(torch.tensor(1.0))
    tensor(-0.2975)

    Parameters
    ----------
    map : result structured as the floating-point tensors of the solution, same shapes. Everything else is as for
        `root`.

    Source: Krantz and Parks, The Implicit Function Theorem (2002); Blondel et al., Efficient and modular implicit
    differentiation (2022).
    """
    _check_callable("map", map)
    options = _Options(derivative_order, linear_solve or Dense(), tol, on_fail, batched, tuple(solver_only))
    return lambda solver: ImplicitFunction(solver, map, _difference, options)


# What a user's function says about the vector x of unknowns: (structure of x, x, args, kwargs) ↦ residual (d,).
_Residual = Callable[[Structure, Tensor, tuple[Any, ...], dict[str, Any]], Tensor]


def _gradient(objective: Callable[..., Tensor]) -> _Residual:
    def gradient(structure: Structure, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        def value(x: Tensor) -> Tensor:
            result = objective(structure.unflatten(x), *args, **kwargs)
            if not is_unknown(result) or result.shape != ():
                raise ValueError(
                    f"objective: given a result of {describe(result)}, expected a tensor of shape (), floating-point"
                )
            return result

        return torch.func.grad(value)(x)

    return gradient


def _vector(residual: Callable[..., Any]) -> _Residual:
    def vector(structure: Structure, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return structure.flatten_like("residual", residual(structure.unflatten(x), *args, **kwargs))

    return vector


def _difference(map: Callable[..., Any]) -> _Residual:
    def difference(structure: Structure, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return x - structure.flatten_like("map", map(structure.unflatten(x), *args, **kwargs))

    return difference


@dataclass(frozen=True)
class Info:
    """How exact a solution is, and with it its derivatives.

    Attributes
    ----------
    residual : (), or (b,) under `vmap`: ‖r(x)‖, for an argmin the norm of the gradient.
    error : the same shape, ‖J⁻¹r(x)‖, to first order the distance to the exact solution; for matrix-free methods to
        about a tenth. NaN where no derivative was asked for or tol is None. Derivatives are off by a multiple of it.
    linear : what linear solves achieved; it goes on counting when derivatives are taken.
    """

    residual: Tensor
    error: Tensor
    linear: LinearReport


@dataclass(frozen=True)
class _Options:
    derivative_order: int
    linear_solve: LinearSolve
    tol: float | None
    on_fail: OnFail
    batched: bool
    solver_only: tuple[str, ...]

    def __post_init__(self) -> None:
        arguments.integer("derivative_order", self.derivative_order, least=0)
        if not isinstance(self.linear_solve, LinearSolve):
            given = getattr(self.linear_solve, "__name__", repr(self.linear_solve))
            raise ValueError(f"linear_solve: given {given}, expected Dense(), CG(), NormalCG() or GMRES()")
        arguments.tolerance(self.tol)
        arguments.one_of("on_fail", self.on_fail, ON_FAIL)
        arguments.switch("batched", self.batched)


class ImplicitFunction:
    """A solver whose result has derivatives: called as the solver is. Made by `argmin`, `root`, `fixed_point`."""

    def __init__(
        self,
        solver: Solver,
        function: Callable[..., Any],
        as_residual: Callable[[Callable[..., Any]], _Residual],
        options: _Options,
    ) -> None:
        _check_callable("solver", solver)
        functools.update_wrapper(self, solver)
        self._solver = solver
        self._function = function
        self._as_residual = as_residual
        self._options = options
        self._name = getattr(solver, "__name__", type(solver).__name__)

    def __get__(self, instance: Any, owner: type | None = None) -> "ImplicitFunction":
        """In a class both solver and residual are methods."""
        if instance is None:
            return self
        solver, function = (types.MethodType(f, instance) for f in (self._solver, self._function))
        return ImplicitFunction(solver, function, self._as_residual, self._options)

    @entry
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The solution, differentiable."""
        return self.with_info(*args, **kwargs)[0]

    @entry
    def with_info(self, *args: Any, **kwargs: Any) -> tuple[Any, Info]:
        """The solution, differentiable, and how exact it is."""
        options = self._options
        alone = {name: value for name, value in kwargs.items() if name in options.solver_only}
        shared = {name: value for name, value in kwargs.items() if name not in options.solver_only}
        structure = Structure.of(self._solve_opaquely(args, shared, alone))
        arguments = Arguments.of(args, shared)
        x, parameters = structure.flat, [*arguments.tensors, *structure.constants]
        system = self._system(arguments, structure)
        r = system.residual(x, *parameters)
        report = LinearReport(name=self._name, on_fail=options.on_fail)
        step = None
        if options.derivative_order > 0 and x.numel() > 0 and is_differentiated([*parameters, r]):
            constants = [p.detach() for p in parameters]
            opaque(system.probe, [x, *constants], 0)
            solve = options.linear_solve.at(system, x, constants, report)
            if options.tol is not None:
                rough = options.linear_solve.roughly(system, x, constants, r.detach())
                step = solve(r.detach()) if rough is None else rough
            x = attach(
                x, lambda x: system.residual(x, *parameters), lambda d: solve(_finite(d)), options.derivative_order
            )
        residual, error = self._check(structure.flat, r.detach(), step)
        return structure.unflatten(x), Info(residual, error, report)

    def _solve_opaquely(self, args: tuple[Any, ...], shared: dict[str, Any], alone: dict[str, Any]) -> Any:
        """The solver's result, constant, whatever transforms the call is under."""
        given = Arguments.of(args, {**shared, **alone})
        found: list[tuple[list[Any], pytree.TreeSpec]] = []

        def run(tensors: list[Tensor]) -> list[Tensor]:
            plain, rest, spec = self._solve_each(given, tensors)
            found[:] = [(rest, spec)]
            return plain

        # Under `vmap` tensors are what carries the batch: there must be one.
        tensors = opaque(run, given.tensors or [torch.zeros((), device="cpu")], 0)
        rest, spec = found[0]
        remaining = iter(tensors)
        return pytree.tree_unflatten([next(remaining) if leaf is TENSOR else leaf for leaf in rest], spec)

    def _solve_each(self, given: Arguments, tensors: list[Tensor]) -> tuple[list[Tensor], list[Any], pytree.TreeSpec]:
        """Tensors of the results with one batch dimension, the leaves with `TENSOR` in their place, the structure."""
        if not given.tensors:
            tensors = []
        if self._options.batched:
            calls = [tensors]
        else:
            calls = [[t[i] for t in tensors] for i in range(len(tensors[0]) if tensors else 1)]
        # The solver may call backward, and may work in place: on copies.
        with torch.inference_mode(False), torch.enable_grad(), outsiders_named():
            results = []
            for call in calls:
                args, kwargs = given.rebuild(t.clone() for t in call)
                results.append(self._solver(*args, **kwargs))
            return self._collect(results, len(tensors[0]) if tensors else 1)

    def _collect(self, results: list[Any], size: int) -> tuple[list[Tensor], list[Any], pytree.TreeSpec]:
        leaves = [pytree.tree_flatten(result) for result in results]
        rest, spec = [TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves[0][0]], leaves[0][1]
        columns = list(zip(*(flat for flat, _ in leaves), strict=True)) if all(s == spec for _, s in leaves) else None
        if columns is None or any(not alike(column) for column in columns):
            raise ValueError("solver: given results that differ in structure or shape between elements, expected equal")
        return [self._stack(column, size) for column in columns if isinstance(column[0], Tensor)], rest, spec

    def _stack(self, column: tuple[Tensor, ...], size: int) -> Tensor:
        if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in column):
            raise RuntimeError("the solver's result is a functorch tensor")
        if not self._options.batched:
            return torch.stack([t.detach() for t in column])
        (tensor,) = column
        if tensor.shape[:1] != (size,):
            given = tuple(tensor.shape)
            raise ValueError(f"solver: given a result of shape {given}, expected ({size}, ...) as batched=True says")
        return tensor.detach().clone()

    def _system(self, arguments: Arguments, structure: Structure) -> System:
        n_arguments = len(arguments.tensors)
        of_vector = self._as_residual(self._function)

        def residual(x: Tensor, *parameters: Tensor) -> Tensor:
            args, kwargs = arguments.rebuild(parameters[:n_arguments])
            return of_vector(structure.with_constants(parameters[n_arguments:]), x, args, kwargs)

        def unflatten(v: Tensor, *parameters: Tensor) -> Any:
            return structure.with_constants(parameters[n_arguments:]).unflatten(v)

        return System(
            residual,
            self._as_residual is _gradient,
            unflatten,
            lambda tree: structure.flatten_like("preconditioner", tree),
            lambda *parameters: arguments.rebuild(parameters[:n_arguments]),
        )

    def _check(self, x: Tensor, r: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
        """‖r‖ and ‖step‖ per element, and a warning where they are too large."""

        def run(vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
            x, r, step = (v.detach() for v in vectors)
            size, residual, error = (torch.linalg.vector_norm(v, dim=-1) for v in (x, r, step))
            bad = ~(size.isfinite() & residual.isfinite())
            if bad.any():
                fail(
                    self._options.on_fail,
                    f"{self._name}: the solution, or the residual there, is not finite in {int(bad.sum())} of"
                    f" {len(bad)} elements; derivatives mean nothing. Likely causes: (a) the solver diverged;"
                    " (b) the arguments are not finite",
                )
            tol = self._options.tol
            if given and tol is not None and (off := ~bad & ~(error <= tol * (1 + size))).any():
                worst = float((error / (1 + size))[off].max())
                fail(
                    self._options.on_fail,
                    f"{self._name}: {int(off.sum())} of {len(off)} solutions are inexact, and so are their"
                    f" derivatives: estimated error {worst:.1e}·(1 + ‖x‖), tol {tol:.1e}. Likely causes: (a) the solver"
                    " stopped too early; (b) residual or objective differ from what the solver solves",
                )
            return residual, error if given else torch.full_like(error, torch.nan)

        given = step is not None
        return opaque(run, [x, r, step if step is not None else r], 0)


def _finite(difference: Tensor) -> Tensor:
    """Zero where r − r.detach() is not: a residual that is not finite must not spoil the value."""
    return torch.where(difference.isfinite(), difference, 0.0)


def _check_callable(name: str, function: Any) -> None:
    if not callable(function):
        raise ValueError(f"{name}: given {type(function).__name__}, expected a function")
