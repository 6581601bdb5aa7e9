"""A first estimate of the curvature, for methods whose step is its inverse."""

from __future__ import annotations

from typing import Any

from agd import backends
from agd._typing import Array, Tree
from agd.gradient.curvature import largest_curvature
from agd.update._vector import dot, flatten, largest, over

__all__ = ["first_curvature", "looks"]


def first_curvature(objective: Any, params: Tree, grad: Tree) -> Array:
    """Return L for an objective that can bound it, and a guess to be corrected on the way for others.

    The guess is the curvature along the gradient ::

        L = |g(x + h d) - g(x)| / (h |d|),    d = -g / max|g|,    h = eps^(1/3) max(1, max|x|)

    Where a penalty or bounds are left to a prox, x + h d may lie where the function must not be asked;
    there it is L = max(1, |g|), with which the first step is no longer than 1.

    Parameters
    ----------
    objective : Objective
        One over linear parameters has ``bound_product``; one that has ``nonsmooth`` says whether a part
        of it is left to its prox.
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
    if not looks(objective):
        return backends.clip(xp.sqrt(dot(g, g)), low=1.0)
    d = -g * over(xp.ones_like(g[..., 0]), largest(g))[..., None]
    h = float(xp.finfo(x.dtype).eps) ** (1.0 / 3.0) * backends.clip(largest(x), low=1.0)
    _, there = objective.value_and_grad(restore(x + h[..., None] * d))
    change, _ = flatten(there, batch)
    change = change - g
    L = xp.sqrt(dot(change, change)) * over(xp.ones_like(h), h * xp.sqrt(dot(d, d)))
    return xp.where(xp.isfinite(L) & (L > 0.0), L, xp.ones_like(L))


def looks(objective: Any) -> int:
    """Return how often `first_curvature` evaluates an objective, 0 or 1."""
    return int(not (hasattr(objective, "bound_product") or getattr(objective, "nonsmooth", False)))
