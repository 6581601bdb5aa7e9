"""Tables in files (CSV, Parquet, Feather), read in batches by ``pyarrow.dataset`` as one data set.

`agd.Stream.from_files` and the command line make a `TableBatches`, which every pass of a fit iterates over anew.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agd._typing import Loss
from agd._validation import as_choice, as_count
from agd.data.screening import MAX_CLASSES

__all__ = [
    "DEFAULT_BATCH_ROWS",
    "FORMAT_BY_SUFFIX",
    "TableBatches",
    "is_text_type",
    "name_file_in_errors",
    "open_dataset",
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
        byte = error.object[error.start]
        raise ValueError(
            f"{which}: is not UTF-8 text (byte {byte:#04x} in the header): save it as UTF-8"
        ) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and type(error) is not OSError:  # missing, not allowed
            raise
        message = " ".join(str(error).split())
        affected = [file for file in files if file in message] or list(files)
        which = affected[0] if len(affected) == 1 else f"one of {affected[0]} to {affected[-1]}"
        why = message.rpartition(f"'{affected[0]}': ")[
            2
        ]  # after the places where pyarrow passed it on
        raise ValueError(f"{which}: cannot be read: {why}") from error


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
    # A column whose first rows are integers, or missing, may have other values further down.
    with name_file_in_errors(names[:1]):
        floats = {
            field.name: pa.float64()
            for field in dataset.schema
            if pa.types.is_integer(field.type) or pa.types.is_null(field.type)
        }
    options = pads.CsvFileFormat(convert_options=pacsv.ConvertOptions(column_types=floats))
    return pads.dataset(names, format=options)


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
    if types.is_binary(kind) and Path(path).suffix.lower() == ".csv":
        raise ValueError(f"{path}: column {name!r} is not UTF-8 text: save the file as UTF-8")
    if text and is_text_type(kind):
        return
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
            or types.is_decimal(kind) or types.is_null(kind)):  # fmt: skip
        raise ValueError(f"{path}: column {name!r} must be numbers, got {kind}")


def is_text_type(kind: Any) -> bool:
    """Return whether a type of pyarrow's is of text."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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
        The sorted classes of a target that is text, which is numbered by them from 0.
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
                yield (np.stack(columns[:p], axis=-1), *columns[p:])
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
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not several:
        raise ValueError("paths must name at least one file, got none")
    data = open_dataset([Path(path) for path in several])
    with name_file_in_errors(data.files[:1]):
        names = list(data.schema.names)
    if len(set(names)) != len(names):
        raise ValueError(f"{several[0]}: columns must have different names, got {names}")
    taken = [target, *([] if weight is None else [weight])]
    chosen = _select_features(several[0], names, taken, features)
    roles = [("target", target), *(("weight", name) for name in taken[1:])]
    roles += [("features", name) for name in chosen]
    _check_distinct_roles(roles)
    data = unify_column_types(data, roles, text=text_loss is not None)
    with name_file_in_errors(data.files):
        empty = data.head(1, columns=[target]).num_rows == 0
    if empty:
        raise ValueError(f"{several[0]}: has no rows")
    labels = None
    if text_loss is not None and is_text_type(data.schema.field(target).type):
        labels = _read_classes(several[0], data, target, text_loss)
    return TableBatches(data, chosen, taken, rows, labels)


def _select_features(
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


def _encode_labels(column: Any, labels: list[str]) -> Any:
    """Return a column of classes as their positions among the labels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = column.cast(pa.string())
    positions = pc.index_in(names, value_set=pa.array(labels))  # pyright: ignore[reportAttributeAccessIssue]
    return positions.to_numpy(zero_copy_only=False).astype(float)
