"""Trees as vectors: what the methods that keep directions and curvature pairs work on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Tree

__all__ = ["Flat", "as_scalar", "dot", "flatten", "inner", "largest", "over", "sign"]


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


class Flat(NamedTuple):
    """The way from a tree to a vector (n,) of its widest dtype, and back.

    Attributes
    ----------
    spec : optree.PyTreeSpec
        The structure.
    shapes, dtypes : tuple
        Those of the leaves.
    dtype : dtype
        The vector's.

    Examples
    --------
    >>> import numpy as np
    >>> flat = Flat.of({"a": np.zeros((2, 1)), "b": np.zeros(())})
    >>> flat.size, flat.tree(np.asarray([1.0, 2.0, 3.0]))["a"]
    (3, array([[1.], [2.]]))
    """

    spec: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    dtype: Any

    @classmethod
    def of(cls, tree: Tree) -> Flat:
        """Learn the way from a tree."""
        leaves, spec = optree.tree_flatten(tree)
        xp = backends.namespace(leaves[0])
        dtypes = tuple(x.dtype for x in leaves)
        widest = functools.reduce(
            lambda a, b: a if a == b else xp.result_type(a, b), dtypes[1:], dtypes[0]
        )
        return cls(spec, tuple(tuple(x.shape) for x in leaves), dtypes, widest)

    @property
    def size(self) -> int:
        """How many numbers the tree holds."""
        return sum(math.prod(shape) for shape in self.shapes)

    def vector(self, tree: Tree) -> Array:
        """Return the leaves, one behind the other."""
        leaves = optree.tree_leaves(tree)
        xp = backends.namespace(leaves[0])
        return xp.concat([xp.astype(xp.reshape(x, (-1,)), self.dtype) for x in leaves])

    def tree(self, vector: Array) -> Tree:
        """Cut a vector up into leaves."""
        xp, leaves, start = backends.namespace(vector), [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            stop = start + math.prod(shape)
            leaves.append(xp.astype(xp.reshape(vector[start:stop], shape), dtype))
            start = stop
        return optree.tree_unflatten(self.spec, leaves)


def inner(a: Tree, b: Tree) -> Array:
    """Return the inner product of two trees of one structure: a 0-d array of their widest dtype."""
    flat = Flat.of(a)
    x, y = flat.vector(a), flat.vector(b)
    return backends.namespace(x).sum(x * y)


def as_scalar(value: Any) -> Any:
    """Return a number for an array of no axes: what a problem by itself has; else the array."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value
