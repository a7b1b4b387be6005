"""Random problems are the same on every machine, and the variants of arithmetic are what they say."""

import arithmetic
import pytest
import torch
from helpers import labels, normal, uniform


def test_first_numbers_are_known():
    assert normal(2, 2, seed=3).tolist() == [
        [2.040919065475464, -2.5556650161743164],
        [0.4180988371372223, -0.5677695870399475],
    ]
    assert uniform(3, seed=3).tolist() == [0.6877573728561401, 0.7567058205604553, 0.99467933177948]
    assert labels(6, k=3, seed=3).tolist() == [0, 1, 2, 2, 1, 1]


@pytest.mark.parametrize("draw", [normal, uniform])
def test_numbers_have_the_digits_of_float32(draw):
    """Those that a processor's logarithm may change are rounded away, and features in float32 are the same problem."""
    numbers = draw(1000, seed=1)
    assert numbers.dtype == torch.float64
    assert torch.equal(numbers, numbers.to(torch.float32).to(torch.float64))


@pytest.mark.parametrize("extent", list(arithmetic.VARIANTS))
def test_every_extent_sees_both_values_of_everything(extent):
    for values in zip(*arithmetic.VARIANTS[extent], strict=True):
        assert len(set(values)) == 2


@pytest.mark.parametrize("failing", [None, 0, 1])
def test_one_variant_that_fails_fails_all(capsys, failing):
    variants = arithmetic.VARIANTS["quick"]
    code = arithmetic.main("quick", lambda variant, *_: failing is None or variant != variants[failing])
    assert code == (failing is not None)
    printed = capsys.readouterr().out
    assert printed.count("FAILED") == code
    assert all(str(arithmetic.possible(variant)) in printed for variant in variants)


def test_a_processor_without_the_instructions_runs_what_it_has(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert arithmetic.possible(arithmetic.Variant(2, "avx2", "AVX2")) == arithmetic.Variant(2, "default", "AVX2")
    seen = []
    assert arithmetic.main("full", lambda variant, *_: not seen.append(variant)) == 0
    assert {variant.torch for variant in seen} == {"default"}
    assert len(seen) == len(set(seen))


def test_what_is_not_known_is_refused():
    with pytest.raises(SystemExit, match="full"):
        arithmetic.main("some")
