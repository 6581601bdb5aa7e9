"""Many small problems on NumPy: some of them at a time, each with all its rows; threads share them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array
from agd.gradient._cut import itemsize
from agd.gradient._workers import over_problems
from agd.gradient.blocks import Blocks

__all__ = ["small_problems", "some_at_a_time"]

SMALL = 2**20  # bytes of X of a problem: it, and a copy, are in cache
# Of the X of several: in cache yet, and long enough that threads seldom wait for the interpreter's lock (measured).
TOGETHER = 4 * 2**20


def small_problems(blocks: Blocks, dtype: Any = None) -> bool:
    """Return whether there are several problems along one axis, each with rows of its own that fit in cache.

    Parameters
    ----------
    blocks : Blocks
        The data.
    dtype : dtype, optional
        What X is worked on in; its own by default.
    """
    X = blocks.X
    if not backends.of(X).threaded or X.ndim != 3 or X.shape[-2] == 0 or blocks.rows is not None:
        return False
    return bool(0 < _bytes(X, dtype) <= SMALL)


def _bytes(X: Array, dtype: Any) -> int:
    return int(math.prod(X.shape[1:])) * itemsize(X, dtype)


def some_at_a_time(
    f: Callable[..., tuple[Any, ...]], blocks: Blocks, dtype: Any = None, more: Sequence[Array] = ()
) -> tuple[Any, ...]:
    """Return f(X, y, weight, *more) of small problems.

    Parameters
    ----------
    f : callable
        A pure function that treats problems apart and returns a tuple of arrays, theirs first.
    blocks : Blocks
        The data; weights that all problems share are written out for each.
    dtype : dtype, optional
        As for `small_problems`.
    more : sequence of array, shape (b, ...)
        What else f takes of each problem.

    Returns
    -------
    tuple of array, shape (b, ...)
        What f returns, for all problems.
    """
    X, y, weight = blocks.X, blocks.y, blocks.weight
    size = TOGETHER // _bytes(X, dtype)
    if weight is None:
        return over_problems(lambda X, y, *rest: f(X, y, None, *rest), X, y, *more, size=size)
    return over_problems(f, X, y, np.broadcast_to(weight, y.shape), *more, size=size)
