"""Frames: the names of their columns, and columns that may have missing values; no frame library is named."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["as_numbers", "check_columns", "column_names"]

SHOWN = 5  # names in an error; the rest is counted


def column_names(X: Any) -> list[str] | None:
    """Return the names of X's columns, where it is a frame whose columns all go by strings; else None."""
    columns = getattr(X, "columns", None)
    if not isinstance(columns, Iterable):
        return None
    names = list(columns)
    return names if names and all(isinstance(name, str) for name in names) else None


def check_columns(X: Any, known: list[str] | None) -> None:
    """Refuse a frame of other columns than those that were fitted, or in another order.

    Parameters
    ----------
    X : object
        Rows; what has no names passes.
    known : list of str, or None
        The columns that were fitted; None where they had no names.

    Raises
    ------
    ValueError
        That says which columns are missing, which are new, or where the order differs.
    """
    names = None if known is None else column_names(X)
    if known is None or names is None or names == known:
        return
    need, got = set(known), set(names)
    faults = [
        f"{_listed([name for name in some if name not in other])} {what}"
        for some, other, what in (
            (known, got, "missing"),
            (list(dict.fromkeys(names)), need, "not among them"),
        )
        if not other.issuperset(some)
    ]
    if faults:
        raise ValueError(f"X must have the columns that were fitted, got {' and '.join(faults)}")
    if len(names) != len(known):
        raise ValueError(
            f"X must have the {len(known)} columns that were fitted, once each, got {len(names)}"
        )
    at = next(i for i, (a, b) in enumerate(zip(names, known, strict=True)) if a != b)
    raise ValueError(
        f"X must have its columns in the order of the fit: column {at} must be {known[at]!r}, got "
        f"{names[at]!r}; pass X[feature_names] with those of the result"
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def as_numbers(frame: Any, found: Any) -> Any:
    """Read a frame of numbers some of which may be missing, of which NumPy makes Python objects.

    Parameters
    ----------
    frame : object
        A frame or one of its columns.
    found : numpy.ndarray
        What NumPy makes of it.

    Returns
    -------
    numpy.ndarray
        Of float64, with NaN for what is missing, if each column is of numbers; else `found`.
    """
    kinds = getattr(frame, "dtypes", None)
    if found.dtype != object or kinds is None or not hasattr(frame, "to_numpy"):
        return found
    kinds = list(kinds) if found.ndim == 2 else [kinds]
    plain = [isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in kinds]
    if all(plain) or not all(
        good or getattr(kind, "_is_numeric", False) for good, kind in zip(plain, kinds, strict=True)
    ):
        return found
    return frame.to_numpy(dtype=float, na_value=math.nan)
