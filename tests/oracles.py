"""The same problems for cvxpy (Clarabel, tight tolerances): coefficients, least value, and the error to expect."""

import warnings

import cvxpy as cp
import numpy as np
from helpers import as_numpy, weights_of


def solve_tightly(problem):
    """By Clarabel, at the tightest tolerance at which it does not give up; which one depends on the processor."""
    with warnings.catch_warnings():
        # It may say that it could not do better than close: the tests judge the result themselves.
        warnings.simplefilter("ignore")
        for tol in (1e-14, 1e-13, 1e-12, 1e-11, 1e-10):
            try:
                return problem.solve(solver="CLARABEL", tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=10 * tol)
            except cp.error.SolverError:
                continue
    raise AssertionError("Clarabel fails at every tolerance")


def _minimum(W, objective):
    problem = cp.Problem(cp.Minimize(objective))
    solve_tightly(problem)
    assert problem.status in ("optimal", "optimal_inaccurate")
    return W.value, problem.value, (1e-6 if problem.status == "optimal" else 1e-5) * max(np.abs(W.value).max(), 1e-3)


def _regularisation(W, l1, l2):
    rows = l1 * cp.sum(cp.norm(W, 2, axis=1)) if l1 else 0.0
    return rows + l2 / 2 * cp.sum_squares(W)


def svm(X, Y, l2, l1=0.0, smoothing=0.0, sample_weight=None):
    """Multiclass SVM on one-hot Y; the smoothed hinge as the infimal convolution of the hinge with ‖u‖²/(2γ)."""
    s, X, Y = weights_of(X, sample_weight), as_numpy(X), as_numpy(Y)
    W = cp.Variable((X.shape[1], Y.shape[1]))
    Z = X @ W
    smooth = 0.0
    if smoothing:
        U = cp.Variable(Y.shape)
        Z = Z - U
        smooth = cp.sum(cp.multiply(s[:, None], cp.square(U))) / (2 * smoothing)
    losses = cp.max(1 - Y + Z, axis=1) - cp.sum(cp.multiply(Y, Z), axis=1)
    return _minimum(W, s @ losses + smooth + _regularisation(W, l1, l2))


def group_lasso(X, Y, l1, l2=0.0, sample_weight=None):
    """Squared loss."""
    s, X, Y = weights_of(X, sample_weight), as_numpy(X), as_numpy(Y)
    W = cp.Variable((X.shape[1], Y.shape[1]))
    residual = cp.multiply(np.sqrt(s)[:, None], X @ W - Y)
    return _minimum(W, cp.sum_squares(residual) / 2 + _regularisation(W, l1, l2))
