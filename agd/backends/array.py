"""What the rest of agd asks of an array: its library, its device, its values on the host."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import array_api_compat as compat
import optree

from agd._typing import Array, Namespace, Tree
from agd.backends._batches import BATCHES
from agd.backends.backend import Backend
from agd.backends.sparse import SPARSE, is_sparse
from agd.backends.table import TABLE

__all__ = [
    "add",
    "add_up",
    "clip",
    "counted",
    "current",
    "default_float",
    "device",
    "is_array",
    "namespace",
    "of",
    "to_numpy",
]

# What is no library's array, and is cut into rows all the same.
ROWS = (*TABLE, *SPARSE, BATCHES)

# Looked up several times a step; a type of array has one namespace and one row.
_BY_TYPE: dict[type, Namespace] = {}
_ROW_BY_TYPE: dict[type, Backend] = {}
_READS: ContextVar[list[int] | None] = ContextVar("reads", default=None)


def namespace(*arrays: Array) -> Namespace:
    """Return the arrays' module of the Python Array API.

    Parameters
    ----------
    *arrays : array
        Arrays of one library; of a sparse matrix, by itself, it is that of its entries.

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
        return compat.array_namespace(*arrays)
    xp = _BY_TYPE.get(type(arrays[0]))
    if xp is None:
        like = arrays[0].data if is_sparse(arrays[0]) else arrays[0]
        xp = _BY_TYPE[type(arrays[0])] = compat.array_namespace(like)
    return xp


def device(x: Array) -> Any:
    """Return the device of an array, as its library names it; None under a trace.

    Examples
    --------
    >>> import numpy as np
    >>> device(np.zeros(2))
    'cpu'
    """
    return compat.device(x.data if is_sparse(x) else x)


def of(x: Array) -> Backend:
    """Return the row of the library that `x` belongs to.

    Parameters
    ----------
    x : array
        An array of a library in `TABLE`.

    Returns
    -------
    Backend
        Its row.

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
    known_row = _ROW_BY_TYPE.get(type(x))
    if known_row is not None:
        return known_row
    for row in ROWS:
        if row.owns(x):
            _ROW_BY_TYPE[type(x)] = row
            return row
    known = ", ".join(row.name for row in TABLE)
    raise TypeError(f"{type(x).__name__} is no array of a library that agd knows ({known})")


def is_array(x: Any) -> bool:
    """Return whether `x` is an array of a library in the table.

    Examples
    --------
    >>> is_array([1.0])
    False
    """
    return any(row.owns(x) for row in TABLE)


def clip(x: Array, low: float | Array | None = None, high: float | Array | None = None) -> Array:
    """Return x within [low, high], without a look at its values: NaN stays.

    A namespace's own may look for NaN in the limits, and pick entries by a mask: on a device that waits
    until the host knows how many there are.

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
    own = of(x).clip
    return namespace(x).clip(x, low, high) if own is None else own(x, low, high)


def to_numpy(x: Array) -> Any:
    """Copy an array to the host: the one door out, and what a result's `n_sync` counts.

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
    count = _READS.get()
    if count is not None:
        count[0] += 1
    return of(x).to_numpy(x)


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """Count the reads by `to_numpy` in this context, but not those of a count within it.

    Yields
    ------
    list of int
        How many there were so far, as its one entry.

    Examples
    --------
    >>> import numpy as np
    >>> with counted() as reads:
    ...     here = to_numpy(np.ones(1)), to_numpy(np.ones(2))
    >>> reads
    [2]
    """
    count = [0]
    token = _READS.set(count)
    try:
        yield count
    finally:
        _READS.reset(token)


def current(x: Array) -> AbstractContextManager[Any]:
    """Return a context in which new arrays land on the device of `x`, for libraries that have one.

    Examples
    --------
    >>> import numpy as np
    >>> with current(np.zeros(2)):
    ...     pass
    """
    return of(x).current(x)


def add(trees: Sequence[Tree]) -> Tree:
    """Add trees up, leaf by leaf."""
    return functools.reduce(lambda a, b: optree.tree_map(operator.add, a, b), trees)


def add_up(f: Callable[..., Tree], *arrays: Array) -> Tree:
    """Return f(*arrays) for a function that sums over rows; lazy chunks are added up in one graph.

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
    >>> add_up(lambda x: (x.shape[0], x.sum()), np.asarray([1.0, 2.0]))
    (2, np.float64(3.0))
    """
    row = of(arrays[0])
    return row.reduce(f, row.chunks(*arrays), add, small=True) if row.chunked else f(*arrays)


def default_float(xp: Namespace, where: Any) -> Any:
    """Return the dtype that integers become: the library's default float on that device.

    Examples
    --------
    >>> import array_api_compat.numpy as xp
    >>> default_float(xp, "cpu")
    dtype('float64')
    """
    return xp.__array_namespace_info__().default_dtypes(device=where)["real floating"]
