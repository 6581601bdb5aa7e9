"""What the methods for a smooth function plus a penalty with a prox share; points are vectors (..., n)."""

from __future__ import annotations

from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Tree
from agd.update._vector import dot, flatten, largest, over

__all__ = ["Composite", "Point", "bounded", "rise", "rounding", "share_moved"]


class Point(NamedTuple):
    """A point, with f, its gradient, and F = f + penalty there.

    Attributes
    ----------
    x, g : array, shape (..., n)
        The point and the gradient of the smooth part.
    smooth, value : array, shape (...)
        The smooth part, and the whole.
    """

    x: Array
    g: Array
    smooth: Array
    value: Array


class Composite:
    """An objective over vectors in place of trees.

    Parameters
    ----------
    objective : Objective
        A smooth part, and a penalty or bounds that are left to its prox.
    params, grad : tree of arrays
        A point, and the gradient there: what their structure is.
    """

    def __init__(self, objective: Any, params: Tree, grad: Tree) -> None:
        self.objective = objective
        self.batch = len(objective.batch_shape)
        self.x, self.restore = flatten(params, self.batch)
        self.g, self.as_grad = flatten(grad, self.batch)

    def at(self, x: Array) -> Point:
        """Evaluate at a point."""
        params = self.restore(x)
        smooth, grad = self.objective.value_and_grad(params)
        return Point(x, flatten(grad, self.batch)[0], smooth, smooth + self.penalty(x))

    def here(self, value: Array) -> Point:
        """Return the point that it was made with, where the whole is `value`."""
        return Point(self.x, self.g, value - self.penalty(self.x), value)

    def penalty(self, x: Array) -> Array:
        """Return the part that is left to the prox."""
        return self.objective.penalty_value(self.restore(x))

    def prox(self, x: Array, step: float | Array) -> Array:
        """Return argmin_u penalty(u) + |u - x|² / (2 step)."""
        if not self.objective.nonsmooth:
            return x
        return flatten(self.objective.prox(self.restore(x), step), self.batch)[0]

    def forward(self, at: Point, step: Array) -> Array:
        """Return where a proximal gradient step leads: prox(x - step g, step)."""
        return self.prox(at.x - step[..., None] * at.g, step)


def bounded(objective: Any) -> bool:
    """Return whether an objective bounds its own curvature everywhere."""
    loss = getattr(objective, "loss", None)
    return hasattr(objective, "bound_product") and getattr(loss, "curvature", None) is not None


def rounding(*values: Array) -> Array:
    """Return how much of the difference between values may be rounding."""
    xp = backends.namespace(values[0])
    eps = float(xp.finfo(values[0].dtype).eps)
    size = xp.abs(values[0])
    for value in values[1:]:
        size = xp.maximum(size, xp.abs(value))
    return 16.0 * eps * size


def rise(both: Composite, old: Point, new: Point) -> tuple[Array, Array]:
    """Return how far the value of a quadratic plus the penalty rises, and how much of it may be rounding.

    Of a quadratic the gradients tell, (g + g_old) · d / 2: its values may be small differences of large terms.
    """
    d, slope = new.x - old.x, new.g + old.g
    before, after = both.penalty(old.x), both.penalty(new.x)
    xp = backends.namespace(before)
    eps = float(xp.finfo(before.dtype).eps)
    noise = rounding(before, after) + 16.0 * eps * xp.sqrt(dot(slope, slope) * dot(d, d))
    return 0.5 * dot(slope, d) + (after - before), noise


def share_moved(new: Array, old: Array) -> Array:
    """Return the largest change of an entry, as a share of the largest entry."""
    return over(largest(new - old), largest(new))
