"""From a problem to a solution: solve opaquely, certify what is returned, attach derivatives."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from . import ambient, implicit, solvers, validation
from .features import Features
from .finite import finite_elements, underflows, zeroed
from .optimality import System
from .penalties import Partly
from .problem import Problem, relative
from .solution import OnFail, Solution, Status, report_empty, report_failures
from .solvers import clock
from .solvers.result import Result

# Entries of X, over the batch, up to which it is converted to float64 as a whole.
WHOLE_UP_TO = 2**20
# P(0), as a share of the targets' mean square, that is the square of a rounding error.
ROUNDED = 1e-28


# Rounding the coefficients to a dtype moves the relative gap by a multiple of its eps where the objective has a kink,
# or a bound, at the solution: by .2 on generic problems of every layer, by 2.5 on SVMs whose features are alike.
ROUNDINGS = 8


class Options(NamedTuple):
    """How a layer wants its problems solved; ``tol`` None means what the dtype allows (see `tolerance`), ``solver``
    None the one that suits the shape.
    """

    tol: float | None
    max_iter: int
    on_fail: OnFail
    derivative_order: int
    solver: str | None
    time_limit: float | None
    name: str
    threads: int | None

    def tolerance(self, dtype: torch.dtype) -> float:
        """The relative duality gap at which an element counts as converged.

        By default 1e-9 for float64, 1e-6 for float32, and for shorter dtypes 8 times their eps: .0625 for bfloat16,
        .0078 for float16. No rounded coefficients can be sure of less.
        """
        return self.tol if self.tol is not None else max(self.goal(dtype), ROUNDINGS * torch.finfo(dtype).eps)

    def goal(self, dtype: torch.dtype) -> float:
        """That which a solver is asked for, before its coefficients are rounded."""
        return self.tol if self.tol is not None else 1e-9 if dtype == torch.float64 else 1e-6

    def threads_for(self, X: Tensor) -> int | None:
        """How many threads problems with the features X (..., n, m) get: None for as many as torch uses."""
        return self.threads or ambient.suited(X)


class _Constants(NamedTuple):
    """What the opaque part returns: the solution as numbers, and the optimality system to differentiate."""

    coef: Tensor
    theta: Tensor
    objective: Tensor
    gap: Tensor
    coef_error: Tensor
    derivative_error: Tensor
    status: Tensor
    n_iter: Tensor
    finite: Tensor
    features: Features
    system: System
    state: Tensor


def solve(
    problem: Problem, start: solvers.Start | None, options: Options, dtype: torch.dtype, warn_empty: bool = True
) -> Solution:
    """Solve a batch of problems with any leading dimensions.

    ``problem.X`` may be of any floating dtype, its other tensors are float64. The coefficients come back in ``dtype``,
    and it is these, rounded, that the gap certifies. ``warn_empty``: whether it is worth a word that derivatives are
    asked for and no feature is in use.
    """
    batch = problem.l2.dim()
    solver = validation.solver(options.solver, solvers.candidates(problem), options.name)
    options = options._replace(solver=solver)
    tree = (problem,) if start is None else (problem, start)
    differentiated = options.derivative_order > 0 and implicit.is_differentiated(problem)
    learning = warn_empty and differentiated and implicit.is_learnt((problem.X, problem.penalty, problem.l2))
    solved = partial(_solve_opaquely, options=options, dtype=dtype, differentiated=differentiated, learning=learning)

    def run(tree: tuple[Problem] | tuple[Problem, solvers.Start]) -> _Constants:
        with ambient.threads(options.threads_for(tree[0].X)):
            return solved(*tree)

    constants: _Constants = implicit.opaque(run, tree, batch)
    coef = constants.coef
    if differentiated:
        attached = partial(_attached, order=options.derivative_order, dtype=coef.dtype)
        known = (problem, constants.finite, constants.features, constants.system, constants.state)
        coef = implicit.with_derivatives(coef, attached, known, options.threads_for(problem.X))
    return Solution(
        coef=coef,
        intercept=None,
        dual=constants.theta,
        objective=constants.objective,
        gap=constants.gap,
        coef_error=constants.coef_error,
        derivative_error=constants.derivative_error,
        status=constants.status,
        n_iter=constants.n_iter,
        solver=solver,
    )


def _solve_opaquely(
    problem: Problem,
    start: solvers.Start | None = None,
    *,
    options: Options,
    dtype: torch.dtype,
    differentiated: bool,
    learning: bool = False,
) -> _Constants:
    if not len(problem.X):
        one = _solve_opaquely(_one_for_none(problem), options=options, dtype=dtype, differentiated=differentiated)
        return pytree.tree_map(lambda t: t[:0], one)
    tol = options.tolerance(dtype)
    validation.classes(problem)
    finite = finite_elements(problem.X, problem.Y)
    clean = _clean(problem, finite)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    assert options.solver is not None
    limits = solvers.Limits(options.goal(dtype), options.max_iter, precision, differentiated)
    with clock.limited(options.time_limit):
        result = solvers.solve(clean, start, options.solver, limits)
    # What is certified is what is returned: the coefficients after rounding to the dtype of X.
    coef = result.coef.to(dtype)
    gap, objective, bound = _certified(clean, coef, result)
    null = clean.null_objective()
    # The ones of an intercept, the last column, have no units.
    features = clean.X[..., :-1] if isinstance(clean.penalty, Partly) else clean.X
    measurable = finite & ~underflows(features, clean.Y, clean.l2)
    relative_gap = torch.where(measurable, relative(gap, null), torch.nan)
    status = _status(finite, relative_gap <= tol, result)
    report_failures(status, options.on_fail, options.name)
    if learning:
        # Targets that an intercept alone explains leave rounding behind, in which there is nothing to learn.
        squares = (clean.weight[..., None] * clean.Y.square()).sum((-2, -1))
        report_empty(status, objective > ROUNDED * squares, options.on_fail, options.name)
    theta = result.theta
    if not finite.all():
        shown = finite[:, None, None]
        coef, theta = torch.where(shown, coef, torch.nan), torch.where(shown, theta, torch.nan)
        objective, bound = torch.where(finite, objective, torch.nan), torch.where(finite, bound, torch.nan)
    return _Constants(
        coef=coef,
        theta=theta.to(dtype),
        objective=objective,
        gap=relative_gap,
        coef_error=bound,
        derivative_error=torch.where(finite & (relative_gap <= tol), result.derivative_error, torch.inf),
        status=status,
        n_iter=result.n_iter,
        finite=finite,
        features=result.features,
        system=result.system,
        state=result.state,
    )


def _status(finite: Tensor, reached: Tensor, result: Result) -> Tensor:
    """The flags of each element, (b,); where it is not finite there is nothing else to say."""
    flags = {
        Status.ITERATION_LIMIT: ~reached,
        Status.DEGENERATE: result.degenerate,
        Status.SINGULAR: result.singular,
        Status.EMPTY: torch.zeros_like(finite) if result.empty is None else result.empty,
    }
    status = int(Status.NOT_FINITE) * ~finite
    for flag, here in flags.items():
        status = status + int(flag) * (finite & here)
    return status


def _one_for_none(problem: Problem) -> Problem:
    """A batch of one trivial problem, of the shapes of an empty batch: what its result is made of is not looked at."""
    ones = pytree.tree_map(lambda t: t.new_ones(1, *t.shape[1:]), problem)
    first = torch.arange(problem.Y.shape[-1], device=problem.Y.device) == 0
    return ones._replace(Y=ones.Y * first)


def _certified(problem: Problem, coef: Tensor, result: Result) -> tuple[Tensor, Tensor, Tensor]:
    """P − (a lower bound on the optimum), P, and a bound on ‖coef − coef*‖; without convexity no distance is known.

    ``coef`` is rounded to the dtype of X, and outside a constraint by that much at most.
    """
    precision, coef = coef.dtype, coef.to(torch.float64)
    Z = problem.sparse_scores(coef)
    objective = problem.objective(coef, Z)
    if result.lower is not None:
        gap = (objective - result.lower).clamp_min(0)
        return gap, objective, torch.full_like(gap, torch.inf)
    gap = problem.gap(coef, result.theta, Z, result.V, precision)
    bound = torch.where(problem.l2 > 0, (2 * gap / torch.where(problem.l2 > 0, problem.l2, 1.0)).sqrt(), torch.inf)
    return gap, objective, bound


def _attached(known: tuple[Problem, Tensor, Features, System, Tensor], order: int, dtype: torch.dtype) -> Tensor:
    """The coefficients as a differentiable function of the problem's tensors."""
    problem, finite, features, system, state = known
    small = problem.restrict(features, dtype=None)
    coef = features.put(system.attach(_clean(small, finite), state, order), problem.X.shape[-1])
    return zeroed(coef, finite).to(dtype)


def _clean(problem: Problem, finite: Tensor) -> Problem:
    """Zeros for elements with NaN or infinities.

    X becomes float64 where that is cheap; a large one stays as it is, and products with it convert it in parts. Forward
    mode and transforms differentiate ordinary operations only, and backward passes of float32 are within the reach of
    autocast: there it becomes float64 too.
    """
    X, Y = zeroed(problem.X, finite), zeroed(problem.Y, finite)
    if X.numel() <= WHOLE_UP_TO or (implicit.is_differentiated(X) and not implicit.is_reverse_only(X)):
        X = X.to(torch.float64)
    elif X.dtype in (torch.float16, torch.bfloat16):
        X = X.to(torch.float32)
    return problem._replace(X=X, Y=Y)
