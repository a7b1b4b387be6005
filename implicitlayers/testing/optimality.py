"""Whether a layer's output minimises what it should, and whether what it says about itself is true."""

import torch
from torch import Tensor

from . import improvement
from .example import Example
from .failures import failure, reproducible
from .feasibility import true_gap
from .named import Named
from .subject import Answer, Subject


@reproducible
def check_optimal(subject: Subject, example: Example) -> float:
    """The coefficients are finite, within the constraints, and optimal: by their duality gap and by the distance of 0
    from the subdifferential, both computed from the problem alone.

    For a user's own objective, known by its values only, by a search for anything better.

    Args:
        subject: what is tested.
        example: any leading dimensions.

    Returns:
        The largest relative gap, or relative improvement found.

    Raises:
        AssertionError: they are not.
    """
    answer = subject.answer(example)
    _check_shape(subject, example, answer)
    _check_finite(answer)
    problem = subject.objective
    if not isinstance(problem, Named):
        return _check_no_improvement(subject, example, answer)
    scale = float(answer.W.abs().max().clamp_min(1e-300))
    outside = float(problem.infeasibility(example, answer.coefficients).max()) / scale
    if outside > subject.tol:
        raise failure(
            "coefficients within the constraints",
            f"a violation of {outside:.1e} of the largest coefficient",
            "the iterate is returned before its projection; or more features are in use than allowed",
        )
    gap = problem.gap(example, answer.coefficients, answer.finite_dual)
    worst = float(gap.max())
    if not worst <= subject.tol:
        raise failure(
            f"a relative duality gap of at most {subject.tol:.0e}",
            f"{worst:.1e}{_where(gap)}, an objective of"
            f" {_at_worst(problem.value(example, answer.coefficients), gap):.6g}",
            _cause(subject, example, answer),
        )
    if problem.n_nonzero is None and (problem.smooth or answer.dual is not None):
        distance, unit = problem.subdifferential_distance(example, answer.coefficients, answer.finite_dual)
        share = float((distance / unit.clamp_min(1e-300)).max())
        # At the rounding of float64 the square of a distance tells nothing any more.
        if not share <= max(2 * subject.tol**0.5, 1e-7):
            raise failure(
                f"0 within {2 * subject.tol**0.5:.0e} of the subdifferential, what a gap of {subject.tol:.0e} implies",
                f"{share:.1e}",
                "the objective and its gradient belong to different problems; or a dual point that is not the layer's",
            )
    return worst


@reproducible
def check_certificate(subject: Subject, example: Example) -> None:
    """What a layer says about itself is true: its gap is one that float64 confirms, "converged" means a gap below tol.

    Outside the constraints a gap is infinite.

    For layers with a method ``solve`` whose result has a ``gap`` or ``converged``.

    Raises:
        AssertionError: it claims more than it has.
    """
    check_claims(subject, example, subject.answer(example))


def check_claims(subject: Subject, example: Example, answer: Answer) -> None:
    """The same of an answer that is at hand."""
    problem = subject.objective
    assert isinstance(problem, Named)
    true = true_gap(problem, example, answer)
    if answer.gap is not None:
        claimed = answer.gap.to(torch.float64)
        # Infinite where infinity is claimed: nothing is short of that.
        short = (true - claimed - 0.1 * claimed.abs() - 1e-12).nan_to_num(-torch.inf, torch.inf)
        if float(claimed.min()) < 0 or float(short.max()) > 0.1 * subject.tol:
            raise failure(
                "a reported gap that its coefficients and dual point confirm, and that is never negative",
                f"{_at_worst(claimed, short):.1e} reported, {_at_worst(true, short):.1e} computed{_where(short)}",
                "the gap is taken at a dual point that is not feasible, or of coefficients other than those returned",
            )
    if answer.converged is not None:
        wrong = answer.converged & ~(true <= subject.tol)
        if bool(wrong.any()):
            raise failure(
                f'"converged" only at a gap of at most {subject.tol:.0e}',
                f'"converged" at {float(true[wrong].max()):.1e}',
                "convergence is judged by the change between iterations, or by a gap that is not one",
            )


def _check_shape(subject: Subject, example: Example, answer: Answer) -> None:
    W = answer.coefficients[0] if isinstance(answer.coefficients, tuple) else answer.coefficients
    expected = (*example.batch, example.X.shape[-1])
    if not isinstance(W, Tensor) or tuple(W.shape[:-1]) != expected:
        given = tuple(W.shape) if isinstance(W, Tensor) else type(W).__name__
        raise failure(f"coefficients of shape {(*expected, 'k')}", f"{given}", "W is transposed, or a squeeze too many")


def _check_finite(answer: Answer) -> None:
    if not bool(answer.W.isfinite().all()):
        raise failure(
            "finite coefficients from finite input",
            f"{int((~answer.W.isfinite()).sum())} entries that are NaN or infinite",
            "a division by the norm of a zero group or column, or a matrix without inverse",
        )


def _check_no_improvement(subject: Subject, example: Example, answer: Answer) -> float:
    found = improvement.search(subject.objective, example, answer.coefficients)
    if not found <= subject.tol:
        raise failure(
            f"no point better than the layer's by more than {subject.tol:.0e} of the objective at zero",
            f"one that is better by {found:.1e}",
            "the layer minimises another objective (a factor of n or 2?), or stops early",
        )
    return found


def _cause(subject: Subject, example: Example, answer: Answer) -> str:
    """The usual suspects, tried one by one: strengths off by a factor."""
    problem = subject.objective
    assert isinstance(problem, Named)
    n = example.X.shape[-2]
    for factor, what in (
        (2.0, "2"),
        (0.5, "1/2"),
        (float(n), "n"),
        (1 / n, "1/n"),
        (2.0 * n, "2n"),
        (0.5 / n, "1/(2n)"),
    ):
        names = [name for name in example.strengths if name in ("l1", "l2", "group_l1")]
        other = example.with_strengths(**{name: example.strengths[name] * factor for name in names})
        if (
            names
            and factor != 1
            and float(problem.gap(other, answer.coefficients, answer.finite_dual).max()) <= subject.tol
        ):
            return (
                f"the layer solves the problem with all strengths times {what}: a mean for a sum, ½ left out, or twice"
            )
    return "the solver stops early; or a threshold has the wrong sign or size; or the problem is another"


def _at_worst(values: Tensor, by: Tensor) -> float:
    return float(values.flatten()[by.flatten().argmax()])


def _where(gap: Tensor) -> str:
    return "" if gap.dim() == 0 else f" in element {int(gap.flatten().argmax())} of the batch"
