"""What must happen to the solution when the problem changes in a known way: no other solver is needed."""

from collections.abc import Callable

import torch
from torch import Tensor

from .example import Example
from .failures import failure, reproducible
from .named import Named
from .objectives import objective
from .scaling import coefficient_size
from .subject import Subject

# Problems whose targets do not act on each other.
SEPARABLE = ("ridge", "lasso", "elastic_net", "huber", "nonnegative", "box", "simplex")
Relation = Callable[[Subject, Example], None]


@reproducible
def check_metamorphic(subject: Subject, example: Example) -> list[str]:
    """All relations that apply to the problem: see `RELATIONS` for their names.

    Examples whose solution is not unique are left out.

    Args:
        subject: what is tested; with ``make`` the relations that change strengths are checked too.
        example: one problem, no leading dimensions.

    Returns:
        The names of the relations checked.

    Raises:
        AssertionError: one does not hold.
    """
    problem = subject.objective
    if isinstance(problem, Named):
        answer = subject.answer(example)
        if (problem.smooth or answer.dual is not None) and not unique(problem, example, answer.coefficients):
            return []
    checked = []
    for name, (relation, applies) in RELATIONS.items():
        if applies(subject, example):
            relation(subject, example)
            checked.append(name)
    return checked


def unique(problem: Named, example: Example, coefficients: object) -> bool:
    """Strongly convex, or regular and not at a kink; with a limited number of features no other choice ties."""
    if problem.n_nonzero is None and float(torch.as_tensor(example.strengths.get("l2", 0.0)).min()) > 0:
        return True
    if not problem.smooth:
        return True
    kinks = problem.kinks(example, coefficients)  # type: ignore[arg-type]
    regular = problem.regularity(example, coefficients)  # type: ignore[arg-type]
    return float(kinks.abs().min()) > 1e-4 and float(regular.min()) > 1e-6


def _samples(subject: Subject, example: Example) -> None:
    order = torch.arange(example.X.shape[-2]).flip(0)
    weight = None if example.sample_weight is None else example.sample_weight[order]
    other = example.replace(X=example.X[order], Y=example.Y[order], sample_weight=weight)
    _agree(subject, example, subject.W(other), subject.W(example), "the order of the samples not to matter")


def _features(subject: Subject, example: Example) -> None:
    m = example.X.shape[-1]
    order = torch.arange(m).flip(0)
    W = subject.W(example)
    expected = torch.cat([W[:m][order], W[m:]])
    found = subject.W(example.replace(X=example.X[:, order]))
    _agree(subject, example, found, expected, "permuted features to permute the rows of W")


def _targets(subject: Subject, example: Example) -> None:
    k = example.Y.shape[-1]
    order = torch.arange(k).flip(0)
    expected = subject.W(example)[:, order]
    found = subject.W(example.replace(Y=example.Y[:, order]))
    _agree(subject, example, found, expected, "permuted targets, or classes, to permute the columns of W")


def _doubled(subject: Subject, example: Example) -> None:
    twice = example.replace(
        X=torch.cat([example.X, example.X]),
        Y=torch.cat([example.Y, example.Y]),
        sample_weight=None if example.sample_weight is None else torch.cat([example.sample_weight] * 2),
    )
    _agree(
        subject, example, subject.W(twice), subject.W(example),
        "every sample twice to change nothing: the loss is a mean", "the loss is a sum over samples, not a mean",
    )  # fmt: skip


def _weights(subject: Subject, example: Example) -> None:
    """The first sample twice, against twice its weight; and a sample of weight zero."""
    weight = torch.ones(example.X.shape[-2], dtype=torch.float64)
    weight = weight if example.sample_weight is None else example.sample_weight.to(torch.float64)
    first = torch.zeros_like(weight)
    first[0] = weight[0]
    repeated = example.replace(
        X=torch.cat([example.X, example.X[:1]]),
        Y=torch.cat([example.Y, example.Y[:1]]),
        sample_weight=torch.cat([weight, weight[:1]]),
    )
    doubled = subject.W(example.replace(sample_weight=weight + first))
    _agree(
        subject, example, subject.W(repeated), doubled, "a duplicate sample to act like twice the weight",
        "sample weights are normalised, or multiplied in, at the wrong place",
    )  # fmt: skip
    absent = repeated.replace(
        X=torch.cat([example.X, 7 * example.X[:1] + 1]), sample_weight=torch.cat([weight, torch.zeros(1).double()])
    )
    _agree(
        subject, example, subject.W(absent), subject.W(example.replace(sample_weight=weight)),
        "a sample of weight zero to be absent", "the mean counts samples, not their weights",
    )  # fmt: skip


def _zero(subject: Subject, example: Example) -> None:
    """Scaling the features scales every correlation: just below the threshold nothing is left."""
    problem = subject.objective
    assert isinstance(problem, Named)
    factor = float(problem.scale_to_zero(example))
    inside = subject.W(example.replace(X=example.X * (factor * (1 - 1e-6))))[: example.X.shape[-1]]
    # Coefficients that a gap of tol allows where the exact ones are zero.
    allowed = 0.0 if subject.answer(example).gap is not None else subject.coef_tol
    size = float(coefficient_size(example)) / factor
    if float(inside.abs().max()) > allowed * size:
        raise failure(
            "all coefficients zero from l1_max on",
            f"{float(inside.abs().max()):.1e} just above l1_max",
            "the threshold is too small, or divides by n where the loss does not; prox has the wrong sign",
        )
    if problem.name == "svm":
        return
    outside = subject.W(example.replace(X=example.X * (factor * 1.05)))[: example.X.shape[-1]]
    if float(outside.abs().max()) == 0:
        raise failure(
            "a coefficient other than zero below l1_max",
            "none at l1_max/1.05",
            "the threshold is too large: a factor of 2 or n",
        )


def _scaled_features(subject: Subject, example: Example) -> None:
    c = 3.0
    powers = {"l1": 1, "group_l1": 1, "l2": 2, "lower": -1, "upper": -1, "total": -1}
    strengths = {name: value * c ** powers.get(name, 0) for name, value in example.strengths.items()}
    other = example.replace(X=example.X * c, strengths=strengths)
    W, m = subject.W(example), example.X.shape[-1]
    _agree(
        subject, example, subject.W(other), torch.cat([W[:m] / c, W[m:]]),
        f"X·{c:g}, l1·{c:g} and l2·{c**2:g} to divide W by {c:g}",
        "a strength is scaled by the features inside the layer",
    )  # fmt: skip


def _scaled_targets(subject: Subject, example: Example) -> None:
    c = 3.0
    scaling = ("l1", "group_l1", "delta", "lower", "upper", "total")
    strengths = {name: value * c if name in scaling else value for name, value in example.strengths.items()}
    other = example.replace(Y=example.Y * c, strengths=strengths)
    _agree(
        subject, example, subject.W(other), subject.W(example) * c, f"Y·{c:g} and l1·{c:g} to multiply W by {c:g}",
        "the loss is not quadratic, or a strength is scaled by the targets inside the layer",
    )  # fmt: skip


def _separate(subject: Subject, example: Example) -> None:
    W = subject.W(example)
    alone = [subject.W(example.replace(Y=example.Y[:, c : c + 1])) for c in range(example.Y.shape[-1])]
    _agree(
        subject, example, W, torch.cat(alone, -1), "targets solved together to be targets solved apart",
        "the loss is a mean over targets, or the threshold sees all targets at once",
    )  # fmt: skip


def _lasso(subject: Subject, example: Example) -> None:
    """Groups of one entry are the Lasso."""
    one = example.replace(Y=example.Y[:, :1])
    answer = subject.answer(one)
    strengths = {name: value for name, value in example.strengths.items() if name in ("l1", "l2")}
    problem = subject.objective
    assert isinstance(problem, Named)
    lasso = objective("elastic_net", fit_intercept=problem.fit_intercept)
    assert isinstance(lasso, Named)
    gap = float(lasso.gap(one.replace(strengths=strengths), answer.coefficients, answer.dual))
    if not gap <= subject.tol:
        raise failure(
            "with one target and groups of one feature the Lasso's solution",
            f"a gap of {gap:.1e} in the Lasso",
            "groups run across the wrong dimension, or are weighted by their size",
        )


def _ridge(subject: Subject, example: Example) -> None:
    """With a vanishing l1 the solution is that of ridge regression, in closed form."""
    problem = subject.objective
    assert isinstance(problem, Named)
    tiny = {n: v * 1e-9 for n, v in example.strengths.items() if n in ("l1", "group_l1")}
    other = example.with_strengths(**tiny)
    answer = subject.answer(other)
    ridge = objective("ridge", fit_intercept=problem.fit_intercept)
    assert isinstance(ridge, Named)
    gap = float(ridge.gap(other.replace(strengths={"l2": other.strengths["l2"]}), answer.coefficients, answer.dual))
    if not gap <= max(subject.tol, 1e-7):
        raise failure(
            "ridge regression in the limit of no l1",
            f"a gap of {gap:.1e} in ridge regression",
            "l2 is halved, doubled or divided by n; or the solver needs l1 for its steps",
        )


def _agree(
    subject: Subject, example: Example, found: Tensor, expected: Tensor, what: str, cause: str = "see `check_optimal`"
) -> None:
    scale = max(float(expected.abs().max()), 1e-3 * float(coefficient_size(example)))
    error = float((found - expected).abs().max()) / scale
    if not error <= 10 * subject.coef_tol:
        raise failure(
            f"{what} (to {10 * subject.coef_tol:.0e} of the largest coefficient)", f"a change of {error:.1e}", cause
        )


def _named(*names: str) -> Callable[[Subject, Example], bool]:
    return lambda subject, _: subject.objective.name in names


def _known(subject: Subject, example: Example) -> bool:
    return isinstance(subject.objective, Named)


def _always(subject: Subject, example: Example) -> bool:
    return True


def _thresholds(subject: Subject, example: Example) -> bool:
    problem = subject.objective
    if not isinstance(problem, Named) or not problem.sparse:
        return False
    factor = problem.scale_to_zero(example)
    return bool(factor.isfinite()) and float(factor) > 0


def _permutable(subject: Subject, example: Example) -> bool:
    problem = subject.objective
    return isinstance(problem, Named) and problem.groups is None and "group_weights" not in example.strengths


def _columns(subject: Subject, example: Example) -> bool:
    problem = subject.objective
    return _known(subject, example) and example.Y.is_floating_point() and getattr(problem, "classes", 0) != 2


def _groups_of_one(subject: Subject, example: Example) -> bool:
    return subject.objective.name == "group_lasso" and _permutable(subject, example)


def _has_ridge(subject: Subject, example: Example) -> bool:
    l2 = float(torch.as_tensor(example.strengths.get("l2", 0.0)))
    return subject.make is not None and l2 > 0 and subject.objective.name in (
        "elastic_net", "group_lasso", "sparse_group_lasso",
    )  # fmt: skip


def _remade(*names: str) -> Callable[[Subject, Example], bool]:
    return lambda subject, _: subject.make is not None and (not names or subject.objective.name in names)


REGRESSION = (
    "ridge", "lasso", "elastic_net", "group_lasso", "sparse_group_lasso", "nonnegative", "box", "simplex", "huber",
    "sparse_ridge",
)  # fmt: skip
RELATIONS: dict[str, tuple[Relation, Callable[[Subject, Example], bool]]] = {
    "order of samples": (_samples, _always),
    "order of features": (_features, _permutable),
    "order of targets": (_targets, _columns),
    "every sample twice": (_doubled, _known),
    "weights": (_weights, lambda subject, _: subject.takes_weights),
    "zero from l1_max on": (_zero, _thresholds),
    "scaling of X": (_scaled_features, lambda s, e: _known(s, e) and s.make is not None),
    "scaling of Y": (_scaled_targets, _remade(*REGRESSION)),
    "targets apart": (_separate, _named(*SEPARABLE)),
    "groups of one": (_lasso, _groups_of_one),
    "l1 to zero": (_ridge, _has_ridge),
}
