"""Files that a command reads and writes: what is wrong with them, said before the work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from agd._validation.files import write_atomically

__all__ = ["check_apart", "check_target", "write_atomically"]


def check_target(name: str, path: Path) -> None:
    """Say early, before the work, that a file could not be written.

    Parameters
    ----------
    name : str
        The option that named it.
    path : Path
        Where it would go.

    Raises
    ------
    ValueError
        If the folder does not exist or cannot be written to, or the path is no ordinary file: to put
        a file in a device's place would be its end.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"{name}: the folder {folder} does not exist")
    if path.is_dir():
        raise ValueError(f"{name}: {path} is a folder, need a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"{name}: {path} is a device or a pipe, need a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{name}: {path} cannot be written to")
    try:  # what is asked of a full or a read-only disk shows only when it is tried
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be written to ({error.strerror})") from error


def check_apart(inputs: dict[str, Path], outputs: dict[str, Path | None]) -> None:
    """Say early that a file would be written over one that is read, or over another that is written.

    Parameters
    ----------
    inputs, outputs : dict
        The files of a command that are read and that are written, by their names.

    Raises
    ------
    ValueError
        If an output is one of the others.
    """
    seen = {path.resolve(): name for name, path in inputs.items()}
    for name, path in outputs.items():
        if path is None:
            continue
        first = seen.setdefault(path.resolve(), name)
        if first != name:
            raise ValueError(f"{name}: {path} is {first} already, need another file")
