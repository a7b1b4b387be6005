"""All checks for one layer: as a function that prints a table, and as a base class for pytest."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from . import table
from .named import Named
from .properties import PROPERTIES, run
from .runs import Row, Suite
from .subject import Subject


def check_layer(
    layer: Callable[..., Any] | None,
    problem: Any = "lasso",
    strengths: Mapping[str, float] | None = None,
    *,
    make: Callable[..., Callable[..., Any]] | None = None,
    max_examples: int = 100,
    tol: float = 1e-6,
    derivative_tol: float = 1e-5,
    labels: bool = False,
    shrink_seconds: float = 5.0,
    properties: Sequence[str] | None = None,
) -> list[Row]:
    """Run every check that applies to a layer on generated problems, print a table of what holds.

        check_layer(my_lasso, problem="lasso", strengths={"l1": 0.1})
        check_layer(None, problem="elastic_net", make=il.ElasticNet)          # strengths vary
        check_layer(my_layer, problem=lambda X, Y, W: ...)                    # an objective of your own

    The problems are the same at every run, until the code changes: hypothesis also draws numbers that it finds in the
    source of modules that are not installed, or installed as editable.

    Args:
        layer: ``(X, Y) -> W``; see `Subject`, also for ``make``, ``tol`` and ``derivative_tol``.
        problem: a name or an `objective`, or a function ``(X, Y, W, **strengths) -> (...)``.
        strengths: of ``layer``, by the problem's names; None: drawn, and passed to ``make``.
        make: ``(**strengths) -> layer``; strengths are numbers, or tensors over the batch, see `Subject`.
        max_examples: problems for the quickest checks; slower ones take a share.
        labels: classes are integers instead of one-hot.
        shrink_seconds: what goes into making the example of a failure smaller.
        properties: some of `PROPERTIES` by name; None: all.

    Returns:
        The table's rows.

    Raises:
        AssertionError: something does not hold; one error that lists all of it.
        ValueError: neither ``strengths`` nor ``make`` is given; ``problem`` is no objective; or no solution could be
            certified with ``strengths``, so that a right layer could not be told from a wrong one.
    """
    subject = Subject(layer, problem, make, tol, derivative_tol)
    if strengths is None and make is None and isinstance(subject.objective, Named):
        raise ValueError("strengths: given None, expected those of the layer, or make= to build layers for any")
    unknown = set(properties or ()) - set(PROPERTIES)
    if unknown:
        raise ValueError(f"properties: given {sorted(unknown)}, expected some of {', '.join(PROPERTIES)}")
    suite = Suite(subject, strengths, max_examples, labels, shrink_seconds)
    names = list(properties or PROPERTIES)
    rows = []
    with table.progress(len(names)) as advance:
        for name in names:
            rows.append(run(name, suite))
            advance(name)
    table.show(f"{_name(layer, make)} as {subject.objective.name}", rows)
    failed = [row for row in rows if row.holds is False]
    if failed:
        listed = "\n\n".join(f"{row.name}: {row.message}" for row in failed)
        raise AssertionError(f"{len(failed)} of {len(rows)} properties do not hold\n\n{listed}")
    return rows


def _name(layer: Any, make: Any) -> str:
    thing = layer if layer is not None else make
    return getattr(thing, "__name__", type(thing).__name__)


class LayerSuite:
    """Base class for pytest: one test per property.

        class TestMyLasso(LayerSuite):
            layer = staticmethod(my_lasso)
            problem = "lasso"
            strengths = {"l1": 0.1}

    Attributes are those of `check_layer`.
    """

    layer: ClassVar[Any] = None
    problem: ClassVar[Any] = "lasso"
    strengths: ClassVar[Mapping[str, float] | None] = None
    make: ClassVar[Any] = None
    max_examples: ClassVar[int] = 100
    tol: ClassVar[float] = 1e-6
    derivative_tol: ClassVar[float] = 1e-5
    labels: ClassVar[bool] = False

    def holds(self, name: str) -> None:
        """Fail unless the property holds; skip where it does not apply."""
        import pytest

        subject = Subject(self.layer, self.problem, self.make, self.tol, self.derivative_tol)
        row = run(name, Suite(subject, self.strengths, self.max_examples, self.labels))
        if row.holds is None:
            pytest.skip(f"{name}: {row.detail}")
        if not row.holds:
            pytest.fail(f"{name}: {row.message}", pytrace=False)

    def test_optimality(self) -> None:
        """`check_optimal`."""
        self.holds("optimality")

    def test_certificate(self) -> None:
        """`check_certificate`."""
        self.holds("certificate")

    def test_feasibility(self) -> None:
        """`check_feasible`."""
        self.holds("feasibility")

    def test_flags(self) -> None:
        """Few regular problems are flagged."""
        self.holds("flags")

    def test_l1_max(self) -> None:
        """`check_l1_max`."""
        self.holds("l1_max")

    def test_warm_starts(self) -> None:
        """`check_starts`."""
        self.holds("warm starts")

    def test_derivatives_in_reverse_mode(self) -> None:
        """`check_derivatives`."""
        self.holds("derivatives, reverse")

    def test_derivatives_in_forward_mode(self) -> None:
        """`check_derivatives`."""
        self.holds("derivatives, forward")

    def test_derivatives_of_the_argmin(self) -> None:
        """`check_argmin_derivatives`."""
        self.holds("derivatives of the argmin")

    def test_second_derivatives(self) -> None:
        """`check_derivatives`."""
        self.holds("second derivatives")

    def test_second_derivatives_in_all_compositions(self) -> None:
        """`check_derivatives`."""
        self.holds("second derivatives, all compositions")

    def test_forward_mode_over_vmap(self) -> None:
        """`check_forward_over_vmap`."""
        self.holds("forward over vmap")

    def test_metamorphic(self) -> None:
        """`check_metamorphic`."""
        self.holds("metamorphic")

    def test_offsets(self) -> None:
        """`check_offsets`."""
        self.holds("offsets")

    def test_batched_strengths(self) -> None:
        """`check_batched_strengths`."""
        self.holds("batched strengths")

    def test_batching(self) -> None:
        """`check_batching`."""
        self.holds("batching")

    def test_isolation(self) -> None:
        """`check_isolation`."""
        self.holds("isolation")

    def test_isolation_of_losses(self) -> None:
        """`check_isolated_losses`."""
        self.holds("isolation of losses")

    def test_memory_layout(self) -> None:
        """`check_layout`."""
        self.holds("memory layout")

    def test_dtypes(self) -> None:
        """`check_dtypes`."""
        self.holds("dtypes")

    def test_autocast(self) -> None:
        """`check_autocast`."""
        self.holds("autocast")

    def test_bad_input(self) -> None:
        """`check_bad_input`."""
        self.holds("bad input")

    def test_memory(self) -> None:
        """`check_memory`."""
        self.holds("memory")
