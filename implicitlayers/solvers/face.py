"""The constrained minimum of a Kronecker model, and the linear algebra of the face it lies on.

minimise ½⟨L, M L⟩ + ⟨C, L⟩    over L = √s̄Λ (b, n, k), Λ in the loss's domain
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..linear import cholesky
from . import simplex_qp


class FreeFace(NamedTuple):
    """No constraint: the face is everything, ``lower`` the Cholesky factor of M."""

    point: Tensor
    lower: Tensor

    @property
    def feasible(self) -> Tensor:
        """The minimiser itself."""
        return self.point

    @property
    def settled(self) -> Tensor:
        """Always found, (b,)."""
        return torch.ones(len(self.point), dtype=torch.bool, device=self.point.device)

    def tangent(self, R: Tensor) -> Tensor:
        """The identity."""
        return R

    def precondition(self, R: Tensor) -> Tensor:
        """M⁻¹R."""
        return torch.cholesky_solve(R, self.lower)


def free_face(M: Tensor, C: Tensor) -> FreeFace:
    """Solve the unconstrained model."""
    lower = cholesky(M)
    return FreeFace(-torch.cholesky_solve(C, lower), lower)


class SimplexFace(NamedTuple):
    """A face of the product of simplices; the solver's layout has classes before samples."""

    minimum: simplex_qp.FaceMinimum

    @property
    def point(self) -> Tensor:
        """The minimiser on the face; feasible if settled."""
        return self.minimum.point.mT

    @property
    def feasible(self) -> Tensor:
        """The best feasible point."""
        return self.minimum.feasible.mT

    @property
    def settled(self) -> Tensor:
        """True where the face is the right one, (b,)."""
        return self.minimum.settled

    def holds(self, Lambda: Tensor) -> bool:
        """Whether the face is the one that all of Λ (b, n, k) lie on: positive on it, zero elsewhere."""
        return bool(((Lambda > 0) == self.minimum.free.mT).all())

    def tangent(self, R: Tensor) -> Tensor:
        """Project on the directions within the face: per sample, less the mean over its free classes."""
        inside = self.minimum.free.mT.to(R.dtype)
        return inside * (R - (inside * R).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True))

    def precondition(self, R: Tensor) -> Tensor:
        """The minimiser within the face of ½⟨D, M D⟩ − ⟨R, D⟩."""
        return self.minimum.factor.solve(-R.mT)[0].mT


def simplex_face(
    M: Tensor, C: Tensor, free: Tensor, weight: Tensor, allowed: Tensor, max_iter: int, Lambda: Tensor
) -> SimplexFace:
    """Solve the model over simplices of sizes √s̄, from the feasible ``Lambda``; ``free`` guesses the face."""
    root = weight.sqrt()[:, None, :]
    program = simplex_qp.Program.of(M, C.mT, root, allowed.expand_as(Lambda).mT, free.mT)
    return SimplexFace(simplex_qp.minimise(program, root * Lambda.mT, free.mT, max_iter))


Face = FreeFace | SimplexFace
