"""What all layers share: strengths, options, shapes. A subclass names its targets, its loss and its penalty."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import ambient, arguments, solvers, validation
from ..losses import Loss, Squared
from ..penalties import Penalty
from ..problem import Problem
from ..relative import Relative, short
from ..solution import ON_FAIL, OnFail, Solution
from ..solve import Options, solve
from ..solvers import Start
from ..validation import AT_LEAST_ZERO, Range
from . import intercept

Strength = float | Tensor
Coefficients = Tensor | tuple[Tensor, Tensor]


class Data(NamedTuple):
    """A layer's inputs over one batch: X (..., n, m), Y (..., n, k), ``weight`` (..., n) with sum one, ``class_mask``
    (..., k) or None, and the strengths by name, (...); ``zero`` names those that are the number 0, not a tensor.
    """

    X: Tensor
    Y: Tensor
    weight: Tensor
    class_mask: Tensor | None
    strengths: dict[str, Tensor]
    zero: frozenset[str]


class ArgminLayer(nn.Module):
    """A layer whose output minimises: weighted mean loss + penalty + (l2/2)‖W‖².

    Every strength is a number ≥ 0, a tensor that broadcasts over the batch dimensions, or an ``nn.Parameter``; ``l1``
    may also be `Relative`. Strengths are part of the batch: with a tensor (10,) a layer solves ten problems, one for
    each of its entries, and returns ten solutions, for an X without batch dimensions too. Strengths and options may be
    set later, ``layer.l1 = 0.2``; they are checked whenever the layer is called.

    Args:
        fit_intercept: whether to add an unpenalised constant b (k) to the scores; the layer then returns (W, b).
        tol: relative duality gap at which an element counts as converged; None: 1e-9 for float64, 1e-6 for float32, and
            8·eps for shorter dtypes, which rounding the coefficients can cost; they are solved as float32 is.
        max_iter: most iterations of the solver: Newton steps, or, of `working_set` and `proximal_point`, proximal
            steps of a few Newton steps each.
        on_fail: about elements that have not converged: "raise", "warn" or "ignore"; the status tells in any case.
        derivative_order: the order up to which derivatives are exact, and beyond which they are wrong; 0: none.
        solver: the algorithm by its name in `implicitlayers.solvers`; None: the one that suits the problem's shape.
            ``Solution.solver`` tells which one it was.
        time_limit: seconds after which the search for a batch ends, with what was found, its gap, and ITERATION_LIMIT
            where that is above ``tol``; None: none. The certificate, and what derivatives need, are made after it.
        threads: how many threads of the processor a solve may use; None: one for small problems, which gain nothing by
            more, and as many as torch uses otherwise. Neither torch's own number nor other Python threads are touched.
    """

    def __init__(
        self,
        *,
        fit_intercept: bool = False,
        tol: float | None = None,
        max_iter: int = 100,
        on_fail: OnFail = "warn",
        derivative_order: int = 2,
        solver: str | None = None,
        time_limit: float | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.on_fail = on_fail
        self.derivative_order = derivative_order
        self.solver = solver
        self.time_limit = time_limit
        self.threads = threads
        self._allowed: dict[str, Range] = {}
        ArgminLayer._check(self)

    @property
    def options(self) -> Options:
        """How problems are to be solved, as the layer's attributes say now; raises ValueError where these are none."""
        arguments.one_of("on_fail", self.on_fail, ON_FAIL)
        if self.solver is not None:
            arguments.one_of("solver", self.solver, solvers.NAMES, ", or None for the one that suits the problem")
        return Options(
            tol=arguments.tolerance(self.tol, "None for a default by dtype"),
            max_iter=arguments.integer("max_iter", self.max_iter, least=1),
            on_fail=self.on_fail,
            derivative_order=arguments.integer("derivative_order", self.derivative_order, least=0),
            solver=self.solver,
            time_limit=arguments.seconds("time_limit", self.time_limit),
            threads=validation.threads(self.threads),
            name=type(self).__name__,
        )

    def _check(self) -> None:
        """Raise ValueError for options that the layer does not take, at construction, and in case they were set since.

        A subclass extends it by what it asks of its own attributes, and calls it when it has set them.
        """
        arguments.switch("fit_intercept", self.fit_intercept)
        _ = self.options

    def _set_strength(self, name: str, value: Strength | Relative, allowed: Range = AT_LEAST_ZERO) -> None:
        value = _checked(name, value, allowed)
        self._allowed[name] = allowed
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            # A buffer moves with the module, and is part of no state_dict: it is an argument, not learnt.
            self.register_buffer(name, value, persistent=False)
        else:
            setattr(self, name, value)

    @abstractmethod
    def _loss(self, data: Data) -> Loss:
        """The loss, its tensors over the batch."""

    @abstractmethod
    def _penalty(self, data: Data) -> Penalty:
        """The penalty, its tensors over the batch."""

    @abstractmethod
    def _targets(self, X: Tensor, Y: Tensor) -> Tensor:
        """Y checked and encoded, (..., n, k) in float64."""

    def _weights(self) -> dict[str, Tensor]:
        """What the layer holds besides strengths, (..., size) by name: numbers ≥ 0 over the batch."""
        return {}

    def _solution(
        self,
        X: Tensor,
        Y: Tensor,
        sample_weight: Tensor | None = None,
        class_mask: Tensor | None = None,
        init: Solution | None = None,
        warn_empty: bool = True,
        **replaced: Tensor,
    ) -> Solution:
        """Solve; ``replaced`` holds strengths to use instead of the layer's own."""
        data = self._data(X, Y, sample_weight, class_mask, **replaced)
        loss = self._loss(data)
        if not self.fit_intercept:
            return self._solved(data, loss, init, X.dtype, warn_empty)
        if isinstance(loss, Squared):
            means, data = intercept.centred(data)
            return intercept.from_means(self._solved(data, loss, init, X.dtype, warn_empty), means)
        means, data = intercept.centred_features(data)
        init = None if init is None else intercept.centred_start(init, means)
        return intercept.split(self._solved(data, loss, init, X.dtype, warn_empty, augment=True), means)

    def _solved(
        self,
        data: Data,
        loss: Loss,
        init: Solution | None,
        dtype: torch.dtype,
        warn_empty: bool,
        augment: bool = False,
    ) -> Solution:
        no_ridge = torch.zeros_like(data.weight[..., 0])
        l2 = data.strengths.get("l2", no_ridge)
        problem = Problem(data.X, data.Y, data.weight, loss, self._penalty(data), l2)
        if augment:
            problem = intercept.augmented(problem)
        start = None if init is None else self._start(init, problem)
        return solve(problem, start, self.options, dtype, warn_empty)

    def _start(self, init: Solution, problem: Problem) -> Start:
        """A previous solution as plain tensors; what was not finite there starts from zero."""
        if not isinstance(init, Solution):
            raise ValueError(
                f"init: given {type(init).__name__}, expected a Solution, what layer.solve returns: its dual point is"
                " half of a start"
            )
        coef = init.coef if init.intercept is None else torch.cat([init.coef, init.intercept[..., None, :]], -2)
        coef = coef if coef.shape[-2] == problem.X.shape[-1] else init.coef
        shapes = {"coef": (*problem.X.shape[:-2], problem.X.shape[-1], problem.Y.shape[-1]), "dual": problem.Y.shape}
        tensors = []
        for name, tensor in {"coef": coef, "dual": init.dual}.items():
            try:
                expanded = tensor.detach().to(problem.X.device, torch.float64).expand(shapes[name])
            except RuntimeError:
                raise ValueError(
                    f"init: given a solution with {name} of shape {tuple(tensor.shape)}, expected one that broadcasts"
                    f" to {tuple(shapes[name])}"
                ) from None
            tensors.append(torch.where(expanded.isfinite(), expanded, 0.0))
        return Start(*tensors)

    def _data(
        self,
        X: Tensor,
        Y: Tensor,
        sample_weight: Tensor | None = None,
        class_mask: Tensor | None = None,
        **replaced: Tensor,
    ) -> Data:
        """Check everything and broadcast it over the batch; raises ValueError where that fails."""
        self._check()
        validation.features(X)
        Y = self._targets(X, Y)
        n, m, k = *X.shape[-2:], Y.shape[-1]
        own = {name: _checked(name, getattr(self, name), allowed) for name, allowed in self._allowed.items()}
        values = own | replaced
        for name, value in values.items():
            if isinstance(share := getattr(value, "r", value), Tensor):
                validation.dense(name, share)
        strengths = {name: _tensor(value, X.device) for name, value in values.items()}
        shapes = {"X": X.shape[:-2], "Y": Y.shape[:-2]}
        if sample_weight is not None:
            validation.trailing("sample_weight", sample_weight, n, "sample")
            validation.dense("sample_weight", sample_weight, X.device)
            shapes["sample_weight"] = sample_weight.shape[:-1]
        if class_mask is not None:
            validation.mask("class_mask", class_mask, k, "class")
            validation.dense("class_mask", class_mask, X.device)
            shapes["class_mask"] = class_mask.shape[:-1]
        shapes |= {name: value.shape for name, value in strengths.items()}
        weights = self._weights()
        for name, value in weights.items():
            validation.dense(name, value)
        shapes |= {name: value.shape[:-1] for name, value in weights.items()}
        batch = validation.broadcast(shapes)
        if sample_weight is not None:
            weights = weights | {"sample_weight": sample_weight}
        tensors = {name: strengths[name] for name, value in values.items() if not isinstance(value, float)}
        validation.values(tensors | weights, self._allowed)
        data = Data(
            X=X.expand(*batch, n, m),
            Y=Y.expand(*batch, n, k),
            weight=_normalised(sample_weight, X).expand(*batch, n),
            class_mask=None if class_mask is None else class_mask.expand(*batch, k),
            strengths={name: value.expand(batch) for name, value in strengths.items()},
            zero=frozenset(name for name, value in values.items() if isinstance(value, float) and value == 0),
        )
        return self._resolved(data, values)

    def _resolved(self, data: Data, values: Mapping[str, Any]) -> Data:
        """With `Relative` strengths multiplied out; only sparse layers take any."""
        return data

    def extra_repr(self) -> str:
        """The strengths, and the options."""
        shown = [f"{name}={_short(getattr(self, name))}" for name in self._allowed]
        options = ("fit_intercept", *(name for name in Options._fields if name != "name"))
        return ", ".join([*shown, *(f"{name}={getattr(self, name)!r}" for name in options)])


def _checked(name: str, value: Strength | Relative, allowed: Range) -> Any:
    """A strength that may be what it is: a float, a tensor whose values are yet to be looked at, or `Relative`."""
    if not isinstance(value, Relative):
        return validation.strength(name, value, allowed)
    if name != "l1":
        raise ValueError(f"{name}: given {value}, expected a number or a tensor: only l1 can be Relative")
    validation.strength("r", value.r)
    return value


def returned(solution: Solution) -> Coefficients:
    """What calling a layer returns: W, or (W, b)."""
    return solution.coef if solution.intercept is None else (solution.coef, solution.intercept)


def _tensor(value: Any, device: torch.device) -> Tensor:
    number = value.r if isinstance(value, Relative) else value
    return ambient.ordinary(torch.as_tensor(number, dtype=torch.float64, device=device))


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, Relative) else short(value)


def _normalised(sample_weight: Tensor | None, X: Tensor) -> Tensor:
    """s/Σs (..., n); all zeros where there is no sample."""
    n = X.shape[-2]
    if sample_weight is None:
        return torch.full((n,), 1 / n, dtype=torch.float64, device=X.device)
    weight = sample_weight.to(torch.float64)
    # Beside the largest no sum overflows; a constant factor changes nothing, derivatives included.
    largest = weight.detach().amax(-1, keepdim=True)
    weight = weight / torch.where(largest == 0, 1.0, largest)
    total = weight.sum(-1, keepdim=True)
    return weight / torch.where(total == 0, 1.0, total)
