"""What a call costs, in counts that a busy machine does not change: functions called, bytes allocated."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any


def call_count(function: Callable[[], Any]) -> int:
    """Return how many functions, of Python and of C, this thread calls within a call."""
    count = 0

    def observe(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    previous = sys.getprofile()
    sys.setprofile(observe)
    try:
        function()
    finally:
        sys.setprofile(previous)
    return count


def peak_bytes(function: Callable[[], Any]) -> int:
    """Return the most memory that a call holds at a time beside what was there before it."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
