"""Tests for layers whose output minimises something."""

from .autocast import check_autocast
from .batches import check_batching, check_isolation
from .derivatives import check_argmin_derivatives, check_derivatives
from .example import Example
from .feasibility import check_feasible
from .forward import check_forward_over_vmap
from .inputs import check_bad_input, check_dtypes
from .isolation import check_isolated_losses
from .kinds import KINDS
from .larger import larger
from .layout import check_layout
from .memory import check_memory
from .metamorphic import RELATIONS, check_metamorphic
from .objectives import NAMES, objective
from .offsets import check_offsets
from .optimality import check_certificate, check_optimal
from .starts import check_starts
from .strategies import examples
from .strengths import check_batched_strengths
from .subject import Subject
from .suite import PROPERTIES, LayerSuite, check_layer
from .thresholds import check_l1_max

__all__ = [
    "KINDS",
    "NAMES",
    "PROPERTIES",
    "RELATIONS",
    "Example",
    "LayerSuite",
    "Subject",
    "check_argmin_derivatives",
    "check_autocast",
    "check_bad_input",
    "check_batched_strengths",
    "check_batching",
    "check_certificate",
    "check_derivatives",
    "check_dtypes",
    "check_feasible",
    "check_forward_over_vmap",
    "check_isolated_losses",
    "check_isolation",
    "check_l1_max",
    "check_layer",
    "check_layout",
    "check_memory",
    "check_metamorphic",
    "check_offsets",
    "check_optimal",
    "check_starts",
    "examples",
    "larger",
    "objective",
]
