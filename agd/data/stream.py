"""Streams: rows in batches that every pass reads anew, for data larger than memory.

`Stream` is what a user gives in place of X and y: it checks each batch against the first one and moves it to a
device, where a thread prepares the next batch while the present one is computed with. `StreamData` is the same rows
as row blocks, and `place_arrays` streams host arrays that a device cannot hold.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agd import backends
from agd._typing import Array, BatchColumn, Batches, Matrix, Tree
from agd._validation import as_count, check_columns
from agd.backends import Backend, Transfer
from agd.data.base import (
    ARITY,
    LazyData,
    class_weights,
    label_positions,
    subtract_offset,
    tree_reduce,
)
from agd.data.checks import CheckedArrays, check_arrays
from agd.data.placement import (
    as_host_arrays,
    device_dtype,
    move_arrays,
    needed_bytes,
    shape_placeholder,
    slice_batches,
)
from agd.data.tables import DEFAULT_BATCH_ROWS, TableBatches, table_batches

__all__ = [
    "Stream",
    "StreamData",
    "check_batch",
    "check_fresh_iterators",
    "check_same_kind",
    "check_targets",
    "place_arrays",
    "read_ahead",
]

_END = object()


def read_ahead(source: Generator[Any], before_next: Callable[[], None]) -> Iterator[Any]:
    """Yield the items of `source` in order, while a thread prepares the next one.

    At most two items are in memory at a time: the one that was yielded last, and the next.

    Parameters
    ----------
    source : generator
        Run and closed in the thread, under the caller's context.
    handed : callable
        Called by the caller's thread before the next item is begun, when all earlier ones have been used.

    Yields
    ------
    object
        The items. What `source` raises is raised here. The thread ends together with this generator, also where
        the caller stops before the last item.
    """
    reader = _BatchReader(source)
    reader.thread.start()
    try:
        while (item := reader.ready.get()) is not _END:
            before_next()
            reader.wanted.release()
            yield item
            del item  # before the next one is waited for
        reader.raise_error()
    finally:
        reader.join_thread()


class _BatchReader:
    """A thread that prepares one item each time that one is asked for."""

    def __init__(self, source: Generator[Any]) -> None:
        self.source = source
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.wanted = threading.Semaphore(1)
        self.stopped = False
        self.error: BaseException | None = None
        run = contextvars.copy_context().run  # NumPy's errstate is the context's
        self.thread = threading.Thread(target=run, args=(self._read_items,), name="agd-batches")

    def _read_items(self) -> None:
        try:
            while self.wanted.acquire() and not self.stopped:
                self.ready.put(next(self.source))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            self.error = error
        finally:
            try:
                self.source.close()
            finally:
                self.ready.put(_END)

    def raise_error(self) -> None:
        """Raise what the source raised."""
        error, self.error = self.error, None
        if error is None:
            return
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def join_thread(self) -> None:
        """End the thread, once the item that it is at is made."""
        self.stopped = True
        self.wanted.release()
        self.thread.join()


def check_fresh_iterators(batches: Callable[[], Any]) -> None:
    """Raise TypeError for a function that returns one iterator for every pass: the second pass would get nothing."""
    made = batches()
    if isinstance(made, Iterator) and made is batches():
        raise TypeError(
            f"batches() must return a new iterator each time, got the same {type(made).__name__} twice"
        )


def check_batch(
    number: int,
    batch: Any,
    transfer: Transfer | None = None,
    columns: list[str] | None = None,
    *,
    warn: bool = False,
) -> CheckedArrays | None:
    """Check a batch and the names of its columns, and move it to the device; return None for one without rows."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3, 4):
        what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(
            f"batch {number} must be (X, y), (X, y, sample_weight) or (X, y, sample_weight, offset), got {what}"
        )
    if _is_empty(batch[0]) and _is_empty(batch[1]):
        return None
    dtype: Any = None
    try:
        check_columns(batch[0], columns)
        if transfer is not None:
            batch = as_host_arrays(batch, transfer.selection)
            dtype = device_dtype(batch[0], transfer.selection, warn=warn)
        checked = check_arrays(*batch)
    except (TypeError, ValueError) as error:
        raise type(error)(f"batch {number}: {error}") from None
    if checked.X.ndim != 2 or backends.of(checked.X).chunked or backends.is_sparse(checked.X):
        raise ValueError(
            f"batch {number}: X must be a dense array in memory of shape (n, p), got "
            f"{type(checked.X).__name__} of shape {tuple(checked.X.shape)}"
        )
    return checked if transfer is None else move_arrays(checked, dtype, transfer)


def _is_empty(rows: Any) -> bool:
    """Return whether an array, a table or a list has no rows."""
    shape = getattr(rows, "shape", None)
    if shape is None:
        return isinstance(rows, Sized) and len(rows) == 0
    return len(shape) > 0 and shape[0] == 0


def check_same_kind(number: int, X: Matrix, like: Array) -> None:
    """Raise ValueError unless a batch has the library, dtype, device and number of columns of the first one."""
    kinds = [
        (backends.of(x).name, str(x.dtype), str(backends.device(x)), int(x.shape[-1]))
        for x in (X, like)
    ]
    for name, got, need in zip(
        ("library", "dtype", "device", "number of columns"), *kinds, strict=True
    ):
        if got != need:
            raise ValueError(
                f"batch {number}: X must have the {name} of the first batch, {need}, got {got}"
            )


def check_targets(number: int, y: Array, like: BatchColumn) -> None:
    """Raise ValueError unless a batch's targets have the shape that the first batch had."""
    if tuple(y.shape)[:-1] != like.shape[:-1]:
        raise ValueError(
            f"batch {number}: y must have the targets of the first batch, {like.shape[:-1]}, got "
            f"{tuple(y.shape)[:-1]}"
        )
    if y.dtype != like.dtype:
        has, had = ("an", "none") if "complex" in str(y.dtype) else ("no", "have")
        raise ValueError(
            f"batch {number} has {has} offset, and those before it {had}: give all batches offsets, or none"
        )


@dataclass(frozen=True)
class StreamData(LazyData):
    """Batches as row blocks, one after the other; the attributes are those of `BaseData`.

    X is the stream itself, and y and the weights are the `BatchColumn` that stand for those of its batches.
    """

    @classmethod
    def accepts(cls, X: Any) -> bool:
        """Return whether X is a stream of batches."""
        return isinstance(X, Batches)

    def _batches(self) -> Iterator[tuple[Matrix, Array, Array | None]]:
        """Go through the batches, with labels read as their positions, and less offsets, where that was asked."""
        column: Any = self.y  # a `BatchColumn`, as the weights are
        weights: Any = self.weight
        labels, factors = column.labels, None if weights is None else weights.class_factors
        for X, y, weight in self.X:
            # The name y is used again so that no second target is kept alive.
            if labels is not None:
                y = label_positions(y, labels)  # noqa: PLW2901
            if column.subtracts_offset:
                y = subtract_offset(y)  # noqa: PLW2901
            if factors is not None:
                weight = class_weights(y, weight, factors)  # noqa: PLW2901
            yield X, y, weight
            del X, y, weight  # free the batch before the next one is made

    def map(self, f: Callable[..., Tree], limit: int | None = None) -> list[Tree]:  # noqa: ARG002
        """Return f(X, y, weight) of every batch, in order: one pass."""
        self.passes[0] += 1
        return list(self._map_batches(f))

    def map_with(self, f: Callable[..., Tree], values: Any, limit: int | None = None) -> list[Tree]:  # noqa: ARG002
        """Return f(X, y, weight, part) of every batch: see `BaseData.map_with`."""
        rows_before = 0

        def of_batch(X: Matrix, y: Array, weight: Array | None) -> Tree:
            nonlocal rows_before
            first, rows_before = rows_before, rows_before + int(y.shape[-1])
            return f(X, y, weight, values[first:rows_before])

        return self.map(of_batch)

    def reduce(
        self,
        f: Callable[..., Tree],
        merge: Callable[[list[Tree]], Tree],
        *,
        small: bool = False,  # noqa: ARG002 - all results are in this process already
    ) -> Tree:
        """Merge f(X, y, weight) of the batches in a tree: see `BaseData.reduce`."""
        self.passes[0] += 1
        # Closed at once, so that a pass that fails ends the thread that reads its batches, though the
        # error's traceback may keep the iterator alive.
        with contextlib.closing(self._map_batches(f)) as results:
            return tree_reduce(results, merge, ARITY)

    def _map_batches(self, f: Callable[..., Tree]) -> Generator[Tree]:
        """Yield f of each batch; no batch is kept alive while the next one is made."""
        empty = True
        for block in self._batches():
            result = f(*block)
            del block
            empty = False
            yield result
        if empty:
            raise ValueError("batches must be the same on every pass, got none on this one")


class Stream(Batches):
    """Rows in batches: what `agd.fit` takes in place of X and y where the data are larger than memory.

    Each pass over the data asks for the batches anew, and holds one at a time; with `device` two, since
    a thread reads the next one and moves it while the present one is computed with.

    Parameters
    ----------
    batches : iterable or callable
        Gives tuples (X, y), (X, y, sample_weight) or (X, y, sample_weight, offset) as `agd.fit` takes them,
        where a `sample_weight` of None stands for weights of 1, each time that it is iterated over (a list, a dataset, an object with ``__iter__``), or called (a function that
        returns a new iterator, such as a generator function). All batches have the same columns, are of
        the same library and dtype, and all or none have weights and offsets; one without rows is skipped.
    device : str, optional
        Where to move the batches, as `agd.backends.select` takes it; they are then of NumPy, or what
        NumPy makes arrays of. With CUDA devices of CuPy and torch they go through pinned memory, on a
        stream of their own.

    Attributes
    ----------
    resident : array, shape (0, p)
        An array of the kind that the batches are.
    columns : list of str, or None
        The names of the columns of X, where they have names: those of a table in a file, or of batches
        that are frames, which have the same names in the same order.

    Raises
    ------
    TypeError
        For an iterator, which is spent after one pass, a function that returns the same one each time,
        batches that are no tuples of arrays, and those that are to be moved and are not NumPy's.
    ValueError
        If there is no row, or batches do not fit together; for an unknown backend.
    ImportError, RuntimeError
        If the device's library is not installed, or it does not answer.

    Notes
    -----
    Larger batches cost less for each row: a few MiB or more are well. A NumPy array that is mapped into
    memory (``numpy.load(path, mmap_mode="r")``) needs no stream: `agd.fit` takes it as it is, and reads
    it by row blocks.

    Examples
    --------
    >>> import numpy as np
    >>> import agd
    >>> X, y = np.asarray([[1.0], [2.0], [3.0], [4.0]]), np.asarray([5.5, 6.0, 6.5, 7.0])
    >>> agd.fit(agd.Stream([(X[:2], y[:2]), (X[2:], y[2:])])).coef.round(6)
    array([0.5])
    """

    def __init__(
        self, batches: Iterable[Any] | Callable[[], Iterable[Any]], *, device: str | None = None
    ) -> None:
        if isinstance(batches, Iterator):
            raise TypeError(
                "batches must be such that they can be gone through more than once, got an iterator "
                f"({type(batches).__name__}): give a list, an object with __iter__, or the function that "
                "makes the iterator"
            )
        if not callable(batches) and not isinstance(batches, Iterable):
            raise TypeError(
                f"batches must be an iterable or a function, got {type(batches).__name__}"
            )
        self._batches = batches
        self.columns = batches.features if isinstance(batches, TableBatches) else None
        self._rows: int | None = None
        if callable(batches):
            check_fresh_iterators(batches)
        self._selection = None if device is None else backends.select(device, "device")
        first = next(self._checked_batches(None, self._new_transfer()), None)
        if first is None:
            raise ValueError("batches must have at least one row, got none")
        X, y, weight = first
        xp = backends.namespace(X)
        self.resident = xp.zeros((0, X.shape[-1]), dtype=X.dtype, device=backends.device(X))
        shape = (*tuple(y.shape)[:-1], self.shape[0])
        self.y = BatchColumn(shape, y.dtype)
        leading = () if weight is None else tuple(weight.shape)[:-1]
        self.weight = None if weight is None else BatchColumn((*leading, shape[-1]), weight.dtype)

    def __repr__(self) -> str:
        """Give the columns, the kind of array, and the rows where they are known."""
        rows = "rows not yet counted" if self._rows is None else f"{self._rows} rows"
        kind = f"{backends.of(self.resident).name}, {backends.dtype_name(self.dtype)}"
        return f"Stream({self.shape[1]} columns, {kind}, {rows})"

    @property
    def rows(self) -> int | None:
        """The number of rows, once they were gone through; None before."""
        return self._rows

    @classmethod
    def from_files(
        cls,
        paths: str | Path | Sequence[str | Path],
        target: str,
        *,
        features: Sequence[str] | None = None,
        weight: str | None = None,
        offset: str | None = None,
        exposure: str | None = None,
        batch_rows: int = DEFAULT_BATCH_ROWS,
        device: str | None = None,
    ) -> Stream:
        """Read a table in batches: a file, several with the same columns, or a folder of them.

        Parameters
        ----------
        paths : str, Path or sequence of them
            Parquet (``.parquet``, ``.pq``), Feather (``.feather``, ``.arrow``) or CSV (``.csv``), by the
            name of the first; read by ``pyarrow.dataset``, which has to be installed.
        target : str
            The column that is y.
        features : sequence of str, optional
            The columns of X, in their order; by default all others.
        weight : str, optional
            The column of the rows' weights.
        offset, exposure : str, optional
            The column of the offsets, or of exposures, whose logarithms they are.
        batch_rows : int
            The most rows in a batch.
        device : str, optional
            Where to move the batches, as of `Stream`.

        Returns
        -------
        Stream
            Of NumPy arrays of float64, moved if asked. Missing values become NaN, which a fit refuses.

        Raises
        ------
        ValueError
            For an unknown kind of file, files of two kinds, and columns that are missing, no numbers,
            or named twice.
        TypeError
            For names of columns that are no strings.
        ImportError
            If pyarrow is not installed.
        """
        return cls(
            table_batches(
                paths,
                target,
                features=features,
                weight=weight,
                offset=offset,
                exposure=exposure,
                batch_rows=batch_rows,
            ),
            device=device,
        )

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        offset: Any = None,
        device: str | None = None,
        batch_rows: int | None = None,
    ) -> Stream:
        """Cut arrays into batches: rows of a memory map, or of host arrays that a device cannot hold.

        Parameters
        ----------
        X, y, sample_weight, offset : array, shapes (n, p), (n,) or (n, k), (n,), (n,)
            As `agd.fit` takes them; to be moved, of NumPy.
        device : str, optional
            Where to move the batches, as of `Stream`.
        batch_rows : int, optional
            The rows of a batch; by default as many as take 128 MiB, and on a device a quarter of its
            free memory at most: two batches, and what is made of one, are there at a time.

        Returns
        -------
        Stream
            Its batches are in the order of the rows.

        Raises
        ------
        ValueError
            For shapes that do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> import agd
        >>> X = np.asarray([[1.0], [2.0], [3.0], [4.0]])
        >>> stream = agd.Stream.from_arrays(X, 0.5 * X[:, 0] + 5.0, device="numpy", batch_rows=3)
        >>> [batch[0].shape for batch in stream]
        [(3, 1), (1, 1)]
        """
        selection = None if device is None else backends.select(device, "device")
        rows = None if batch_rows is None else as_count("batch_rows", batch_rows)
        parts = (X, y, sample_weight, offset)
        return cls(slice_batches(parts, selection, rows), device=device)

    def __iter__(self) -> Iterator[tuple[Matrix, Array, Array | None]]:
        rows, transfer = 0, self._new_transfer()
        made = self._checked_batches(self.resident, transfer)
        for batch in made if transfer is None else read_ahead(made, transfer.record_event):
            rows += int(batch[0].shape[-2])
            yield batch
            del batch  # before the next one is made
        if self._rows not in (None, rows):
            raise ValueError(
                f"batches must be the same on every pass, got {self._rows} rows on one and {rows} on "
                f"another"
            )
        self._rows = rows

    def _start_pass(self) -> Iterator[Any]:
        """Return a new iterator over the user's batches."""
        made = self._batches() if callable(self._batches) else self._batches
        if not isinstance(made, Iterable):
            raise TypeError(
                f"batches() must return an iterable of (X, y), got {type(made).__name__}"
            )
        return iter(made)

    def _new_transfer(self) -> Transfer | None:
        """Return the transfer that moves the batches of one pass; None where they stay."""
        return (
            None if self._selection is None else self._selection.backend.transfer(self._selection)
        )

    def _checked_batches(
        self, like: Array | None, transfer: Transfer | None
    ) -> Generator[CheckedArrays]:
        """Yield the batches, each checked against the first one and moved."""
        weighted = None if like is None else self.weight is not None
        number = -1
        for batch in self._start_pass():  # enumerate would hold on to a batch
            number += 1
            checked = check_batch(number, batch, transfer, self.columns, warn=like is None)
            if checked is None:
                continue
            if like is None and self.columns is None:
                self.columns = backends.column_names(batch[0])
            del batch
            has_weights = checked.weight is not None
            if weighted not in (None, has_weights):
                raise ValueError(
                    f"batch {number} has {'' if has_weights else 'no '}weights, and those before it "
                    f"{'none' if has_weights else 'have'}: give all batches weights, or none"
                )
            if like is not None:
                check_same_kind(number, checked.X, like)
                check_targets(number, checked.y, self.y)
            weighted = has_weights
            yield checked
            del checked


# The share of the free memory that X, y and weights may take: the rest is for what is computed from them.
MAX_MEMORY_SHARE = 0.875


def place_arrays(
    X: Any, y: Any, sample_weight: Any, device: str, offset: Any = None
) -> CheckedArrays:
    """Check host data, and move them to the device where they are fitted.

    Parameters
    ----------
    X, y, sample_weight, offset : array
        As `agd.fit` takes them: NumPy's, memory maps, or what NumPy makes arrays of.
    device : str
        As `agd.backends.select` takes it.

    Returns
    -------
    CheckedArrays
        Arrays on the device; a `Stream` where they do not fit in its free memory.

    Raises
    ------
    TypeError
        For arrays of another library, and sparse ones.
    ValueError
        As `check_arrays`; for a stream, which has a device of its own.
    MemoryError
        For independent problems that do not fit: they cannot be streamed.
    """
    if isinstance(X, Batches):
        raise ValueError(  # noqa: TRY004 - a stream will do, but for its device
            f"device={device!r} beside a stream: say where its batches go when it is made, by "
            f"agd.Stream(batches, device={device!r})"
        )
    selection = backends.select(device, "device")
    parts = as_host_arrays((X, y, sample_weight, offset), selection)
    if any(part is None for part in parts[:2]) or 0 in parts[0].shape:
        return check_arrays(*parts)  # says what is missing
    if selection.backend.chunked:
        return check_arrays(selection.asarray(parts[0]), *parts[1:])
    dtype = device_dtype(parts[0], selection, warn=True)
    checked = check_arrays(shape_placeholder(parts[0], dtype), *parts[1:])._replace(X=parts[0])
    size = needed_bytes(checked, dtype)
    free = selection.backend.free_bytes(selection.device)
    if free is None or size <= MAX_MEMORY_SHARE * free:  # what is not known is taken to be enough
        with contextlib.suppress(MemoryError):  # it was not, or not in one piece
            return move_arrays(checked, dtype, selection.backend.transfer(selection))
    if parts[0].ndim > 2:
        left = "" if free is None else f", where {backends.format_bytes(free)} are free"
        raise MemoryError(
            f"X, y and weights take {backends.format_bytes(size)} on {selection}{left}: problems side by side "
            f"cannot be read in batches of rows; fit some of them at a time"
        )
    stream = Stream.from_arrays(*parts[:3], offset=parts[3], device=device)
    return check_arrays(stream, None)


def _resident_of_batches(batches: Any) -> Any:
    return batches.resident


def _context_of_batches(batches: Any) -> AbstractContextManager[Any]:
    return backends.device_context(batches.resident)


def _refuse_array_access(*_: Any) -> Any:
    raise TypeError("a stream has no array to read: go through its batches")


# A stream stands in the place of an array X: its row of the table says that it is lazy and in chunks.
backends.register_row(
    Backend(
        name="stream",
        module="agd",
        namespace="agd",
        install="array-gd",
        owns=lambda x: isinstance(x, Batches),
        devices=lambda _: [],
        get_device=lambda *_: None,
        to_numpy=_refuse_array_access,
        convert=_refuse_array_access,
        block_bytes=lambda _: None,
        mutable=False,
        resident=_resident_of_batches,
        device_context=_context_of_batches,
        chunked=True,
    )
)
