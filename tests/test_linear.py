import pytest
import torch
from helpers import normal

from implicitlayers.linear import factorise, invert

D = 5


def matrices(*ranks, seed=0):
    """Symmetric positive semi-definite matrices of these ranks."""
    return torch.stack([A @ A.mT for A in (normal(D, r, seed=seed + i) for i, r in enumerate(ranks))])


def test_factor_is_the_inverse():
    M, R = matrices(5, 7, 9), normal(3, D, 2)
    factor = factorise(M)
    assert not factor.singular.any()
    torch.testing.assert_close(factor.solve(R), torch.linalg.inv(M) @ R, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(factor.root @ factor.root.mT, torch.linalg.inv(M), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ranks", [(5, 7, 9), (6, 2), (3,), (0, 5)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_an_inverse_is_that_of_the_factor(ranks, scale):
    M, R = scale * matrices(*ranks), normal(len(ranks), D, 2)
    # Whatever the units of the unknowns.
    units = torch.logspace(-2, 2, D, dtype=torch.float64)
    M = M * units[:, None] * units
    inverse, factor = invert(M), factorise(M)
    assert torch.equal(inverse.singular, factor.singular)
    torch.testing.assert_close(inverse.solve(R), factor.solve(R), rtol=1e-6, atol=1e-6 / scale)
    assert (inverse.condition <= factor.condition * (1 + 1e-6)).all()


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_factor_of_a_singular_element_is_the_pseudo_inverse(rank):
    M, R = matrices(6, rank), normal(2, D, 2)
    factor = factorise(M)
    assert factor.singular.tolist() == [False, True]
    torch.testing.assert_close(factor.solve(R)[1], torch.linalg.pinv(M[1], hermitian=True) @ R[1], rtol=1e-7, atol=1e-7)


def test_zero_matrix_has_pseudo_inverse_zero():
    factor = factorise(torch.zeros(1, D, D, dtype=torch.float64))
    assert factor.singular.all()
    assert (factor.solve(normal(1, D, 2)) == 0).all()


@pytest.mark.parametrize("bad", ["singular", "zero"])
def test_a_singular_element_does_not_change_the_others(bad):
    good = matrices(5, 6, 8)
    other = {"singular": matrices(2)[0], "zero": torch.zeros(D, D)}[bad]
    mixed = torch.stack([good[0], other.to(torch.float64), good[1], good[2]])
    alone, among = factorise(good), factorise(mixed)
    assert among.singular.tolist() == [False, True, False, False]
    assert torch.equal(among.root[[0, 2, 3]], alone.root)
    assert torch.isfinite(among.root).all()


def test_scale_does_not_decide_about_singularity():
    for scale in (1e-24, 1e-12, 1e12, 1e24):
        assert factorise(scale * matrices(6, 2)).singular.tolist() == [False, True]


def test_systems_without_unknowns():
    factor = factorise(torch.zeros(3, 0, 0, dtype=torch.float64))
    assert factor.singular.tolist() == [False] * 3
    assert factor.solve(torch.zeros(3, 0, 2, dtype=torch.float64)).shape == (3, 0, 2)
