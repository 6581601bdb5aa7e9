"""Numbers in another form than the library's own: their byte order, and dtypes that hold less."""

from __future__ import annotations

from typing import Any

import numpy as np

from agd._validation.scalars import values

__all__ = ["narrowed", "native"]


def native(x: Any) -> Any:
    """Return an array or sparse matrix in the machine's byte order, copied only if it is in another.

    NumPy's functions give up where a result would have to be written in the other order.
    """
    dtype = x.dtype
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return x.astype(dtype.newbyteorder("="))
    return x


def narrowed(name: str, x: Any, dtype: Any, beside: str) -> Any:
    """Return a NumPy array in another dtype; finite numbers that it cannot hold are an error.

    Parameters
    ----------
    name : str
        What errors call the array.
    x : numpy.ndarray
        Numbers.
    dtype : dtype
        Of an array beside it.
    beside : str
        What errors call that one.

    Returns
    -------
    numpy.ndarray
        The numbers; infinite ones are left to those who look for them.

    Raises
    ------
    ValueError
        With the number of those that are too large, and the first position.
    """
    with np.errstate(over="ignore"):
        host = x.astype(dtype)
    if host.dtype.itemsize >= x.dtype.itemsize or np.isfinite(host).all():
        return host
    lost = np.argwhere(np.isinf(host) & np.isfinite(x))
    if len(lost):
        first = tuple(int(i) for i in lost[0])
        kind = f"values too large for {host.dtype}, the dtype of {beside}"
        raise ValueError(values(name, len(lost), kind, first, float(x[first])))
    return host
