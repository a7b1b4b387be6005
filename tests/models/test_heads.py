import math

import pytest
import torch
from torch.nn.functional import one_hot

import implicitlayers as il
from implicitlayers.models.heads import ProtoNet, RidgeHead, SVMHead, normalise

HEADS = {
    "protonet": ProtoNet(),
    "ridge": RidgeHead(l2=0.05),
    "svm": SVMHead(l2=0.02),
    "group-lasso-svm": SVMHead(l2=0.02, l1=0.005),
}
all_heads = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def clusters(batch=3, way=4, shot=2, query=3, m=20, seed=0, dtype=torch.float64):
    """Episodes of ``way`` noisy cluster centres: support (B, way·shot, m), labels, query, labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, way, m, generator=generator, dtype=dtype)
    labels = torch.arange(way).repeat_interleave(shot), torch.arange(way).repeat_interleave(query)
    images = [centres[:, y] + 0.3 * torch.randn(batch, len(y), m, generator=generator, dtype=dtype) for y in labels]
    return images[0], labels[0].expand(batch, -1), images[1], labels[1].expand(batch, -1)


@all_heads
def test_separated_clusters_are_told_apart(head):
    support, support_labels, query, query_labels = clusters()
    output = head(support, support_labels, query, way=4)
    assert torch.equal(output.logits.argmax(-1), query_labels)
    assert output.converged.all()
    assert output.gap.max() <= 1e-6


@all_heads
def test_permuting_episodes_permutes_the_output(head):
    support, labels, query, _ = clusters()
    order = torch.tensor([2, 0, 1])
    expected = head(support, labels, query, way=4).logits[order]
    torch.testing.assert_close(head(support[order], labels, query[order], way=4).logits, expected, rtol=1e-4, atol=1e-4)


@all_heads
def test_permuting_classes_permutes_the_logits(head):
    support, labels, query, _ = clusters()
    renamed = torch.tensor([3, 0, 2, 1])
    logits = head(support, labels, query, way=4).logits
    torch.testing.assert_close(
        head(support, renamed[labels], query, way=4).logits[..., renamed], logits, rtol=1e-4, atol=1e-4
    )


@all_heads
def test_the_scale_of_an_episode_does_not_matter(head):
    support, labels, query, _ = clusters()
    scale = torch.tensor([0.01, 1.0, 100.0]).view(3, 1, 1)
    expected = head(support, labels, query, way=4).logits
    torch.testing.assert_close(
        head(scale * support, labels, scale * query, way=4).logits, expected, rtol=1e-4, atol=1e-4
    )


@all_heads
def test_gradients_reach_features_and_logit_scale(head):
    support, labels, query, _ = clusters()
    support.requires_grad_()
    head(support, labels, query, way=4).logits.square().sum().backward()
    assert support.grad.abs().sum(dim=(1, 2)).min() > 0
    assert head.log_scale.grad.abs() > 0


def test_protonet_is_the_distance_to_class_means():
    support, labels, query, _ = clusters()
    logits = ProtoNet(scale=3.0)(support, labels, query, way=4).logits
    support, query = normalise(support, query)
    means = torch.stack([support[:, labels[0] == c].mean(dim=1) for c in range(4)], dim=1)
    torch.testing.assert_close(logits, -3 * torch.cdist(query, means) ** 2, check_dtype=False)


def test_ridge_solves_its_normal_equations():
    support, labels, query, _ = clusters()
    logits = RidgeHead(l2=0.05, scale=3.0)(support, labels, query, way=4).logits
    support, query = normalise(support, query)
    n, m = support.shape[-2:]
    gram = support.mT @ support / n + 0.05 * torch.eye(m, dtype=torch.float64)
    coef = torch.linalg.solve(gram, support.mT @ one_hot(labels, 4).double() / n)
    torch.testing.assert_close(logits, 3 * query @ coef)


@pytest.mark.parametrize("others", [{}, {"l1": 0.02}, {"l1": 0.02, "smoothing": 0.5}])
def test_svm_is_the_layer_on_normalised_features(others):
    strengths = {"l2": 0.02, **others}
    support, labels, query, _ = clusters()
    logits = SVMHead(**strengths, scale=3.0)(support, labels, query, way=4).logits
    support, query = normalise(support, query)
    torch.testing.assert_close(logits, 3 * query @ il.MulticlassSVM(**strengths)(support, labels))


def test_features_used_falls_with_l1_and_is_one_without():
    support, labels, query, _ = clusters()
    shares = [
        SVMHead(l2=0.02, l1=l1)(support, labels, query, way=4).features_used.mean().item()
        for l1 in (0.0, 0.01, 0.02, 0.05, 10.0)
    ]
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == len(shares)


def test_unused_features_do_not_influence_the_logits():
    support, labels, query, _ = clusters()
    output = SVMHead(l2=0.02, l1=0.01)(support, labels, query, way=4)
    unused = ~output.used[:, None, :]
    torch.testing.assert_close(SVMHead(l2=0.02, l1=0.01)(support, labels, query + unused, way=4).logits, output.logits)


def test_an_episode_without_any_feature_gives_equal_logits():
    support, labels, query, _ = clusters()
    for head in HEADS.values():
        logits = head(0 * support, labels, 0 * query, way=4).logits
        torch.testing.assert_close(logits, torch.zeros_like(logits))


def test_float32_in_float32_out():
    support, labels, query, _ = clusters(dtype=torch.float32)
    for head in HEADS.values():
        assert head(support, labels, query, way=4).logits.dtype == torch.float32


def test_the_logit_scale_starts_as_given_and_stays_positive():
    head = ProtoNet(scale=7.0)
    assert math.isclose(head.log_scale.exp().item(), 7.0, rel_tol=1e-6)
    torch.nn.init.constant_(head.log_scale, -50.0)
    assert head.log_scale.exp() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SVMHead(l2=0.0), "l2: given 0.0, expected a number > 0"),
        (lambda: SVMHead(l1=-0.1), "l1: given -0.1, expected a number ≥ 0"),
        (lambda: SVMHead(smoothing=-1.0), "smoothing: given -1.0, expected a number ≥ 0"),
        (lambda: RidgeHead(l2=-1.0), "l2: given -1.0, expected a number ≥ 0"),
        (lambda: ProtoNet(scale=0.0), "scale: given 0.0, expected a number > 0"),
    ],
)
def test_impossible_strengths_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
