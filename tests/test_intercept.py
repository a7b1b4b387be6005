"""The unpenalised intercept of smooth losses."""

import numpy as np
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, uniform

import implicitlayers as il

N, M, K = 25, 8, 3
REGRESSION = {
    "ridge": lambda **o: il.Ridge(0.1, **o),
    "lasso": lambda **o: il.Lasso(0.1, **o),
    "group_lasso": lambda **o: il.GroupLasso(0.1, 0.05, **o),
    "nonnegative": lambda **o: il.NonNegativeRegression(0.05, 0.05, **o),
    "huber": lambda **o: il.HuberRegression(0.05, 0.05, delta=0.5, **o),
    "sparse_ridge": lambda **o: il.SparseRidge(0.1, 3, **o),
}
regressions = pytest.mark.parametrize("make", REGRESSION.values(), ids=REGRESSION)


def data():
    X = normal(2, N, M) + 2.0
    return X, X[..., :K] + normal(2, N, K, seed=1) - 3.0, uniform(2, N)


@regressions
def test_a_shift_of_the_targets_goes_into_the_intercept(make):
    X, Y, weight = data()
    layer = make(fit_intercept=True, tol=1e-12)
    W, b = layer(X, Y, sample_weight=weight)
    shifted_W, shifted_b = layer(X, Y + 10.0, sample_weight=weight)
    assert relative_error(shifted_W, W) <= 1e-8
    assert relative_error(shifted_b, b + 10.0) <= 1e-8


@regressions
def test_a_shift_of_the_features_goes_into_the_intercept(make):
    X, Y, weight = data()
    shift = normal(M, seed=3)
    layer = make(fit_intercept=True, tol=1e-12)
    W, b = layer(X, Y, sample_weight=weight)
    shifted_W, shifted_b = layer(X + shift, Y, sample_weight=weight)
    assert relative_error(shifted_W, W) <= 1e-8
    assert relative_error(shifted_b, b - shift @ W) <= 1e-8


SQUARED = {name: make for name, make in REGRESSION.items() if name != "huber"}


@pytest.mark.parametrize("make", SQUARED.values(), ids=SQUARED)
def test_with_the_squared_loss_it_is_the_layer_on_centred_data(make):
    X, Y, weight = data()
    s = (weight / weight.sum(-1, keepdim=True))[..., None]
    x, y = (s * X).sum(-2, keepdim=True), (s * Y).sum(-2, keepdim=True)
    W, b = make(fit_intercept=True, tol=1e-12)(X, Y, sample_weight=weight)
    centred = make(tol=1e-12)(X - x, Y - y, sample_weight=weight)
    assert relative_error(W, centred) <= 1e-9
    assert relative_error(b, (y - x @ centred)[..., 0, :]) <= 1e-9


@regressions
def test_predictions_add_the_intercept(make):
    X, Y, _ = data()
    solution = make(fit_intercept=True).solve(X, Y)
    torch.testing.assert_close(solution.predict(X), X @ solution.coef + solution.intercept[..., None, :])


def test_it_is_not_penalised():
    """With l1 beyond l1_max it is the best constant: the mean, the log of class shares, a point of balance."""
    X, Y, weight = data()
    s = (weight / weight.sum(-1, keepdim=True))[..., None]
    _, b = il.Lasso(1e3, fit_intercept=True)(X, Y, sample_weight=weight)
    torch.testing.assert_close(b, (s * Y).sum(-2))
    _, b = il.HuberRegression(1e3, delta=0.5, fit_intercept=True)(X, Y, sample_weight=weight)
    torch.testing.assert_close((s * (Y - b[:, None]).clamp(-0.5, 0.5)).sum(-2), torch.zeros_like(b), atol=1e-9, rtol=0)
    y = labels(2, N, k=K)
    _, b = il.LogisticRegression(1e3, fit_intercept=True)(X, y, sample_weight=weight)
    torch.testing.assert_close(b.softmax(-1), (s * one_hot(y, K)).sum(-2), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("strengths", [{"l1": 0.02}, {"l2": 0.05}, {"l1": 0.02, "l2": 0.05}])
def test_multinomial_intercepts_sum_to_zero(strengths):
    X, _, weight = data()
    _, b = il.LogisticRegression(**strengths, fit_intercept=True)(X, labels(2, N, k=K), sample_weight=weight)
    assert b.sum(-1).abs().max() <= 1e-9


def test_masked_classes_have_no_intercept():
    X, y = normal(N, M), labels(N, k=2)
    mask = torch.tensor([True, True, False])
    layer = il.LogisticRegression(l2=0.1, fit_intercept=True, n_classes=3, tol=1e-12)
    W, b = layer(X, y, class_mask=mask)
    alone_W, alone_b = il.LogisticRegression(l2=0.1, fit_intercept=True, n_classes=2, tol=1e-12)(X, y)
    torch.testing.assert_close(W, torch.cat([alone_W, torch.zeros(M, 1)], -1), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(b, torch.cat([alone_b, torch.zeros(1)]), atol=1e-8, rtol=1e-8)


def test_the_gap_certifies_huber_with_an_intercept():
    """P − D in numpy, at the dual point returned: |θ| ≤ δ, its weighted sum zero."""
    X, Y, weight = (a[0].numpy() for a in data())
    s, l1, l2, delta = weight / weight.sum(), 0.05, 0.05, 0.5
    solution = il.HuberRegression(l1, l2, delta=delta, fit_intercept=True).solve(
        torch.from_numpy(X), torch.from_numpy(Y), sample_weight=torch.from_numpy(weight)
    )
    W, b, theta = solution.coef.numpy(), solution.intercept.numpy(), solution.dual.numpy()
    assert np.abs(theta).max() <= delta + 1e-12
    assert np.abs(s @ theta).max() <= 1e-12
    r = np.abs(X @ W + b - Y)
    primal = (s[:, None] * np.where(r <= delta, r**2 / 2, delta * r - delta**2 / 2)).sum()
    primal += l1 * np.abs(W).sum() + l2 / 2 * (W**2).sum()
    V = np.maximum(np.abs(X.T @ (s[:, None] * theta)) - l1, 0)
    dual = -(s[:, None] * (theta**2 / 2 - theta * Y)).sum() - (V**2).sum() / (2 * l2)
    assert primal == pytest.approx(float(solution.objective), rel=1e-12)
    assert -1e-12 <= primal - dual <= 1e-9


def test_the_gap_certifies_logistic_regression_with_an_intercept():
    X, _, weight = (a[0].numpy() for a in data())
    y = labels(N, k=K)
    Y, s, l1, l2 = one_hot(y, K).numpy(), weight / weight.sum(), 0.02, 0.05
    solution = il.LogisticRegression(l1, l2, fit_intercept=True).solve(
        torch.from_numpy(X), y, sample_weight=torch.from_numpy(weight)
    )
    W, b, theta = solution.coef.numpy(), solution.intercept.numpy(), solution.dual.numpy()
    P = np.maximum(Y - theta, 1e-300)
    assert np.abs(s @ theta).max() <= 1e-12
    Z = X @ W + b
    primal = s @ (np.log(np.exp(Z).sum(-1)) - (Y * Z).sum(-1))
    primal += l1 * np.linalg.norm(W, axis=-1).sum() + l2 / 2 * (W**2).sum()
    V = np.maximum(np.linalg.norm(X.T @ (s[:, None] * theta), axis=-1) - l1, 0)
    dual = -s @ (P * np.log(P)).sum(-1) - (V**2).sum() / (2 * l2)
    assert primal == pytest.approx(float(solution.objective), rel=1e-12)
    assert -1e-12 <= primal - dual <= 1e-9


@pytest.mark.parametrize("layer", [il.MulticlassSVM, il.BinarySVM])
def test_the_hinge_refuses_it_and_says_what_to_do(layer):
    with pytest.raises(ValueError, match=r"fit_intercept.*constant column"):
        layer(0.1, fit_intercept=True)
