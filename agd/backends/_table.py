"""The rows: with `_autodiff` beside it, the only file that names an array library.

A new backend is a row of `TABLE` here and a row of ``tests/backends.py``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat as compat
import numpy as np
import optree

from agd._typing import Array, Namespace, Tree
from agd.backends import _autodiff
from agd.backends._row import Backend

__all__ = ["PROCESS_DEFAULTS", "TABLE"]

# The environment of a process that is agd's own, such as its command line: a table's numbers are
# float64, which JAX narrows unless told not to before it is imported.
PROCESS_DEFAULTS = {"JAX_ENABLE_X64": "1"}

CACHE_BLOCK = 2 * 2**20  # bytes: a block this size is still in cache for its second product


def _convert(xp: Namespace, data: Any, dtype: Any, where: Any) -> Array:
    return xp.asarray(data, dtype=dtype, device=where)


def _whole(_: Array) -> int | None:
    return None


# -- NumPy ---------------------------------------------------------------------------------------


def _only(*names: str) -> Callable[[Any, str], Any]:
    """Place for a library with fixed device names, the first of which is its default (None)."""

    def place(_: Any, name: str) -> Any:
        if name and name not in names:
            raise RuntimeError("there is no such device")
        return None

    return place


# -- CuPy ----------------------------------------------------------------------------------------


def _cupy_devices(cupy: Any) -> list[str]:
    return [str(i) for i in range(cupy.cuda.runtime.getDeviceCount())]


def _cupy_place(cupy: Any, name: str) -> Any:
    index = name.removeprefix("cuda:")
    if index and index not in _cupy_devices(cupy):
        raise RuntimeError("there is no such device")
    return cupy.cuda.Device(int(index or 0))


def _cupy_convert(xp: Namespace, data: Any, dtype: Any, where: Any) -> Array:
    import cupy

    # CuPy puts an array on the current device; its asarray has no say in that.
    with where if where is not None else cupy.cuda.Device():
        return xp.asarray(data, dtype=dtype)


# -- PyTorch -------------------------------------------------------------------------------------


def _torch_devices(torch: Any) -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def _torch_place(torch: Any, name: str) -> Any:
    return torch.device(name or "cpu")


def _torch_to_numpy(x: Array) -> Any:
    return x.detach().cpu().numpy()


def _torch_block_bytes(x: Array) -> int | None:
    return CACHE_BLOCK if x.device.type == "cpu" else None


# -- JAX -----------------------------------------------------------------------------------------


def _jax_devices(jax: Any) -> list[str]:
    return [f"{d.platform}:{d.id}" for d in jax.devices()]


def _jax_place(jax: Any, name: str) -> Any:
    platform, _, index = name.partition(":")
    known = {str(device.id): device for device in jax.devices(platform or None)}
    if index and index not in known:
        raise RuntimeError("there is no such device")
    return known[index] if index else next(iter(known.values()))


@functools.cache  # once: the setting is the process's, and so is the warning
def _jax_narrowed(_: str) -> None:
    warnings.warn(
        "JAX narrows float64 to float32: results carry about 7 digits. For double precision call "
        'jax.config.update("jax_enable_x64", True) before any array is made',
        UserWarning,
        stacklevel=4,
    )


@functools.cache  # one compiled function for each of ours, so that a second fit traces nothing
def _jax_compile(f: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    compiled: Callable[..., Any] = jax.jit(f, static_argnums=0)
    return compiled


# -- Dask ----------------------------------------------------------------------------------------


def _dask_to_numpy(x: Array) -> Any:
    return _chunk_to_numpy(x.compute())


def _chunk_to_numpy(x: Array) -> Any:
    return x.get() if compat.is_cupy_array(x) else np.asarray(x)


def _dask_chunks(*arrays: Array) -> list[Any]:
    """Cut arrays that share their rows (the first axis) into a list of tuples of delayed blocks."""
    columns: list[list[Any]] = []
    for x in arrays:
        if x is None:
            columns.append([None] * len(columns[0]))
            continue
        whole_rows = x.rechunk(dict.fromkeys(range(1, x.ndim), -1)) if x.ndim > 1 else x
        columns.append(list(whole_rows.to_delayed().ravel()))
    return list(zip(*columns, strict=True))


def _dask_each(f: Callable[..., Tree], blocks: Sequence[Any]) -> list[Any]:
    import dask.base
    from dask.delayed import delayed

    each, compute = delayed(f, pure=False), getattr(dask.base, "compute")  # noqa: B009 - untyped
    return list(compute(*(each(*block) for block in blocks)))


def _dask_reduce(f: Callable[..., Tree], blocks: Sequence[Any], add: Callable[..., Tree]) -> Tree:
    """Run one graph: f on every block where it lives, the results added up in a tree."""
    from dask.delayed import delayed

    each, merge = delayed(f, pure=False), delayed(add, pure=False)
    parts = [each(*block) for block in blocks]
    while len(parts) > 1:
        parts = [merge(parts[i : i + 8]) for i in range(0, len(parts), 8)]
    return parts[0].compute()


def _dask_settle(tree: Tree) -> Tree:
    import dask.base

    leaves, structure = optree.tree_flatten(tree)
    persist = getattr(dask.base, "persist")  # noqa: B009 - untyped
    return optree.tree_unflatten(structure, persist(*leaves))


# -- array-api-strict ----------------------------------------------------------------------------


def _strict_devices(strict: Any) -> list[str]:
    names = strict.__array_namespace_info__().devices()
    return [str(d).partition("'")[2].partition("'")[0] for d in names]


def _strict_place(strict: Any, name: str) -> Any:
    return strict.Device(name or "CPU_DEVICE")


def _strict_to_numpy(x: Array) -> Any:
    cpu = compat.array_namespace(x).Device("CPU_DEVICE")
    return np.asarray(x if x.device == cpu else x.to_device(cpu))


# -- the table -----------------------------------------------------------------------------------

TABLE: tuple[Backend, ...] = (
    Backend(
        name="numpy",
        module="numpy",
        namespace="array_api_compat.numpy",
        install="numpy",
        owns=compat.is_numpy_array,
        devices=lambda _: ["cpu"],
        place=_only("cpu"),
        to_numpy=np.asarray,
        convert=_convert,
        block_bytes=lambda _: CACHE_BLOCK,
        in_place=True,
        looks_are_free=True,
    ),
    Backend(
        name="cupy",
        module="cupy",
        namespace="array_api_compat.cupy",
        install='"array-gd[cuda12]" or "array-gd[cuda13]"',
        owns=compat.is_cupy_array,
        devices=_cupy_devices,
        place=_cupy_place,
        to_numpy=_chunk_to_numpy,
        convert=_cupy_convert,
        block_bytes=_whole,
        in_place=True,
        current=lambda x: x.device,
        needs_device=True,
    ),
    Backend(
        name="torch",
        module="torch",
        namespace="array_api_compat.torch",
        install='"array-gd[torch]"',
        owns=compat.is_torch_array,
        devices=_torch_devices,
        place=_torch_place,
        to_numpy=_torch_to_numpy,
        convert=_convert,
        block_bytes=_torch_block_bytes,
        autodiff=_autodiff.TORCH,
        in_place=True,
    ),
    Backend(
        name="jax",
        module="jax",
        namespace="jax.numpy",
        install='"array-gd[jax]"',
        owns=compat.is_jax_array,
        devices=_jax_devices,
        place=_jax_place,
        to_numpy=np.asarray,
        convert=_convert,
        narrowed=_jax_narrowed,
        autodiff=_autodiff.JAX,
        traces=_autodiff.jax_traces,
        compile=_jax_compile,
        compiles=True,
        block_bytes=_whole,
        in_place=False,
    ),
    Backend(
        name="dask",
        module="dask.array",
        namespace="array_api_compat.dask.array",
        install='"array-gd[dask]"',
        owns=compat.is_dask_array,
        devices=lambda _: ["cpu"],
        place=_only("cpu"),
        to_numpy=_dask_to_numpy,
        convert=lambda xp, data, dtype, _: xp.asarray(data, dtype=dtype),
        block_bytes=_whole,
        in_place=False,
        resident=lambda x: x._meta,  # what a chunk is: NumPy, or CuPy
        chunked=True,
        chunks=_dask_chunks,
        each=_dask_each,
        reduce=_dask_reduce,
        settle=_dask_settle,
    ),
    Backend(
        name="array-api-strict",
        module="array_api_strict",
        namespace="array_api_strict",
        install="array-api-strict",
        owns=lambda x: type(x).__module__.partition(".")[0] == "array_api_strict",
        devices=_strict_devices,
        place=_strict_place,
        to_numpy=_strict_to_numpy,
        convert=_convert,
        block_bytes=_whole,
        in_place=True,
    ),
)
