"""The properties that a layer is checked for, each on generated problems."""

from collections.abc import Callable

from . import derivative_properties, input_properties, solution_properties
from .failures import Inapplicable
from .named import Named
from .runs import Row, Suite

PROPERTIES: dict[str, Callable[[Suite], str]] = {
    "optimality": solution_properties.optimality,
    "certificate": solution_properties.certificate,
    "feasibility": solution_properties.feasibility,
    "flags": solution_properties.flags,
    "l1_max": solution_properties.l1_max,
    "warm starts": solution_properties.starts,
    "derivatives, reverse": derivative_properties.by_differences("reverse", 0.15),
    "derivatives, forward": derivative_properties.by_differences("forward", 0.1),
    "derivatives of the argmin": derivative_properties.of_the_argmin,
    "second derivatives": derivative_properties.by_differences("second", 0.05),
    "second derivatives, all compositions": derivative_properties.by_differences("compositions", 0.05),
    "forward over vmap": derivative_properties.forward_over_vmap,
    "metamorphic": solution_properties.metamorphic,
    "offsets": solution_properties.offsets,
    "batched strengths": input_properties.batched_strengths,
    "batching": input_properties.batching,
    "isolation": input_properties.isolation,
    "isolation of losses": input_properties.isolated_losses,
    "memory layout": input_properties.layout,
    "dtypes": input_properties.dtypes,
    "autocast": input_properties.autocast,
    "bad input": input_properties.bad_input,
    "memory": input_properties.memory,
}


def run(name: str, suite: Suite) -> Row:
    """One property by its name in `PROPERTIES`."""
    reason = inapplicable(name, suite)
    if reason:
        return Row(name, None, reason)
    try:
        return Row(name, True, PROPERTIES[name](suite))
    except Inapplicable as reason_found:
        return Row(name, None, str(reason_found))
    except AssertionError as error:
        return Row(name, False, "see below", str(error))


def inapplicable(name: str, suite: Suite) -> str:
    """Why a property does not apply; empty where it does."""
    subject, problem = suite.subject, suite.subject.objective
    if name in ("certificate", "flags") and not (subject.says_gap and isinstance(problem, Named)):
        return "the layer says nothing of its gap or status"
    if name == "derivatives of the argmin" and (
        not isinstance(problem, Named) or not problem.smooth or problem.fit_intercept or problem.n_nonzero is not None
    ):
        return "needs a named convex problem with smooth loss, without intercept"
    if name == "feasibility" and not (isinstance(problem, Named) and problem.constrained):
        return "needs a named problem with constraints"
    if name == "l1_max":
        return _without_l1_max(suite)
    if name == "warm starts" and not (subject.takes_starts and isinstance(problem, Named)):
        return "needs a named problem, and a method solve that takes init"
    if name == "offsets" and not (isinstance(problem, Named) and problem.fit_intercept):
        return "needs a named problem with an intercept"
    if name == "batched strengths" and (subject.make is None or suite.strengths is not None):
        return "needs make, and strengths that it is called with"
    if name == "memory" and isinstance(problem, Named) and (problem.groups or problem.n_nonzero):
        return "needs a layer for any number of features"
    return ""


def _without_l1_max(suite: Suite) -> str:
    problem = suite.subject.objective
    if not isinstance(problem, Named) or "l1" not in problem.strengths or not suite.subject.says_l1_max:
        return "needs a named problem with an l1, and a layer with a method l1_max"
    return "" if suite.subject.make is not None and suite.strengths is None else "needs make, called with other l1"
