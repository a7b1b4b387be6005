import pytest
import torch
from helpers import arrays, normal, simplex_points
from hypothesis import given
from hypothesis import strategies as st

from implicitlayers.prox import block_soft_threshold, project_simplex, soft_threshold

VECTORS = arrays(4, 3)
THRESHOLDS = st.sampled_from([0.0, 1.0]) | st.floats(0.01, 5)


def column(value):
    return torch.tensor(value, dtype=torch.float64).reshape(-1, 1)


@given(VECTORS, THRESHOLDS)
def test_block_soft_threshold_is_optimal(V, threshold):
    """V − P lies in the subdifferential of threshold·‖·‖ at P."""
    P = block_soft_threshold(V, column(threshold))
    norm = P.norm(dim=-1, keepdim=True)
    slope = torch.where(norm > 0, threshold * P / norm.clamp_min(1e-300), 0.0)
    inside = (V - P).norm(dim=-1) <= threshold + 1e-12
    on_boundary = (V - P - slope).norm(dim=-1) <= 1e-12 * (1 + V.norm(dim=-1))
    assert torch.where(norm[:, 0] > 0, on_boundary, inside).all()


@given(VECTORS, VECTORS, THRESHOLDS)
def test_block_soft_threshold_beats_every_other_point(V, other, threshold):
    def objective(U):
        return (U - V).square().sum(-1) / 2 + threshold * U.norm(dim=-1)

    assert (objective(block_soft_threshold(V, column(threshold))) <= objective(other) + 1e-9).all()


@given(VECTORS, THRESHOLDS)
def test_moreau_decomposition(V, threshold):
    """What is taken off is the projection on the ball of that radius."""
    projection = V * (column(threshold) / V.norm(dim=-1, keepdim=True).clamp_min(1e-300)).clamp_max(1)
    torch.testing.assert_close(block_soft_threshold(V, column(threshold)) + projection, V, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("operator", [block_soft_threshold, soft_threshold])
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_first_and_second_derivatives_at_zero_are_finite(operator, threshold):
    V = torch.zeros(2, 3, dtype=torch.float64)
    t = torch.full((2, 1), threshold, dtype=torch.float64)

    def value(V, t):
        return operator(V, t).sum()

    first = torch.func.jacrev(value, (0, 1))
    second = torch.func.jacfwd(first, (0, 1))
    assert torch.isfinite(operator(V, t)).all()
    assert all(torch.isfinite(d).all() for d in first(V, t))
    assert all(torch.isfinite(d).all() for row in second(V, t) for d in row)


@pytest.mark.parametrize("dim", [0, 1])
def test_dim_names_the_direction_of_the_vectors(dim):
    V = normal(3, 4)
    t = torch.full((1, 1), 0.8, dtype=torch.float64)
    expected = torch.stack([block_soft_threshold(v, t[0]) for v in V.unbind(1 - dim)], dim=1 - dim)
    torch.testing.assert_close(block_soft_threshold(V, t, dim), expected)


def masks_and_points(k=4):
    mask = st.lists(st.booleans(), min_size=k, max_size=k).filter(any).map(torch.tensor)
    return st.tuples(mask, arrays(3, k), simplex_points(3, k), st.sampled_from([0.0, 1.0]) | st.floats(0.01, 4))


@given(masks_and_points())
def test_project_simplex_is_the_nearest_point(case):
    """Feasible, and ⟨v − p, u − p⟩ ≤ 0 for every feasible u."""
    mask, v, u, total = case
    allowed = mask.expand_as(v)
    p = project_simplex(v, column(total), allowed)
    assert (p >= 0).all()
    assert (p[~allowed] == 0).all()
    torch.testing.assert_close(p.sum(-1), torch.full((3,), total, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    u = torch.where(allowed, u, 0.0)
    u = torch.where(u.sum(-1, keepdim=True) > 0, u, mask.to(u.dtype))
    u = total * u / u.sum(-1, keepdim=True)
    assert (((v - p) * (u - p)).sum(-1) <= 1e-9).all()


@given(masks_and_points())
def test_project_simplex_is_idempotent(case):
    mask, v, _, total = case
    p = project_simplex(v, column(total), mask.expand_as(v))
    torch.testing.assert_close(project_simplex(p, column(total), mask.expand_as(v)), p, rtol=1e-12, atol=1e-12)


def test_project_simplex_along_another_dim():
    v, total = normal(2, 4, 3), torch.tensor([[[1.0, 2.0, 0.5]]], dtype=torch.float64)
    allowed = torch.ones_like(v, dtype=torch.bool)
    expected = project_simplex(v.mT, total.mT, allowed.mT).mT
    torch.testing.assert_close(project_simplex(v, total, allowed, dim=1), expected)


@pytest.mark.parametrize("name", ["block_soft_threshold", "soft_threshold", "simplex"])
def test_derivatives_match_finite_differences(name):
    V = normal(4, 3, seed=1).requires_grad_()
    t = torch.full((4, 1), 0.9, dtype=torch.float64, requires_grad=True)
    allowed = torch.tensor([True, True, False]).expand(4, 3)
    operator = {
        "block_soft_threshold": block_soft_threshold,
        "soft_threshold": soft_threshold,
        "simplex": lambda V, t: project_simplex(V, t, allowed),
    }[name]
    assert torch.autograd.gradcheck(operator, (V, t), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(operator, (V, t))
