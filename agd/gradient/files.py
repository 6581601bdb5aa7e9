"""Tables in files, read in batches by ``pyarrow.dataset``: Parquet, Feather, CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agd._validation import count
from agd.gradient._opened import FORMATS, alike, is_text, named, opened

__all__ = ["BATCH_ROWS", "FORMATS", "TableBatches", "is_text", "table_batches"]

BATCH_ROWS = 2**16


@dataclass(frozen=True)
class TableBatches:
    """A table that is gone through in batches, anew with each call.

    Attributes
    ----------
    data : pyarrow.dataset.Dataset
        The files.
    features : list of str
        The columns of X.
    others : list of str
        The target, and the weights if there are any.
    rows : int
        The most rows in a batch.
    labels : list of str, or None
        The two classes of a target that is text, which is 0 for the first and 1 for the second.
    """

    data: Any
    features: list[str]
    others: list[str]
    rows: int
    labels: list[str] | None = None

    def __call__(self) -> Iterator[tuple[Any, ...]]:
        """Return an iterator over (X, y) or (X, y, weight), each a NumPy array of float64.

        Raises
        ------
        ValueError
            For a file that cannot be read on: it names the file.
        """
        # Little is read ahead: what waits is memory that the table was to be spared.
        found = self.data.to_batches(
            columns=[*self.features, *self.others],
            batch_size=self.rows,
            batch_readahead=2,
            fragment_readahead=1,
        )
        p = len(self.features)
        with named(self.data.files):
            for batch in found:
                columns = [self._column(i, batch.column(i)) for i in range(batch.num_columns)]
                yield (np.stack(columns[:p], axis=-1), *columns[p:])
                del batch, columns  # before the next ones are read

    def _column(self, i: int, column: Any) -> Any:
        if i == len(self.features) and self.labels is not None:
            return _coded(column, self.labels)
        return _numbers(column)


def table_batches(
    paths: str | Path | Sequence[str | Path],
    target: str,
    *,
    features: Sequence[str] | None = None,
    weight: str | None = None,
    batch_rows: int = BATCH_ROWS,
    text: bool = False,
) -> TableBatches:
    """Open a table that is gone through in batches; the other parameters as of `Stream.from_files`.

    Parameters
    ----------
    text : bool
        Whether the target may be text of two classes, which a pass over that column finds.

    Returns
    -------
    TableBatches
        The table.

    Raises
    ------
    ValueError
        For an unknown kind of file, files of two kinds, one that is broken, and columns that are
        missing, no numbers, or named twice.
    TypeError
        For names of columns that are no strings.
    ImportError
        If pyarrow is not installed.
    """
    rows = count("batch_rows", batch_rows)
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not several:
        raise ValueError("paths must name at least one file, got none")
    data = opened([Path(path) for path in several])
    with named(data.files[:1]):
        names = list(data.schema.names)
    if len(set(names)) != len(names):
        raise ValueError(f"{several[0]}: columns must have different names, got {names}")
    taken = [target, *([] if weight is None else [weight])]
    chosen = _chosen(several[0], names, taken, features)
    roles = [("target", target), *(("weight", name) for name in taken[1:])]
    roles += [("features", name) for name in chosen]
    _check_apart(roles)
    data = alike(data, roles, text=text)
    with named(data.files):
        empty = data.head(1, columns=[target]).num_rows == 0
    if empty:
        raise ValueError(f"{several[0]}: has no rows")
    labels = None
    if text and is_text(data.schema.field(target).type):
        labels = _classes(several[0], data, target)
    return TableBatches(data, chosen, taken, rows, labels)


def _chosen(
    path: Any, names: list[str], taken: list[str], features: Sequence[str] | None
) -> list[str]:
    """Return the features; all columns that are not taken, where they are not named."""
    if isinstance(features, str):
        raise TypeError(f"features must be a list of columns, got the string {features!r}")
    if features is None:
        chosen = [name for name in names if name not in taken]
        if "" in chosen:  # as an index that was written beside the columns
            raise ValueError(
                f"{path}: column {names.index('') + 1} has no name in the header: give it one, or say by "
                f"features=[...] which columns to use"
            )
    else:
        chosen = list(features)
    if not chosen:
        raise ValueError(f"{path}: no column is left to be a feature")
    return chosen


def _check_apart(roles: list[tuple[str, str]]) -> None:
    """Refuse a column with two parts to play: a target among the features explains itself."""
    known: set[tuple[str, str]] = set()
    for role, name in roles:
        if not isinstance(name, str):
            raise TypeError(f"{role} must be a column's name, got {name!r}")
        if (role, name) in known:
            raise ValueError(f"{role} must name each column once, got {name!r} twice")
        if role != "target" and ("target", name) in known:
            raise ValueError(f"{role} must not name column {name!r}, which is the target")
        known.add((role, name))


def _numbers(column: Any) -> Any:
    """Return a column of a batch as float64; what is missing as NaN."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _classes(path: Any, data: Any, name: str) -> list[str]:
    """Return the two classes of a column of text, sorted, from a pass over it alone."""
    import pyarrow as pa

    seen: set[str] = set()
    rows = 0
    with named(data.files):
        for batch in data.to_batches(columns=[name]):
            column = batch.column(0).cast(pa.string())
            found = column.unique().to_pylist()
            if not all(found):
                empty = next(i for i, cell in enumerate(column.to_pylist(), start=1) if not cell)
                raise ValueError(f"{path}: row {rows + empty}: column {name!r} is empty here")
            seen.update(found)
            rows += len(column)
            if len(seen) > 2:  # to know how many more there are would take the memory of them all
                break
    if len(seen) != 2:
        some = ", ".join(map(repr, sorted(seen)[:4]))
        count = "3 or more" if len(seen) > 2 else len(seen)
        raise ValueError(
            f"{path}: column {name!r} must have two classes for log_loss, got {count} ({some})"
        )
    return sorted(seen)


def _coded(column: Any, labels: list[str]) -> Any:
    """Return a column of two classes as 0 and 1."""
    import pyarrow as pa
    import pyarrow.compute as pc

    second = pc.equal(column.cast(pa.string()), labels[1])
    return second.to_numpy(zero_copy_only=False).astype(float)
