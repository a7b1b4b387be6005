"""Looking for something better than a layer's output where nothing but the objective's value is known."""

import torch
from torch import Tensor

from .example import Example
from .objectives import Objective
from .terms import Coefficients


def search(problem: Objective, example: Example, coefficients: Coefficients) -> float:
    """The largest decrease of the objective found, over its value at zero; a lower bound on the suboptimality.

    Tried are steps of many lengths along every coordinate, towards zero as a whole, a row or an entry, and against the
    gradient, each round from the best point so far.
    """
    parts = coefficients if isinstance(coefficients, tuple) else (coefficients,)
    point = [part.detach().to(torch.float64).clone() for part in parts]

    def value(parts: list[Tensor]) -> Tensor:
        packed: Coefficients = (parts[0], parts[1]) if len(parts) == 2 else parts[0]
        return problem.value(example, packed).sum()

    start = float(value(point))
    scale = max(abs(float(value([torch.zeros_like(part) for part in point]))), abs(start), 1e-300)
    best = start
    for _ in range(30):
        improved = False
        for step in _steps(value, point):
            for length in 0.25 ** torch.arange(16, dtype=torch.float64):
                candidate = [part + length * move for part, move in zip(point, step, strict=True)]
                found = float(value(candidate))
                if found < best - 1e-15 * scale:
                    best, point, improved = found, candidate, True
                    break
        if not improved:
            break
    return (start - best) / scale


def _steps(value, point: list[Tensor]) -> list[list[Tensor]]:  # type: ignore[no-untyped-def]
    still = [torch.zeros_like(part) for part in point]
    steps = [[-part for part in point]]
    inputs = [part.clone().requires_grad_() for part in point]
    gradients = torch.autograd.grad(value(inputs), inputs, allow_unused=True)
    if all(g is not None and bool(g.isfinite().all()) for g in gradients):
        steps.append([-g for g in gradients])
    for i, part in enumerate(point):
        size = float(part.abs().max()) or 1.0
        for index in range(part.numel()):
            unit = torch.zeros_like(part).flatten()
            unit[index] = size
            axis = unit.reshape(part.shape)
            for move in (axis, -axis, torch.where(axis != 0, -part, 0.0)):
                steps.append([move if j == i else other for j, other in enumerate(still)])
    return steps
