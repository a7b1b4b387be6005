"""Branch and bound over supports: prove that no other does better, or find it.

A node takes some features in and leaves others out; its bound is that of the relaxation. It branches on all its free
features at once, in the order of their slopes: child i takes the i-th in and leaves those before it out. A node with
at most two features to choose is solved by looking at all pairs. Nodes of smallest bound come first, a few of every
element in each round.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import clock
from .quadratic import Quadratic, Relaxation, relax
from .swaps import DEPENDENT, IMPROVEMENT, Chosen, inverse_root

# Nodes per element and round, steps on the relaxation per node, numbers in the largest intermediate tensor.
WIDTH, STEPS, MEMORY = 16, 1, 2**17
# An element whose first bound leaves more features possible than this is not branched on.
MOST_FEATURES = 512


class Proof(NamedTuple):
    """The best supports, ``columns`` and ``filled`` (b, s); ``lower``, a bound on the objective of all; and rounds."""

    columns: Tensor
    filled: Tensor
    lower: Tensor
    rounds: Tensor


class Nodes(NamedTuple):
    """Of ``element`` (N,): features ``inside`` and ``free``, weights of the latter (N, m), and a bound (N,)."""

    element: Tensor
    inside: Tensor
    free: Tensor
    weight: Tensor
    bound: Tensor

    def at(self, index: Tensor) -> "Nodes":
        """The nodes of that index."""
        return Nodes(*(part[index] for part in self))


def prove(quadratic: Quadratic, chosen: Chosen, relaxed: Relaxation, slack: Tensor, max_iter: int) -> Proof:
    """Search all supports for one better than ``chosen`` by more than ``slack`` (b,), in at most so many rounds."""
    search = Search(quadratic, chosen, slack)
    nodes = search.root(relaxed)
    for done in range(max_iter):
        nodes = search.hopeful(nodes)
        if not len(nodes.element) or clock.is_over():
            break
        search.rounds[nodes.element.unique()] += 1
        rank = _rank(nodes)
        # Better nodes take all rounds that are left before these get their turn.
        late = rank >= WIDTH * (max_iter - done)
        search.close(nodes.element[late], nodes.bound[late])
        children = [search.children(part) for part in search.portions(nodes.at(rank < WIDTH))]
        nodes = Nodes(*map(torch.cat, zip(nodes.at((rank >= WIDTH) & ~late), *children, strict=True)))
    search.close(nodes.element, nodes.bound)
    return Proof(search.best_columns, search.filled, torch.minimum(search.lower, search.upper), search.rounds)


def _rank(nodes: Nodes) -> Tensor:
    """The place of every node among those of its element by bound, (N,)."""
    order = torch.argsort(nodes.bound, stable=True)
    order = order[torch.argsort(nodes.element[order], stable=True)]
    element = nodes.element[order]
    place = torch.arange(len(order), device=order.device)
    first = torch.searchsorted(element, element)
    return torch.empty_like(order).scatter(0, order, place - first)


class Search:
    """What is known so far: ``upper``, the objective of the best support, ``lower``, the least bound of closed nodes.

    ``columns`` (b, f) are the features of the original that take part, nodes count in these.
    """

    def __init__(self, quadratic: Quadratic, chosen: Chosen, slack: Tensor) -> None:
        self.quadratic, self.slack = quadratic, slack
        self.best_columns, self.filled = chosen.columns.clone(), chosen.filled.clone()
        self.size = chosen.columns.shape[-1]
        self.upper = quadratic.null - chosen.gain
        self.lower = torch.full_like(self.upper, torch.inf)
        self.rounds = torch.zeros_like(self.upper, dtype=torch.int64)

    def close(self, element: Tensor, bound: Tensor) -> None:
        """Nothing more will be looked for where the bounds are these."""
        self.lower.scatter_reduce_(0, element, bound, "amin")

    def hopeless(self, element: Tensor, bound: Tensor) -> Tensor:
        """Bounds that allow no improvement worth the search."""
        return bound >= (self.upper - self.slack)[element]

    def hopeful(self, nodes: Nodes) -> Nodes:
        """The other nodes; these are closed."""
        hopeless = self.hopeless(nodes.element, nodes.bound)
        self.close(nodes.element[hopeless], nodes.bound[hopeless])
        return nodes.at(~hopeless)

    def root(self, relaxed: Relaxation) -> Nodes:
        """One node per element, on the features that its bound leaves possible."""
        every = torch.arange(len(self.upper), device=self.upper.device)
        possible = self.possible(every, torch.ones_like(relaxed.slope, dtype=torch.bool), relaxed, self.size)
        count = possible.sum(-1)
        self.close(every[count > MOST_FEATURES], relaxed.bound[count > MOST_FEATURES])
        # With too few possible features every support has one that is not, and is closed with it.
        small = (count <= MOST_FEATURES) & (count >= self.size)
        width = int(count[small].amax()) if small.any() else 0
        free, self.columns = possible.to(torch.uint8).topk(width, dim=-1)
        self.quadratic = self.quadratic._replace(X=self.quadratic.on(self.columns, free > 0))
        weight = relaxed.coef.norm(dim=-1).gather(-1, self.columns)
        return Nodes(every, torch.zeros_like(free > 0), free > 0, weight, relaxed.bound).at(small)

    def possible(self, element: Tensor, free: Tensor, relaxed: Relaxation, size: int | Tensor) -> Tensor:
        """Free features that may be part of a better support; the bounds of the others are closed.

        With feature j inside, the ``size``-th largest slope leaves the bound and that of j enters.
        """
        ordered = torch.where(free, relaxed.slope, -torch.inf).sort(-1, descending=True).values
        last = torch.as_tensor(size, device=ordered.device).expand(len(ordered))[:, None] - 1
        threshold = ordered.gather(-1, last.clamp_max(ordered.shape[-1] - 1))
        raised = relaxed.bound[:, None] + (threshold - relaxed.slope).clamp_min(0)
        out = free & self.hopeless(element[:, None], raised)
        self.close(element[:, None].expand_as(out)[out], raised[out])
        return free & ~out

    def portions(self, nodes: Nodes) -> list[Nodes]:
        """The nodes in portions whose tensors fit the memory."""
        n, f = self.quadratic.X.shape[1:]
        size = max(1, MEMORY // (f * max(n, f)))
        return [nodes.at(part) for part in torch.arange(len(nodes.element), device=nodes.element.device).split(size)]

    def children(self, nodes: Nodes) -> Nodes:
        """Solve the nodes that ask for two features, bound the others anew, and branch on these."""
        remaining = self.size - nodes.inside.sum(-1)
        last = remaining <= 2
        if last.any():
            self.solve_pairs(nodes.at(last))
        nodes, remaining = nodes.at(~last), remaining[~last]
        relaxed = relax(self.quadratic.at(nodes.element), nodes.inside, nodes.free, remaining, nodes.weight, STEPS)
        # The slopes belong to the new bound, whichever bound is higher.
        free = self.possible(nodes.element, nodes.free, relaxed, remaining)
        order, bound, real = _branches(free, relaxed, remaining)
        bound = torch.maximum(bound, nodes.bound[:, None])
        hopeless = real & self.hopeless(nodes.element[:, None], bound)
        self.close(nodes.element[:, None].expand_as(bound)[hopeless], bound[hopeless])
        parent, place = (real & ~hopeless).nonzero(as_tuple=True)
        position = torch.argsort(order, dim=-1)[parent]
        inside = nodes.inside[parent] | (position == place[:, None])
        free = free[parent] & (position > place[:, None])
        return Nodes(nodes.element[parent], inside, free, relaxed.coef[parent].norm(dim=-1), bound[parent, place])

    def solve_pairs(self, nodes: Nodes) -> None:
        """Find the best completion of nodes that lack at most two features, and close them."""
        q = self.quadratic.at(nodes.element)
        inside, (first, second), gain = best_pair(q, nodes, self.size)
        value = q.null - gain
        improved = value < self.upper[nodes.element] - IMPROVEMENT * q.null
        for i in torch.argsort(value, descending=True, stable=True).tolist():
            if improved[i]:
                element = nodes.element[i]
                columns = torch.cat([inside[i], first[i : i + 1], second[i : i + 1]])[: self.size]
                self.upper[element], self.filled[element] = value[i], True
                self.best_columns[element] = self.columns[element, columns]
        self.close(nodes.element, value)


def _branches(free: Tensor, relaxed: Relaxation, remaining: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features in the order of their slopes (N, m), the bounds of the children they stand for, and which are real.

    Child i has the slopes i, …, i + remaining − 1 in its bound, instead of the first ones. A child with too few free
    features left is not needed: another one has a larger support, which is at least as good.
    """
    slope, order = torch.where(free, relaxed.slope, -1.0).sort(dim=-1, descending=True, stable=True)
    m = slope.shape[-1]
    place = torch.arange(m, device=slope.device)
    total = torch.nn.functional.pad(slope.clamp_min(0).cumsum(-1), (1, 0))
    end = (place + remaining[:, None]).clamp_max(m)
    window = total.gather(-1, end) - total[:, :-1]
    bound = relaxed.bound[:, None] + (window[:, :1] - window).clamp_min(0)
    return order, bound, place + remaining[:, None] <= free.sum(-1, keepdim=True)


def best_pair(q: Quadratic, nodes: Nodes, size: int) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Features inside (N, size − 2), the best two more (N,) each, and what all of them gain (N,).

    With A the Schur complement of XᵀX + l2·I and R that of XᵀY on the free features, features i and j gain
    (A_jj‖R_i‖² + A_ii‖R_j‖² − 2 A_ij⟨R_i, R_j⟩)/(2(A_ii A_jj − A_ij²)), and i alone ‖R_i‖²/(2 A_ii).
    """
    inside = nodes.inside.to(torch.uint8).topk(max(size - 2, 0), dim=-1).indices
    width = int(nodes.free.sum(-1).amax())
    free, columns = nodes.free.to(torch.uint8).topk(width, dim=-1)
    X_S, X_F = q.on(inside, torch.ones_like(inside)), q.on(columns, free)
    identity = torch.eye(inside.shape[-1], dtype=q.X.dtype, device=q.X.device)
    root, _ = inverse_root(X_S.mT @ X_S + q.l2[:, None, None] * identity)
    explained = root.mT @ (X_S.mT @ q.Y)
    coupling = X_F.mT @ X_S @ root
    R = X_F.mT @ q.Y - coupling @ explained
    A = X_F.mT @ X_F - coupling @ coupling.mT
    single = A.diagonal(dim1=1, dim2=2) + q.l2[:, None]
    products = R @ R.mT
    norms = products.diagonal(dim1=1, dim2=2)
    # Beside the features inside, and then beside each other, both must be independent.
    possible = (free > 0) & (single > DEPENDENT * (X_F.square().sum(1) + q.l2[:, None]))
    weighted = single[:, None, :] * norms[:, :, None]
    area = single[:, None, :] * single[:, :, None]
    left = area - A.square()
    gains = torch.where(left > DEPENDENT * area, (weighted + weighted.mT - 2 * A * products) / left, -torch.inf)
    alone = norms / torch.where(possible, single, 1.0)
    if size == 1:
        gains = torch.full_like(gains, -torch.inf)
    gains.diagonal(dim1=1, dim2=2).copy_(alone)
    gains = torch.where(possible[:, :, None] & possible[:, None, :], gains, -torch.inf)
    best, index = gains.flatten(1).max(-1)
    gain = (explained.square().sum((1, 2)) + best.clamp_min(0)) / 2
    pair = (columns.gather(-1, (index // width)[:, None])[:, 0], columns.gather(-1, (index % width)[:, None])[:, 0])
    return inside, pair, gain
