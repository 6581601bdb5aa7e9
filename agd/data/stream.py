"""The next of some items is made by a thread while the present one is used."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

from agd import backends
from agd._typing import Array, BatchColumn, Batches
from agd._validation import Data, as_count, as_data, check_columns, column_names
from agd.backends import Transfer
from agd.data.placement import array_batches, dtype_there, host_parts, moved, needed_bytes, stand_in
from agd.data.tables import BATCH_ROWS, TableBatches, table_batches

__all__ = [
    "Stream",
    "ahead",
    "as_batch",
    "check_alike",
    "check_renewed",
    "check_targets",
    "placed",
]

_END = object()


def ahead(source: Generator[Any], handed: Callable[[], None]) -> Iterator[Any]:
    """Give what `source` gives, in its order; a thread makes each next item meanwhile.

    At most two items are held at a time: the one that was given last, and the next.

    Parameters
    ----------
    source : generator
        Run and closed in the thread, under the caller's context.
    handed : callable
        Called by the caller's thread before the next item is begun: all earlier ones were used by then.

    Yields
    ------
    object
        The items. What `source` raises is raised here. The thread has ended when this has, also where
        the caller leaves before the last item.
    """
    reader = _Reader(source)
    reader.thread.start()
    try:
        while (item := reader.ready.get()) is not _END:
            handed()
            reader.wanted.release()
            yield item
            del item  # before the next one is waited for
        reader.check()
    finally:
        reader.stop()


class _Reader:
    """A thread that makes one item each time that one is wanted."""

    def __init__(self, source: Generator[Any]) -> None:
        self.source = source
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.wanted = threading.Semaphore(1)
        self.stopped = False
        self.error: BaseException | None = None
        run = contextvars.copy_context().run  # NumPy's errstate is the context's
        self.thread = threading.Thread(target=run, args=(self._work,), name="agd-batches")

    def _work(self) -> None:
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

    def check(self) -> None:
        """Raise what the source raised."""
        error, self.error = self.error, None
        if error is None:
            return
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def stop(self) -> None:
        """End the thread, once the item that it is at is made."""
        self.stopped = True
        self.wanted.release()
        self.thread.join()


def check_renewed(batches: Callable[[], Any]) -> None:
    """Refuse a function with one iterator for every pass: the second would find it spent."""
    made = batches()
    if hasattr(made, "__next__") and made is batches():
        raise TypeError(
            f"batches() must return a new iterator each time, got the same {type(made).__name__} twice"
        )


def as_batch(
    number: int,
    batch: Any,
    feed: Transfer | None = None,
    columns: list[str] | None = None,
    *,
    warn: bool = False,
) -> Data | None:
    """Check a batch, of columns by these names, and move it where it goes; None for one without rows."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"batch {number} must be (X, y) or (X, y, sample_weight), got {what}")
    if _is_empty(batch[0]) and _is_empty(batch[1]):
        return None
    dtype: Any = None
    try:
        check_columns(batch[0], columns)
        if feed is not None:
            batch = host_parts(batch, feed.selection)
            dtype = dtype_there(batch[0], feed.selection, warn=warn)
        found = as_data(*batch)
    except (TypeError, ValueError) as error:
        raise type(error)(f"batch {number}: {error}") from None
    if found.X.ndim != 2 or backends.of(found.X).chunked or backends.is_sparse(found.X):
        raise ValueError(
            f"batch {number}: X must be a dense array in memory of shape (n, p), got "
            f"{type(found.X).__name__} of shape {tuple(found.X.shape)}"
        )
    return found if feed is None else moved(found, dtype, feed)


def _is_empty(rows: Any) -> bool:
    """Return whether an array, a table or a list has no rows."""
    shape = getattr(rows, "shape", None)
    if shape is None:
        return isinstance(rows, Sized) and len(rows) == 0
    return len(shape) > 0 and shape[0] == 0


def check_alike(number: int, X: Array, like: Array) -> None:
    """Refuse a batch of another library, dtype, device or number of columns."""
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


class Stream(Batches):
    """Rows in batches: what `agd.fit` takes in place of X and y where the data are larger than memory.

    Each pass over the data asks for the batches anew, and holds one at a time; with `device` two, since
    a thread reads the next one and moves it while the present one is computed with.

    Parameters
    ----------
    batches : iterable or callable
        Gives tuples (X, y) or (X, y, sample_weight) as `agd.fit` takes them, each time that it is
        iterated over (a list, a dataset, an object with ``__iter__``), or called (a function that
        returns a new iterator, such as a generator function). All batches have the same columns, are of
        the same library and dtype, and all or none have weights; one without rows is skipped.
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
        if hasattr(batches, "__next__"):
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
            check_renewed(batches)
        self._where = None if device is None else backends.select(device)
        first = next(self._checked(None, self._feed()), None)
        if first is None:
            raise ValueError("batches must have at least one row, got none")
        X, y, weight = first
        xp = backends.namespace(X)
        self.resident = xp.zeros((0, X.shape[-1]), dtype=X.dtype, device=backends.device(X))
        shape = (*tuple(y.shape)[:-1], self.shape[0])
        self.y = BatchColumn(shape, y.dtype)
        self.weight = None if weight is None else BatchColumn(shape[-1:], weight.dtype)

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
        batch_rows: int = BATCH_ROWS,
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
            table_batches(paths, target, features=features, weight=weight, batch_rows=batch_rows),
            device=device,
        )

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        device: str | None = None,
        batch_rows: int | None = None,
    ) -> Stream:
        """Cut arrays into batches: rows of a memory map, or of host arrays that a device cannot hold.

        Parameters
        ----------
        X, y, sample_weight : array, shapes (n, p), (n,) or (n, k), (n,)
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
        where = None if device is None else backends.select(device)
        rows = None if batch_rows is None else as_count("batch_rows", batch_rows)
        return cls(array_batches((X, y, sample_weight), where, rows), device=device)

    def __iter__(self) -> Iterator[tuple[Array, Array, Array | None]]:
        rows, feed = 0, self._feed()
        made = self._checked(self.resident, feed)
        for batch in made if feed is None else ahead(made, feed.record_event):
            rows += int(batch[0].shape[-2])
            yield batch
            del batch  # before the next one is made
        if self._rows not in (None, rows):
            raise ValueError(
                f"batches must be the same on every pass, got {self._rows} rows on one and {rows} on "
                f"another"
            )
        self._rows = rows

    def _begun(self) -> Iterator[Any]:
        """Begin a pass."""
        made = self._batches() if callable(self._batches) else self._batches
        if not isinstance(made, Iterable):
            raise TypeError(
                f"batches() must return an iterable of (X, y), got {type(made).__name__}"
            )
        return iter(made)

    def _feed(self) -> Transfer | None:
        """Return what moves the batches of one pass."""
        return None if self._where is None else self._where.backend.transfer(self._where)

    def _checked(self, like: Array | None, feed: Transfer | None) -> Generator[Data]:
        """Go through the batches; each is checked beside those before it, and moved."""
        weighted = None if like is None else self.weight is not None
        number = -1
        for batch in self._begun():  # enumerate would hold on to a batch
            number += 1
            found = as_batch(number, batch, feed, self.columns, warn=like is None)
            if found is None:
                continue
            if like is None and self.columns is None:
                self.columns = column_names(batch[0])
            del batch
            here = found.weight is not None
            if weighted not in (None, here):
                raise ValueError(
                    f"batch {number} has {'' if here else 'no '}weights, and those before it "
                    f"{'none' if here else 'have'}: give all batches weights, or none"
                )
            if like is not None:
                check_alike(number, found.X, like)
                check_targets(number, found.y, self.y)
            weighted = here
            yield found
            del found


# Of the free memory, what X, y and weights may take: the rest is for what is made of them.
SHARE = 0.875


def placed(X: Any, y: Any, sample_weight: Any, device: str) -> Data:
    """Check host data, and put them where they are fitted.

    Parameters
    ----------
    X, y, sample_weight : array
        As `agd.fit` takes them: NumPy's, memory maps, or what NumPy makes arrays of.
    device : str
        As `agd.backends.select` takes it.

    Returns
    -------
    Data
        Arrays on the device; a `Stream` where they do not fit in its free memory.

    Raises
    ------
    TypeError
        For arrays of another library, and sparse ones.
    ValueError
        As `as_data`; for a stream, which has a device of its own.
    MemoryError
        For independent problems that do not fit: they cannot be streamed.
    """
    if isinstance(X, Batches):
        raise ValueError(  # noqa: TRY004 - a stream will do, but for its device
            f"device={device!r} beside a stream: say where its batches go when it is made, by "
            f"agd.Stream(batches, device={device!r})"
        )
    where = backends.select(device)
    parts = host_parts((X, y, sample_weight), where)
    if any(part is None for part in parts[:2]) or 0 in parts[0].shape:
        return as_data(*parts)  # says what is missing
    if where.backend.chunked:
        return as_data(where.asarray(parts[0]), *parts[1:])
    dtype = dtype_there(parts[0], where, warn=True)
    checked = as_data(stand_in(parts[0], dtype), *parts[1:])._replace(X=parts[0])
    size = needed_bytes(checked, dtype)
    free = where.backend.free_bytes(where.device)
    if free is None or size <= SHARE * free:  # what is not known is taken to be enough
        with contextlib.suppress(MemoryError):  # it was not, or not in one piece
            return moved(checked, dtype, where.backend.transfer(where))
    if parts[0].ndim > 2:
        left = "" if free is None else f", where {backends.format_bytes(free)} are free"
        raise MemoryError(
            f"X, y and weights take {backends.format_bytes(size)} on {where}{left}: problems side by side "
            f"cannot be read in batches of rows; fit some of them at a time"
        )
    return as_data(Stream.from_arrays(*parts, device=device), None)
