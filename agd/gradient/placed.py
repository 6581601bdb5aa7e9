"""Host data for a fit on a device: moved there once where they fit, else batch by batch on every pass."""

from __future__ import annotations

import contextlib
from typing import Any

from agd import backends
from agd._typing import Batches
from agd._validation import Data, as_data
from agd.gradient._moving import dtype_there, host_parts, moved, needed_bytes, stand_in
from agd.gradient.stream import Stream

__all__ = ["placed"]

# Of the free memory, what X, y and weights may take: the rest is for what is made of them.
SHARE = 0.875


def placed(X: Any, y: Any, sample_weight: Any, device: str) -> Data:
    """Check host data, and put them where they are fitted.

    Parameters
    ----------
    X, y, sample_weight : array
        As `agd.fit` takes them: NumPy's, memory maps, or what NumPy makes arrays of.
    device : str
        As `agd.backends.select` takes it.

    Returns
    -------
    Data
        Arrays on the device; a `Stream` where they do not fit in its free memory.

    Raises
    ------
    TypeError
        For arrays of another library, and sparse ones.
    ValueError
        As `as_data`; for a stream, which has a device of its own.
    MemoryError
        For independent problems that do not fit: they cannot be streamed.
    """
    if isinstance(X, Batches):
        raise ValueError(  # noqa: TRY004 - a stream will do, but for its device
            f"device={device!r} beside a stream: say where its batches go when it is made, by "
            f"agd.Stream(batches, device={device!r})"
        )
    where = backends.select(device)
    parts = host_parts((X, y, sample_weight), where)
    if any(part is None for part in parts[:2]) or 0 in parts[0].shape:
        return as_data(*parts)  # says what is missing
    if where.backend.chunked:
        return as_data(where.asarray(parts[0]), *parts[1:])
    dtype = dtype_there(parts[0], where, warn=True)
    checked = as_data(stand_in(parts[0], dtype), *parts[1:])._replace(X=parts[0])
    size = needed_bytes(checked, dtype)
    free = where.backend.free_bytes(where.device)
    if free is None or size <= SHARE * free:  # what is not known is taken to be enough
        with contextlib.suppress(MemoryError):  # it was not, or not in one piece
            return moved(checked, dtype, where.backend.transfer(where))
    if parts[0].ndim > 2:
        left = "" if free is None else f", where {backends.format_bytes(free)} are free"
        raise MemoryError(
            f"X, y and weights take {backends.format_bytes(size)} on {where}{left}: problems side by side "
            f"cannot be read in batches of rows; fit some of them at a time"
        )
    return as_data(Stream.from_arrays(*parts, device=device), None)
