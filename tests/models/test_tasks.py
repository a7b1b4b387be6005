import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicitlayers.models.datasets.correlated import Pool
from implicitlayers.models.datasets.latents import Latents
from implicitlayers.models.tasks import BinomialGaussian, FiniteSet, FixedSize, Gaussian, Laplace, TaskStream
from tests.helpers import normal

seeds = st.integers(0, 2**20)


def weights(distribution, n_tasks=2000, n_latents=6, n_targets=1, seed=0):
    return distribution.weights(n_tasks, n_latents, n_targets, torch.Generator().manual_seed(seed))


def pool(n=300, d=6):
    return Latents(n_latents=d).pool(n, correlation=0.5)


def test_supports_are_drawn_for_each_task_and_none_is_empty():
    """A latent is in a support with probability ½ given that it is not empty, whatever the other latents do."""
    support = (weights(BinomialGaussian(), 20_000)[..., 0] != 0).double()
    p = 0.5 / (1 - 0.5**6)
    assert support.any(-1).all()
    assert support.mean(0) == pytest.approx(torch.full((6,), p).double(), abs=0.02)
    together = support.T @ support / len(support)
    assert together[0, 1] == pytest.approx(0.25 / (1 - 0.5**6), abs=0.02)


@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_blocks_are_used_together_or_not_at_all(block):
    support = weights(BinomialGaussian(block=block))[..., 0] != 0
    blocks = support.unflatten(-1, (-1, block))
    assert (blocks.all(-1) == blocks.any(-1)).all()
    assert len(support.unique(dim=0)) == 2 ** (6 // block) - 1


@given(size=st.integers(1, 6), seed=seeds)
def test_fixed_supports_have_their_size(size, seed):
    assert ((weights(FixedSize(size), 50, seed=seed) != 0).sum(-2) == size).all()


def test_fixed_supports_are_equally_likely():
    _, counts = (weights(FixedSize(2), 15_000) != 0)[..., 0].unique(dim=0, return_counts=True)
    assert len(counts) == 15
    assert counts == pytest.approx(torch.full((15,), 1000), abs=150)


@pytest.mark.parametrize(("distribution", "variance", "kurtosis"), [(Gaussian(), 1, 3), (Laplace(), 2, 6)], ids=repr)
def test_dense_weights_have_the_moments_of_their_law(distribution, variance, kurtosis):
    w = weights(distribution, 200_000).double().flatten()
    assert w.mean() == pytest.approx(0, abs=0.01)
    assert w.square().mean() == pytest.approx(variance, rel=0.02)
    assert (w**4).mean() / w.square().mean() ** 2 == pytest.approx(kurtosis, rel=0.05)
    assert (w != 0).all()


@given(n_distinct=st.integers(1, 5), seed=seeds)
def test_a_finite_set_repeats_its_tasks_and_no_others(n_distinct, seed):
    distribution = FiniteSet(BinomialGaussian(), n_distinct, seed=seed)
    first, second = (weights(distribution, 100, seed=seed + i).flatten(1) for i in (1, 2))
    assert len(torch.cat([first, second]).unique(dim=0)) <= n_distinct
    assert len(first.unique(dim=0)) >= min(2, n_distinct)


@given(n_targets=st.integers(2, 4), seed=seeds)
def test_targets_of_a_task_share_its_support(n_targets, seed):
    support = weights(BinomialGaussian(), 50, n_targets=n_targets, seed=seed) != 0
    assert (support.all(-1) == support.any(-1)).all()


@given(seed=seeds, noise=st.sampled_from([0.0, 0.1, 2.0]))
@settings(max_examples=10)
def test_noise_has_its_share_of_the_signal_in_every_task(seed, noise):
    samples = TaskStream(pool(), FixedSize(1), steps=2, tasks=4, samples=200, n_targets=2, noise=noise, seed=seed)
    clean = TaskStream(pool(), FixedSize(1), steps=2, tasks=4, samples=200, n_targets=2, noise=0, seed=seed)
    difference = samples[1].targets - clean[1].targets
    share = difference.norm(dim=-2) / clean[1].targets.norm(dim=-2)
    torch.testing.assert_close(share, torch.full_like(share, noise), rtol=1e-4, atol=1e-6)


def test_targets_are_linear_in_the_latents_of_the_observations():
    linear = Latents(n_layers=1)
    tasks = TaskStream(linear.pool(300, correlation=0.5), BinomialGaussian(), steps=1, noise=0)[0]
    latents = (tasks.observations.double() @ linear.rotations[0].T)[:, None]
    residual = tasks.targets - latents @ torch.linalg.lstsq(latents, tasks.targets.double()).solution
    assert residual.abs().max() < 1e-5


@given(seed=seeds, step=st.integers(0, 4))
@settings(max_examples=10)
def test_a_step_depends_on_seed_and_number_alone(seed, step):
    streams = [TaskStream(pool(), BinomialGaussian(), steps=n, seed=seed) for n in (5, 9)]
    for same in zip(streams[0][step], streams[1][step], strict=True):
        assert torch.equal(*same)
    assert not torch.equal(streams[1][step].targets, streams[1][step + 1].targets)


def test_tasks_of_a_set_share_samples_and_nothing_else():
    linear = Latents(n_layers=1)
    stream = TaskStream(linear.pool(300, correlation=0.5), BinomialGaussian(), steps=1, tasks=6, shared=3, noise=0)
    observations, targets = stream[0]
    assert observations.shape == (2, 50, 6)
    assert targets.shape == (2, 3, 50, 1)
    latents = (observations.double() @ linear.rotations[0].T)[:, None].expand(-1, 3, -1, -1)
    w = torch.linalg.lstsq(latents, targets.double()).solution
    assert (targets - latents @ w).abs().max() < 1e-5
    assert len(w.flatten(0, 1)[..., 0].unique(dim=0)) == 6


def test_images_become_numbers_from_zero_to_one():
    images = Pool(torch.full((20, 3, 4, 4), 255, dtype=torch.uint8), normal(20, 2, dtype=torch.float32))
    tasks = TaskStream(images, Gaussian(), steps=1, tasks=2, samples=5)[0]
    assert tasks.observations.shape == (2, 5, 3, 4, 4)
    assert (tasks.observations == 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinomialGaussian(p=0), "p: given 0"),
        (lambda: BinomialGaussian(block=0), "block: given 0"),
        (lambda: weights(BinomialGaussian(block=4)), "divisor of the number of latents, 6"),
        (lambda: FixedSize(0), "size: given 0"),
        (lambda: weights(FixedSize(7)), "at most the number of latents, 6"),
        (lambda: FiniteSet(Gaussian(), 0), "n_distinct: given 0"),
        (lambda: TaskStream(pool(), Gaussian(), steps=0), "steps: given 0"),
        (lambda: TaskStream(pool(), Gaussian(), steps=1, noise=-1), "noise: given -1"),
        (lambda: TaskStream(pool(), Gaussian(), steps=1, tasks=8, shared=3), "divisor of the number of tasks, 8"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
