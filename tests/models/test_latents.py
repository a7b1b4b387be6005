import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicitlayers.models.datasets.latents import Latents
from implicitlayers.models.disentanglement import r_score
from tests.helpers import normal


@given(seed=st.integers(0, 1000), d=st.integers(1, 7), slope=st.floats(0.1, 1))
@settings(max_examples=15)
def test_the_network_is_invertible(seed, d, slope):
    """Undone layer by layer: rotated back, and the leaky ReLU's inverse is one of slope 1/slope."""
    data = Latents(n_latents=d, negative_slope=slope, seed=seed)
    latents = normal(20, d, seed=seed)
    x = data.observe(latents).double() @ data.rotations[-1].T
    for rotation in reversed(data.rotations[:-1]):
        x = torch.where(x < 0, x / slope, x) @ rotation.T
    torch.testing.assert_close(x, latents, rtol=1e-4, atol=1e-4)


def test_the_network_is_linear_with_one_layer_only():
    for n_layers, linear in ((1, True), (3, False)):
        pool = Latents(n_layers=n_layers).uniform_pool(2000)
        assert (r_score(pool.latents, pool.observations) > 1 - 1e-6) == linear


def test_pools_repeat_themselves_and_differ_by_seed():
    data = Latents()
    for draw in (lambda seed: data.pool(50, correlation=0.9, seed=seed), lambda seed: data.uniform_pool(50, seed=seed)):
        assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
        assert not torch.equal(draw(1).latents, draw(2).latents)
    assert not torch.equal(
        data.pool(5, correlation=0).observations, Latents(seed=1).pool(5, correlation=0).observations
    )


def test_with_grid_noise_observations_stay_on_the_grid():
    exact, noisy = (Latents(noise=noise).uniform_pool(4000) for noise in (0.0, 1.0))
    assert torch.equal(exact.observations, noisy.observations)
    assert exact.latents[:, 4].unique().numel() == 4  # the levels of the shape in 3D Shapes
    assert noisy.latents[:, 4].unique().numel() > 1000
    assert (exact.latents - noisy.latents).abs().max() < 3**0.5 / 2  # no further than a cell of four


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_latents": 0}, "n_latents: given 0"),
        ({"n_layers": 0}, "n_layers: given 0"),
        ({"negative_slope": 0}, "negative_slope: given 0"),
        ({"noise": 2}, "noise=2"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Latents(**arguments)
