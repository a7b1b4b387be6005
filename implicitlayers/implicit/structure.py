"""What a user's function takes and what their solver returns, as tensors apart from everything else."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
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
        for leaf in leaves:
            if _is_closed(leaf):
                raise ValueError(
                    f"solver: given a result of type {type(leaf).__name__}, whose tensors would have no derivatives,"
                    " expected dicts, lists or tuples of tensors; torch.utils._pytree.register_dataclass opens it"
                )
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
        """The floating-point tensors of a tree structured as the solution, as one vector in the solution's order.

        Tensors are matched by where they are, dictionaries by key, and not by the order in which they come.
        """
        expected, given = _matched(pytree.tree_unflatten(self.leaves, self.spec), tree)
        tensors = [given[path] for path in expected if path in given]
        if given.keys() != expected.keys() or [t.shape for t in tensors] != [t.shape for t in expected.values()]:
            raise ValueError(f"{name}: {_mismatch(given, expected)}")
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


def _is_closed(leaf: Any) -> bool:
    """A dataclass with tensors that pytrees do not look into."""
    return is_dataclass(leaf) and any(isinstance(getattr(leaf, field.name, None), Tensor) for field in fields(leaf))


def _matched(solution: Any, tree: Any) -> tuple[dict[Any, Tensor], dict[Any, Tensor]]:
    """The floating-point tensors of both by their place; a plain tuple stands for a named one, by position."""
    for fields_of_solution, fields_of_tree in ((True, True), (False, True), (True, False)):
        expected, given = _places(solution, fields_of_solution), _places(tree, fields_of_tree)
        if given.keys() == expected.keys():
            return expected, given
    return _places(solution), _places(tree)


def _places(tree: Any, named_tuples: bool = True) -> dict[Any, Tensor]:
    """The floating-point tensors by the keys that lead to them, fields of named tuples by name or by position."""
    return {path: leaf for path, leaf in _leaves(tree, (), named_tuples) if is_unknown(leaf)}


def _leaves(tree: Any, path: tuple[Any, ...], named_tuples: bool) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Leaves by path, one level at a time: a class registered without keys has positions, whatever is around it."""
    children = pytree.tree_leaves(tree, is_leaf=lambda node: node is not tree)
    if len(children) == 1 and children[0] is tree:
        yield path, tree
        return
    keys: list[Any] = [pytree.SequenceKey(i) for i in range(len(children))]
    if named_tuples or not pytree.is_namedtuple_instance(tree):
        try:
            keyed, _ = pytree.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
            keys = [key for (key,), _ in keyed]
        except ValueError:
            pass
    for key, child in zip(keys, children, strict=True):
        yield from _leaves(child, (*path, key), named_tuples)


def _mismatch(given: dict[Any, Tensor], expected: dict[Any, Tensor]) -> str:
    """What a result of other shapes, or with its tensors in other places, is told."""
    shapes = [[tuple(tensor.shape) for tensor in each.values()] for each in (given, expected)]
    message = f"given a result of shapes {shapes[0]}, expected {shapes[1]}, those of the solution"
    if given.keys() == expected.keys():
        return message
    places = [", ".join(pytree.keystr(path) or "no container" for path in each) or "none" for each in (given, expected)]
    return f"{message}; its floating-point tensors are at {places[0]}, expected at {places[1]}, as in the solution"


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
