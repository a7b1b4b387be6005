import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score

from implicitlayers.models.datasets import raycast, rendered_shapes
from implicitlayers.models.datasets.cache import load_arrays, save_arrays
from implicitlayers.models.datasets.correlated import HALF_WIDTH, correlated_latents, uniform_latents
from implicitlayers.models.datasets.grid import cells_of, centres_of, with_grid_noise
from implicitlayers.models.datasets.rendered_shapes import EXPONENTS, LEVELS, RenderedShapes, scene_of

FACTORS = range(6)
seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def moved(latents, factor, share):
    """Latents with one factor moved by a share of its range, inwards."""
    step = share * 2 * HALF_WIDTH
    result = latents.clone()
    result[:, factor] += torch.where(latents[:, factor] > 0, -step, step)
    return result


def differences(one, other):
    """Absolute differences of images, in grey levels, float."""
    return (one.float() - other.float()).abs()


# The images


@few
@given(n=st.integers(1, 40), size=st.integers(8, 40), seed=seeds)
def test_images_are_bytes_and_depend_on_their_own_latents_alone(n, size, seed):
    shapes = RenderedShapes(size)
    latents = uniform_latents(n, 6, seed=seed)
    images = shapes.render(latents)
    assert images.shape == (n, 3, size, size)
    assert images.dtype == torch.uint8
    assert torch.equal(images, shapes.render(latents))
    alone = shapes.render(latents[-1:])
    assert differences(images[-1:], alone).max() <= 1  # a vectorised function may round otherwise at its end


@few
@given(seed=seeds, factor=st.sampled_from(FACTORS))
def test_images_change_continuously(seed, factor):
    """The largest change of any of some 200,000 pixels falls with the step, down to rounding."""
    shapes = RenderedShapes(64)
    latents = uniform_latents(16, 6, seed=seed)
    images = shapes.render(latents)
    for share, largest in ((1e-2, 90), (1e-3, 18), (1e-4, 3)):
        assert differences(images, shapes.render(moved(latents, factor, share))).max() <= largest


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("factor", FACTORS)
def test_every_factor_changes_every_image(factor, size):
    shapes = RenderedShapes(size)
    latents = uniform_latents(100, 6, seed=1)
    change = differences(shapes.render(latents), shapes.render(moved(latents, factor, 0.05)))
    assert change.sum(dim=(1, 2, 3)).min() > 3 * size  # grey levels, over all pixels
    assert change.amax(dim=(1, 2, 3)).min() >= 8


@pytest.mark.parametrize("factor", [0, 1, 2])
def test_first_and_last_hue_differ(factor):
    latents = torch.zeros(2, 6)
    latents[:, factor] = torch.tensor([-HALF_WIDTH, HALF_WIDTH])
    first, last = RenderedShapes(32).render(latents)
    assert differences(first, last).max() > 150


def test_factors_can_be_read_off_the_images():
    """Injective, and more: a smooth function of 60 linear features of the pixels has nearly no error."""
    latents = uniform_latents(4000, 6)
    pixels = RenderedShapes(32).render(latents).flatten(1).numpy() / 255
    train, test = slice(0, 3000), slice(3000, None)
    components = PCA(60, random_state=0, svd_solver="randomized").fit(pixels[train])
    features = components.transform(pixels) / np.sqrt(components.explained_variance_)
    model = KernelRidge(kernel="rbf", gamma=1 / 240, alpha=0.01).fit(features[train], latents[train])
    r2 = r2_score(latents[test], model.predict(features[test]), multioutput="raw_values")
    assert r2.min() > 0.98, r2


def test_half_the_size_shows_the_same_picture():
    latents = uniform_latents(50, 6)
    halved = torch.nn.functional.avg_pool2d(RenderedShapes(64).render(latents).float(), 2)
    assert differences(halved, RenderedShapes(32).render(latents)).mean() < 0.5


@pytest.mark.parametrize("factor", [0, 1, 2])
def test_a_hue_colours_its_own_part_alone(factor):
    """Floor, walls and object cover the image, and do not overlap but in the pixels of their edges."""
    size = 64
    shapes = RenderedShapes(size)
    latents = uniform_latents(30, 6, seed=2)
    images = shapes.render(latents)
    changed = [(differences(images, shapes.render(moved(latents, hue, 0.3))) > 0).any(dim=1) for hue in (0, 1, 2)]
    others = torch.stack([changed[hue] for hue in (0, 1, 2) if hue != factor]).any(dim=0)
    both = (changed[factor] & others).float().mean(dim=(1, 2))
    assert both.max() < 6 * size / size**2
    assert changed[factor].float().mean(dim=(1, 2)).min() > 0.03
    assert torch.stack(changed).any(dim=0).float().mean() > 0.999


def test_outline_of_a_ball_is_that_of_the_closed_form():
    """Pixels whose rays pass the ball's centre by less than its radius, by more than half a pixel."""
    size, n = 64, 20
    latents = uniform_latents(n, 6, seed=5)
    inverse = 1 / np.array(EXPONENTS)  # in which the factor is linear
    latents[:, 4] = HALF_WIDTH * (2 * (0.5 - inverse[0]) / (inverse[1] - inverse[0]) - 1)
    scene = scene_of(latents)
    torch.testing.assert_close(scene.exponent, torch.full((n,), 2.0))
    shapes = RenderedShapes(size)
    is_object = (differences(shapes.render(latents), shapes.render(moved(latents, 2, 0.3))) > 0).any(dim=1)

    distance, height, look_at = raycast._CAMERA_DISTANCE, raycast._CAMERA_HEIGHT, raycast._LOOK_AT_HEIGHT
    ticks = ((np.arange(size) + 0.5) / size * 2 - 1) * raycast._HALF_VIEW
    pixel = 2 * raycast._HALF_VIEW / size
    for azimuth, radius, inside in zip(scene.azimuth.tolist(), scene.scale.tolist(), is_object, strict=True):
        # In the camera's own frame: x to the right, z ahead; the ball's centre lies in the plane x = 0.
        angle = np.arctan2(height - look_at, distance)
        centre = np.array([height - radius, distance])  # below and ahead of the eye
        below = centre[0] * np.cos(angle) - centre[1] * np.sin(angle)
        ahead = centre[0] * np.sin(angle) + centre[1] * np.cos(angle)
        x, y = np.meshgrid(ticks, ticks)  # y downwards
        rays = np.stack([x, y, np.ones_like(x)], axis=-1)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        ball = np.array([0, below, ahead])
        passes = np.linalg.norm(np.cross(rays, ball), axis=-1)
        tolerance = pixel * distance
        inside = inside.numpy()
        assert inside[passes < radius - tolerance].all(), azimuth
        assert not inside[passes > radius + tolerance].any(), azimuth


@pytest.mark.parametrize("exponent", [1.4, 2.0, 3.0, 8.0])
def test_shapes_of_one_scale_have_one_volume(exponent):
    scale = torch.tensor([0.9])
    radius = raycast._radius(scale, torch.tensor([exponent]))
    ticks = (torch.arange(100) + 0.5) / 100  # an eighth of the box around it, by the midpoint rule
    inside = torch.cartesian_prod(ticks, ticks, ticks).pow(exponent).sum(dim=1) <= 1
    volume = inside.float().mean() * (2 * radius) ** 3
    assert volume.item() == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=3e-3)


def test_latents_beyond_the_box_show_its_border():
    beyond = torch.full((2, 6), 9.0) * torch.tensor([[1.0], [-1.0]])
    shapes = RenderedShapes(16)
    assert torch.equal(shapes.render(beyond), shapes.render(beyond.clamp(-HALF_WIDTH, HALF_WIDTH)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 4}, "size=4: expected at least 8"), ({"noise": 2}, "noise=2: expected a share")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RenderedShapes(**options)


# Pools


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_pools_show_latents_of_their_law(tmp_path, correlation):
    shapes = RenderedShapes(16, root=tmp_path)
    observations, latents = shapes.pool(70, correlation=correlation, seed=3)
    assert torch.equal(latents, correlated_latents(70, 6, correlation=correlation, seed=3))
    assert torch.equal(observations, shapes.render(latents))
    observations, latents = shapes.uniform_pool(70, seed=3)
    assert torch.equal(latents, uniform_latents(70, 6, seed=3))
    assert torch.equal(observations, shapes.render(latents))


@pytest.mark.parametrize("noise", [0, 0.5, 1])
def test_noise_puts_images_on_the_grid_and_latents_off_it(tmp_path, noise):
    shapes = RenderedShapes(16, noise=noise, root=tmp_path)
    observations, latents = shapes.uniform_pool(200)
    distinct = [len(factor.unique()) for factor in latents.T]
    assert distinct == list(LEVELS) if noise == 0 else min(distinct) > 150
    centres = centres_of(cells_of(uniform_latents(200, 6), LEVELS), LEVELS)
    assert torch.equal(observations, shapes.render(centres))
    assert torch.equal(latents, with_grid_noise(uniform_latents(200, 6), LEVELS, noise))


def test_all_levels_of_noise_share_their_images(tmp_path):
    for noise in (0, 0.25, 1):
        RenderedShapes(16, noise=noise, root=tmp_path).uniform_pool(5)
    assert len(os.listdir(tmp_path)) == 1


def test_second_use_reads_the_cache(tmp_path, monkeypatch):
    first = RenderedShapes(16, root=tmp_path).pool(40, correlation=0.9)
    monkeypatch.setattr(rendered_shapes, "render", lambda *_: pytest.fail("rendered again"))
    monkeypatch.setenv("IMPLICITLAYERS_CACHE", str(tmp_path))
    again = RenderedShapes(16).pool(40, correlation=0.9)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_every_pool_has_a_file_of_its_own(tmp_path):
    for options in ({}, {"size": 8}, {"noise": 1.0}):
        shapes = RenderedShapes(**({"size": 16, "root": tmp_path} | options))
        for n, seed in ((3, 0), (3, 1), (4, 0)):
            shapes.uniform_pool(n, seed=seed)
            for correlation in (0, 0.9, 0.90000001):
                shapes.pool(n, correlation=correlation, seed=seed)
    assert len(os.listdir(tmp_path)) == 3 * 3 * 4


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def web_page(path: Path) -> None:
    path.write_text("<html>404</html>" * 9)


def other_size(path: Path) -> None:
    save_arrays(path, {"images": np.zeros((40, 3, 8, 8), np.uint8), "latents": np.zeros((40, 6), np.float32)})


def other_latents(path: Path) -> None:
    save_arrays(path, load_arrays(path) | {"latents": np.zeros((40, 6), np.float32)})


@pytest.mark.parametrize("spoil", [cut_short, web_page, other_size, other_latents])
def test_a_file_that_is_not_the_pool_is_made_again_with_a_warning(tmp_path, spoil):
    shapes = RenderedShapes(16, root=tmp_path)
    pool = shapes.pool(40, correlation=0.9)
    (cached,) = tmp_path.iterdir()
    spoil(cached)
    with pytest.warns(UserWarning, match=rf"cached images are damaged and will be made again: .*{cached.name}"):
        again = shapes.pool(40, correlation=0.9)
    assert torch.equal(again.observations, pool.observations)
    shapes.pool(40, correlation=0.9)  # mended: no warning


def test_unwritable_cache_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("where a folder should be")
    with pytest.warns(UserWarning, match="images could not be cached"):
        pool = RenderedShapes(16, root=tmp_path / "file").uniform_pool(3)
    assert len(pool.observations) == 3
