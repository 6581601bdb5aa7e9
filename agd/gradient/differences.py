"""Finite differences over a tree of arrays: pure Array API, within bounds, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optree

from agd import backends
from agd._typing import Array, Namespace, Tree
from agd._validation import as_value

__all__ = ["difference"]


def difference(
    fun: Callable[[Tree], Any],
    params: Tree,
    kind: str = "2-point",
    bounds: tuple[Tree, Tree] | None = None,
    batch: int = 0,
) -> tuple[Array, Tree]:
    r"""Return a function's value, and its gradient by finite differences.

    ::

        2-point:  g_j = (f(x + h_j e_j) - f(x)) / h_j,          h_j = ± eps^(1/2) max(1, |x_j|)
        3-point:  g_j = (f(x + h_j e_j) - f(x - h_j e_j)) / 2h_j,  h_j =   eps^(1/3) max(1, |x_j|)

    with eps the rounding of x's dtype, or of what f returns where that is coarser, and h_j the sign of
    x_j in the first. In float32 the 2-point formula knows 3 digits of the gradient. Steps are rounded so that
    x + h is exact. One that would leave the bounds turns round; where neither side has room it is
    shortened, and the 3-point formula takes both its points on the wider side, with weights that keep
    its order. A variable whose bounds are equal has the derivative 0.

    Parameters
    ----------
    fun : callable
        ``fun(params)``: a number, or for a batch an array of its shape.
    params : tree of arrays
        The point x.
    kind : {"2-point", "3-point"}
        The formula: one further call of `fun` for each coordinate, or two.
    bounds : tuple of two trees, optional
        The lowest and highest values that `fun` may be called with, each in the structure of the
        params, or one number for all; either may be None. The params lie within them.
    batch : int
        How many leading axes number independent problems. These are differentiated all at once.

    Returns
    -------
    value : array, shape of the batch axes
        f(x).
    grad : tree of arrays
        The gradient, in the structure of the params.

    References
    ----------
    Nocedal and Wright, Numerical Optimization, 2nd ed., section 8.1. The lengths of the steps are those
    that ``scipy.optimize.minimize`` takes.

    Examples
    --------
    >>> import numpy as np
    >>> value, grad = difference(lambda p: p["a"] ** 2 + 3 * p["b"], {"a": np.asarray(2.0), "b": np.asarray(1.0)},
    ...                          "3-point")
    >>> float(value), round(float(grad["a"]), 6), round(float(grad["b"]), 6)
    (7.0, 4.0, 3.0)
    """
    leaves, spec = optree.tree_flatten(params)
    returned = fun(params)
    value, coarse = as_value(returned, params, batch), _rounding(returned)
    low, high = (_limits(side, len(leaves)) for side in bounds or (None, None))
    grads = []
    for i, x in enumerate(leaves):

        def at(changed: Array, i: int = i) -> Array:
            point = optree.tree_unflatten(spec, [*leaves[:i], changed, *leaves[i + 1 :]])
            return as_value(fun(point), params, batch)

        with backends.device_context(x):
            eps = max(coarse, float(backends.namespace(x).finfo(x.dtype).eps))
            points = _points(x, eps, kind, low[i], high[i])
            grads.append(_slopes(at, value, x, points, batch))
    return value, optree.tree_unflatten(spec, grads)


def _rounding(returned: Any) -> float:
    """Return the rounding of what a function returned, as far as that is an array of floats."""
    if not backends.is_array(returned):
        return 0.0
    xp = backends.namespace(returned)
    return (
        float(xp.finfo(returned.dtype).eps) if xp.isdtype(returned.dtype, "real floating") else 0.0
    )


def _limits(side: Tree, n: int) -> list[Any]:
    found = optree.tree_leaves(side)
    return found * n if len(found) == 1 else found or [None] * n


def _points(x: Array, eps: float, kind: str, low: Any, high: Any) -> tuple[Array, ...]:
    """Return where each coordinate is moved to: one array like x, or two."""
    xp = backends.namespace(x)
    one = xp.ones_like(x)
    sign = xp.where(x < 0.0, -one, one)
    power = 1.0 / 2.0 if kind == "2-point" else 1.0 / 3.0
    h = eps**power * xp.maximum(xp.abs(x), one)
    if low is None and high is None:
        return (x + sign * h,) if kind == "2-point" else (x - h, x + h)
    up = math.inf * one if high is None else high - x
    down = math.inf * one if low is None else x - low
    wide, narrow = xp.maximum(up, down), xp.minimum(up, down)
    outward = xp.where(up >= down, one, -one)  # towards the farther bound
    if kind == "2-point":
        room = xp.where(sign > 0.0, up, down)
        offsets = [xp.where(h <= room, sign * h, outward * xp.minimum(h, wide))]
    else:
        aside = xp.minimum(h, wide / 2.0)
        central = aside <= narrow
        h = xp.where(central, xp.minimum(h, narrow), aside)
        offsets = [xp.where(central, -h, outward * h), xp.where(central, h, outward * 2.0 * h)]
    return tuple(_within(xp, x + offset, low, high) for offset in offsets)


def _within(xp: Namespace, x: Array, low: Any, high: Any) -> Array:
    """Keep x + (high - x), which may round beyond high, within the bounds."""
    if low is not None:
        x = xp.maximum(x, xp.zeros_like(x) + low)
    return x if high is None else xp.minimum(x, xp.zeros_like(x) + high)


def _slopes(
    at: Callable[[Array], Array], value: Array, x: Array, points: tuple[Array, ...], batch: int
) -> Array:
    """Difference one leaf, coordinate by coordinate."""
    xp, shape = backends.namespace(x), tuple(x.shape)
    n = math.prod(shape[batch:])
    if n == 0:
        return xp.zeros_like(x)
    order = xp.reshape(xp.arange(n, device=backends.device(x)), shape[batch:])
    value = xp.expand_dims(value, axis=-1)
    rises, offsets = [], []
    for point in points:
        values = xp.stack([at(xp.where(order == j, point, x)) for j in range(n)], axis=-1)
        rises.append(xp.reshape(xp.astype(values - value, x.dtype), shape))
        offsets.append(point - x)
    if len(points) == 1:
        return _over(xp, rises[0], offsets[0])
    # Through (0, 0), (a, f_a) and (b, f_b): central where b = -a, one-sided where b = 2a.
    (a, b), (rise_a, rise_b) = offsets, rises
    return _over(xp, _over(xp, rise_a * b, a) - _over(xp, rise_b * a, b), b - a)


def _over(xp: Namespace, x: Array, h: Array) -> Array:
    """Divide by a step; a variable that cannot move has none."""
    still = h == 0.0
    return xp.where(still, xp.zeros_like(x), x / xp.where(still, xp.ones_like(h), h))
