"""Blocks as slices of rows, and strips: a few neighbours among them, which a thread sums in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import optree

from agd._typing import Array, Tree
from agd.gradient.matrix import sliced

__all__ = ["deal", "slices", "sum_of_strip"]

T = TypeVar("T")

STRIPS = 32  # parts that threads take in turn
STRIP_BYTES = 8 * 2**20  # the most that one sum of all strips may take


def slices(
    X: Array, y: Array, weight: Array | None, step: int
) -> list[tuple[Array, Array, Array | None]]:
    """Cut X, y and weights into blocks of so many rows; one block is the arrays themselves."""
    n = X.shape[-2]
    if step >= n:
        return [(X, y, weight)]
    ends = ((i, min(i + step, n)) for i in range(0, n, step))
    return [
        (sliced(X, i, j), y[..., i:j], None if weight is None else weight[..., i:j])
        for i, j in ends
    ]


def deal(blocks: list[T], size: int) -> list[list[T]]:
    """Deal out blocks, in order, to strips that are as long as one another.

    Parameters
    ----------
    blocks : list
        The blocks.
    size : int
        Bytes of a strip's result: how many strips there are hangs on it and on the blocks alone.

    Returns
    -------
    list of list
        The strips.

    Examples
    --------
    >>> deal(list(range(70)), size=8)[:2]
    [[0, 1, 2], [3, 4, 5]]
    """
    parts = max(2, min(STRIPS, STRIP_BYTES // size))
    length = -(-len(blocks) // parts)
    return [blocks[i : i + length] for i in range(0, len(blocks), length)]


def sum_of_strip(f: Callable[[T], Tree], strip: list[T]) -> Tree:
    """Add up a function's trees over the blocks of a strip, one after the other."""
    total, spec = optree.tree_flatten(f(strip[0]))
    for block in strip[1:]:
        total = [a + b for a, b in zip(total, optree.tree_leaves(f(block)), strict=True)]
    return optree.tree_unflatten(spec, total)
