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

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

from agd import backends
from agd._typing import Array
from agd._validation import Data, as_data
from agd.backends import Batches, Column
from agd.gradient.files import BATCH_ROWS, table_batches

__all__ = ["Stream"]


class Stream(Batches):
    """Rows in batches: what `agd.fit` takes in place of X and y where the data are larger than memory.

    Each pass over the data asks for the batches anew, and holds one at a time.

    Parameters
    ----------
    batches : iterable or callable
        Gives tuples (X, y) or (X, y, sample_weight) as `agd.fit` takes them, each time that it is
        iterated over (a list, a dataset, an object with ``__iter__``), or called (a function that
        returns a new iterator, such as a generator function). All batches have the same columns, are of
        the same library and dtype, and all or none have weights; one without rows is skipped.

    Attributes
    ----------
    resident : array, shape (0, p)
        An array of the kind that the batches are.

    Raises
    ------
    TypeError
        For an iterator, which is spent after one pass, a function that returns the same one each time, and
        for batches that are no tuples of arrays.
    ValueError
        If there is no row, or batches do not fit together.

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

    def __init__(self, batches: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
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
        self._rows: int | None = None
        if callable(batches):
            _check_renewed(batches)
        first = next(self._checked(None), None)
        if first is None:
            raise ValueError("batches must have at least one row, got none")
        X, y, weight = first
        xp = backends.namespace(X)
        self.resident = xp.zeros((0, X.shape[-1]), dtype=X.dtype, device=backends.device(X))
        shape = (*tuple(y.shape)[:-1], self.shape[0])
        self.y = Column(shape, y.dtype)
        self.weight = None if weight is None else Column(shape[-1:], weight.dtype)

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

        Returns
        -------
        Stream
            Of NumPy arrays of float64. Missing values become NaN, which a fit refuses.

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
            table_batches(paths, target, features=features, weight=weight, batch_rows=batch_rows)
        )

    def __iter__(self) -> Iterator[tuple[Array, Array, Array | None]]:
        rows = 0
        for batch in self._checked(self.resident):
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

    def _checked(self, like: Array | None) -> Iterator[Data]:
        """Go through the batches; each is checked beside those before it."""
        weighted = None if like is None else self.weight is not None
        number = -1
        for batch in self._begun():  # enumerate would hold on to a batch
            number += 1
            found = _batch(number, batch)
            del batch
            if found is None:
                continue
            here = found.weight is not None
            if weighted not in (None, here):
                raise ValueError(
                    f"batch {number} has {'' if here else 'no '}weights, and those before it "
                    f"{'none' if here else 'have'}: give all batches weights, or none"
                )
            if like is not None:
                _check_alike(number, found.X, like)
                _check_targets(number, found.y, self.y)
            weighted = here
            yield found
            del found


def _check_renewed(batches: Callable[[], Any]) -> None:
    """Refuse a function with one iterator for every pass: the second would find it spent."""
    made = batches()
    if hasattr(made, "__next__") and made is batches():
        raise TypeError(
            f"batches() must return a new iterator each time, got the same {type(made).__name__} twice"
        )


def _batch(number: int, batch: Any) -> Data | None:
    """Check a batch by itself; None for one without rows."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"batch {number} must be (X, y) or (X, y, sample_weight), got {what}")
    if _is_empty(batch[0]) and _is_empty(batch[1]):
        return None
    try:
        found = as_data(*batch)
    except (TypeError, ValueError) as error:
        raise type(error)(f"batch {number}: {error}") from None
    if found.X.ndim != 2 or backends.of(found.X).chunked or backends.is_sparse(found.X):
        raise ValueError(
            f"batch {number}: X must be a dense array in memory of shape (n, p), got "
            f"{type(found.X).__name__} of shape {tuple(found.X.shape)}"
        )
    return found


def _is_empty(rows: Any) -> bool:
    """Return whether an array, a table or a list has no rows."""
    shape = getattr(rows, "shape", None)
    if shape is None:
        return isinstance(rows, Sized) and len(rows) == 0
    return len(shape) > 0 and shape[0] == 0


def _check_alike(number: int, X: Array, like: Array) -> None:
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


def _check_targets(number: int, y: Array, like: Column) -> None:
    if tuple(y.shape)[:-1] != like.shape[:-1]:
        raise ValueError(
            f"batch {number}: y must have the targets of the first batch, {like.shape[:-1]}, got "
            f"{tuple(y.shape)[:-1]}"
        )
