"""The yardstick: plain accelerated proximal gradient in float64, which shares nothing with the library's solvers.

FISTA (Beck and Teboulle, 2009) with restarts by the sign of the gradient (O'Donoghue and Candès, 2015), the step from
the power method, one problem at a time, until (P − D)/P(0) ≤ tol, which every tenth step looks at: on the primal where
the loss is smooth, on the dual, over a product of simplices or of intervals, for hinges.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .draws import GROUP, Problem

TOL = 1e-6
CHECK_EVERY = 10


class Found(NamedTuple):
    """P at the point found, the largest lower bound D seen, P(0), the steps taken."""

    upper: float
    lower: float
    null: float
    steps: int

    @property
    def gap(self) -> float:
        """Relative."""
        return (self.upper - self.lower) / self.null


class Smooth(Protocol):
    """A smooth convex function plus one whose proximal operator is known."""

    start: Tensor
    L: float
    null: float

    def gradient(self, point: Tensor) -> Tensor:
        """Of the smooth part."""

    def prox(self, point: Tensor, step: float) -> Tensor:
        """Of the other."""

    def bounds(self, point: Tensor) -> tuple[float, float]:
        """P and D there."""


def solve(problem: Problem, element: int, seconds: float, tol: float = TOL) -> Found:
    """One element of the batch; ``seconds`` of processor time at most."""
    end = time.process_time() + seconds
    return accelerate(function_of(problem, element), tol, lambda: time.process_time() > end)


def function_of(problem: Problem, element: int) -> "Primal | Dual":
    """What to minimise."""
    X, Y = problem.X[element].to(torch.float64), problem.Y[element]
    return (Dual if "SVM" in problem.layer else Primal)(problem, X, Y, problem.l1[element])


def accelerate(function: Smooth, tol: float, late: Callable[[], bool]) -> Found:
    """Until the gap is at most ``tol``, or it is late."""
    point = ahead = function.start
    t, step, lowest, step_length = 1.0, 0, -torch.inf, 1 / function.L
    while True:
        step += 1
        moved = function.prox(ahead - step_length * function.gradient(ahead), step_length)
        change = moved - point
        if float(((ahead - moved) * change).sum()) > 0:
            t, ahead = 1.0, moved
        else:
            t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead, t = moved + ((t - 1) / t_next) * change, t_next
        point = moved
        if step % CHECK_EVERY == 0:
            upper, lower = function.bounds(point)
            lowest = max(lowest, lower)
            found = Found(upper, lowest, function.null, step)
            if found.gap <= tol or late():
                return found


def largest_eigenvalue(X: Tensor) -> float:
    """Of XᵀX, a few per cent too large, by the power method on the shorter side."""
    X = X if X.shape[0] >= X.shape[1] else X.mT
    v = torch.randn(X.shape[1], generator=torch.Generator().manual_seed(0), dtype=X.dtype)
    value = 0.0
    for _ in range(100):
        v = X.mT @ (X @ (v / v.norm()))
        before, value = value, float(v.norm())
        if value - before <= 1e-3 * value:
            break
    return 1.05 * value


class Primal:
    """Mean smooth loss + penalty + (l2/2)‖W‖² of coefficients W (m, k), an intercept's row below them."""

    def __init__(self, problem: Problem, X: Tensor, Y: Tensor, l1: float) -> None:
        self.layer, self.l1, self.l2, self.own = problem.layer, l1, problem.l2, problem.own
        self.group_l1, self.logistic = problem.group_l1, problem.layer == "LogisticRegression"
        self.m = X.shape[1]
        if problem.intercept and not self.logistic:
            X, Y = X - X.mean(0), Y - Y.mean(0)  # the intercept of squares, minimised
        elif problem.intercept:
            X = torch.cat([X, X.new_ones(len(X), 1)], 1)
        self.X, self.Y, self.n = X, Y, len(X)
        self.free = X.shape[1] > self.m
        self.L = (0.5 if self.logistic else 1.0) * largest_eigenvalue(X) / self.n + self.l2
        self.start = X.new_zeros(X.shape[1], Y.shape[1])
        self.null = self._null()

    def gradient(self, W: Tensor) -> Tensor:
        """−Xᵀ Θ/n + l2·W."""
        slope = self.X.mT @ self._theta(self.X @ W) / -self.n
        slope[: self.m] += self.l2 * W[: self.m]
        return slope

    def prox(self, W: Tensor, step: float) -> Tensor:
        """Of step·Ω, the intercept as it is."""
        return torch.cat([self._prox(W[: self.m], step), W[self.m :]]) if self.free else self._prox(W, step)

    def bounds(self, W: Tensor) -> tuple[float, float]:
        """P, and D at the residuals Θ, and at these made small enough for Ω* alone: the better of the two."""
        Z = self.X @ W
        Theta = self._theta(Z)
        if self.free:
            Theta = self.Y - _with_means(self.Y - Theta, self.Y.mean(0))
        V = (self.X.mT @ Theta)[: self.m] / self.n
        lower = -torch.inf
        if self.l2:
            U = self._prox(V / self.l2, 1 / self.l2)
            strong = float((V * U).sum()) - self._penalty(U) - self.l2 / 2 * float(U.square().sum())
            lower = -self._conjugate(Theta) - strong
        if self.layer != "Ridge":
            scale = self._scale(V)
            lower = max(lower, -self._conjugate(scale * Theta) - self._support(scale * V))
        return self._value(W, Z), lower

    def value(self, W: Tensor, intercept: Tensor | None = None) -> float:
        """P(W), at a given intercept of the logistic loss (that of squares is minimised)."""
        if self.free:
            assert intercept is not None
            W = torch.cat([W, intercept[None]])
        return self._value(W, self.X @ W)

    def _value(self, W: Tensor, Z: Tensor) -> float:
        return self._loss(Z) + self._penalty(W[: self.m]) + self.l2 / 2 * float(W[: self.m].square().sum())

    def _null(self) -> float:
        """P(0), at the best intercept."""
        Z = torch.zeros_like(self.Y)
        return self._loss(Z + self.Y.mean(0).clamp_min(1e-300).log() if self.free else Z)

    def _loss(self, Z: Tensor) -> float:
        if self.logistic:
            return float((Z.logsumexp(1) - (self.Y * Z).sum(1)).mean())
        r = (Z - self.Y).abs()
        square = r.square() / 2
        if self.layer == "HuberRegression":
            square = torch.where(r <= self.own, square, self.own * (r - self.own / 2))
        return float(square.sum()) / self.n

    def _theta(self, Z: Tensor) -> Tensor:
        """Minus the slope of the loss."""
        if self.logistic:
            return self.Y - Z.softmax(1)
        r = self.Y - Z
        return r.clamp(-self.own, self.own) if self.layer == "HuberRegression" else r

    def _conjugate(self, Theta: Tensor) -> float:
        if self.logistic:
            P = self.Y - Theta
            return float(torch.special.xlogy(P, P.clamp_min(0)).sum()) / self.n
        return float((Theta * (Theta / 2 - self.Y)).sum()) / self.n

    def _prox(self, W: Tensor, step: float) -> Tensor:
        threshold = step * self.l1
        if self.layer in ("GroupLasso", "LogisticRegression"):
            return shrink(W, threshold) if threshold else W
        if self.layer == "NonNegativeRegression":
            return (W - threshold).clamp_min(0)
        if self.layer == "BoxRegression":
            return W.clamp(-self.own, self.own)
        if self.layer == "SimplexRegression":
            return project_simplex(W.mT).mT
        if threshold:
            W = W.sign() * (W.abs() - threshold).clamp_min(0)
        return self._shrink_groups(W, step * self.group_l1) if self.group_l1 else W

    def _penalty(self, W: Tensor) -> float:
        if self.layer in ("GroupLasso", "LogisticRegression"):
            return self.l1 * float(W.norm(dim=1).sum()) if self.l1 else 0.0
        groups = self.group_l1 * float(self._group_norms(W).sum()) if self.group_l1 else 0.0
        return groups + (self.l1 * float(W.abs().sum()) if self.l1 else 0.0)

    def _support(self, V: Tensor) -> float:
        """Ω*(V), of one that is finite."""
        if self.layer == "BoxRegression":
            return self.own * float(V.abs().sum())
        return float(V.amax(0).sum()) if self.layer == "SimplexRegression" else 0.0

    def _scale(self, V: Tensor) -> float:
        """The largest t ≤ 1 with Ω*(tV) finite."""
        if self.layer in ("BoxRegression", "SimplexRegression"):
            return 1.0
        if self.layer == "SparseGroupLasso":
            return self._group_scale(V)
        if self.layer in ("GroupLasso", "LogisticRegression"):
            largest = float(V.norm(dim=1).max())
        else:
            largest = float((V if self.layer == "NonNegativeRegression" else V.abs()).max())
        return 1.0 if largest <= self.l1 else self.l1 / largest

    def _group_scale(self, V: Tensor) -> float:
        """By bisection, from below."""

        def within(t: float) -> bool:
            soft = ((t * V).abs() - self.l1).clamp_min(0)
            return bool((self._group_norms(soft) <= self.group_l1).all())

        low, high = 0.0, 1.0
        if within(high):
            return high
        for _ in range(25):
            middle = (low + high) / 2
            low, high = (middle, high) if within(middle) else (low, middle)
        return low

    def _group_norms(self, W: Tensor) -> Tensor:
        square = W.square().sum(1)
        missing = -len(square) % GROUP
        return torch.nn.functional.pad(square, (0, missing)).view(-1, GROUP).sum(1).sqrt()

    def _shrink_groups(self, W: Tensor, threshold: float) -> Tensor:
        factor = (1 - threshold / self._group_norms(W).clamp_min(1e-300)).clamp_min(0)
        return W * factor.repeat_interleave(GROUP)[: len(W), None]


class Dual:
    """Minus n times the dual of a hinge, of Λ (n, k) in the simplices, or of a (n, 1) in [0, 1] for two classes.

    D(Λ) = (1/n) Σᵢ [⟨λᵢ, 1 − yᵢ⟩ − (γ/2)‖λᵢ − yᵢ‖²] − R*(XᵀΘ/n), Θ = Y − Λ; for two classes
    D(a) = (1/n) Σᵢ [aᵢ − (γ/2)aᵢ²] − R*(XᵀΘ/n), Θ = a·y. With R = l1·Ω + (l2/2)‖·‖² the slope of R* is
    U = prox(V/l2), and R*(V) = (l2/2)‖U‖². Without l1 and with fewer samples than features XU = XXᵀΘ/(n·l2) comes from
    the Gram matrix.
    """

    def __init__(self, problem: Problem, X: Tensor, Y: Tensor, l1: float) -> None:
        self.X, self.Y, self.n = X, Y, len(X)
        self.l1, self.l2, self.gamma = l1, problem.l2, problem.own
        self.binary = problem.layer == "BinarySVM"
        self.gram = X @ X.mT / (self.n * self.l2) if not l1 and X.shape[0] < X.shape[1] else None
        self.L = largest_eigenvalue(X) / (self.n * self.l2) + self.gamma
        self.start = torch.full_like(Y, 0.5 if self.binary else 1 / Y.shape[1])
        self.null = self._loss(torch.zeros_like(Y))

    def gradient(self, dual: Tensor) -> Tensor:
        """Of −n·D."""
        Z = self._scores(dual)[0]
        if self.binary:
            return self.Y * Z - 1 + self.gamma * dual
        return self.Y - Z - 1 + self.gamma * (dual - self.Y)

    def prox(self, dual: Tensor, step: float) -> Tensor:
        """The projection."""
        return dual.clamp(0, 1) if self.binary else project_simplex(dual)

    def bounds(self, dual: Tensor) -> tuple[float, float]:
        """P at U, and D."""
        Z, R, conjugate = self._scores(dual)
        if self.binary:
            inner = dual - self.gamma / 2 * dual.square()
        else:
            inner = dual * (1 - self.Y) - self.gamma / 2 * (dual - self.Y).square()
        return self._loss(Z) + R, float(inner.sum()) / self.n - conjugate

    def value(self, W: Tensor, intercept: Tensor | None = None) -> float:
        """P(W)."""
        return self._loss(self.X @ W) + self._penalty(W)

    def _scores(self, dual: Tensor) -> tuple[Tensor, float, float]:
        """XU, R(U), R*(V)."""
        Theta = dual * self.Y if self.binary else self.Y - dual
        if self.gram is not None:
            Z = self.gram @ Theta
            half = float((Theta * Z).sum()) / (2 * self.n)
            return Z, half, half
        V = self.X.mT @ Theta / self.n
        U = shrink(V, self.l1) / self.l2 if self.l1 else V / self.l2
        return self.X @ U, self._penalty(U), self.l2 / 2 * float(U.square().sum())

    def _penalty(self, U: Tensor) -> float:
        groups = self.l1 * float(U.norm(dim=1).sum()) if self.l1 else 0.0
        return groups + self.l2 / 2 * float(U.square().sum())

    def _loss(self, Z: Tensor) -> float:
        """The maximum over the domain, where the margins, or their projection, are."""
        if self.binary:
            margin = 1 - self.Y * Z
            dual = (margin / self.gamma).clamp(0, 1) if self.gamma else (margin > 0).to(Z)
            return float((dual * margin - self.gamma / 2 * dual.square()).sum()) / self.n
        margin = 1 - self.Y + Z
        if not self.gamma:
            best = margin.amax(1)
        else:
            dual = project_simplex(self.Y + margin / self.gamma)
            best = (dual * margin - self.gamma / 2 * (dual - self.Y).square()).sum(1)
        return float((best - (self.Y * Z).sum(1)).mean())


def shrink(W: Tensor, threshold: float) -> Tensor:
    """Rows shortened by the threshold, to zero at most."""
    return W * (1 - threshold / W.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp_min(0)


def project_simplex(V: Tensor) -> Tensor:
    """The nearest point of the probability simplex to each row, by sorting."""
    excess = V.sort(dim=1, descending=True).values.cumsum(1) - 1
    threshold = (excess / torch.arange(1, V.shape[1] + 1, dtype=V.dtype)).amax(1, keepdim=True)
    return (V - threshold).clamp_min(0)


def _with_means(P: Tensor, means: Tensor) -> Tensor:
    """Rows of the simplex near P with that mean: columns scaled down to it, what is missing spread (Altschuler, Weed
    and Rigollet, 2017).
    """
    P = P * (means / P.mean(0).clamp_min(1e-300)).clamp_max(1)
    rows, columns = (1 - P.sum(1)).clamp_min(0), (means - P.mean(0)).clamp_min(0)
    return P + torch.outer(rows, columns / columns.sum().clamp_min(1e-300))
