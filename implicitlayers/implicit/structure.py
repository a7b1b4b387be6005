"""What a user's function takes and what their solver returns, as tensors apart from everything else."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ambient import ordinary

TENSOR = object()  # Stands where a tensor was.


class Arguments(NamedTuple):
    """Arguments of a call: its tensors apart from everything else."""

    tensors: list[Tensor]
    rest: list[Any]
    spec: pytree.TreeSpec

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Arguments":
        """Of a call with these args and kwargs."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [ordinary(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
        return Arguments(tensors, [TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)

    def rebuild(self, tensors: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The args and kwargs with other tensors in the same places."""
        remaining = iter(tensors)
        return pytree.tree_unflatten([next(remaining) if leaf is TENSOR else leaf for leaf in self.rest], self.spec)


@dataclass(frozen=True)
class Structure:
    """A solution: unknowns are its floating-point tensors, in order, as one vector; other leaves are constants."""

    leaves: list[Any]
    spec: pytree.TreeSpec

    @staticmethod
    def of(solution: Any) -> "Structure":
        """Of what a solver returned; refuses what has nothing to differentiate."""
        leaves, spec = pytree.tree_flatten(solution)
        if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in leaves):
            raise ValueError("solver: given a complex result, expected real tensors; torch.view_as_real makes them")
        if not any(is_unknown(leaf) for leaf in leaves):
            given = describe(solution)
            raise ValueError(f"solver: given a result of {given}, expected one with floating-point tensors")
        return Structure(leaves, spec)

    @property
    def unknowns(self) -> list[Tensor]:
        """The floating-point tensors."""
        return [leaf for leaf in self.leaves if is_unknown(leaf)]

    @property
    def constants(self) -> list[Tensor]:
        """The other tensors."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor) and not is_unknown(leaf)]

    @property
    def dtype(self) -> torch.dtype:
        """Of the vector: that of the unknowns, at least float32."""
        return functools.reduce(torch.promote_types, [t.dtype for t in self.unknowns], torch.float32)

    @property
    def flat(self) -> Tensor:
        """The unknowns as one vector (d,)."""
        return self._vector(self.unknowns)

    def _vector(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat([t.reshape(-1).to(self.dtype) for t in tensors])

    def unflatten(self, x: Tensor) -> Any:
        """The solution's structure with the entries of x (d,)."""
        pieces = iter(x.split([t.numel() for t in self.unknowns]))
        leaves = [next(pieces).reshape(leaf.shape).to(leaf.dtype) if is_unknown(leaf) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)

    def flatten_like(self, name: str, tree: Any) -> Tensor:
        """The floating-point tensors of a tree structured as the solution, as one vector."""
        tensors = [leaf for leaf in pytree.tree_leaves(tree) if is_unknown(leaf)]
        given, expected = [tuple(t.shape) for t in tensors], [tuple(t.shape) for t in self.unknowns]
        if given != expected:
            raise ValueError(f"{name}: given a result of shapes {given}, expected {expected}, those of the solution")
        return self._vector(tensors)

    def with_constants(self, constants: Sequence[Tensor]) -> "Structure":
        """The same with other tensors for the constant ones."""
        remaining = iter(constants)
        return replace(
            self,
            leaves=[
                next(remaining) if isinstance(leaf, Tensor) and not is_unknown(leaf) else leaf for leaf in self.leaves
            ],
        )


def is_unknown(leaf: Any) -> bool:
    """A floating-point tensor."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def alike(column: tuple[Any, ...]) -> bool:
    """Leaves that can be stacked: tensors of one shape and dtype, or equal constants."""
    first = column[0]
    if isinstance(first, Tensor):
        return all(isinstance(t, Tensor) and t.shape == first.shape and t.dtype == first.dtype for t in column)
    return all(leaf is first or leaf == first for leaf in column)


def describe(value: Any) -> str:
    """For an error: the shape of a tensor, the type of anything else."""
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}, dtype {value.dtype}"
    return f"type {type(value).__name__}"
