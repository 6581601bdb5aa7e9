"""Files of a table, opened by ``pyarrow.dataset`` as one, with columns of the same types in all."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agd._validation import choice

__all__ = ["FORMATS", "alike", "is_text", "named", "opened"]

FORMATS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".feather": "feather",
    ".arrow": "feather",
}


@contextlib.contextmanager
def named(files: Sequence[str]) -> Iterator[None]:
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
        told = " ".join(str(error).split())
        named = [file for file in files if file in told] or list(files)
        which = named[0] if len(named) == 1 else f"one of {named[0]} to {named[-1]}"
        why = told.rpartition(f"'{named[0]}': ")[2]  # after the places where pyarrow passed it on
        raise ValueError(f"{which}: cannot be read: {why}") from error


def opened(paths: list[Path]) -> Any:
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
    with named(names):
        found = pads.dataset(names, format=kind)
    if kind != "csv":
        return found
    # A column of which the first rows are whole numbers, or missing, may have others further down.
    with named(names[:1]):
        floats = {
            field.name: pa.float64()
            for field in found.schema
            if pa.types.is_integer(field.type) or pa.types.is_null(field.type)
        }
    options = pads.CsvFileFormat(convert_options=pacsv.ConvertOptions(column_types=floats))
    return pads.dataset(names, format=options)


def alike(data: Any, roles: list[tuple[str, str]], *, text: bool) -> Any:
    """Check the columns of every file; one that is not of the same type in all is read as float64.

    With `text` the target may be text in all of them.
    """
    import pyarrow as pa
    import pyarrow.dataset as pads

    schema = data.schema
    for part in data.get_fragments():
        with named([part.path]):
            here = part.physical_schema
            here.names  # noqa: B018 - decoded here, where the file is known
        for role, name in roles:
            _check_column(part.path, here, role, name, text=text and role == "target")
            at = schema.get_field_index(name)
            one, other = here.field(name).type, schema.field(at).type
            if one != other:
                both = is_text(one) and is_text(other)
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
    if text and is_text(kind):
        return
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
            or types.is_decimal(kind) or types.is_null(kind)):  # fmt: skip
        raise ValueError(f"{path}: column {name!r} must be numbers, got {kind}")


def is_text(kind: Any) -> bool:
    """Return whether a type of pyarrow's is of text."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
