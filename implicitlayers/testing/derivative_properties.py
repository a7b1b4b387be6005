"""What is looked at of a layer's derivatives, against differences and against an unrolled solver's."""

from collections.abc import Callable

from hypothesis import strategies as st

from . import derivatives
from .derivatives import check_argmin_derivatives, check_derivatives
from .forward import check_forward_over_vmap
from .runs import Suite, counted

# Of the larger problem: differences solve it dozens of times.
SIZE = {"n": 30, "m": 60}


def by_differences(mode: derivatives.Mode, share: float) -> Callable[[Suite], str]:
    """`check_derivatives` in one mode."""

    def run(suite: Suite) -> str:
        subject = suite.subject
        verdicts, _ = suite.each(lambda e: check_derivatives(subject, e, modes=(mode,)), share, suite.examples())
        verdict, size = suite.larger(lambda e: check_derivatives(subject, e, modes=(mode,)), **SIZE)
        return f"{counted([*verdicts, verdict])}, up to {size}"

    return run


def of_the_argmin(suite: Suite) -> str:
    """`check_argmin_derivatives`."""
    strategy = suite.examples(kinds=("generic",), n=st.integers(5, 8), m=suite.few, weights=False)
    verdicts, _ = suite.each(lambda e: check_argmin_derivatives(suite.subject, e), 0.1, strategy)
    # The steps that are followed have to converge, derivatives and all.
    verdict, size = suite.larger(lambda e: check_argmin_derivatives(suite.subject, e), n=40, m=20, ridge=1e-2)
    return f"{counted([*verdicts, verdict])}, up to {size}"


def forward_over_vmap(suite: Suite) -> str:
    """`check_forward_over_vmap`."""
    strategy = suite.examples(batch=(3,), kinds=("generic",), n=st.integers(3, 6), m=suite.few, k=2)
    _, count = suite.each(lambda e: check_forward_over_vmap(suite.subject, e), 0.05, strategy)
    _, size = suite.larger(lambda e: check_forward_over_vmap(suite.subject, e), **SIZE, batch=(2,), ridge=1e-2)
    return f"{count} batches of 3, one of 2, up to {size}"
