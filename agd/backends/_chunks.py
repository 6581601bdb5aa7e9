"""Lazy arrays in chunks, as row blocks: one task graph computes what is asked of them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agd._typing import Array, Tree
from agd.backends._tree import ARITY, add_trees
from agd.backends.array import of
from agd.backends.backend import TaskGraph

__all__ = ["DelayedBlocks", "sum_over_rows"]


class DelayedBlocks:
    """The row blocks of lazy arrays, which are their chunks.

    Parameters
    ----------
    graph : TaskGraph
        The task graphs of the arrays' library.
    *arrays : array or None
        X, y and weights, which share their rows.
    """

    def __init__(self, graph: TaskGraph, *arrays: Array | None) -> None:
        self.graph = graph
        self.blocks: list[Any] = graph.row_blocks(*arrays)

    def map(self, f: Callable[..., Tree]) -> list[Tree]:
        """Return f(X, y, weight) of every chunk, in order: one graph, which runs f where a chunk is."""
        task = self.graph.delay(f)
        return self.graph.compute([task(*block) for block in self.blocks])

    def reduce(
        self,
        f: Callable[..., Tree],
        merge: Callable[[list[Tree]], Tree],
        *,
        small: bool = False,
    ) -> Tree:
        """Merge f(X, y, weight) of the chunks in a tree: one graph, which runs f where a chunk is.

        The tree depends on the number of chunks alone, so that the same call gives the same bits. Where
        results are `small` its root is merged in this process, so that no worker waits for another's.
        """
        task, merge_task = self.graph.delay(f), self.graph.delay(merge)
        parts = [task(*block) for block in self.blocks]
        while len(parts) > (ARITY if small else 1):
            parts = [merge_task(parts[i : i + ARITY]) for i in range(0, len(parts), ARITY)]
        results = self.graph.compute(parts)
        return merge(results) if len(results) > 1 else results[0]


def sum_over_rows(f: Callable[..., Tree], *arrays: Array) -> Tree:
    """Return f(*arrays) of a function that sums over rows; lazy arrays are summed chunk by chunk.

    Parameters
    ----------
    f : callable
        A pure function of arrays that returns a tree of sums over their first axis.
    *arrays : array
        Arrays that share their rows.

    Returns
    -------
    tree
        The sums, in memory.

    Examples
    --------
    >>> import numpy as np
    >>> sum_over_rows(lambda x: (x.shape[0], x.sum()), np.asarray([1.0, 2.0]))
    (2, np.float64(3.0))
    """
    graph = of(arrays[0]).task_graph
    return (
        f(*arrays)
        if graph is None
        else DelayedBlocks(graph, *arrays).reduce(f, add_trees, small=True)
    )
