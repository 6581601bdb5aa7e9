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
from agd.data.tables import (
    FORMAT_BY_SUFFIX,
    check_class_count,
    check_text,
    feature_columns,
    is_boolean_type,
    is_number_text,
    is_text_type,
    read_error_text,
)

__all__ = ["Table", "read_table", "table_kind"]


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

    def feature_names(self, taken: list[str]) -> list[str]:
        """Return the columns that have no other role; the index of a frame that was saved has one."""
        return feature_columns(self.path, self.data.schema, taken)

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

    def has_labels(self, name: str) -> bool:
        """Return whether a column holds text or booleans, which are labels and no numbers."""
        return self.is_text(name) or is_boolean_type(self.data.column(name).type)

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
            if not is_number_text(value):
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

    def labels(self, name: str, loss: Loss) -> tuple[Any, list[Any]]:
        """Return a column of labels, as many as the loss has classes, as numbers from 0, and the sorted labels.

        True and false in a CSV file are text, so that a prediction is written as the table has it.
        """
        column = self.data.column(name)
        if is_boolean_type(column.type) and self.path.suffix.lower() == ".csv":
            text = _csv_format({name: pa.string()})
            column = pyarrow.dataset.dataset(self.path, format=text).to_table([name]).column(0)
        cells = column.to_pylist()
        for row, cell in enumerate(cells, start=1):
            if cell is None or cell == "":
                raise ValueError(f"{self.path}: row {row}: column {name!r} is empty here")
        values = np.asarray(cells)
        classes, codes = np.unique(values, return_inverse=True)
        check_class_count(self.path, name, loss, list(map(str, classes)), len(classes))
        return codes.astype(float), classes.tolist()


def table_kind(path: Path) -> str:
    """Return the kind of a table by its suffix; raise where there is no such file."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, need a file")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    kind = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: unknown kind of table, need one of {', '.join(FORMAT_BY_SUFFIX)}"
        )
    return kind


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
    kind = table_kind(path)
    try:
        data = _read_csv(path) if kind == "csv" else _read_columnar(path, kind)
        data.column_names  # noqa: B018 - decoded here, where the file is known
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {read_error_text(path, error)}") from error
    if kind == "csv":
        check_text(path, data.schema)
    if data.num_rows == 0:
        raise ValueError(f"{path}: no rows below the header")
    return Table(path, data)


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
