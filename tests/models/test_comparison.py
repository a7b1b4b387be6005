from dataclasses import replace

import pytest
import torch

from implicitlayers.models import comparison
from implicitlayers.models.comparison import (
    EncodedImages,
    compare_heads,
    draw_episodes,
    encode,
    evaluate,
    n_solves,
    one_standard_error_rule,
)
from implicitlayers.models.encoders import Conv4
from implicitlayers.models.episodes import EpisodeDataset
from implicitlayers.models.heads import ProtoNet, SVMHead


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Conv4(widths=(8,) * 4)


@pytest.fixture(scope="module")
def encoded(encoder, glyphs) -> EncodedImages:
    return encode(encoder, glyphs["val"])


def test_episodes_of_features_are_the_features_of_episodes(encoder, encoded, glyphs):
    """Encoding each image once, before episodes are drawn, gives what encoding each episode would."""
    (batch,) = draw_episodes(encoded, way=3, shot=2, query=2, n_episodes=3, seed=5)
    images = EpisodeDataset(glyphs["val"], 3, 2, 2, seed=5, n_episodes=3)[1]
    torch.testing.assert_close(batch.support[1], encoder.eval()(images.support), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.query[1], encoder.eval()(images.query), rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.classes[1], images.classes)


def test_evaluation_counts_episodes_over_all_batches(encoded):
    batches = draw_episodes(encoded, way=4, shot=1, query=3, n_episodes=comparison.EPISODES_PER_SOLVE + 5, seed=0)
    ticks = []
    result = evaluate(SVMHead(l2=0.003, l1=0.002), batches, "sparse", 0.002, lambda: ticks.append(1))
    assert len(batches) == len(ticks) == 2
    assert (result.way, result.shot, result.episodes) == (4, 1, comparison.EPISODES_PER_SOLVE + 5)
    assert result.usage.shape == (32,)
    assert result.usage.mean().item() == pytest.approx(result.features_used)
    assert 1 / 4 < result.accuracy < 1
    assert result.worst_gap <= 1e-6
    assert result.flagged == 0


def test_evaluation_does_not_depend_on_the_size_of_batches(encoded, monkeypatch):
    whole = evaluate(SVMHead(), draw_episodes(encoded, 4, 1, 3, n_episodes=10, seed=0))
    monkeypatch.setattr(comparison, "EPISODES_PER_SOLVE", 3)
    parts = evaluate(SVMHead(), draw_episodes(encoded, 4, 1, 3, n_episodes=10, seed=0))
    assert parts.accuracy == pytest.approx(whole.accuracy)
    assert parts.ci95 == pytest.approx(whole.ci95)


def test_all_heads_are_compared_and_one_l1_is_selected(encoded, monkeypatch):
    monkeypatch.setattr(comparison, "L1_GRID", (0.001, 0.004))
    monkeypatch.setattr(comparison, "L2_GRID", (0.003, 0.03))
    val, test = (draw_episodes(encoded, 3, 1, 2, n_episodes=4, seed=seed) for seed in (0, 1))
    ticks = []
    results = compare_heads(val, test, lambda: ticks.append(1))
    assert [r.head for r in results] == ["protonet", "ridge", "svm", *["group-lasso-svm"] * 2]
    assert [r.l1 for r in results] == [0, 0, 0, 0.001, 0.004]
    assert [r.features_used for r in results[:3]] == [1, 1, 1]
    assert sum(r.selected for r in results[3:]) == 1
    assert len(ticks) == n_solves(val, test)


def test_one_standard_error_rule_prefers_the_strongest_of_the_equally_good(encoded):
    base = evaluate(ProtoNet(), draw_episodes(encoded, 3, 1, 2, n_episodes=4, seed=0))
    accuracies = {0.1: 0.90, 0.2: 0.92, 0.4: 0.905, 0.8: 0.89}
    results = {l1: replace(base, accuracy=accuracy, ci95=0.0392) for l1, accuracy in accuracies.items()}
    assert one_standard_error_rule(results) == 0.4  # the standard error is 0.02
