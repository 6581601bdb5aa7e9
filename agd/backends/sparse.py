"""Sparse matrices of SciPy and CuPy: their rows of the table, and how they are read row by row (CSR).

A sparse matrix does not follow the Array API and stands for X alone: products with it are dense, in the
library, on the device and in the dtype of its entries. SciPy and CuPy are not imported before a matrix of
theirs was given.
"""

from __future__ import annotations

import warnings
from typing import Any

from agd._typing import Array, NativeArray
from agd.backends.backend import Backend

__all__ = [
    "SPARSE",
    "as_csr",
    "as_scipy",
    "check_structure",
    "csr_from_parts",
    "is_sparse",
    "transpose",
]

_MODULES = ("scipy.sparse", "cupyx.scipy.sparse")

# Measured: a third more or less makes no difference.
_CACHE_BLOCK_BYTES = 3 * 2**20

# The module of a type of matrix, "" for other types: it is looked up several times a step.
_MODULE_BY_TYPE: dict[type, str] = {}


def _sparse_module(matrix_type: type) -> str:
    module = _MODULE_BY_TYPE.get(matrix_type)
    if module is None:
        # The bases are searched too, since users may subclass a library's matrix.
        names = [base.__module__ for base in matrix_type.__mro__ if hasattr(base, "tocsr")]
        module = next((m for m in _MODULES if any(n.startswith(m + ".") for n in names)), "")
        _MODULE_BY_TYPE[matrix_type] = module
    return module


def is_sparse(x: Any) -> bool:
    """Return whether `x` is a sparse matrix of SciPy or CuPy.

    Examples
    --------
    >>> is_sparse([[0.0]])
    False
    """
    return _sparse_module(type(x)) != ""


def as_scipy(X: Any) -> Any:
    """Return a sparse array of another library as one of SciPy's, if it can say so itself; all else as it is."""
    return X.to_scipy_sparse() if hasattr(X, "to_scipy_sparse") and X.ndim == 2 else X


def as_csr(name: str, X: Any) -> Any:
    """Return a sparse matrix in canonical CSR format; it is copied only where that is necessary.

    Parameters
    ----------
    name : str
        What a warning calls it.
    X : sparse array or matrix, shape (n, p)
        In any format; it is not modified.

    Returns
    -------
    sparse array or matrix
        For SciPy a sparse array, so that `@` and `*` mean what they mean for arrays.

    Raises
    ------
    ValueError
        If its arrays do not belong together, as of a file that was damaged: products would read and write beyond
        them.

    Warns
    -----
    UserWarning
        If its format was neither CSR nor CSC.

    Notes
    -----
    A pass over columns (CSC) takes two to five times as long as one over rows, in one thread, and
    mini-batches cannot be drawn from it. The copy costs about ten passes, and is made without a warning, as
    scikit-learn does.
    """
    check_structure(name, X)
    if X.format not in ("csr", "csc"):
        warnings.warn(
            f"{name} is sparse in {X.format.upper()} format, which has no rows to read: it was copied to "
            f"CSR; pass {name}.tocsr() to copy it once for many fits",
            UserWarning,
            stacklevel=4,
        )
    rows = X.tocsr()
    if _sparse_module(type(rows)) == "scipy.sparse":
        from scipy.sparse import csr_array

        rows = csr_array((rows.data, rows.indices, rows.indptr), shape=rows.shape)
    if not rows.has_canonical_format:
        rows = rows.copy() if X.format == "csr" else rows  # `tocsr` made a copy of any other
        rows.sum_duplicates()
    return rows


def check_structure(name: str, X: Any) -> None:
    """Refuse a matrix of SciPy whose indices lead out of it; on a device they are not read for it."""
    if _sparse_module(type(X)) != "scipy.sparse":
        return
    rows, columns = X.shape
    if X.format == "coo":
        _check_indices(name, X.row, rows, "row")
        _check_indices(name, X.col, columns, "column")
    elif X.format in ("csr", "csc", "bsr"):
        major, minor = (columns, rows) if X.format == "csc" else (rows, columns)
        if X.format == "bsr":
            major, minor = major // X.blocksize[0], minor // X.blocksize[1]
        ends = X.indptr
        if len(ends) != major + 1 or ends[0] != 0 or (ends[1:] < ends[:-1]).any():
            raise ValueError(
                f"{name} is a damaged sparse matrix: indptr must be {major + 1} counts that rise from 0"
            )
        if ends[-1] > min(len(X.indices), len(X.data)):
            raise ValueError(
                f"{name} is a damaged sparse matrix: indptr counts {ends[-1]} entries, indices and data have "
                f"{len(X.indices)} and {len(X.data)}"
            )
        kind = "row" if X.format == "csc" else "column"
        _check_indices(name, X.indices[: ends[-1]], minor, kind)


def _check_indices(name: str, indices: Any, count: int, kind: str) -> None:
    if len(indices) and (indices.min() < 0 or indices.max() >= count):
        at = int(((indices < 0) | (indices >= count)).argmax())
        raise ValueError(
            f"{name} is a damaged sparse matrix: entry {at} has {kind} {indices[at]}, and there are {count}"
        )


def csr_from_parts(X: Any, data: Array, indices: Array, indptr: Array) -> Any:
    """Return a CSR matrix of the kind of `X` that shares the given arrays, which may be views.

    Parameters
    ----------
    X : sparse matrix, shape (n, p)
        Gives the type of the matrix, and p.
    data, indices, indptr : array
        The entries, their columns, and the offsets of the rows among them.

    Returns
    -------
    sparse matrix, shape (m, p)
        Where m is the length of `indptr` less 1.
    """
    return _matrix_from_parts(type(X), (indptr.shape[0] - 1, X.shape[1]), data, indices, indptr)


def transpose(X: Any) -> Any:
    """Return the transpose of a CSR matrix, a CSC matrix that shares its arrays."""
    if _sparse_module(type(X)) != "scipy.sparse" or X.format != "csr":
        return X.T
    from scipy.sparse import csc_array

    return _matrix_from_parts(csc_array, X.shape[::-1], X.data, X.indices, X.indptr)


def _matrix_from_parts(
    matrix_type: Any, shape: tuple[int, int], data: Array, indices: Array, indptr: Array
) -> Any:
    # SciPy's constructor would copy arrays that are views of much larger ones.
    matrix = matrix_type(shape, dtype=data.dtype)
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix


def _no_devices(_: Any) -> list[str]:
    return []


def _refuse_conversion(*_: Any) -> Any:
    raise TypeError("a sparse matrix is never made dense")


def _sparse_row(module: str, **traits: Any) -> Backend:
    def owns(x: Any) -> bool:
        return _sparse_module(type(x)) == module

    return Backend(
        name=module,
        module=module,
        namespace=module,
        install=module.partition(".")[0],
        owns=owns,
        devices=_no_devices,
        get_device=_refuse_conversion,
        to_numpy=_refuse_conversion,
        convert=_refuse_conversion,
        mutable=False,
        resident=_no_entries,
        sparse=True,
        **traits,
    )


def _no_entries(X: Any) -> NativeArray:
    return X.data[:0]


SPARSE = (
    # SciPy's products release the interpreter's lock, so that threads share the row blocks.
    _sparse_row("scipy.sparse", block_bytes=lambda _: _CACHE_BLOCK_BYTES, threaded=True),
    _sparse_row(
        "cupyx.scipy.sparse", block_bytes=lambda _: None, device_context=lambda x: x.data.device
    ),
)
