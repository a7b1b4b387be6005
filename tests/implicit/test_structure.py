"""Case 25, trees compared by shape: results are matched to the solution by key, or refused by name, never by order."""

import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jacfwd, jacrev
from torch.utils import _pytree as pytree

import implicitlayers as il

implicit = il.implicit
A = torch.tensor(0.7, dtype=torch.float64)
State = namedtuple("State", ["p", "q"])
Swapped = namedtuple("Swapped", ["q", "p"])
Other = namedtuple("Other", ["p", "r"])


@dataclasses.dataclass
class Registered:
    """A tree to torch."""

    p: torch.Tensor
    q: torch.Tensor


@dataclasses.dataclass
class Closed:
    """A leaf to torch."""

    p: torch.Tensor
    q: torch.Tensor


class Keyless:
    """A tree whose children have no names."""

    def __init__(self, p, q):
        self.p, self.q = p, q


pytree.register_dataclass(Registered)
pytree.register_pytree_node(Keyless, lambda k: ([k.p, k.q], None), lambda children, _: Keyless(*children))

CONTAINERS = {
    "dict": lambda p, q: {"p": p, "q": q},
    "list": lambda p, q: [p, q],
    "namedtuple": State,
    "dataclass": Registered,
    "no keys": Keyless,
    "nested": lambda p, q: {"deep": [{"p": p}, q], "note": "constant", "count": torch.tensor(3)},
}
# What holds p and q where another container does, though otherwise.
SAME = {
    "dict": [lambda p, q: {"q": q, "p": p}, lambda p, q: OrderedDict(q=q, p=p), lambda p, q: {"q": q, "n": 1, "p": p}],
    "list": [lambda p, q: (p, q), State],
    "namedtuple": [lambda p, q: Swapped(q=q, p=p), lambda p, q: (p, q), lambda p, q: [p, q]],
    "dataclass": [Registered],
    "no keys": [Keyless],
    "nested": [lambda p, q: {"deep": ({"p": p}, q)}, lambda p, q: {"count": 0, "deep": [{"p": p}, q]}],
}
# What does not: missing, extra, renamed, of another kind, or in a dataclass that is closed.
DIFFERENT = {
    "dict": [
        lambda p, q: {"p": p},
        lambda p, q: {"p": p, "q": q, "r": q},
        lambda p, q: {"p": p, "r": q},
        lambda p, q: [p, q],
        State,
        Closed,
        lambda p, q: None,
        lambda p, q: {"p": p, "q": q.long()},
        lambda p, q: {"p": p, "q": 0.5},
    ],
    "list": [lambda p, q: {0: p, 1: q}, lambda p, q: [p, [q]], lambda p, q: [p, q, q], Registered],
    "namedtuple": [Other, lambda p, q: {"p": p, "q": q}],
    "dataclass": [lambda p, q: {"p": p, "q": q}, lambda p, q: (p, q)],
    "no keys": [lambda p, q: {"p": p, "q": q}],
    "nested": [lambda p, q: {"deep": [{"q": p}, q]}, lambda p, q: {"deep": {"p": p, "q": q}}, lambda p, q: [p, q]],
}


def parts(container, tree):
    """The p and q of a tree made by ``CONTAINERS[container]``."""
    leaves = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    assert len(leaves) == 2
    return leaves


def solver(container, a):
    """The fixed point of p ← .5·p + a, q ← .3·p + .15·q."""
    p = 2 * a
    return CONTAINERS[container](p, 0.3 * p / 0.85)


def decorated(kind, container, result):
    """A solution in one container, by a function whose result is in another."""

    def map(x, a):
        p, q = parts(container, x)
        return result(0.5 * p + a, 0.3 * p + 0.15 * q)

    def residual(x, a):
        p, q = parts(container, x)
        return result(p - 0.5 * p - a, q - 0.3 * p - 0.15 * q)

    decorate = implicit.fixed_point(map) if kind == "fixed_point" else implicit.root(residual)
    return decorate(lambda a: solver(container, a))


pairs = [(container, i) for container, results in SAME.items() for i in range(len(results))]


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
@pytest.mark.parametrize("kind", ["fixed_point", "root"])
@pytest.mark.parametrize(("container", "i"), pairs)
def test_results_are_matched_by_key(kind, container, i, transform):
    solve = decorated(kind, container, SAME[container][i])
    dp, dq = transform(lambda a: torch.stack(parts(container, solve(a))))(A)
    assert dp.item() == pytest.approx(2)
    assert dq.item() == pytest.approx(0.6 / 0.85)


@pytest.mark.parametrize("kind", ["fixed_point", "root"])
@pytest.mark.parametrize(("container", "i"), [(c, i) for c, results in DIFFERENT.items() for i in range(len(results))])
def test_results_of_another_structure_are_refused(kind, container, i):
    solve = decorated(kind, container, DIFFERENT[container][i])
    name = "map" if kind == "fixed_point" else "residual"
    with pytest.raises(ValueError, match=rf"^{name}: given a result of shapes .*, expected \[\(\), \(\)\]"):
        solve(A)


def test_the_message_names_the_entries():
    solve = decorated("root", "dict", lambda p, q: {"p": p, "r": q})
    with pytest.raises(ValueError, match=r"^residual: .* at \['p'\], \['r'\], expected at \['p'\], \['q'\]"):
        solve(A)


def test_the_derivative_of_a_swapped_dictionary():
    """Case 25 itself: p ← .5·p + a feeds q ← .3·p + .15·q, and the map returns q first: dq/da is .6/.85, no 2."""

    @implicit.fixed_point(lambda x, a: {"q": 0.3 * x["p"] + 0.15 * x["q"], "p": 0.5 * x["p"] + a})
    def solve(a):
        return solver("dict", a)

    assert torch.func.grad(lambda a: solve(a)["q"])(A).item() == pytest.approx(0.6 / 0.85)


@given(order=st.permutations(range(4)), seed=st.integers(0, 100))
def test_the_order_of_keys_changes_nothing(order, seed):
    """A linear map of four unknowns of different sizes, its result in any order: equal to the order of the solution."""
    sizes = [1, 2, 2, 3]
    generator = torch.Generator().manual_seed(seed)
    M = 0.1 * torch.randn(8, 8, generator=generator, dtype=torch.float64)
    b = torch.randn(8, generator=generator, dtype=torch.float64)

    def tree(x):
        return dict(zip("abcd", x.split(sizes), strict=True))

    def shuffled(x, b):
        image = tree(M @ torch.cat([x[key] for key in "abcd"]) + b)
        return {"abcd"[i]: image["abcd"[i]] for i in order}

    solve = implicit.fixed_point(shuffled)(lambda b: tree(torch.linalg.solve(torch.eye(8, dtype=b.dtype) - M, b)))
    J = jacrev(lambda b: torch.cat([solve(b)[key] for key in "abcd"]))(b)
    torch.testing.assert_close(J, torch.linalg.inv(torch.eye(8, dtype=b.dtype) - M))


def test_a_solution_with_tensors_out_of_sight_is_refused():
    """Its derivatives would be silently zero; an `argmin` sees no difference."""
    for decorate in (implicit.argmin(lambda x, a: x[0]), implicit.root(lambda x, a: x[0] - a)):
        with pytest.raises(ValueError, match=r"^solver: given a result of type Closed.* expected"):
            decorate(lambda a: [a * 1, Closed(a, a)])(A)


@pytest.mark.parametrize("result", [lambda x: (x > 0).sum(), lambda x: x.sum() + 1j, lambda x: 3.0, lambda x: None])
def test_an_objective_is_a_floating_number(result):
    solve = implicit.argmin(lambda x, a: result(x))(lambda a: a * 1)
    with pytest.raises(ValueError, match=r"^objective: given a result of .*, expected a tensor of shape \(\)"):
        solve(A)


def test_results_of_another_dtype_are_converted():
    """A map that computes in float32 is no error: the unknowns keep their dtype."""

    @implicit.fixed_point(lambda x, a: {"p": (0.5 * x["p"] + a).float()})
    def solve(a):
        return {"p": 2 * a}

    x = solve(A.clone().requires_grad_())
    assert x["p"].dtype == torch.float64
    assert torch.func.grad(lambda a: solve(a)["p"])(A).item() == pytest.approx(2)
