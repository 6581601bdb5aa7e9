"""Tables in files, read in batches by ``pyarrow.dataset``: Parquet, Feather, CSV."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agd._validation import choice, count

__all__ = ["BATCH_ROWS", "FORMATS", "TableBatches", "table_batches"]

BATCH_ROWS = 2**16

FORMATS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".feather": "feather",
    ".arrow": "feather",
}


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
    """

    data: Any
    features: list[str]
    others: list[str]
    rows: int

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
        with _named(self.data.files):
            for batch in found:
                columns = [_numbers(batch.column(i)) for i in range(batch.num_columns)]
                yield (np.stack(columns[:p], axis=-1), *columns[p:])
                del batch, columns  # before the next ones are read


@contextlib.contextmanager
def _named(files: Sequence[str]) -> Iterator[None]:
    """Turn what pyarrow raises into a ValueError that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and type(error) is not OSError:  # missing, not allowed
            raise
        told = " ".join(str(error).split())
        named = [file for file in files if file in told] or list(files)
        which = named[0] if len(named) == 1 else f"one of {named[0]} to {named[-1]}"
        why = told.rpartition(f"'{named[0]}': ")[2]  # after the places where pyarrow passed it on
        raise ValueError(f"{which}: cannot be read: {why}") from error


def table_batches(
    paths: str | Path | Sequence[str | Path],
    target: str,
    *,
    features: Sequence[str] | None = None,
    weight: str | None = None,
    batch_rows: int = BATCH_ROWS,
) -> TableBatches:
    """Open a table that is gone through in batches; parameters as `Stream.from_files`.

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
    data = _dataset([Path(path) for path in several])
    names = list(data.schema.names)
    if len(set(names)) != len(names):
        raise ValueError(f"{several[0]}: columns must have different names, got {names}")
    taken = [target, *([] if weight is None else [weight])]
    if isinstance(features, str):
        raise TypeError(f"features must be a list of columns, got the string {features!r}")
    chosen = [name for name in names if name not in taken] if features is None else list(features)
    if not chosen:
        raise ValueError(f"{several[0]}: no column is left to be a feature")
    roles = [("target", target), *(("weight", name) for name in taken[1:])]
    roles += [("features", name) for name in chosen]
    _check_apart(roles)
    data = _alike(data, roles)
    with _named(data.files):
        empty = data.head(1, columns=[target]).num_rows == 0
    if empty:
        raise ValueError(f"{several[0]}: has no rows")
    return TableBatches(data, chosen, taken, rows)


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


def _alike(data: Any, roles: list[tuple[str, str]]) -> Any:
    """Check the columns of every file; one that is not of the same type in all is read as float64."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    schema = data.schema
    for part in data.get_fragments():
        with _named([part.path]):
            here = part.physical_schema
        for role, name in roles:
            _check_column(part.path, here, role, name)
            at = schema.get_field_index(name)
            if here.field(name).type != schema.field(at).type:
                schema = schema.set(at, pa.field(name, pa.float64()))
    if schema.equals(data.schema):
        return data
    return pads.dataset(data.files, format=data.format, schema=schema)


def _dataset(paths: list[Path]) -> Any:
    """Open the files, or a folder of them, as one dataset; of CSV, integers are read as floats."""
    try:
        import pyarrow as pa
        import pyarrow.csv as pacsv
        import pyarrow.dataset as pads
    except ImportError as error:
        raise ImportError(
            'a table in a file is read by pyarrow, which is not installed: pip install "array-gd[cli]"'
        ) from error
    files = [f for path in paths for f in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [f for f in files if f.suffix.lower() in FORMATS] or files
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: there is no such file")
    if not files:
        raise ValueError(f"{paths[0]}: has no file of {', '.join(FORMATS)}")
    kind = FORMATS[
        choice(f"the suffix of {files[0].name}", files[0].suffix.lower(), tuple(FORMATS))
    ]
    for file in files:
        if FORMATS.get(file.suffix.lower()) != kind:
            raise ValueError(f"paths must name files of one kind, got {files[0]} and {file}")
    names = [str(file) for file in files]
    with _named(names):
        found = pads.dataset(names, format=kind)
    if kind != "csv":
        return found
    # A column of which the first rows are whole numbers, or missing, may have others further down.
    floats = {
        field.name: pa.float64()
        for field in found.schema
        if pa.types.is_integer(field.type) or pa.types.is_null(field.type)
    }
    options = pads.CsvFileFormat(convert_options=pacsv.ConvertOptions(column_types=floats))
    return pads.dataset(names, format=options)


def _check_column(path: str, schema: Any, role: str, name: str) -> None:
    import pyarrow as pa

    if name not in schema.names:
        near = difflib.get_close_matches(name, schema.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{path}: {role} {name!r} is no column{hint} (there are {', '.join(map(repr, schema.names))})"
        )
    kind, types = schema.field(name).type, pa.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
            or types.is_decimal(kind) or types.is_null(kind)):  # fmt: skip
        raise ValueError(f"{path}: column {name!r} must be numbers, got {kind}")


def _numbers(column: Any) -> Any:
    """Return a column of a batch as float64; what is missing as NaN."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
