"""Selection of a backend and a device by name, and the list of those that are available."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd.backends.backend import Backend
from agd.backends.table import TABLE
from agd.backends.transfer import out_of_memory_error

__all__ = ["BackendInfo", "Selection", "available", "select"]


class BackendInfo(NamedTuple):
    """What `available` reports of one backend.

    Attributes
    ----------
    name : str
        What `select` takes.
    installed : bool
        Whether the library can be imported.
    version : str
        Its version; empty if it is not installed.
    devices : tuple of str
        The devices that respond.
    reason : str
        Why it cannot be used; empty if it can.
    """

    name: str
    installed: bool
    version: str
    devices: tuple[str, ...]
    reason: str


@dataclass(frozen=True, repr=False)
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
    xp: Any
    device: Any
    device_name: str

    def asarray(self, data: Any, dtype: Any = None) -> Any:
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
            If the array does not fit in the device's memory.

        Examples
        --------
        >>> select("numpy").asarray([1, 2]).dtype
        dtype('int64')
        """
        host = data if hasattr(data, "dtype") else np.asarray(data)
        if dtype is None and host.dtype == np.float64:
            dtypes = self.xp.__array_namespace_info__().dtypes(device=self.device)
            dtype = dtypes.get("float64")
            if dtype is None:
                self.backend.warn_narrowing(f"{self} has no float64: float32 is used instead")
                dtype = dtypes["float32"]
        if isinstance(host, np.ndarray) and not self.backend.owns(host):
            host = _as_standard_layout(host)
        try:
            return self.backend.convert(self.xp, host, dtype, self.device)
        except Exception as error:
            if not self.backend.is_out_of_memory(error):
                raise
            raise out_of_memory_error(self, host) from error

    def __reduce__(self) -> Any:
        """Pickle and copy what was selected: modules and devices belong to a process."""
        return select, (f"{self.backend.name}:{self.device_name}",)

    def __repr__(self) -> str:
        """Give the call that selects the same, in one line."""
        return f"agd.backends.select({f'{self.backend.name}:{self.device_name}'!r})"

    def __str__(self) -> str:
        """Give the backend and the device as one phrase."""
        return f"{self.backend.name} ({self.device_name})"


def _as_standard_layout(host: Any) -> Any:
    """Copy what not every library reads: memory that is read-only, byte-swapped or of negative strides."""
    reversed_axes = any(stride < 0 for stride in host.strides)
    if host.dtype.isnative and host.flags.writeable and not reversed_axes:
        return host
    return np.array(host, dtype=host.dtype.newbyteorder("="), order="C")


def _version(row: Backend) -> str:
    # Imported here, since it would be a third of the time that `import agd` takes.
    import importlib.metadata

    distribution = row.module.partition(".")[0].replace("_", "-")
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # CuPy's distributions are cupy-cuda12x, ...
        return str(getattr(_import_library(row), "__version__", "unknown"))


def _import_library(row: Backend) -> Any:
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
    infos = []
    for row in TABLE:
        try:
            module = _import_library(row)
        except ImportError:
            reason = f"not installed: python -m pip install {row.install}"
            infos.append(
                BackendInfo(row.name, installed=False, version="", devices=(), reason=reason)
            )
            continue
        try:
            names, reason = tuple(row.devices(module)), ""
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is the reason
            names, reason = (), f"no device answers: {str(error).splitlines()[0]}"
        if not names and not reason:
            reason = "no device answers"
        infos.append(
            BackendInfo(
                row.name, installed=True, version=_version(row), devices=names, reason=reason
            )
        )
    return infos


def _row_by_name(name: str, argument: str) -> Backend:
    names = [row.name for row in TABLE]
    if name in names:
        return TABLE[names.index(name)]
    matches = difflib.get_close_matches(name.lower(), [*names, "auto"], n=1)
    hint = f"; did you mean {matches[0]!r}?" if matches else ""
    choices = ", ".join(repr(n) for n in ("auto", *names))
    raise ValueError(
        f"{argument} must be one of {choices}, or one with ':device'; got {name!r}{hint}"
    )


def _auto_backend() -> str:
    """Return an accelerator's backend if its library is installed and a device responds, else NumPy."""
    for row in TABLE:
        if row.needs_accelerator and importlib.util.find_spec(row.module) is not None:
            try:
                if row.devices(importlib.import_module(row.module)):
                    return row.name
            except Exception:  # noqa: BLE001, S112 - a broken driver means no device
                continue
    return TABLE[0].name


def select(spec: str = "auto", argument: str = "backend") -> Selection:
    """Select a backend and a device to make arrays on.

    Parameters
    ----------
    spec : str
        ``"auto"``, which selects CuPy if a CUDA device responds and NumPy otherwise, or a backend's
        name, optionally with a device after a colon: ``"numpy"``, ``"cupy"``, ``"cupy:1"``,
        ``"torch"``, ``"torch:cuda:0"``, ``"jax"``, ``"dask"``, ``"array-api-strict"``.
    argument : str
        What an error calls it.

    Returns
    -------
    Selection
        Its ``asarray`` makes arrays; no global state changes.

    Raises
    ------
    TypeError
        If `spec` is not a string.
    ValueError
        If no backend has this name.
    ImportError
        If its library is missing; the message has the command that installs it.
    RuntimeError
        If the device does not respond.

    Examples
    --------
    >>> select("nunpy")
    Traceback (most recent call last):
    ...
    ValueError: backend must be one of 'auto', ...; got 'nunpy'; did you mean 'numpy'?
    """
    if not isinstance(spec, str):
        raise TypeError(f"{argument} must be a string such as 'numpy', got {type(spec).__name__}")
    name, _, device_name = spec.partition(":")
    row = _row_by_name(_auto_backend() if name == "auto" else name, argument)
    module, names = _import_library(row), list[str]()
    try:
        names = row.devices(module)
        if not names:
            raise RuntimeError("no device answers")  # noqa: TRY301 - all causes share a message
        device = row.get_device(module, device_name)
        xp: Any = importlib.import_module(row.namespace)
        # A broken device fails as late as at its first array.
        row.to_numpy(row.convert(xp, [0], xp.int32, device))
    except Exception as error:
        subject = f"device {device_name!r} of " if device_name else ""
        hint = f" (devices here: {', '.join(names)})" if device_name and names else ""
        cause = " ".join(str(error).split())
        raise RuntimeError(
            f"{subject}backend {row.name!r} cannot be used: {cause}{hint}"
        ) from error
    return Selection(row, xp, device, device_name or names[0])
