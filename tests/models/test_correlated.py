import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from implicitlayers.models.datasets.correlated import HALF_WIDTH, correlated_latents, uniform_latents
from implicitlayers.models.datasets.grid import cells_of, centres_of, check_noise, effective_images, with_grid_noise

SHAPES_LEVELS = (10, 10, 10, 8, 4, 15)
correlations = st.sampled_from([0, 0.5, 0.9, 0.99])
grids = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def cell_masses(correlation, n_cells, fine=60):
    """Masses of N(0, Σ) in n_cells x n_cells equal cells of the box in two dimensions, by the midpoint rule."""
    n = n_cells * fine
    middles = ((np.arange(n) + 0.5) / n * 2 - 1) * HALF_WIDTH
    covariance = np.array([[1, correlation], [correlation, 1]])
    points = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1)
    density = stats.multivariate_normal(cov=covariance).pdf(points)
    masses = density.reshape(n_cells, fine, n_cells, fine).sum(axis=(1, 3))
    return masses / masses.sum()


# The laws


@given(n=st.integers(1, 500), n_factors=st.integers(1, 8), correlation=correlations, seed=st.integers(0, 2**31))
def test_draws_lie_in_the_box_and_depend_on_the_seed_alone(n, n_factors, correlation, seed):
    for law in (uniform_latents, lambda *args, seed: correlated_latents(*args, correlation=correlation, seed=seed)):
        latents = law(n, n_factors, seed=seed)
        assert latents.shape == (n, n_factors)
        assert latents.dtype == torch.float32
        assert latents.abs().max() <= HALF_WIDTH + 1e-6
        torch.rand(3)  # the global generator is of no importance
        assert torch.equal(law(n, n_factors, seed=seed), latents)
        assert not torch.equal(law(n, n_factors, seed=seed + 1), latents)


@pytest.mark.parametrize("correlation", [0, 0.5, 0.9, 0.95])
def test_correlated_law_is_the_normal_restricted_to_the_box(correlation):
    latents = correlated_latents(40_000, 2, correlation=correlation)
    cells = cells_of(latents, (8, 8))
    counts = np.bincount(np.ravel_multi_index(tuple(cells.numpy().T), (8, 8)), minlength=64)
    expected = len(latents) * cell_masses(correlation, 8).ravel()
    large = expected > 8
    # All cells of next to no mass count as one.
    observed = [*counts[large], counts[~large].sum()] if not large.all() else counts
    predicted = [*expected[large], expected[~large].sum()] if not large.all() else expected
    assert stats.chisquare(observed, predicted).pvalue > 1e-3


@pytest.mark.parametrize("correlation", [0, 0.5, 0.8])
def test_correlated_law_is_the_weighted_uniform_law_in_six_dimensions(correlation):
    """What the paper does: uniform latents with weights N(z; 0, Σ)."""
    covariance = np.full((6, 6), correlation) + (1 - correlation) * np.eye(6)
    uniform = uniform_latents(400_000, 6).double().numpy()
    weights = stats.multivariate_normal(cov=covariance).pdf(uniform)
    moments = np.cov(uniform.T, aweights=weights)
    drawn = np.cov(correlated_latents(400_000, 6, correlation=correlation).numpy().T)
    effective = weights.sum() ** 2 / (weights**2).sum()
    np.testing.assert_allclose(drawn, moments, atol=5 / math.sqrt(effective))


def test_documented_moments_at_correlation_0_9():
    latents = correlated_latents(100_000, 6, correlation=0.9)
    off_diagonal = torch.corrcoef(latents.T)[~torch.eye(6, dtype=torch.bool)]
    assert latents.std(dim=0).mean() == pytest.approx(0.73, abs=0.01)
    assert off_diagonal.mean() == pytest.approx(0.82, abs=0.01)
    assert off_diagonal.std() < 0.01


def test_uniform_law_is_uniform_and_standardised():
    latents = uniform_latents(20_000, 6)
    for factor in latents.numpy().T:
        assert stats.kstest(factor, stats.uniform(-HALF_WIDTH, 2 * HALF_WIDTH).cdf).pvalue > 1e-3
    torch.testing.assert_close(torch.cov(latents.T), torch.eye(6), atol=0.03, rtol=0)


@pytest.mark.parametrize("correlation", [-0.1, 1, 1.5, math.nan])
def test_no_correlation_of_the_law_is_refused(correlation):
    with pytest.raises(ValueError, match=r"correlation=.*: expected a number in \[0, 1\)"):
        correlated_latents(3, 2, correlation=correlation)


@pytest.mark.parametrize(("sizes", "named"), [((0, 2), "n=0"), ((3, 0), "n_factors=0"), ((-1, 2), "n=-1")])
def test_empty_pools_are_refused(sizes, named):
    for draw in (uniform_latents, lambda *args: correlated_latents(*args, correlation=0.5)):
        with pytest.raises(ValueError, match=f"^{named}: expected at least 1$"):
            draw(*sizes)


# The grid


@given(levels=grids, data=st.data())
def test_centres_lie_in_their_cells_half_a_step_from_the_next(levels, data):
    cells = torch.tensor([[data.draw(st.integers(0, n - 1)) for n in levels] for _ in range(5)])
    centres = centres_of(cells, levels)
    assert torch.equal(cells_of(centres, levels), cells)
    half_steps = HALF_WIDTH / torch.tensor(levels)
    for side in (-0.99, 0.99):
        assert torch.equal(cells_of(centres + side * half_steps, levels), cells)


def test_edges_of_the_box_belong_to_the_outer_cells():
    box = torch.tensor([[-HALF_WIDTH], [HALF_WIDTH]])
    assert cells_of(box, (7,)).flatten().tolist() == [0, 6]


@given(levels=grids, seed=st.integers(0, 99))
def test_all_of_the_noise_leaves_latents_as_they_are(levels, seed):
    latents = uniform_latents(50, len(levels), seed=seed)
    torch.testing.assert_close(with_grid_noise(latents, levels, 1.0), latents, atol=1e-6, rtol=0)


@given(noise=st.sampled_from([0, 0.25, 0.5, 0.75, 1]))
def test_latents_with_grid_noise_are_standardised(noise):
    evenly = ((torch.arange(12_000) + 0.5) / 12_000 * 2 - 1) * HALF_WIDTH  # 12,000 is a multiple of all levels
    latents = with_grid_noise(evenly.unsqueeze(1).expand(-1, 6), SHAPES_LEVELS, noise)
    torch.testing.assert_close(latents.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.var(dim=0), torch.ones(6), atol=1e-3, rtol=0)


@given(noise=st.sampled_from([0.0, 0.25, 1.0]), n_levels=st.integers(2, 12))
def test_grid_noise_is_a_share_of_half_a_step_around_each_level(noise, n_levels):
    latents = uniform_latents(4000, 1)
    noisy = with_grid_noise(latents, (n_levels,), noise).flatten()
    cells = cells_of(latents, (n_levels,)).flatten()
    centres = torch.stack([noisy[cells == k].mean() for k in range(n_levels)])
    step = centres.diff().mean()
    reach = torch.stack([(noisy - centres[cells])[cells == k].abs().max() for k in range(n_levels)]).max()
    assert reach == pytest.approx(float(noise * step / 2), rel=0.1, abs=1e-6)


@pytest.mark.parametrize("noise", [-0.1, 1.1, math.nan])
def test_noise_outside_of_the_cells_is_refused(noise):
    with pytest.raises(ValueError, match=r"noise=.*: expected a share of half a grid step"):
        check_noise(noise)


@pytest.mark.parametrize("correlation", [0, 0.5, 0.95])
def test_effective_images_match_integrated_cells_in_two_dimensions(correlation):
    masses = cell_masses(correlation, 6)
    assert effective_images((6, 6), correlation) == pytest.approx(1 / (masses**2).sum(), rel=1e-3)


@pytest.mark.parametrize("correlation", [0.9, 0.99])
def test_effective_images_match_the_repetitions_in_a_pool(correlation):
    cells = cells_of(correlated_latents(60_000, 6, correlation=correlation), SHAPES_LEVELS).numpy()
    _, counts = np.unique(np.ravel_multi_index(tuple(cells.T), SHAPES_LEVELS), return_counts=True)
    n = counts.sum()
    same = (counts * (counts - 1)).sum() / (n * (n - 1))  # share of pairs of rows that show the same image
    assert effective_images(SHAPES_LEVELS, correlation) == pytest.approx(1 / same, rel=0.05)


@pytest.mark.parametrize(("correlation", "effective"), [(0.9, 4418), (0.95, 1189), (0.99, 104)])
def test_documented_effective_images_of_3d_shapes(correlation, effective):
    assert round(effective_images(SHAPES_LEVELS, correlation)) == effective


@settings(max_examples=15)
@given(levels=grids, correlation=correlations)
def test_effective_images_are_at_most_all_and_fall_with_correlation(levels, correlation):
    effective = effective_images(levels, correlation)
    assert 1 - 1e-9 <= effective <= math.prod(levels) + 1e-9
    assume(correlation > 0 and len(levels) > 1 and min(levels) > 1)
    assert effective < effective_images(levels, 0)
