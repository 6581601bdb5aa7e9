"""Shapes, dtypes, one library, one device, finite values: the checks, and the text of every error.

Each error names the argument, what came, and what was needed. Nothing here copies data to the host;
what only the values can tell is counted on the device and read in one transfer (``agd.linear``).
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Namespace, Params

__all__ = [
    "ConvergenceWarning",
    "Data",
    "as_data",
    "as_features",
    "as_line",
    "as_line_weights",
    "as_start",
    "choice",
    "count",
    "not_negative",
    "positive",
    "values",
    "warn_unconverged",
]


class ConvergenceWarning(UserWarning):
    """A run ended before it converged; the message says why and what to do next."""


def _real(name: str, value: object, need: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {need}, got {value!r} ({type(value).__name__})")
    return float(value)


def positive(name: str, value: object) -> float:
    """Return `value` as a float, or say why it is no finite number above 0."""
    number = _real(name, value, "a number above 0")
    if not (number > 0.0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return number


def not_negative(name: str, value: object) -> float:
    """Return `value` as a float, or say why it is no finite number of 0 or more."""
    number = _real(name, value, "a number of 0 or more")
    if not (number >= 0.0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number of 0 or more, got {value!r}")
    return number


def count(name: str, value: object, least: int = 1) -> int:
    """Return `value` as an int, or say why it is no whole number of `least` or more."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """Return `value` if it is among `known`, or name the nearest that is."""
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}{hint}")


class Data(NamedTuple):
    """Checked data: one library, device and float dtype, y and weights with rows last.

    Attributes
    ----------
    X : array, shape (..., n, p)
    y : array, shape (..., n)
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
        For strings, complex or object data, sparse or masked arrays, and arrays of two libraries.
    ValueError
        For shapes that do not fit, and for two devices.
    """
    for name, value in (("X", X), ("y", y)):
        if value is None:
            raise ValueError(f"{name} is missing: got None, need an array")
    X = _as_array("X", X)
    xp, where = backends.namespace(X), backends.device(X)
    X = _floating("X", X, xp, where)
    _check_rows(X)
    y = _beside("y", y, X, xp, where)
    y = _target(X, y, xp)
    weight = None
    if sample_weight is not None:
        weight = _beside("sample_weight", sample_weight, X, xp, where)
        if tuple(weight.shape) not in {tuple(y.shape), (X.shape[-2],)} and not _unknown(X):
            raise ValueError(
                f"sample_weight must have shape {(X.shape[-2],)}, one weight for each row of X, "
                f"got {tuple(weight.shape)}"
            )
    return Data(X, y, weight)


def _as_array(name: str, value: object) -> Array:
    """Take an array as it is, and a list, tuple or table through NumPy; refuse what is neither."""
    kind = type(value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array: fill or drop the masked entries first "
            f"({name}.filled(...)), since agd would not see the mask"
        )
    if hasattr(value, "tocsr"):
        raise TypeError(f"{name} is sparse ({kind.__name__}): pass {name}.toarray()")
    if getattr(value, "requires_grad", False):
        raise TypeError(f"{name} requires grad, which a fit would track: pass {name}.detach()")
    if backends.is_array(value):
        return value
    if isinstance(value, (str, bytes, dict, set)):
        raise TypeError(f"{name} must be an array of numbers, got {kind.__name__}")
    try:
        return np.asarray(value)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name} must be rectangular: {str(error).splitlines()[0]}") from None


def _floating(name: str, x: Array, xp: Namespace, where: Any) -> Array:
    """Keep real floats, turn integers and booleans into the default float, refuse the rest."""
    kind = str(x.dtype)
    if isinstance(x, np.ndarray) and x.dtype.kind in "OUSMmV":
        raise TypeError(
            f"{name} must be numbers, got dtype {kind} (text, mixed types, or integers beyond 64 bits)"
        )
    if xp.isdtype(x.dtype, "complex floating"):
        raise TypeError(f"{name} must be real, got dtype {kind}")
    if xp.isdtype(x.dtype, ("integral", "bool")) or kind.endswith("float16"):
        # Half precision cannot hold a sum over rows: it is widened, as integers are.
        return xp.astype(x, backends.default_float(xp, where))
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(f"{name} must be real numbers, got dtype {kind}")
    return x


def _beside(
    name: str, value: object, X: Array, xp: Namespace, where: Any, beside: str = "X"
) -> Array:
    """Bring `value` to X's library, device and dtype, as far as that is no silent copy."""
    found = _as_array(name, value)
    if isinstance(found, np.ndarray):
        found = _floating(name, found, backends.namespace(found), "cpu")
        if not isinstance(X, np.ndarray):
            found = _move(name, found, X, xp, where)
    else:
        theirs, ours = backends.of(found).name, backends.of(X).name
        if theirs != ours:
            raise TypeError(
                f"{name} is a {theirs} array and {beside} a {ours} array: give both in one library "
                f"(NumPy arrays and lists are moved to {beside}'s)"
            )
        if (there := backends.device(found)) != where:
            raise ValueError(
                f"{name} is on device {there} and {beside} on {where}: put both on one device"
            )
        found = _floating(name, found, xp, where)
    if found.dtype == X.dtype:
        return found
    with np.errstate(over="ignore"):  # an infinity made here is found with those that came
        return xp.astype(found, X.dtype)


def _move(name: str, found: Any, X: Array, xp: Namespace, where: Any) -> Array:
    """Move host data beside X, in X's dtype; what overflows it is an error, not an infinity."""
    row = backends.of(X)
    if row.chunked and _unknown(X):
        raise ValueError(
            f"X has row chunks of unknown size, so {name} cannot be cut to match: give {name} as a "
            f"{row.name} array with the same chunks, or call X.compute_chunk_sizes()"
        )
    with np.errstate(over="ignore"):  # an infinity made here is found with those that came
        host = found.astype(str(X.dtype).rpartition(".")[2])
    moved = row.convert(xp, host, None, where)
    return moved.rechunk((X.chunks[0], *moved.chunks[1:])) if row.chunked else moved


def _unknown(X: Array) -> bool:
    return any(isinstance(n, float) and math.isnan(n) for n in X.shape)


def _check_rows(X: Array) -> None:
    shape = tuple(X.shape)
    if X.ndim < 2:
        raise ValueError(
            f"X must have rows and columns, shape (n, p), got shape {shape}; "
            f"for one column pass X[:, None], for one row X[None, :]"
        )
    if shape[-2] == 0:
        raise ValueError(f"X must have at least one row, got shape {shape}")
    if shape[-1] == 0:
        raise ValueError(f"X must have at least one column, got shape {shape}")
    if backends.of(X).chunked and X.ndim != 2:
        raise ValueError(f"a chunked X must have shape (n, p), got shape {shape}")


def _target(X: Array, y: Array, xp: Namespace) -> Array:
    """Check y against X's rows; several targets (n, k) beside a shared X become rows (k, n)."""
    rows, shape = tuple(X.shape)[:-1], tuple(y.shape)
    if backends.of(X).chunked:
        return _chunked_target(X, y)
    if X.ndim == 2 and y.ndim == 2 and shape[0] == rows[0] and shape[1] > 0:
        return xp.matrix_transpose(y)
    if shape != rows:
        several = " or (n, k) for k targets" if X.ndim == 2 else ""
        raise ValueError(
            f"y must have shape {rows}{several}, one value for each row of X {tuple(X.shape)}, "
            f"got shape {shape}"
        )
    return y


def _chunked_target(X: Array, y: Array) -> Array:
    if y.ndim != 1:
        raise ValueError(f"y must have shape (n,) beside a chunked X, got {y.ndim} dimensions")
    if _unknown(X) or _unknown(y):
        if len(X.chunks[0]) != len(y.chunks[0]):
            raise ValueError(
                f"X has {len(X.chunks[0])} row chunks of unknown size and y has "
                f"{len(y.chunks[0])}: they must be cut alike"
            )
        return y
    if y.shape[0] != X.shape[0]:
        raise ValueError(f"y must have shape ({X.shape[0]},), one for each row of X, got {y.shape}")
    return y.rechunk((X.chunks[0],))


def as_features(X: Any, coef: Array) -> Array:
    """Bring rows to predict for to the coefficients' library, device and dtype; check their width."""
    X = _as_array("X", X)
    chunks = backends.of(X).chunked  # lazy rows beside coefficients in memory
    if not chunks:
        X = _beside("X", X, coef, backends.namespace(coef), backends.device(coef), beside="coef")
    if X.ndim < 2 or X.shape[-1] != coef.shape[-1]:
        raise ValueError(
            f"X must have {coef.shape[-1]} columns, as the data that were fitted, shape "
            f"(n, {coef.shape[-1]}); got shape {tuple(X.shape)}"
        )
    return X


def as_start(init: Any, like: Params, intercept: bool) -> Params | None:
    """Read a first point: an earlier result, (coef, intercept) or coef, in the shape of `like`."""
    if init is None:
        return None
    if hasattr(init, "coef"):
        init = (init.coef, init.intercept)
    coef, constant = init if isinstance(init, tuple) else (init, None)
    coef = _part("coef", coef, like.coef)
    if not intercept:
        return Params(coef, None)
    zero = like.intercept
    return Params(coef, zero if constant is None else _part("intercept", constant, zero))


def _part(name: str, value: object, like: Array) -> Array:
    xp, where = backends.namespace(like), backends.device(like)
    found = _beside(f"init's {name}", value, like, xp, where)
    if tuple(found.shape) != tuple(like.shape):
        raise ValueError(
            f"init's {name} must have shape {tuple(like.shape)}, got {tuple(found.shape)}"
        )
    return found


def as_line(x: Any, y: Any) -> tuple[Array, Array]:
    """Check the points of a line: two arrays of shape (m,), brought to one library and dtype."""
    for name, value in (("x", x), ("y", y)):
        if value is None:
            raise ValueError(f"{name} is missing: x and y are given together or not at all")
    x = _as_array("x", x)
    xp, where = backends.namespace(x), backends.device(x)
    if x.ndim != 1:
        raise ValueError(f"x must have shape (m,), got {tuple(x.shape)}")
    x = _floating("x", x, xp, where)
    y = _beside("y", y, x[:, None] if backends.of(x).chunked else x, xp, where, beside="x")
    if y.ndim != 1 or (x.shape != y.shape and not (_unknown(x) or _unknown(y))):
        raise ValueError(f"y must have the shape of x, {tuple(x.shape)}, got {tuple(y.shape)}")
    if x.shape[0] == 0:
        raise ValueError("x must have at least one point, got none")
    for name, points in (("x", x), ("y", y)):
        host = backends.to_numpy(points)
        bad = np.flatnonzero(~np.isfinite(host))
        if bad.size:
            first = int(bad[0])
            raise ValueError(
                values(name, bad.size, "NaN or infinite", (first,), float(host[first]))
            )
    return x, y


def as_line_weights(weights: object, seed: object) -> dict[str, float]:
    """Check the first weights of a line, or draw them from a standard normal on the host."""
    if weights is None:
        if seed is not None:
            count("seed", seed, least=0)
        w0, w1 = np.random.default_rng(seed).standard_normal(2).tolist()  # type: ignore[arg-type]
        return {"w0": w0, "w1": w1}
    if not isinstance(weights, Mapping) or set(weights) != {"w0", "w1"}:
        raise ValueError(f"weights must be a dict with keys 'w0' and 'w1', got {weights!r}")
    found = {name: _real(f"weights[{name!r}]", weights[name], "a number") for name in ("w0", "w1")}
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"weights[{name!r}] must be finite, got {value!r}")
    return found


def values(name: str, bad: int, kind: str, first: tuple[int, ...], value: float) -> str:
    """Word the error for values that may not stand in `name`: how many, and the first position."""
    what = "value" if bad == 1 else "values"
    place = f"{name}[{', '.join(map(str, first))}]"
    return f"{name} has {bad} {kind} {what}, the first at {place} = {value!r}"


def warn_unconverged(message: str) -> None:
    """Warn the caller of the door, not the door, that a run did not converge."""
    warnings.warn(message, ConvergenceWarning, stacklevel=3)
