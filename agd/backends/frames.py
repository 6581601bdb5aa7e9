"""What stands around arrays: frames of named columns, labelled arrays, and arrays that only exchange their memory.

`unwrap` gives the array inside, of a library that computes, before anything else looks at what a user passes. No
library is imported for it: an object is known by the attributes that such objects share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["column_names", "has_no_values", "numbers_of_objects", "unwrap"]

# An error lists so many columns, and gives the number of the others.
MAX_NAMES_IN_ERROR = 5

# Arrays that follow the Array API and are programs to be exported, with nothing to compute a fit from.
LIBRARIES_WITHOUT_VALUES = ("ndonnx",)

# DLPack's numbers for memory that the host reads: of its own, and pinned for CUDA and for ROCm.
HOST_MEMORY = (1, 3, 11)


def unwrap(name: str, value: Any, *, text: bool = False) -> Any:
    """Return the array inside a frame, a labelled array or an array that only exchanges its memory.

    Parameters
    ----------
    name : str
        What an error calls the value.
    value : object
        Anything else is returned unchanged.
    text : bool
        Whether the columns may be of text.

    Returns
    -------
    object
        Of a frame in memory a NumPy array, of float64 where it has columns of several types or of integers; of a
        Dask frame a lazy array with a chunk for each partition; of a labelled array the array that it holds.

    Raises
    ------
    TypeError
        For columns that are no numbers, all of which are named; for a lazy frame, and for an array whose memory
        is on a device from which no library takes it.
    """
    if hasattr(value, "to_dask_array"):
        return _lazy_frame_to_array(name, value)
    if hasattr(value, "collect") and hasattr(value, "collect_schema"):
        raise TypeError(
            f"{name} is a {_type_in_words(value)}, which holds a query and no rows: pass {name}.collect()"
        )
    if hasattr(value, "data_vars"):
        value = value.to_dataframe()[list(value.data_vars)]
    elif hasattr(value, "dims") and hasattr(value, "coords"):
        return value.data
    if _has_uniform_floats(value):
        return np.asarray(value)
    columns = _named_columns(value)
    if columns is not None:
        return _frame_to_numpy(name, columns, len(value), text=text)
    if hasattr(value, "to_numpy") and getattr(value, "ndim", 1) == 1:
        return _column_to_numpy(value)
    return _exchanged_array(name, value)


def column_names(X: Any) -> list[str] | None:
    """Return the names of a frame's columns, or None where X has no columns or some name is no string."""
    if hasattr(X, "column_names"):  # Arrow's columns are the values
        columns = X.column_names
    elif hasattr(X, "data_vars"):
        columns = list(X.data_vars)
    elif hasattr(X, "dims") and hasattr(X, "coords"):
        columns = X.coords[X.dims[-1]].values if X.ndim > 1 and X.dims[-1] in X.coords else None
    else:
        columns = getattr(X, "columns", None)
    if not isinstance(columns, Iterable):
        return None
    names = list(columns)
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return [str(name) for name in names]


def numbers_of_objects(array: Any) -> Any:
    """Return an array of Python objects as float64 if all are numbers or missing, else the array itself.

    Examples
    --------
    >>> numbers_of_objects(np.asarray([1, True, 2.5, None], dtype=object))
    array([1. , 1. , 2.5, nan])
    """
    if array.dtype != object or not all(map(_is_number_or_missing, array.flat)):
        return array
    return np.asarray([_to_float(x) for x in array.flat], dtype=float).reshape(array.shape)


def _is_number_or_missing(x: Any) -> bool:
    return x is None or isinstance(x, Real | Decimal | np.bool_) or _is_missing(x)


def _is_missing(x: Any) -> bool:
    return type(x).__name__ == "NAType"  # of pandas, for columns of integers and of booleans


def _to_float(x: Any) -> float:
    if x is None or _is_missing(x):
        return math.nan
    try:
        return float(x)
    except OverflowError:  # an integer beyond the range of float64
        return math.inf if x > 0 else -math.inf


def _named_columns(frame: Any) -> list[tuple[Any, Any]] | None:
    """Return the names and values of the columns of a frame in memory; None of what is none."""
    if hasattr(frame, "column_names") and hasattr(frame, "column"):  # Arrow
        return [(name, frame.column(i)) for i, name in enumerate(frame.column_names)]
    if hasattr(frame, "iter_columns"):  # Polars, and frames that narwhals wraps
        return [(column.name, column) for column in frame.iter_columns()]
    if hasattr(frame, "dtypes") and hasattr(frame, "items") and frame.ndim == 2:  # pandas
        return list(frame.items())
    return None


def _has_uniform_floats(frame: Any) -> bool:
    """Return whether all columns of a frame have one float dtype of NumPy's, so that the frame is an array."""
    kinds = getattr(frame, "dtypes", None)
    if not isinstance(kinds, Iterable) or getattr(frame, "ndim", 0) != 2:
        return False
    distinct = set(kinds)
    return len(distinct) == 1 and all(isinstance(k, np.dtype) and k.kind == "f" for k in distinct)


def _frame_to_numpy(name: str, columns: list[tuple[Any, Any]], rows: int, *, text: bool) -> Any:
    """Return the columns side by side."""
    arrays = [_column_to_numpy(column) for _, column in columns]
    refused = [
        _column_in_words(column_name, column, array)
        for (column_name, column), array in zip(columns, arrays, strict=True)
        if array.dtype.kind not in "biuf"
    ]
    if refused and not text:
        _refuse_columns(name, refused)
    if not arrays:
        return np.empty((rows, 0))
    stacked = np.stack(arrays, axis=-1)
    return stacked.astype(float) if stacked.dtype.kind in "biu" else stacked


def _column_to_numpy(column: Any) -> Any:
    """Return a column as a NumPy array; of numbers with missing ones among them as float64 with NaN."""
    return numbers_of_objects(np.asarray(column))


def _refuse_columns(name: str, refused: list[str]) -> None:
    """Raise for the columns that are no numbers, given in words, all of them at once."""
    shown, left = refused[:MAX_NAMES_IN_ERROR], len(refused) - MAX_NAMES_IN_ERROR
    column, them = ("column", "it") if len(refused) == 1 else ("columns", "them")
    raise TypeError(
        f"{name} must be numbers, got {column} {', '.join(shown)}{f' and {left} more' if left > 0 else ''}: "
        f"drop {them}, or encode {them}"
    )


def _column_in_words(name: Any, column: Any, array: Any) -> str:
    """Return a column's name and type; of objects the first that is no number, since the type says little."""
    dtype = column.type if hasattr(column, "type") else column.dtype  # Arrow calls it type
    example = ""
    if str(dtype) == "object":
        first = next(x for x in array.flat if not _is_number_or_missing(x))
        example = f" (such as {first!r})"
    return f"{name!r} of dtype {dtype}{example}"


def _lazy_frame_to_array(name: str, frame: Any) -> Any:
    """Return a Dask DataFrame or Series as a lazy array with a chunk for each partition."""
    dtypes = dict(frame.dtypes) if frame.ndim == 2 else {frame.name: frame.dtype}
    refused = [
        f"{column!r} of dtype {dtype}"
        for column, dtype in dtypes.items()
        if not (getattr(dtype, "_is_numeric", False) or getattr(dtype, "kind", "O") in "biuf")
    ]
    if refused:
        _refuse_columns(name, refused)
    # Of booleans and of columns with missing values pandas would make arrays of Python objects.
    widened = {column: "float64" for column, dtype in dtypes.items() if not _is_numpy_number(dtype)}
    if widened:
        frame = frame.astype(widened if frame.ndim == 2 else "float64")
    return frame.to_dask_array()


def _is_numpy_number(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "iuf"


def _exchanged_array(name: str, value: Any) -> Any:
    """Return an array that has DLPack's methods alone as one of NumPy's that shares its memory."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array_namespace__"):
        return value
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind, _ = value.__dlpack_device__()
        if int(kind) in HOST_MEMORY:
            return np.from_dlpack(value)
        raise TypeError(
            f"{name} is a {_type_in_words(value)} on a device of its own (DLPack's number {int(kind)}): agd knows no "
            f"library that computes there with it; pass cupy.from_dlpack({name}) or torch.from_dlpack({name})"
        )
    return value


def has_no_values(value: Any) -> bool:
    """Return whether an array is of a library whose arrays are programs."""
    return type(value).__module__.partition(".")[0] in LIBRARIES_WITHOUT_VALUES


def _type_in_words(value: Any) -> str:
    kind = type(value)
    return f"{kind.__name__} of {kind.__module__.partition('.')[0]}"
