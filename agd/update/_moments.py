"""Running means of gradients and of their squares, and the quotients made of them."""

from __future__ import annotations

import math

import optree

from agd import backends
from agd._typing import Array, Tree
from agd.update._rule import check_number

__all__ = ["blend", "check_eps", "check_share", "divided", "squared", "unbiased"]


def squared(tree: Tree) -> Tree:
    """Square every leaf."""
    return optree.tree_map(lambda g: g * g, tree)


def divided(tree: Tree, squares: Tree, eps: float, *, eps_in_sqrt: bool = False) -> Tree:
    """Divide by the root of the squares; 0 / 0 is 0, as for a parameter that never had a gradient."""

    def divide(u: Array, s: Array) -> Array:
        xp = backends.namespace(s)
        root = xp.sqrt(s + eps) if eps_in_sqrt else xp.sqrt(s) + eps
        return xp.where(root > 0.0, u / xp.where(root > 0.0, root, 1.0 + 0.0 * root), 0.0 * u)

    return optree.tree_map(divide, tree, squares)


def check_eps(eps: float) -> None:
    """Refuse an eps that is no number of 0 or more."""
    check_number("eps", eps, 0.0, math.inf, open_end=True)


def check_share(**shares: float) -> None:
    """Refuse shares, by their names, that are not in [0, 1)."""
    for name, share in shares.items():
        check_number(name, share, 0.0, 1.0, open_end=True)


def blend(share: float, old: Tree, new: Tree) -> Tree:
    """Return share old + (1 - share) new, leaf by leaf: one step of a running mean."""
    return optree.tree_map(lambda a, b: share * a + (1.0 - share) * b, old, new)


def unbiased(share: float, mean: Tree, k: Array) -> Tree:
    """Divide a running mean that began at 0 by the weight that it holds, 1 - share^count."""

    def correct(leaf: Array) -> Array:
        return leaf / (1.0 - share ** backends.namespace(leaf).astype(k, leaf.dtype))

    return optree.tree_map(correct, mean)
