"""What a direction of descent is told, and what it answers."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from agd._typing import Array

__all__ = ["Direction", "Move"]


class Move(NamedTuple):
    """What the last step did, as vectors; where none was taken, both are 0.

    Attributes
    ----------
    s, y : array, shape (..., n)
        The change of the point, and of the gradient.
    step : array, shape (...)
        The step that was taken along the direction.
    slope : array, shape (...)
        The slope at the start of it.
    direction : array, shape (..., n)
        The direction it was taken along.
    before : array, shape (..., n)
        The gradient before it.
    fall : array, shape (...)
        By how much the value fell.
    """

    s: Array
    y: Array
    step: Array
    slope: Array
    direction: Array
    before: Array
    fall: Array


class Direction(Protocol):
    """Where to go next, and how far to try first; all vectors are (..., n)."""

    def init(self, g: Array) -> Any:
        """Return the memory before the first step."""

    def remember(self, memory: Any, move: Move) -> Any:
        """Return the memory after a step."""

    def direction(self, memory: Any, move: Move, g: Array, free: Array | None) -> Array:
        """Return a direction, for the entries that are free to move where some are not."""

    def first(self, memory: Any, move: Move, value: Array, g: Array, d: Array) -> Array:
        """Return the first trial step along d."""
