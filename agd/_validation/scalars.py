"""Numbers, names and the words of an error."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Sequence
from numbers import Real

import numpy as np

__all__ = [
    "ConvergenceWarning",
    "check_callback",
    "choice",
    "count",
    "flag",
    "not_negative",
    "positive",
    "real",
    "values",
    "warn_dependent",
    "warn_unconverged",
]


class ConvergenceWarning(UserWarning):
    """A run ended before it converged; the message says why and what to do next."""


def real(name: str, value: object, need: str) -> float:
    """Return `value` as a float, or say why it is no real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {need}, got {value!r} ({type(value).__name__})")
    return float(value)


def positive(name: str, value: object) -> float:
    """Return `value` as a float, or say why it is no finite number above 0."""
    number = real(name, value, "a number above 0")
    if not (number > 0.0 and math.isfinite(number)):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return number


def not_negative(name: str, value: object) -> float:
    """Return `value` as a float, or say why it is no finite number of 0 or more."""
    number = real(name, value, "a number of 0 or more")
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


def flag(name: str, value: object) -> bool:
    """Return `value` as a bool, or say why it is neither True nor False."""
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


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """Return `value` if it is among `known`, or name the nearest that is."""
    if value in known:
        return value
    # Letters in the wrong order are the commonest slip, and difflib's ratio thinks little of them.
    near = difflib.get_close_matches(value.lower(), known, n=3)
    near.sort(key=lambda name: sorted(name) != sorted(value.lower()))
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}{hint}")


def values(name: str, bad: int, kind: str, first: tuple[int, ...], value: float) -> str:
    """Word the error for values that may not stand in `name`: how many, and the first position.

    `kind` says which they are, as "negative" does; if more follows the word, with "values" in it.
    """
    what = kind if "values" in kind else f"{kind} values"
    what = what.replace("values", "value" if bad == 1 else "values")
    place = f"{name}[{', '.join(map(str, first))}]" if first else name
    return f"{name} has {bad} {what}, the first at {place} = {value!r}"


def warn_unconverged(message: str) -> None:
    """Warn the caller of the door, not the door, that a run did not converge."""
    warnings.warn(message, ConvergenceWarning, stacklevel=3)


def warn_dependent(message: str) -> None:
    """Warn the caller of the door that the columns of X are linearly dependent."""
    warnings.warn(message, np.exceptions.RankWarning, stacklevel=3)
