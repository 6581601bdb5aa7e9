"""Dask's chunks as row blocks: one graph for what is asked of them all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat as compat
import numpy as np
import optree

from agd._typing import Array, Tree

__all__ = ["chunk_to_numpy", "chunks", "each", "reduce", "settle", "to_numpy"]


def to_numpy(x: Array) -> Any:
    """Compute an array, and copy it to the host."""
    return chunk_to_numpy(x.compute())


def chunk_to_numpy(x: Array) -> Any:
    """Copy what a chunk is, NumPy's array or CuPy's, to the host."""
    return x.get() if compat.is_cupy_array(x) else np.asarray(x)


def chunks(*arrays: Array) -> list[Any]:
    """Cut arrays that share their rows (the first axis) into a list of tuples of delayed blocks."""
    columns: list[list[Any]] = []
    for x in arrays:
        if x is None:
            columns.append([None] * len(columns[0]))
            continue
        whole_rows = x.rechunk(dict.fromkeys(range(1, x.ndim), -1)) if x.ndim > 1 else x
        columns.append(list(whole_rows.to_delayed().ravel()))
    return list(zip(*columns, strict=True))


def each(f: Callable[..., Tree], blocks: Sequence[Any]) -> list[Any]:
    """Run one graph: f on every block where it lives."""
    import dask.base
    from dask.delayed import delayed

    one, compute = delayed(_as_here(f), pure=False), getattr(dask.base, "compute")  # noqa: B009 - untyped
    return list(compute(*(one(*block) for block in blocks)))


def reduce(f: Callable[..., Tree], blocks: Sequence[Any], add: Callable[..., Tree]) -> Tree:
    """Run one graph: f on every block where it lives, the results added up in a tree.

    The tree hangs on the number of blocks alone, so that the same call gives the same bits.
    """
    from dask.delayed import delayed

    one, merge = delayed(_as_here(f), pure=False), delayed(_as_here(add), pure=False)
    parts = [one(*block) for block in blocks]
    while len(parts) > 1:
        parts = [merge(parts[i : i + 8]) for i in range(0, len(parts), 8)]
    return parts[0].compute()


def _as_here(f: Callable[..., Tree]) -> Callable[..., Tree]:
    """Return f with the caller's NumPy error state, which other threads and processes do not see."""
    state = {kind: "warn" if do in {"call", "log"} else do for kind, do in np.geterr().items()}
    return functools.partial(_in_state, state, f)


def _in_state(state: Any, f: Callable[..., Tree], *args: Any) -> Tree:
    with np.errstate(**state):
        return f(*args)


def settle(tree: Tree) -> Tree:
    """Compute the arrays, each where its chunks live."""
    import dask.base

    leaves, structure = optree.tree_flatten(tree)
    persist = getattr(dask.base, "persist")  # noqa: B009 - untyped
    return optree.tree_unflatten(structure, persist(*leaves))
