"""Trees as vectors: what the methods that keep directions and curvature pairs work on."""

from __future__ import annotations

import math
from collections.abc import Callable

import optree

from agd import backends
from agd._typing import Array, Tree

__all__ = ["dot", "flatten", "largest", "over", "sign"]


def flatten(tree: Tree, batch: int) -> tuple[Array, Callable[[Array], Tree]]:
    """Return a tree's entries as one vector a problem, and the way back.

    Parameters
    ----------
    tree : tree of arrays
        Every leaf has `batch` leading axes, those of the problems.
    batch : int
        How many.

    Returns
    -------
    vector : array, shape (..., n)
        The entries, leaf by leaf, in the widest dtype among the leaves.
    restore : callable
        From such a vector to the tree, with the leaves' own shapes and dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> x, restore = flatten({"a": np.asarray([1.0, 2.0]), "b": np.asarray(3.0)}, 0)
    >>> x
    array([1., 2., 3.])
    >>> restore(2.0 * x)["b"]
    array(6.)
    """
    leaves, spec = optree.tree_flatten(tree)
    xp = backends.namespace(leaves[0])
    shapes = [tuple(leaf.shape) for leaf in leaves]
    kinds = [leaf.dtype for leaf in leaves]
    flat = [
        leaf if leaf.ndim == batch + 1 else xp.reshape(leaf, (*shape[:batch], -1))
        for leaf, shape in zip(leaves, shapes, strict=True)
    ]
    if len(flat) == 1:
        vector = flat[0]
    else:
        widest = xp.result_type(*kinds)
        vector = xp.concat([xp.astype(part, widest, copy=False) for part in flat], axis=-1)

    def restore(x: Array) -> Tree:
        if len(shapes) == 1:
            only = x if len(shapes[0]) == batch + 1 else xp.reshape(x, shapes[0])
            return optree.tree_unflatten(spec, [only])
        parts, at = [], 0
        for shape, kind in zip(shapes, kinds, strict=True):
            size = math.prod(shape[batch:])
            part = xp.reshape(x[..., at : at + size], shape)
            parts.append(xp.astype(part, kind, copy=False))
            at += size
        return optree.tree_unflatten(spec, parts)

    return vector, restore


def dot(a: Array, b: Array) -> Array:
    """Return each problem's inner product of two vectors, shape (...)."""
    return backends.namespace(a).sum(a * b, axis=-1)


def largest(x: Array) -> Array:
    """Return the largest absolute entry of each problem's vector, shape (...)."""
    xp = backends.namespace(x)
    return xp.max(xp.abs(x), axis=-1)


def over(a: Array, b: Array) -> Array:
    """Return a / b, and 0 where b is 0."""
    xp = backends.namespace(b)
    zero = b == 0.0
    return xp.where(zero, xp.zeros_like(b), a / xp.where(zero, xp.ones_like(b), b))


def sign(x: Array) -> Array:
    """Return -1, 0 or 1 as the entries are below, at or above 0, and NaN where they are NaN.

    As the standard's `sign`, but by comparisons: the torch namespace's writes NaN through a mask, which
    ``torch.func.vmap`` refuses.
    """
    xp = backends.namespace(x)
    side = xp.astype(x > 0.0, x.dtype) - xp.astype(x < 0.0, x.dtype)
    return xp.where(xp.isnan(x), x, side)
