"""Tests for layers whose output minimises something."""

from .batches import check_batching, check_isolation
from .derivatives import check_argmin_derivatives, check_derivatives
from .example import Example
from .inputs import check_bad_input, check_dtypes
from .kinds import KINDS
from .memory import check_memory
from .metamorphic import RELATIONS, check_metamorphic
from .objectives import NAMES, objective
from .optimality import check_certificate, check_optimal
from .strategies import examples
from .subject import Subject
from .suite import PROPERTIES, LayerSuite, check_layer

__all__ = [
    "KINDS",
    "NAMES",
    "PROPERTIES",
    "RELATIONS",
    "Example",
    "LayerSuite",
    "Subject",
    "check_argmin_derivatives",
    "check_bad_input",
    "check_batching",
    "check_certificate",
    "check_derivatives",
    "check_dtypes",
    "check_isolation",
    "check_layer",
    "check_memory",
    "check_metamorphic",
    "check_optimal",
    "examples",
    "objective",
]
