"""Python floats as a namespace: the functions of the Array API that decisions about single numbers need.

The decisions of a line search are the same formulas for one problem, for a batch and under a trace. They
are written once against a namespace, and `backends.namespace` answers with `FLOATS` for a Python number:
one problem is then decided in Python floats, which take a hundredth of the time of arrays without axes.

>>> FLOATS.where(FLOATS.isfinite(2.0), FLOATS.sqrt(4.0), 0.0)
2.0
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["FLOATS", "FloatNamespace"]


class FloatNamespace:
    """Functions of the Array API on Python floats and bools; NaN spreads as in arrays.

    A condition is negated by `logical_not`, because ``~True`` is a number in Python.
    """

    bool = bool
    inf = math.inf
    nan = math.nan

    @staticmethod
    def where(condition: Any, yes: Any, no: Any) -> Any:
        """Return `yes` where the condition holds, else `no`."""
        return yes if condition else no

    @staticmethod
    def logical_not(condition: Any) -> Any:
        """Return whether the condition does not hold."""
        return not condition

    @staticmethod
    def isfinite(x: Any) -> Any:
        """Return whether x is finite."""
        return math.isfinite(x)

    @staticmethod
    def isnan(x: Any) -> Any:
        """Return whether x is NaN."""
        return math.isnan(x)

    @staticmethod
    def abs(x: Any) -> Any:
        """Return |x|."""
        return abs(x)

    @staticmethod
    def sqrt(x: Any) -> Any:
        """Return the square root, NaN of what is negative."""
        return math.sqrt(x) if x >= 0.0 else math.nan

    @staticmethod
    def minimum(a: Any, b: Any) -> Any:
        """Return the smaller number, NaN where one is NaN."""
        return a if a < b or math.isnan(a) else b

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        """Return the larger number, NaN where one is NaN."""
        return a if a > b or math.isnan(a) else b

    @staticmethod
    def full_like(x: Any, value: Any, *, dtype: Any = None) -> Any:
        """Return a number, or a bool where the dtype is `bool`."""
        return (type(x) if dtype is None else dtype)(value)

    @classmethod
    def zeros_like(cls, x: Any, *, dtype: Any = None) -> Any:
        """Return 0, or False where the dtype is `bool`."""
        return cls.full_like(x, 0, dtype=dtype)

    @classmethod
    def ones_like(cls, x: Any, *, dtype: Any = None) -> Any:
        """Return 1, or True where the dtype is `bool`."""
        return cls.full_like(x, 1, dtype=dtype)

    @classmethod
    def clip(cls, x: Any, low: Any = None, high: Any = None) -> Any:
        """Return x within [low, high]; NaN stays NaN."""
        x = x if low is None else cls.maximum(x, low)
        return x if high is None else cls.minimum(x, high)


FLOATS = FloatNamespace()
