"""Batches of rows that are read anew for each pass, as row blocks: one after the other, in their order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from agd._typing import Array, Tree
from agd.backends._tree import in_tree
from agd.backends.backend import Backend

__all__ = ["BATCHES", "Batches", "Column"]

ARITY = 8  # neighbours that are merged at once: rounding grows with the logarithm of their number


@dataclass(frozen=True)
class Column:
    """What stands for y, or for the weights, of rows that come in batches.

    Attributes
    ----------
    shape : tuple
        () or the number of targets, and the rows, whose number is not known.
    dtype : dtype
        Of its entries.
    high : float or None
        The label that is written as 1, and all others as 0; None leaves the values.
    """

    shape: tuple[Any, ...]
    dtype: Any
    high: float | None = None

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def encoded(self, high: float) -> Column:
        """Return the column with 1 where it is `high`, else 0."""
        return replace(self, high=high)


class Batches:
    """Rows in batches, of unknown number: the base of `agd.gradient.Stream`.

    Iteration gives tuples (X, y, weight) of arrays of one library.

    Attributes
    ----------
    resident : array, shape (0, p)
        An array of the kind that the batches are.
    y, weight : Column
        What stands for them; `weight` is None where there is none.
    """

    resident: Array
    y: Column
    weight: Column | None

    @property
    def shape(self) -> tuple[float, int]:
        """The rows, whose number is not known, and the columns."""
        return math.nan, int(self.resident.shape[-1])

    @property
    def ndim(self) -> int:
        """Two axes."""
        return 2

    @property
    def dtype(self) -> Any:
        """That of the batches."""
        return self.resident.dtype

    def __iter__(self) -> Iterator[tuple[Array, Array, Array | None]]:
        raise NotImplementedError


@dataclass(frozen=True)
class _Source:
    """The batches with their targets as they are asked for."""

    batches: Batches
    high: float | None

    def __iter__(self) -> Iterator[tuple[Array, Array, Array | None]]:
        from agd.backends.array import namespace  # which asks the row below

        for X, y, weight in self.batches:
            if self.high is not None:
                y = namespace(y).astype(y == self.high, y.dtype)  # noqa: PLW2901 - holds no second y
            yield X, y, weight
            del X, y, weight  # before the next batch is made


def _chunks(X: Batches, y: Column, _: Column | None) -> Any:
    return _Source(X, y.high)


def _each(f: Callable[..., Tree], blocks: Iterable[Any]) -> list[Any]:
    return list(_results(f, blocks))


def _results(f: Callable[..., Tree], blocks: Iterable[Any]) -> Generator[Tree]:
    """Give f of each batch, and hold none while the next one is made."""
    for block in blocks:
        found = f(*block)
        del block
        yield found


def _reduce(
    f: Callable[..., Tree],
    blocks: Iterable[Any],
    merge: Callable[..., Tree],
    *,
    small: bool = False,  # noqa: ARG001 - all results are here already
) -> Tree:
    """Merge f of the batches in a tree."""
    # Closed here, so that batches end with the pass when it fails, not when the error is forgotten.
    with contextlib.closing(_results(f, blocks)) as results:
        merged = in_tree(results, merge, ARITY)
    if merged is None:
        raise ValueError("batches must be the same on every pass, got none on this one")
    return merged


def _resident(x: Any) -> Array:
    return x.resident


def _current(x: Any) -> AbstractContextManager[Any]:
    from agd.backends.array import current

    return current(x.resident)


def _to_numpy(_: Any) -> Any:
    raise TypeError("a stream has no array to read: go through its batches")


BATCHES = Backend(
    name="stream",
    module="agd",
    namespace="agd",
    install="array-gd",
    owns=lambda x: isinstance(x, Batches),
    devices=lambda _: [],
    place=lambda *_: None,
    to_numpy=_to_numpy,
    convert=lambda *_: _to_numpy(None),
    block_bytes=lambda _: None,
    in_place=False,
    resident=_resident,
    current=_current,
    chunked=True,
    chunks=_chunks,
    each=_each,
    reduce=_reduce,
)
