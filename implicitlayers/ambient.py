"""What a program has set around a call: no number that comes out depends on it, and a call leaves it as it was.

=======================  ==========================================================================================
autocast                 off inside, and in backward passes, which `products` writes down itself for
                         float32; float64 is out of its reach
inference mode           left, without derivatives, so that results are ordinary tensors; arguments are copied
`torch.compile`          runs the call as it is, and compiles what is around it
number of threads        of the calling thread alone, one for small problems (`threads`), in backward passes by
                         `implicit.deferred`
grad mode, transforms    asked for in `implicit.newton`, the only state that results depend on: it says what to derive
default dtype, device    not read: every tensor made here names its own
=======================  ==========================================================================================
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
# Entries of X, over the batch, up to which a solve takes one thread. On two cores two threads save a tenth of the time
# of eight machines of 25 × 640 (2**17 entries, 40 ms on one) and of a Lasso with 800,000, a third of machines and
# logistic regressions with a million, and nearly half of a ridge of 1000 × 1000. Beside two busy processes, where
# threads wait for each other at every operation, the same machines take 1.6 to 2 times as long on one thread, and 6 to
# 60 times on two. `benchmarks/neighbours.py` measures both.
SMALL = 2**19


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """A function of the library that users call: what is set around the call stays outside."""

    def shielded(*args: Any, **keywords: Any) -> R:
        with shut_out():
            args = tuple(_ordinary_or_other(a) for a in args)
            return function(*args, **{name: _ordinary_or_other(value) for name, value in keywords.items()})

    uncompiled: list[Callable[..., R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        # Who compiles has imported dynamo; who does not need not wait for it.
        if "torch._dynamo" not in sys.modules:
            return shielded(*args, **keywords)
        if not uncompiled:
            uncompiled.append(torch.compiler.disable(shielded))
        return uncompiled[0](*args, **keywords)

    # What dynamo asks a function for before it traces it: `torch.compiler.disable` would import dynamo to set it.
    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call


@contextmanager
def shut_out() -> Iterator[None]:
    """Inside, autocast is off, and tensors are ordinary; in the place of inference mode nothing has derivatives."""
    with without_autocast(), ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """Inside, autocast is off on every device."""
    on = [device for device in AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]
    try:
        for device in on:
            torch.set_autocast_enabled(device, False)
        yield
    finally:
        for device in on:
            torch.set_autocast_enabled(device, True)


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is on where the tensors of ``device`` are."""
    return device.type in AUTOCAST_DEVICES and torch.is_autocast_enabled(device.type)


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor, a copy if it was made in inference mode: such a tensor cannot be saved for a backward pass."""
    return tensor.clone() if torch.is_grad_enabled() and tensor.is_inference() else tensor


def _ordinary_or_other(value: Any) -> Any:
    return ordinary(value) if isinstance(value, Tensor) else value


class _Runtime(NamedTuple):
    """Functions of the OpenMP and MKL that torch itself runs on; both settings are those of the calling thread."""

    set_openmp: Callable[[int], None]
    set_mkl: Callable[[int], int] | None


@functools.cache
def _runtime() -> _Runtime | None:
    """None where torch is built otherwise, or hides them."""
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            # Its symbols, and those of what it was linked with: another OpenMP in the process would be of no use. It
            # is loaded already, and not loaded anew; the calls are too short to let go of the interpreter for them.
            library = ctypes.PyDLL(os.path.join(folder, name), os.RTLD_NOLOAD)
            return _Runtime(library.omp_set_num_threads, getattr(library, "MKL_Set_Num_Threads_Local", None))
        except (OSError, AttributeError):
            continue
    return None


def can_set_threads() -> bool:
    """Whether the number of threads of one thread's operations can be set."""
    return _runtime() is not None


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, operations of the calling thread run on ``count`` threads; None leaves the number as it is.

    `torch.set_num_threads` will not do: what it sets holds for all threads that the process starts in the meantime.
    Where torch's own runtime is out of reach (Windows) nothing is set.
    """
    # Also makes torch take the number for this thread from the process, which at a later time would undo ours.
    before = torch.get_num_threads()
    runtime = _runtime()
    if count is None or count == before or runtime is None:
        yield
        return
    mkl_before = 0
    try:
        runtime.set_openmp(count)
        if runtime.set_mkl is not None:
            mkl_before = runtime.set_mkl(count)
        yield
    finally:
        runtime.set_openmp(before)
        if runtime.set_mkl is not None:
            runtime.set_mkl(mkl_before)


def suited(X: Tensor) -> int | None:
    """How many threads problems with the features X (..., n, m) want: one where they are small."""
    return 1 if X.numel() <= SMALL else None
