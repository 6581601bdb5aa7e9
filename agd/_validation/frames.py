"""Data frames of any library: their column names, and numeric columns with missing values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from agd._typing import HostArray

__all__ = ["as_numbers", "check_columns", "column_names"]

# An error lists this many column names and gives the number of the others.
MAX_NAMES_IN_ERROR = 5


def column_names(X: Any) -> list[str] | None:
    """Return the column names of a frame, or None where X is no frame or some name is no string."""
    columns = getattr(X, "columns", None)
    if not isinstance(columns, Iterable):
        return None
    names = list(columns)
    return names if names and all(isinstance(name, str) for name in names) else None


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
    names = None if fitted is None else column_names(X)
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


def as_numbers(frame: Any, array: HostArray) -> HostArray:
    """Convert a frame of nullable numeric columns, which NumPy turns into an array of objects.

    Parameters
    ----------
    frame : object
        A frame or one of its columns.
    array : numpy.ndarray
        The same frame as NumPy converts it.

    Returns
    -------
    numpy.ndarray
        An array of float64 with NaN for missing values if every column is numeric; else `array`.
    """
    kinds = getattr(frame, "dtypes", None)
    if array.dtype != object or kinds is None or not hasattr(frame, "to_numpy"):
        return array
    kinds = list(kinds) if array.ndim == 2 else [kinds]
    is_numpy = [isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in kinds]
    if all(is_numpy) or not all(
        good or getattr(kind, "_is_numeric", False)
        for good, kind in zip(is_numpy, kinds, strict=True)
    ):
        return array
    return frame.to_numpy(dtype=float, na_value=math.nan)
