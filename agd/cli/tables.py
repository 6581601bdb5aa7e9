"""Tables in CSV, Parquet or Feather files, read whole by pyarrow.dataset and turned into float64 arrays.

The commands read their tables here; an error names the file, the row and the column.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset

from agd._typing import Loss
from agd.data.tables import FORMAT_BY_SUFFIX, check_class_count, is_text_type

__all__ = ["Table", "read_table"]

NOT_UTF8 = "is not UTF-8 text: save it as UTF-8"


@dataclass(frozen=True)
class Table:
    """A table in memory, whose columns are read by name, and its file, which messages name.

    Attributes
    ----------
    path : Path
        The file.
    data : pyarrow.Table
        Its columns.
    """

    path: Path
    data: Any

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return list(self.data.column_names)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.data.num_rows)

    def check_columns(self, option: str, names: list[str]) -> None:
        """Raise if a column is missing, and suggest the name closest to it."""
        for name in names:
            if name not in self.names:
                matches = difflib.get_close_matches(name, self.names, n=1)
                hint = f"; did you mean {matches[0]!r}?" if matches else ""
                raise ValueError(
                    f"{self.path}: {option} {name!r} is no column{hint} (there are "
                    f"{', '.join(map(repr, self.names))})"
                )

    def is_text(self, name: str) -> bool:
        """Return whether a column holds text."""
        return is_text_type(self.data.column(name).type)

    def numbers(self, name: str, hint: str = "") -> Any:
        """Return a column as float64, or raise for the first row that is not a finite number.

        Parameters
        ----------
        name : str
            The column.
        hint : str
            What to add to the error about a column of text.

        Returns
        -------
        numpy.ndarray, shape (rows,)
            Its values.
        """
        column = self.data.column(name)
        if self.is_text(name):
            self._refuse_text(name, hint)
        dtype = column.type
        if not (
            pa.types.is_integer(dtype)
            or pa.types.is_floating(dtype)
            or pa.types.is_boolean(dtype)
            or pa.types.is_decimal(dtype)
            or pa.types.is_null(dtype)
        ):
            raise ValueError(f"{self.path}: column {name!r} must be numbers, got {dtype}")
        if pa.types.is_boolean(dtype):
            column = column.cast(pa.int8())
        # Not a safe cast, since integers beyond 2^53 are rounded, as whenever a table becomes float64. The
        # copy is needed because Arrow's memory is read-only, which some array libraries refuse.
        values = np.array(column.cast(pa.float64(), safe=False).to_numpy())
        self._check_finite(name, values)
        return values

    def _refuse_text(self, name: str, hint: str) -> None:
        column = self.data.column(name)
        for row, value in enumerate(column.to_pylist(), start=1):
            if value is None:
                continue
            if not _is_number(value):
                raise ValueError(
                    f"{self.path}: row {row}: column {name!r} must be numbers, got {value!r}{hint}"
                )
        raise ValueError(f"{self.path}: column {name!r} must be numbers, got text{hint}")

    def _check_finite(self, name: str, values: Any) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        if not bad.size:
            return
        first = int(bad[0])
        kind = "empty or NaN" if np.isnan(values[first]) else "infinite or too large"
        cells = "cell" if bad.size == 1 else "cells, the first"
        raise ValueError(
            f"{self.path}: row {first + 1}: column {name!r} has {bad.size} {kind} {cells} here"
        )

    def matrix(self, names: list[str], hint: str = "") -> Any:
        """Return columns side by side as float64, shape (rows, len(names)); `hint` as in `numbers`."""
        values = np.empty((self.rows, len(names)))
        for i, name in enumerate(names):
            values[:, i] = self.numbers(name, hint)
        return values

    def labels(self, name: str, loss: Loss) -> tuple[Any, list[str]]:
        """Return a text column of classes, as many as the loss has, as numbers from 0, and the sorted classes."""
        column = self.data.column(name)
        cells = column.to_pylist()
        for row, cell in enumerate(cells, start=1):
            if not cell:
                raise ValueError(f"{self.path}: row {row}: column {name!r} is empty here")
        values = np.asarray(cells)
        classes, codes = np.unique(values, return_inverse=True)
        check_class_count(self.path, name, loss, list(map(str, classes)), len(classes))
        return codes.astype(float), [str(c) for c in classes]


def read_table(path: Path) -> Table:
    """Read a table into memory.

    Parameters
    ----------
    path : Path
        A ``.csv``, ``.parquet`` (``.pq``) or ``.feather`` (``.arrow``) file.

    Returns
    -------
    Table
        Its columns.

    Raises
    ------
    ValueError
        For a file that is missing, empty, damaged or ragged; the message names the row, where there is one.
    """
    kind = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, need a file")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if kind is None:
        raise ValueError(
            f"{path}: unknown kind of table, need one of {', '.join(FORMAT_BY_SUFFIX)}"
        )
    try:
        data = _read_csv(path) if kind == "csv" else _read_columnar(path, kind)
        names = data.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {_describe_error(path, kind, error)}") from error
    if kind == "csv":
        if any(pa.types.is_binary(column.type) for column in data.columns):
            raise ValueError(f"{path}: {NOT_UTF8}")
        if len(names) == 1 and (hint := _separator_hint(names[0])):
            raise ValueError(f"{path}: {hint}")
    if data.num_rows == 0:
        raise ValueError(f"{path}: no rows below the header")
    return Table(path, data)


def _is_number(text: str) -> bool:
    """Return whether Arrow reads a cell as a number; Python accepts more, such as 1_000 and a line's end."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text == text.strip()


def _separator_hint(header: str) -> str:
    """Return a hint for a header of one column that contains another separator than a comma, else ""."""
    mark = next((mark for mark in ";\t|" if mark in header), None)
    return f"one column found; is it separated by {mark!r}? need ','" if mark else ""


def _read_columnar(path: Path, kind: str) -> Any:
    reader: Any = kind
    return pyarrow.dataset.dataset(path, format=reader).to_table()


def _read_csv(path: Path) -> Any:
    """Read a CSV file with the types of its first block, or as text if a later row has another type."""
    dataset = pyarrow.dataset.dataset(path, format=_csv_format({}))
    # Read as integers, a hexadecimal cell such as 0x10 would become 16; read as floats it is an error.
    dtypes = [pa.float64() if pa.types.is_integer(f.type) else f.type for f in dataset.schema]
    schema = pa.schema(list(zip(dataset.schema.names, dtypes, strict=True)))
    try:
        return pyarrow.dataset.dataset(path, schema, format=dataset.format).to_table()
    except pa.ArrowInvalid as error:
        if "conversion error" not in str(error):
            raise
    with pyarrow.csv.open_csv(path) as reader:
        names = reader.schema.names
    text = dict.fromkeys(names, pa.string())
    data = pyarrow.dataset.dataset(path, format=_csv_format(text)).to_table()
    return pa.table([_numbers_if_possible(data.column(i)) for i in range(len(names))], names)


def _csv_format(types: dict[str, Any]) -> Any:
    return pyarrow.dataset.CsvFileFormat(
        convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        read_options=pyarrow.csv.ReadOptions(block_size=16 * 2**20),
    )


def _numbers_if_possible(column: Any) -> Any:
    try:
        empty = pc.equal(column, pa.scalar(""))  # pyright: ignore[reportAttributeAccessIssue]
        filled = pc.if_else(empty, None, column)  # pyright: ignore[reportAttributeAccessIssue]
        return filled.cast(pa.float64())
    except pa.ArrowInvalid:
        return column


def _describe_error(path: Path, kind: str, error: Exception) -> str:
    """Return the reason why Arrow cannot read a file, with the row where that is known."""
    text = " ".join(str(error).split())
    if kind != "csv":
        if "duplicate field names" in text:
            return "has two columns of one name"
        return f"is no {kind} file ({text.rpartition(chr(39) + ': ')[2]})"
    with path.open("rb") as file:
        head = file.readline(2**16)
    if b"\0" in head or isinstance(error, UnicodeDecodeError) or "UTF8" in text:
        return NOT_UTF8
    if not head.strip() or "Empty CSV" in text:
        return "no rows below the header" if head.strip() else "the file is empty"
    if b"," not in head and (hint := _separator_hint(head.decode(errors="replace"))):
        return hint
    if "multiple columns named" in text:
        return f"the header has column {text.rpartition('named ')[2]!r} more than once"
    # A single thread reads more slowly, but its error names the row.
    try:
        pyarrow.csv.read_csv(path, read_options=pyarrow.csv.ReadOptions(use_threads=False))
    except pa.ArrowInvalid as row_error:
        text = " ".join(str(row_error).split())
    return text.replace("CSV parse error: ", "").replace("Row #", "line ")
