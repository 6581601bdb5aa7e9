"""Row blocks of data that are read anew on each pass, chunks and batches, and their reduction in a tree.

`agd.data.arrays.Blocks` hands its passes over here where X is lazy. Of arrays in chunks one task graph computes
what is asked of them all; the batches of a stream come one after the other, in their order.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import optree

from agd import backends
from agd._typing import Array, Batches, Tree
from agd.backends import Backend, TaskGraph

__all__ = ["DelayedBlocks", "StreamedBlocks", "add_trees", "sum_over_rows", "tree_reduce"]

# How many neighbours are merged at once, where memory does not say otherwise.
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
    graph = backends.of(arrays[0]).task_graph
    return (
        f(*arrays)
        if graph is None
        else DelayedBlocks(graph, *arrays).reduce(f, add_trees, small=True)
    )


@dataclass(frozen=True)
class StreamedBlocks:
    """The row blocks of a stream, which are its batches.

    Attributes
    ----------
    batches : Batches
        The rows.
    positive_label : float or None
        The label that is read as 1, and all others as 0; None reads the targets as they are.
    """

    batches: Batches
    positive_label: float | None

    def __iter__(self) -> Iterator[tuple[Array, Array, Array | None]]:
        for X, y, weight in self.batches:
            if self.positive_label is not None:
                # The name y is used again so that no second target is kept alive.
                y = backends.namespace(y).astype(y == self.positive_label, y.dtype)  # noqa: PLW2901
            yield X, y, weight
            del X, y, weight  # free the batch before the next one is made

    def map(self, f: Callable[..., Tree]) -> list[Tree]:
        """Return f(X, y, weight) of every batch, in order: one pass."""
        return list(self._results(f))

    def reduce(
        self,
        f: Callable[..., Tree],
        merge: Callable[[list[Tree]], Tree],
        *,
        small: bool = False,  # noqa: ARG002 - all results are in this process already
    ) -> Tree:
        """Merge f(X, y, weight) of the batches in a tree: one pass."""
        # Closed at once, so that a pass that fails ends the thread that reads its batches, though the
        # error's traceback may keep the iterator alive.
        with contextlib.closing(self._results(f)) as results:
            return tree_reduce(results, merge, ARITY)

    def _results(self, f: Callable[..., Tree]) -> Generator[Tree]:
        """Yield f of each batch; no batch is kept alive while the next one is made."""
        empty = True
        for block in self:
            result = f(*block)
            del block
            empty = False
            yield result
        if empty:
            raise ValueError("batches must be the same on every pass, got none on this one")


def _resident_of_batches(batches: Batches) -> Array:
    return batches.resident


def _context_of_batches(batches: Batches) -> AbstractContextManager[Any]:
    return backends.device_context(batches.resident)


def _refuse_array_access(*_: Any) -> Any:
    raise TypeError("a stream has no array to read: go through its batches")


# What is asked of a stream in place of an array: it is cut into chunks, and w is beside its batches.
backends.register_row(
    Backend(
        name="stream",
        module="agd",
        namespace="agd",
        install="array-gd",
        owns=lambda x: isinstance(x, Batches),
        devices=lambda _: [],
        get_device=lambda *_: None,
        to_numpy=_refuse_array_access,
        convert=_refuse_array_access,
        block_bytes=lambda _: None,
        mutable=False,
        resident=_resident_of_batches,
        device_context=_context_of_batches,
        chunked=True,
    )
)
