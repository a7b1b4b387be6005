"""Hypothesis strategies for whole problems; see `examples`."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from . import kinds as kinds_module
from .example import Example
from .named import Named
from .objectives import OwnObjective
from .scaling import at_ratio, drawn_strengths

T = TypeVar("T")
RATIOS = (0.3, 0.1, 0.5, 0.8, 0.95, 0.03)
RIDGES = (0.1, 0.01, 1.0, 1e-3)


def examples(
    problem: Named | OwnObjective,
    *,
    strengths: Mapping[str, float] | None = None,
    n: int | SearchStrategy[int] | None = None,
    m: int | SearchStrategy[int] | None = None,
    k: int | SearchStrategy[int] | None = None,
    batch: Sequence[int] = (),
    kinds: Sequence[str] | None = None,
    scale: float | SearchStrategy[float] = 1.0,
    correlation: float | SearchStrategy[float] = 0.0,
    condition: float | SearchStrategy[float] = 1.0,
    sparsity: float | SearchStrategy[float] = 0.5,
    ratio: float | SearchStrategy[float] | None = None,
    dtype: torch.dtype = torch.float64,
    weights: bool = False,
    labels: bool = False,
) -> SearchStrategy[Example]:
    """Regression or classification problems, nasty ones on purpose; shrinks to few samples, features and digits.

    Numbers are standard normal, rounded to two digits; targets follow a linear model, or are classes, the first k
    samples one of each. Everything but ``strengths``, ``kinds``, ``batch`` and the flags is a value or a strategy.

    Args:
        problem: from `objective`.
        strengths: of the layer, as numbers: features are then scaled so that these are ``ratio`` times the strengths
            at which the solution becomes zero. None: strengths are drawn for features that stay as they are.
        n: samples, 1 to 8 by default.
        m: features, 1 to 5 by default.
        k: targets, 1 to 3 by default; classes, 2 to 3 by default.
        batch: leading dimensions.
        kinds: of `kinds.KINDS`; None: all that make sense for the problem.
        scale: factor of the features, say ``st.sampled_from([1e-6, 1.0, 1e6])``; only where strengths are drawn.
        correlation: between features, in [0, 1).
        condition: largest over smallest factor of the features, spread evenly on a logarithmic scale.
        sparsity: share of features without influence on the targets.
        ratio: strengths over those with solution zero.
        dtype: of features and real targets.
        weights: also draw sample weights.
        labels: classes as integers instead of one-hot; the largest one always occurs.
    """
    classes = problem.classes if isinstance(problem, Named) else 0
    allowed = tuple(kinds) if kinds is not None else kinds_of_problem(problem, weights)
    smallest = (
        max((max(g) + 1 for g in problem.groups), default=1) if isinstance(problem, Named) and problem.groups else 1
    )
    features = m if m is not None else st.integers(smallest, max(5, smallest)) if smallest == 1 else smallest

    @st.composite
    def draw_example(draw: DrawFn) -> Example:
        def number(value: Any) -> Any:
            return draw(value) if isinstance(value, SearchStrategy) else value

        kind = draw(st.sampled_from(allowed))
        size = number(st.integers(1, 8) if n is None else n), number(features)
        targets = number(_default_k(classes) if k is None else k)
        targets = 2 if classes == 2 else targets
        seed = draw(st.integers(0, 2**16))
        X, Y = ordinary(
            seed, tuple(batch), *size, targets, classes > 0, number(correlation), number(condition), number(sparsity)
        )
        weight = torch.ones(X.shape[:-1], dtype=torch.float64)
        if weights and draw(st.booleans()):
            weight = (0.5 + _normal(seed + 3, *X.shape[:-1]).abs()).round(decimals=2)
        weighted = weights and (kind == "zero weights" or bool((weight != 1).any()))
        X, Y, weight = kinds_module.apply(kind, (X, Y, weight))
        relative = draw(st.sampled_from(kinds_module.RATIOS.get(kind, RATIOS)))
        if ratio is not None and kind not in kinds_module.RATIOS:
            relative = number(ratio)
        example = Example(X, Y, dict(strengths or {}), weight if weighted else None, kind)
        if isinstance(problem, Named):
            if strengths is None:
                example = example.replace(X=example.X * number(scale))
                ridge = draw(st.sampled_from(RIDGES if kind == "generic" else (*RIDGES, 0.0)))
                smoothing = draw(st.sampled_from((0.0, 0.1, 1.0)))
                example = drawn_strengths(problem, example, relative, ridge, smoothing)
            else:
                example = at_ratio(problem, example, relative)
        return _converted(example, dtype, classes > 0, labels)

    if isinstance(problem, Named):
        return draw_example().filter(lambda example: bool(problem.solvable(example).all()))
    return draw_example()


def kinds_of_problem(problem: Named | OwnObjective, weights: bool) -> tuple[str, ...]:
    """The kinds that make sense for it, "generic" first."""
    if isinstance(problem, OwnObjective):
        return kinds_module.applicable(False, False, weights)
    kinds = kinds_module.applicable(problem.classes > 0, problem.sparse, weights)
    if problem.name == "logistic" and problem.fit_intercept:
        # Where a class has no sample, its intercept has no minimum.
        return tuple(kind for kind in kinds if kind not in ("absent class", "one sample"))
    return kinds


def _default_k(classes: int) -> SearchStrategy[int]:
    return st.integers(2, 3) if classes else st.integers(1, 3)


def ordinary(
    seed: int,
    batch: tuple[int, ...],
    n: int,
    m: int,
    k: int,
    classes: bool,
    correlation: float,
    condition: float,
    sparsity: float,
) -> tuple[Tensor, Tensor]:
    """Features and targets, one-hot for classes, of which the first samples have one each."""
    X = _normal(seed, *batch, n, m)
    if correlation:
        X = (1 - correlation) ** 0.5 * X + correlation**0.5 * X[..., :1]
    if condition != 1:
        X = X * torch.logspace(0, -torch.tensor(condition).log10().item(), m, dtype=X.dtype)
    if not classes:
        used = torch.arange(m) < max(1, round((1 - sparsity) * m))
        signal = X @ torch.where(used[:, None], _normal(seed + 1, *batch, m, k), 0.0)
        return X, (signal + 0.5 * _normal(seed + 2, *batch, n, k)).round(decimals=2)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (*batch, n), generator=generator)
    y[..., : min(n, k)] = torch.arange(k - 1, -1, -1)[: min(n, k)]
    return X, torch.nn.functional.one_hot(y, k).to(torch.float64)


def _normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).round(decimals=2)


def _converted(example: Example, dtype: torch.dtype, classes: bool, labels: bool) -> Example:
    given = example.Y
    Y = given.to(dtype) if not classes else given.argmax(-1) if labels else given
    return example.replace(X=example.X.to(dtype), Y=Y)
