"""The matrix operations that are needed of X, each for a dense array and for a sparse matrix.

The functions of one block in ``agd.gradient`` and ``agd.run`` call these, and so need not know which of the two X
is. A sparse matrix is in CSR format without duplicates. It is only multiplied with vectors and mapped entry by
entry: it is never made dense as a whole, and centring it is a formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agd import backends
from agd._typing import Array, Matrix

__all__ = [
    "backward",
    "column_counts",
    "column_sums",
    "entry_position",
    "forward",
    "gather_rows",
    "gram_matrix",
    "map_entries",
    "max_abs_columns",
    "scale_rows",
    "shift_entries",
    "slice_rows",
    "squared_row_norms",
    "stored_entries",
]

# From this share of nonzeros, products of small dense blocks are faster than a sparse one (measured).
MIN_DENSE_SHARE = 0.07
MAX_DENSE_BLOCK_BYTES = 4 * 2**20


def forward(X: Matrix, w: Array, *, outputs: bool = False) -> Array:
    """Return X @ w for every problem of the batch.

    Parameters
    ----------
    X : array, shape (n, p) or (..., n, p)
        The rows; one set for all problems, or one for each.
    w : array, shape (..., p) or (..., k, p)
        The coefficients.
    outputs : bool
        Whether each problem has several outputs: the k rows of w.

    Returns
    -------
    array, shape (..., n) or (..., k, n)
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
    if X.ndim == 2 or outputs:
        return w @ xp.matrix_transpose(X)
    return xp.matmul(X, w[..., None])[..., 0]


def backward(X: Matrix, r: Array, *, outputs: bool = False) -> Array:
    """Return X' r for every problem of the batch, shape (..., p), for r of shape (..., n).

    With several outputs r is (..., k, n), and the result (..., k, p).

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
    if X.ndim == 2 or outputs:
        product: Array = r @ X
        return product
    return xp.matmul(xp.matrix_transpose(X), r[..., None])[..., 0]


def _sparse_backward(X: Matrix, r: Array) -> Array:
    xp, dtype = backends.namespace(r), r.dtype
    if dtype == xp.float32 and backends.of(X).threaded:
        r = xp.astype(r, xp.float64)  # SciPy sums entry after entry: float32 would lose digits
    if r.ndim == 1:
        product = backends.transpose(X) @ r
    else:
        flat = xp.reshape(r, (-1, r.shape[-1]))
        product = xp.reshape(
            xp.matrix_transpose(backends.transpose(X) @ flat.T), (*r.shape[:-1], X.shape[1])
        )
    return xp.astype(product, dtype, copy=False)


def slice_rows(X: Matrix, start: int | None, stop: int | None, step: int = 1) -> Matrix:
    """Return the rows of ``range(start, stop, step)``; with a step of 1 they are a view of X."""
    if not backends.is_sparse(X):
        return X[..., start:stop:step, :]
    if step != 1:
        return X[start:stop:step]
    low, high, _ = slice(start, stop).indices(X.shape[0])
    at = X.indptr[low : high + 1]
    first, last = int(at[0]), int(at[-1])
    return backends.csr_from_parts(X, X.data[first:last], X.indices[first:last], at - at[0])


def gather_rows(X: Matrix, rows: Array) -> Matrix:
    """Return the rows with these indices."""
    return X[rows] if backends.is_sparse(X) else backends.namespace(X).take(X, rows, axis=-2)


def stored_entries(X: Matrix) -> Array:
    """Return an array of all entries that may be other than 0."""
    stored: Array = X.data if backends.is_sparse(X) else X
    return stored


def entry_position(X: Matrix, entry: Any) -> tuple[Any, ...]:
    """Return row and column of an entry of a sparse matrix, by its number among `stored_entries`."""
    xp = backends.namespace(X)
    return xp.searchsorted(X.indptr, entry, side="right") - 1, X.indices[entry]


def map_entries(X: Matrix, f: Callable[[Array], Array]) -> Matrix:
    """Return f(X), entry by entry, for a function of which f(0) is 0."""
    return _with_entries(X, f(X.data)) if backends.is_sparse(X) else f(X)


def _with_entries(X: Matrix, data: Array) -> Matrix:
    return backends.csr_from_parts(X, data, X.indices, X.indptr)


def column_sums(X: Matrix) -> Array:
    """Return the sums over the rows, shape (..., p)."""
    xp = backends.namespace(X)
    return backward(X, _ones_per_row(X)) if backends.is_sparse(X) else xp.sum(X, axis=-2)


def column_counts(X: Matrix, weight: Array | None) -> Array:
    """Return for each column of a sparse matrix the weight of the rows that have an entry, shape (p,)."""
    xp = backends.namespace(X)
    return backward(
        _with_entries(X, xp.ones_like(X.data)), _ones_per_row(X) if weight is None else weight
    )


def _ones_per_row(X: Matrix) -> Array:
    xp = backends.namespace(X)
    return xp.ones((X.shape[0],), dtype=X.dtype, device=backends.device(X))


def max_abs_columns(X: Matrix) -> Array:
    """Return each column's largest absolute value, shape (..., p)."""
    xp = backends.namespace(X)
    if not backends.is_sparse(X):
        return xp.max(xp.abs(X), axis=-2)
    return xp.reshape(map_entries(X, xp.abs).max(axis=0).toarray(), (-1,))


def squared_row_norms(X: Matrix, shift: Array | None, scale: Array | None) -> Array:
    """Return the squared length of the rows (x - shift) * scale, shape (..., n)."""
    xp = backends.namespace(X)
    if not backends.is_sparse(X):
        X = X if shift is None else X - shift[..., None, :]
        X = X if scale is None else X * scale[..., None, :]
        return xp.sum(X * X, axis=-1)
    squares = map_entries(X, lambda x: x * x)
    weight = xp.ones_like(X.data, shape=(X.shape[1],)) if scale is None else scale * scale
    product = forward(squares, weight)
    if shift is None:
        return product
    across = forward(X, weight * shift)
    return backends.clip(product - 2.0 * across + xp.sum(weight * shift * shift, axis=-1), low=0.0)


def shift_entries(X: Matrix, shift: Array, size: Array | None = None) -> Matrix:
    """Return a sparse matrix of (x_ij - shift_j) / size_j where X has an entry, and 0 elsewhere."""
    data = X.data - shift[X.indices]
    return _with_entries(X, data if size is None else data / size[X.indices])


def scale_rows(X: Matrix, factor: Array) -> Matrix:
    """Return the rows times a factor each."""
    if not backends.is_sparse(X):
        return X * factor[..., None]
    return _with_entries(X, X.data * factor[X.tocoo(copy=False).row])


def gram_matrix(X: Matrix) -> Array:
    """Return X' X, an array (..., p, p)."""
    xp = backends.namespace(X)
    if not backends.is_sparse(X):
        if X.ndim == 2:
            return backends.of(X).matmul(xp.matrix_transpose(X), X)
        return xp.matmul(xp.matrix_transpose(X), X)
    n, p = X.shape
    if not backends.of(X).threaded or X.nnz < MIN_DENSE_SHARE * n * p:
        gram: Array = (backends.transpose(X).tocsr() @ X).toarray()
        return gram
    rows = max(1, MAX_DENSE_BLOCK_BYTES // (p * X.dtype.itemsize))
    product = xp.zeros((p, p), dtype=X.dtype)
    for i in range(0, n, rows):
        block = slice_rows(X, i, min(i + rows, n)).toarray()
        product = product + block.T @ block
    return product
