"""What a solve returns: coefficients, their certificate, and a status whose members say what to do."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

OnFail = Literal["raise", "warn", "ignore"]


class ConvergenceWarning(UserWarning):
    """Some elements of a batch have no certified solution; the result's ``status`` tells which and why."""


class ConvergenceError(RuntimeError):
    """The same, where ``on_fail="raise"``."""


class EmptySolutionWarning(UserWarning):
    """Derivatives are wanted and all are zero, because no element of the batch uses any feature: nothing can learn."""


class Status(IntFlag):
    """Flags per batch element; 0 is a clean success. An element has converged if neither of the first two is set."""

    ITERATION_LIMIT = 1
    NOT_FINITE = 2
    DEGENERATE = 4
    SINGULAR = 8
    EMPTY = 16

    @property
    def message(self) -> str:
        """What happened and what to do about it, likely causes first."""
        return "; ".join(_MESSAGES[flag] for flag in Status if flag in self) or "solved"


_MESSAGES = {
    Status.ITERATION_LIMIT: (
        "the duality gap is above tol when the solver stopped. Likely causes, in order: (a) l2, or l1, is very small"
        " for the scale of X: standardise the features or raise it; (b) max_iter is too small; (c) tol is below what"
        " the input's precision allows"
    ),
    Status.NOT_FINITE: (
        "X or Y holds NaN, infinity or a number beyond 1e70: the coefficients of this element are NaN, its derivatives"
        " zero. Likely causes:"
        " (a) a diverged encoder, so lower its learning rate; (b) missing values in the data"
    ),
    Status.DEGENERATE: (
        "the solution sits at a kink (a group at its threshold, or a tie between margins): derivatives are one-sided."
        " Perturb the strengths slightly if that matters"
    ),
    Status.SINGULAR: (
        "the optimality system is singular: derivatives are those of the minimum-norm solution. Likely causes:"
        " (a) duplicate samples or features; (b) fewer samples than features in the support and l2 = 0"
    ),
    Status.EMPTY: (
        "no feature is in use: coefficients are zero, and so are their derivatives. Likely causes: (a) l1 is at or"
        " above the layer's l1_max: lower it, scale the features up, or say l1=il.Relative(0.3); (b) X has nothing to"
        " do with Y, or Y is zero; (c) a constraint holds all coefficients at zero"
    ),
}

UNCONVERGED = Status.ITERATION_LIMIT | Status.NOT_FINITE


@dataclass(frozen=True, eq=False)
class Solution:
    """The minimiser of a batch of problems and its certificate.

    Only ``coef`` and ``intercept`` carry derivatives; everything else is a plain number about it. A copy, a pickle and
    what ``torch.save`` writes have none; ``torch.load`` reads that with ``weights_only=True``. Transforms of
    `torch.func` take and return solutions.

    Attributes:
        coef: (..., m, k), in the dtype of X.
        intercept: (..., k), or None where none was fitted.
        dual: (..., n, k), the dual point Θ that certifies ``coef``.
        objective: (...), P(coef).
        gap: (...), the relative duality gap (P(coef) − D(dual))/P(0), in float64, of the coefficients as returned.
        coef_error: (...), a bound on ‖coef − coef*‖: √(2(P − D)/l2), infinite where l2 = 0.
        derivative_error: (...), an estimate of the relative error of first derivatives; infinite until the gap
            certifies the support, where the optimality system is singular, and where it is a large one and was not
            made because nothing requires a derivative.
        status: (...), integer flags of `Status`; 0 is a clean success.
        n_iter: (...), the iterations each element took.
        solver: the name of the algorithm, one of `implicitlayers.solvers`.
    """

    coef: Tensor
    intercept: Tensor | None
    dual: Tensor
    objective: Tensor
    gap: Tensor
    coef_error: Tensor
    derivative_error: Tensor
    status: Tensor
    n_iter: Tensor
    solver: str

    @property
    def converged(self) -> Tensor:
        """True where the gap is within tol and the input was finite, (...)."""
        return (self.status & int(UNCONVERGED)) == 0

    @property
    def support(self) -> Tensor:
        """The features in use, those with a coefficient other than zero, boolean (..., m)."""
        return (self.coef != 0).any(-1)

    def predict(self, X: Tensor) -> Tensor:
        """Scores of new samples: X (..., n', m) to (..., n', k)."""
        scores = X @ self.coef
        return scores if self.intercept is None else scores + self.intercept[..., None, :]

    def detach(self) -> "Solution":
        """The same without derivatives."""
        return self._each(Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> "Solution":
        """On another device, or with ``coef``, ``intercept`` and ``dual`` in another dtype; arguments of `Tensor.to`.

        The certificate stays in float64, and that of the coefficients before they were rounded to that dtype.
        """
        moved = {name: t.to(*args, **kwargs) for name, t in self._tensors().items() if name in _OF_DTYPE}
        device = moved["coef"].device
        return self._with({name: t.to(device) for name, t in self._tensors().items()} | moved)

    def __getitem__(self, index: Any) -> "Solution":
        """Some elements of the batch, as a tensor (...) is indexed: one of a `path`, or those that have converged."""
        batch = self.status.shape
        at = torch.arange(self.status.numel(), device=self.status.device).reshape(batch)[index]
        return self._each(lambda t: t.reshape(-1, *t.shape[len(batch) :])[at])

    def __iter__(self) -> Any:
        """Over the first dimension of the batch."""
        if not self.status.dim():
            raise TypeError("a solution of one problem has no elements to iterate over; its coefficients are .coef")
        return (self[i] for i in range(len(self.status)))

    def __repr__(self) -> str:
        """A summary: shape, convergence, worst gap, features in use."""
        name, dtype = type(self).__name__, str(self.coef.dtype).removeprefix("torch.")
        head = f"{name}: coef {tuple(self.coef.shape)} {dtype}, by {self.solver}"
        if self.status.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(self.status):
            return f"{head}, values not known here"
        return "\n  ".join([head, *_summary(self.detach())])

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and saved: numbers. A copy of a graph would not lead back to what it came from."""
        return dict(vars(self.detach()))

    def _tensors(self) -> dict[str, Tensor]:
        """The fields that hold one, by name; a transform may have put something else there."""
        return {name: value for name, value in vars(self).items() if name != "solver" and value is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Solution":
        """With every tensor changed."""
        return self._with({name: change(t) for name, t in self._tensors().items()})

    def _with(self, tensors: dict[str, Any]) -> "Solution":
        """With other tensors in some fields."""
        return replace(self, **tensors)


# What is in the dtype of X; the certificate is not.
_OF_DTYPE = ("coef", "intercept", "dual")


def _flatten(solution: Solution) -> tuple[list[Tensor], Any]:
    tensors = solution._tensors()
    return list(tensors.values()), (tuple(tensors), solution.intercept is None, solution.solver)


def _unflatten(tensors: Any, context: Any) -> Solution:
    names, no_intercept, solver = context
    rest: dict[str, Any] = {"intercept": None} if no_intercept else {}
    return Solution(**dict(zip(names, tensors, strict=True)), **rest, solver=solver)


# Transforms take solutions apart, and `torch.load` trusts what is nothing but tensors and a name.
pytree.register_pytree_node(Solution, _flatten, _unflatten)
torch.serialization.add_safe_globals([Solution])


def _summary(solution: Solution) -> list[str]:
    """Lines about a batch whose values may be looked at: how many converged, why others did not, what is in use."""
    status = solution.status.flatten().cpu()
    count, n_features = len(status), solution.coef.shape[-2]
    if not count:
        return ["no problem at all"]
    gap = solution.gap.flatten()
    known = gap[~gap.isnan()]
    worst = f"{float(known.amax()):.1e}" if len(known) else "nan"
    lines = [
        f"converged: {int(solution.converged.sum())} of {count}, worst gap {worst}",
        f"features in use: {_range(solution.support.sum(-1))} of {n_features}",
        f"iterations: {_range(solution.n_iter)}",
    ]
    for flag in Status:
        flagged = (status & int(flag)).nonzero().flatten()
        if len(flagged):
            first = torch.unravel_index(flagged[0], solution.status.shape)
            where = f", first at [{', '.join(str(int(i)) for i in first)}]" if first else ""
            lines.append(f"{flag.name}: {len(flagged)} of {count}{where}: {flag.message.partition('. ')[0]}")
    return lines


def _range(numbers: Tensor) -> str:
    low, high = int(numbers.amin()), int(numbers.amax())
    return str(low) if low == high else f"{low} to {high}"


def stack(solutions: Sequence[Solution]) -> Solution:
    """Several solutions of the same shapes as one, along a new first dimension."""
    columns = zip(*(solution._tensors().values() for solution in solutions), strict=True)
    return solutions[0]._with(dict(zip(solutions[0]._tensors(), map(torch.stack, columns), strict=True)))


def report_failures(status: Tensor, on_fail: OnFail, layer: str) -> None:
    """Raise, warn or stay silent about the elements that have not converged; ``status`` is flat."""
    failed = (status & int(UNCONVERGED)).nonzero().flatten()
    if on_fail == "ignore" or not len(failed):
        return
    flags = Status(int(status[failed[0]])) & UNCONVERGED
    message = f"{layer}: {len(failed)} of {len(status)} elements have not converged; the first is {int(failed[0])}: "
    if on_fail == "raise":
        raise ConvergenceError(message + flags.message)
    warnings.warn(message + flags.message, ConvergenceWarning, stacklevel=2)


def report_empty(status: Tensor, learnable: Tensor, on_fail: OnFail, layer: str) -> None:
    """Warn where derivatives are wanted and all are zero because no element uses a feature; ``status`` is flat.

    Single tasks without a feature are part of a life with l1; and where nothing is ``learnable``, P(0) being zero, zero
    is the answer.
    """
    empty = (status & int(Status.EMPTY)) != 0
    dead = empty | ((status & int(Status.NOT_FINITE)) != 0)
    if on_fail != "ignore" and dead.all() and (empty & learnable).any():
        # Without numbers, so that Python says it once, and not at every step.
        warnings.warn(f"{layer}: {Status.EMPTY.message}", EmptySolutionWarning, stacklevel=2)
