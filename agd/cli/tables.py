"""Tables: CSV, Parquet and Feather, read with pyarrow.dataset; numbers out, or one clear error."""

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

from agd.data.tables import FORMATS, is_text

__all__ = ["Table", "read"]

NOT_UTF8 = "is not UTF-8 text: save it as UTF-8"


@dataclass(frozen=True)
class Table:
    """A table that was read: columns by name, and the file for messages.

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

    def require(self, option: str, names: list[str]) -> None:
        """Raise if a column is missing, with the nearest name."""
        for name in names:
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"{self.path}: {option} {name!r} is no column{hint} (there are "
                    f"{', '.join(map(repr, self.names))})"
                )

    def is_text(self, name: str) -> bool:
        """Return whether a column holds text."""
        return is_text(self.data.column(name).type)

    def numbers(self, name: str, hint: str = "") -> Any:
        """Return a column as float64, or say what in it is no finite number, and in which row.

        Parameters
        ----------
        name : str
            The column.
        hint : str
            What to add where there is text.

        Returns
        -------
        numpy.ndarray, shape (rows,)
            Its values.
        """
        column = self.data.column(name)
        if self.is_text(name):
            self._no_text(name, hint)
        kind = column.type
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_null(kind)
        ):
            raise ValueError(f"{self.path}: column {name!r} must be numbers, got {kind}")
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        # Integers beyond 2^53 are rounded, as everywhere that a table becomes float64.
        # Arrow's own memory is read-only, which some libraries do not take: hence the copy.
        found = np.array(column.cast(pa.float64(), safe=False).to_numpy())
        self._finite(name, found)
        return found

    def _no_text(self, name: str, hint: str) -> None:
        column = self.data.column(name)
        for row, value in enumerate(column.to_pylist(), start=1):
            if value is None:
                continue
            if not _is_number(value):
                raise ValueError(
                    f"{self.path}: row {row}: column {name!r} must be numbers, got {value!r}{hint}"
                )
        raise ValueError(f"{self.path}: column {name!r} must be numbers, got text{hint}")

    def _finite(self, name: str, found: Any) -> None:
        bad = np.flatnonzero(~np.isfinite(found))
        if not bad.size:
            return
        first = int(bad[0])
        kind = "empty or NaN" if np.isnan(found[first]) else "infinite or too large"
        cells = "cell" if bad.size == 1 else "cells, the first"
        raise ValueError(
            f"{self.path}: row {first + 1}: column {name!r} has {bad.size} {kind} {cells} here"
        )

    def matrix(self, names: list[str], hint: str = "") -> Any:
        """Return columns side by side as float64, shape (rows, len(names)); `hint` as in `numbers`."""
        found = np.empty((self.rows, len(names)))
        for i, name in enumerate(names):
            found[:, i] = self.numbers(name, hint)
        return found

    def labels(self, name: str) -> tuple[Any, list[str]]:
        """Return a text column of two classes as 0 and 1, and the sorted classes."""
        column = self.data.column(name)
        cells = column.to_pylist()
        for row, cell in enumerate(cells, start=1):
            if not cell:
                raise ValueError(f"{self.path}: row {row}: column {name!r} is empty here")
        values = np.asarray(cells)
        classes, codes = np.unique(values, return_inverse=True)
        if len(classes) != 2:
            some = ", ".join(repr(str(c)) for c in classes[:4])
            raise ValueError(
                f"{self.path}: column {name!r} must have two classes for log_loss, got "
                f"{len(classes)} ({some})"
            )
        return codes.astype(float), [str(c) for c in classes]


def read(path: Path) -> Table:
    """Read a table whole.

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
        For a file that is missing, empty, broken or ragged; the message has the row where one is
        wrong.
    """
    kind = FORMATS.get(path.suffix.lower())
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, need a file")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if kind is None:
        raise ValueError(f"{path}: unknown kind of table, need one of {', '.join(FORMATS)}")
    try:
        data = _csv(path) if kind == "csv" else _columnar(path, kind)
        names = data.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {_reason(path, kind, error)}") from error
    if kind == "csv":
        if any(pa.types.is_binary(column.type) for column in data.columns):
            raise ValueError(f"{path}: {NOT_UTF8}")
        if len(names) == 1 and (hint := _separator(names[0])):
            raise ValueError(f"{path}: {hint}")
    if data.num_rows == 0:
        raise ValueError(f"{path}: no rows below the header")
    return Table(path, data)


def _is_number(text: str) -> bool:
    """Return whether a cell is a number to Arrow: Python takes more, such as 1_000 and a line's end."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text == text.strip()


def _separator(header: str) -> str:
    """Ask about a header that is one column, by what it seems to be separated by."""
    found = next((mark for mark in ";\t|" if mark in header), None)
    return f"one column found; is it separated by {found!r}? need ','" if found else ""


def _columnar(path: Path, kind: str) -> Any:
    reader: Any = kind
    return pyarrow.dataset.dataset(path, format=reader).to_table()


def _csv(path: Path) -> Any:
    """Read by the types that the first block shows; where a later row has another, by text."""
    found = pyarrow.dataset.dataset(path, format=_csv_format({}))
    # Of whole numbers Arrow reads hexadecimal ones too, 0x10 as 16; of floats it does not.
    kinds = [pa.float64() if pa.types.is_integer(f.type) else f.type for f in found.schema]
    schema = pa.schema(list(zip(found.schema.names, kinds, strict=True)))
    try:
        return pyarrow.dataset.dataset(path, schema, format=found.format).to_table()
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


def _reason(path: Path, kind: str, error: Exception) -> str:
    """Word what Arrow says of a file it cannot read, with the row where that is known."""
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
    if b"," not in head and (hint := _separator(head.decode(errors="replace"))):
        return hint
    if "multiple columns named" in text:
        return f"the header has column {text.rpartition('named ')[2]!r} more than once"
    try:  # one thread reads slower, and knows the row
        pyarrow.csv.read_csv(path, read_options=pyarrow.csv.ReadOptions(use_threads=False))
    except pa.ArrowInvalid as again:
        text = " ".join(str(again).split())
    return text.replace("CSV parse error: ", "").replace("Row #", "line ")
