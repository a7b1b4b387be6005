"""What a solve returns: coefficients, their certificate, and a status whose members say what to do."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Literal

import torch
from torch import Tensor

OnFail = Literal["raise", "warn", "ignore"]
ON_FAIL = ("raise", "warn", "ignore")


class ConvergenceWarning(UserWarning):
    """Some elements of a batch have no certified solution; the result's ``status`` tells which and why."""


class ConvergenceError(RuntimeError):
    """The same, where ``on_fail="raise"``."""


class Status(IntFlag):
    """Flags per batch element; 0 is a clean success. An element has converged if neither of the first two is set."""

    ITERATION_LIMIT = 1
    NOT_FINITE = 2
    DEGENERATE = 4
    SINGULAR = 8

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
        "X or Y holds NaN or infinity: the coefficients of this element are NaN, its derivatives zero. Likely causes:"
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
}

UNCONVERGED = Status.ITERATION_LIMIT | Status.NOT_FINITE


@dataclass(frozen=True)
class Solution:
    """The minimiser of a batch of problems and its certificate.

    Only ``coef`` and ``intercept`` carry derivatives; everything else is a plain number about it.

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


def stack(solutions: Sequence[Solution]) -> Solution:
    """Several solutions of the same shapes as one, along a new first dimension."""
    fields: dict[str, Any] = {}
    for name in Solution.__dataclass_fields__:
        values = [getattr(solution, name) for solution in solutions]
        fields[name] = torch.stack(values) if isinstance(values[0], Tensor) else values[0]
    return Solution(**fields)


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
