"""The system of a face with more free λ than coefficients that move: the same steps as the whole system's."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import labels, normal, one_hot, relative_error, uniform
from hypothesis import given, settings

import implicitlayers as il
from implicitlayers.dual_face import dual_face
from implicitlayers.hinges import MulticlassHinge, SmoothedHinge
from implicitlayers.low_rank_face import centred_basis, low_rank_face
from implicitlayers.penalties import GroupL2
from implicitlayers.problem import Problem
from implicitlayers.prox import project_simplex
from implicitlayers.solvers import conjugate_part


def problem(seed, n, m, k, smoothing, absent):
    X, Y = normal(2, n, m, seed=seed), one_hot(labels(2, n, k=k, seed=seed), k)
    weight = uniform(2, n, seed=seed)
    if absent:
        weight[:, 0] = 0
    weight = weight / weight.sum(-1, keepdim=True)
    mask = torch.ones(2, k, dtype=torch.bool)
    # The second element is not smoothed: one batch, two formulas.
    strengths = torch.tensor([smoothing, 0.0], dtype=torch.float64)
    loss = SmoothedHinge(strengths, mask) if smoothing else MulticlassHinge(mask)
    l1 = torch.full((2, 1), 0.01, dtype=torch.float64)
    return Problem(X, Y, weight, loss, GroupL2(l1), torch.full((2,), 0.1, dtype=torch.float64))


def face_of(problem, seed):
    """A Λ with many zeros, and V."""
    ones = torch.ones_like(problem.Y[..., :1])
    Lambda = project_simplex(0.6 * normal(*problem.Y.shape, seed=seed + 1), ones, torch.ones_like(problem.Y) > 0)
    return Lambda, problem.correlation(problem.Y - Lambda)


@settings(max_examples=30)
@given(
    st.integers(0, 1000),
    st.integers(3, 12),
    st.integers(1, 12),
    st.integers(2, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
)
def test_steps_are_those_of_the_whole_system(seed, n, m, k, absent, smoothing):
    """To the face's own residuals K d, of which both find d up to what K does not see; W moves alike."""
    p = problem(seed, n, m, k, smoothing, absent)
    Lambda, V = face_of(p, seed)
    low, whole = low_rank_face(p, Lambda, V), dual_face(p, Lambda, V)
    d = low._within(normal(*p.Y.shape, seed=seed + 2)) * (p.weight > 0)[..., None]
    # The derivative of the slope along d: κd − X·(derivative of W)·Xᵀs̄d, with the sign of W(Y − Λ).
    _, moved = torch.func.jvp(lambda L: p.scores(p.coef_of(p.correlation(p.Y - L))), (Lambda,), (d,))
    r = p.dual_loss.conjugate_curvature(p.l2)[:, None, None] * d - moved

    def change(step):
        return torch.func.jvp(lambda L: p.coef_of(p.correlation(p.Y - L)), (Lambda,), (step,))[1]

    one = change(low.step(p, low.residual(p, Lambda, torch.zeros_like(r)) * 0 + r))
    other = change(
        whole.step(
            p,
            (r.gather(-2, whole.edges.sample[..., None].expand_as(whole.edges.direction)) * whole.edges.direction).sum(
                -1
            ),
        )
    )
    expected = change(d)
    scale = expected.abs().amax() + 1e-9
    assert (one - expected).abs().amax() <= 1e-6 * scale
    assert (other - expected).abs().amax() <= 1e-6 * scale


def test_a_face_on_which_nothing_moves_costs_nothing():
    p = problem(0, 30, 4, 3, 0.0, False)
    p = p._replace(X=p.X[..., :0])
    Lambda, V = face_of(p, 0)
    face = low_rank_face(p, Lambda, V)
    assert face.core.numel() == 0
    assert (face.step(p, normal(*p.Y.shape)) == 0).all()
    assert face.singular.all()


@pytest.mark.parametrize("k", [2, 3, 7])
def test_the_basis_is_orthonormal_and_sums_to_zero(k):
    Q = centred_basis(k, torch.zeros(1, dtype=torch.float64))
    assert (Q.mT @ Q - torch.eye(k - 1)).abs().amax() <= 1e-14
    assert Q.sum(0).abs().amax() <= 1e-14


@pytest.mark.parametrize(("l1", "smoothing"), [(0.0, 0.0), (0.02, 0.0), (0.02, 0.3)])
def test_derivatives_are_those_of_the_whole_system(monkeypatch, l1, smoothing):
    """Duplicates leave λ free that the coefficients do not determine."""
    X, y = normal(3, 12, 4, seed=3), labels(3, 12, k=3)
    X[:, 6:], y[:, 6:] = X[:, :6].clone(), y[:, :6].clone()

    def gradients():
        features = X.clone().requires_grad_()
        W = il.MulticlassSVM(0.05, l1, smoothing, tol=1e-12)(features, y)
        (first,) = torch.autograd.grad((W * normal(*W.shape, seed=5)).sum(), features, create_graph=True)
        (second,) = torch.autograd.grad((first * normal(*first.shape, seed=6)).sum(), features)
        return first.detach(), second

    expected = gradients()
    made = []
    monkeypatch.setattr(conjugate_part, "more_free_than_moves", lambda *_: made.append(1) or True)
    found = gradients()
    assert made
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) <= 1e-6
