"""One problem, or a batch of them, as a value that prints as code."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Strengths = Mapping[str, float | Tensor]


@dataclass(frozen=True)
class Example:
    """Arguments of a layer: features, targets and strengths, any leading dimensions.

    Attributes:
        X: (..., n, m).
        Y: (..., n, k); for classes one-hot (..., n, k) or labels (..., n); for two classes also ±1 (..., n, 1).
        strengths: by the names of the problem, numbers or tensors over the batch.
        sample_weight: (..., n), or None.
        kind: what is special about it: "generic", or one of `kinds.KINDS`.
        made_by: Python that makes it, where its numbers are too many to print.
    """

    X: Tensor
    Y: Tensor
    strengths: Strengths = field(default_factory=dict)
    sample_weight: Tensor | None = None
    kind: str = "generic"
    made_by: str = ""

    @property
    def batch(self) -> torch.Size:
        """The leading dimensions that all arguments have in common."""
        labels = not self.Y.is_floating_point()
        shapes = [self.X.shape[:-2], self.Y.shape[:-1] if labels else self.Y.shape[:-2]]
        if self.sample_weight is not None:
            shapes.append(self.sample_weight.shape[:-1])
        tensors = {name: v.shape for name, v in self.strengths.items() if isinstance(v, Tensor)}
        shapes += [shape[:-1] if name == "group_weights" else shape for name, shape in tensors.items()]
        return torch.broadcast_shapes(*shapes)

    @property
    def generic(self) -> bool:
        """Whether nothing is special about it."""
        return self.kind == "generic"

    def replace(self, **fields: Any) -> "Example":
        """With some fields changed."""
        return replace(self, made_by="", **fields)

    def with_strengths(self, **strengths: float | Tensor) -> "Example":
        """With some strengths changed."""
        return self.replace(strengths={**self.strengths, **strengths})

    def __getitem__(self, index: Any) -> "Example":
        """Some elements of the batch; every argument must have its dimensions."""

        def take(value: Any) -> Any:
            return value[index] if isinstance(value, Tensor) and value.dim() else value

        return self.replace(
            X=self.X[index],
            Y=self.Y[index],
            strengths={name: take(value) for name, value in self.strengths.items()},
            sample_weight=take(self.sample_weight),
        )

    def code(self) -> str:
        """Python that makes this example again, exactly."""
        if self.made_by:
            return self.made_by
        fields = [f"    X={_literal(self.X)},", f"    Y={_literal(self.Y)},"]
        strengths = ", ".join(f"{name!r}: {_literal(value)}" for name, value in self.strengths.items())
        fields.append(f"    strengths={{{strengths}}},")
        if self.sample_weight is not None:
            fields.append(f"    sample_weight={_literal(self.sample_weight)},")
        return "\n".join(["example = Example(", *fields, f"    kind={self.kind!r},", ")"])


def _literal(value: float | Tensor) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    numbers = repr(value.detach().tolist()).replace("nan", "torch.nan").replace("inf", "torch.inf")
    dtype = f", dtype={value.dtype}" if value.dtype not in (torch.int64, torch.float32) else ""
    return f"torch.tensor({numbers}{dtype})"
