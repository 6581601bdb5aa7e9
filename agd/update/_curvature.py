"""A first estimate of the curvature, for methods whose step is its inverse."""

from __future__ import annotations

from typing import Any

from agd import backends
from agd._typing import Array, Tree
from agd.gradient.objective import largest_curvature
from agd.update._vector import dot, flatten, largest, over

__all__ = ["first_curvature"]


def first_curvature(objective: Any, params: Tree, grad: Tree) -> Array:
    """Return L for an objective that can bound it, and the curvature along the gradient for others.

    ::

        L = |g(x + h d) - g(x)| / (h |d|),    d = -g / max|g|,    h = eps^(1/3) max(1, max|x|)

    The second is a guess that a method has to correct as it goes.

    Parameters
    ----------
    objective : Objective
        One over linear parameters has ``bound_product``.
    params, grad : tree of arrays
        The first point, and the gradient there.

    Returns
    -------
    array, shape (...)
        The curvature, above 0.
    """
    if hasattr(objective, "bound_product"):
        return largest_curvature(objective)
    batch = len(objective.batch_shape)
    x, restore = flatten(params, batch)
    g, _ = flatten(grad, batch)
    xp = backends.namespace(x)
    d = -g * over(xp.ones_like(g[..., 0]), largest(g))[..., None]
    h = float(xp.finfo(x.dtype).eps) ** (1.0 / 3.0) * xp.clip(largest(x), min=1.0)
    _, there = objective.value_and_grad(restore(x + h[..., None] * d))
    change, _ = flatten(there, batch)
    change = change - g
    L = xp.sqrt(dot(change, change)) * over(xp.ones_like(h), h * xp.sqrt(dot(d, d)))
    return xp.where(xp.isfinite(L) & (L > 0.0), L, xp.ones_like(L))
