"""A layer's solution along one direction per argument: a function of a few numbers, with small Jacobians."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .example import Example
from .named import Named
from .subject import Subject


@dataclass(frozen=True)
class Section:
    """p ↦ W at arguments + Σ pᵢ·directionᵢ, all float64; directions have the size of their arguments."""

    subject: Subject
    example: Example
    directions: dict[str, Tensor]

    @classmethod
    def random(cls, subject: Subject, example: Example, seed: int = 0) -> "Section":
        """Features, real targets, sample weights and, where they can vary, positive strengths move."""
        generator = torch.Generator().manual_seed(seed)
        problem = subject.objective
        moving = {"X": example.X}
        if example.Y.is_floating_point() and not (isinstance(problem, Named) and problem.classes):
            moving["Y"] = example.Y
        if example.sample_weight is not None:
            moving["sample_weight"] = example.sample_weight
        directions = {}
        for name, value in moving.items():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            size = value.abs() if name == "sample_weight" else _size(value)
            directions[name] = noise * size
        if subject.make is not None:
            for name, strength in example.strengths.items():
                tensor = torch.as_tensor(strength, dtype=torch.float64)
                if bool((tensor != 0).all()):
                    directions[name] = tensor.clone()
        return cls(subject, example, directions)

    def only(self, *names: str) -> "Section":
        """Along some of the directions."""
        return Section(self.subject, self.example, {name: self.directions[name] for name in names})

    def moved(self, p: Tensor) -> Example:
        """The example at p, (..., size); leading dimensions of p become the example's."""
        changed = {}
        for i, (name, direction) in enumerate(self.directions.items()):
            changed[name] = p[..., i].reshape((*p.shape[:-1], *[1] * direction.dim())) * direction
        example = self.example
        lead = p.shape[:-1]
        weight = example.sample_weight
        strengths = {
            name: torch.as_tensor(value, dtype=torch.float64) + changed[name] if name in changed else value
            for name, value in example.strengths.items()
        }
        return example.replace(
            X=example.X + changed.get("X", torch.zeros(*lead, 1, 1, dtype=torch.float64)),
            Y=example.Y + changed["Y"] if "Y" in changed else example.Y.expand(*lead, *example.Y.shape),
            sample_weight=None if weight is None else weight + changed.get("sample_weight", weight.new_zeros(*lead, 1)),
            strengths=strengths,
        )

    def W(self, p: Tensor) -> Tensor:
        """The coefficients at p."""
        return self.subject.W(self.moved(p))

    @property
    def value(self) -> Tensor:
        """W at zero, as plain numbers."""
        return self.subject.answer(self.example).W

    def along(self, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (T, …), and kinks (T, q), at p = (t, …, t) for each t of (T,), as plain numbers.

        All at once where the layer takes batches and gives the same for a batch as for one.
        """
        points = t[:, None].expand(-1, len(self.directions))
        alone = self._at(points[0])
        if self.subject.batches(self.example):
            together = self._at(points)
            if together[0].shape[1:] == alone[0].shape and _close(together[0][0], alone[0]):
                return together
        each = [alone, *(self._at(p) for p in points[1:])]
        kinks = [k for _, k in each if k is not None]
        return torch.stack([W for W, _ in each]), torch.stack(kinks) if kinks else None

    def _at(self, p: Tensor) -> tuple[Tensor, Tensor | None]:
        example = self.moved(p)
        answer = self.subject.answer(example)
        return answer.W, kinks_of(self.subject, example, answer)


def _close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= 1e-12 * float(other.abs().max())


def kinks_of(subject: Subject, example: Example, answer: object) -> Tensor | None:
    """Signed distances of an answer from where derivatives are one-sided; None where the problem does not tell."""
    problem = subject.objective
    if not isinstance(problem, Named):
        return None
    dual = None if problem.smooth else answer.dual  # type: ignore[attr-defined]
    if not problem.smooth and dual is None:
        return None
    return problem.kinks(example, answer.coefficients, dual)  # type: ignore[attr-defined]


def _size(value: Tensor) -> Tensor:
    size = value.square().mean((-2, -1), keepdim=True).sqrt()
    return torch.where(size > 0, size, 1.0)
