"""Where host arrays are moved to: the dtype that they have there, and whether they fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from agd import backends
from agd._validation import Data
from agd._validation.arrays import as_array, as_floating
from agd.backends import Selection, Transfer

__all__ = [
    "array_batches",
    "dtype_there",
    "host_parts",
    "moved",
    "needed_bytes",
    "stand_in",
]

# Not measured on a device: large beside the cost of the few dozen calls that a batch takes.
BATCH_BYTES = 128 * 2**20
PARTS = 4  # a batch, the next one, and as much again for what is made of them


def host_parts(parts: Sequence[Any], where: Selection) -> list[Any]:
    """Take X, y and weights as NumPy arrays that are to be moved, or what NumPy makes such of."""
    named = zip(("X", "y", "sample_weight"), parts, strict=False)
    return [None if part is None else _on_host(name, part, where) for name, part in named]


def _on_host(name: str, value: Any, where: Selection) -> Any:
    if backends.is_sparse(value):
        raise TypeError(
            f"{name} is sparse ({type(value).__name__}): only dense rows are moved to {where}; make it a "
            f"sparse matrix there and leave device out"
        )
    found = as_array(name, value)
    if not isinstance(found, np.ndarray):
        raise TypeError(
            f"{name} is an array of {backends.of(found).name}: NumPy arrays, memory maps and lists are moved "
            f"to {where}; leave device out to fit an array where it is"
        )
    return found


def dtype_there(X: Any, where: Selection, *, warn: bool = False) -> Any:
    """Return the NumPy dtype that X has once it is moved and made floating; the device is not asked.

    That is as if X had been moved beforehand: integers become the library's default float, and where
    there is no float64 it is narrowed, which can be warned of.
    """
    kept = as_floating("X", X[:0], backends.namespace(X), "cpu").dtype
    if kept != X.dtype:
        return np.dtype(backends.dtype_name(backends.default_float(where.xp, where.device)))
    known = where.xp.__array_namespace_info__().dtypes(device=where.device)
    if kept.name in known:
        return kept.newbyteorder("=")
    if warn:
        where.backend.warn_narrowing(f"{where} has no {kept.name}: float32 is used instead")
    return np.dtype(np.float32)


def array_batches(
    parts: Sequence[Any], where: Selection | None, rows: int | None
) -> Callable[[], Iterator[tuple[Any, ...]]]:
    """Cut X, y and weights, where there are any, into batches of so many rows, or as many as fit."""
    if where is None:
        named = zip(("X", "y", "sample_weight"), parts, strict=True)
        arrays = [as_array(name, part) for name, part in named if part is not None]
    else:
        arrays = [part for part in host_parts(parts, where) if part is not None]
    if parts[1] is None:
        raise ValueError("y is missing: got None, need an array")
    for name, part in zip(("y", "sample_weight"), arrays[1:], strict=False):
        if part.shape[:1] != arrays[0].shape[:1]:
            raise ValueError(
                f"{name} must have one value for each row of X {tuple(arrays[0].shape)}, got shape "
                f"{tuple(part.shape)}"
            )
    n = int(arrays[0].shape[0])
    step = rows or _rows_that_fit(arrays, where)
    return lambda: (tuple(part[i : i + step, ...] for part in arrays) for i in range(0, n, step))


def _rows_that_fit(arrays: Sequence[Any], where: Selection | None) -> int:
    """Return how many rows a batch has: of two, and what is made of one, all fit on the device."""
    entries = sum(math.prod(map(int, part.shape[1:])) for part in arrays)
    size = 8 if where is None else dtype_there(arrays[0], where).itemsize
    free = None if where is None else where.backend.free_bytes(where.device)
    most = BATCH_BYTES if free is None else min(BATCH_BYTES, free // PARTS)
    return max(1, most // (entries * size))


def stand_in(X: Any, dtype: Any) -> Any:
    """Return an array of X's shape and this dtype that takes no memory: what y is checked beside."""
    return np.broadcast_to(np.zeros((), dtype=dtype), X.shape)


def moved(data: Data, dtype: Any, feed: Transfer) -> Data:
    """Move checked host data to a device, in this dtype: X, y and weights by one feed."""
    with np.errstate(over="ignore"):  # an infinity made here is found with those that came
        return Data(
            *(None if part is None else feed.move(part.astype(dtype, copy=False)) for part in data)
        )


def needed_bytes(data: Data, dtype: Any) -> int:
    """Return what X, y and the weights take in this dtype."""
    return sum(int(part.size) for part in data if part is not None) * int(dtype.itemsize)
