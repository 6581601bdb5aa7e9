"""Checks of scalar arguments (numbers, flags, names, callbacks), and the wording of errors and warnings."""

from __future__ import annotations

import difflib
import math
import operator
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

__all__ = [
    "ConvergenceWarning",
    "as_choice",
    "as_count",
    "as_flag",
    "as_nonnegative",
    "as_positive",
    "as_real",
    "as_share",
    "check_callback",
    "invalid_values_text",
    "warn_dependent",
    "warn_unconverged",
]


class ConvergenceWarning(UserWarning):
    """A run ended before it converged; the message says why and what to do next."""


def as_real(name: str, value: object, need: str) -> float:
    """Return `value` as a float, or raise the error that it must be `need`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {need}, got {value!r} ({type(value).__name__})")
    return float(value)


def as_positive(name: str, value: object) -> float:
    """Return `value` as a float, or raise an error if it is not finite and above 0."""
    number = as_real(name, value, "a number above 0")
    if not (number > 0.0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return number


def as_nonnegative(name: str, value: object) -> float:
    """Return `value` as a float, or raise an error if it is not finite and at least 0."""
    number = as_real(name, value, "a number of 0 or more")
    if not (number >= 0.0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number of 0 or more, got {value!r}")
    return number


def as_share(name: str, value: object) -> float:
    """Return `value` as a float, or raise an error if it is not between 0 and 1."""
    number = as_real(name, value, "a number between 0 and 1")
    if not 0.0 < number < 1.0:
        raise ValueError(f"{name} must be a number between 0 and 1, such as 0.95, got {value!r}")
    return number


def as_count(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int, or raise an error if it is no integer of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def as_flag(name: str, value: object) -> bool:
    """Return `value` as a bool, or raise an error if it is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return bool(value)


def check_callback(value: object) -> None:
    """Refuse a callback that cannot be called."""
    if value is not None and not callable(value):
        raise TypeError(
            f"callback must be a function of the result so far, or None, got {value!r} "
            f"({type(value).__name__})"
        )


def as_choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """Return `value` if it is allowed; the error names the nearest value that is."""
    if value in allowed:
        return value
    # Transposed letters are the most common slip, which difflib's ratio ranks low: they come first.
    matches = difflib.get_close_matches(value.lower(), allowed, n=3)
    matches.sort(key=lambda name: sorted(name) != sorted(value.lower()))
    hint = f"; did you mean {matches[0]!r}?" if matches else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}{hint}")


def invalid_values_text(
    name: str, bad: int, kind: str, first: tuple[int, ...], value: float
) -> str:
    """Return the error text for invalid values in `name`: their number, and the first position.

    `kind` is an adjective such as "negative", or a phrase that has the word "values" in it.
    """
    phrase = kind if "values" in kind else f"{kind} values"
    phrase = phrase.replace("values", "value" if bad == 1 else "values")
    place = f"{name}[{', '.join(map(str, first))}]" if first else name
    return f"{name} has {bad} {phrase}, the first at {place} = {value!r}"


def warn_unconverged(message: str) -> None:
    """Warn that a run did not converge, at the line of user code that called the public function."""
    warnings.warn(message, ConvergenceWarning, stacklevel=3)


def warn_dependent(message: str) -> None:
    """Warn that the columns of X are linearly dependent, at the line of user code that called."""
    warnings.warn(message, np.exceptions.RankWarning, stacklevel=3)
