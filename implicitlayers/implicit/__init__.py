"""Derivatives of argmins by the implicit function theorem: for a user's solver, and for the layers of this library."""

from .argmins import ImplicitFunction, Info, argmin, fixed_point, root
from .krylov import CG, GMRES, NormalCG
from .linear_solve import Dense, LinearReport, LinearSolve
from .newton import attach, is_differentiated, is_learnt, is_transformed, opaque, with_value

__all__ = [
    "CG",
    "GMRES",
    "Dense",
    "ImplicitFunction",
    "Info",
    "LinearReport",
    "LinearSolve",
    "NormalCG",
    "argmin",
    "attach",
    "fixed_point",
    "is_differentiated",
    "is_learnt",
    "is_transformed",
    "opaque",
    "root",
    "with_value",
]
