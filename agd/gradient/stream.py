"""Data that are larger than memory: batches of rows, read anew for each pass.

>>> import numpy as np
>>> import agd
>>> def batches():
...     for day in range(3):
...         X = np.asarray([[0.0], [1.0], [2.0]]) + day
...         yield X, 2.0 * X[:, 0] + 1.0
>>> found = agd.fit(agd.Stream(batches))
>>> found.coef.round(6), round(float(found.intercept), 6), found.n_passes
(array([2.]), 1.0, 2)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agd import backends
from agd._typing import Array, BatchColumn, Batches
from agd._validation import Data, column_names, count
from agd.backends import Transfer
from agd.gradient._ahead import ahead
from agd.gradient._batch_checks import as_batch, check_alike, check_renewed, check_targets
from agd.gradient._moving import array_batches
from agd.gradient.files import BATCH_ROWS, TableBatches, table_batches

__all__ = ["Stream"]


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
        kind = f"{backends.of(self.resident).name}, {str(self.dtype).rpartition('.')[2]}"
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
        rows = None if batch_rows is None else count("batch_rows", batch_rows)
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
