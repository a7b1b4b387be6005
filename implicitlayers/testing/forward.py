"""Forward mode over `torch.func.vmap`, as in `jacfwd` of a batch: the same as a loop."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jvp, vmap

from .example import Example
from .failures import Inapplicable, failure, reproducible
from .subject import LayerError, Subject, blamed, rows

Curve = Callable[[Tensor], Tensor]


@reproducible
def check_forward_over_vmap(subject: Subject, example: Example) -> None:
    """``jvp(vmap(layer))``, ``jacfwd(vmap(layer))`` and ``jvp(grad(vmap(layer)))`` equal a loop over the elements.

    Args:
        subject: what is tested.
        example: one leading dimension, generic.

    Raises:
        AssertionError: they do not.
        Inapplicable: the layer has no forward mode, or does not work under `vmap`, each without the other.
    """
    example = subject.shared(example)
    size = example.X.shape[0]
    generator = torch.Generator().manual_seed(4)
    moves = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (example.X, example.X[..., :1])]
    C = torch.randn(size, 1, 1, generator=generator, dtype=torch.float64)
    real = example.Y.is_floating_point() and not getattr(subject.objective, "classes", 0)

    def moved(t: Tensor) -> Example:
        Y = example.Y + t * moves[1] if real else example.Y
        return example.replace(X=example.X + t * moves[0], Y=Y)

    def mapped(t: Tensor) -> Tensor:
        return vmapped(subject, moved(t))

    alone = [lambda t, i=i: subject.W(moved(t)[i]) for i in range(size)]
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    expected = _possible(lambda: torch.stack([jvp(f, (zero,), (one,))[1] for f in alone]), "forward mode: see there")
    _possible(lambda: mapped(zero), "vmap: see batching")
    _same(subject, lambda: jvp(mapped, (zero,), (one,))[1], expected, "jvp(vmap(layer))")
    _same(subject, lambda: jacfwd(mapped)(zero), expected, "jacfwd(vmap(layer))")
    slopes = [grad(lambda t, f=f, i=i: (f(t) * C[i]).sum()) for i, f in enumerate(alone)]
    second = _possible(lambda: torch.stack([jvp(g, (zero,), (one,))[1] for g in slopes]).sum(), "second derivatives")
    whole = grad(lambda t: (mapped(t) * C).sum())
    _same(
        subject, lambda: jvp(whole, (zero,), (one,))[1], second, "jvp(grad(vmap(layer)))", float(expected.abs().max())
    )


def vmapped(subject: Subject, example: Example) -> Tensor:
    """The coefficients of a batch by `vmap` over everything that has a leading dimension."""
    strengths = {name: v for name, v in example.strengths.items() if isinstance(v, Tensor) and v.dim()}
    fixed = {name: v for name, v in example.strengths.items() if name not in strengths}
    weight = {} if example.sample_weight is None else {"sample_weight": example.sample_weight}

    def one(X: Tensor, Y: Tensor, strengths: dict[str, Tensor], weight: dict[str, Tensor]) -> Tensor:
        return rows(subject.call(X, Y, {**fixed, **strengths}, weight.get("sample_weight")))

    return vmap(one)(example.X, example.Y, strengths, weight)


def _possible(run: Callable[[], Tensor], what: str) -> Tensor:
    try:
        with blamed():
            return run()
    except LayerError:
        raise Inapplicable(f"the layer does not work in {what}") from None


def _same(subject: Subject, run: Callable[[], Any], expected: Tensor, what: str, floor: float = 1e-12) -> None:
    try:
        with blamed():
            found = run()
    except LayerError as error:
        raise failure(
            f"{what} to work, as vmap and forward mode do each alone", str(error),
            "a rule of an autograd.Function that takes a dual tensor apart, or works in place, under vmap",
        ) from None  # fmt: skip
    tolerance = max(subject.coef_tol, 100 * subject.derivative_tol)
    scale = max(float(expected.abs().max()), floor, 1e-12)
    off = float((found - expected).abs().max()) / scale if found.shape == expected.shape else torch.inf
    if not off <= tolerance:
        raise failure(
            f"{what} to equal a loop (to {tolerance:.0e})", f"a relative difference of {off:.1e}",
            "a rule of an autograd.Function that drops tangents under vmap, or puts the batch in the wrong place",
        )  # fmt: skip
