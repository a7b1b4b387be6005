"""Random problems, comparisons, finite differences, and independent float64 certificates, for all tests."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import implicitlayers as il


def normal(*shape, seed=0, dtype=torch.float64):
    """Standard normal numbers that depend on seed and shape only."""
    return _drawn(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def uniform(*shape, seed=0, low=0.5, high=1.5):
    """Uniform numbers, away from zero by default: sample weights."""
    return _drawn(np.random.default_rng(seed + 1000).uniform(low, high, shape))


def labels(*shape, k, seed=0):
    """Random labels; the first k samples hold one of each class."""
    y = torch.from_numpy(np.random.default_rng(seed + 2000).integers(k, size=shape))
    y[..., : min(k, shape[-1])] = torch.arange(k)[: shape[-1]]
    return y


def _drawn(numbers):
    """Float64 numbers of float32's digits.

    torch's normal numbers, and NumPy's to their last digit, depend on a processor's logarithm; rounded, they do not: a
    problem that one machine finds hard is the same problem on another.
    """
    return torch.from_numpy(np.asarray(numbers, dtype=np.float32).astype(np.float64))


def one_hot(y, k):
    """Labels (..., n) as float64 (..., n, k)."""
    return torch.nn.functional.one_hot(y, k).to(torch.float64)


def relative_error(given, expected, floor=1e-8):
    """Largest difference over the largest entry expected; NaN counts as infinite."""
    given, expected = given.detach(), expected.detach()
    difference = (given - expected).abs().max().nan_to_num(torch.inf) if expected.numel() else torch.tensor(0.0)
    scale = expected.abs().max() if expected.numel() else torch.tensor(1.0)
    return float(difference / scale.clamp_min(floor))


def arrays(*shape, bound=10.0):
    """Hypothesis: float64 tensors with entries in [−bound, bound]; ties and zeros are frequent."""
    integers = st.integers(-3, 3).map(float)
    numbers = integers | st.floats(-bound, bound, allow_subnormal=False)
    return hnp.arrays(np.float64, shape, elements=numbers).map(lambda a: torch.from_numpy(a.copy()))


def simplex_points(*shape):
    """Hypothesis: non-negative rows that sum to one, vertices included."""
    raw = hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0.01, 1))

    def normalised(a):
        a = a.copy()
        a[..., 0] += a.sum(-1) == 0
        return torch.from_numpy(a / a.sum(-1, keepdims=True))

    return raw.map(normalised)


def directional_derivative(f, at, direction, step=1e-3):
    """d/dt f(at + t·direction) at t = 0, by central differences of fourth order; ``f`` returns a tensor."""
    plus, minus = f(at + step * direction), f(at - step * direction)
    plus2, minus2 = f(at + 2 * step * direction), f(at - 2 * step * direction)
    return (8 * (plus - minus) - (plus2 - minus2)) / (12 * step)


def weights_of(X, sample_weight):
    """s/Σs as numpy (n,)."""
    s = np.ones(X.shape[-2]) if sample_weight is None else as_numpy(sample_weight)
    return s / s.sum()


def as_numpy(a):
    """Float64 numpy, from tensors of any floating dtype."""
    return a.detach().to(torch.float64).numpy() if isinstance(a, torch.Tensor) else np.asarray(a, dtype=np.float64)


def regularisation(W, l1, l2):
    """l1·Σ_j ‖W_j‖ + l2/2·‖W‖²."""
    return l1 * np.linalg.norm(W, axis=-1).sum() + l2 / 2 * (W**2).sum()


def shrunk_norms(V, l1):
    """max(0, ‖V_j‖ − l1), row by row."""
    return np.maximum(np.linalg.norm(V, axis=-1) - l1, 0)


def hinge(Z, Y, smoothing=0.0):
    """Crammer–Singer hinge per sample, its maximum over the simplex found by sorting."""
    margins = 1 - Y + Z
    if smoothing == 0:
        return margins.max(-1) - (Y * Z).sum(-1)
    centre = Y + margins / smoothing
    descending = -np.sort(-centre, axis=-1)
    thresholds = (np.cumsum(descending, -1) - 1) / np.arange(1, Y.shape[-1] + 1)
    worst = np.maximum(centre - thresholds.max(-1, keepdims=True), 0)
    return (worst * margins).sum(-1) - smoothing / 2 * ((worst - Y) ** 2).sum(-1) - (Y * Z).sum(-1)


def svm_objective(X, Y, W, l2, l1=0.0, smoothing=0.0, sample_weight=None):
    """P(W) of the multiclass SVM, one-hot Y, in float64 numpy."""
    X, Y, W = as_numpy(X), as_numpy(Y), as_numpy(W)
    return (weights_of(X, sample_weight) * hinge(X @ W, Y, smoothing)).sum() + regularisation(W, l1, l2)


def svm_gap(X, Y, W, Theta, l2, l1=0.0, smoothing=0.0, sample_weight=None):
    """(P − D)/P(0) of the multiclass SVM in float64 numpy, the dual point projected to exact feasibility."""
    s = weights_of(X, sample_weight)
    X, Y, W, Theta = as_numpy(X), as_numpy(Y), as_numpy(W), as_numpy(Theta)
    Lambda = np.maximum(Y - Theta, 0)
    Lambda = Lambda / Lambda.sum(-1, keepdims=True)
    V = X.T @ (s[:, None] * (Y - Lambda))
    conjugate = (Lambda * Y).sum(-1) - 1 + smoothing / 2 * ((Lambda - Y) ** 2).sum(-1)
    dual = -(s * conjugate).sum() - (shrunk_norms(V, l1) ** 2).sum() / (2 * l2)
    null = svm_objective(X, Y, np.zeros_like(W), l2, l1, smoothing, s)
    return (svm_objective(X, Y, W, l2, l1, smoothing, s) - dual) / null


def lasso_objective(X, Y, W, l1, l2=0.0, sample_weight=None):
    """P(W) of the group Lasso, and of ridge regression at l1 = 0, in float64 numpy."""
    X, Y, W = as_numpy(X), as_numpy(Y), as_numpy(W)
    return (weights_of(X, sample_weight) * ((X @ W - Y) ** 2).sum(-1)).sum() / 2 + regularisation(W, l1, l2)


def lasso_gap(X, Y, W, l1, l2=0.0, sample_weight=None):
    """(P − D)/P(0) of the group Lasso in float64 numpy, at the residual of W made feasible."""
    s = weights_of(X, sample_weight)
    X, Y, W = as_numpy(X), as_numpy(Y), as_numpy(W)
    Theta = Y - X @ W
    V = X.T @ (s[:, None] * Theta)
    if l2 == 0:
        Theta = Theta * min(1.0, l1 / max(np.linalg.norm(V, axis=-1).max(), 1e-300))
        conjugate = 0.0
    else:
        conjugate = (shrunk_norms(V, l1) ** 2).sum() / (2 * l2)
    dual = (s * ((Theta * Y).sum(-1) - (Theta**2).sum(-1) / 2)).sum() - conjugate
    null = (s * (Y**2).sum(-1)).sum() / 2
    return (lasso_objective(X, Y, W, l1, l2, s) - dual) / null


def solve_alone(layer, X, Y, **arguments):
    """A solve that must succeed without any flag but those that are no failure."""
    solution = layer.solve(X, Y, **arguments)
    assert solution.converged.all(), il.Status(int(solution.status.max())).message
    return solution
