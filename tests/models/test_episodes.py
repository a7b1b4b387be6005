import math
import pickle
import re
from itertools import chain, combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from implicitlayers.models.episodes import AffineJitter, Episode, EpisodeDataset

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # others may use the machine


def toy(labels, families=None):
    """Dataset whose image i is the number i in each of 1 x 2 x 2 pixels, so that drawn images can be traced."""
    dataset = SimpleNamespace(
        images=torch.arange(len(labels), dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        labels=torch.tensor(labels),
    )
    if families is not None:
        dataset.families = torch.tensor(families)
    return dataset


@st.composite
def toys(draw):
    """Datasets of 2 to 5 classes with gaps in the labels, 1 to 8 images each, in 2 to 4 families or none."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=2, max_size=5))
    labels = draw(st.permutations([3 * i + 1 for i, size in enumerate(sizes) for _ in range(size)]))
    if not draw(st.booleans(), label="with families"):
        return toy(labels)
    families = draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels)))
    assume(len(set(families)) > 1)
    return toy(labels, families)


numbers = {"way": st.integers(1, 4), "shot": st.integers(1, 4), "query": st.integers(1, 4)}


def is_possible(dataset, way, shot, query):
    """By trying every split of the families: can some ``way`` classes give support and query?"""
    labels = dataset.labels.numpy()
    classes = np.unique(labels)
    if not hasattr(dataset, "families"):
        return sum((labels == label).sum() >= shot + query for label in classes) >= way
    families = dataset.families.numpy()
    for size in range(1, 4):
        for chosen in combinations(range(4), size):
            first = np.isin(families, chosen)
            enough = [
                (first & (labels == label)).sum() >= shot and (~first & (labels == label)).sum() >= query
                for label in classes
            ]
            if sum(enough) >= way:
                return True
    return False


def drawn(images):
    """Indices of a toy's images."""
    return images[:, 0, 0, 0].long()


def assert_same(one, other):
    for field, expected in zip(one, other, strict=True):
        assert torch.equal(field, expected)


# Episodes as tasks


@unhurried
@given(dataset=toys(), seed=st.integers(0, 2**40), index=st.integers(0, 10**9), **numbers)
def test_an_episode_is_a_fair_task(dataset, seed, index, way, shot, query):
    assume(is_possible(dataset, way, shot, query))
    episodes = EpisodeDataset(dataset, way, shot, query, seed=seed, n_episodes=10**9 + 1)
    episode = episodes[index]
    support, queries = drawn(episode.support), drawn(episode.query)
    assert support.shape == episode.support_labels.shape == (way * shot,)
    assert queries.shape == episode.query_labels.shape == (way * query,)
    # Classes differ, labels number them in the order of `classes`, images belong to them.
    assert episode.classes.unique().numel() == way
    assert torch.equal(episode.support_labels, torch.arange(way).repeat_interleave(shot))
    assert torch.equal(episode.query_labels, torch.arange(way).repeat_interleave(query))
    assert torch.equal(dataset.labels[support], episode.classes[episode.support_labels])
    assert torch.equal(dataset.labels[queries], episode.classes[episode.query_labels])
    # No image twice, no family on both sides.
    assert torch.cat([support, queries]).unique().numel() == way * (shot + query)
    if hasattr(dataset, "families"):
        assert not set(dataset.families[support].tolist()) & set(dataset.families[queries].tolist())


@unhurried
@given(dataset=toys(), **numbers)
def test_refused_exactly_where_no_split_of_the_families_allows_it(dataset, way, shot, query):
    if is_possible(dataset, way, shot, query):
        EpisodeDataset(dataset, way, shot, query)
    else:
        with pytest.raises(ValueError, match="expected at most"):
            EpisodeDataset(dataset, way, shot, query)


@unhurried
@given(dataset=toys(), **numbers)
def test_the_maximum_an_error_names_is_the_maximum(dataset, way, shot, query):
    assume(not is_possible(dataset, way, shot, query))
    arguments = {"way": way, "shot": shot, "query": query}
    with pytest.raises(ValueError, match="expected at most") as caught:
        EpisodeDataset(dataset, **arguments)
    name, given_, most = re.match(r"(\w+)=(\d+): expected at most (\d+)", str(caught.value)).groups()
    assert int(given_) == arguments[name]
    # What the message does not blame, it leaves at the smallest there is.
    least = {"way": {"shot": 1, "query": 1}, "shot": {"query": 1}, "query": {}}[name]
    if not str(caught.value).endswith("the number of classes"):
        assert is_possible(dataset, **{**arguments, **least, name: int(most)})
    assert int(most) < arguments[name]
    assert not is_possible(dataset, **{**arguments, **least, name: int(most) + 1})


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_glyphs_support_and_query_come_from_other_families(glyphs, split, shot):
    dataset = glyphs[split]
    family_of = {  # no two images are the same
        image.numpy().tobytes(): family for image, family in zip(dataset.images, dataset.families.tolist(), strict=True)
    }

    def families(images):
        return {family_of[image.numpy().tobytes()] for image in (images * 255).round().byte()}

    episodes = EpisodeDataset(dataset, way=5, shot=shot, query=6, n_episodes=40)
    supports = [families(episode.support) for episode in episodes]
    queries = [families(episode.query) for episode in episodes]
    for support, query in zip(supports, queries, strict=True):
        assert not support & query
    assert set().union(*supports) == set().union(*queries) == {0, 1, 2, 3}


def test_every_class_and_every_split_of_the_families_gets_its_turn():
    dataset = toy(sorted([*range(6)] * 4), [0, 1, 2, 3] * 6)
    episodes = [*EpisodeDataset(dataset, way=2, shot=1, query=1, n_episodes=600)]
    times = torch.stack([episode.classes for episode in episodes]).flatten().bincount()
    assert times.min() > 150  # of 200 expected, standard deviation 12
    support = torch.cat([dataset.families[drawn(episode.support)] for episode in episodes]).bincount()
    assert support.min() > 240  # of 300 expected


# Same seed, same episodes (MAML-Pytorch-Multi-GPUs#2, torchmeta#69)


@pytest.fixture(scope="module")
def episodes(glyphs):
    return EpisodeDataset(glyphs["train"], way=3, shot=2, query=4, seed=11, n_episodes=12, augment=True)


@pytest.fixture(scope="module")
def expected(episodes):
    return [episodes[i] for i in range(len(episodes))]


@pytest.mark.parametrize("n_workers", [0, 1, 4])
@pytest.mark.parametrize("collate", [None, Episode.collate], ids=["default collate", "Episode.collate"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12+, about torch's threads; harmless here
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # machines with fewer cores
def test_same_episodes_for_any_number_of_workers(episodes, expected, n_workers, collate):
    batches = list(DataLoader(episodes, batch_size=4, num_workers=n_workers, collate_fn=collate))
    assert all(isinstance(batch, Episode) for batch in batches)
    assert batches[0].support.shape == (4, 6, 1, 32, 32)
    assert batches[0].classes.shape == (4, 3)
    assert_same([torch.cat(field) for field in zip(*batches, strict=True)], Episode.collate(expected))


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_processes_share_the_same_episodes_out(episodes, expected, n_processes):
    shares = [
        [*DistributedSampler(episodes, num_replicas=n_processes, rank=rank, shuffle=False)]
        for rank in range(n_processes)
    ]
    assert sorted(chain(*shares)) == list(range(len(episodes)))
    for share in shares:
        process = pickle.loads(pickle.dumps(episodes))
        for index, batch in zip(share, DataLoader(process, batch_size=None, sampler=share), strict=True):
            assert_same(batch, expected[index])


def test_order_of_access_and_the_global_generators_do_not_matter(episodes, expected):
    torch.manual_seed(0)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for index in (7, 3, 7, 0):
        assert_same(episodes[index], expected[index])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002


def test_episodes_differ_from_one_another_and_from_those_of_another_seed(glyphs, expected):
    other = EpisodeDataset(glyphs["train"], way=3, shot=2, query=4, seed=12, n_episodes=12, augment=True)
    for one, another in combinations([*expected, *other], 2):
        assert not torch.equal(one.support, another.support)
        assert not torch.equal(one.query, another.query)
    assert len({tuple(episode.classes.tolist()) for episode in [*expected, *other]}) == 24


def test_a_longer_list_starts_with_the_same_episodes(glyphs, expected):
    longer = EpisodeDataset(glyphs["train"], way=3, shot=2, query=4, seed=11, n_episodes=10**6, augment=True)
    assert_same(longer[5], expected[5])


# Jitter


def test_jitter_leaves_classes_and_images_drawn_as_they_are(glyphs, episodes, expected):
    plain = EpisodeDataset(glyphs["train"], way=3, shot=2, query=4, seed=11, n_episodes=12)
    still = AffineJitter(rotation=0, translation=0, scale=0, shear=0)
    unmoved = EpisodeDataset(glyphs["train"], way=3, shot=2, query=4, seed=11, n_episodes=12, augment=still)
    for index in range(12):
        assert torch.equal(plain[index].classes, expected[index].classes)
        assert not torch.equal(plain[index].support, expected[index].support)
        torch.testing.assert_close(plain[index].query, unmoved[index].query, atol=1e-5, rtol=0)


def test_jittered_images_stay_in_the_unit_interval_and_move_apart(expected):
    images = torch.cat([torch.cat([episode.support, episode.query]) for episode in expected])
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


def blob(height=40, width=80, row=12.0, column=55.0, n=64):
    """n copies of an image with one round blob, float64 (n, 1, height, width)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18.0).double()
    return image.expand(n, 1, height, width)


def offsets_from_centre(images):
    """Of the centre of mass, in pixels: (n, 2) as (x, y)."""
    height, width = images.shape[-2:]
    mass = images.sum(dim=(1, 2, 3))
    x = (images.sum(dim=(1, 2)) * (torch.arange(width) - (width - 1) / 2)).sum(dim=1) / mass
    y = (images.sum(dim=(1, 3)) * (torch.arange(height) - (height - 1) / 2)).sum(dim=1) / mass
    return torch.stack([x, y], dim=1)


def jittered_offsets(**bounds):
    still = {"rotation": 0.0, "translation": 0.0, "scale": 0.0, "shear": 0.0}
    images = AffineJitter(**{**still, **bounds})(blob(), np.random.default_rng(0))
    return offsets_from_centre(blob())[0], offsets_from_centre(images)


def test_rotation_keeps_distances_and_fills_its_bounds_in_degrees():
    before, after = jittered_offsets(rotation=20)
    torch.testing.assert_close(after.norm(dim=1), before.norm().expand(64), rtol=0.01, atol=0)
    turned = torch.rad2deg(torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[1], before[0]))
    assert -20.2 < turned.min() < -17 < 17 < turned.max() < 20.2


def test_translation_fills_its_bounds_as_a_share_of_the_sides():
    before, after = jittered_offsets(translation=0.1)
    shares = (after - before) / torch.tensor([80, 40])
    for share in shares.T:
        assert -0.101 < share.min() < -0.08
        assert 0.08 < share.max() < 0.101


def test_scale_fills_its_bounds():
    before, after = jittered_offsets(scale=0.2)
    factors = after / before
    torch.testing.assert_close(factors[:, 0], factors[:, 1], rtol=0.01, atol=0)
    assert 0.795 < factors.min() < 0.84
    assert 1.16 < factors.max() < 1.205


def test_shear_leans_verticals_by_its_bounds_in_degrees():
    before, after = jittered_offsets(shear=30)
    torch.testing.assert_close(after[:, 1], before[1].expand(64), rtol=0.01, atol=0)
    lean = torch.rad2deg(torch.atan((after[:, 0] - before[0]) / before[1]))
    assert -30.3 < lean.min() < -26 < 26 < lean.max() < 30.3


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation", -1.0), ("translation", math.nan), ("scale", 1.0), ("shear", 90.0), ("rotation", math.inf)],
)
def test_jitter_refuses_bounds_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r}: expected a number in \[0, "):
        AffineJitter(**{name: value})


# Arguments


def test_bytes_are_served_as_the_unit_interval_and_floats_as_they_are():
    dataset = toy([0, 0, 1, 1])
    assert EpisodeDataset(dataset, 2, 1, 1)[0].support.max() > 1
    dataset.images = torch.full((4, 3, 2, 2), 255, dtype=torch.uint8)
    assert EpisodeDataset(dataset, 2, 1, 1)[0].support.unique().tolist() == [1.0]


@pytest.mark.parametrize("name", ["way", "shot", "query", "n_episodes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, "5", None])
def test_numbers_must_be_positive_integers(glyphs, name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: expected an integer ≥ 1")):
        EpisodeDataset(glyphs["test"], **{name: value})


@pytest.mark.parametrize("value", [-1, 0.5, None])
def test_seed_must_be_a_nonnegative_integer(glyphs, value):
    with pytest.raises(ValueError, match=re.escape(f"seed={value!r}: expected an integer ≥ 0")):
        EpisodeDataset(glyphs["test"], seed=value)


@pytest.mark.parametrize("index", [-1, 12, 10**9])
def test_index_out_of_range(episodes, index):
    with pytest.raises(IndexError, match=f"index={index}: expected 0 … 11"):
        episodes[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": 15}, r"query=15: expected at most 8, all that 5 classes offer from other families \(shot=5\)"),
        ({"shot": 1, "query": 13}, "query=13: expected at most 12"),
        ({"shot": 13}, "shot=13: expected at most 12, which leaves 5 classes a query image from other families"),
        ({"way": 1000}, r"way=1000: expected at most \d+, the number of classes"),
    ],
)
def test_more_than_glyphs_has_is_refused(glyphs, arguments, message):
    with pytest.raises(ValueError, match=message):
        EpisodeDataset(glyphs["test"], **arguments)


@pytest.mark.parametrize("n_families", [1, 13])
def test_number_of_families_is_checked(n_families):
    with pytest.raises(ValueError, match=f"families: {n_families} different ones, expected 2 … 12"):
        EpisodeDataset(toy([0] * 13, [i % n_families for i in range(13)]))


@pytest.mark.parametrize("name", ["labels", "families"])
def test_labels_and_families_must_match_the_images(name):
    dataset = toy([0, 0, 1, 1], [0, 1, 0, 1])
    setattr(dataset, name, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape(f"{name}: shape (3,), expected one per image, (4,)")):
        EpisodeDataset(dataset, 2, 1, 1)
