"""The layers of the thorough run, by name, each with the problem that it claims to solve."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

import implicitlayers as il
from implicitlayers.testing import Subject, objective
from implicitlayers.testing.named import Named

TOL = 1e-9
SIZES = {"n": (4, 8, 16, 30), "m": (2, 5, 10, 20), "k": (1, 2, 4)}
GROUPS = ((0, 3), (1, 2, 4), (5,))
WEIGHTS = torch.tensor([1.0, 0.6, 1.4], dtype=torch.float64)


class Layer(NamedTuple):
    """``make`` builds it from strengths; those in ``zero`` are the number 0; ``m`` are the numbers of features."""

    make: Callable[..., Any]
    problem: Named
    zero: tuple[str, ...] = ()
    m: tuple[int, ...] = SIZES["m"]

    def subject(self, tol: float, derivative_order: int = 1) -> Subject:
        """The layer at that tolerance."""
        off = dict.fromkeys(self.zero, 0.0)
        intercept = {"fit_intercept": True} if self.problem.fit_intercept else {}
        options = {"tol": tol, "on_fail": "ignore", "derivative_order": derivative_order}
        return Subject(
            None, self.problem, lambda **strengths: self.make(**strengths | off, **intercept, **options), TOL
        )


def layers() -> dict[str, Layer]:
    """By name, with intercept where there may be one."""
    grouped = {"groups": GROUPS}
    made: dict[str, tuple[Any, ...]] = {
        "Ridge": (il.Ridge, "ridge"),
        "Lasso": (il.Lasso, "lasso"),
        "ElasticNet": (il.ElasticNet, "elastic_net"),
        "GroupLasso": (il.GroupLasso, "group_lasso"),
        "GroupLasso, groups": (partial(il.GroupLasso, groups=GROUPS, group_weights=WEIGHTS), "group_lasso", grouped),
        "SparseGroupLasso": (partial(il.SparseGroupLasso, groups=GROUPS), "sparse_group_lasso", grouped),
        "NonNegativeRegression": (il.NonNegativeRegression, "nonnegative"),
        "BoxRegression": (il.BoxRegression, "box"),
        "SimplexRegression": (il.SimplexRegression, "simplex"),
        "HuberRegression": (il.HuberRegression, "huber"),
        "HuberRegression, dense": (il.HuberRegression, "huber", {}, ("l1",)),
        "LogisticRegression": (il.LogisticRegression, "logistic"),
        "LogisticRegression, dense": (il.LogisticRegression, "logistic", {}, ("l1",)),
        "SparseRidge": (partial(il.SparseRidge, n_nonzero=2), "sparse_ridge", {"n_nonzero": 2}),
        "MulticlassSVM": (il.MulticlassSVM, "svm", {}, ("smoothing",)),
        "MulticlassSVM, dense": (il.MulticlassSVM, "svm", {}, ("l1", "smoothing")),
        "MulticlassSVM, smooth": (il.MulticlassSVM, "svm"),
        "BinarySVM": (il.BinarySVM, "binary_svm", {}, ("smoothing",)),
        "BinarySVM, smooth": (il.BinarySVM, "binary_svm"),
    }
    found = {}
    for name, (make, problem, *rest) in made.items():
        options, zero = (*rest, {}, ())[:2] if rest else ({}, ())
        m = (6,) if "groups" in options else (3, 5, 8) if "n_nonzero" in options else SIZES["m"]
        for b in (False,) if "SVM" in name else (False, True):
            named = objective(problem, fit_intercept=b, **options)
            assert isinstance(named, Named)
            found[name + (", intercept" if b else "")] = Layer(make, named, tuple(zero), m)
    return found
