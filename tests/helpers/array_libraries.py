"""The array libraries that the tests run on: one row each, from which the `xp` fixture is made."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from agd import backends

SESSION = os.environ.get("AGD_TEST_BACKEND", "")
"""The session whose tests are run: an array library, or ``quick``; empty where all are."""


@dataclass(frozen=True)
class Xp:
    """An array library as a test uses it: it makes arrays, and reads them for assertions."""

    name: str
    ns: Any
    device: Any
    dtype: Any
    make: Callable[[Any], Any]

    @property
    def rtol(self) -> float:
        """The relative tolerance that sums over a few hundred rows can meet."""
        return 1e-4 if str(self.dtype).endswith("float32") else 1e-11

    @property
    def host_dtype(self) -> Any:
        return np.dtype(str(self.dtype).rpartition(".")[2])

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """Make an array; numbers become the library's widest float, booleans and integers stay."""
        host = np.asarray(data)
        if host.dtype.kind == "f":
            host = host.astype(self.host_dtype)
        array = self.make(host)
        return array if dtype is None else self.ns.astype(array, dtype)

    def to_numpy(self, array: Any) -> Any:
        return np.array(backends.to_numpy(array))


def _readonly(host: Any) -> Any:
    array = np.array(host)
    array.setflags(write=False)
    return array


def _plain(spec: str) -> Xp:
    chosen = backends.select(spec)
    kinds = chosen.xp.__array_namespace_info__().dtypes(device=chosen.device)
    dtype = kinds.get("float64", kinds["float32"])
    return Xp(spec, chosen.xp, chosen.device, dtype, chosen.asarray)


def _numpy_readonly() -> Xp:
    plain = _plain("numpy")
    return Xp("numpy:readonly", plain.ns, None, plain.dtype, _readonly)


def _dask() -> Xp:
    import dask.array as da

    def make(host: Any) -> Any:
        rows = max(1, -(-host.shape[0] // 3)) if host.ndim else ()
        return da.from_array(host, chunks=(rows, *host.shape[1:]) if host.ndim else ())

    plain = _plain("dask")
    return Xp("dask", plain.ns, None, plain.dtype, make)


def _jax(device: str) -> Xp:
    import jax

    jax.config.update("jax_enable_x64", True)
    return _plain(f"jax:{device}")


@contextmanager
def _no_flags() -> Iterator[None]:
    yield


@contextmanager
def _strictest() -> Iterator[None]:
    import array_api_strict as strict

    with strict.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False):
        yield


@dataclass(frozen=True)
class Variant:
    """A row: its session, the module that it needs, how it is made, and the flags that hold in a test."""

    session: str
    module: str
    make: Callable[[], Xp]
    flags: Callable[[], Any] = _no_flags


def _strict(device: str) -> Callable[[], Xp]:
    return lambda: _plain(f"array-api-strict:{device}" if device else "array-api-strict")


VARIANTS = {
    "numpy": Variant("numpy", "numpy", lambda: _plain("numpy")),
    "numpy:readonly": Variant("numpy", "numpy", _numpy_readonly),
    "strict": Variant("strict", "array_api_strict", _strict("")),
    "strict:device1": Variant("strict", "array_api_strict", _strict("device1"), _strictest),
    "strict:no_float64": Variant("strict", "array_api_strict", _strict("no_float64"), _strictest),
    "torch": Variant("torch", "torch", lambda: _plain("torch")),
    "jax": Variant("jax", "jax", lambda: _jax("cpu")),
    "dask": Variant("dask", "dask.array", _dask),
    "cupy": Variant("cupy", "cupy", lambda: _plain("cupy")),
    "torch:cuda": Variant("torch:cuda", "torch", lambda: _plain("torch:cuda")),
    "jax:cuda": Variant("jax:cuda", "jax", lambda: _jax("cuda")),
}
ON_GPU = ("cupy", "torch:cuda", "jax:cuda")  # sessions

# Read-only arrays serve where writable ones do, and a device that the host cannot reach, with the flags
# that forbid most, is stricter than the standard's default: the quick session does with these.
QUICK_VARIANTS = ("numpy:readonly", "strict:device1", "strict:no_float64")
QUICK_SESSIONS = ("numpy", "strict")


def runs_session(session: str) -> bool:
    """Return whether the tests of an array library are among those that are run."""
    return session in QUICK_SESSIONS if SESSION == "quick" else SESSION in {"", session}


def tested_variants() -> list[str]:
    """Return the variants that the `xp` fixture gives in this run."""
    if SESSION == "quick":
        return list(QUICK_VARIANTS)
    return [name for name, variant in VARIANTS.items() if runs_session(variant.session)]


@functools.cache
def missing(session: str) -> str:
    """Return why the library of a session cannot be used on this machine; empty where it can."""
    module = next(v.module for v in VARIANTS.values() if v.session == session)
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return f"{module} is not installed"
    if session not in ON_GPU:
        return ""
    info = next(b for b in backends.available() if b.name == session.partition(":")[0])
    if info.name != "cupy" and not any(name.startswith(("cuda", "gpu")) for name in info.devices):
        return f"no CUDA device answers to {info.name}"
    return info.reason
