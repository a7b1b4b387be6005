"""The kernel X C Xᵀ against its definition, whatever the groups and however it is taken in parts."""

import pytest
import torch
from helpers import labels, normal, relative_error, uniform

from implicitlayers import kernel as module
from implicitlayers.constraints import Box, ColumnSimplex
from implicitlayers.kernel import kernel, sandwiched
from implicitlayers.penalties import L1, GroupL2, NoPenalty, Partly, SparseGroup

B, N, M, K = 2, 3, 14, 2
STEP = torch.ones(B, dtype=torch.float64)
REAL = (torch.arange(M) != 4).expand(B, M)


def groups(of):
    return torch.as_tensor(of)[torch.arange(M)].expand(B, M)


PENALTIES = {
    "none": NoPenalty(),
    "l1": L1(0.5 * STEP),
    "rows": GroupL2(0.5 * STEP[:, None]),
    "neighbours": SparseGroup(0.2 * STEP, 0.5 * torch.ones(B, M).double(), groups(torch.arange(M) // 3 * 3)),
    "interleaved": SparseGroup(0.2 * STEP, 0.5 * torch.ones(B, M).double(), groups(torch.arange(M) % 4)),
    "scattered": SparseGroup(0.0 * STEP, 0.5 * torch.ones(B, M).double(), groups(labels(M, k=M, seed=3))),
    "box": Box(-0.5 * STEP, 0.8 * STEP, 0.1 * STEP),
    "simplex": ColumnSimplex(2.0 * STEP, REAL),
    "partly": Partly(GroupL2(0.5 * STEP[:, None]), (torch.arange(M) < M - 1).expand(B, M)),
}


@pytest.mark.parametrize("width", [1, 5, 256])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_the_kernel_is_x_c_xt(penalty, dtype, width, monkeypatch):
    monkeypatch.setattr(module, "WIDTH", width)
    X, V = normal(B, N, M, dtype=dtype), normal(B, M, K, seed=1)
    bend = penalty.curvature(torch.where(REAL[..., None], V, 0.0), STEP).on(REAL)
    assert (bend.across > 0).any()
    scale = uniform(B, 1, 1, seed=2)
    wide = torch.einsum("bij,cd->bicjd", X.double(), torch.eye(K).double()).flatten(3).flatten(1, 2)
    expected = wide @ bend.apply(scale * wide.mT)
    assert relative_error(kernel(X, bend, scale), expected) <= (1e-13 if dtype == torch.float64 else 1e-6)


def test_every_row_may_have_a_scale_of_its_own():
    X, V, scale = normal(B, N, M), normal(B, M, K, seed=1), uniform(B, M, 1, seed=2)
    bend = PENALTIES["rows"].curvature(V, STEP)
    assert relative_error(kernel(X, bend, scale), kernel(X * scale.sqrt().mT, bend, scale[:, :1] * 0 + 1)) <= 1e-13


def test_sandwiched_by_a_block_diagonal():
    A, root = normal(B, N * K, N * K), normal(B, N, K, K, seed=1)
    A = A + A.mT
    whole = torch.stack([torch.block_diag(*blocks) for blocks in root])
    assert relative_error(sandwiched(A, root), whole.mT @ A @ whole) <= 1e-13


@pytest.mark.parametrize("entries", [1, 200, 2**22])
def test_a_sum_of_blocks_is_that_of_its_terms(monkeypatch, entries):
    """However many samples are taken at a time."""
    monkeypatch.setattr(module, "BLOCK_ENTRIES", entries)
    X, B = normal(2, 7, 3, seed=1), normal(2, 7, 4, 4, seed=2)
    expected = torch.einsum("bip,bicd,biq->bpcqd", X, B, X).flatten(3, 4).flatten(1, 2)
    assert relative_error(module.block_gram(X, B), expected) <= 1e-13
