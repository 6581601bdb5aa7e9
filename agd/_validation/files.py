"""Files that are written: checks before a long computation, and atomic writes after it.

Models, moments, predictions and pictures are saved by these: a reader sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["check_distinct_files", "check_writable", "name_option_in_errors", "write_atomically"]


def check_writable(name: str, path: Path) -> None:
    """Raise if a file cannot be written, so that a long fit does not end with its result lost.

    Parameters
    ----------
    name : str
        The option that names the file.
    path : Path
        The file to be written.

    Raises
    ------
    ValueError
        If the folder does not exist or cannot be written to, or if the path is a device or a pipe, which a
        file would replace.
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
    # Only an attempt shows that a disk is full or read-only.
    try:
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be written to ({error.strerror})") from error


def check_distinct_files(inputs: dict[str, Path], outputs: dict[str, Path | None]) -> None:
    """Raise if a command would write over a file that it reads, or write two files to one path.

    Parameters
    ----------
    inputs, outputs : dict
        The files that the command reads and writes, by what its messages call them.

    Raises
    ------
    ValueError
        If an output is the same file as another one.
    """
    name_by_path = {path.resolve(): name for name, path in inputs.items()}
    for name, path in outputs.items():
        if path is None:
            continue
        first = name_by_path.setdefault(path.resolve(), name)
        if first != name:
            raise ValueError(f"{name}: {path} is {first} already, need another file")


@contextlib.contextmanager
def name_option_in_errors(name: str, path: Path) -> Iterator[None]:
    """Turn an error of the system, such as that of a full disk, into one that names the option and its file."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{name}: {path} cannot be written to ({error.strerror or error})"
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a process that is killed leaves the old file or the new one, never a part.

    Parameters
    ----------
    path : Path
        The file.
    write : callable
        ``write(file)`` writes its bytes.
    """
    path = path.resolve()  # of a symbolic link the target is replaced, not the link
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(_file_mode(path))
        os.replace(name, path)  # noqa: PTH105 - the call that is atomic
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - as above
        raise
    _sync_folder(path.parent)


def _file_mode(path: Path) -> int:
    """Return the old file's permissions, or those of a new file, since mkstemp's are the owner's alone."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Make the new directory entry durable, so that it survives a power failure."""
    if os.name != "posix":  # pragma: no cover - elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
