"""Checks of X, y, sample weights and starting coefficients: one library, device and float dtype, and shapes.

The doors call `as_data` before a fit and `as_features` before a prediction; whether the values are finite
is left to ``screening``, which needs a pass over the data.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Batches, Namespace, Params
from agd._validation.frames import as_numbers
from agd._validation.scalars import invalid_values_text

__all__ = [
    "Data",
    "as_array",
    "as_data",
    "as_features",
    "as_floating",
    "as_start",
    "has_unknown_length",
    "match_array",
]


class Data(NamedTuple):
    """Checked data: one library, device and float dtype, y and weights with rows last.

    Attributes
    ----------
    X : array, shape (..., n, p), or Batches
    y : array, shape (..., n), or BatchColumn
        Several targets that share X, given as (n, k), are the k rows of (k, n) here.
    weight : array, shape (n,) or (..., n), or None
    """

    X: Array
    y: Array
    weight: Array | None


def as_data(X: Any, y: Any, sample_weight: Any = None) -> Data:
    """Bring X, y and weights to one library, device and dtype, X's, and check their shapes.

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
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(f"{name} comes with the batches of a stream: leave it out")
        return Data(X, X.y, X.weight)
    if sample_weight is None and _needs_no_conversion(X, y):
        return Data(X, y, None)
    for name, value in (("X", X), ("y", y)):
        if value is None:
            raise ValueError(f"{name} is missing: got None, need an array")
    X = _as_matrix(X)
    xp = backends.namespace(X)
    X = as_floating("X", X, xp, backends.device(X))
    _check_rows(X)
    like = backends.of(X).resident(X) if backends.is_sparse(X) else X
    y = _check_target(X, match_array("y", y, like), xp)
    if sample_weight is None:
        return Data(X, y, None)
    return Data(X, y, _check_weights(X, match_array("sample_weight", sample_weight, like)))


def _as_matrix(X: Any) -> Array:
    """Take X as `as_array` does, or a sparse matrix row by row."""
    if not backends.is_sparse(X):
        return as_array("X", X)
    if len(X.shape) != 2:
        raise ValueError(
            f"a sparse X must have rows and columns, shape (n, p), got shape {X.shape}"
        )
    return backends.as_csr("X", X)


def _needs_no_conversion(X: Any, y: Any) -> bool:
    """Return whether both are NumPy arrays in double precision with a target for each row."""
    if not (type(X) is np.ndarray is type(y) and X.dtype == y.dtype == np.float64):
        return False
    return X.ndim > 1 and X.shape[:-1] == y.shape and X.size > 0


def as_array(name: str, value: object) -> Array:
    """Take an array as it is, and a list, tuple or table through NumPy; refuse what is neither."""
    value = backends.frame_to_array(name, value)
    kind = type(value)
    if isinstance(value, Batches):
        raise TypeError(f"{name} must be an array here, got a stream: go through its batches")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array: fill or drop the masked entries first "
            f"({name}.filled(...)), since agd would not see the mask"
        )
    _check_kind(name, value)
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
        return value.view(np.ndarray)  # np.matrix defines * as the matrix product
    if backends.is_array(value):
        return value
    if isinstance(value, (str, bytes, dict, set)):
        raise TypeError(f"{name} must be an array of numbers, got {kind.__name__}")
    try:
        return as_numbers(value, np.asarray(value))
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name} must be rectangular: {str(error).splitlines()[0]}") from None


def _check_kind(name: str, value: Any) -> None:
    """Refuse arrays that are sparse, that hold no values, or whose gradient is being recorded."""
    if hasattr(value, "tocsr") or hasattr(value, "todense"):
        dense = "todense()" if hasattr(value, "to_scipy_sparse") else "toarray()"
        scipy = f"{name}.to_scipy_sparse() or " if dense == "todense()" and name == "X" else ""
        raise TypeError(f"{name} is sparse ({type(value).__name__}): pass {scipy}{name}.{dense}")
    layout = str(getattr(value, "layout", ""))
    if "sparse" in layout:
        raise TypeError(f"{name} is sparse ({layout}): pass {name}.to_dense()")
    if str(getattr(value, "device", "")) == "meta":
        raise ValueError(
            f"{name} is on the device 'meta', which holds no values: put it on another"
        )
    if getattr(value, "requires_grad", False):
        raise TypeError(f"{name} requires grad, which a fit would track: pass {name}.detach()")


def as_floating(name: str, x: Array, xp: Namespace, where: Any) -> Array:
    """Keep real floats, turn integers, booleans and half precision into the default float; refuse others."""
    x = as_native_order(x)
    kind = str(x.dtype)
    if isinstance(x, np.ndarray) and x.dtype.kind in "OUSMmV":
        raise TypeError(
            f"{name} must be numbers, got dtype {kind} (text, mixed types, or integers beyond 64 bits)"
        )
    if xp.isdtype(x.dtype, "complex floating"):
        raise TypeError(f"{name} must be real, got dtype {kind}")
    if xp.isdtype(x.dtype, ("integral", "bool")) or kind.endswith("float16"):
        # Sums over rows overflow or lose all digits in half precision, so it is widened like integers.
        default = backends.default_float(xp, where)
        return x.astype(default) if backends.is_sparse(x) else xp.astype(x, default)
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(f"{name} must be real numbers, got dtype {kind}")
    return x


def match_array(name: str, value: object, like: Array, reference: str = "X") -> Array:
    """Bring a value to the library, device and dtype of another array.

    Parameters
    ----------
    name : str
        What errors call the value.
    value : array_like
        An array of the same library and device, or data on the host, which alone are moved.
    like : array
        The other array.
    reference : str
        What errors call the other array.

    Returns
    -------
    array
        The value.

    Raises
    ------
    TypeError, ValueError
        For an array of another library or on another device, and for values that the dtype cannot hold.
    """
    xp, where = backends.namespace(like), backends.device(like)
    array = as_array(name, value)
    if isinstance(array, np.ndarray):
        array = as_floating(name, array, backends.namespace(array), "cpu")
        if not isinstance(like, np.ndarray):
            array = _move_host_array(name, array, like, reference)
        elif reference != "coef":  # rows to predict for may be infinite
            array = cast_checked(name, array, like.dtype, reference)
    else:
        theirs, ours = backends.of(array).name, backends.of(like).name
        if theirs != ours:
            raise TypeError(
                f"{name} is a {theirs} array and {reference} a {ours} array: give both in one library "
                f"(NumPy arrays and lists are moved to {reference}'s)"
            )
        if (device := backends.device(array)) != where:
            raise ValueError(
                f"{name} is on device {device} and {reference} on {where}: put both on one device"
            )
        array = as_floating(name, array, xp, where)
    if array.dtype == like.dtype:
        return array
    # An infinity that this cast makes is reported by the screening, as those that were given are.
    with np.errstate(over="ignore"):
        return xp.astype(array, like.dtype)


def _move_host_array(name: str, array: Any, like: Array, reference: str) -> Array:
    """Move a host array to a device and a dtype; values that overflow the dtype are an error."""
    row = backends.of(like)
    if row.chunked and has_unknown_length(like):
        raise ValueError(
            f"X has row chunks of unknown size, so {name} cannot be cut to match: give {name} as a "
            f"{row.name} array with the same chunks, or call X.compute_chunk_sizes()"
        )
    kind = backends.dtype_name(like.dtype)
    with np.errstate(over="ignore"):
        host = (
            array.astype(kind)
            if reference == "coef"
            else cast_checked(name, array, kind, reference)
        )
    moved = backends.to_device_of(host, like)
    if row.chunked and moved.shape[:1] == like.shape[:1]:
        moved = moved.rechunk((like.chunks[0], *moved.chunks[1:]))
    return moved


def has_unknown_length(X: Array) -> bool:
    """Return whether some axis of a lazy array has a length that is not computed yet."""
    return any(isinstance(n, float) and math.isnan(n) for n in X.shape)


def _check_rows(X: Array) -> None:
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


def _check_target(X: Array, y: Array, xp: Namespace) -> Array:
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


def _check_weights(X: Array, weight: Array) -> Array:
    """Check weights against X's rows: (n,), or one set for each problem of a batch."""
    if backends.of(X).chunked:
        return _check_chunked_vector("sample_weight", X, weight)
    rows = tuple(X.shape)[:-1]
    if tuple(weight.shape) not in {rows, rows[-1:]}:
        raise ValueError(
            f"sample_weight must have shape {rows[-1:]}, one weight for each row of X, "
            f"got {tuple(weight.shape)}"
        )
    return weight


def _check_chunked_vector(name: str, X: Array, y: Array) -> Array:
    """Check y or weights against a chunked X, and cut them as X is cut."""
    if y.ndim != 1:
        raise ValueError(f"{name} must have shape (n,) beside a chunked X, got {y.ndim} dimensions")
    if has_unknown_length(X) or has_unknown_length(y):
        if len(X.chunks[0]) != len(y.chunks[0]):
            raise ValueError(
                f"X has {len(X.chunks[0])} row chunks of unknown size and {name} has "
                f"{len(y.chunks[0])}: they must be cut alike"
            )
        return y
    if y.shape[0] != X.shape[0]:
        raise ValueError(
            f"{name} must have shape ({X.shape[0]},), one for each row of X, got {tuple(y.shape)}"
        )
    return y.rechunk((X.chunks[0],))


def as_start(init: Any, like: Params, intercept: bool) -> Params | None:
    """Read a first point: an earlier result, (coef, intercept) or coef, in the shape of `like`."""
    if init is None:
        return None
    if hasattr(init, "coef"):
        init = (init.coef, init.intercept)
    if isinstance(init, tuple) and len(init) != 2:
        raise ValueError(f"init must be coef or (coef, intercept), got a tuple of {len(init)}")
    coef, constant = init if isinstance(init, tuple) else (init, None)
    coef = _start_part("coef", coef, like.coef)
    if not intercept:
        return Params(coef, None)
    zero = like.intercept
    return Params(coef, zero if constant is None else _start_part("intercept", constant, zero))


def _start_part(name: str, value: object, like: Array) -> Array:
    array = as_array(f"init's {name}", value)
    moved = match_array(f"init's {name}", array, like)
    if tuple(moved.shape) != tuple(like.shape):
        raise ValueError(
            f"init's {name} must have shape {tuple(like.shape)}, got {tuple(moved.shape)}"
        )
    # Host values are checked at no cost; on a device the first evaluation of the run reports them.
    if isinstance(array, np.ndarray):
        with np.errstate(over="ignore"):
            host = array.astype(backends.dtype_name(like.dtype))
        bad = np.argwhere(~np.isfinite(host))
        if len(bad):
            first = tuple(bad[0].tolist())
            raise ValueError(
                invalid_values_text(
                    f"init's {name}", len(bad), "NaN or infinite", first, float(host[first])
                )
            )
    return moved


def as_features(X: Any, coef: Array) -> Array:
    """Bring rows to predict for to the coefficients' library, device and dtype; check their width."""
    if X is None:
        raise ValueError("X is missing: got None, need an array")
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
    problems = tuple(coef.shape)[:-1]
    if X.ndim > 2 and problems and tuple(X.shape)[:-2] != problems:
        raise ValueError(
            f"X must have shape (n, {coef.shape[-1]}), or {(*problems, 'n', coef.shape[-1])} with rows of "
            f"its own for each problem; got shape {tuple(X.shape)}".replace("'n'", "n")
        )
    return X


def _sparse_features(X: Any, coef: Array) -> Array:
    """Return a sparse matrix in a format, library and dtype in which it can multiply the coefficients."""
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


def as_native_order(x: Any) -> Any:
    """Return an array or sparse matrix in the machine's byte order, copied only if it is in another.

    NumPy's functions give up where a result would have to be written in the other order.
    """
    dtype = x.dtype
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return x.astype(dtype.newbyteorder("="))
    return x


def cast_checked(name: str, x: Any, dtype: Any, reference: str) -> Any:
    """Cast a NumPy array; finite numbers that the dtype cannot hold are an error.

    Parameters
    ----------
    name : str
        What errors call the array.
    x : numpy.ndarray
        Numbers.
    dtype : dtype
        That of the array `reference`.
    reference : str
        What errors call the other array.

    Returns
    -------
    numpy.ndarray
        The numbers; those that were infinite before stay so.

    Raises
    ------
    ValueError
        If finite values are too large for the dtype; with their number and the first position.
    """
    with np.errstate(over="ignore"):
        host = x.astype(dtype)
    if host.dtype.itemsize >= x.dtype.itemsize or np.isfinite(host).all():
        return host
    overflows = np.argwhere(np.isinf(host) & np.isfinite(x))
    if len(overflows):
        first = tuple(int(i) for i in overflows[0])
        kind = f"values too large for {host.dtype}, the dtype of {reference}"
        raise ValueError(invalid_values_text(name, len(overflows), kind, first, float(x[first])))
    return host
