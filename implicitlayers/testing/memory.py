"""How much memory a layer takes with many features, and whether it gives it back."""

import gc
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .failures import failure
from .subject import Subject, rows


def check_memory(
    subject: Subject, X: Tensor, Y: Tensor, strengths: dict[str, float], bound: float = 4.0, rounds: int = 20
) -> float:
    """Forward and backward take at most ``bound`` times the memory of X beside X, and leave no tensor behind.

    Counted are the tensors alive at once, as torch's dispatcher sees them made; scratch space within one operation is
    not. X should be so large that nothing else counts.

    Args:
        subject: what is tested.
        X: (n, m), many features.
        Y: targets.
        strengths: of the layer.
        bound: in units of X.
        rounds: calls after which the number of live tensors is compared.

    Returns:
        The largest memory alive, in units of X.

    Raises:
        AssertionError: more.
    """
    with _Live() as live:
        _step(subject, X, Y, strengths)
    # X itself is among what is alive.
    share = live.peak / (X.numel() * X.element_size()) - 1
    if not share <= bound:
        raise failure(
            f"at most {bound:g} times the memory of X ({tuple(X.shape)})",
            f"{share:.1f} times",
            "a matrix of features by features, or a float64 copy per iteration kept for the backward pass",
        )
    counts = []
    for round_ in range(rounds):
        _step(subject, X[:, :8], Y, strengths)
        if round_ in (rounds // 2, rounds - 1):
            gc.collect()
            counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
    if counts[-1] > counts[0]:
        raise failure(
            "as many live tensors after more calls",
            f"{counts[-1] - counts[0]} more after {rounds - rounds // 2 - 1} calls",
            "results are kept in a list or on the module, or a graph is retained",
        )
    return share


def _step(subject: Subject, X: Tensor, Y: Tensor, strengths: dict[str, float]) -> None:
    X = X.detach().clone().requires_grad_()
    W = rows(subject.call(X, Y, strengths))
    if W.requires_grad:
        W.square().sum().backward()


class _Live(TorchDispatchMode):
    """The most bytes in storages made under the mode and alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
