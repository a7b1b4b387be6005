"""The layer's share of a training step of few-shot learning."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from implicitlayers.models.datasets.glyphs import Glyphs
from implicitlayers.models.encoders import Conv4, Encoder
from implicitlayers.models.episodes import Episode, EpisodeDataset
from implicitlayers.models.heads import SVMHead, normalise

from .certificate import Answer, relative_gaps
from .contenders.ours import Ours
from .effort import Advance, Effort
from .problems import Problem
from .records import Record
from .resnet12 import ResNet12
from .timing import ratios, time_into

EPISODES, WAY, SHOT, QUERY = 8, 5, 5, 6
L1S = (0.0, 0.002)
L2 = 0.003


def step_job(name: str, quick: bool, effort: Effort, advance: Advance) -> list[Record]:
    """Two records for each l1: the step, and the layer alone on the same features; the layer's `multiple` is its share.

    The step is forward and backward of encoder, head and cross-entropy, and an update by AdamW, on 8 episodes of five
    classes, five shots, six queries each. The encoder has taken a few steps before, so that the features
    are no longer those of random weights.
    """
    records: list[Record] = []
    warm_up = (1 if quick else 3) if name == "ResNet-12" else (2 if quick else 20)
    for l1 in L1S:
        advance(f"{name}, l1 = {l1:g}: a few training steps")
        training = Training(name, SVMHead(L2, l1), quick)
        for _ in range(warm_up):
            training.step()
        X, labels = training.support()
        record = _layer_record(f"layer alone, {name}", training.head, X, labels)
        step = Record(f"training step, {name}", Ours.name, Ours.version(), *X.shape[1:], WAY, len(X), "float32")
        layer = Layer(training.head, X, labels)
        functions = {
            ("step", "total"): training.step,
            ("layer", "total"): layer.total,
            ("layer", "forward"): layer.forward,
        }
        advance(f"{name}, l1 = {l1:g}: timing")
        times = time_into({"step": step, "layer": record}, functions, effort.repetitions)
        record.multiple, _ = ratios(times["layer", "total"], times["step", "total"])
        for each in (step, record):
            each.l1_share, each.l2 = None, L2 * X.shape[1]
            each.remark = f"l1 = {l1:g}, l2 = {L2:g} in the mean scaling"
        record.remark += f"; {record.multiple:.1%} of the step"
        records += [step, record]
    return records


class Training:
    """An encoder and a head in training, always on the same 8 episodes."""

    def __init__(self, name: str, head: SVMHead, quick: bool) -> None:
        torch.manual_seed(0)
        self.head = head
        self.encoder = _encoder(name, quick)
        episodes = EpisodeDataset(Glyphs("train"), WAY, SHOT, QUERY, n_episodes=EPISODES, augment=True)
        self.episode = Episode.collate([episodes[i] for i in range(EPISODES)])
        self.optimiser = torch.optim.AdamW([*self.encoder.parameters(), *head.parameters()], lr=3e-3)

    def step(self) -> None:
        """Forward, backward, update."""
        support, query = self.features()
        output = self.head(support, self.episode.support_labels, query, WAY)
        loss = cross_entropy(output.logits.flatten(0, 1), self.episode.query_labels.flatten())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def features(self) -> tuple[Tensor, Tensor]:
        """Of support (8, 25, m) and query (8, 30, m)."""
        images = torch.cat([self.episode.support, self.episode.query], dim=1)
        features = self.encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return features[:, : WAY * SHOT], features[:, WAY * SHOT :]

    def support(self) -> tuple[Tensor, Tensor]:
        """What the layer is given: normalised features, and labels."""
        with torch.no_grad():
            return normalise(*self.features())[0], self.episode.support_labels


class Layer:
    """The head's layer alone on fixed features, its backward for a fixed adjoint of W."""

    def __init__(self, head: SVMHead, X: Tensor, labels: Tensor) -> None:
        self.layer, self.X = head.layer, X
        self.targets = one_hot(labels, WAY).to(X.dtype)
        self.adjoint = torch.randn(X.shape[0], X.shape[-1], WAY, generator=torch.Generator().manual_seed(1))

    def forward(self) -> None:
        """Solve."""
        with torch.no_grad():
            self.layer.solve(self.X, self.targets)

    def total(self) -> None:
        """Solve and differentiate."""
        X = self.X.detach().requires_grad_()
        torch.autograd.grad(self.layer(X, self.targets), X, self.adjoint)


def _encoder(name: str, quick: bool) -> Encoder:
    if name == "Conv4":
        return Conv4()
    return ResNet12(1, widths=(8,) * 4) if quick else ResNet12(1)


def _layer_record(case: str, head: SVMHead, X: Tensor, labels: Tensor) -> Record:
    with torch.no_grad():
        Y = one_hot(labels, WAY)
        solution = head.layer.solve(X, Y.to(X.dtype))
    gap = relative_gaps(
        Problem("svm", X, Y.double(), head.l1, L2), Answer(solution.coef.double().numpy(), solution.dual.numpy())
    )
    record = Record(case, Ours.name, Ours.version(), *X.shape[1:], WAY, len(X), "float32", gap=float(gap.max()))
    record.active_share = float(solution.support.double().mean())
    return record
