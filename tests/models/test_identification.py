"""The theorem: maximally sparse multi-task regression finds linearly mixed latents, if supports vary enough.

Lachapelle et al. (2023): codes that are an invertible linear map of the latents, and on which the tasks' predictors are
as sparse as they can be, are the latents up to permutation and scaling, if for every latent j the supports without j
have all other latents for their union. No network and no descent here, the sparsest codes are found exactly.
"""

from itertools import combinations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import implicitlayers as il
from implicitlayers.models.disentanglement import mcc, r_score
from implicitlayers.models.tasks import BinomialGaussian, FixedSize, Gaussian
from tests.helpers import normal

D, TASKS, SAMPLES = 4, 30, 40
seeds = st.integers(0, 2**20)


def sufficient(support):
    """Whether the supports (tasks, d) satisfy the condition."""
    d = support.shape[1]
    others = [support[~support[:, j]].any(0) | (torch.arange(d) == j) for j in range(d)]
    return bool(torch.stack(others).all())


def task_coefficients(codes, weights, Z):
    """Coefficients (tasks, d) of least squares of every task on the codes, by the library's layer."""
    return il.Ridge(0.0)(codes, Z @ weights.T).mT


def sparsest_unmixing(V):
    """The invertible matrix U (d, d) for which the predictors Uv have the fewest non-zeros, over the rows v of V.

    If v predicts a task from the codes C, Uv predicts it from CU⁻¹, and does without code j if row u_j ⟂ v. So the
    number of non-zeros is a sum over rows, to be minimised over bases of R^d: greedy is optimal (a matroid). A row of
    most zeros is orthogonal to d − 1 independent tasks, so these are all candidates there are.
    """
    d = V.shape[1]
    subsets = torch.tensor(list(combinations(range(len(V)), d - 1)))
    rows = torch.linalg.svd(V[subsets]).Vh[:, -1]
    zeros = ((rows @ V.T).abs() < 1e-9 * V.norm(dim=-1)).sum(-1)
    chosen: list[torch.Tensor] = []
    for i in zeros.argsort(descending=True, stable=True):
        if torch.linalg.matrix_rank(torch.stack([*chosen, rows[i]]), rtol=1e-6) > len(chosen):
            chosen.append(rows[i])
        if len(chosen) == d:
            break
    return torch.stack(chosen)


def recovered(weights, seed):
    """Latents, and the codes on which the tasks are sparsest, from latents mixed by a random invertible matrix."""
    Z = normal(SAMPLES, D, seed=seed)
    codes = Z @ (normal(D, D, seed=seed + 1) + 2 * torch.eye(D))
    U = sparsest_unmixing(task_coefficients(codes, weights, Z))
    return Z, codes @ torch.linalg.inv(U)


def drawn(distribution, seed):
    generator = torch.Generator().manual_seed(seed)
    return distribution.weights(TASKS, D, 1, generator)[..., 0].double()


@pytest.mark.parametrize("distribution", [BinomialGaussian(), FixedSize(1), FixedSize(2)], ids=repr)
@given(seed=seeds)
@settings(max_examples=8)
def test_sparsest_codes_are_the_latents_where_supports_vary_enough(distribution, seed):
    weights = drawn(distribution, seed)
    assume(sufficient(weights != 0))
    assert mcc(*recovered(weights, seed)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("distribution", [BinomialGaussian(block=2), BinomialGaussian(block=4), Gaussian()], ids=repr)
@given(seed=seeds)
@settings(max_examples=8)
def test_sparsest_codes_mix_what_all_tasks_share(distribution, seed):
    """Latents are still a linear function of the codes, but within a block nothing tells them apart."""
    weights = drawn(distribution, seed)
    assert not sufficient(weights != 0)
    Z, codes = recovered(weights, seed)
    assert r_score(Z, codes) == pytest.approx(1, abs=1e-6)
    assert mcc(Z, codes) < 0.999


@given(seed=seeds)
@settings(max_examples=8)
def test_blocks_of_latents_are_told_apart_from_other_blocks(seed):
    weights = drawn(BinomialGaussian(block=2), seed)
    assume((weights != 0).any(0).all() and (weights == 0).any(0).all())
    Z, codes = recovered(weights, seed)
    from_block = torch.stack([r_score(Z[:, block], codes) for block in ((0, 1), (2, 3))])
    assert from_block == pytest.approx(torch.ones(2), abs=1e-6)
    served = torch.linalg.lstsq(codes, Z).solution.abs() > 1e-6  # (codes, latents)
    assert (served[:, :2].any(-1) != served[:, 2:].any(-1)).all()
