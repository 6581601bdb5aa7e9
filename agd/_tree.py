"""Trees of arrays as vectors: the linear algebra that solvers and objectives share.

It stands below every room but `backends`. A tree is what optree takes for one: a dict, list, tuple or
NamedTuple of arrays, nested in any way, such as the coefficients and the intercept of a linear model
(`agd._typing.Params`). Every leaf begins with the axes of the batch of independent problems; the axes
after these are the entries of one problem. A vector is an array of shape (..., n) with the entries of
each problem on its last axis, which is what `ravel` makes of a tree.

Functions that begin with ``tree_`` take trees leaf by leaf, without copying the leaves into a vector;
`dot` and `max_abs` take vectors.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Scalar, Tree

__all__ = [
    "TreeLayout",
    "align_axes",
    "as_scalar",
    "dot",
    "max_abs",
    "ravel",
    "safe_divide",
    "scale_vector",
    "sign",
    "tree_add",
    "tree_axpy",
    "tree_divide",
    "tree_dot",
    "tree_max_abs",
    "tree_scale",
    "tree_subtract",
    "tree_where",
]


class TreeLayout(NamedTuple):
    """How the leaves of a tree lie in a vector of their widest dtype.

    Attributes
    ----------
    spec : optree.PyTreeSpec
        The structure.
    shapes, dtypes : tuple
        Those of the leaves.
    dtype : dtype
        The vector's.
    batch : int
        How many leading axes of each leaf are those of the problems.

    Examples
    --------
    >>> import numpy as np
    >>> layout = TreeLayout.of({"a": np.zeros((2, 1)), "b": np.zeros(())})
    >>> layout.size, layout.unravel(np.asarray([1.0, 2.0, 3.0]))["a"]
    (3, array([[1.],
           [2.]]))
    """

    spec: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    dtype: Any
    batch: int

    @classmethod
    def of(cls, tree: Tree, batch: int = 0) -> TreeLayout:
        """Return the layout of a tree whose leaves have `batch` leading axes."""
        leaves, spec = optree.tree_flatten(tree)
        dtypes = tuple(leaf.dtype for leaf in leaves)
        dtype = dtypes[0]
        for other in dtypes[1:]:
            if other != dtype:
                dtype = backends.namespace(leaves[0]).result_type(dtype, other)
        return cls(spec, tuple(tuple(leaf.shape) for leaf in leaves), dtypes, dtype, batch)

    @property
    def size(self) -> int:
        """The number of entries of one problem."""
        return sum(math.prod(shape[self.batch :]) for shape in self.shapes)

    def ravel(self, tree: Tree) -> Array:
        """Return the entries of a tree of this structure as one vector a problem, leaf by leaf."""
        leaves = optree.tree_leaves(tree)
        xp = backends.namespace(leaves[0])
        # A leaf that is a vector already is passed on as it is: reshaping costs a launch and a copy.
        flat = [
            leaf if leaf.ndim == self.batch + 1 else xp.reshape(leaf, (*shape[: self.batch], -1))
            for leaf, shape in zip(leaves, self.shapes, strict=True)
        ]
        flat = [x if x.dtype == self.dtype else xp.astype(x, self.dtype) for x in flat]
        return flat[0] if len(flat) == 1 else xp.concat(flat, axis=-1)

    def unravel(self, vector: Array) -> Tree:
        """Return the tree of a vector, with the leaves' own shapes and dtypes."""
        xp, leaves, start = backends.namespace(vector), [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            stop = start + math.prod(shape[self.batch :])
            leaf = vector if len(self.shapes) == 1 else vector[..., start:stop]
            leaf = leaf if len(shape) == self.batch + 1 else xp.reshape(leaf, shape)
            leaves.append(leaf if leaf.dtype == dtype else xp.astype(leaf, dtype))
            start = stop
        return optree.tree_unflatten(self.spec, leaves)


def ravel(tree: Tree, batch: int = 0) -> tuple[Array, Callable[[Array], Tree]]:
    """Return a tree's entries as one vector a problem, and the inverse function.

    Parameters
    ----------
    tree : tree of arrays
        Every leaf has `batch` leading axes, those of the problems.
    batch : int
        The number of these axes.

    Returns
    -------
    vector : array, shape (..., n)
        The entries, leaf by leaf, in the widest dtype among the leaves.
    unravel : callable
        From such a vector to the tree, with the leaves' own shapes and dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> x, unravel = ravel({"a": np.asarray([1.0, 2.0]), "b": np.asarray(3.0)})
    >>> x
    array([1., 2., 3.])
    >>> unravel(2.0 * x)["b"]
    array(6.)
    """
    if backends.has_known_type(tree) and tree.ndim == batch + 1:  # a vector is its own layout
        return tree, _same_vector
    layout = TreeLayout.of(tree, batch)
    return layout.ravel(tree), layout.unravel


def _same_vector(x: Array) -> Array:
    return x


def dot(a: Array, b: Array) -> Array:
    """Return each problem's inner product of two vectors, shape (...)."""
    return backends.namespace(a).sum(a * b, axis=-1)


def max_abs(x: Array) -> Array:
    """Return the largest absolute entry of each problem's vector, shape (...)."""
    xp = backends.namespace(x)
    return xp.max(xp.abs(x), axis=-1)


def safe_divide(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b, and 0 where b is 0."""
    if type(b) is float:
        return a / b if b else 0.0
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


def as_scalar(value: Any) -> Any:
    """Return a Python number for an array without axes, which is what a single problem has; else the array."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value


def align_axes(c: Scalar, leaf: Array) -> Any:
    """Give c, one entry a problem, the trailing axes of a leaf, so that the two broadcast."""
    if np.ndim(c) in (0, leaf.ndim):
        return c
    xp = backends.namespace(leaf)
    return xp.reshape(c, (*c.shape, *(1,) * (leaf.ndim - c.ndim)))


def tree_add(a: Tree, b: Tree) -> Tree:
    """Return a + b."""
    return optree.tree_map(lambda u, v: u + v, a, b)


def tree_subtract(a: Tree, b: Tree) -> Tree:
    """Return a - b."""
    return optree.tree_map(lambda u, v: u - v, a, b)


def scale_vector(c: Scalar, x: Array) -> Array:
    """Return c times an array (..., *), where the factors c (...) may be on the host."""
    if type(c) is not float:
        if isinstance(c, np.ndarray) and not isinstance(x, np.ndarray):
            c = backends.to_device_of(c, x)
        c = align_axes(c, x)
    scaled: Array = c * x
    return scaled


def tree_scale(c: Scalar, tree: Tree) -> Tree:
    """Return c times a tree, with a factor c for each problem."""
    return optree.tree_map(lambda leaf: scale_vector(c, leaf), tree)


def tree_divide(tree: Tree, c: Array) -> Tree:
    """Return a tree over c, with a divisor c for each problem."""
    return optree.tree_map(lambda leaf: leaf / align_axes(c, leaf), tree)


def tree_axpy(c: Scalar, x: Tree, y: Tree) -> Tree:
    """Return y + c x, with a factor c for each problem."""
    return optree.tree_map(lambda u, v: v + scale_vector(c, u), x, y)


def tree_dot(a: Tree, b: Tree, batch: int = 0) -> Array:
    """Return each problem's inner product of two trees: the axes after the `batch` leading ones are summed.

    Leaves of several dtypes are multiplied in the widest of them.
    """
    a_leaves, b_leaves = optree.tree_leaves(a), optree.tree_leaves(b)
    if any(leaf.dtype != a_leaves[0].dtype for leaf in a_leaves[1:]):
        widest = TreeLayout.of(a, batch).dtype
        a_leaves = [backends.namespace(leaf).astype(leaf, widest, copy=False) for leaf in a_leaves]

    def leaf_dot(u: Array, v: Array) -> Array:
        if u.ndim == batch:
            return u * v
        return backends.namespace(u).sum(u * v, axis=tuple(range(batch, u.ndim)))

    return functools.reduce(operator.add, map(leaf_dot, a_leaves, b_leaves))


def tree_max_abs(tree: Tree, batch: int = 0) -> Array:
    """Return the largest absolute entry of each problem's leaves; a leaf without entries counts as 0."""
    if backends.has_known_type(tree) and tree.ndim == batch + 1 and tree.shape[-1]:
        return max_abs(tree)
    leaves = optree.tree_leaves(tree)
    xp = backends.namespace(leaves[0])

    def leaf_max_abs(leaf: Array) -> Array:
        axes = tuple(range(batch, leaf.ndim))
        if 0 in tuple(leaf.shape)[batch:]:
            return xp.sum(leaf, axis=axes)
        return xp.max(xp.abs(leaf), axis=axes) if axes else xp.abs(leaf)

    return functools.reduce(xp.maximum, map(leaf_max_abs, leaves))


def tree_where(condition: Scalar, yes: Tree, no: Tree) -> Tree:
    """Take each problem's leaves from `yes` where its condition holds, from `no` elsewhere.

    A leaf without the axes of the batch is one that the problems share, such as a rule's count of steps:
    it is taken from `yes`, as is a whole number of the host. A condition that the host knows, a bool or a NumPy array, costs nothing where it
    is the same for all problems, and travels to the device of the leaves elsewhere.
    """
    if isinstance(condition, bool | np.bool_):
        return yes if condition else no
    if isinstance(condition, np.ndarray):
        if condition.all():
            return yes
        if not condition.any():
            return no
    xp, batch = backends.namespace(condition), tuple(condition.shape)
    if not batch:
        return optree.tree_map(
            lambda a, b: a if isinstance(a, int) else xp.where(condition, a, b), yes, no
        )

    def select_leaf(a: Array, b: Array) -> Array:
        if tuple(np.shape(a))[: len(batch)] != batch:
            return a
        if isinstance(condition, np.ndarray) and not isinstance(a, np.ndarray):
            leaf_namespace = backends.namespace(a)
            mask = backends.to_device_of(condition, a, leaf_namespace.bool)
            return leaf_namespace.where(align_axes(mask, a), a, b)
        return xp.where(align_axes(condition, a), a, b)

    return optree.tree_map(select_leaf, yes, no)
