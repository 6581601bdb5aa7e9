"""Merging results in a tree, as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["in_tree"]


def in_tree(parts: Iterable[Any], merge: Callable[[list[Any]], Any], arity: int) -> Any:
    """Merge neighbours in a tree, so that rounding grows with the logarithm of their number.

    Parameters
    ----------
    parts : iterable
        What is merged, in its order; it is gone through once.
    merge : callable
        ``merge(parts)`` of some neighbours.
    arity : int
        How many are merged at once; no more are held on each of the tree's levels.

    Returns
    -------
    object
        What was merged; None if there was nothing.
    """
    levels: list[list[Any]] = [[]]
    for part in parts:
        levels[0].append(part)
        at = 0
        while len(levels[at]) == arity:
            if at + 1 == len(levels):
                levels.append([])
            levels[at + 1].append(merge(levels[at]))
            levels[at] = []
            at += 1
    left: list[Any] = []
    for level in levels:
        left = [merge([*level, *left])] if level or left else []
    return left[0] if left else None
