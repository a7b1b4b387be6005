"""First and second derivatives of every layer, in every mode, against finite differences of values and unrolled code.

A case is a function of tensors that all take derivatives. Its *section* is that function along one random direction per
argument, so that Jacobians with respect to all arguments, and all mixed second derivatives, are small.
"""

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from helpers import directional_derivative, normal, one_hot, relative_error, uniform
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import implicitlayers as il

K = 3
OPTIONS: dict[str, Any] = {"tol": 1e-12, "on_fail": "raise"}


def ridge(X, Y, l2, s, **options):
    return il.functional.ridge(X, Y, l2=l2, sample_weight=s, **OPTIONS | options)


def lasso(X, Y, l1, s, **options):
    return il.functional.group_lasso(X, Y, l1=l1, sample_weight=s, **OPTIONS | options)


def elastic_net(X, Y, l1, l2, s, **options):
    return il.functional.group_lasso(X, Y, l1=l1, l2=l2, sample_weight=s, **OPTIONS | options)


def targets(X):
    return one_hot(torch.arange(X.shape[-2]) % K, K)


def svm(X, l2, s, **options):
    return il.functional.multiclass_svm(X, targets(X), l2=l2, sample_weight=s, **OPTIONS | options)


def sparse_svm(X, l2, l1, s, **options):
    return il.functional.multiclass_svm(X, targets(X), l2=l2, l1=l1, sample_weight=s, **OPTIONS | options)


def smooth_svm(X, l2, smoothing, s, **options):
    return il.functional.multiclass_svm(X, targets(X), l2=l2, smoothing=smoothing, sample_weight=s, **OPTIONS | options)


def full_svm(X, l2, l1, smoothing, s, **options):
    return il.functional.multiclass_svm(
        X, targets(X), l2=l2, l1=l1, smoothing=smoothing, sample_weight=s, **OPTIONS | options
    )


class Case(NamedTuple):
    """``kinds`` of arguments: X, Y, s, or the value of a strength."""

    function: Any
    n: int
    m: int
    kinds: tuple[Any, ...]

    def arguments(self, *batch, n=None, m=None):
        n, m = n or self.n, m or self.m
        made = {
            "X": lambda: normal(*batch, n, m, seed=2),
            "Y": lambda: normal(*batch, n, K, seed=3),
            "s": lambda: uniform(*batch, n, seed=4),
        }
        return tuple(made[kind]() if kind in made else kind * uniform(*batch, seed=5) for kind in self.kinds)

    def section(self, arguments, **options):
        """p ↦ the function at arguments + p·directions, one entry of p per argument."""
        directions = [normal(*a.shape, seed=20 + i) * _scale(kind) for i, (kind, a) in enumerate(self.pairs(arguments))]

        def along(p):
            moved = [a + p[i] * d for i, (a, d) in enumerate(zip(arguments, directions, strict=True))]
            return self.function(*moved, **options)

        return along

    def pairs(self, arguments):
        return zip(self.kinds, arguments, strict=True)

    @property
    def origin(self):
        return torch.zeros(len(self.kinds), dtype=torch.float64)


def _scale(kind):
    """Strengths move in proportion to their size."""
    return 1.0 if isinstance(kind, str) else kind


CASES = {
    "ridge_wide": Case(ridge, 5, 8, ("X", "Y", 0.1, "s")),
    "ridge_tall": Case(ridge, 8, 5, ("X", "Y", 0.1, "s")),
    "lasso_wide": Case(lasso, 6, 10, ("X", "Y", 0.2, "s")),
    "lasso_tall": Case(lasso, 12, 6, ("X", "Y", 0.2, "s")),
    "elastic_net": Case(elastic_net, 6, 10, ("X", "Y", 0.2, 0.1, "s")),
    "svm_wide": Case(svm, 9, 12, ("X", 0.6, "s")),
    "svm_tall": Case(svm, 12, 4, ("X", 0.6, "s")),
    "sparse_svm": Case(sparse_svm, 9, 7, ("X", 0.4, 0.05, "s")),
    "smooth_svm": Case(smooth_svm, 9, 6, ("X", 0.1, 0.3, "s")),
    "full_svm": Case(full_svm, 9, 7, ("X", 0.1, 0.05, 0.3, "s")),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
batches = pytest.mark.parametrize("batch", [(), (2,)], ids=["alone", "batch"])


def differences(f, origin, step=1e-4):
    """The Jacobian of ``f`` at ``origin`` by finite differences, derivatives last."""
    basis = torch.eye(len(origin), dtype=torch.float64)
    return torch.stack([directional_derivative(f, origin, e, step) for e in basis], dim=-1)


@cases
@batches
def test_first_derivatives_match_finite_differences(case, batch):
    section = case.section(case.arguments(*batch))
    expected = differences(section, case.origin)
    assert all(expected[..., i].abs().max() > 1e-6 for i in range(len(case.kinds)))
    for i in range(len(case.kinds)):
        for jacobian in (jacrev, jacfwd):
            assert relative_error(jacobian(section)(case.origin)[..., i], expected[..., i]) <= 1e-5


@cases
@batches
def test_second_derivatives_match_finite_differences_in_every_composition(case, batch):
    """All pairs of arguments (pytorch#197867: nested forward mode must not be silently zero)."""
    section = case.section(case.arguments(*batch))
    expected = differences(jacrev(section), case.origin)
    assert expected.abs().max() > 1e-6
    for outer, inner in itertools.product((jacrev, jacfwd), repeat=2):
        given = outer(inner(section))(case.origin)
        for i, j in itertools.product(range(len(case.kinds)), repeat=2):
            scale = expected[..., i, j].abs().max().clamp_min(1e-3 * expected.abs().max())
            assert (given[..., i, j] - expected[..., i, j]).abs().max() <= 1e-5 * scale


@cases
def test_gradcheck(case):
    """Every entry of every argument; reverse, forward, and the reverse under vmap."""
    small = case._replace(n=5, m=4)
    arguments = [a.requires_grad_() for a in small.arguments()]
    assert torch.autograd.gradcheck(case.function, arguments, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(case.function, arguments, fast_mode=True, atol=1e-4)


def test_soft_targets_take_derivatives():
    """The hinge with targets inside the simplex, along directions that keep their sum."""
    X, Y, D = normal(8, 6, seed=2), normal(8, K, seed=3).softmax(-1), normal(8, K, seed=4)
    D = 0.1 * (D - D.mean(-1, keepdim=True))
    for options in ({}, {"l1": 0.03}, {"l1": 0.03, "smoothing": 0.2}):

        def along(t, options=options):
            return il.functional.multiclass_svm(X, Y + t * D, l2=0.1, **OPTIONS, **options)

        zero = torch.zeros((), dtype=torch.float64)
        expected = directional_derivative(along, zero, torch.ones_like(zero), 1e-3)
        assert expected.abs().max() > 1e-4
        for jacobian in (jacrev, jacfwd):
            assert relative_error(jacobian(along)(zero), expected) <= 1e-5


@cases
@batches
def test_value_is_the_same_bits_with_and_without_derivatives(case, batch):
    arguments = case.arguments(*batch)
    plain = case.function(*arguments)
    assert torch.equal(case.function(*(a.clone().requires_grad_() for a in arguments)), plain)
    assert torch.equal(jvp(case.function, arguments, arguments)[0], plain)
    assert torch.equal(case.function(*arguments, derivative_order=0), plain)


@cases
def test_vmap_over_any_argument_equals_a_loop(case):
    """Value and Jacobian, the other arguments being shared."""
    shared, many = case.arguments(), case.arguments(3)

    for i, kind in enumerate(case.kinds):

        def one(a, i=i):
            return case.function(*shared[:i], a, *shared[i + 1 :])

        mapped, looped = vmap(one)(many[i]), torch.stack([one(a) for a in many[i]])
        assert relative_error(mapped, looped) <= 1e-10, kind
        for jacobian in (jacrev, jacfwd):
            expected = torch.stack([jacobian(one)(a) for a in many[i]])
            assert relative_error(vmap(jacobian(one))(many[i]), expected) <= 1e-7, kind


@cases
def test_vmap_over_all_arguments_equals_the_batch(case):
    arguments = case.arguments(3)
    batch = case.function(*arguments)
    assert relative_error(vmap(case.function)(*arguments), batch) <= 1e-12
    last = [a.movedim(0, -1) for a in arguments]
    assert relative_error(vmap(case.function, in_dims=-1, out_dims=-1)(*last).movedim(-1, 0), batch) <= 1e-12


@cases
def test_a_shared_strength_gets_the_sum_of_gradients(case):
    """Broadcast arguments: the gradient is the sum over the batch, not its mean."""
    arguments = case.arguments(3)
    C = normal(3, case.m, K, seed=8)
    for i, kind in enumerate(case.kinds):
        one = arguments[i][0].clone().requires_grad_()
        many = one.detach().expand_as(arguments[i]).clone().requires_grad_()
        gradients = []
        for leaf in (one, many):
            # A shared X or Y or weight has no batch dimension at all.
            coef = case.function(*arguments[:i], leaf, *arguments[i + 1 :])
            gradients.append(torch.autograd.grad((coef * C).sum(), leaf)[0])
        assert gradients[0].shape == one.shape
        assert relative_error(gradients[0], gradients[1].sum(0)) <= 1e-8, kind


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda l2: il.Ridge(l2), ["l2"]),
        (lambda l1, l2: il.GroupLasso(l1, l2), ["l1", "l2"]),
        (lambda l2, l1, smoothing: il.MulticlassSVM(l2, l1, smoothing), ["l2", "l1", "smoothing"]),
    ],
)
def test_parameters_of_a_layer_are_learnt(make, names):
    parameters = [torch.nn.Parameter(torch.tensor(0.05)) for _ in names]
    layer = make(*parameters)
    assert [name for name, _ in layer.named_parameters()] == names
    X = normal(9, 7, dtype=torch.float32)
    Y = targets(X).float()
    layer(X, Y).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad) and p.grad != 0 for p in parameters)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e-3)
    before = layer(X, Y).detach()
    optimiser.step()
    assert not torch.equal(layer(X, Y).detach(), before)


def test_integer_features_of_a_pipeline_get_gradients():
    """The layer inside a network: gradients reach the encoder through X."""
    encoder = torch.nn.Linear(5, 6).double()
    inputs = normal(8, 5)
    coef = il.GroupLasso(0.05)(encoder(inputs), normal(8, 2, seed=1))
    coef.sum().backward()
    assert encoder.weight.grad.abs().sum() > 0


@cases
def test_derivative_order(case):
    """0: none; 1: first exact, second not; 2: both."""
    arguments = case.arguments()
    leaves = [a.clone().requires_grad_() for a in arguments]
    assert not case.function(*leaves, derivative_order=0).requires_grad
    origin = case.origin
    by_order = {order: case.section(arguments, derivative_order=order) for order in (1, 2)}
    exact = jacrev(by_order[2])(origin)
    assert relative_error(jacrev(by_order[1])(origin), exact) <= 1e-10
    curved = jacfwd(jacrev(by_order[2]))(origin)
    assert relative_error(jacfwd(jacrev(by_order[1]))(origin), curved) > 1e-3
    with torch.no_grad():
        assert not case.function(*leaves).requires_grad


def test_third_derivatives_at_order_three():
    for name in ("ridge_wide", "elastic_net", "sparse_svm"):
        case = CASES[name]
        section = case.section(case.arguments(), derivative_order=3)

        def second(p, section=section):
            return jacrev(jacrev(section))(p)

        expected = differences(second, case.origin)
        assert relative_error(jacfwd(second)(case.origin), expected) <= 1e-4


def soft_threshold(V, t):
    norm = V.norm(dim=-1, keepdim=True)
    return torch.where(norm > t, V * (1 - t / norm), 0.0)


def simplex(v):
    descending = v.sort(-1, descending=True).values
    counts = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype)
    return (v - ((descending.cumsum(-1) - 1) / counts).amax(-1, keepdim=True)).clamp_min(0)


def unrolled_elastic_net(X, Y, l1, l2, s):
    """Proximal gradient steps, differentiated one by one: as many as the conditioning asks for."""
    weighted = (s / s.sum())[:, None] * X
    H, B = weighted.mT @ X + l2 * torch.eye(X.shape[1], dtype=X.dtype), weighted.mT @ Y
    step = 1 / torch.linalg.eigvalsh(H.detach()).max()
    W = torch.zeros_like(B)
    # An error shrinks by 1 − l2·step or faster in each, and derivatives do almost as fast.
    for _ in range(math.ceil(30 / float(l2.detach() * step))):
        W = soft_threshold(W - step * (H @ W - B), step * l1)
    return W


def unrolled_svm(X, l2, l1, smoothing, s, steps=600):
    """Projected gradient on the dual, differentiated step by step."""
    Y, weight = targets(X), (s / s.sum())[:, None]
    step = 1 / (torch.linalg.eigvalsh(X.detach() @ X.detach().mT).max() * weight.detach().max() / l2 + smoothing)
    step = step.detach()
    Lambda = torch.full_like(Y, 1 / K)

    def coef(Lambda):
        return soft_threshold(X.mT @ (weight * (Y - Lambda)), l1) / l2

    for _ in range(steps):
        slope = Y + smoothing * (Lambda - Y) - X @ coef(Lambda)
        Lambda = simplex(Lambda - step * slope)
    return coef(Lambda)


@pytest.mark.parametrize(
    ("name", "unrolled"), [("elastic_net", unrolled_elastic_net), ("full_svm", unrolled_svm)], ids=["regression", "svm"]
)
def test_derivatives_equal_those_of_an_unrolled_solver(name, unrolled):
    case = CASES[name]
    arguments = case.arguments()
    if name == "full_svm":
        arguments = (arguments[0], torch.tensor(1.0).double(), arguments[2], torch.tensor(1.0).double(), arguments[4])
    C = normal(case.m, K, seed=8)
    everything = tuple(range(len(arguments)))
    assert relative_error(case.function(*arguments), unrolled(*arguments)) <= 1e-8

    def gradients(f):
        return grad(lambda *a: (f(*a) * C).sum(), everything)(*arguments)

    for given, expected in zip(gradients(case.function), gradients(unrolled), strict=True):
        assert relative_error(given, expected) <= 1e-6

    def curvature(f):
        return grad(lambda X: (grad(lambda X: (f(X, *arguments[1:]) * C).sum())(X)).square().sum())(arguments[0])

    assert relative_error(curvature(case.function), curvature(unrolled)) <= 1e-5


def test_gradient_of_a_sum_is_the_sum_of_gradients():
    """Two losses on one solution (cvxpylayers#85)."""
    X = normal(9, 7).requires_grad_()
    coef = il.MulticlassSVM(0.1, 0.03)(X, targets(X.detach()))
    f, g = coef.square().sum(), coef.sin().sum()
    one, other, both = (torch.autograd.grad(v, X, retain_graph=True)[0] for v in (f, g, f + g))
    assert relative_error(both, one + other) <= 1e-12


DENSE = {
    "ridge": (il.Ridge(0.1, tol=1e-15), 2),
    "elastic_net": (il.ElasticNet(0.0, 0.1, tol=1e-15, on_fail="ignore"), 2),
    "group_lasso": (il.GroupLasso(torch.zeros((), dtype=torch.float64), 0.1, tol=1e-15, on_fail="ignore"), 2),
    "sparse_group_lasso": (il.SparseGroupLasso(0.0, 0.0, 0.1, tol=1e-15, on_fail="ignore"), 2),
    "huber": (il.HuberRegression(l2=0.1, tol=1e-15, on_fail="ignore"), 2),
    "logistic": (il.LogisticRegression(l2=0.1, tol=1e-15, on_fail="ignore"), None),
    "svm": (il.MulticlassSVM(0.1, tol=1e-15, on_fail="ignore"), None),
    "svm_tensor": (il.MulticlassSVM(0.1, torch.zeros((), dtype=torch.float64), tol=1e-15, on_fail="ignore"), None),
}


@pytest.mark.parametrize("zero", ["column", "all"])
@pytest.mark.parametrize(("layer", "k"), DENSE.values(), ids=DENSE)
def test_without_sparsity_features_that_are_zero_have_their_derivative(layer, k, zero):
    """A coefficient of zero is no kink there: it moves as soon as its feature does."""
    X, D = normal(8, 4), normal(8, 4, seed=1)
    X = X * torch.tensor([1.0, 1.0, 1.0, 0.0]) if zero == "column" else torch.zeros_like(X)
    Y = torch.arange(8) % 2 if k is None else normal(8, k, seed=2)
    expected = directional_derivative(lambda X: layer(X, Y), X, D)
    assert expected.abs().amax(-1).min() > 1e-3
    assert relative_error(jvp(lambda X: layer(X, Y), (X,), (D,))[1], expected) <= 1e-7
