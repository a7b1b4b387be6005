"""The same problems for cvxpy (Clarabel, tight tolerances): coefficients, least value, and the error to expect."""

import warnings

import cvxpy as cp
import numpy as np
from helpers import as_numpy, weights_of


def solve_tightly(problem):
    """By Clarabel, at several tolerances: its status. The variables are those of the lowest value.

    At the tightest it may give up, or say that it could not do better than close, and may then be further away than at
    the next one; which of them that happens at depends on the processor.
    """
    lowest, status, found = np.inf, None, []
    with warnings.catch_warnings():
        # The tests judge for themselves how close it has come.
        warnings.simplefilter("ignore")
        for tol in (1e-14, 1e-13, 1e-12, 1e-11, 1e-10):
            try:
                value = problem.solve(solver="CLARABEL", tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=10 * tol)
            except cp.error.SolverError:
                continue
            if value < lowest:
                lowest, status, found = value, problem.status, [variable.value for variable in problem.variables()]
            if problem.status == "optimal":
                break
    assert status in ("optimal", "optimal_inaccurate"), "Clarabel fails at every tolerance"
    for variable, value in zip(problem.variables(), found, strict=True):
        variable.value = value
    return status


def _minimum(W, objective):
    status = solve_tightly(cp.Problem(cp.Minimize(objective)))
    return W.value, objective.value, (1e-6 if status == "optimal" else 1e-5) * max(np.abs(W.value).max(), 1e-3)


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
