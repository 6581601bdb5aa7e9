"""Sparse matrices: rows of their own, beside those of the libraries whose arrays they are made of.

A sparse matrix is no array of the standard. It is `X` and nothing else: what is computed from it is dense, in
the library, on the device and in the dtype of its entries. Nothing here imports SciPy or CuPy: a matrix that
comes has brought its library along.
"""

from __future__ import annotations

import warnings
from typing import Any

from agd._typing import Array
from agd.backends.backend import Backend

__all__ = ["MODULES", "SPARSE", "as_rows", "is_sparse", "of_parts", "transposed"]

MODULES = ("scipy.sparse", "cupyx.scipy.sparse")
CACHE_BLOCK = 3 * 2**20  # bytes: measured, a third more or less changes nothing

_KNOWN: dict[type, str] = {}  # asked of X several times a step


def _library(kind: type) -> str:
    found = _KNOWN.get(kind)
    if found is None:
        # A subclass of a matrix is one too.
        names = [base.__module__ for base in kind.__mro__ if hasattr(base, "tocsr")]
        found = next((m for m in MODULES if any(n.startswith(m + ".") for n in names)), "")
        _KNOWN[kind] = found
    return found


def is_sparse(x: Any) -> bool:
    """Return whether `x` is a sparse matrix of SciPy or CuPy.

    Examples
    --------
    >>> is_sparse([[0.0]])
    False
    """
    return _library(type(x)) != ""


def as_rows(name: str, X: Any) -> Any:
    """Return a sparse matrix row by row (CSR), each entry once and in order; a copy only where it has to be.

    Parameters
    ----------
    name : str
        What messages call it.
    X : sparse array or matrix, shape (n, p)
        In any format; it is not changed.

    Returns
    -------
    sparse array or matrix
        Of SciPy an array, whose products are those of arrays.

    Warns
    -----
    UserWarning
        If it had another format than CSR or CSC.

    Notes
    -----
    From columns (CSC) a pass takes two to five times as long as from rows, in one thread, and rows cannot be
    drawn: the copy costs about ten passes, and is made without a word, as scikit-learn's.
    """
    if X.format not in ("csr", "csc"):
        warnings.warn(
            f"{name} is sparse in {X.format.upper()} format, which has no rows to read: it was copied to "
            f"CSR; pass {name}.tocsr() to copy it once for many fits",
            UserWarning,
            stacklevel=4,
        )
    rows = X.tocsr()
    if _library(type(rows)) == "scipy.sparse":
        from scipy.sparse import csr_array

        rows = csr_array((rows.data, rows.indices, rows.indptr), shape=rows.shape)
    if not rows.has_canonical_format:
        rows = rows.copy() if X.format == "csr" else rows  # else it is a copy
        rows.sum_duplicates()
    return rows


def of_parts(X: Any, data: Array, indices: Array, indptr: Array) -> Any:
    """Return a sparse matrix like `X`, row by row, of these arrays, whose views are not copied.

    Parameters
    ----------
    X : sparse matrix, shape (n, p)
        It gives the kind, and p.
    data, indices, indptr : array
        Entries, their columns, and where rows begin and end among them.

    Returns
    -------
    sparse matrix, shape (m, p)
        m is the length of `indptr` less 1.
    """
    return _filled(type(X), (len(indptr) - 1, X.shape[1]), data, indices, indptr)


def transposed(X: Any) -> Any:
    """Return the transpose of a matrix of rows, by columns; a view."""
    if _library(type(X)) != "scipy.sparse" or X.format != "csr":
        return X.T
    from scipy.sparse import csc_array

    return _filled(csc_array, X.shape[::-1], X.data, X.indices, X.indptr)


def _filled(kind: Any, shape: tuple[int, int], data: Array, indices: Array, indptr: Array) -> Any:
    # Given to the constructor, SciPy copies arrays that are views of much larger ones.
    made = kind(shape, dtype=data.dtype)
    made.data, made.indices, made.indptr = data, indices, indptr
    return made


def _no_devices(_: Any) -> list[str]:
    return []


def _refused(*_: Any) -> Any:
    raise TypeError("a sparse matrix is never made dense")


def _row(module: str, **more: Any) -> Backend:
    def owns(x: Any) -> bool:
        return _library(type(x)) == module

    return Backend(
        name=module,
        module=module,
        namespace=module,
        install=module.partition(".")[0],
        owns=owns,
        devices=_no_devices,
        place=_refused,
        to_numpy=_refused,
        convert=_refused,
        in_place=False,
        resident=_resident,
        sparse=True,
        **more,
    )


def _resident(X: Any) -> Array:
    return X.data[:0]


SPARSE = (
    # SciPy's products leave the interpreter's lock: threads share blocks, which are views of the matrix.
    _row("scipy.sparse", block_bytes=lambda _: CACHE_BLOCK, threaded=True),
    _row("cupyx.scipy.sparse", block_bytes=lambda _: None, current=lambda x: x.data.device),
)
