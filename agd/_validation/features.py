"""Rows to predict for: in the coefficients' library, on their device, as wide as the data were."""

from __future__ import annotations

from typing import Any

from agd import backends
from agd._typing import Array
from agd._validation.arrays import as_array, as_floating, move_beside

__all__ = ["as_features"]


def as_features(X: Any, coef: Array) -> Array:
    """Bring rows to predict for to the coefficients' library, device and dtype; check their width."""
    if X is None:
        raise ValueError("X is missing: got None, need an array")
    sparse = backends.is_sparse(X)
    X = _beside(X, coef) if sparse else as_array("X", X)
    chunks = backends.of(X).chunked  # lazy rows beside coefficients in memory
    if not chunks and not sparse:
        X = move_beside(
            "X", X, coef, backends.namespace(coef), backends.device(coef), beside="coef"
        )
    if X.ndim < 2 or X.shape[-1] != coef.shape[-1]:
        raise ValueError(
            f"X must have {coef.shape[-1]} columns, as the data that were fitted, shape "
            f"(n, {coef.shape[-1]}); got shape {tuple(X.shape)}"
        )
    problems = tuple(coef.shape)[:-1]
    if X.ndim > 2 and problems and tuple(X.shape)[:-2] != problems:
        raise ValueError(
            f"X must have shape (n, {coef.shape[-1]}), or {(*problems, 'n', coef.shape[-1])} with rows of "
            f"its own for each problem; got shape {tuple(X.shape)}".replace("'n'", "n")
        )
    return X


def _beside(X: Any, coef: Array) -> Array:
    """Return a sparse matrix as products with the coefficients take it."""
    if len(X.shape) != 2:
        raise ValueError(
            f"a sparse X must have rows and columns, shape (n, p), got shape {X.shape}"
        )
    X = X if X.format in ("csr", "csc") else X.tocsr()
    xp, where = backends.namespace(coef), backends.device(coef)
    if backends.of(X.data) is not backends.of(coef) or backends.device(X) != where:
        raise TypeError(
            f"X is a sparse matrix of {backends.of(X).name} on {backends.device(X)} and coef a "
            f"{backends.of(coef).name} array on {where}: give both in one library, on one device"
        )
    X = as_floating("X", X, xp, where)
    return X if X.dtype == coef.dtype else X.astype(coef.dtype)
