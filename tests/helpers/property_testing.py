"""Hypothesis, or what skips the tests of properties, and no others, where it is not installed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["assume", "example", "given", "settings", "st"]

try:
    from hypothesis import assume, example, given, settings
    from hypothesis import strategies as st
except ImportError:

    class _Anything:
        """Stands for a strategy, and for whatever makes or changes one."""

        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self

    def given(*drawn: Any, **named: Any) -> Callable[[Any], Any]:
        def skipped(test: Any) -> Any:
            taken = inspect.signature(test).parameters.values()
            left = [each for each in taken if each.name not in named]

            @pytest.mark.skip(reason="hypothesis is not installed")
            @functools.wraps(test)
            def same(**_: Any) -> None:
                raise AssertionError("a test that is skipped was run")

            same.__signature__ = inspect.Signature(left[: len(left) - len(drawn)])  # type: ignore[attr-defined]
            return same

        return skipped

    def example(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        return lambda test: test

    settings: Any = example
    assume = st = _Anything()
