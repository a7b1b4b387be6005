"""The README's first example, trained: few-shot tasks whose classes differ in a few hidden directions."""

import torch

import implicitlayers as il


class SparseHead(torch.nn.Module):  # a network whose last layer is solved, not learnt
    def __init__(self, encoder, l1=0.02):
        super().__init__()
        self.encoder, self.log_l1 = encoder, torch.nn.Parameter(torch.tensor(l1).log())

    def forward(self, support, labels, query):  # (b, n, ...), (b, n), (b, q, ...)
        X, Z = self.encoder(support), self.encoder(query)
        size = X.square().sum(-1).mean(-1).sqrt()[:, None, None]  # of the support's features, so that l1 means a share
        solution = il.MulticlassSVM(l2=0.01, l1=self.log_l1.exp()).solve(X / size, labels)
        return solution.predict(Z / size), solution  # gradients reach the encoder, and l1


WAY, SHOT, QUERY, INPUTS, INFORMATIVE = 5, 5, 10, 32, 8


def tasks(count, rotation, generator):
    """Support, its labels, query, and its labels: Gaussian classes, seen through a rotation."""
    means = torch.zeros(count, WAY, 1, INPUTS)
    means[..., :INFORMATIVE] = 1.2 * torch.randn(count, WAY, 1, INFORMATIVE, generator=generator)
    noise = torch.randn(count, WAY, SHOT + QUERY, INPUTS, generator=generator)
    X = (means + noise) @ rotation
    labels = torch.arange(WAY).repeat_interleave(SHOT), torch.arange(WAY).repeat_interleave(QUERY)
    support, query = X[:, :, :SHOT].flatten(1, 2), X[:, :, SHOT:].flatten(1, 2)
    return support, labels[0].expand(count, -1), query, labels[1].expand(count, -1)


def train(head, steps, batch=8, lr=3e-3, tests=100, seed=0):
    """Meta-train; accuracy and the share of features used on ``tests`` new tasks, before and after."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(INPUTS, INPUTS, generator=generator)).Q
    optimiser = torch.optim.Adam(head.parameters(), lr=lr)
    results = [evaluated(head, *tasks(tests, rotation, generator))]
    for _ in range(steps):
        support, labels, query, targets = tasks(batch, rotation, generator)
        scores, _ = head(support, labels, query)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [*results, evaluated(head, *tasks(tests, rotation, generator))]


@torch.no_grad()
def evaluated(head, support, labels, query, targets):
    """Accuracy and the share of features used."""
    scores, solution = head(support, labels, query)
    return float((scores.argmax(-1) == targets).float().mean()), float(solution.support.float().mean())


def encoder():
    """A small network, from the inputs to 64 features."""
    return torch.nn.Sequential(torch.nn.Linear(INPUTS, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))


def main():
    torch.manual_seed(0)
    results = train(SparseHead(encoder()), steps=60)
    for when, (accuracy, used) in zip(("before", "after"), results, strict=True):
        print(f"{when} training: accuracy {accuracy:.1%}, {used:.0%} of the features used")


if __name__ == "__main__":
    main()
