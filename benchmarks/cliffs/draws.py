"""The problems: a `Draw` says which in a few numbers and is a function of its own number and a seed, and `problem_of`
makes the tensors.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# The multiclass machine has more regimes than the others: smoothed or not, sparse or not, few samples or many.
LAYERS = (
    *["MulticlassSVM"] * 4,
    *["LogisticRegression", "GroupLasso"] * 2,
    *["BinarySVM", "Lasso", "ElasticNet", "HuberRegression", "NonNegativeRegression"],
    *["BoxRegression", "SimplexRegression", "SparseGroupLasso", "Ridge"],
)
CLASSIFIERS = ("MulticlassSVM", "LogisticRegression", "BinarySVM")
CORRELATIONS = (0.0, 0.3, 0.5, 0.8, 0.9, 0.95)
# Larger problems are drawn again, so that accelerated gradient ends within some 20 s: a thousand steps of n·m·k·batch
# products at 10 GFlop/s, and features of 160 MB.
MOST_WORK, MOST_ENTRIES = 1e8, 2e7
GROUP = 5


@dataclass(frozen=True)
class Draw:
    """A batch of problems of one shape.

    Attributes:
        number: of the draw, ≥ 0; a named problem has a negative one.
        seed: of all draws.
        layer: its class in `implicitlayers`.
        n: samples.
        m: features.
        k: classes or targets; 1 for two classes with one column.
        batch: number of problems.
        dtype: of the features.
        design: "factor", normal features that correlate at ``correlation``, or "shots", non-negative rows of length one
            most of which is one direction that all share.
        correlation: of the features; of "shots" the share of the common direction.
        l1: of the bound above which nothing is left (from above for hinges); 0: none.
        l2: of the mean square of the features; 0: none.
        relative: whether l1 and l2 are such shares; if not, they are the strengths themselves.
        own: of SVMs the smoothing, of Huber's loss delta in shares of the targets' standard deviation, of a box half
            its width (true coefficients have a standard deviation of one); else unused.
        intercept: whether one is fitted.
        name: of a named problem.
    """

    number: int
    seed: int
    layer: str
    n: int
    m: int
    k: int
    batch: int = 1
    dtype: str = "float64"
    design: str = "factor"
    correlation: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    relative: bool = True
    own: float = 0.0
    intercept: bool = False
    name: str = ""


class Problem(NamedTuple):
    """X (b, n, m) in the draw's dtype, Y (b, n, k) in float64: one-hot, ±1, or real; ``l1`` of each, the others shared.

    ``group_l1`` is that of `SparseGroupLasso`, whose groups are ``GROUP`` neighbours each.
    """

    layer: str
    X: Tensor
    Y: Tensor
    l1: list[float]
    l2: float
    own: float
    group_l1: float
    intercept: bool


def draw(number: int, seed: int) -> Draw:
    """The problem of that number."""
    if number < 0:
        return named(seed)[-number - 1]
    rng = np.random.default_rng([seed, number])
    while True:
        found = _drawn(number, seed, rng)
        entries = found.n * found.m * found.batch
        if entries <= MOST_ENTRIES and entries * found.k <= MOST_WORK:
            return found


def named(seed: int) -> list[Draw]:
    """Problems on which a solver was once much slower than accelerated gradient, or, the last three, faster."""
    few = {"design": "shots", "correlation": 0.9, "l1": 0.002, "l2": 0.003, "relative": False}
    shapes: list[tuple[str, tuple[int, int, int], dict]] = [
        ("40 classes, 5 samples of each", (200, 256, 40), few),
        ("60 classes, 5 samples of each", (300, 256, 60), few),
        ("l1 above l1_max", (100, 640, 20), {"l1": 1.2, "l2": 0.01}),
        ("as many samples as features", (600, 600, 5), {"l1": 0.002, "l2": 0.01, "relative": False}),
        ("60 classes, 2 samples of each", (120, 640, 60), few | {"correlation": 0.8}),
        ("5 classes, 15 samples of each", (75, 640, 5), few | {"correlation": 0.8}),
        ("20 classes, 5 samples of each", (100, 256, 20), few),
        ("10 classes, 20 samples of each", (200, 1600, 10), few | {"correlation": 0.85}),
    ]
    return [
        Draw(-i, seed, "MulticlassSVM", *shape, name=name, **options)
        for i, (name, shape, options) in enumerate(shapes, start=1)
    ]


def _drawn(number: int, seed: int, rng: np.random.Generator) -> Draw:
    layer = str(rng.choice(LAYERS))
    n, m = _log_uniform_int(rng, 5, 5_000), _log_uniform_int(rng, 5, 16_000)
    k = _log_uniform_int(rng, 2, 60)
    if layer in CLASSIFIERS:
        k = 1 if layer == "BinarySVM" else min(k, n)
    elif layer != "GroupLasso" and rng.random() < 0.5:
        k = 1
    l1, l2 = _log_uniform(rng, 1e-3, 1.2), _log_uniform(rng, 1e-4, 1.0)
    kind = rng.random()
    if layer in ("MulticlassSVM", "BinarySVM", "LogisticRegression", "HuberRegression", "NonNegativeRegression"):
        # Both, or l2 alone, or, where the loss is smooth, l1 alone.
        l1 = 0.0 if kind < 0.3 else l1
        l2 = 0.0 if kind > 0.7 and "SVM" not in layer else l2
    elif layer == "Lasso":
        l2 = 0.0
    elif layer in ("Ridge", "BoxRegression", "SimplexRegression"):
        l1, l2 = 0.0, 0.0 if kind > 0.7 and layer != "Ridge" else l2
    elif layer != "ElasticNet":
        l2 = 0.0 if kind > 0.5 else l2
    own = {
        "MulticlassSVM": 0.0 if rng.random() < 0.7 else _log_uniform(rng, 1e-2, 1.0),
        "BinarySVM": 0.0 if rng.random() < 0.7 else _log_uniform(rng, 1e-2, 1.0),
        "HuberRegression": _log_uniform(rng, 0.1, 3.0),
        "BoxRegression": _log_uniform(rng, 0.05, 2.0),
    }.get(layer, 0.0)
    return Draw(
        number=number, seed=seed, layer=layer, n=n, m=m, k=k,
        batch=4 if rng.random() < 0.15 else 1,
        dtype=str(rng.choice(("float32", "float64"))),
        design="shots" if layer in CLASSIFIERS and rng.random() < 0.3 else "factor",
        correlation=float(rng.choice(CORRELATIONS)),
        l1=l1, l2=l2, own=own,
        intercept=layer in ("LogisticRegression", "Lasso", "ElasticNet", "GroupLasso", "Ridge") and rng.random() < 0.3,
    )  # fmt: skip


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _log_uniform_int(rng: np.random.Generator, low: int, high: int) -> int:
    return min(high, int(_log_uniform(rng, low, high + 1)))


def problem_of(given: Draw) -> Problem:
    """The draw's numbers."""
    rng = np.random.default_rng([given.seed, abs(given.number), given.number < 0, 1])
    make = _classes if given.layer in CLASSIFIERS else _regression
    elements = [make(given, rng) for _ in range(given.batch)]
    X = torch.stack([X for X, _ in elements])
    Y = torch.stack([Y for _, Y in elements])
    own = given.own * (float(Y.std()) if given.layer == "HuberRegression" else 1.0)
    bounds = [l1_bounds(given.layer, x, y, own, given.intercept) for x, y in zip(X, Y, strict=True)]
    l2 = given.l2 * float(X.square().mean()) if given.relative else given.l2
    l1 = [given.l1 * bound if given.relative else given.l1 for bound, _ in bounds]
    group_l1 = 0.0
    if given.layer == "SparseGroupLasso":
        # Half of what would do alone, each.
        l1, group_l1 = [value / 2 for value in l1], given.l1 * max(group for _, group in bounds) / 2
    return Problem(given.layer, X.to(getattr(torch, given.dtype)), Y, l1, l2, own, group_l1, given.intercept)


def l1_bounds(layer: str, X: Tensor, Y: Tensor, delta: float, intercept: bool) -> tuple[float, float]:
    """The l1 above which nothing is left, and that of groups of neighbours; X (n, m), Y (n, k).

    From Θ at W = 0: max over features j of |X_jᵀΘ|/n, a norm across targets or classes where these share their
    features. Of the multiclass hinge Θ = Y less the uniform distribution over the wrong classes: a bound from above.
    """
    n, k = Y.shape
    Theta = Y
    if layer == "MulticlassSVM":
        Theta = (Y - 1 / k) * (k / (k - 1))
    elif layer == "LogisticRegression":
        Theta = Y - Y.mean(0) if intercept else Y - 1 / k
    elif layer == "HuberRegression":
        Theta = Y.clamp(-delta, delta)
    elif intercept:
        Theta = Y - Y.mean(0)
    V = X.mT @ Theta / n
    if layer in ("MulticlassSVM", "LogisticRegression", "GroupLasso"):
        return float(V.norm(dim=1).max()), 0.0
    groups = max(float(V[i : i + GROUP].norm()) for i in range(0, len(V), GROUP))
    return float((V if layer == "NonNegativeRegression" else V.abs()).max().clamp_min(1e-12)), groups


def _classes(given: Draw, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Class means in a fifth of the features, noise, and a factor or a direction in common; every class is there."""
    n, m, k = given.n, given.m, max(given.k, 2)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, max(n - k, 0))])[:n]
    if given.name:
        labels = np.arange(n) % k
    means, noise = rng.standard_normal((k, m)), rng.standard_normal((n, m))
    if given.design == "shots":
        X = _shots(given.correlation, (0.7 * means[labels] + noise) / 1.49**0.5, rng)
    else:
        used = rng.random((k, m)) < 0.2
        X = _with_factor(given.correlation, 0.5 * (used * means)[labels] + noise, rng)
    Y = np.eye(k)[labels]
    return torch.from_numpy(X), torch.from_numpy(Y if given.k > 1 else Y[:, 1:] - Y[:, :1])


def _shots(share: float, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What an encoder that ends in a ReLU gives a few-shot learner: all images resemble each other."""
    common = np.abs(rng.standard_normal(own.shape[1]))
    X = np.maximum(share**0.5 * common + (1 - share) ** 0.5 * own, 0)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def _regression(given: Draw, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """20 features in use, noise of a tenth of the signal's variance; coefficients in reach of the constraint."""
    n, m, k = given.n, given.m, given.k
    X = _with_factor(given.correlation, rng.standard_normal((n, m)), rng)
    W = np.zeros((m, k))
    used = rng.permutation(m)[:20]
    W[used] = rng.standard_normal((len(used), k))
    if given.layer in ("NonNegativeRegression", "SimplexRegression"):
        W = np.abs(W)
    if given.layer == "SimplexRegression":
        W /= W.sum(0)
    signal = X @ W
    Y = signal + 0.1**0.5 * signal.std() * rng.standard_normal((n, k))
    return torch.from_numpy(X), torch.from_numpy(Y)


def _with_factor(correlation: float, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return correlation**0.5 * rng.standard_normal((len(own), 1)) + (1 - correlation) ** 0.5 * own
