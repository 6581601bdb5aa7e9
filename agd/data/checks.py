"""Checks of X, y and the weights together: one library, device and float dtype, and shapes that fit.

`agd.data.as_data` calls `check_arrays` before a fit, a stream does so for each of its batches, and a result calls
`as_features` before a prediction. Whether the values are finite is left to ``screening``, which needs a pass over
the data.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Batches, Loss, Matrix, Namespace, NativeArray
from agd._validation import invalid_values_text
from agd._validation.arrays import as_array, as_floating, has_unknown_length, match_array
from agd.loss.base import pair_offset

__all__ = [
    "CheckedArrays",
    "add_offset",
    "as_features",
    "as_offset",
    "as_shares",
    "check_arrays",
    "encode_labels",
    "log_exposure",
]


class CheckedArrays(NamedTuple):
    """Checked data: one library, device and float dtype, y and weights with rows last.

    Attributes
    ----------
    X : array, shape (..., n, p), or Batches
    y : array, shape (..., n), or BatchColumn
        Several targets that share X, given as (n, k), are the k rows of (k, n) here. With offsets these are
        the pairs of `agd.loss.base.pair_offset`.
    weight : array, shape (n,) or (..., n), or None
    """

    X: Any
    y: Any
    weight: Any


def check_arrays(X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> CheckedArrays:
    """Bring X, y, weights and offsets to one library, device and dtype, X's, and check their shapes.

    Python sequences and NumPy arrays beside an X elsewhere are moved to it, once; an array of a third
    library, or on another device, is an error rather than a silent copy.

    Raises
    ------
    TypeError
        For strings, complex or object data, masked arrays, a sparse y or weights, a sparse X of another
        library than SciPy or CuPy, and arrays of two libraries.
    ValueError
        For shapes that do not fit, and for two devices.
    """
    if isinstance(X, Batches):
        for name, value in (("y", y), ("sample_weight", sample_weight), ("offset", offset)):
            if value is not None:
                raise ValueError(f"{name} comes with the batches of a stream: leave it out")
        return CheckedArrays(X, X.y, X.weight)
    if sample_weight is None and offset is None and _needs_no_conversion(X, y):
        return CheckedArrays(X, y, None)
    for name, value in (("X", X), ("y", y)):
        if value is None:
            raise ValueError(f"{name} is missing: got None, need an array")
    X = _as_matrix(X)
    xp = backends.namespace(X)
    X = as_floating("X", X, xp, backends.device(X))
    _check_rows(X)
    like = backends.of(X).resident(X) if backends.is_sparse(X) else X
    y = _check_target(X, match_array("y", y, like), xp)
    weight = None
    if sample_weight is not None:
        weight = _check_weights(X, y, match_array("sample_weight", sample_weight, like))
        if weight.ndim > 1:
            y = _fill_missing(y, weight)
    if offset is not None:
        y = _with_offset(X, y, match_array("offset", offset, like))
    return CheckedArrays(X, y, weight)


def _as_matrix(X: Any) -> Matrix:
    """Take X as `as_array` does, or a sparse matrix row by row."""
    X = backends.as_scipy(X)
    if not backends.is_sparse(X):
        return as_array("X", X)
    if len(X.shape) != 2:
        raise ValueError(
            f"a sparse X must have rows and columns, shape (n, p), got shape {X.shape}"
        )
    return backends.as_csr("X", X)


def _as_floating_matrix(X: Matrix, xp: Namespace, where: Any) -> Matrix:
    """Return X in a real floating dtype, as `as_floating`; of a sparse matrix the entries have one."""
    if not backends.is_sparse(X):
        return as_floating("X", X, xp, where)
    stored = as_floating("X", X.data, xp, where)
    return X if stored is X.data else X.astype(stored.dtype)


def _needs_no_conversion(X: Any, y: Any) -> bool:
    """Return whether both are NumPy arrays in double precision with a target for each row."""
    if not (type(X) is np.ndarray is type(y) and X.dtype == y.dtype == np.float64):
        return False
    return X.ndim > 1 and X.shape[:-1] == y.shape and X.size > 0


def _check_rows(X: Matrix) -> None:
    shape = tuple(X.shape)
    if X.ndim < 2:
        raise ValueError(
            f"X must have rows and columns, shape (n, p), got shape {shape}; "
            f"for one column pass X[:, None], for one row X[None, :]"
        )
    if 0 in shape[:-2]:
        raise ValueError(f"X must have at least one problem on its leading axes, got shape {shape}")
    if shape[-2] == 0:
        raise ValueError(f"X must have at least one row, got shape {shape}")
    if shape[-1] == 0:
        raise ValueError(f"X must have at least one column, got shape {shape}")
    if backends.of(X).chunked and X.ndim != 2:
        raise ValueError(f"a chunked X must have shape (n, p), got shape {shape}")


def _check_target(X: Matrix, y: Array, xp: Namespace) -> Array:
    """Check y against X's rows; several targets (n, k) beside a shared X become rows (k, n)."""
    rows, shape = tuple(X.shape)[:-1], tuple(y.shape)
    if backends.of(X).chunked:
        return _check_chunked_vector("y", X, y)
    if X.ndim == 2 and y.ndim == 2 and shape[0] == rows[0] and shape[1] > 0:
        return xp.matrix_transpose(y)
    if shape != rows:
        several = " or (n, k) for k targets" if X.ndim == 2 else ""
        raise ValueError(
            f"y must have shape {rows}{several}, one value for each row of X {tuple(X.shape)}, "
            f"got shape {shape}"
        )
    return y


def _check_weights(X: Matrix, y: Array, weight: Array) -> Array:
    """Check weights against X's rows: (n,), one set for each problem of a batch, or (n, k) of k targets."""
    if backends.of(X).chunked:
        return _check_chunked_vector("sample_weight", X, weight)
    rows, shape = tuple(X.shape)[:-1], tuple(weight.shape)
    several = y.ndim > len(rows)
    if several and shape == tuple(y.shape)[::-1]:
        return backends.namespace(weight).matrix_transpose(weight)
    if shape not in {rows, rows[-1:]}:
        more = f", or {tuple(y.shape)[::-1]}" if several else ""
        raise ValueError(
            f"sample_weight must have shape {rows[-1:]}{more}, one weight for each row of X, got {shape}"
        )
    return weight


def _fill_missing(y: Array, weight: Array) -> Array:
    """Return targets with those that are NaN and weigh nothing replaced by another of their problem, which counts."""
    xp = backends.namespace(y)
    counted = xp.where(weight > 0.0, y, xp.zeros_like(y) - math.inf)
    largest = xp.max(counted, axis=-1, keepdims=True)
    return xp.where((weight == 0.0) & xp.isnan(y), largest + xp.zeros_like(y), y)


def _with_offset(X: Matrix, y: Array, offset: Array) -> Array:
    """Check offsets against X's rows, and pair the targets with them."""
    xp, rows = backends.namespace(X), tuple(X.shape)[:-1]
    if backends.of(X).chunked:
        offset = _check_chunked_vector("offset", X, offset)
    elif y.ndim > len(rows) and offset.ndim == y.ndim:
        offset = xp.matrix_transpose(offset)  # of several targets, given as (n, k)
    shape = tuple(offset.shape)
    if not backends.of(X).chunked and shape not in {tuple(y.shape), rows[-1:]}:
        several = f", or {tuple(y.shape)[::-1]}" if y.ndim > len(rows) else ""
        raise ValueError(
            f"offset must have shape {rows}{several}, one for each row of X, got {shape[::-1] if several else shape}"
        )
    _refuse_where("offset", "NaN or infinite", offset, xp.logical_not(xp.isfinite(offset)))
    paired: Array = pair_offset(y, offset + xp.zeros_like(y))
    return paired


def _refuse_where(name: str, kind: str, x: Array, invalid: Array) -> None:
    """Raise for entries that are invalid, with their number and the first of them: one read if there is none."""
    if not backends.to_numpy(backends.namespace(x).any(invalid)):
        return
    position = np.argwhere(backends.to_numpy(invalid))
    first = tuple(int(i) for i in position[0])
    value = float(backends.to_numpy(x)[first])
    raise ValueError(invalid_values_text(name, len(position), kind, first, value))


def as_offset(loss: Loss, offset: Any, exposure: Any) -> Any:
    """Return the offset of the predictor: the one that is given, or the logarithm of an exposure; None for neither.

    Parameters
    ----------
    loss : Loss
        An exposure needs one with the log link, and an offset one with a single output.
    offset, exposure : array, shape (n,), or None
        One of them at most.

    Raises
    ------
    ValueError
        For both at once, a loss that they do not suit, and exposures that are not above 0 and finite.
    """
    if offset is None and exposure is None:
        return None
    name = "offset" if exposure is None else "exposure"
    if loss.outputs is not None:
        raise ValueError(
            f"{name} must be None for loss {loss.name!r}: one number for each row would move all outputs alike"
        )
    if exposure is None:
        return offset
    if offset is not None:
        raise ValueError("offset and exposure are given: add log(exposure) to the offset")
    if not loss.log_link:
        raise ValueError(
            f"exposure must be None for loss {loss.name!r}, whose link is not the logarithm: give an offset"
        )
    return log_exposure(exposure)


def log_exposure(exposure: Any) -> Array:
    """Return the logarithm of exposures; raise ValueError for those that are not above 0 and finite."""
    x = as_array("exposure", exposure)
    xp = backends.namespace(x)
    x = as_floating("exposure", x, xp, backends.device(x))
    valid = xp.isfinite(x) & (x > 0.0)
    _refuse_where("exposure", "values that are not above 0 and finite", x, xp.logical_not(valid))
    logarithm: Array = xp.log(x)
    return logarithm


def add_offset(z: Array, offset: Any, *, several: bool) -> Array:
    """Return a predictor (..., n), or (n, k) of several targets, with the offsets of its rows added."""
    moved = match_array("offset", offset, z, reference="the predictor")
    shape, rows = tuple(moved.shape), tuple(z.shape)[0 if several else -1]
    if shape not in {(rows,), tuple(z.shape)} and not has_unknown_length(z):
        raise ValueError(f"offset must have shape ({rows},), one for each row of X, got {shape}")
    return z + (moved[:, None] if several and moved.ndim == 1 else moved)


def _check_chunked_vector(name: str, X: Array, y: Array) -> Array:
    """Check y or weights against a chunked X, and cut them as X is cut."""
    if y.ndim != 1:
        raise ValueError(f"{name} must have shape (n,) beside a chunked X, got {y.ndim} dimensions")
    if has_unknown_length(X) or has_unknown_length(y):
        counts = [_row_chunk_count(part) for part in (X, y)]
        if counts[0] != counts[1]:
            raise ValueError(
                f"X has {counts[0]} row chunks of unknown size and {name} has {counts[1]}: they must be cut alike"
            )
        return y
    if y.shape[0] != X.shape[0]:
        raise ValueError(
            f"{name} must have shape ({X.shape[0]},), one for each row of X, got {tuple(y.shape)}"
        )
    return backends.of(X).align_chunks(y, X)


def _row_chunk_count(x: NativeArray) -> int:
    return len(x.chunks[0])


def encode_labels(y: Any) -> tuple[Any, tuple[Any, ...] | None, str | None]:
    """Return labels that are text or booleans as numbers from 0, the labels that these stand for, and their dtype.

    Parameters
    ----------
    y : array_like
        The targets of a loss of classes.

    Returns
    -------
    y : array_like
        Numbers; the y that was given where it is not text.
    labels : tuple of str or bool, or None
        The labels, ascending; None for a y of numbers, or of other objects, which are refused elsewhere.
    dtype : str or None
        The dtype of labels that are integers, in which the classes are predicted.

    Examples
    --------
    >>> encode_labels(["no", "yes", "no"])
    (array([0., 1., 0.]), ('no', 'yes'), None)
    """
    if y is None:
        return y, None, None
    if type(y) is np.ndarray and y.dtype.kind in "fiu":
        return y, None, None if y.dtype.kind == "f" else y.dtype.name
    y = as_array("y", y, text=True)
    kind = backends.dtype_name(y.dtype)
    if kind == "bool":
        return y, (False, True), None
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "OUT":
        return y, None, kind if "int" in kind else None
    if y.dtype.kind == "O" and not all(isinstance(label, str) for label in y.flat):
        return y, None, None
    labels, positions = np.unique(y, return_inverse=True)
    return positions.reshape(y.shape).astype(float), tuple(map(str, labels)), None


def as_shares(loss: Loss, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Return shares of successes and weights for a y of counts, where the loss takes such; else y and weights.

    Parameters
    ----------
    loss : Loss
        It says whether y has counts.
    X, y, sample_weight : object
        What a user gives: y of successes and failures on its last axis.

    Raises
    ------
    ValueError
        For a stream, counts that are no pairs, and those that are negative or not finite.
    """
    if not loss.counts or y is None:
        if loss.counts and isinstance(X, Batches):
            raise ValueError(
                f"loss must have counts=False beside a stream, got {loss!r}: let its batches have shares, and the "
                f"numbers of trials as weights"
            )
        return y, sample_weight
    y = as_array("y", y)
    xp = backends.namespace(y)
    y = as_floating("y", y, xp, backends.device(y))
    if y.ndim < 2 or y.shape[-1] != 2:
        raise ValueError(
            f"y must have shape (n, 2), successes and failures, for loss {loss!r}, got {tuple(y.shape)}"
        )
    valid = xp.isfinite(y) & (y >= 0.0)
    _refuse_where("y", "values that are no counts", y, xp.logical_not(valid))
    trials = xp.sum(y, axis=-1)
    shares = y[..., 0] / xp.where(trials > 0.0, trials, xp.ones_like(trials))
    if sample_weight is None:
        return shares, trials
    return shares, trials * match_array("sample_weight", sample_weight, trials, reference="y")


def as_features(X: Any, coef: Array, *, outputs: bool = False, several: bool = False) -> Matrix:
    """Bring rows to predict for to the coefficients' library, device and dtype; check their shape.

    Parameters
    ----------
    X : object
        The rows.
    coef : array, shape (..., p)
        The coefficients.
    outputs : bool
        Whether the last axis of `coef` but one is the outputs of the loss.
    several : bool
        Whether the first axis of `coef` is several targets, which share their rows, and not a batch.
    """
    if X is None:
        raise ValueError("X is missing: got None, need an array")
    X = backends.as_scipy(X)
    sparse = backends.is_sparse(X)
    X = _sparse_features(X, coef) if sparse else as_array("X", X)
    # Lazy rows stay where they are: their chunks are multiplied by coefficients in memory.
    if not backends.of(X).chunked and not sparse:
        X = match_array("X", X, coef, reference="coef")
    if X.ndim < 2 or X.shape[-1] != coef.shape[-1]:
        raise ValueError(
            f"X must have {coef.shape[-1]} columns, as the data that were fitted, shape "
            f"(n, {coef.shape[-1]}); got shape {tuple(X.shape)}"
        )
    if several and X.ndim != 2:
        raise ValueError(
            f"X must have shape (n, {coef.shape[-1]}), since the targets share their rows; got shape "
            f"{tuple(X.shape)}"
        )
    problems = tuple(coef.shape)[: -2 if outputs else -1]
    if X.ndim > 2 and problems and tuple(X.shape)[:-2] != problems:
        raise ValueError(
            f"X must have shape (n, {coef.shape[-1]}), or {(*problems, 'n', coef.shape[-1])} with rows of "
            f"its own for each problem; got shape {tuple(X.shape)}".replace("'n'", "n")
        )
    return X


def _sparse_features(X: Any, coef: Array) -> Matrix:
    """Return a sparse matrix in a format, library and dtype in which it can multiply the coefficients."""
    if len(X.shape) != 2:
        raise ValueError(
            f"a sparse X must have rows and columns, shape (n, p), got shape {X.shape}"
        )
    backends.check_structure("X", X)
    X = X if X.format in ("csr", "csc") else X.tocsr()
    xp, where = backends.namespace(coef), backends.device(coef)
    if backends.of(X.data) is not backends.of(coef) or backends.device(X) != where:
        raise TypeError(
            f"X is a sparse matrix of {backends.of(X).name} on {backends.device(X)} and coef a "
            f"{backends.of(coef).name} array on {where}: give both in one library, on one device"
        )
    X = _as_floating_matrix(X, xp, where)
    return X if X.dtype == coef.dtype else X.astype(coef.dtype)
