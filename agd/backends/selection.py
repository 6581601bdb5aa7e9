"""Choosing a backend and a device, and listing what is here."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd._typing import Array, Namespace
from agd.backends.backend import Backend
from agd.backends.table import TABLE
from agd.backends.transfer import no_room

__all__ = ["BackendInfo", "Selection", "available", "select"]


class BackendInfo(NamedTuple):
    """What `available` says of one backend.

    Attributes
    ----------
    name : str
        What `select` takes.
    installed : bool
        Whether the library can be imported.
    version : str
        Its version; empty where it is missing.
    devices : tuple of str
        The devices that answer.
    reason : str
        Why it cannot be used; empty where it can.
    """

    name: str
    installed: bool
    version: str
    devices: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Selection:
    """A backend and a device, ready to make arrays; what `select` returns.

    Attributes
    ----------
    backend : Backend
        The row of the table.
    xp : module
        The library's namespace of the Python Array API.
    device : object
        The library's device object; None for its default.
    device_name : str
        The device as a user writes it.
    """

    backend: Backend
    xp: Namespace
    device: Any
    device_name: str

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        """Make an array of `data` on the device.

        Parameters
        ----------
        data : array_like
            Numbers, nested lists, or a NumPy array.
        dtype : dtype, optional
            The array's dtype, of this library; by default the data's. Where the device has no
            float64, that becomes float32 and a warning says so.

        Returns
        -------
        array
            The array, in this library and on this device.

        Raises
        ------
        MemoryError
            If the device's memory does not take it.

        Examples
        --------
        >>> select("numpy").asarray([1, 2]).dtype
        dtype('int64')
        """
        host = data if hasattr(data, "dtype") else np.asarray(data)
        if dtype is None and host.dtype == np.float64:
            kinds = self.xp.__array_namespace_info__().dtypes(device=self.device)
            dtype = kinds.get("float64")
            if dtype is None:
                self.backend.narrowed(f"{self} has no float64: float32 is used instead")
                dtype = kinds["float32"]
        if isinstance(host, np.ndarray) and not self.backend.owns(host):
            host = _plain(host)
        try:
            return self.backend.convert(self.xp, host, dtype, self.device)
        except Exception as error:
            if not self.backend.out_of_memory(error):
                raise
            raise no_room(self, host) from error

    def __str__(self) -> str:
        """Give the backend and the device as one phrase."""
        return f"{self.backend.name} ({self.device_name})"


def _plain(host: Any) -> Any:
    """Copy what not every library takes: memory that is read-only, backwards or of foreign byte order."""
    backwards = any(step < 0 for step in host.strides)
    if host.dtype.isnative and host.flags.writeable and not backwards:
        return host
    return np.array(host, dtype=host.dtype.newbyteorder("="), order="C")


def _version(row: Backend) -> str:
    import importlib.metadata  # a third of what `import agd` would cost

    distribution = row.module.partition(".")[0].replace("_", "-")
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # CuPy is cupy-cuda12x, cupy-cuda13x, ...
        return str(getattr(_import(row), "__version__", "unknown"))


def _import(row: Backend) -> Any:
    try:
        return importlib.import_module(row.module)
    except ImportError as error:
        raise ImportError(
            f"backend {row.name!r} needs {row.module}, which cannot be imported ({error}): "
            f"python -m pip install {row.install}"
        ) from error


def available() -> list[BackendInfo]:
    """List every backend: whether it is installed, its version and devices, or why not.

    Libraries that are installed are imported, which can take seconds.

    Returns
    -------
    list of BackendInfo
        One for each row of the table, in its order.

    Examples
    --------
    >>> available()[0].name, available()[0].devices
    ('numpy', ('cpu',))
    """
    found = []
    for row in TABLE:
        try:
            module = _import(row)
        except ImportError:
            reason = f"not installed: python -m pip install {row.install}"
            found.append(
                BackendInfo(row.name, installed=False, version="", devices=(), reason=reason)
            )
            continue
        try:
            names, reason = tuple(row.devices(module)), ""
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the table says it
            names, reason = (), f"no device answers: {str(error).splitlines()[0]}"
        if not names and not reason:
            reason = "no device answers"
        found.append(
            BackendInfo(
                row.name, installed=True, version=_version(row), devices=names, reason=reason
            )
        )
    return found


def _row(name: str) -> Backend:
    names = [row.name for row in TABLE]
    if name in names:
        return TABLE[names.index(name)]
    near = difflib.get_close_matches(name.lower(), [*names, "auto"], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(repr(n) for n in ("auto", *names))
    raise ValueError(f"backend must be one of {known}, or one with ':device'; got {name!r}{hint}")


def _auto() -> str:
    """Name an accelerator's backend where its library is installed and a device answers."""
    for row in TABLE:
        if row.needs_device and importlib.util.find_spec(row.module) is not None:
            try:
                if row.devices(importlib.import_module(row.module)):
                    return row.name
            except Exception:  # noqa: BLE001, S112 - a broken driver means no device
                continue
    return TABLE[0].name


def select(spec: str = "auto") -> Selection:
    """Choose a backend and a device to make arrays on.

    Parameters
    ----------
    spec : str
        ``"auto"``, which takes CuPy where a CUDA device answers and NumPy elsewhere, or a backend's
        name, with a device behind a colon if wanted: ``"numpy"``, ``"cupy"``, ``"cupy:1"``,
        ``"torch"``, ``"torch:cuda:0"``, ``"jax"``, ``"dask"``, ``"array-api-strict"``.

    Returns
    -------
    Selection
        It makes arrays by its ``asarray``; nothing else changes.

    Raises
    ------
    TypeError
        If `spec` is not a string.
    ValueError
        If no backend has this name.
    ImportError
        If its library is missing; the message has the line to install it.
    RuntimeError
        If the device does not answer.

    Examples
    --------
    >>> select("nunpy")
    Traceback (most recent call last):
    ...
    ValueError: backend must be one of 'auto', ...; got 'nunpy'; did you mean 'numpy'?
    """
    if not isinstance(spec, str):
        raise TypeError(f"backend must be a string such as 'numpy', got {type(spec).__name__}")
    name, _, wanted = spec.partition(":")
    row = _row(_auto() if name == "auto" else name)
    module, names = _import(row), []
    try:
        names = row.devices(module)
        if not names:
            raise RuntimeError("no device answers")  # noqa: TRY301 - one message for every cause
        where = row.place(module, wanted)
        xp = importlib.import_module(row.namespace)
        # Devices fail late: only an array shows whether this one answers.
        row.to_numpy(row.convert(xp, [0], xp.int32, where))
    except Exception as error:
        asked = f"device {wanted!r} of " if wanted else ""
        here = f" (devices here: {', '.join(names)})" if asked and names else ""
        why = " ".join(str(error).split())
        raise RuntimeError(f"{asked}backend {row.name!r} cannot be used: {why}{here}") from error
    return Selection(row, xp, where, wanted or names[0])
