"""The README's first example does as it stands what the README says of it."""

import re
from pathlib import Path

import pytest
import torch

import implicitlayers as il
from benchmarks import first_example

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def example():
    """The first block of Python in the README, as text."""
    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def test_the_first_example_is_the_one_that_is_measured(example):
    head = example[example.index("class ") :].strip()
    assert head in Path(first_example.__file__).read_text()


def test_the_first_example_learns(example):
    """Case 33: it stood still, its l1 being above the l1 that leaves nothing. A dead start is an error here."""
    names = {}
    exec(example, names)
    torch.manual_seed(1)
    head = names["SparseHead"](first_example.encoder())
    l1 = float(head.log_l1.detach())
    before, after = first_example.train(head, steps=30, batch=4, tests=40, seed=1)
    assert after[0] >= max(before[0] + 0.05, 3 / first_example.WAY)
    assert 0 < after[1] < 0.8
    assert float(head.log_l1.detach()) != l1


@torch.no_grad()
def test_scale_of_the_encoder_does_not_matter_to_the_first_example():
    """Another unit of the features is the same model."""
    torch.manual_seed(0)
    head = first_example.SparseHead(first_example.encoder())
    generator = torch.Generator().manual_seed(0)
    support, labels, query, _ = first_example.tasks(3, torch.eye(first_example.INPUTS), generator)
    scores, solution = head(support, labels, query)
    head.encoder[-1].weight *= 1000
    head.encoder[-1].bias *= 1000
    scaled, again = head(support, labels, query)
    assert solution.converged.all()
    assert (solution.support == again.support).all()
    assert (scores - scaled).abs().max() <= 1e-4 * scores.abs().max()


def test_warning_of_the_example_as_it_was():
    """Case 33: small features and an l1 that they cannot reach."""
    X = 0.01 * torch.randn(2, 25, 64, requires_grad=True).relu()
    with pytest.warns(il.EmptySolutionWarning, match="l1_max"):
        W = il.MulticlassSVM(l2=0.01, l1=0.01)(X, torch.arange(25) % 5)
    assert (W == 0).all()
