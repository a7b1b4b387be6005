"""Batches: the same as a loop, and one bad element harms nobody."""

from typing import Any

import torch
from torch import Tensor

from .example import Example
from .failures import failure, reproducible
from .forward import vmapped
from .subject import LayerError, Subject, blamed, gradients


@reproducible
def check_batching(subject: Subject, example: Example) -> None:
    """A batch is solved like its elements one by one, in values and gradients.

    Also: more than one leading dimension; targets that broadcast, where the gradient of what is shared is the *sum* of
    the elements' gradients; another order of the batch; `torch.func.vmap`.

    Args:
        subject: what is tested.
        example: one leading dimension of at least two elements.

    Raises:
        AssertionError: it is not.
    """
    example = subject.shared(example)
    size = example.X.shape[0]
    alone = torch.stack([subject.W(example[i]) for i in range(size)])
    cause = "elements of a batch share an iteration count, a step length, or a convergence test that stops all at once"
    _same(subject, subject.W(example), alone, "a batch to equal a loop over its elements", cause)
    twice = _stacked(example)
    _same(subject, subject.W(twice), torch.stack([alone, alone]), "two leading dimensions to equal a loop", cause)
    backwards = torch.arange(size).flip(0)
    _same(subject, subject.W(example[backwards]), alone[backwards], "the order of the batch not to matter", cause)
    _check_shared_features(subject, example)
    _check_vmap(subject, example, alone)


@reproducible
def check_isolation(subject: Subject, example: Example) -> None:
    """NaN, infinities or zeros in one element leave the others as they are without it, in value and gradient.

    The bad element must show: its coefficients are not finite, or the layer flags it. Its gradients are finite or NaN,
    but its own.

    Args:
        subject: what is tested.
        example: one leading dimension of at least two elements; the first is made bad.

    Raises:
        AssertionError: others change, or the layer fails as a whole.
    """
    example = subject.shared(example)
    good = example[1:]
    expected, gradient = _value_and_gradient(subject, good)
    for what, X, Y in spoilt(example):
        bad = example.replace(X=X, Y=Y)
        try:
            found, moved = _value_and_gradient(subject, bad)
        except LayerError as error:
            raise failure(
                f"{what} in one element of a batch to leave the others alone",
                str(error),
                "one element fails the whole batch",
            ) from None
        _same(
            subject, found[1:], expected, f"{what} in one element not to change the others",
            "a statistic over the batch, or a factorisation that fails as a whole", exact=True,
        )  # fmt: skip
        _same(
            subject, moved[1:], gradient, f"{what} in one element not to change the gradients of the others",
            "0·NaN: masked values still enter the backward pass", exact=True,
        )  # fmt: skip
        if what != "zero features" and bool(found[0].isfinite().all()) and not _flagged(subject, bad):
            raise failure(
                f"{what} to show in that element's coefficients, or status",
                "finite coefficients, and no word of it",
                "NaN is lost in a comparison or a clamp",
            )
        if what == "zero features" and not bool(found[0].isfinite().all()):
            raise failure(
                "finite coefficients of zero features", "NaN or infinity", "a division by a norm that is zero"
            )


def _check_shared_features(subject: Subject, example: Example) -> None:
    """One X, many Y: the gradient of X is the sum over the batch."""
    X = example.X[0]
    shared = X.clone().requires_grad_()
    try:
        W = subject.W(example.replace(X=shared))
    except LayerError:
        # A layer need not broadcast; what it does must be right.
        return
    C = torch.randn(W.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(W)
    (given,) = gradients((W * C).sum(), [shared])
    total = torch.zeros_like(given)
    for i in range(W.shape[0]):
        alone = X.clone().requires_grad_()
        one = subject.W(example[i].replace(X=alone))
        total += gradients((one * C[i]).sum(), [alone])[0]
    ratio = float((given * total).sum() / total.square().sum().clamp_min(1e-300))
    cause = f"it is {ratio:.3g} times the sum: a mean over the batch where a broadcast argument needs a sum"
    _same(subject, given, total, "the gradient of shared features to be the sum over the batch", cause)


def _check_vmap(subject: Subject, example: Example, alone: Tensor) -> None:
    try:
        with blamed():
            mapped = vmapped(subject, example)
    except LayerError as error:
        raise failure(
            "torch.func.vmap over the layer to work",
            str(error),
            "an autograd.Function without a vmap rule, .item(), or a branch on data",
        ) from None
    _same(subject, mapped, alone, "vmap to equal a loop", "a vmap rule that puts the batch in the wrong place")


def _value_and_gradient(subject: Subject, example: Example) -> tuple[Tensor, Tensor]:
    X = example.X.clone().requires_grad_()
    W = subject.W(example.replace(X=X))
    C = torch.randn(W.shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(W)
    return W.detach(), gradients((W * C).sum(), [X])[0]


def spoilt(example: Example) -> list[tuple[str, Tensor, Tensor]]:
    """What is wrong with the first element, and X and Y with that."""

    def first(t: Tensor, value: float, whole: bool = False) -> Tensor:
        changed = t.clone()
        if whole:
            changed[0] = value
        else:
            changed[(0,) * t.dim()] = value
        return changed

    X, Y = example.X, example.Y
    spoilt = [
        ("a NaN in X", first(X, torch.nan), Y),
        ("an infinity in X", first(X, torch.inf), Y),
        ("zero features", first(X, 0.0, whole=True), Y),
    ]
    return spoilt + ([("a NaN in Y", X, first(Y, torch.nan))] if Y.is_floating_point() else [])


def _flagged(subject: Subject, example: Example) -> bool:
    answer = subject.answer(example)
    if answer.flagged is not None:
        return bool(answer.flagged[0])
    return answer.converged is not None and not bool(answer.converged[0])


def _same(subject: Subject, found: Tensor, expected: Tensor, what: str, cause: str, exact: bool = False) -> None:
    tolerance = 1e-8 if exact else 10 * subject.coef_tol
    scale = float(expected.abs().max().nan_to_num(1.0).clamp_min(1e-12)) if expected.numel() else 1.0
    error = (
        float((found - expected).abs().max().nan_to_num(torch.inf)) / scale if found.shape == expected.shape else None
    )
    if error is None:
        raise failure(
            what, f"the shape {tuple(found.shape)}, not {tuple(expected.shape)}", "dimensions are assumed, not read"
        )
    if not error <= tolerance:
        raise failure(f"{what} (to {tolerance:.0e})", f"a relative difference of {error:.1e}", cause)


def _stacked(example: Example) -> Example:
    def twice(t: Any) -> Any:
        return torch.stack([t, t]) if isinstance(t, Tensor) and t.dim() else t

    return example.replace(
        X=twice(example.X),
        Y=twice(example.Y),
        strengths={name: twice(value) for name, value in example.strengths.items()},
        sample_weight=None if example.sample_weight is None else twice(example.sample_weight),
    )
