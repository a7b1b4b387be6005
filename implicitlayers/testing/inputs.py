"""What a layer does with dtypes, and with input that makes no sense."""

from collections.abc import Callable

import torch
from torch import Tensor

from .example import Example
from .failures import failure, reproducible
from .subject import LayerError, Subject, gradients, rows


@reproducible
def check_dtypes(subject: Subject, example: Example) -> None:
    """float32 in, float32 out, float64 in, float64 out; gradients finite; and float32 is as good as its digits.

    Args:
        subject: what is tested.
        example: float64, any leading dimensions.

    Raises:
        AssertionError: a dtype changes, a gradient is not finite, or the float32 result is not the float64 result
            rounded.
    """
    exact = subject.W(example).detach()
    for dtype in (torch.float32, torch.float64):
        X = example.X.to(dtype).requires_grad_()
        Y = example.Y.to(dtype) if example.Y.is_floating_point() else example.Y
        result = subject.W(example.replace(X=X, Y=Y))
        (gradient,) = gradients(result.sum(), [X])
        W = result.detach()
        if W.dtype != dtype:
            raise failure(f"{dtype} coefficients from {dtype} features", f"{W.dtype}", "a cast inside is never undone")
        # Its dtype is torch's doing, which casts what a backward pass returns to that of X.
        wrong = ~gradient.isfinite()
        if bool(wrong.any()):
            raise failure(
                f"a finite {dtype} gradient with respect to X",
                f"{int(wrong.sum())} of {wrong.numel()} entries that are not, the first {float(gradient[wrong][0])}",
                "the backward pass divides by zero or takes the root of zero: torch.where hides that from the value,"
                " and not from the derivative",
            )
        # Compared with the float64 solution of the rounded input.
        rounded = example.replace(X=X.detach().double(), Y=Y.double() if Y.is_floating_point() else Y)
        reference = exact if dtype == torch.float64 else subject.W(rounded)
        error = float((W.double() - reference).abs().max()) / float(reference.abs().max().clamp_min(1e-12))
        allowed = max(subject.coef_tol, 1e-3)
        if not error <= allowed:
            raise failure(
                f"the {dtype} result within {allowed:.0e} of the float64 one",
                f"a relative difference of {error:.1e}",
                "the solver works in float32, where normal equations lose half the digits",
            )


@reproducible
def check_bad_input(subject: Subject, example: Example) -> None:
    """Arguments that make no sense raise ValueError or TypeError with a message that names the argument.

    Args:
        subject: what is tested; with ``make`` a negative strength is tried too.
        example: one problem.

    Raises:
        AssertionError: one passes, or raises something else; or the layer changes its input.
    """
    X, Y, strengths, weight = example.X, example.Y, example.strengths, example.sample_weight
    before = X.clone(), Y.clone()
    subject.W(example)
    if not (torch.equal(X, before[0]) and torch.equal(Y, before[1])):
        raise failure("the input to stay as it is", "X or Y changed in place", "an operation in place on an argument")

    def call(X: Tensor, Y: Tensor) -> Callable[[], object]:
        return lambda: rows(subject.call(X, Y, strengths, weight))

    cases = {
        "X a vector": ("X", call(X[:, 0], Y)),
        "X of integers": ("X", call(torch.ones_like(X, dtype=torch.int64), Y)),
        "X with fewer samples than Y": ("X|Y|samples", call(torch.cat([X, X])[: len(X) + 1], Y)),
        "X without samples": ("X", call(X[:0], Y[:0])),
    }
    if Y.is_floating_point() and example.Y.dim() == 2:
        cases["Y a vector"] = ("Y", call(X, Y[:, 0]))
    if subject.make is not None:
        for name in ("l1", "l2"):
            if name in strengths:
                wrong = {**strengths, name: -1.0}
                cases[f"{name} negative"] = (name, lambda wrong=wrong: rows(subject.call(X, Y, wrong, weight)))  # type: ignore[misc]
    for what, (names, attempt) in cases.items():
        _check_refused(what, names.split("|"), attempt)


def _check_refused(what: str, names: list[str], attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except LayerError as raised:
        error = raised.__cause__
        if not isinstance(error, ValueError | TypeError):
            raise failure(
                f"{what}: a ValueError that names {' or '.join(names)}", str(raised),
                "the error comes from an operation inside, not from a check of the arguments",
            ) from None  # fmt: skip
        if not any(name in str(error) for name in names):
            raise failure(
                f"{what}: a message that names {' or '.join(names)}", f"{type(error).__name__}: {error}",
                "the error comes from an operation inside, not from a check of the arguments",
            ) from None  # fmt: skip
    else:
        raise failure(f"{what}: a ValueError", "a result", "shapes broadcast by accident; arguments are not checked")
