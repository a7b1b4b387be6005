"""The same estimators in other libraries at tight tolerance, and with them the scalings that the README states."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, uniform
from oracles import solve_tightly
from sklearn import linear_model, svm

import implicitlayers as il

N, M, K = 40, 15, 3
TOLERANCE = 1e-6


def data(k=K, seed=0):
    X = normal(N, M, seed=seed)
    Y = X[:, :k] @ normal(k, k, seed=seed + 1) + normal(N, k, seed=seed + 2)
    return X, Y, uniform(N, seed=seed)


def agree(given, expected, tolerance=TOLERANCE):
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float64).reshape(given.shape)
    assert relative_error(given, expected, floor=1e-3) <= tolerance


intercepts = pytest.mark.parametrize("fit_intercept", [False, True])
seeds = pytest.mark.parametrize("seed", range(3))


def with_intercept(layer, X, Y, weight):
    returned = layer(X, Y, sample_weight=weight)
    return returned if layer.fit_intercept else (returned, torch.zeros(returned.shape[-1], dtype=X.dtype))


@seeds
@intercepts
def test_lasso_and_elastic_net_against_scikit_learn(fit_intercept, seed):
    """alpha = l1 + l2 and l1_ratio = l1/(l1 + l2)."""
    X, Y, weight = data(1, seed)
    for l1, l2 in ((0.1, 0.0), (0.05, 0.2)):
        layer = il.ElasticNet(l1, l2, fit_intercept=fit_intercept, tol=1e-13)
        peer = linear_model.ElasticNet(l1 + l2, l1_ratio=l1 / (l1 + l2), fit_intercept=fit_intercept, tol=1e-14)
        peer.max_iter = 100_000
        peer.fit(X.numpy(), Y[:, 0].numpy(), sample_weight=weight.numpy())
        coef, intercept = with_intercept(layer, X, Y, weight)
        agree(coef, peer.coef_)
        agree(intercept, peer.intercept_)


@seeds
@intercepts
def test_group_lasso_against_scikit_learn(fit_intercept, seed):
    """MultiTaskLasso(alpha=l1), which takes no weights."""
    X, Y, _ = data(seed=seed)
    layer = il.GroupLasso(0.2, fit_intercept=fit_intercept, tol=1e-13)
    peer = linear_model.MultiTaskLasso(0.2, fit_intercept=fit_intercept, tol=1e-14, max_iter=100_000)
    peer.fit(X.numpy(), Y.numpy())
    coef, intercept = with_intercept(layer, X, Y, None)
    agree(coef, peer.coef_.T)
    agree(intercept, peer.intercept_ * np.ones(K))


@seeds
@intercepts
def test_ridge_against_scikit_learn(fit_intercept, seed):
    """alpha = n·l2 where the weights have mean one."""
    X, Y, weight = data(seed=seed)
    layer = il.Ridge(0.3, fit_intercept=fit_intercept)
    peer = linear_model.Ridge(N * 0.3, fit_intercept=fit_intercept, solver="cholesky")
    peer.fit(X.numpy(), Y.numpy(), sample_weight=(weight / weight.mean()).numpy())
    coef, intercept = with_intercept(layer, X, Y, weight)
    agree(coef, peer.coef_.T)
    agree(intercept, peer.intercept_ * np.ones(K))


@seeds
@intercepts
def test_logistic_regression_against_scikit_learn(fit_intercept, seed):
    """C = 1/(n·l2) where the weights have mean one."""
    X, _, weight = data(seed=seed)
    y = labels(N, k=4, seed=seed)
    layer = il.LogisticRegression(l2=0.05, fit_intercept=fit_intercept, tol=1e-13)
    peer = linear_model.LogisticRegression(C=1 / (N * 0.05), fit_intercept=fit_intercept, tol=1e-12, max_iter=10_000)
    peer.solver = "newton-cg"
    peer.fit(X.numpy(), y.numpy(), sample_weight=(weight / weight.mean()).numpy())
    coef, intercept = with_intercept(layer, X, y, weight)
    agree(coef, peer.coef_.T)
    # Constants added to all classes are the same model; here they are fixed by a sum of zero.
    agree(intercept, (peer.intercept_ - peer.intercept_.mean()) * np.ones(4))


@seeds
def test_support_vector_machines_against_liblinear(seed):
    """C = 1/(n·l2), without intercept."""
    X, _, _ = data(seed=seed)
    l2 = 0.2
    for k, layer, options in (
        (4, il.MulticlassSVM(l2, tol=1e-13), {"multi_class": "crammer_singer"}),
        (2, il.BinarySVM(l2, tol=1e-13), {"loss": "hinge"}),
    ):
        y = labels(N, k=k, seed=seed)
        peer = svm.LinearSVC(C=1 / (N * l2), fit_intercept=False, tol=1e-10, max_iter=10_000_000, **options)
        peer.fit(X.numpy(), y.numpy())
        # LIBLINEAR's stopping rule leaves 1e-6 to 1e-5 in the coefficients.
        agree(layer(X, y), peer.coef_.T, tolerance=2e-5)


def test_metaoptnet_and_the_paper_scale_by_the_number_of_samples():
    """Their sums: C Σ hinge + ½‖W‖², and Σ hinge + λ₁ΣǁW_jǁ + λ₂/2‖W‖² with dual_reg/2·Σ‖λ − y‖²/λ₂ in the dual."""
    X, _, _ = data()
    y, k = labels(N, k=K), K
    l2, l1, smoothing = 0.1, 0.02, 0.3
    W = il.MulticlassSVM(l2, l1, smoothing, tol=1e-13)(X, y)
    lambda_1, lambda_2, dual_reg = N * l1, N * l2, N * l2 * smoothing
    # The paper's dual, in sums: its minimiser Λ gives W = BST(Xᵀ(Y − Λ), λ₁)/λ₂, in units where Σ hinge has weight one.
    Y = one_hot(y, k).numpy()
    L, U = cp.Variable((N, k)), cp.Variable((M, k))
    fitted = X.numpy().T @ (Y - L) - U
    objective = cp.sum_squares(fitted) / (2 * lambda_2) + cp.sum(cp.multiply(Y, L))
    objective += dual_reg / (2 * lambda_2) * cp.sum_squares(L - Y)
    constraints = [L >= 0, cp.sum(L, axis=1) == 1, cp.norm(U, 2, axis=1) <= lambda_1]
    cp.Problem(cp.Minimize(objective), constraints).solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13)
    agree(W, fitted.value / lambda_2)


def convex(X, loss, penalty, fit_intercept, constraints=lambda W: []):
    """Coefficients and intercept of min loss(Z) + penalty(W), by cvxpy."""
    W, b = cp.Variable((M, K)), cp.Variable((1, K))
    Z = X.numpy() @ W + (np.ones((N, 1)) @ b if fit_intercept else 0)
    problem = cp.Problem(cp.Minimize(loss(Z) + penalty(W)), constraints(W))
    status = solve_tightly(problem)
    # Where Clarabel says that it came only close, its coefficients are good to about 1e-5.
    tolerance = TOLERANCE if status == "optimal" else 10 * TOLERANCE
    return W.value, (b.value if fit_intercept else np.zeros((1, K)))[0], problem.objective.value, tolerance


def groups_norm(W, groups, weights):
    return sum(w * cp.norm(cp.vec(W[g], order="C"), 2) for g, w in zip(groups, weights, strict=True))


GROUPS = [[0, 3, 6], [1, 2], [4], [5, 7, 8, 9, 10], [11, 12, 13, 14]]
WEIGHTS = [1.0, 0.5, 2.0, 1.5, 0.8]
RIDGE = 0.03


def squared(Y, s):
    return lambda Z: cp.sum_squares(cp.multiply(np.sqrt(s)[:, None], Z - Y)) / 2


CONVEX = {
    "group_lasso": (
        lambda **o: il.GroupLasso(0.2, RIDGE, groups=GROUPS, group_weights=torch.tensor(WEIGHTS), **o),
        squared,
        lambda W: 0.2 * groups_norm(W, GROUPS, WEIGHTS),
        lambda W: [],
    ),
    "sparse_group_lasso": (
        lambda **o: il.SparseGroupLasso(0.05, 0.1, RIDGE, groups=GROUPS, group_weights=torch.tensor(WEIGHTS), **o),
        squared,
        lambda W: 0.05 * cp.sum(cp.abs(W)) + 0.1 * groups_norm(W, GROUPS, WEIGHTS),
        lambda W: [],
    ),
    "nonnegative": (
        lambda **o: il.NonNegativeRegression(0.05, RIDGE, **o),
        squared,
        lambda W: 0.05 * cp.sum(W),
        lambda W: [W >= 0],
    ),
    "box": (
        lambda **o: il.BoxRegression(-0.1, 0.3, RIDGE, **o),
        squared,
        lambda W: 0,
        lambda W: [W >= -0.1, W <= 0.3],
    ),
    "simplex": (
        lambda **o: il.SimplexRegression(1.0, RIDGE, **o),
        squared,
        lambda W: 0,
        lambda W: [W >= 0, cp.sum(W, axis=0) == 1],
    ),
    "huber": (
        lambda **o: il.HuberRegression(0.05, RIDGE, delta=0.5, **o),
        lambda Y, s: lambda Z: cp.sum(cp.multiply(s[:, None], cp.huber(Z - Y, 0.5))) / 2,
        lambda W: 0.05 * cp.sum(cp.abs(W)),
        lambda W: [],
    ),
}


@intercepts
@pytest.mark.parametrize("name", CONVEX)
def test_against_cvxpy(name, fit_intercept):
    make, loss, penalty, constraints = CONVEX[name]
    X, Y, weight = data()
    s = (weight / weight.sum()).numpy()
    solution = make(fit_intercept=fit_intercept, tol=1e-13).solve(X, Y, sample_weight=weight)
    coef, intercept, value, tolerance = convex(
        X, loss(Y.numpy(), s), lambda W: penalty(W) + RIDGE / 2 * cp.sum_squares(W), fit_intercept, constraints
    )
    agree(solution.coef, coef, tolerance)
    agree(solution.objective, value, tolerance=1e-8)
    if fit_intercept:
        agree(solution.intercept, intercept, tolerance)


@intercepts
def test_sparse_logistic_regression_against_cvxpy(fit_intercept):
    X, _, weight = data()
    y = labels(N, k=K)
    Y, s = one_hot(y, K).numpy(), (weight / weight.sum()).numpy()
    solution = il.LogisticRegression(0.03, RIDGE, fit_intercept=fit_intercept, tol=1e-13).solve(
        X, y, sample_weight=weight
    )
    coef, intercept, value, _ = convex(
        X,
        lambda Z: s @ (cp.log_sum_exp(Z, axis=1) - cp.sum(cp.multiply(Y, Z), axis=1)),
        lambda W: 0.03 * cp.sum(cp.norm(W, 2, axis=1)) + RIDGE / 2 * cp.sum_squares(W),
        fit_intercept,
    )
    # Clarabel's exponential cone reaches about 1e-9 in the value, the root of that in the coefficients.
    agree(solution.coef, coef, tolerance=1e-4)
    agree(solution.objective, value, tolerance=1e-8)
    assert float(solution.objective) <= value + 1e-12
    if fit_intercept:
        agree(solution.intercept, intercept - intercept.mean(), tolerance=1e-4)


@seeds
@intercepts
def test_group_lasso_against_skglm(fit_intercept, seed):
    from skglm import GroupLasso as PeerGroupLasso

    X, Y, _ = data(1, seed)
    order = [j for group in GROUPS for j in group]
    sizes = [len(group) for group in GROUPS]
    layer = il.GroupLasso(
        0.1, groups=GROUPS, group_weights=torch.tensor(WEIGHTS), fit_intercept=fit_intercept, tol=1e-13
    )
    peer = PeerGroupLasso(sizes, alpha=0.1, weights=np.array(WEIGHTS), fit_intercept=fit_intercept, tol=1e-12)
    peer.fit(X[:, order].numpy(), Y[:, 0].numpy())
    coef, intercept = with_intercept(layer, X, Y, None)
    agree(coef[order], peer.coef_)
    agree(intercept, np.asarray(peer.intercept_) * np.ones(1))


@pytest.fixture
def jax():
    """JAX in double precision; jaxopt is no longer maintained and warns about its own imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax = pytest.importorskip("jax", reason="jax is not installed")
        jaxopt = pytest.importorskip("jaxopt", reason="jaxopt is not installed")
        jax.config.update("jax_enable_x64", True)
        yield jaxopt
        jax.config.update("jax_enable_x64", False)


def test_lasso_against_jaxopt(jax):
    """With one target its least_squares is ½·mean (xw − y)², whatever its documentation says of factors."""
    X, Y, _ = data(1)
    peer = jax.ProximalGradient(jax.objective.least_squares, jax.prox.prox_lasso, tol=1e-13, maxiter=100_000)
    found = peer.run(np.zeros(M), 0.1, (X.numpy(), Y[:, 0].numpy())).params
    agree(il.Lasso(0.1, tol=1e-13)(X, Y), found)


def test_logistic_regression_against_jaxopt(jax):
    """Its l2_multiclass_logreg is the mean loss plus l2/2·‖W‖²."""
    X, _, _ = data()
    y = labels(N, k=4)
    peer = jax.LBFGS(jax.objective.l2_multiclass_logreg, tol=1e-12, maxiter=10_000)
    found = peer.run(np.zeros((M, 4)), 0.05, (X.numpy(), y.numpy())).params
    agree(il.LogisticRegression(l2=0.05, tol=1e-13)(X, y), found)
