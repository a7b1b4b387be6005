"""What is looked at of a layer's arguments: batches, strengths, dtypes, memory, and such as make no sense."""

import torch
from hypothesis import strategies as st

from .autocast import check_autocast
from .batches import check_batching, check_isolation
from .example import Example
from .inputs import check_bad_input, check_dtypes
from .isolation import check_isolated_losses
from .layout import check_layout
from .memory import check_memory
from .named import Named
from .runs import MILD, Suite
from .scaling import at_ratio, drawn_strengths
from .strengths import check_batched_strengths

# Samples and features where memory is looked at: X outweighs what is of samples by samples, and a matrix of features by
# features, which is to be caught, is still dealt with in seconds.
LARGE = (50, 1_000)


def batched_strengths(suite: Suite) -> str:
    """`check_batched_strengths`."""
    # As many problems as there are of nothing else: strengths that meet another dimension are told from it.
    strategy = suite.examples(batch=(7,), kinds=("generic",), n=st.integers(3, 6), m=suite.few, k=2)
    _, count = suite.each(lambda e: check_batched_strengths(suite.subject, e), 0.05, strategy)
    _, size = suite.larger(lambda e: check_batched_strengths(suite.subject, e), **MILD, batch=(7,))
    return f"{count + 1} batches of 7, up to {size}"


def batching(suite: Suite) -> str:
    """`check_batching`."""
    strategy = suite.examples(batch=(3,), kinds=("generic",), n=st.integers(3, 6), m=suite.few, k=2)
    _, count = suite.each(lambda e: check_batching(suite.subject, e), 0.08, strategy)
    _, size = suite.larger(lambda e: check_batching(suite.subject, e), **MILD, batch=(3,))
    return f"{count + 1} batches of 3, up to {size}"


def isolation(suite: Suite) -> str:
    """`check_isolation`."""
    strategy = suite.examples(batch=(3,), kinds=("generic",), n=st.integers(3, 6), m=suite.few, k=2, labels=False)
    _, count = suite.each(lambda e: check_isolation(suite.subject, e), 0.08, strategy)
    _, size = suite.larger(lambda e: check_isolation(suite.subject, e), **MILD, batch=(3,), labels=False)
    return f"{count + 1} batches of 3, each spoilt in several ways, up to {size}"


def isolated_losses(suite: Suite) -> str:
    """`check_isolated_losses`."""
    strategy = suite.examples(batch=(3,), kinds=("generic",), n=st.integers(3, 6), m=suite.few, k=2, labels=False)
    _, count = suite.each(lambda e: check_isolated_losses(suite.subject, e), 0.08, strategy)
    _, size = suite.larger(lambda e: check_isolated_losses(suite.subject, e), **MILD, batch=(3,), labels=False)
    return f"{count + 1} batches of 3, up to {size}"


def layout(suite: Suite) -> str:
    """`check_layout`."""
    strategy = suite.examples(batch=(2,), kinds=("generic",), n=st.integers(3, 6), k=2)
    _, count = suite.each(lambda e: check_layout(suite.subject, e), 0.08, strategy)
    _, size = suite.larger(lambda e: check_layout(suite.subject, e), **MILD, batch=(2,))
    return f"{count + 1} batches of 2, up to {size}"


def autocast(suite: Suite) -> str:
    """`check_autocast`."""
    _, count = suite.each(
        lambda e: check_autocast(suite.subject, e), 0.05, suite.examples(kinds=("generic",), n=st.integers(3, 6))
    )
    _, size = suite.larger(lambda e: check_autocast(suite.subject, e), **MILD)
    return f"{count + 1} problems up to {size}, around forward, backward and both"


def dtypes(suite: Suite) -> str:
    """`check_dtypes`."""
    strategy = suite.examples(kinds=("generic",), n=st.integers(3, 6))
    _, count = suite.each(lambda e: check_dtypes(suite.subject, e), 0.08, strategy)
    _, size = suite.larger(lambda e: check_dtypes(suite.subject, e), **MILD)
    return f"{count + 1} problems up to {size}"


def bad_input(suite: Suite) -> str:
    """`check_bad_input`."""
    strategy = suite.examples(kinds=("generic",), n=st.integers(3, 6), m=suite.few)
    suite.each(lambda e: check_bad_input(suite.subject, e), 0.02, strategy)
    return "shapes, dtypes" + (", strengths" if suite.subject.make else "")


def memory(suite: Suite) -> str:
    """`check_memory`."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(*LARGE, generator=generator, dtype=torch.float64)
    problem = suite.subject.objective
    classes = problem.classes if isinstance(problem, Named) else 0
    Y: torch.Tensor = X[:, :2] + torch.randn(len(X), 2, generator=generator, dtype=torch.float64)
    if classes:
        Y = torch.nn.functional.one_hot(torch.arange(len(X)) % 2, 2).to(X)
        Y = Y.argmax(-1) if suite.labels else Y
    example = Example(X, Y, dict(suite.strengths or {}))
    if isinstance(problem, Named):
        example = (
            drawn_strengths(problem, example, 0.3, 0.1, 0.0)
            if suite.strengths is None
            else at_ratio(problem, example, 0.3)
        )
    share = check_memory(suite.subject, example.X, Y, dict(example.strengths))  # type: ignore[arg-type]
    return f"{share:.1f} times X beside it, at {LARGE[0]} × {LARGE[1]:,}"
