"""Checks of the files that a command reads and writes, made before it starts to compute."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from agd._validation.files import write_atomically

__all__ = ["check_distinct_files", "check_writable", "write_atomically"]


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
