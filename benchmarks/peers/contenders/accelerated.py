"""A rival of our own making, kept as it is: accelerated projected gradient on the dual, with all features."""

import torch
from torch import Tensor

from ..problems import Problem
from .base import TorchDualContender, Unsupported
from .dual import Dual, project_simplex

TOL = {torch.float32: 1e-6, torch.float64: 1e-9}
MAX_ITER = 3000
CHECK_EVERY = 10


class Accelerated(TorchDualContender):
    """FISTA with restarts, all problems of the batch at once, until every gap is at most that which ours stops at.

    Step 1/λ_max, restart by the sign of the gradient (O'Donoghue and Candès, 2015), in float64 (float32 stalls above
    1e-6), the gap looked at every 10 steps, 3000 steps at most. Derivatives: conjugate gradients on the face of the
    simplices that was found. It needs nothing but torch: no part of `implicitlayers` is used.
    """

    name = "accelerated gradient"
    distribution = "torch"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if problem.kind != "svm":
            raise Unsupported("the SVM's dual only")
        self.start = torch.full_like(problem.Y, 1 / problem.Y.shape[-1])

    def dual(self, X: Tensor) -> Tensor:
        """See `TorchDualContender.dual`."""
        problem = Dual(self.problem, X.detach().double())
        found, steps = accelerated(problem, self.start, TOL[X.dtype])
        self.remark = f"{steps} steps"
        if X.requires_grad:
            found = _OnFace.apply(found, Dual(self.problem, X.double()).gradient(found), problem)
        return found.to(X.dtype)


def accelerated(problem: Dual, start: Tensor, tol: float, max_iter: int = MAX_ITER) -> tuple[Tensor, int]:
    """Λ, and the number of steps taken: until all relative gaps are ≤ ``tol``, or ``max_iter``."""
    L = problem.curvature()
    dual, ahead, t = start, start, torch.ones_like(L)
    for step in range(1, max_iter + 1):
        moved = project_simplex(ahead - problem.gradient(ahead) / L)
        uphill = ((ahead - moved) * (moved - dual)).sum((-2, -1), keepdim=True) > 0
        t_next = (1 + (1 + 4 * t.square()).sqrt()) / 2
        momentum = torch.where(uphill, 0.0, (t - 1) / t_next)
        ahead = moved + momentum * (moved - dual)
        dual, t = moved, torch.where(uphill, 1.0, t_next)
        if step % CHECK_EVERY == 0 and bool((problem.gap(dual) <= tol).all()):
            break
    return dual, step


class _OnFace(torch.autograd.Function):
    """(Λ, g) ↦ Λ, where g = ∇f(Λ; X) carries what depends on X; a change dg moves the minimiser by −(PHP)⁺dg.

    H is the Hessian, P the projection onto the directions of the face of the simplices in which Λ lies.
    """

    @staticmethod
    def forward(ctx, dual, gradient, problem):
        ctx.problem, ctx.dual = problem, dual
        return dual.clone()

    @staticmethod
    def backward(ctx, adjoint):
        return None, -_solve_on_face(ctx.problem, ctx.dual, adjoint), None


def _solve_on_face(problem: Dual, dual: Tensor, b: Tensor, tol: float = 1e-6, max_iter: int = 200) -> Tensor:
    """The u on the face with P H u = P b, by conjugate gradients; each problem has its own step lengths."""
    free = (dual > 0).to(b.dtype)

    def project(v: Tensor) -> Tensor:
        return free * (v - (free * v).sum(-1, keepdim=True) / free.sum(-1, keepdim=True))

    with torch.enable_grad():
        point = dual.detach().requires_grad_()
        gradient = problem.gradient(point)

    def hessian(v: Tensor) -> Tensor:
        return project(torch.autograd.grad(gradient, point, v, retain_graph=True)[0])

    def dot(a: Tensor, c: Tensor) -> Tensor:
        return (a * c).sum((-2, -1), keepdim=True)

    residual = project(b)
    u, direction, square = torch.zeros_like(b), residual, dot(residual, residual)
    enough = tol**2 * square
    for _ in range(max_iter):
        going = square > enough
        if not going.any():
            break
        image = hessian(direction)
        curvature = dot(direction, image)
        going = going & (curvature > 0)
        step = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
        u, residual = u + step * direction, residual - step * image
        previous, square = square, torch.where(going, dot(residual, residual), 0.0)
        direction = residual + square / torch.where(previous > 0, previous, 1.0) * direction
    return u
