"""Hypothesis, or stand-ins that skip the property tests alone where it is not installed."""

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

    class _AnyStrategy:
        """Stand for a strategy and for everything that builds or changes one."""

        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self

    def given(*drawn: Any, **named: Any) -> Callable[[Any], Any]:
        def skip_test(test: Any) -> Any:
            parameters = inspect.signature(test).parameters.values()
            fixtures = [each for each in parameters if each.name not in named]

            @pytest.mark.skip(reason="hypothesis is not installed")
            @functools.wraps(test)
            def skipped_test(**_: Any) -> None:
                raise AssertionError("a test that is skipped was run")

            skipped_test.__signature__ = inspect.Signature(fixtures[: len(fixtures) - len(drawn)])  # type: ignore[attr-defined]
            return skipped_test

        return skip_test

    def example(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        return lambda test: test

    settings: Any = example
    assume = st = _AnyStrategy()
