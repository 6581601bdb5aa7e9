"""What a batch of a stream must be: by itself, and beside those before it."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

from agd import backends
from agd._typing import Array, BatchColumn
from agd._validation import Data, as_data, check_columns
from agd.backends import Transfer
from agd.gradient._moving import dtype_there, host_parts, moved

__all__ = ["as_batch", "check_alike", "check_renewed", "check_targets"]


def check_renewed(batches: Callable[[], Any]) -> None:
    """Refuse a function with one iterator for every pass: the second would find it spent."""
    made = batches()
    if hasattr(made, "__next__") and made is batches():
        raise TypeError(
            f"batches() must return a new iterator each time, got the same {type(made).__name__} twice"
        )


def as_batch(
    number: int,
    batch: Any,
    feed: Transfer | None = None,
    columns: list[str] | None = None,
    *,
    warn: bool = False,
) -> Data | None:
    """Check a batch, of columns by these names, and move it where it goes; None for one without rows."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"batch {number} must be (X, y) or (X, y, sample_weight), got {what}")
    if _is_empty(batch[0]) and _is_empty(batch[1]):
        return None
    dtype: Any = None
    try:
        check_columns(batch[0], columns)
        if feed is not None:
            batch = host_parts(batch, feed.selection)
            dtype = dtype_there(batch[0], feed.selection, warn=warn)
        found = as_data(*batch)
    except (TypeError, ValueError) as error:
        raise type(error)(f"batch {number}: {error}") from None
    if found.X.ndim != 2 or backends.of(found.X).chunked or backends.is_sparse(found.X):
        raise ValueError(
            f"batch {number}: X must be a dense array in memory of shape (n, p), got "
            f"{type(found.X).__name__} of shape {tuple(found.X.shape)}"
        )
    return found if feed is None else moved(found, dtype, feed)


def _is_empty(rows: Any) -> bool:
    """Return whether an array, a table or a list has no rows."""
    shape = getattr(rows, "shape", None)
    if shape is None:
        return isinstance(rows, Sized) and len(rows) == 0
    return len(shape) > 0 and shape[0] == 0


def check_alike(number: int, X: Array, like: Array) -> None:
    """Refuse a batch of another library, dtype, device or number of columns."""
    kinds = [
        (backends.of(x).name, str(x.dtype), str(backends.device(x)), int(x.shape[-1]))
        for x in (X, like)
    ]
    for name, got, need in zip(
        ("library", "dtype", "device", "number of columns"), *kinds, strict=True
    ):
        if got != need:
            raise ValueError(
                f"batch {number}: X must have the {name} of the first batch, {need}, got {got}"
            )


def check_targets(number: int, y: Array, like: BatchColumn) -> None:
    if tuple(y.shape)[:-1] != like.shape[:-1]:
        raise ValueError(
            f"batch {number}: y must have the targets of the first batch, {like.shape[:-1]}, got "
            f"{tuple(y.shape)[:-1]}"
        )
