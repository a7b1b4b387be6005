"""One larger problem that is badly conditioned on purpose: what stops early is exact on small problems."""

import math
from collections.abc import Mapping, Sequence

from .example import Example
from .named import Named
from .objectives import OwnObjective
from .scaling import at_ratio, drawn_strengths
from .strategies import ordinary

# Largest over smallest scale of the features; and what the strengths are worth: so small that the Hessian's condition
# number is 10⁴ to 10⁵, at which 20 steps of conjugate gradients are far from the end.
CONDITION, RATIO, RIDGE = 10.0, 0.05, 1e-3
# Supports that `Named.gap` tries one by one.
SUPPORTS = 2_000


def larger(
    problem: Named | OwnObjective,
    strengths: Mapping[str, float] | None = None,
    *,
    n: int = 100,
    m: int = 200,
    k: int = 1,
    batch: Sequence[int] = (),
    ridge: float = RIDGE,
    labels: bool = False,
    seed: int = 0,
) -> Example:
    """Regression or classification with features on different scales, few samples and weak strengths; float64.

    Args:
        problem: from `objective`; one with groups, or a limited number of features, sets ``m`` itself.
        strengths: of the layer, to which the features are then scaled; None: drawn.
        n: samples.
        m: features.
        k: targets; of classes at least two.
        batch: leading dimensions.
        ridge: l2 in mean squares of the features; where there is an l1 too, that is at a twentieth of `l1_max`.
        labels: classes as integers instead of one-hot.
        seed: another one is another problem.
    """
    classes = problem.classes if isinstance(problem, Named) else 0
    m, k = features(problem, m), 2 if classes == 2 else max(k, 2) if classes else k
    X, Y = ordinary(seed, tuple(batch), n, m, k, classes > 0, 0.0, CONDITION, 0.5)
    given = f"{dict(strengths)!r}" if strengths is not None else "None"
    example = Example(X, Y, dict(strengths or {}))
    if isinstance(problem, Named):
        if strengths is None:
            example = drawn_strengths(problem, example, RATIO, ridge, 0.0)
        else:
            example = at_ratio(problem, example, RATIO if problem.sparse else ridge)
    code = (
        f"from implicitlayers.testing import larger, objective\n"
        f"example = larger({_named(problem)}, {given}, n={n}, m={m}, k={k}, batch={tuple(batch)},"
        f" ridge={ridge}, labels={labels}, seed={seed})"
    )
    Y = example.Y.argmax(-1) if classes and labels else example.Y
    return Example(example.X, Y, example.strengths, None, "larger", code)


def features(problem: Named | OwnObjective, wanted: int) -> int:
    """As many as wanted, or as the problem allows."""
    if not isinstance(problem, Named):
        return wanted
    if problem.groups:
        return 1 + max(max(group) for group in problem.groups)
    if problem.n_nonzero is not None:
        return max(m for m in range(1, wanted + 1) if math.comb(m, min(m, problem.n_nonzero)) <= SUPPORTS)
    return wanted


def _named(problem: Named | OwnObjective) -> str:
    if not isinstance(problem, Named):
        return problem.name
    options = {"groups": problem.groups, "n_nonzero": problem.n_nonzero, "fit_intercept": problem.fit_intercept}
    return f"objective({', '.join([repr(problem.name), *(f'{k}={v!r}' for k, v in options.items() if v)])})"
