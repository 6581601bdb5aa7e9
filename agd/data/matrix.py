"""X as a matrix: what is asked of one, spelt for an array and for a sparse matrix side by side.

A sparse matrix lies row by row (CSR), each entry once. Its products with vectors, and functions of its
entries, are all that is asked of it: it is never made dense, and centring is a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agd import backends
from agd._typing import Array

__all__ = [
    "backward",
    "column_counts",
    "column_peaks",
    "column_sums",
    "entries",
    "forward",
    "gram",
    "mapped",
    "place",
    "row_squares",
    "shifted",
    "sliced",
    "taken",
    "times_rows",
]

DENSE = 0.07  # share of entries from which small dense blocks are multiplied sooner (measured)
SMALL = 4 * 2**20  # bytes of such a block


def forward(X: Array, w: Array) -> Array:
    """Return X @ w for every problem of the batch.

    Parameters
    ----------
    X : array, shape (n, p) or (..., n, p)
        The rows; one set for all problems, or one for each.
    w : array, shape (..., p)
        The coefficients.

    Returns
    -------
    array, shape (..., n)
        The linear predictor, less the intercept.

    Examples
    --------
    >>> import numpy as np
    >>> forward(np.asarray([[1.0, 2.0], [3.0, 4.0]]), np.asarray([1.0, 1.0]))
    array([3., 7.])
    """
    if X.ndim == 2 and w.ndim == 1:
        return backends.of(X).matmul(X, w)
    xp = backends.namespace(w)
    if backends.is_sparse(X):
        flat = xp.reshape(w, (-1, w.shape[-1]))
        return xp.reshape(xp.matrix_transpose(X @ flat.T), (*w.shape[:-1], X.shape[0]))
    if X.ndim == 2:
        return w @ xp.matrix_transpose(X)
    return xp.matmul(X, w[..., None])[..., 0]


def backward(X: Array, r: Array) -> Array:
    """Return X' r for every problem of the batch, shape (..., p), for r of shape (..., n).

    Examples
    --------
    >>> import numpy as np
    >>> backward(np.asarray([[1.0, 2.0], [3.0, 4.0]]), np.asarray([1.0, 1.0]))
    array([4., 6.])
    """
    if backends.is_sparse(X):
        return _sparse_backward(X, r)
    xp = backends.namespace(X)
    if X.ndim == 2 and r.ndim == 1:
        return backends.of(X).matmul(xp.matrix_transpose(X), r)
    if X.ndim == 2:
        return r @ X
    return xp.matmul(xp.matrix_transpose(X), r[..., None])[..., 0]


def _sparse_backward(X: Array, r: Array) -> Array:
    xp, dtype = backends.namespace(r), r.dtype
    if dtype == xp.float32 and backends.of(X).threaded:
        r = xp.astype(r, xp.float64)  # it is added up entry after entry: float32 would lose digits
    if r.ndim == 1:
        found = backends.transpose(X) @ r
    else:
        flat = xp.reshape(r, (-1, r.shape[-1]))
        found = xp.reshape(
            xp.matrix_transpose(backends.transpose(X) @ flat.T), (*r.shape[:-1], X.shape[1])
        )
    return xp.astype(found, dtype, copy=False)


def sliced(X: Array, start: int | None, stop: int | None, step: int = 1) -> Array:
    """Return rows start, start + step, ... before stop; neighbours of one another are a view of X."""
    if not backends.is_sparse(X):
        return X[..., start:stop:step, :]
    if step != 1:
        return X[start:stop:step]
    low, high, _ = slice(start, stop).indices(X.shape[0])
    at = X.indptr[low : high + 1]
    first, last = int(at[0]), int(at[-1])
    return backends.csr_from_parts(X, X.data[first:last], X.indices[first:last], at - at[0])


def taken(X: Array, rows: Array) -> Array:
    """Return these rows."""
    return X[rows] if backends.is_sparse(X) else backends.namespace(X).take(X, rows, axis=-2)


def entries(X: Array) -> Array:
    """Return an array of all entries that may be other than 0."""
    return X.data if backends.is_sparse(X) else X


def place(X: Array, entry: Any) -> tuple[Any, ...]:
    """Return row and column of an entry of a sparse matrix, by its number among `entries`."""
    xp = backends.namespace(X)
    return xp.searchsorted(X.indptr, entry, side="right") - 1, X.indices[entry]


def mapped(X: Array, f: Callable[[Array], Array]) -> Array:
    """Return f(X), entry by entry, for a function of which f(0) is 0."""
    return _with(X, f(X.data)) if backends.is_sparse(X) else f(X)


def _with(X: Array, data: Array) -> Any:
    return backends.csr_from_parts(X, data, X.indices, X.indptr)


def column_sums(X: Array) -> Array:
    """Return the sums over the rows, shape (..., p)."""
    xp = backends.namespace(X)
    return backward(X, _ones(X)) if backends.is_sparse(X) else xp.sum(X, axis=-2)


def column_counts(X: Array, weight: Array | None) -> Array:
    """Return for each column of a sparse matrix the weight of the rows that have an entry, shape (p,)."""
    xp = backends.namespace(X)
    return backward(_with(X, xp.ones_like(X.data)), _ones(X) if weight is None else weight)


def _ones(X: Array) -> Array:
    xp = backends.namespace(X)
    return xp.ones((X.shape[0],), dtype=X.dtype, device=backends.device(X))


def column_peaks(X: Array) -> Array:
    """Return each column's largest absolute value, shape (..., p)."""
    xp = backends.namespace(X)
    if not backends.is_sparse(X):
        return xp.max(xp.abs(X), axis=-2)
    return xp.reshape(mapped(X, xp.abs).max(axis=0).toarray(), (-1,))


def row_squares(X: Array, shift: Array | None, scale: Array | None) -> Array:
    """Return the squared length of the rows (x - shift) * scale, shape (..., n)."""
    xp = backends.namespace(X)
    if not backends.is_sparse(X):
        X = X if shift is None else X - shift[..., None, :]
        X = X if scale is None else X * scale[..., None, :]
        return xp.sum(X * X, axis=-1)
    squares = mapped(X, lambda x: x * x)
    weight = xp.ones_like(X.data, shape=(X.shape[1],)) if scale is None else scale * scale
    found = forward(squares, weight)
    if shift is None:
        return found
    across = forward(X, weight * shift)
    return backends.clip(found - 2.0 * across + xp.sum(weight * shift * shift, axis=-1), low=0.0)


def shifted(X: Array, shift: Array, size: Array | None = None) -> Any:
    """Return a sparse matrix of (x_ij - shift_j) / size_j where X has an entry, and 0 elsewhere."""
    data = X.data - shift[X.indices]
    return _with(X, data if size is None else data / size[X.indices])


def times_rows(X: Array, factor: Array) -> Array:
    """Return the rows times a factor each."""
    if not backends.is_sparse(X):
        return X * factor[..., None]
    return _with(X, X.data * factor[X.tocoo(copy=False).row])


def gram(X: Array) -> Array:
    """Return X' X, an array (..., p, p)."""
    xp = backends.namespace(X)
    if not backends.is_sparse(X):
        if X.ndim == 2:
            return backends.of(X).matmul(xp.matrix_transpose(X), X)
        return xp.matmul(xp.matrix_transpose(X), X)
    n, p = X.shape
    if not backends.of(X).threaded or X.nnz < DENSE * n * p:
        return (backends.transpose(X).tocsr() @ X).toarray()
    rows = max(1, SMALL // (p * X.dtype.itemsize))
    found = xp.zeros((p, p), dtype=X.dtype)
    for i in range(0, n, rows):
        block = sliced(X, i, min(i + rows, n)).toarray()
        found = found + block.T @ block
    return found
