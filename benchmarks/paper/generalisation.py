"""Section 2 of the paper: sparse predictors on disentangled features generalise better from few samples.

Targets depend on a share ℓ/m of m latents. Features are the latents themselves (disentangled) or an orthogonal mixture
of them (entangled). Test R² of Lasso, ridge and least squares, their strengths chosen by cross-validation.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import implicitlayers as il

from .results import ResultsFile

N_LATENTS = 100
N_TRAIN = (25, 50, 75, 100, 125, 150)
SHARES = (0.05, 0.2, 0.8)
REPRESENTATIONS = ("disentangled", "entangled")
NOISE_VARIANCE = 0.045  # of the signal's; not in the paper, inferred from the R² that its methods reach
N_TEST = 1000
FOLDS = 5
RATIOS = {
    "lasso": (0.5, 0.25, 0.12, 0.06, 0.035, 0.02),  # of l1_max
    "ridge": (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),  # of ‖X‖²_F/(nm), the mean square of a feature
    "least squares": (0.0,),
}
METHODS = tuple(RATIOS)
TOL = 1e-5  # relative duality gap; R² is then exact to as many digits

SETTING = ("share", "n_train", "representation", "method", "seed")
MEASURED = ("r2", "strength", "worst_gap", "flagged")


class Regression(NamedTuple):
    """One regression problem per seed: training and test data, each (seeds, n, m) and (seeds, n, 1)."""

    X: Tensor
    Y: Tensor
    X_test: Tensor
    Y_test: Tensor


def generalisation(seeds: int, output: Path, advance: Callable[[], None] = lambda: None) -> ResultsFile:
    """Fit what is not yet in output/results.csv, in `n_cells` steps, for seeds 0 … seeds − 1.

    Args:
        seeds: number of data sets for each share of relevant latents; larger n_train are supersets.
        output: folder of results.csv.
        advance: called after every step.
    """
    results = ResultsFile(output / "results.csv", SETTING, MEASURED)
    for share in SHARES:
        for representation in REPRESENTATIONS:
            for n_train in N_TRAIN:
                cell = {"share": share, "n_train": n_train, "representation": representation}
                missing = [s for s in range(seeds) if not results.of({**cell, "method": METHODS[-1], "seed": s})]
                if missing:
                    data = regressions(missing, share, n_train, representation)
                    rows = (
                        {**cell, "method": method, "seed": seed, **measured}
                        for method in METHODS
                        for seed, measured in zip(missing, evaluate(method, data), strict=True)
                    )
                    results.append(rows)
                advance()
    return results


def n_cells() -> int:
    """Number of steps of `generalisation`."""
    return len(SHARES) * len(REPRESENTATIONS) * len(N_TRAIN)


def regressions(seeds: list[int], share: float, n_train: int, representation: str) -> Regression:
    """Standard normal latents, normal weights on the relevant share of them, normal noise.

    The entangled features of a seed are the disentangled ones times a random orthogonal matrix.
    """
    drawn = [_regression(seed, share, n_train, representation == "entangled") for seed in seeds]
    return Regression(*(torch.stack(tensors) for tensors in zip(*drawn, strict=True)))


def _regression(seed: int, share: float, n_train: int, entangled: bool) -> Regression:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    w, mixture, test = normal(N_LATENTS, 1), torch.linalg.qr(normal(N_LATENTS, N_LATENTS)).Q, normal(N_TEST, N_LATENTS)
    test_noise, train = normal(N_TEST, 1), normal(max(N_TRAIN), N_LATENTS)[:n_train]
    noise = normal(max(N_TRAIN), 1)[:n_train]
    w[round(share * N_LATENTS) :] = 0
    sd = NOISE_VARIANCE**0.5 * w.norm()
    basis = mixture if entangled else torch.eye(N_LATENTS, dtype=torch.float64)
    return Regression(train @ basis, train @ w + sd * noise, test @ basis, test @ w + sd * test_noise)


def evaluate(method: str, data: Regression) -> Iterator[dict[str, Any]]:
    """What was measured, for each seed: the strength is that of the least mean squared error over the folds."""
    X, Y, X_test, Y_test = data
    ratios = torch.tensor(RATIOS[method], dtype=torch.float64)[:, None].expand(-1, len(X))
    fits = [fit(method, ratios, *fold) for fold in folds(X, Y)] if len(ratios) > 1 else []
    errors = sum((each.error for each in fits), torch.zeros_like(ratios))
    chosen = ratios[:, 0][errors.argmin(0)]
    fits.append(fit(method, chosen[None], X, Y, X_test, Y_test))
    variance = (Y_test - Y_test.mean(-2, keepdim=True)).square().mean((-2, -1))
    r2 = 1 - fits[-1].error[0] / variance
    gap = torch.cat([each.gap for each in fits]).amax(0)
    flagged = torch.cat([each.flagged for each in fits]).sum(0)
    for values in zip(r2.tolist(), chosen.tolist(), gap.tolist(), flagged.tolist(), strict=True):
        yield dict(zip(MEASURED, values, strict=True))


def folds(X: Tensor, Y: Tensor) -> Iterator[Regression]:
    """Training and validation parts for each fold; the number of samples is a multiple of the number of folds."""
    n = X.shape[-2]
    for held_out in torch.arange(n).chunk(FOLDS):
        kept = torch.ones(n, dtype=torch.bool)
        kept[held_out] = False
        yield Regression(X[:, kept], Y[:, kept], X[:, held_out], Y[:, held_out])


class Fits(NamedTuple):
    """Of each ratio and seed: mean squared ``error`` on held-out data, duality ``gap``, and ``flagged`` failures."""

    error: Tensor
    gap: Tensor
    flagged: Tensor


def fit(method: str, ratios: Tensor, X: Tensor, Y: Tensor, X_test: Tensor, Y_test: Tensor) -> Fits:
    """Fit a method with all ratios (R, seeds); the Lasso from large to small, each from the one before."""
    if method == "lasso":
        layer = il.Lasso(0.0, derivative_order=0, tol=TOL, max_iter=300, on_fail="ignore")
        solution = layer.path(X, Y, ratios * layer.l1_max(X, Y))
    else:
        l2 = ratios * X.square().mean((-2, -1))
        solution = il.Ridge(l2, derivative_order=0, on_fail="ignore").solve(X, Y)
    error = (solution.predict(X_test) - Y_test).square().mean((-2, -1))
    return Fits(error, solution.gap, ~solution.converged)
