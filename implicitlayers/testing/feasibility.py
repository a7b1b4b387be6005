"""Whether a layer keeps the constraints of its problem; what is outside them certifies nothing, whatever its gap."""

import torch
from torch import Tensor

from .example import Example
from .failures import failure, reproducible
from .named import Named
from .scaling import coefficient_size
from .subject import Answer, Subject
from .terms import Coefficients

# Roundings, in units of the dtype's, that a constraint on one feature may be off.
ROUNDINGS = 4


@reproducible
def check_feasible(subject: Subject, example: Example) -> int:
    """The coefficients are within the constraints, up to the rounding of their dtype: also where nothing is to be
    fitted, because the targets are zero or constant, and of what a layer's ``solve`` returns.

    Args:
        subject: what is tested.
        example: any leading dimensions.

    Returns:
        The number of problems looked at.

    Raises:
        AssertionError: they are not.
    """
    problem = subject.objective
    assert isinstance(problem, Named)
    problems = {"": example}
    if not problem.classes:
        problems["of zero targets "] = example.replace(Y=torch.zeros_like(example.Y))
        problems["of constant targets "] = example.replace(Y=torch.ones_like(example.Y))
    for what, one in problems.items():
        found = [subject.answer(one).coefficients, *([subject.called(one)] if subject.says_gap else [])]
        for coefficients in found:
            if not bool(feasible(problem, one, coefficients).all()):
                outside = problem.infeasibility(one, coefficients)
                raise failure(
                    f"coefficients {what}within the constraints, up to the rounding of {example.X.dtype}",
                    f"a violation of {float(outside.max()):.1e}",
                    "a point enters, or leaves, the iteration without its projection: zero where there is nothing to"
                    " fit, a start; or an average of iterates is returned",
                )
    return len(problems)


def true_gap(problem: Named, example: Example, answer: Answer) -> Tensor:
    """From the problem's definition, (...); infinite outside the constraints."""
    gap = problem.gap(example, answer.coefficients, answer.finite_dual)
    return torch.where(feasible(problem, example, answer.coefficients), gap, torch.inf)


def feasible(problem: Named, example: Example, coefficients: Coefficients) -> Tensor:
    """Whether coefficients are within the constraints, up to rounding, (...)."""
    return problem.infeasibility(example, coefficients) <= _allowed(problem, example, coefficients)


def _allowed(problem: Named, example: Example, coefficients: Coefficients) -> Tensor:
    """What rounding explains, (...), in the units of the coefficients; of a number of features nothing."""
    W = _weights(coefficients)
    if problem.n_nonzero is not None:
        return torch.zeros_like(W[..., 0, 0], dtype=torch.float64)
    size = torch.maximum(W.detach().abs().amax((-2, -1)).to(torch.float64), coefficient_size(example))
    return ROUNDINGS * W.shape[-2] * torch.finfo(W.dtype).eps * size


def _weights(coefficients: Coefficients) -> Tensor:
    return coefficients[0] if isinstance(coefficients, tuple) else coefficients
