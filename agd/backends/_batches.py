"""Rows that come in batches and are read anew on each pass, as row blocks: one after the other, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from agd._typing import Array, Batches, Tree
from agd.backends._tree import ARITY, tree_reduce
from agd.backends.array import device_context, namespace, register_row
from agd.backends.backend import Backend

__all__ = ["StreamedBlocks"]


@dataclass(frozen=True)
class StreamedBlocks:
    """The row blocks of a stream, which are its batches.

    Attributes
    ----------
    batches : Batches
        The rows.
    positive_label : float or None
        The label that is read as 1, and all others as 0; None reads the targets as they are.
    """

    batches: Batches
    positive_label: float | None

    def __iter__(self) -> Iterator[tuple[Array, Array, Array | None]]:
        for X, y, weight in self.batches:
            if self.positive_label is not None:
                # The name y is used again so that no second target is kept alive.
                y = namespace(y).astype(y == self.positive_label, y.dtype)  # noqa: PLW2901
            yield X, y, weight
            del X, y, weight  # free the batch before the next one is made

    def map(self, f: Callable[..., Tree]) -> list[Tree]:
        """Return f(X, y, weight) of every batch, in order: one pass."""
        return list(self._results(f))

    def reduce(
        self,
        f: Callable[..., Tree],
        merge: Callable[[list[Tree]], Tree],
        *,
        small: bool = False,  # noqa: ARG002 - all results are in this process already
    ) -> Tree:
        """Merge f(X, y, weight) of the batches in a tree: one pass."""
        # Closed at once, so that a pass that fails ends the thread that reads its batches, though the
        # error's traceback may keep the iterator alive.
        with contextlib.closing(self._results(f)) as results:
            return tree_reduce(results, merge, ARITY)

    def _results(self, f: Callable[..., Tree]) -> Generator[Tree]:
        """Yield f of each batch; no batch is kept alive while the next one is made."""
        empty = True
        for block in self:
            result = f(*block)
            del block
            empty = False
            yield result
        if empty:
            raise ValueError("batches must be the same on every pass, got none on this one")


def _resident(batches: Batches) -> Array:
    return batches.resident


def _device_context(batches: Batches) -> AbstractContextManager[Any]:
    return device_context(batches.resident)


def _refuse_conversion(*_: Any) -> Any:
    raise TypeError("a stream has no array to read: go through its batches")


# What is asked of a stream in place of an array: it is cut into chunks, and w is beside its batches.
register_row(
    Backend(
        name="stream",
        module="agd",
        namespace="agd",
        install="array-gd",
        owns=lambda x: isinstance(x, Batches),
        devices=lambda _: [],
        get_device=lambda *_: None,
        to_numpy=_refuse_conversion,
        convert=_refuse_conversion,
        block_bytes=lambda _: None,
        mutable=False,
        resident=_resident,
        device_context=_device_context,
        chunked=True,
    )
)
