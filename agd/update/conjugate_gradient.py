"""Linear conjugate gradients for quadratics: products with the Hessian give the step without a line search.

`agd.run.refinement` drives both for large least squares, and evaluates the data to correct the recursion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from agd import backends
from agd._tree import dot, safe_divide, tree_axpy, tree_dot, tree_scale
from agd._typing import Array, Progress, Tree
from agd.update.solver import Solver

__all__ = [
    "KernelCG",
    "LinearCG",
]


class LinearState(NamedTuple):
    """Value and gradient at the params, the direction, |g|², and the unit of both.

    Direction and |g|² are those of the gradient over `unit`, so that no square over- or underflows.
    """

    value: Array
    grad: Tree
    progress: Progress
    direction: Tree
    square: Array
    unit: Array


@dataclass(frozen=True)
class LinearCG(Solver):
    r"""Conjugate gradients of Hestenes and Stiefel on a quadratic with Hessian H.

    ::

        a_k = (g_k · g_k) / (d_k · H d_k)
        x_{k+1} = x_k + a_k d_k
        g_{k+1} = g_k + a_k H d_k
        d_{k+1} = -g_{k+1} + (g_{k+1} · g_{k+1}) / (g_k · g_k) d_k

    A step takes one product with H, which for squares is one pass over the data. Value and gradient are
    those of the recursion: what rounding has made of them shows once the objective is evaluated.

    Notes
    -----
    Hestenes and Stiefel (1952), "Methods of conjugate gradients for solving linear systems"; Björck
    (1996), *Numerical Methods for Least Squares Problems*, section 7.4.

    Examples
    --------
    >>> from agd.update.conjugate_gradient import LinearCG
    >>> LinearCG().name
    'conjugate gradients, centred and scaled'
    """

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "conjugate gradients, centred and scaled"

    def init(self, objective: Any, params: Tree) -> LinearState:
        """Evaluate the objective at the first point."""
        value, grad = objective.value_and_grad(params)
        unit = _nonzero(tree_dot(grad, grad, value.ndim) ** 0.5)
        direction = tree_scale(-1.0 / unit, grad)
        square = tree_dot(direction, direction, value.ndim)
        return LinearState(value, grad, _not_stalled(value), direction, square, unit)

    def step(self, objective: Any, params: Tree, state: LinearState) -> tuple[Tree, LinearState]:
        """Minimise along the direction, then make the next direction conjugate to it."""
        value, grad, _, direction, square, unit = state
        product = objective.bound_product(direction)
        curvature = tree_dot(direction, product, value.ndim)
        step = safe_divide(square, curvature)
        params = tree_axpy(step * unit, direction, params)
        grad = tree_axpy(step * unit, product, grad)
        steepest = tree_scale(-1.0 / unit, grad)
        next_square = tree_dot(steepest, steepest, value.ndim)
        direction = tree_axpy(safe_divide(next_square, square), direction, steepest)
        value = value - 0.5 * step * square * unit * unit
        progress = Progress(stalled=(square > 0.0) & ~(curvature > 0.0))
        return params, LinearState(value, grad, progress, direction, next_square, unit)


class KernelState(NamedTuple):
    """Value and gradient at u, the direction and K times it, and (ρ · K ρ)."""

    value: Array
    grad: Any
    progress: Progress
    direction: Array
    product: Array
    square: Array


@dataclass(frozen=True)
class KernelCG(Solver):
    r"""The same iterates of least squares with fewer rows than columns, as combinations of the rows.

    With w = Z' u, K = Z Z' and the gradient g = Z' ρ, where ρ = (K + a I) u - r::

        a_k = (ρ_k · K ρ_k) / (K d_k · (K + a I) d_k)
        u_{k+1} = u_k + a_k d_k
        ρ_{k+1} = ρ_k + a_k (K + a I) d_k
        d_{k+1} = -ρ_{k+1} + (ρ_{k+1} · K ρ_{k+1}) / (ρ_k · K ρ_k) d_k

    Vectors are as long as there are rows, and a step takes one product with K. In the coordinates w they
    are `LinearCG`'s from w = 0, all in the range of Z', so that of many minima the shortest is found.

    Notes
    -----
    With a = 0 that is the method of conjugate residuals of Stiefel (1955), "Relaxationsmethoden bester
    Strategie zur Lösung linearer Gleichungssysteme", on K u = r; Björck (1996), section 7.4, for the rest.

    Examples
    --------
    >>> from agd.update.conjugate_gradient import KernelCG
    >>> KernelCG().name
    'conjugate gradients on the rows'
    """

    @property
    def name(self) -> str:
        """What a result calls it."""
        return "conjugate gradients on the rows"

    def init(self, objective: Any, params: Array) -> KernelState:
        """Evaluate the objective at the first point."""
        value, grad = objective.value_and_grad(params)
        square = dot(grad.residual, grad.product)
        return KernelState(value, grad, _not_stalled(value), -grad.residual, -grad.product, square)

    def step(self, objective: Any, params: Array, state: KernelState) -> tuple[Array, KernelState]:
        """Minimise along the direction, then make the next direction conjugate to it."""
        value, grad, _, direction, product, square = state
        # K + a I times the direction; the inner product of the method is that of K.
        ridged = product + objective.ridge[..., None] * direction
        curvature = dot(product, ridged)
        step = safe_divide(square, curvature)
        params = params + step[..., None] * direction
        grad = objective.grad_of(grad.residual + step[..., None] * ridged)
        next_square = dot(grad.residual, grad.product)
        beta = safe_divide(next_square, square)[..., None]
        direction = beta * direction - grad.residual
        product = beta * product - grad.product
        value = value - objective.gain(step * square)
        progress = Progress(stalled=(square > 0.0) & ~(curvature > 0.0))
        return params, KernelState(value, grad, progress, direction, product, next_square)


def _not_stalled(value: Array) -> Progress:
    xp = backends.namespace(value)
    return Progress(stalled=xp.zeros_like(value, dtype=xp.bool))


def _nonzero(size: Array) -> Array:
    """Return the size, and 1 where it is 0."""
    xp = backends.namespace(size)
    return xp.where(size > 0.0, size, xp.ones_like(size))
