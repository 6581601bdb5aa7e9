"""Tables in files (CSV, Parquet, Feather), read in batches by ``pyarrow.dataset`` as one data set.

`agd.Stream.from_files` and the command line make a `TableBatches`, which every pass of a fit iterates over anew.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agd._typing import Loss
from agd._validation import as_choice, as_count
from agd.data.checks import log_exposure
from agd.data.screening import MAX_CLASSES

__all__ = [
    "DEFAULT_BATCH_ROWS",
    "FORMAT_BY_SUFFIX",
    "TableBatches",
    "check_quotes",
    "check_text",
    "index_columns",
    "is_number_text",
    "is_text_type",
    "name_file_in_errors",
    "open_dataset",
    "read_error_text",
    "table_batches",
    "unify_column_types",
]

FORMAT_BY_SUFFIX = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".feather": "feather",
    ".arrow": "feather",
}


DEFAULT_BATCH_ROWS = 2**16


@contextlib.contextmanager
def name_file_in_errors(files: Sequence[str]) -> Iterator[None]:
    """Turn what pyarrow raises into a ValueError that names the file."""
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError as error:  # the names of columns are decoded as they are asked for
        which = files[0] if len(files) == 1 else f"one of {files[0]} to {files[-1]}"
        raise ValueError(f"{which}: {read_error_text(Path(files[0]), error)}") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and type(error) is not OSError:  # missing, not allowed
            raise
        message = " ".join(str(error).split())
        affected = [file for file in files if file in message] or list(files)
        which = affected[0] if len(affected) == 1 else f"one of {affected[0]} to {affected[-1]}"
        raise ValueError(f"{which}: {read_error_text(Path(affected[0]), error)}") from error


def open_dataset(paths: list[Path]) -> Any:
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
    files = [f for f in files if f.suffix.lower() in FORMAT_BY_SUFFIX] or files
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: there is no such file")
    if not files:
        raise ValueError(f"{paths[0]}: has no file of {', '.join(FORMAT_BY_SUFFIX)}")
    kind = FORMAT_BY_SUFFIX[
        as_choice(
            f"the suffix of {files[0].name}", files[0].suffix.lower(), tuple(FORMAT_BY_SUFFIX)
        )
    ]
    for file in files:
        if FORMAT_BY_SUFFIX.get(file.suffix.lower()) != kind:
            raise ValueError(f"paths must name files of one kind, got {files[0]} and {file}")
    names = [str(file) for file in files]
    with name_file_in_errors(names):
        dataset = pads.dataset(names, format=kind)
    if kind != "csv":
        return dataset
    for part in dataset.get_fragments():
        with name_file_in_errors([part.path]):
            check_text(Path(part.path), part.physical_schema)
    # A column whose first rows are integers, or missing, may have other values further down.
    with name_file_in_errors(names[:1]):
        floats = {
            field.name: pa.float64()
            for field in dataset.schema
            if pa.types.is_integer(field.type) or pa.types.is_null(field.type)
        }
    options = pads.CsvFileFormat(convert_options=pacsv.ConvertOptions(column_types=floats))
    return pads.dataset(names, format=options)


NOT_UTF8 = "is not UTF-8 text: save it as UTF-8"


def read_error_text(path: Path, error: Exception) -> str:
    """Return the reason why pyarrow cannot read a file, with the row where that is known."""
    kind = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    text = " ".join(str(error).split())
    if kind != "csv":
        if "duplicate field names" in text:
            return "has two columns of one name"
        return f"cannot be read as {kind}: {text.rpartition(chr(39) + ': ')[2]}"
    return _csv_error_text(path, error, text)


def _csv_error_text(path: Path, error: Exception, text: str) -> str:
    """Return the reason why pyarrow cannot read a CSV file, of which it says `text`."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    with path.open("rb") as file:
        head = file.readline(2**16)
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return NOT_UTF8.replace(":", f" (byte {byte:#04x} in the header):")
    if b"\0" in head or "UTF8" in text:
        return NOT_UTF8
    if not head.strip() or "Empty CSV" in text:
        return "no rows below the header" if head.strip() else "the file is empty"
    if b"," not in head and (hint := _separator_hint(head.decode(errors="replace"))):
        return hint
    if "multiple columns named" in text:
        return f"the header has column {text.rpartition('named ')[2]!r} more than once"
    if "conversion error" in text and (cell := _first_text_cell(path, text)):
        return cell
    if fault := _quote_fault(path):
        return fault
    # A single thread reads more slowly, but its error names the row.
    try:
        pacsv.read_csv(path, read_options=pacsv.ReadOptions(use_threads=False))
    except pa.ArrowInvalid as row_error:
        text = " ".join(str(row_error).split())
    return text.replace("CSV parse error: ", "").replace("Row #", "line ")


def _separator_hint(header: str) -> str:
    """Return a hint for a header of one column that contains another separator than a comma, else ""."""
    mark = next((mark for mark in ";\t|" if mark in header), None)
    return f"one column found; is it separated by {mark!r}? need ','" if mark else ""


def _first_text_cell(path: Path, text: str) -> str:
    """Return in words the first cell that is no number of the column that an error of pyarrow's names by its place."""
    match = re.search(r"CSV column #(\d+)", text)
    if match is None:
        return ""
    import pyarrow.dataset as pads

    name = pads.dataset(path, format="csv").schema.names[int(match[1])]
    return text_cell_in_words(path, name)


def text_cell_in_words(path: Path, name: str) -> str:
    """Return which is the first cell of a CSV file's column that is no number, "" where all are."""
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.dataset as pads

    options = pads.CsvFileFormat(
        convert_options=pacsv.ConvertOptions(column_types={name: pa.string()})
    )
    rows = 0
    for batch in pads.dataset(path, format=options).to_batches(columns=[name]):
        for row, value in enumerate(batch.column(0).to_pylist(), start=rows + 1):
            if value and not is_number_text(value):
                return f"row {row}: column {name!r} must be numbers, got {value!r}"
        rows += len(batch)
    return ""


def is_number_text(text: str) -> bool:
    """Return whether Arrow reads a cell as a number; Python accepts more, such as 1_000 and a line's end."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text == text.strip()


def check_text(path: Path, schema: Any) -> None:
    """Raise unless a CSV file is UTF-8, separated by commas, and ends its quotes, as far as its schema and bytes say."""
    import pyarrow as pa

    names = schema.names
    if any(pa.types.is_binary(kind) for kind in schema.types):
        raise ValueError(f"{path}: {NOT_UTF8}")
    if len(names) == 1 and (hint := _separator_hint(names[0])):
        raise ValueError(f"{path}: {hint}")
    check_quotes(path)


QUOTE, NEWLINE = ord('"'), ord("\n")
QUOTE_BLOCK_BYTES = 2**24


def check_quotes(path: Path) -> None:
    """Raise if a quoted cell of a CSV file has no end, or text after it: it would take the rows that follow.

    Parameters
    ----------
    path : Path
        The file. Where no line ends within quotes, it is looked through by counts of its bytes alone.

    Raises
    ------
    ValueError
        The message names the line in which the cell begins.
    """
    if fault := _quote_fault(path):
        raise ValueError(f"{path}: {fault}")


def _quote_fault(path: Path) -> str:
    """Return in words which quoted cell has no end, or text after it; "" where there is none."""
    if not _has_quoted_line_ends(path):
        return ""
    first = 1
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for _ in reader:
                first = reader.line_num + 1
        except csv.Error as error:
            return (
                f"line {first}: a cell begins with a quote that is not closed before a comma or the line's "
                f"end ({error}): it would take the rows after it"
            )
    return ""


def _has_quoted_line_ends(path: Path) -> bool:
    """Return whether a line ends where an odd number of quotes came before."""
    odd = 0
    with path.open("rb") as file:
        while block := file.read(QUOTE_BLOCK_BYTES):
            if not odd and QUOTE not in block:
                continue
            cells = np.frombuffer(block, dtype=np.uint8)
            within = (np.cumsum(cells == QUOTE) + odd) & 1
            if within[cells == NEWLINE].any():
                return True
            odd = int(within[-1])
    return False


def index_columns(schema: Any) -> list[str]:
    """Return the columns of a file of pandas' that are the index of the frame that was saved.

    Parameters
    ----------
    schema : pyarrow.Schema
        Its metadata say so.

    Returns
    -------
    list of str
        The columns; none of a file that has no such metadata, and of an index that is no column.
    """
    text = (schema.metadata or {}).get(b"pandas", b"{}")
    try:
        columns = json.loads(text).get("index_columns", [])
    except (ValueError, AttributeError):  # metadata that others have written
        return []
    return [name for name in columns if isinstance(name, str) and name in schema.names]


def feature_columns(path: Any, schema: Any, taken: list[str]) -> list[str]:
    """Return the columns that are features where none is named: all but those taken and the index of a frame."""
    index = [name for name in index_columns(schema) if name not in taken]
    named = [name for name in index if not name.startswith("__index_level_")]
    if named:
        warnings.warn(
            f"{path}: {', '.join(map(repr, named))} is the index of the frame that was saved, and no feature: name "
            f"the columns by features=[...] if it is one",
            UserWarning,
            stacklevel=2,
        )
    return [name for name in schema.names if name not in (*taken, *index)]


def unify_column_types(data: Any, roles: list[tuple[str, str]], *, text: bool) -> Any:
    """Check the columns of every file; one that is not of the same type in all is read as float64.

    With `text` the target may be text in all of them.
    """
    import pyarrow as pa
    import pyarrow.dataset as pads

    schema = data.schema
    for part in data.get_fragments():
        with name_file_in_errors([part.path]):
            part_schema = part.physical_schema
            part_schema.names  # noqa: B018 - decoded here, where the file is known
        for role, name in roles:
            _check_column(part.path, part_schema, role, name, text=text and role == "target")
            at = schema.get_field_index(name)
            one, other = part_schema.field(name).type, schema.field(at).type
            if one != other:
                both = is_text_type(one) and is_text_type(other)
                schema = schema.set(at, pa.field(name, pa.string() if both else pa.float64()))
    if schema.equals(data.schema):
        return data
    return pads.dataset(data.files, format=data.format, schema=schema)


def _check_column(path: str, schema: Any, role: str, name: str, *, text: bool) -> None:
    import pyarrow as pa

    if name not in schema.names:
        near = difflib.get_close_matches(name, schema.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{path}: {role} {name!r} is no column{hint} (there are {', '.join(map(repr, schema.names))})"
        )
    kind, types = schema.field(name).type, pa.types
    if text and is_text_type(kind):
        return
    if is_text_type(kind) and Path(path).suffix.lower() == ".csv":
        where = text_cell_in_words(Path(path), name) or f"column {name!r} must be numbers, got text"
        raise ValueError(f"{path}: {where}")
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
            or types.is_decimal(kind) or types.is_null(kind)):  # fmt: skip
        raise ValueError(f"{path}: column {name!r} must be numbers, got {kind}")


def is_text_type(kind: Any) -> bool:
    """Return whether a type of pyarrow's is of text."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_boolean_type(kind: Any) -> bool:
    """Return whether a type of pyarrow's is of true and false."""
    import pyarrow as pa

    return bool(pa.types.is_boolean(kind))


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
        The target, and the weights, and the offsets or exposures, if there are any.
    rows : int
        The most rows in a batch.
    labels : list of str or bool, or None
        The sorted classes of a target that is text or booleans, which is numbered by them from 0.
    weighted : bool
        Whether there are weights.
    exposure : bool
        Whether the last of the others is an exposure, whose logarithm is the offset.
    """

    data: Any
    features: list[str]
    others: list[str]
    rows: int
    labels: list[Any] | None = None
    weighted: bool = False
    exposure: bool = False

    def __call__(self) -> Iterator[tuple[Any, ...]]:
        """Return an iterator over (X, y), (X, y, weight) or (X, y, weight, offset), of NumPy arrays of float64.

        A weight is None where there are offsets and no weights.

        Raises
        ------
        ValueError
            For a file that cannot be read on: it names the file.
        """
        # Little is read ahead, since batches that wait take the memory that streaming is to save.
        batches = self.data.to_batches(
            columns=[*self.features, *self.others],
            batch_size=self.rows,
            batch_readahead=2,
            fragment_readahead=1,
        )
        p = len(self.features)
        with name_file_in_errors(self.data.files):
            for batch in batches:
                columns = [self._column(i, batch.column(i)) for i in range(batch.num_columns)]
                rest = columns[p:]
                if self.exposure:
                    rest[-1] = log_exposure(rest[-1])
                if len(rest) > 1 and not self.weighted:
                    rest.insert(1, None)
                yield (np.stack(columns[:p], axis=-1), *rest)
                del batch, columns  # before the next ones are read

    def _column(self, i: int, column: Any) -> Any:
        if i == len(self.features) and self.labels is not None:
            return _encode_labels(column, self.labels)
        return _as_float64(column)


def table_batches(
    paths: str | Path | Sequence[str | Path],
    target: str,
    *,
    features: Sequence[str] | None = None,
    weight: str | None = None,
    offset: str | None = None,
    exposure: str | None = None,
    batch_rows: int = DEFAULT_BATCH_ROWS,
    text_loss: Loss | None = None,
) -> TableBatches:
    """Open a table that is gone through in batches; the other parameters as of `Stream.from_files`.

    Parameters
    ----------
    text_loss : Loss, optional
        The loss of classes for which the target may be text; a pass over that column finds its labels.

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
    rows = as_count("batch_rows", batch_rows)
    several = [paths] if isinstance(paths, (str, Path)) else _list_paths(paths)
    if not several:
        raise ValueError("paths must name at least one file, got none")
    data = open_dataset([Path(path) for path in several])
    with name_file_in_errors(data.files[:1]):
        names = list(data.schema.names)
    if len(set(names)) != len(names):
        raise ValueError(f"{several[0]}: columns must have different names, got {names}")
    if offset is not None and exposure is not None:
        raise ValueError("offset and exposure are given: add log(exposure) to the offset")
    columns = {"target": target, "weight": weight, "offset": offset, "exposure": exposure}
    roles = [(role, name) for role, name in columns.items() if name is not None]
    taken = [name for _, name in roles]
    chosen = _select_features(several[0], data.schema, taken, features)
    roles += [("features", name) for name in chosen]
    _check_distinct_roles(roles)
    data = unify_column_types(data, roles, text=text_loss is not None)
    if text_loss is not None and data.format.default_extname == "csv":
        data = _read_booleans_as_text(data, target)
    with name_file_in_errors(data.files):
        empty = data.head(1, columns=[target]).num_rows == 0
    if empty:
        raise ValueError(f"{several[0]}: no rows below the header")
    labels: list[Any] | None = None
    kind = data.schema.field(target).type
    if text_loss is not None and is_text_type(kind):
        labels = _read_classes(several[0], data, target, text_loss)
    elif text_loss is not None and is_boolean_type(kind):
        labels = [False, True]
    return TableBatches(
        data,
        chosen,
        taken,
        rows,
        labels,
        weighted=weight is not None,
        exposure=exposure is not None,
    )


def _read_booleans_as_text(data: Any, name: str) -> Any:
    """Return a dataset of CSV files whose labels true and false are read as they are written."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    at = data.schema.get_field_index(name)
    if not is_boolean_type(data.schema.field(at).type):
        return data
    schema = data.schema.set(at, pa.field(name, pa.string()))
    return pads.dataset(data.files, format=data.format, schema=schema)


def _list_paths(paths: Any) -> list[Any]:
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | Path) for path in paths):
        raise TypeError(
            f"paths must be a path or a list of paths, got {paths!r} ({type(paths).__name__})"
        )
    return list(paths)


def _select_features(
    path: Any, schema: Any, taken: list[str], features: Sequence[str] | None
) -> list[str]:
    """Return the features; all columns that are not taken, where they are not named."""
    if isinstance(features, str) or not (features is None or isinstance(features, Sequence)):
        raise TypeError(
            f"features must be a list of columns, got {features!r} ({type(features).__name__})"
        )
    if features is None:
        chosen = feature_columns(path, schema, taken)
        if "" in chosen:  # as an index that was written beside the columns
            raise ValueError(
                f"{path}: column {schema.names.index('') + 1} has no name in the header: give it one, or say by "
                f"features=[...] which columns to use"
            )
    else:
        chosen = list(features)
    if not chosen:
        raise ValueError(f"{path}: no column is left to be a feature")
    return chosen


def _check_distinct_roles(roles: list[tuple[str, str]]) -> None:
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


def _as_float64(column: Any) -> Any:
    """Return a column of a batch as float64; what is missing as NaN."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _read_classes(path: Any, data: Any, name: str, loss: Loss) -> list[str]:
    """Return the classes of a column of text, sorted, from a pass over it alone."""
    import pyarrow as pa

    seen: set[str] = set()
    most, rows = max_class_count(loss), 0
    with name_file_in_errors(data.files):
        for batch in data.to_batches(columns=[name]):
            column = batch.column(0).cast(pa.string())
            labels = column.unique().to_pylist()
            if not all(labels):
                empty = next(i for i, cell in enumerate(column.to_pylist(), start=1) if not cell)
                raise ValueError(f"{path}: row {rows + empty}: column {name!r} is empty here")
            seen.update(labels)
            rows += len(column)
            if (
                len(seen) > most
            ):  # to know how many more there are would take the memory of them all
                break
    count = f"{most + 1:,} or more" if len(seen) > most else len(seen)
    check_class_count(path, name, loss, sorted(seen), count)
    return sorted(seen)


def max_class_count(loss: Loss) -> int:
    """Return the most labels that a target may have for a loss of classes."""
    return MAX_CLASSES if loss.classes in (None, math.inf) else int(loss.classes or 0)


def check_class_count(path: Any, name: str, loss: Loss, labels: list[str], count: Any) -> None:
    """Raise ValueError unless a column of text has as many labels as the loss may have classes."""
    any_number = loss.classes == math.inf
    most = max_class_count(loss)
    if (2 if any_number else most) <= len(labels) <= most:
        return
    need = f"two classes or more, and at most {most:,}," if any_number else "two classes"
    some = ", ".join(map(repr, labels[:4]))
    raise ValueError(
        f"{path}: column {name!r} must have {need} for {loss.name}, got {count} ({some})"
    )


def _encode_labels(column: Any, labels: list[Any]) -> Any:
    """Return a column of classes as their positions among the labels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_boolean_type(column.type):
        return _as_float64(column)

    names = column.cast(pa.string())
    positions = pc.index_in(names, value_set=pa.array(labels))  # pyright: ignore[reportAttributeAccessIssue]
    return positions.to_numpy(zero_copy_only=False).astype(float)
