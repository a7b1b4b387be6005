import numpy as np
import pytest
import torch

from implicitlayers.models.metrics import EpisodeAccuracy


def random_episodes(n_episodes, q=6, way=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_episodes, q, way, generator=generator), torch.randint(
        way, (n_episodes, q), generator=generator
    )


def test_mean_and_interval_match_numpy_over_episodes():
    logits, labels = random_episodes(40)
    metric = EpisodeAccuracy()
    for batch in range(0, 40, 16):
        metric.update(logits[batch : batch + 16], labels[batch : batch + 16])
    accuracies = (logits.numpy().argmax(-1) == labels.numpy()).mean(axis=1)
    mean, ci95 = metric.compute()
    np.testing.assert_allclose(mean, accuracies.mean(), rtol=1e-6)
    np.testing.assert_allclose(ci95, 1.96 * accuracies.std(ddof=1) / np.sqrt(40), rtol=1e-5)


def test_the_interval_covers_the_mean_in_19_of_20_samples():
    """Episodes of unequal difficulty, whose queries are therefore correlated."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        difficulty = torch.rand(60, 1, generator=generator)
        right = torch.rand(60, 20, generator=generator) < difficulty
        metric = EpisodeAccuracy()
        metric.update(torch.stack([right, ~right], dim=-1).float(), torch.zeros(60, 20, dtype=torch.int64))
        mean, ci95 = metric.compute()
        covered += bool((mean - 0.5).abs() <= ci95)
    assert 0.92 <= covered / 400 <= 0.98


def test_one_episode_has_no_finite_interval():
    metric = EpisodeAccuracy()
    metric.update(*random_episodes(1))
    assert metric.compute().ci95 == torch.inf


def test_reset_forgets():
    metric = EpisodeAccuracy()
    metric.update(*random_episodes(5, seed=1))
    metric.reset()
    metric.update(*random_episodes(7, seed=2))
    fresh = EpisodeAccuracy()
    fresh.update(*random_episodes(7, seed=2))
    assert metric.compute() == fresh.compute()


def test_logits_without_a_largest_are_refused():
    """NaN would count as a vote for the class where it stands: case 27's relative."""
    logits, labels = random_episodes(3)
    logits[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^logits: given NaN in 1 of 3 episodes, the first 1, expected"):
        EpisodeAccuracy().update(logits, labels)
    logits[1, 2, 0] = -torch.inf  # a class that is ruled out
    EpisodeAccuracy().update(logits, labels)


@pytest.mark.parametrize("shape", [(3,), (6,), (1, 6), (3, 1)])
def test_labels_that_would_be_broadcast_are_refused(shape):
    with pytest.raises(ValueError, match=r"^labels: given shape .* expected"):
        EpisodeAccuracy().update(random_episodes(3)[0], torch.zeros(shape, dtype=torch.int64))
