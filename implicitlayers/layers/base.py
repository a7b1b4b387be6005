"""What all layers share: strengths, options, shapes. A subclass names its targets, its loss and its penalty."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import validation
from ..losses import Loss
from ..penalties import GroupL2, NoPenalty, Penalty
from ..problem import Problem
from ..solution import OnFail, Solution
from ..solve import Options, solve

Strength = float | Tensor


class ArgminLayer(nn.Module):
    """A layer whose output minimises: weighted mean loss + l1·Ω(W) + (l2/2)‖W‖².

    Every strength is a number ≥ 0, a tensor that broadcasts over the batch dimensions, or an ``nn.Parameter``.

    Parameters
    ----------
    tol : relative duality gap at which an element counts as converged; None: 1e-9 for float64, else 1e-6.
    max_iter : most iterations of the solver.
    on_fail : about elements that have not converged: "raise", "warn" or "ignore"; the status tells in any case.
    derivative_order : the order up to which derivatives are exact, and beyond which they are wrong; 0: no derivatives.
    """

    def __init__(
        self,
        *,
        tol: float | None = None,
        max_iter: int = 100,
        on_fail: OnFail = "warn",
        derivative_order: int = 2,
    ) -> None:
        super().__init__()
        validation.options(tol, max_iter, on_fail, derivative_order)
        self.options = Options(tol, max_iter, on_fail, derivative_order, type(self).__name__)
        self._strengths: list[str] = []

    def _set_strength(self, name: str, value: Strength, positive: bool = False) -> None:
        value = validation.strength(name, value, positive)
        self._strengths.append(name)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            # A buffer moves with the module, and is part of no state_dict: it is an argument, not learnt.
            self.register_buffer(name, value, persistent=False)
        else:
            setattr(self, name, value)

    def _solve(
        self,
        X: Tensor,
        Y: Tensor,
        loss: Callable[[torch.Size, dict[str, Tensor]], Loss],
        sample_weight: Tensor | None,
        init: Solution | None,
        others: dict[str, Tensor],
    ) -> Solution:
        """Broadcast everything over the batch and solve; Y is (..., n, k) in float64.

        ``loss(batch, strengths)`` makes the loss; ``others`` are tensors (..., anything) that take part in the batch.
        """
        n, m = X.shape[-2:]
        strengths = {name: self._strength(name, X.device) for name in self._strengths}
        shapes = {"X": X.shape[:-2], "Y": Y.shape[:-2]}
        if sample_weight is not None:
            validation.trailing("sample_weight", sample_weight, n, "sample")
            shapes["sample_weight"] = sample_weight.shape[:-1]
        shapes |= {name: value.shape for name, value in strengths.items()}
        shapes |= {name: value.shape[:-1] for name, value in others.items()}
        batch = validation.broadcast(shapes)
        strengths = {name: value.expand(batch) for name, value in strengths.items()}
        problem = Problem(
            X=X.expand(*batch, n, m),
            Y=Y.expand(*batch, n, Y.shape[-1]),
            weight=_normalised(sample_weight, X).expand(*batch, n),
            loss=loss(batch, strengths),
            penalty=self._penalty(strengths),
            l2=strengths.get("l2", torch.zeros(batch, dtype=torch.float64, device=X.device)),
        )
        start = None if init is None else init.dual.detach().to(torch.float64).expand(problem.Y.shape)
        return solve(problem, start, self.options)

    def _strength(self, name: str, device: torch.device) -> Tensor:
        return torch.as_tensor(getattr(self, name), dtype=torch.float64, device=device)

    def _penalty(self, strengths: dict[str, Tensor]) -> Penalty:
        """Group Lasso, unless l1 is the number zero."""
        l1 = getattr(self, "l1", 0.0)
        return GroupL2(strengths["l1"]) if isinstance(l1, Tensor) or l1 > 0 else NoPenalty()

    def extra_repr(self) -> str:
        """The strengths, and the options."""
        shown = [f"{name}={_short(getattr(self, name))}" for name in self._strengths]
        return ", ".join([*shown, *(f"{k}={v!r}" for k, v in self.options._asdict().items() if k != "name")])


def _short(value: Strength) -> str:
    return f"tensor{tuple(value.shape)}" if isinstance(value, Tensor) else f"{value:g}"


def _normalised(sample_weight: Tensor | None, X: Tensor) -> Tensor:
    """s/Σs (..., n); all zeros where there is no sample."""
    n = X.shape[-2]
    if sample_weight is None:
        return torch.full((n,), 1 / n, dtype=torch.float64, device=X.device)
    weight = sample_weight.to(torch.float64)
    total = weight.sum(-1, keepdim=True)
    return weight / torch.where(total == 0, 1.0, total)
