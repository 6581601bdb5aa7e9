"""The matrix operations that are needed of X, each for a dense array and for a sparse matrix.

The functions of one block in ``agd.gradient`` and ``agd.run`` call these, and so need not know which of the two X
is. A sparse matrix is in CSR format without duplicates. It is only multiplied with vectors and mapped entry by
entry: it is never made dense as a whole, and centring it is a formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, HostArray, Matrix

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
    "rough_centre",
    "scale_rows",
    "shift_entries",
    "slice_rows",
    "squared_row_norms",
    "stored_entries",
    "sum_rows_by_member",
    "weighted_products",
]

# From this share of nonzeros, products of small dense blocks are faster than a sparse one (measured).
MIN_DENSE_SHARE = 0.07
MAX_DENSE_BLOCK_BYTES = 4 * 2**20
# Of the matrix that says which rows of a sparse block belong to which member.
MAX_MEMBERSHIP_BYTES = 32 * 2**20


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


def rough_centre(X: Matrix, coef: Array, rows: int, *, has_intercept: bool) -> Array:
    """Return the mean of about so many rows, shape (..., p); 0 for a sparse block, and without an intercept."""
    xp, n = backends.namespace(coef), int(X.shape[-2])
    if not has_intercept or n == 0 or backends.is_sparse(X):
        return xp.zeros_like(coef)
    return xp.mean(X[..., :: max(1, n // rows), :], axis=-2)


def weighted_products(X: Matrix, centre: Array, v: Array, *, has_intercept: bool) -> Array:
    """Return A' diag(v) A for A = [X - centre, 1], or A = X, shape (..., d, d)."""
    xp = backends.namespace(v)
    if backends.is_sparse(X):
        if v.ndim > 1:
            each = (
                weighted_products(X, centre, v[i, ...], has_intercept=has_intercept)
                for i in range(v.shape[0])
            )
            return xp.stack(list(each))
        signs = [xp.sqrt(xp.where(side > 0.0, side, 0.0 * side)) for side in (v, -v)]
        above, below = (gram_matrix(scale_rows(X, root)) for root in signs)
        gram, side, total = above - below, backward(X, v), xp.sum(v, axis=-1)
        if not has_intercept:
            return gram
        right = xp.concat([side, total[..., None]], axis=-1)
        upper = xp.concat([gram, side[..., :, None]], axis=-1)
        return xp.concat([upper, right[..., None, :]], axis=-2)
    A = X - centre[..., None, :]
    if has_intercept:
        A = xp.concat([A, xp.ones_like(A[..., :1])], axis=-1)
    return xp.matmul(xp.matrix_transpose(A), A * v[..., None])


def sum_rows_by_member(
    X: Matrix, centre: Array, slope: Array, members: HostArray, *, has_intercept: bool
) -> Array:
    """Return the sums of slope [x - centre, 1] over the rows of each member, shape (..., members, d)."""
    if backends.is_sparse(X):
        count = int(members.max()) + 1 if len(members) else 0
        return _sparse_sums_by_member(X, slope, members, count, has_intercept=has_intercept)
    xp, A = backends.namespace(slope), X - centre[..., None, :]
    A = xp.concat([A, xp.ones_like(A[..., :1])], axis=-1) if has_intercept else A
    return _sums_by_member(A * slope[..., None], members)


def _sums_by_member(rows: Array, members: HostArray) -> Array:
    """Return the sums of the rows (..., n, d) of each member, numbered from 0, by sums of the rows in their order."""
    xp, where = backends.namespace(rows), backends.device(rows)
    order = np.argsort(members, kind="stable")
    last = np.cumsum(np.bincount(members)) - 1
    ordered, ends = (xp.asarray(x, device=where) for x in (order, last))
    running = xp.cumulative_sum(xp.take(rows, ordered, axis=-2), axis=-2)
    at_ends = xp.take(running, ends, axis=-2)
    before = xp.concat([xp.zeros_like(at_ends[..., :1, :]), at_ends[..., :-1, :]], axis=-2)
    return at_ends - before


def _sparse_sums_by_member(
    X: Matrix, slope: Array, members: HostArray, count: int, *, has_intercept: bool
) -> Array:
    """Return the same of a sparse block about 0, by products with the matrix of who is a member."""
    xp, n = backends.namespace(slope), int(slope.shape[-1])
    step = max(1, MAX_MEMBERSHIP_BYTES // max(1, 8 * n * math.prod(slope.shape[:-1])))
    parts = []
    for first in range(0, count, step):
        chosen = np.arange(first, min(count, first + step))[:, None] == members
        membership = backends.to_device_of(chosen.astype(float), slope) * slope[..., None, :]
        sums = backward(X, membership, outputs=True)
        if has_intercept:
            sums = xp.concat([sums, xp.sum(membership, axis=-1, keepdims=True)], axis=-1)
        parts.append(sums)
    return xp.concat(parts, axis=-2)
