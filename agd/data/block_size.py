"""How many rows a block or a sample has: a block as many as stay in cache between the two products of a gradient.

`ArrayData.cut` asks for it once for each array. The numbers depend on shapes and dtypes alone, never on the machine,
so that the same data give the same bits everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Matrix

__all__ = [
    "entries_per_row",
    "item_bytes",
    "rows_in_cache",
    "rows_per_block",
    "sparse_rows_in_cache",
    "stratified_rows",
    "sum_row_weights",
]

# Measured for 1 to 5,000 columns, float32 and float64 (benchmarks/passes.py).
#
# Threads that share a sum take the interpreter's lock in turn, a dozen times a block: small blocks are slow,
# of few columns up to four times.
MAX_SHARED_ROWS = 65_536
# OpenBLAS divides a product of more than 460,800 entries, and one of two vectors of more than 10,000, among
# threads of its own, unless it is told not to, as threads of ours do (`agd.data.threads`). They wait for each other:
# where the processors are busy, for a hundred times what the product takes.
MAX_PRODUCT_ENTRIES = 450_000
MAX_PRODUCT_ROWS = 10_000
# With fewer rows a call costs more than its work.
MIN_BLOCK_ROWS = 64
# Vectors with an entry for each row of a longer sparse block leave the cache.
MAX_SPARSE_ROWS = 50_000


def sum_row_weights(X: Matrix, y: Array, weight: Array | None) -> Array:
    """Count the rows of a block, or add up their weights: shape () or (...,)."""
    xp = backends.namespace(X)
    if weight is not None:
        return xp.sum(weight, axis=-1)
    return xp.full((), float(y.shape[-1]), dtype=X.dtype, device=backends.device(X))


def entries_per_row(X: Matrix) -> int:
    """Return how many entries a row has, over all problems; 1 at least."""
    return max(1, math.prod((*map(int, X.shape[:-2]), int(X.shape[-1]))))


def rows_per_block(X: Matrix, targets: int, limit: int | None = None, *, share: int = 0) -> int:
    """Return how many rows a block has: as many as stay in cache, where the backend's table says so.

    Parameters
    ----------
    X : array, shape (n, p) or (..., n, p)
        The rows; it may be sparse.
    targets : int
        Entries of y for each row.
    limit : int, optional
        The most bytes of X in a block, where the backend would take the whole array.
    share : int
        As for `rows_in_cache`.

    Returns
    -------
    int
        At least 1.
    """
    n, size = int(X.shape[-2]), backends.of(X).block_bytes(X)
    # Where a cache decides, the backend gives its size; elsewhere a block is all rows, or as many as the limit allows.
    if size is not None and backends.is_sparse(X):
        return sparse_rows_in_cache(X, targets, size)
    if size is not None:
        fit = rows_in_cache(entries_per_row(X), targets, item_bytes(X), size, share)
    else:
        fit = n if limit is None else limit // (entries_per_row(X) * item_bytes(X))
    return max(1, min(n, fit))


def rows_in_cache(columns: int, targets: int, itemsize: int, size: int, share: int = 0) -> int:
    """Return how many rows a block has that stays in the cache from its first product to its second.

    Parameters
    ----------
    columns : int
        Entries of X in a row; of a batch, in the rows of all problems.
    targets : int
        Entries of y for each row.
    itemsize : int
        Bytes of an entry.
    size : int
        Bytes that the cache keeps.
    share : int
        Where threads may share the blocks, the rows of each if there are just enough blocks for that; else 0.

    Returns
    -------
    int
        At least 1. As many rows as fit beside z and the slopes, within `MIN_BLOCK_ROWS` (unless these take
        more than four times `size`) and `MAX_PRODUCT_ROWS`; shared ones, within `share` and `MAX_SHARED_ROWS`: of
        float32 half of these, as rows are added up one after the other.

    Examples
    --------
    >>> [rows_in_cache(p, 1, 8, 2 * 2**20) for p in (1, 50, 200, 1000, 5000, 10**7)]
    [10000, 5041, 1297, 261, 64, 1]
    >>> [rows_in_cache(p, 1, 8, 2 * 2**20, share=10**5) for p in (1, 50, 5000)]
    [65536, 5041, 64]
    """
    # Beside the row itself the cache holds its predictor and its slope, for each target.
    row_bytes = max(1, columns + 2 * targets) * itemsize
    fit = min(size // row_bytes, MAX_PRODUCT_ENTRIES // max(1, columns))
    least = min(MIN_BLOCK_ROWS, 4 * size // row_bytes)
    rows = max(1, min(max(fit, least), MAX_PRODUCT_ROWS))
    most = MAX_SHARED_ROWS if itemsize >= 8 else MAX_SHARED_ROWS // 2
    return max(rows, min(size // row_bytes, most, share))


def sparse_rows_in_cache(X: Matrix, targets: int, size: int) -> int:
    """Return how many rows a block of a sparse matrix has.

    Parameters
    ----------
    X : sparse matrix, shape (n, p)
        Row by row.
    targets : int
        Entries of y for each row.
    size : int
        Bytes that the cache keeps.

    Returns
    -------
    int
        As many as fit on average, within `MAX_SPARSE_ROWS`, but with an entry for each column at least: a
        block's gradient has p numbers, whatever its rows.
    """
    n, p = (int(length) for length in X.shape)
    # Rows may be empty, and each entry brings the number of its column along.
    entries = max(1.0, int(X.nnz) / n)
    entry_bytes = X.dtype.itemsize + X.indices.dtype.itemsize
    fit = min(size / (entries * entry_bytes + 2 * targets * X.dtype.itemsize), MAX_SPARSE_ROWS)
    return max(1, min(n, int(max(fit, p / entries))))


def item_bytes(x: Array, dtype: Any = None) -> int:
    """Return the bytes of an entry of x, or of one of this dtype in x's library.

    Examples
    --------
    >>> import numpy as np
    >>> item_bytes(np.zeros(3, dtype=np.float32))
    4
    """
    return int(backends.namespace(x).finfo(x.dtype if dtype is None else dtype).bits) // 8


def stratified_rows(n: int, step: int, like: Array) -> Array:
    """Return one of every `step` of n rows, drawn from a fixed seed: no period in the rows can be met.

    Parameters
    ----------
    n, step : int
        How many rows, and one of how many.
    like : array
        Where the answer goes.

    Returns
    -------
    array of int, shape (n // step,)
        Ascending.

    Examples
    --------
    >>> import numpy as np
    >>> rows = stratified_rows(12, 4, np.zeros(1))
    >>> rows // 4
    array([0, 1, 2])
    """
    first = np.arange(n // step) * step
    drawn = first + np.random.default_rng(n).integers(0, step, size=first.shape)
    return backends.to_device_of(drawn, like, backends.namespace(like).int64)
