"""jaxopt: accelerated proximal gradient with implicit derivatives, compiled."""

from typing import Any

import numpy as np

from ..certificate import Answer
from ..problems import Problem, functional
from .base import Contender, Unsupported

MAX_ITER = 3000


class Jaxopt(Contender):
    """``ProximalGradient(tol=1e-4, implicit_diff=True)`` on the SVM's dual, ``jit`` of ``vmap``.

    The proximal operator is the projection of every row onto the simplex (``vmap`` of ``projection_simplex``). The
    objective is divided by its curvature λ_max, so that steps of length 1 need no line search: two to twenty times as
    fast as with jaxopt's, which in float32 ends at larger gaps, too. ``tol`` bounds the distance between iterates.
    Without l1 the objective is in the Gram matrix. Arrays are jax's before the clock starts; compilation is not timed.
    """

    name = "jaxopt"
    distribution = "jaxopt"
    tol = 1e-4

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if problem.kind != "svm":
            raise Unsupported("set up here for the SVM's dual")
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)  # for float64 features; arrays of float32 stay that
        dtype = problem.X.numpy().dtype
        self.X = jnp.asarray(problem.X.numpy())
        self.Y = jnp.asarray(problem.Y.numpy().astype(dtype))
        self.C = jnp.asarray(functional(problem).numpy().astype(dtype))
        solve = jax.vmap(_solver(problem, self.tol))

        def score(X: Any) -> Any:
            return (solve(X, self.Y)[0] * self.C).sum()

        self._solve, self._gradient, self._wait = jax.jit(solve), jax.jit(jax.grad(score)), jax.block_until_ready

    def forward(self) -> Any:
        """W, Θ."""
        return self._wait(self._solve(self.X, self.Y))

    def total(self) -> Any:
        """The gradient, by reverse mode."""
        return self._wait(self._gradient(self.X))

    def answer(self, found: Any) -> Answer:
        """Θ alone: W is then the float64 one."""
        return Answer(dual=np.asarray(found[1], dtype=np.float64))


class JaxoptTight(Jaxopt):
    """The same with ``tol=1e-5``."""

    name = "jaxopt, tol 1e-5"
    tol = 1e-5


def _solver(problem: Problem, tol: float) -> Any:
    """(X (n, m), Y (n, k)) ↦ W, Θ in jax."""
    import jax
    import jax.numpy as jnp
    from jaxopt import ProximalGradient
    from jaxopt.projection import projection_simplex

    n, l1, l2 = problem.X.shape[-2], problem.l1, problem.l2

    def shrink(V: Any) -> Any:
        square = (V**2).sum(-1, keepdims=True)
        norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
        return jnp.where(square > 0, V * jnp.maximum(1 - l1 / norm, 0), 0) if l1 > 0 else V

    def objective(dual: Any, data: Any, Y: Any, L: Any) -> Any:
        theta = (Y - dual) / n
        square = (theta * (data @ theta)).sum() if l1 == 0 else (shrink(data.T @ theta) ** 2).sum()
        return (n * square / (2 * l2) + (Y * dual).sum()) / L

    def project(dual: Any, hyperparameters: Any, scaling: float = 1.0) -> Any:
        return jax.vmap(projection_simplex)(dual)

    solver = ProximalGradient(objective, project, stepsize=1.0, tol=tol, maxiter=MAX_ITER, implicit_diff=True)

    def solve(X: Any, Y: Any) -> Any:
        gram = X @ X.T
        L = jnp.linalg.eigvalsh(jax.lax.stop_gradient(gram))[-1] / (n * l2)
        dual = solver.run(jnp.full_like(Y, 1 / Y.shape[-1]), None, gram if l1 == 0 else X, Y, L).params
        return shrink(X.T @ (Y - dual) / n) / l2, Y - dual

    return solve
