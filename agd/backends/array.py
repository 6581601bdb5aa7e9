"""What the rest of agd asks of an array: its library, its device, its values on the host.

Nothing here depends on the kind of problem; every other room calls these functions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeGuard

import array_api_compat
import numpy as np

from agd._typing import Array, HostArray, Matrix, Namespace
from agd.backends.backend import Backend
from agd.backends.floats import FLOATS
from agd.backends.sparse import SPARSE, is_sparse
from agd.backends.table import TABLE, follows_standard, standard_row

__all__ = [
    "clip",
    "count_host_reads",
    "default_float",
    "device",
    "device_context",
    "dtype_name",
    "has_known_type",
    "is_array",
    "namespace",
    "of",
    "read_together",
    "register_row",
    "to_device_of",
    "to_numpy",
]

# Its types name the modules and arrays of single libraries.
compat: Any = array_api_compat

# Rows of the table, and of kinds of data that are no arrays but stand in their place as X.
_ROWS = [*TABLE, *SPARSE]

# An array's namespace and row are looked up several times a step, and depend on its type alone.
_FLOATS: Any = FLOATS
_NAMESPACE_BY_TYPE: dict[type, Namespace] = {float: _FLOATS, bool: _FLOATS}
_ROW_BY_TYPE: dict[type, Backend] = {}

# How often `to_numpy` was called in the innermost `count_host_reads`, as the list's one entry.
_HOST_READS: ContextVar[list[int] | None] = ContextVar("host_reads", default=None)


def namespace(*arrays: Matrix) -> Namespace:
    """Return the arrays' module of the Python Array API.

    Parameters
    ----------
    *arrays : array or float
        Arrays of one library. A sparse matrix has the namespace of its entries, and comes alone; so does
        a Python number, whose namespace is `FLOATS`.

    Returns
    -------
    module
        The namespace, through ``array-api-compat`` where the library needs that.

    Raises
    ------
    TypeError
        If the arrays are of two libraries, or of none.

    Examples
    --------
    >>> import numpy as np
    >>> namespace(np.zeros(2)).__name__
    'array_api_compat.numpy'
    """
    if len(arrays) != 1:
        common: Namespace = compat.array_namespace(*arrays)
        return common
    (x,) = arrays
    known = _NAMESPACE_BY_TYPE.get(type(x))
    if known is not None:
        return known
    xp: Namespace = compat.array_namespace(x.data if is_sparse(x) else x)
    _NAMESPACE_BY_TYPE[type(x)] = xp
    return xp


def device(x: Matrix) -> Any:
    """Return the device of an array, as its library names it; None under a trace.

    Examples
    --------
    >>> import numpy as np
    >>> device(np.zeros(2))
    'cpu'
    """
    return compat.device(x.data if is_sparse(x) else x)


def of(x: Matrix) -> Backend:
    """Return the row of the library that `x` belongs to.

    Parameters
    ----------
    x : array
        An array of a library in `TABLE`, or of another one that follows the Array API.

    Returns
    -------
    Backend
        Its row; of another library one with the defaults.

    Raises
    ------
    TypeError
        If no row owns `x`.

    Examples
    --------
    >>> import numpy as np
    >>> of(np.zeros(2)).name
    'numpy'
    """
    cached_row = _ROW_BY_TYPE.get(type(x))
    if cached_row is not None:
        return cached_row
    for row in _ROWS:
        if row.owns(x):
            _ROW_BY_TYPE[type(x)] = row
            return row
    if follows_standard(x):
        register_row(standard_row(x))
        return of(x)
    names = ", ".join(row.name for row in TABLE)
    raise TypeError(f"{type(x).__name__} is no array of a library that agd knows ({names})")


def registered_row(name: str) -> Backend:
    """Return the row of this name."""
    return next(row for row in _ROWS if row.name == name)


def register_row(row: Backend) -> None:
    """Let `of` answer with this row for the objects that it owns, which stand for X in place of an array.

    It is for kinds of data of higher rooms; array libraries have a row in `TABLE`.
    """
    _ROWS.append(row)


def is_array(x: Any) -> TypeGuard[Array]:
    """Return whether `x` is an array of a library in the table, or of another one that follows the Array API.

    Examples
    --------
    >>> is_array([1.0])
    False
    """
    return any(row.owns(x) for row in TABLE) or follows_standard(x)


def has_known_type(x: Any) -> bool:
    """Return whether x is an array of a type that `of` has met: a test that costs next to nothing."""
    return type(x) in _ROW_BY_TYPE


def clip(x: Array, low: float | Array | None = None, high: float | Array | None = None) -> Array:
    """Return x clipped to [low, high] without a host read; NaN stays NaN.

    A namespace's own function may search the limits for NaN and select entries by a mask. On a device
    the host then waits to learn how many were selected.

    Parameters
    ----------
    x : array
        Floating.
    low, high : float or array, optional
        The limits; arrays have the shape of x, or one that broadcasts to it.

    Returns
    -------
    array, the shape of x
        A new array, of the same dtype.

    Examples
    --------
    >>> import numpy as np
    >>> clip(np.asarray([-1.0, 0.5, 3.0]), 0.0, 1.0)
    array([0. , 0.5, 1. ])
    """
    number: Any = x
    if type(number) is float:
        clipped: Array = FLOATS.clip(number, low, high)
        return clipped
    row_clip = of(x).clip
    return namespace(x).clip(x, low, high) if row_clip is None else row_clip(x, low, high)


def to_numpy(x: Array) -> HostArray:
    """Copy an array to the host; a result's `n_sync` counts these calls.

    Parameters
    ----------
    x : array
        An array of any library in `TABLE`, on any device.

    Returns
    -------
    numpy.ndarray
        Its values.

    Examples
    --------
    >>> import numpy as np
    >>> to_numpy(np.asarray([1.0]))
    array([1.])
    """
    count = _HOST_READS.get()
    if count is not None:
        count[0] += 1
    return of(x).to_numpy(x)


def read_together(arrays: list[Array], dtype: Any = None) -> list[HostArray]:
    """Copy arrays of one library and device to the host in one transfer, as one read.

    Parameters
    ----------
    arrays : list of array
        Small arrays of any shapes.
    dtype : dtype, optional
        A dtype of their library in which they travel; by default that of the first.

    Returns
    -------
    list of numpy.ndarray
        Their values, in that dtype.

    Examples
    --------
    >>> import numpy as np
    >>> read_together([np.zeros(2), np.ones((1, 2))])
    [array([0., 0.]), array([[1., 1.]])]
    """
    first = arrays[0]
    dtype = first.dtype if dtype is None else dtype
    if len(arrays) == 1:
        return [np.asarray(to_numpy(first))]
    xp = namespace(first)
    flat = [xp.reshape(xp.astype(x, dtype, copy=False), (-1,)) for x in arrays]
    host = np.asarray(to_numpy(xp.concat(flat)))
    ends = np.cumsum([math.prod(x.shape) for x in arrays])[:-1]
    parts = zip(np.split(host, ends), arrays, strict=True)
    return [part.reshape(tuple(x.shape)) for part, x in parts]


def to_device_of(host: Any, like: Array, dtype: Any = None) -> Array:
    """Return host data as an array of the library, on the device and in the dtype of another array.

    Parameters
    ----------
    host : array_like
        Numbers on the host: a NumPy array, a Python number or nested lists of them.
    like : array
        An array whose library, device and dtype are taken over; where it is lazy the result is, too.
    dtype : dtype, optional
        Another dtype of the library of `like`, to which the library converts the data.

    Returns
    -------
    array
        The data, where `like` is.

    Examples
    --------
    >>> import numpy as np
    >>> to_device_of([1, 2], np.zeros(3, dtype=np.float32))
    array([1., 2.], dtype=float32)
    """
    if dtype is None:
        # Cast on the host: a smaller array travels, and the device may not have the host's dtype.
        host = np.asarray(host).astype(dtype_name(like.dtype), copy=False)
        if not host.flags.writeable:  # PyTorch warns of arrays that share memory with such data
            host = host.copy()
        dtype = like.dtype
    return of(like).convert(namespace(like), host, dtype, device(like))


def dtype_name(dtype: Any) -> str:
    """Return the name that NumPy has for a dtype of any library.

    Examples
    --------
    >>> import numpy as np
    >>> dtype_name(np.ones(1).dtype)
    'float64'
    """
    return str(dtype).rpartition(".")[2]  # torch.float64 and jax.numpy's float64 alike


@contextlib.contextmanager
def count_host_reads(*, shared: bool = False) -> Iterator[list[int]]:
    """Count the calls of `to_numpy` in this context, without those in a nested count.

    Parameters
    ----------
    shared : bool
        Whether the calls are those of the enclosing count, too.

    Yields
    ------
    list of int
        The number of calls so far, as its one entry.

    Examples
    --------
    >>> import numpy as np
    >>> with count_host_reads() as reads:
    ...     first, second = to_numpy(np.ones(1)), to_numpy(np.ones(2))
    >>> reads
    [2]
    """
    count = [0]
    outer = _HOST_READS.get()
    token = _HOST_READS.set(count)
    try:
        yield count
    finally:
        _HOST_READS.reset(token)
        if shared and outer is not None:
            outer[0] += count[0]


def device_context(x: Matrix) -> AbstractContextManager[Any]:
    """Return a context in which new arrays are placed on the device of `x`.

    It matters to libraries that have a current device, such as CuPy.

    Examples
    --------
    >>> import numpy as np
    >>> with device_context(np.zeros(2)):
    ...     pass
    """
    return of(x).device_context(x)


def default_float(xp: Namespace, where: Any) -> Any:
    """Return the dtype that integers become: the library's default float on that device.

    Examples
    --------
    >>> import array_api_compat.numpy as xp
    >>> default_float(xp, "cpu")
    dtype('float64')
    """
    return xp.__array_namespace_info__().default_dtypes(device=where)["real floating"]
