"""A tree of arrays as one vector, and back."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree

__all__ = ["Flat", "inner"]


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
