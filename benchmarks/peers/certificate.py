"""How good an answer is, whoever gave it: the duality gap in float64, by code that shares nothing with any solver.

Everything is in the library's scaling, a mean over samples:

    P(W) = (1/n) Σᵢ ℓ(zᵢ; yᵢ) + l1·Σ_j ‖W_j‖ + (l2/2)‖W‖²,    Z = XW

Gaps are relative: (P(W) − D(Θ))/P(0).
"""

from typing import NamedTuple

import numpy as np

from .problems import Problem

Array = np.ndarray


class Answer(NamedTuple):
    """What a solver found: W (b, m, k), dual point Θ (b, n, k), either or both; with Θ = Y − Λ for the SVM."""

    coef: Array | None = None
    dual: Array | None = None


def relative_gaps(problem: Problem, answer: Answer) -> Array:
    """(b,), each ≥ 0 but for rounding; NaN where the answer is none, infinite where it does not fit the problem.

    Of an answer without W the SVM's is W = BST(XᵀΘ/n, l1)/l2. Of an answer without Θ a regression's is its residual.
    Rows of Λ are projected onto the simplex first, residuals scaled until feasible: no answer is too wrong to judge.
    """
    gap = _svm_gap if problem.kind == "svm" else _regression_gap
    gaps = []
    for i in range(len(problem.X)):
        X, Y = problem.X[i].double().numpy(), problem.Y[i].double().numpy()
        W = None if answer.coef is None else np.asarray(answer.coef[i], dtype=np.float64)
        theta = None if answer.dual is None else np.asarray(answer.dual[i], dtype=np.float64)
        finite = all(np.isfinite(part).all() for part in (W, theta) if part is not None)
        gaps.append(gap(X, Y, W, theta, problem.l1, problem.l2) if finite else np.nan)
    return np.array(gaps)


def coefficients(problem: Problem, answer: Answer) -> Array:
    """W (b, m, k) in float64, given or from Θ."""
    if answer.coef is not None:
        return np.asarray(answer.coef, dtype=np.float64)
    assert answer.dual is not None
    found = []
    for X, Y, theta in zip(problem.X.double().numpy(), problem.Y.numpy(), answer.dual, strict=True):
        feasible = Y - project_simplex(Y - np.asarray(theta, dtype=np.float64))
        found.append(shrink(X.T @ feasible / len(X), problem.l1) / problem.l2)
    return np.stack(found)


def _svm_gap(X: Array, Y: Array, W: Array | None, theta: Array | None, l1: float, l2: float) -> float:
    """D(Θ) = (1/n) Σᵢ (1 − ⟨yᵢ, λᵢ⟩) − ‖BST(V, l1)‖²/(2·l2), V = XᵀΘ/n; P(0) = 1."""
    assert theta is not None, "the SVM's dual point does not follow from W where margins tie"
    dual = project_simplex(Y - theta)
    shrunk = shrink(X.T @ (Y - dual) / len(X), l1)
    W = shrunk / l2 if W is None else W
    Z = X @ W
    hinge = (1 - Y + Z).max(-1) - (Y * Z).sum(-1)
    primal = hinge.mean() + l1 * norms(W).sum() + l2 / 2 * (W**2).sum()
    return float(primal - ((1 - (Y * dual).sum(-1)).mean() - (shrunk**2).sum() / (2 * l2)))


def _regression_gap(X: Array, Y: Array, W: Array | None, theta: Array | None, l1: float, l2: float) -> float:
    """D(Θ) = (‖Y‖² − ‖Y − Θ‖²)/(2n) for Θ with ‖XᵀΘ/n‖ ≤ l1 in every row; P(0) = ‖Y‖²/(2n).

    P − D is summed as terms that are ≥ 0 each: with r = Y − XW and Θ the residual scaled by s,
    ‖r − Θ‖²/(2n) + Σ_j (l1·‖W_j‖ − ⟨W_j, V_j⟩).
    """
    assert W is not None, "a regression's answer is W"
    assert l2 == 0, "regressions have no ridge here"
    n = len(X)
    residual = Y - X @ W
    theta = residual if theta is None else theta
    V = X.T @ theta / n
    scale = min(1.0, l1 / max(norms(V).max(), np.finfo(float).tiny))
    gap = ((residual - scale * theta) ** 2).sum() / (2 * n) + (l1 * norms(W) - scale * (W * V).sum(-1)).sum()
    return float(gap / ((Y**2).sum() / (2 * n)))


def norms(V: Array) -> Array:
    """Of the rows."""
    return np.sqrt((V**2).sum(-1))


def shrink(V: Array, l1: float) -> Array:
    """Block soft-thresholding of the rows."""
    norm = norms(V)[..., None]
    return V * np.maximum(1 - l1 / np.where(norm > 0, norm, np.inf), 0) if l1 > 0 else V


def project_simplex(V: Array) -> Array:
    """The nearest point of the probability simplex to each row (Held, Wolfe and Crowder, 1974)."""
    ordered = -np.sort(-V, axis=-1)
    excess = (ordered.cumsum(-1) - 1) / np.arange(1, V.shape[-1] + 1)
    last = (ordered > excess).sum(-1, keepdims=True) - 1
    return np.maximum(V - np.take_along_axis(excess, last, -1), 0)
