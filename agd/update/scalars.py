"""Scalars of a solver: numbers for each problem that decisions are made on, on the host or beside the arrays.

A solver that has `host_scalars` reads them once an evaluation, all together; one that is traced keeps arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agd import backends
from agd._typing import Scalar

__all__ = ["known_false", "read_columns", "read_scalars"]


def known_false(flags: Scalar) -> bool:
    """Return whether the host knows that no flag is true, at no cost."""
    if isinstance(flags, bool):
        return not flags
    return isinstance(flags, np.bool_ | np.ndarray) and not np.any(flags)


def read_scalars(*arrays: Any, host: bool) -> list[Scalar]:
    """Return a number for each problem as Python floats, or as NumPy arrays for a batch, after one read.

    Parameters
    ----------
    *arrays : array, shape (...)
        What to read.
    host : bool
        Whether to read; False returns the arrays as they are.
    """
    if not host:
        return list(arrays)
    columns = read_columns(list(arrays))
    return [column.item() if column.ndim == 0 else column for column in columns]


def read_columns(columns: list[Any]) -> list[Any]:
    """Read scalars of several shapes (..., *) to the host in one transfer, in double precision.

    Parameters
    ----------
    columns : list of array or None
        What to read; the leading axes are those of the first.

    Returns
    -------
    list of numpy.ndarray or None
        The same on the host.
    """
    arrays = [a for a in columns if a is not None]
    row = backends.of(arrays[0])
    if row.host_accessible or row.chunked:  # nothing is gained by packing them; one read is counted
        arrays = row.persist(arrays)
        backends.to_numpy(arrays[0])
        computed = iter(arrays)
        return [
            None if a is None else np.asarray(row.to_numpy(next(computed)), dtype=np.float64)
            for a in columns
        ]
    xp = backends.namespace(arrays[0])
    dtype = xp.result_type(*(a.dtype for a in arrays))
    problems = tuple(arrays[0].shape)
    flat = [xp.reshape(a, (*problems, -1)) for a in arrays]
    flat = [a if a.dtype == dtype else xp.astype(a, dtype) for a in flat]
    host = np.asarray(backends.to_numpy(xp.concat(flat, axis=-1)), dtype=np.float64)
    ends = np.cumsum([a.shape[-1] for a in flat])[:-1]
    parts = iter(np.split(host, ends, axis=-1))
    return [None if a is None else next(parts).reshape(tuple(a.shape)) for a in columns]
