"""Checks of what a user gives as data: arrays, the points of a line, and data frames.

An array needs a real dtype, and the library, device and dtype of the array that it stands beside. ``agd.data.checks``
builds on these what a fit and a prediction ask of X, y and the weights together; the doors read starting coefficients
by `as_start`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Batches, Namespace, Params
from agd._validation.scalars import as_count, as_real, invalid_values_text

__all__ = [
    "as_array",
    "as_floating",
    "as_line",
    "as_line_weights",
    "as_start",
    "check_columns",
    "has_unknown_length",
    "match_array",
]


def as_array(name: str, value: Any, *, text: bool = False) -> Array:
    """Take an array as it is, and a list, tuple or table through NumPy; refuse what is neither.

    Parameters
    ----------
    name : str
        What errors call the value.
    value : object
        What a user passed.
    text : bool
        Whether the columns of a frame may be of text.

    Returns
    -------
    array
        Of a library in the table, not yet of a dtype that is checked.
    """
    if isinstance(value, Batches):
        raise TypeError(f"{name} must be an array here, got a stream: go through its batches")
    if not backends.is_array(value):
        value = backends.unwrap(name, value, text=text)
    _check_kind(name, value)
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
        value = value.view(np.ndarray)  # np.matrix defines * as the matrix product
    if isinstance(value, np.ndarray):
        own_numbers: Array = backends.numbers_of_objects(value)
        return own_numbers
    if backends.is_array(value):
        _check_chunks(name, value)
        return value
    if isinstance(value, (str, bytes, dict, set)):
        raise TypeError(f"{name} must be an array of numbers, got {type(value).__name__}")
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name} must be rectangular: {str(error).splitlines()[0]}") from None
    if array.ndim == 0 and array.dtype == object:  # what NumPy could make no array of
        kind = type(value)
        raise TypeError(
            f"{name} must be an array of numbers, got {kind.__name__} of {kind.__module__}"
        )
    numbers: Array = backends.numbers_of_objects(array)
    return numbers


def _check_kind(name: str, value: Any) -> None:
    """Refuse arrays that are masked or sparse, that hold no values, or whose gradient is being recorded."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array: fill or drop the masked entries first "
            f"({name}.filled(...)), since agd would not see the mask"
        )
    if backends.has_no_values(value):
        library = type(value).__module__.partition(".")[0]
        raise TypeError(f"{name} is an array of {library}, which holds a graph and no values")
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


def _check_chunks(name: str, x: Array) -> None:
    """Refuse a lazy array whose chunks are masked or sparse, of which its own type says nothing."""
    row = backends.of(x)
    if not row.chunked:
        return
    chunk: Any = row.resident(x)
    kind = type(chunk).__name__
    if isinstance(chunk, np.ma.MaskedArray):
        raise TypeError(
            f"{name} has masked chunks: fill or drop the masked entries first (dask.array.ma.filled({name}, ...)), "
            f"since agd would not see the mask"
        )
    if hasattr(chunk, "tocsr") or hasattr(chunk, "todense"):
        dense = "todense" if hasattr(chunk, "to_scipy_sparse") else "toarray"
        raise TypeError(
            f"{name} has sparse chunks ({kind}), which are not taken: pass {name}.map_blocks(lambda chunk: "
            f"chunk.{dense}()), or one sparse matrix in memory"
        )


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
        return xp.astype(x, default)
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
        cast = xp.astype(array, like.dtype)
    on_host, lazy = isinstance(array, np.ndarray), backends.of(array).chunked
    if reference != "coef" and not on_host and not lazy and 0 not in array.shape:
        peak = float(backends.to_numpy(xp.max(xp.abs(array))))
        _check_underflow(name, peak, xp.finfo(like.dtype), like.dtype, reference)
    return cast


def _move_host_array(name: str, array: Any, like: Array, reference: str) -> Array:
    """Move a host array to a device and a dtype; values that overflow the dtype are an error."""
    row = backends.of(like)
    if has_unknown_length(like):
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
    return row.align_chunks(moved, like) if moved.shape[:1] == like.shape[:1] else moved


def has_unknown_length(X: Array) -> bool:
    """Return whether some axis of a lazy array has a length that is not computed yet."""
    return any(isinstance(n, float) and math.isnan(n) for n in X.shape)


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
    if zero is None or constant is None:
        return Params(coef, zero)
    return Params(coef, _start_part("intercept", constant, zero))


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
        If finite values are too large for the dtype, with their number and the first position; if all of them
        are too small for it.
    """
    with np.errstate(over="ignore", under="ignore"):
        host = x.astype(dtype)
    if host.dtype.itemsize >= x.dtype.itemsize or x.size == 0:
        return host
    if np.isfinite(host).all():
        _check_underflow(
            name, float(np.max(np.abs(x))), np.finfo(host.dtype), host.dtype, reference
        )
        return host
    overflows = np.argwhere(np.isinf(host) & np.isfinite(x))
    if len(overflows):
        first = tuple(int(i) for i in overflows[0])
        kind = f"values too large for {host.dtype}, the dtype of {reference}"
        raise ValueError(invalid_values_text(name, len(overflows), kind, first, float(x[first])))
    return host


def _check_underflow(name: str, peak: float, limits: Any, dtype: Any, reference: str) -> None:
    """Refuse numbers, by the largest of them in size, of which a narrower dtype would leave few digits or 0."""
    if 0.0 < peak < float(limits.smallest_normal):
        raise ValueError(
            f"{name} has values too small for {backends.dtype_name(dtype)}, the dtype of {reference}: the largest is "
            f"{peak!r} in size; multiply {name} by a constant, or give {reference} in a wider dtype"
        )


def as_line(x: Any, y: Any) -> tuple[Array, Array]:
    """Check the points of a line: two arrays of shape (m,), brought to one library and dtype."""
    for name, value in (("x", x), ("y", y)):
        if value is None:
            raise ValueError(f"{name} is missing: x and y are given together or not at all")
    x = as_array("x", x)
    xp, where = backends.namespace(x), backends.device(x)
    if x.ndim != 1:
        raise ValueError(f"x must have shape (m,), got {tuple(x.shape)}")
    x = as_floating("x", x, xp, where)
    y = match_array("y", y, x[:, None] if backends.of(x).chunked else x, reference="x")
    if y.ndim != 1 or (x.shape != y.shape and not (has_unknown_length(x) or has_unknown_length(y))):
        raise ValueError(f"y must have the shape of x, {tuple(x.shape)}, got {tuple(y.shape)}")
    if x.shape[0] == 0:
        raise ValueError("x must have at least one point, got none")
    for name, points in (("x", x), ("y", y)):
        host = backends.to_numpy(points)
        bad = np.flatnonzero(~np.isfinite(host))
        if bad.size:
            first = int(bad[0])
            raise ValueError(
                invalid_values_text(name, bad.size, "NaN or infinite", (first,), float(host[first]))
            )
    return x, y


def as_line_weights(weights: object, seed: object) -> dict[str, float]:
    """Check the initial weights of a line, or draw them from a standard normal on the host."""
    if weights is None:
        if seed is not None:
            as_count("seed", seed, least=0)
        w0, w1 = np.random.default_rng(seed).standard_normal(2).tolist()  # type: ignore[arg-type]
        return {"w0": w0, "w1": w1}
    if not isinstance(weights, Mapping) or set(weights) != {"w0", "w1"}:
        raise ValueError(f"weights must be a dict with keys 'w0' and 'w1', got {weights!r}")
    numbers = {
        name: as_real(f"weights[{name!r}]", weights[name], "a number") for name in ("w0", "w1")
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"weights[{name!r}] must be finite, got {value!r}")
    return numbers


# An error lists this many column names and gives the number of the others.
MAX_NAMES_IN_ERROR = 5


def check_columns(X: Any, fitted: list[str] | None) -> None:
    """Refuse a frame of other columns than those that were fitted, or in another order.

    Parameters
    ----------
    X : object
        Rows; an X without column names passes.
    fitted : list of str, or None
        The columns of the fit; None if they had no names.

    Raises
    ------
    ValueError
        If columns are missing, new, repeated or in another order; the message says which.
    """
    names = None if fitted is None else backends.column_names(X)
    if fitted is None or names is None or names == fitted:
        return
    need, got = set(fitted), set(names)
    faults = [
        f"{_list_names([name for name in names_a if name not in names_b])} {fault}"
        for names_a, names_b, fault in (
            (fitted, got, "missing"),
            (list(dict.fromkeys(names)), need, "not among them"),
        )
        if not names_b.issuperset(names_a)
    ]
    if faults:
        raise ValueError(f"X must have the columns that were fitted, got {' and '.join(faults)}")
    if len(names) != len(fitted):
        raise ValueError(
            f"X must have the {len(fitted)} columns that were fitted, once each, got {len(names)}"
        )
    at = next(i for i, (a, b) in enumerate(zip(names, fitted, strict=True)) if a != b)
    raise ValueError(
        f"X must have its columns in the order of the fit: column {at} must be {fitted[at]!r}, got "
        f"{names[at]!r}; pass X[feature_names] with those of the result"
    )


def _list_names(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:MAX_NAMES_IN_ERROR]))
    return (
        shown
        if len(names) <= MAX_NAMES_IN_ERROR
        else f"{shown} and {len(names) - MAX_NAMES_IN_ERROR} more"
    )
