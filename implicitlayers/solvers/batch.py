"""Some elements of a batch, and back: what is finished leaves, so that a hard element does not cost a batch of them.

An ``index`` (j,) is in ascending order; that of all elements costs nothing.
"""

from typing import Any, TypeVar

from torch import Tensor
from torch.utils import _pytree as pytree

T = TypeVar("T")


def pick(tree: T, index: Tensor) -> T:
    """These elements of every tensor of ``tree``, a tuple of tensors (b, ...) and of such tuples."""
    return tree if len(index) == _size(tree) else pytree.tree_map_only(Tensor, lambda t: t[index], tree)


def put(tree: T, index: Tensor, part: T) -> T:
    """``tree`` with these elements replaced by those of ``part``."""
    if len(index) == _size(tree):
        return part
    return pytree.tree_map(lambda t, p: t.index_copy(0, index, p), tree, part)


def few(live: Tensor) -> Tensor | None:
    """The elements that are ``live`` (b,), if they are at most half: then picking them pays."""
    index = live.nonzero().flatten()
    return index if 2 * len(index) <= len(live) else None


def _size(tree: Any) -> int:
    """b, by the first tensor."""
    return len(tree) if isinstance(tree, Tensor) else _size(tree[0])
