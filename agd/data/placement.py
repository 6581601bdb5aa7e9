"""Moving host arrays to a device: their dtype there, the memory that they need, and batches that fit.

`agd.data.as_data` uses it where a device is named, and `agd.Stream` for each batch that it moves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from agd import backends
from agd._validation.arrays import as_array, as_floating
from agd.backends import Selection, Transfer
from agd.data.checks import CheckedArrays

__all__ = [
    "as_host_arrays",
    "device_dtype",
    "move_arrays",
    "needed_bytes",
    "shape_placeholder",
    "slice_batches",
]

# Large beside the cost of the few dozen calls that a batch takes; not measured on a device.
MAX_BATCH_BYTES = 128 * 2**20

# A batch, the next one, and as much again for the temporaries that are computed from them.
BATCHES_IN_MEMORY = 4

# What a batch consists of, in its order.
PART_NAMES = ("X", "y", "sample_weight", "offset")


def as_host_arrays(parts: Sequence[Any], selection: Selection) -> list[Any]:
    """Take X, y, weights and offsets as NumPy arrays that are to be moved, or what NumPy makes such of."""
    named = zip(PART_NAMES, parts, strict=False)
    return [None if part is None else _host_part(name, part, selection) for name, part in named]


def _host_part(name: str, value: Any, selection: Selection) -> Any:
    if backends.is_sparse(value):
        raise TypeError(
            f"{name} is sparse ({type(value).__name__}): only dense rows are moved to {selection}; make it a "
            f"sparse matrix there and leave device out"
        )
    array = as_array(name, value)
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name} is an array of {backends.of(array).name}: NumPy arrays, memory maps and lists are moved "
            f"to {selection}; leave device out to fit an array where it is"
        )
    return array


def device_dtype(X: Any, selection: Selection, *, warn: bool = False) -> Any:
    """Return the NumPy dtype that X has once it is moved and made floating; the device is not asked.

    That is as if X had been moved beforehand: integers become the library's default float, and where
    there is no float64 it is narrowed, which can be warned of.
    """
    kept = as_floating("X", X[:0], backends.namespace(X), "cpu").dtype
    if kept != X.dtype:
        return np.dtype(backends.dtype_name(backends.default_float(selection.xp, selection.device)))
    known = selection.xp.__array_namespace_info__().dtypes(device=selection.device)
    if kept.name in known:
        return kept.newbyteorder("=")
    if warn:
        selection.backend.warn_narrowing(f"{selection} has no {kept.name}: float32 is used instead")
    return np.dtype(np.float32)


def slice_batches(
    parts: Sequence[Any], selection: Selection | None, rows: int | None
) -> Callable[[], Iterator[tuple[Any, ...]]]:
    """Cut X, y, weights and offsets, where there are any, into batches of so many rows, or as many as fit."""
    if selection is None:
        named = zip(PART_NAMES, parts, strict=True)
        arrays: list[Any] = [None if part is None else as_array(name, part) for name, part in named]
    else:
        arrays = as_host_arrays(parts, selection)
    if parts[1] is None:
        raise ValueError("y is missing: got None, need an array")
    while arrays[-1] is None:
        arrays.pop()
    for name, part in zip(PART_NAMES[1:], arrays[1:], strict=False):
        if part is not None and part.shape[:1] != arrays[0].shape[:1]:
            raise ValueError(
                f"{name} must have one value for each row of X {tuple(arrays[0].shape)}, got shape "
                f"{tuple(part.shape)}"
            )
    n = int(arrays[0].shape[0])
    step = rows or _max_batch_rows(arrays, selection)
    return functools.partial(_slices, arrays, n, step)


def _slices(arrays: Sequence[Any], n: int, step: int) -> Iterator[tuple[Any, ...]]:
    for i in range(0, n, step):
        yield tuple(None if part is None else part[i : i + step, ...] for part in arrays)


def _max_batch_rows(arrays: Sequence[Any], selection: Selection | None) -> int:
    """Return how many rows a batch has: of two, and what is made of one, all fit on the device."""
    entries = sum(math.prod(map(int, part.shape[1:])) for part in arrays if part is not None)
    size = 8 if selection is None else device_dtype(arrays[0], selection).itemsize
    free = None if selection is None else selection.backend.free_bytes(selection.device)
    most = MAX_BATCH_BYTES if free is None else min(MAX_BATCH_BYTES, free // BATCHES_IN_MEMORY)
    return max(1, most // (entries * size))


def shape_placeholder(X: Any, dtype: Any) -> Any:
    """Return an array of X's shape and this dtype that takes no memory: y and the weights are checked against it."""
    return np.broadcast_to(np.zeros((), dtype=dtype), X.shape)


def move_arrays(data: CheckedArrays, dtype: Any, transfer: Transfer) -> CheckedArrays:
    """Move checked host data to a device, in this dtype: X, y and weights by one feed."""
    with np.errstate(over="ignore"):  # an infinity made here is array with those that came
        return CheckedArrays(
            *(
                None
                if part is None
                else transfer.move(part.astype(_as_wide(part, dtype), copy=False))
                for part in data
            )
        )


def _as_wide(part: Any, dtype: Any) -> Any:
    """Return the dtype of a part that is moved: this one, or two of it for pairs of targets and offsets."""
    return np.result_type(dtype, np.complex64) if part.dtype.kind == "c" else dtype


def needed_bytes(data: CheckedArrays, dtype: Any) -> int:
    """Return what X, y and the weights take in this dtype."""
    return sum(int(part.size) for part in data if part is not None) * int(dtype.itemsize)
