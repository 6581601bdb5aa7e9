"""Atomic writes, for models and moments that are saved: a reader sees the old file or the new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_atomically"]


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
