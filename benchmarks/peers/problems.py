"""The problems that are solved: a `Case` says which in words, and `problem_of` makes its numbers from a seed."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["svm", "lasso", "group_lasso"]
Flavour = Literal["plain", "imbalanced", "duplicated", "badly scaled", "one hard"]


@dataclass(frozen=True)
class Case:
    """A batch of problems of one shape.

    Attributes:
        name: of the row in the results.
        kind: svm, lasso (k = 1) or group_lasso (k targets, a group per feature).
        n: samples.
        m: features.
        k: classes or targets.
        batch: number of problems.
        l1_share: l1 as a share of the bound above which nothing is selected; 0: no l1.
        l2: in sum scaling, n times the library's; only for the SVM.
        dtype: of the features.
        flavour: plain, or what makes the problem hard.
        seed: of the data.
    """

    name: str
    kind: Kind
    n: int
    m: int
    k: int = 1
    batch: int = 1
    l1_share: float = 0.0
    l2: float = 0.0
    dtype: Literal["float32", "float64"] = "float64"
    flavour: Flavour = "plain"
    seed: int = 0


class Problem(NamedTuple):
    """X (b, n, m), Y (b, n, k), and strengths in the library's scaling: a mean over samples plus penalties.

    The SVM has one-hot rows in Y, float64 like all targets.
    """

    kind: Kind
    X: Tensor
    Y: Tensor
    l1: float
    l2: float

    @property
    def labels(self) -> Tensor:
        """(b, n), for the SVM."""
        return self.Y.argmax(-1)


def problem_of(case: Case) -> Problem:
    """The case's numbers."""
    generator = torch.Generator().manual_seed(case.seed)
    X, Y = _classes(case, generator) if case.kind == "svm" else _regression(case, generator)
    l1 = case.l1_share * l1_bound(case.kind, X, Y)
    return Problem(case.kind, X.to(getattr(torch, case.dtype)), Y, l1, case.l2 / case.n)


def l1_bound(kind: Kind, X: Tensor, Y: Tensor) -> float:
    """The largest of the batch; exact for squares, for the SVM from above or (two classes) exact.

    The SVM's is max_j ‖X_jᵀ(Y − U)‖/n with U uniform over the wrong classes: a dual point at which W = 0.
    """
    U = (1 - Y) / (Y.shape[-1] - 1) if kind == "svm" else torch.zeros_like(Y)
    return float((X.mT @ (Y - U).to(X.dtype)).norm(dim=-1).max()) / X.shape[-2]


def functional(problem: Problem) -> Tensor:
    """C (b, m, k), float64: derivatives are those of ⟨C, W⟩. Normal numbers, the same for everybody."""
    shape = (problem.X.shape[0], problem.X.shape[-1], problem.Y.shape[-1])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _classes(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What an encoder that ends in a ReLU gives: class centres in a fifth of the features, noise, over √m."""
    b, n, m, k = case.batch, case.n, case.m, case.k
    labels = torch.arange(n) % k
    if case.flavour == "imbalanced":
        labels = (torch.arange(n) - (n - k)).clamp(min=0)  # one sample for each class but the first
    # In float32, or a million features of a small problem would take gigabytes on the way.
    centres = 0.5 * torch.randn(b, k, m, generator=generator)
    centres *= torch.rand(b, 1, m, generator=generator) < 0.2
    X = torch.randn(b, n, m, generator=generator).add_(centres[:, labels]).relu_().div_(m**0.5)
    if case.flavour == "duplicated":
        X[..., m // 2 :] = X[..., : m - m // 2]
    if case.flavour == "badly scaled":
        X *= 10 ** (4 * torch.rand(m, generator=generator) - 2)
    if case.flavour == "one hard":
        X[0] *= 10  # as if l1 were a tenth, and l2 a hundredth
    Y = torch.nn.functional.one_hot(labels, k).double().expand(b, n, k).contiguous()
    return X.to(getattr(torch, case.dtype)), Y


def _regression(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features in blocks of ten that correlate at 0.5, 20 of them in use, noise of a tenth of the signal's variance."""
    b, n, m, k = case.batch, case.n, case.m, case.k
    shared = torch.randn(b, n, (m + 9) // 10, generator=generator, dtype=torch.float64)
    own = torch.randn(b, n, m, generator=generator, dtype=torch.float64)
    X = (own + shared.repeat_interleave(10, -1)[..., :m]) / 2**0.5
    used = torch.rand(b, m, generator=generator).argsort(-1)[:, : min(20, m)]
    W = torch.zeros(b, m, k, dtype=torch.float64)
    W.scatter_(
        1, used[..., None].expand(-1, -1, k), torch.randn(b, used.shape[-1], k, generator=generator, dtype=W.dtype)
    )
    signal = X @ W
    noise = torch.randn(b, n, k, generator=generator, dtype=torch.float64)
    return X.to(getattr(torch, case.dtype)), signal + 0.1**0.5 * signal.std() * noise
