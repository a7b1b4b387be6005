"""How much memory a layer takes with many features, and whether it gives it back."""

import gc
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from .failures import failure
from .subject import Subject, rows


def check_memory(
    subject: Subject, X: Tensor, Y: Tensor, strengths: dict[str, float], bound: float = 4.0, rounds: int = 20
) -> float:
    """Forward and backward take at most ``bound`` times the memory of X beside X, and leave no tensor behind.

    Counted is all that torch's allocator hands out, scratch space within one operation included. X should be so large
    that nothing else counts: of many more features than samples and targets.

    On the CPU torch's profiler counts, and recent versions of it write two lines "USDT: …" to stderr. They rank above
    errors: ``KINETO_LOG_LEVEL=6`` in the environment hides them, and everything else that the profiler has to say.

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
    # X itself is among what is alive.
    share = _peak(lambda: _step(subject, X, Y, strengths), X.device) / (X.numel() * X.element_size()) - 1
    if not share <= bound:
        raise failure(
            f"at most {bound:g} times the memory of X ({tuple(X.shape)})",
            f"{share:.1f} times",
            "a matrix of features by features, or a float64 copy per iteration kept for the backward pass",
        )
    counts = []
    for round_ in range(rounds):
        _step(subject, X[:10, :8], Y[:10], strengths)
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


def _peak(run: Callable[[], None], device: torch.device) -> int:
    """The most bytes alive at once of what ``run`` allocates.

    Under a mode or a hook that watched operations autograd would add up gradients in new memory instead of in place,
    so the allocator itself is asked.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(size for _, size in changes))
