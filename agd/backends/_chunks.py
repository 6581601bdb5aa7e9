"""Dask's chunks as row blocks: one graph for what is asked of them all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat as compat
import numpy as np
import optree

from agd._typing import Array, Tree

__all__ = ["chunk_to_numpy", "chunks", "each", "of_frame", "reduce", "settle", "to_numpy"]

ARITY = 8  # neighbours in the tree


def to_numpy(x: Array) -> Any:
    """Compute an array, and copy it to the host."""
    return chunk_to_numpy(x.compute())


def chunk_to_numpy(x: Array) -> Any:
    """Copy what a chunk is, NumPy's array or CuPy's, to the host."""
    return x.get() if compat.is_cupy_array(x) else np.asarray(x)


def of_frame(name: str, frame: Any) -> Any:
    """Return a Dask DataFrame, or a Series, as a lazy array with a chunk for each partition.

    Parameters
    ----------
    name : str
        What an error calls it.
    frame : object
        A frame; anything else is returned as it is.

    Raises
    ------
    TypeError
        For columns that are not numbers.
    """
    if not hasattr(frame, "to_dask_array"):
        return frame
    kinds = dict(frame.dtypes) if frame.ndim == 2 else {frame.name: frame.dtype}
    for column, kind in kinds.items():
        if not (getattr(kind, "_is_numeric", False) or getattr(kind, "kind", "O") in "biuf"):
            raise TypeError(
                f"{name} must be numbers, got column {column!r} of dtype {kind}: drop it, or encode it"
            )
    # Booleans, and what may be missing, would make pandas fall back to Python objects.
    plain = {column: "float64" for column, kind in kinds.items() if not _plain(kind)}
    if plain:
        frame = frame.astype(plain if frame.ndim == 2 else "float64")
    return frame.to_dask_array()


def _plain(kind: Any) -> bool:
    return isinstance(kind, np.dtype) and kind.kind in "iuf"


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


def reduce(
    f: Callable[..., Tree],
    blocks: Sequence[Any],
    add: Callable[..., Tree],
    *,
    small: bool = False,
) -> Tree:
    """Run one graph: f on every block where it lives, the results added up in a tree.

    The tree hangs on the number of blocks alone, so that the same call gives the same bits. Its root is
    here where results are `small`, so that no worker waits for another's.
    """
    import dask.base
    from dask.delayed import delayed

    one, merge = delayed(_as_here(f), pure=False), delayed(_as_here(add), pure=False)
    parts = [one(*block) for block in blocks]
    while len(parts) > (ARITY if small else 1):
        parts = [merge(parts[i : i + ARITY]) for i in range(0, len(parts), ARITY)]
    compute = getattr(dask.base, "compute")  # noqa: B009 - untyped
    found = list(compute(*parts))
    return add(found) if len(found) > 1 else found[0]


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
