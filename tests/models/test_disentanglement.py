import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from implicitlayers.models.disentanglement import (
    correlations,
    dci_completeness,
    dci_disentanglement,
    importances,
    mcc,
    most_used,
    r_score,
    sparsity,
)
from tests.helpers import normal, uniform

METRICS = [mcc, r_score, dci_disentanglement, dci_completeness]
seeds = st.integers(0, 2**20)


def independent(n, d, seed=0):
    """Latents whose sample covariance is exactly the identity."""
    Z = normal(n, d, seed=seed)
    return torch.linalg.qr(Z - Z.mean(0)).Q * n**0.5


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, d=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_one_when_codes_are_the_latents_permuted_and_scaled(metric, seed, d):
    Z = normal(50, d, seed=seed)
    scale = uniform(d, seed=seed) * normal(d, seed=seed + 1).sign()
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    assert metric(Z, Z[:, order] * scale + normal(d, seed=seed + 2)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, d=st.integers(1, 4), m=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_between_zero_and_one_and_blind_to_order_scale_and_offset_of_codes(metric, seed, d, m):
    Z, C = normal(40, d, seed=seed), normal(40, m, seed=seed + 1) + normal(40, d, seed=seed) @ normal(d, m, seed=seed)
    value = metric(Z, C)
    assert 0 <= value <= 1 + 1e-12
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    changed = C[:, order] * 1e3 * uniform(m, seed=seed) - 7
    torch.testing.assert_close(metric(Z, changed), value, rtol=1e-6, atol=1e-8)


@given(seed=seeds, d=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_linear_mixtures_leave_r_at_one_and_lower_mcc(seed, d):
    Z = independent(60, d, seed)
    C = Z @ torch.linalg.qr(normal(d, d, seed=seed)).Q
    assert r_score(Z, C) == pytest.approx(1, abs=1e-9)
    assert mcc(Z, C) < 1 - 1e-6


@given(seed=seeds, d=st.integers(1, 4), m=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_r_is_at_least_mcc(seed, d, m):
    Z = normal(30, d, seed=seed)
    C = normal(30, m, seed=seed + 1) + Z @ normal(d, m, seed=seed)
    assert r_score(Z, C) >= mcc(Z, C) - 1e-9


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_r_is_that_of_scikit_learn(seed):
    Z, C = normal(30, 3, seed=seed), normal(30, 4, seed=seed + 1)
    C[:, 0] += Z.sum(-1)
    fit = LinearRegression().fit(C.numpy(), Z.numpy())
    residual = Z.numpy() - fit.predict(C.numpy())
    r2 = 1 - residual.var(0) / Z.numpy().var(0)
    assert r_score(Z, C) == pytest.approx((r2**0.5).mean(), abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds, dead=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_dead_codes_count_as_absent(metric, seed, dead):
    Z = normal(40, 3, seed=seed)
    C = Z @ normal(3, 4, seed=seed + 1) + normal(40, 4, seed=seed + 2)
    C[:, dead] = 0.1 + 1e5  # no exact zero after centring
    value, without = metric(Z, C), metric(Z, torch.cat([C[:, :dead], C[:, dead + 1 :]], -1))
    assert value.isfinite()
    if metric is not dci_completeness:  # whose entropy is to the base of the number of codes, dead or not
        torch.testing.assert_close(value, without, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_zero_when_all_codes_are_dead(metric):
    assert metric(normal(20, 3), torch.ones(20, 4)) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_batches_agree_with_single_calls(metric):
    Z, C = normal(2, 3, 40, 4), normal(2, 3, 40, 5, seed=1) + normal(2, 3, 40, 4) @ normal(4, 5)
    expected = torch.stack(
        [torch.stack([metric(z, c) for z, c in zip(*row, strict=True)]) for row in zip(Z, C, strict=True)]
    )
    torch.testing.assert_close(metric(Z, C), expected)


def test_mcc_assigns_one_code_to_each_latent():
    """A code that copies both latents can serve only one of them."""
    Z = independent(50, 2)
    both = torch.stack([Z.sum(-1), Z.sum(-1)], -1)
    assert mcc(Z, both) == pytest.approx(0.5**0.5, abs=1e-9)
    assert mcc(Z, both[:, :1]) == pytest.approx(0.5**0.5 / 2, abs=1e-9)
    assert correlations(Z, both).shape == (2, 2)


def test_more_codes_than_latents_are_scored_over_all_or_the_most_used():
    Z = independent(50, 3)
    C = torch.cat([Z @ torch.linalg.qr(normal(3, 3)).Q, Z], -1)
    assert mcc(Z, C) == pytest.approx(1, abs=1e-9)
    assert mcc(Z, most_used(C, torch.tensor([0.9, 0.8, 0.7, 0.1, 0.0, 0.2]), 3)) < 0.99
    assert mcc(Z, most_used(C, torch.tensor([0.0, 0.1, 0.0, 0.5, 0.6, 0.7]), 3)) == pytest.approx(1, abs=1e-9)


def test_dci_of_known_importances():
    """Codes z1 and z2 + z3: the first serves one latent, the second serves two alike."""
    Z = independent(400, 3)
    C = torch.stack([Z[:, 0], Z[:, 1] + Z[:, 2]], -1)
    torch.testing.assert_close(
        importances(Z, C), torch.tensor([[1, 0, 0], [0, 0.5**0.5, 0.5**0.5]], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )
    shared = 1 - torch.log(torch.tensor(2.0, dtype=torch.float64)) / torch.log(torch.tensor(3.0))
    torch.testing.assert_close(dci_disentanglement(Z, C), (1 + 2**0.5 * shared) / (1 + 2**0.5))
    torch.testing.assert_close(dci_disentanglement(Z, C, weighting="uniform"), (1 + shared) / 2)
    assert dci_completeness(Z, C) == pytest.approx(1, abs=1e-9)


def test_sparsity_is_the_share_of_tasks_that_use_a_code():
    coef = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
    torch.testing.assert_close(sparsity(coef), torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("Z", "C", "message"),
    [
        (normal(5, 2), normal(6, 2), "one row for each of the latents"),
        (normal(1, 2), normal(1, 2), "at least 2"),
        (torch.ones(5, 2, dtype=torch.int64), normal(5, 2), "latents: given torch.int64"),
        (normal(5, 2), normal(5), "codes: given"),
    ],
)
def test_wrong_inputs_are_named(metric, Z, C, message):
    with pytest.raises(ValueError, match=message):
        metric(Z, C)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="weighting: given 'equal'"):
        dci_disentanglement(normal(5, 2), normal(5, 2), weighting="equal")
    with pytest.raises(ValueError, match="usage: given shape"):
        most_used(normal(5, 2), torch.ones(3), 1)
    with pytest.raises(ValueError, match="n: given 3"):
        most_used(normal(5, 2), torch.ones(2), 3)


# Case 27: metrics on broken codes.


@pytest.mark.parametrize("metric", [*METRICS, correlations, importances])
@pytest.mark.parametrize("name", ["latents", "codes"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@given(row=st.integers(0, 9), column=st.integers(0, 2), batch=st.booleans())
@settings(max_examples=5)
def test_entries_that_are_not_finite_are_refused_by_name(metric, name, value, row, column, batch):
    given_ = {"latents": normal(2, 10, 3), "codes": normal(2, 10, 3, seed=1)}
    given_[name][1, row, column] = value
    if not batch:
        given_ = {key: tensor[1] for key, tensor in given_.items()}
    place = (1, row, column) if batch else (row, column)
    with pytest.raises(ValueError, match=re.escape(f"{name}: given {value} at {place}")):
        metric(**given_)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-200, 1e200, 1e300])
def test_scale_neither_overflows_nor_vanishes(metric, scale):
    """Squares of such codes are infinite, or zero: all codes then counted as dead."""
    Z, C = normal(40, 3), normal(40, 3, seed=1) + normal(40, 3)
    torch.testing.assert_close(metric(Z, C * scale), metric(Z, C))
    torch.testing.assert_close(metric(Z * scale, C), metric(Z, C))


@pytest.mark.parametrize("metric", [r_score, dci_disentanglement, dci_completeness])
def test_as_many_codes_as_rows_fit_anything_and_are_refused(metric):
    """R of random codes is 1 there. Dead codes do not count."""
    C = normal(6, 6, seed=1)
    for m in (5, 6):
        with pytest.raises(ValueError, match=f"^codes: given 6 rows of {m} codes that vary, expected at least {m + 2}"):
            metric(normal(6, 2), C[:, :m])
    C[:, 4:] = 1.0
    assert 0 <= metric(normal(6, 2), C) < 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("Z", "C", "message"),
    [
        (normal(5, 2).tolist(), normal(5, 2), "latents: given list"),
        (normal(5, 2), normal(5, 0), r"codes: given torch.float64 of shape \(5, 0\)"),
        (normal(5, 0), normal(5, 2), r"latents: given torch.float64 of shape \(5, 0\)"),
        (normal(5, 2), normal(5, 2) + 0j, "codes: given torch.complex128"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_named(metric, Z, C, message):
    with pytest.raises(ValueError, match=message):
        metric(Z, C)


@pytest.mark.parametrize(
    ("coef", "given_"),
    [
        (torch.full((2, 3, 1), torch.nan), "nan"),
        (torch.ones(3, 1), r"shape \(3, 1\)"),
        (torch.ones(0, 3, 1), r"shape \(0, 3, 1\)"),
        ([1.0], "list"),
    ],
)
def test_sparsity_of_what_is_no_solution(coef, given_):
    with pytest.raises(ValueError, match=f"^coef: given {given_}.* expected"):
        sparsity(coef)


def test_the_most_used_are_not_those_of_unknown_use():
    with pytest.raises(ValueError, match=r"^usage: given nan"):
        most_used(normal(5, 2), torch.tensor([0.5, torch.nan]), 1)
