"""Compare heads on one encoder: strengths chosen on validation classes, accuracy and sparsity on test classes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .datasets.glyphs import Glyphs
from .encoders import Encoder
from .episodes import Episode, EpisodeDataset
from .heads import Head, ProtoNet, RidgeHead, SVMHead
from .metrics import EpisodeAccuracy

L2_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
L1_GRID = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008)
EPISODES_PER_SOLVE = 25  # more fill the cores no better, and every batch waits for its slowest episode


@dataclass(frozen=True)
class Result:
    """One head with one strength on the test episodes of one number of shots.

    Attributes:
        head: protonet, ridge, svm or group-lasso-svm.
        l1: strength of the group Lasso; 0 for the dense heads.
        way: classes per episode.
        shot: labelled images per class.
        episodes: how many were solved.
        accuracy: mean over episodes, a fraction.
        ci95: half-width of its 95 % confidence interval.
        features_used: share of features with a nonzero row, mean over episodes.
        worst_gap: largest relative duality gap of a solve.
        flagged: number of solves that did not converge.
        seconds: time of all solves together.
        selected: whether validation chose this l1 for this head; always true for the dense heads.
        usage: (n_features,) share of episodes that use each feature.
    """

    head: str
    l1: float
    way: int
    shot: int
    episodes: int
    accuracy: float
    ci95: float
    features_used: float
    worst_gap: float
    flagged: int
    seconds: float
    selected: bool
    usage: Tensor = field(repr=False, compare=False)


@dataclass
class EncodedImages:
    """A data set with features (n_images, n_features) for images, to draw episodes from.

    In evaluation mode an image's features depend on that image alone, so each is encoded once, however many
    episodes, heads and strengths use it.
    """

    images: Tensor
    labels: Tensor
    families: Tensor


@torch.inference_mode()
def encode(encoder: Encoder, dataset: Glyphs) -> EncodedImages:
    """Features of all images of a data set, by the encoder in evaluation mode."""
    encoder.eval()
    features = [encoder(images / 255) for images in dataset.images.split(500)]
    return EncodedImages(torch.cat(features), dataset.labels, dataset.families)


def draw_episodes(encoded: EncodedImages, way: int, shot: int, query: int, n_episodes: int, seed: int) -> list[Episode]:
    """Episodes of features, in batches."""
    episodes = EpisodeDataset(encoded, way, shot, query, seed=seed, n_episodes=n_episodes)
    return list(DataLoader(episodes, batch_size=EPISODES_PER_SOLVE, collate_fn=Episode.collate))


def compare_heads(val: list[Episode], test: list[Episode], advance: Callable[[], None] = lambda: None) -> list[Result]:
    """Test all heads with the strengths that do best in validation, and the group-Lasso SVM with every l1.

    The l2 of ridge and SVM is the one of highest validation accuracy; the group-Lasso SVM has the SVM's, so that its
    curve starts at the SVM. Its *selected* l1 is the largest within one standard error of the best in validation
    (the one-standard-error rule: Hastie, Tibshirani, Friedman, The elements of statistical learning, section 7.10).

    Args:
        val: batches of episodes of features, of the validation classes.
        test: the same, of the test classes.
        advance: called after every batch that was solved: `n_solves` times.
    """
    ridge_l2, svm_l2 = (_best_l2(head, val, advance) for head in (RidgeHead, SVMHead))
    sparse = {l1: SVMHead(svm_l2, l1) for l1 in L1_GRID}
    selected_l1 = one_standard_error_rule({l1: evaluate(head, val, advance=advance) for l1, head in sparse.items()})

    dense = {"protonet": ProtoNet(), "ridge": RidgeHead(ridge_l2), "svm": SVMHead(svm_l2)}
    results = [evaluate(head, test, name, advance=advance) for name, head in dense.items()]
    for l1, sparse_head in sparse.items():
        result = evaluate(sparse_head, test, "group-lasso-svm", l1, advance)
        results.append(replace(result, selected=l1 == selected_l1))
    return results


def n_solves(val: list[Episode], test: list[Episode]) -> int:
    """Number of batches that `compare_heads` solves."""
    return (2 * len(L2_GRID) + len(L1_GRID)) * len(val) + (3 + len(L1_GRID)) * len(test)


def one_standard_error_rule(results: dict[float, Result]) -> float:
    """The largest strength whose accuracy is within one standard error of the best."""
    best = max(results.values(), key=lambda result: result.accuracy)
    return max(l1 for l1, result in results.items() if result.accuracy >= best.accuracy - best.ci95 / 1.96)


@torch.inference_mode()
def evaluate(
    head: Head, episodes: list[Episode], name: str = "", l1: float = 0.0, advance: Callable[[], None] = lambda: None
) -> Result:
    """Solve a head on batches of episodes of features and score it on their queries."""
    accuracy = EpisodeAccuracy()
    outputs = []
    start = time.perf_counter()
    for episode in episodes:
        way = episode.classes.shape[-1]
        output = head(episode.support, episode.support_labels, episode.query, way)
        accuracy.update(output.logits, episode.query_labels)
        outputs.append(output)
        advance()
    seconds = time.perf_counter() - start
    used = torch.cat([output.used for output in outputs])
    mean, ci95 = accuracy.compute()
    return Result(
        head=name,
        l1=l1,
        way=way,
        shot=episodes[0].support.shape[1] // way,
        episodes=len(used),
        accuracy=mean.item(),
        ci95=ci95.item(),
        features_used=used.float().mean().item(),
        worst_gap=max(output.gap.max().item() for output in outputs),
        flagged=sum(int((~output.converged).sum()) for output in outputs),
        seconds=seconds,
        selected=True,
        usage=used.float().mean(dim=0),
    )


def _best_l2(head: Callable[[float], Head], val: list[Episode], advance: Callable[[], None]) -> float:
    return max(L2_GRID, key=lambda l2: evaluate(head(l2), val, advance=advance).accuracy)
