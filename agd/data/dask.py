"""Lazy arrays in chunks (Dask) as row blocks: one task graph computes what is asked of all chunks.

A chunk stays where it lives, in this process or on a cluster; only the sums travel. `DaskData` is what
`agd.data.as_data` makes of such arrays, and `sum_over_rows` serves functions that have no X.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agd import backends
from agd._typing import Array, Tree
from agd.backends import TaskGraph
from agd.data.base import ARITY, LazyData, add_trees

__all__ = ["DaskData", "sum_over_rows"]


@dataclass(frozen=True)
class DaskData(LazyData):
    """Lazy arrays whose row blocks are their chunks; the attributes are those of `BaseData`."""

    @classmethod
    def accepts(cls, X: Any) -> bool:
        """Return whether X is an array of a library with task graphs."""
        return backends.of(X).task_graph is not None

    @property
    def _graph(self) -> TaskGraph:
        graph = backends.of(self.X).task_graph
        if graph is None:
            raise TypeError(f"X is an array of {backends.of(self.X).name}, which has no task graph")
        return graph

    @functools.cached_property
    def _chunks(self) -> list[Any]:
        return self._graph.row_blocks(self.X, self.y, self.weight)

    def map(self, f: Callable[..., Tree], limit: int | None = None) -> list[Tree]:  # noqa: ARG002
        """Return f(X, y, weight) of every chunk, in order: one graph, which runs f where a chunk is."""
        self.passes[0] += 1
        task = self._graph.delay(f)
        return self._graph.compute([task(*chunk) for chunk in self._chunks])

    def map_with(self, f: Callable[..., Tree], values: Any, limit: int | None = None) -> list[Tree]:  # noqa: ARG002
        """Return f(X, y, weight, part) of every chunk: see `BaseData.map_with`."""
        sizes = [float(size) for size in self.X.chunks[0]]
        if any(map(math.isnan, sizes)):
            raise ValueError(
                "X must have chunks of known sizes: call X.compute_chunk_sizes() first"
            )
        ends = [int(end) for end in itertools.accumulate(sizes)]
        self.passes[0] += 1
        task = self._graph.delay(f)
        starts = [0, *ends[:-1]]
        parts = [values[i:j] for i, j in zip(starts, ends, strict=True)]
        chunks = zip(self._chunks, parts, strict=True)
        return self._graph.compute([task(*chunk, part) for chunk, part in chunks])

    def reduce(
        self, f: Callable[..., Tree], merge: Callable[[list[Tree]], Tree], *, small: bool = False
    ) -> Tree:
        """Merge f(X, y, weight) of the chunks in a tree: see `BaseData.reduce`."""
        self.passes[0] += 1
        return _reduce_chunks(self._graph, self._chunks, f, merge, small=small)


def _reduce_chunks(
    graph: TaskGraph,
    chunks: list[Any],
    f: Callable[..., Tree],
    merge: Callable[[list[Tree]], Tree],
    *,
    small: bool,
) -> Tree:
    """Merge f of the chunks in a tree: one graph, which runs f where a chunk is.

    The tree depends on the number of chunks alone, so that the same call gives the same bits. Where
    results are `small` its root is merged in this process, so that no worker waits for another's.
    """
    task, merge_task = graph.delay(f), graph.delay(merge)
    parts = [task(*chunk) for chunk in chunks]
    while len(parts) > (ARITY if small else 1):
        parts = [merge_task(parts[i : i + ARITY]) for i in range(0, len(parts), ARITY)]
    results = graph.compute(parts)
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
    graph = backends.of(arrays[0]).task_graph
    if graph is None:
        return f(*arrays)
    return _reduce_chunks(graph, graph.row_blocks(*arrays), f, add_trees, small=True)
