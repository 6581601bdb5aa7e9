"""Sums and other reductions over row blocks, and in a tree, so that rounding grows with its depth alone."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optree

from agd._typing import Tree

__all__ = ["ARITY", "add_trees", "tree_reduce"]

# How many neighbours are merged at once where memory does not say otherwise.
ARITY = 8


def add_trees(trees: Sequence[Tree]) -> Tree:
    """Return the sum of trees of arrays, leaf by leaf."""
    return functools.reduce(lambda a, b: optree.tree_map(operator.add, a, b), trees)


def tree_reduce(parts: Iterable[Any], merge: Callable[[list[Any]], Any], arity: int) -> Any:
    """Merge neighbours in a tree as they come, so that rounding grows with the logarithm of their number.

    Parameters
    ----------
    parts : iterable
        What is merged, in its order; it is iterated over once.
    merge : callable
        ``merge(parts)`` of some neighbours; it must be associative.
    arity : int
        How many are merged at once; each of the tree's levels holds no more than that.

    Returns
    -------
    object
        The merged whole.

    Raises
    ------
    ValueError
        If there are no parts.
    """
    levels: list[list[Any]] = [[]]
    for part in parts:
        levels[0].append(part)
        depth = 0
        while len(levels[depth]) == arity:
            if depth + 1 == len(levels):
                levels.append([])
            levels[depth + 1].append(merge(levels[depth]))
            levels[depth] = []
            depth += 1
    rest: list[Any] = []
    for level in levels:
        rest = [merge([*level, *rest])] if level or rest else []
    if not rest:
        raise ValueError("there is nothing to merge")
    return rest[0]
