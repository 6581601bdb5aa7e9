"""Rules on leaves of half precision: they compute and remember in single, and step in the leaf's dtype.

In bfloat16 0.999 is 1, so a bias correction 1 - b2^k is 0; a step count above 256 is no longer exact; and a
running mean stands still once what is new is less than the last of 8 bits. In float16 g² overflows from
|g| = 256 on. optax and PyTorch keep their moments in the params' dtype and the scalars wider; here both are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree

from agd import backends
from agd._typing import Array, Tree

__all__ = ["in_single"]

Init = Callable[[Tree], Any]
Update = Callable[..., tuple[Tree, Any]]


def _is_half(leaf: Any) -> bool:
    kind = getattr(leaf, "dtype", None)
    # The size first: the name of a NumPy dtype is slow to make.
    return getattr(kind, "itemsize", 0) == 2 and str(kind).endswith("float16")


def _any_half(*trees: Tree) -> bool:
    for tree in trees:  # plain loops: this is asked at every update, and any() takes twice as long
        for leaf in optree.tree_leaves(tree):
            if _is_half(leaf):
                return True
    return False


def _widened(tree: Tree) -> Tree:
    def widen(leaf: Array) -> Array:
        if not _is_half(leaf):
            return leaf
        xp = backends.namespace(leaf)
        return xp.astype(leaf, xp.float32)

    return optree.tree_map(widen, tree)


def _narrowed(updates: Tree, grads: Tree, params: Tree) -> Tree:
    """Give an update the dtype of its parameter, if its gradient came in half precision."""

    def narrow(step: Array, grad: Array, like: Array) -> Array:
        if not _is_half(grad):
            return step
        return backends.namespace(step).astype(step, like.dtype)

    return optree.tree_map(narrow, updates, grads, grads if params is None else params)


def in_single(init: Init, update: Update) -> tuple[Init, Update]:
    """Return a rule's two functions, with every leaf of half precision widened to float32 on its way in.

    Parameters
    ----------
    init, update : callable
        The functions of a `Rule`.

    Returns
    -------
    init, update : callable
        The same for other dtypes. For half precision the state is float32, and the updates have the
        dtype of the params (of the gradients, where no params are given).
    """

    def first(params: Tree) -> Any:
        return init(_widened(params) if _any_half(params) else params)

    def step(grads: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        if not _any_half(grads, params):
            return update(grads, state, params)
        updates, new = update(_widened(grads), state, _widened(params))
        return _narrowed(updates, grads, params), new

    return first, step
