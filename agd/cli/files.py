"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

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


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a killed run leaves the old one or the new one, never half.

    Parameters
    ----------
    path : Path
        The file.
    write : callable
        ``write(file)`` writes its bytes.
    """
    path = path.resolve()  # a link stays one: what it points to is replaced
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(_mode(path))
        os.replace(name, path)  # noqa: PTH105 - the one call that the promise rests on
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - as above
        raise
    _sync_folder(path.parent)


def _mode(path: Path) -> int:
    """Return the old file's mode, or what a new file would get: mkstemp's is the owner's alone."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # pragma: no cover - elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
