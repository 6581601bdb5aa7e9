"""The rows: with `autodiff`, `jit`, `transfer` and `_chunks` the only file that names an array library.

A new backend is a row of `TABLE` here and a row of ``tests/helpers/array_libraries.py``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import array_api_compat as compat
import numpy as np

from agd._typing import Array, Namespace
from agd.backends import _chunks, autodiff, jit, transfer
from agd.backends.backend import Backend

__all__ = ["PROCESS_DEFAULTS", "TABLE"]

# The environment of a process that is agd's own, such as its command line: a table's numbers are
# float64, which JAX narrows unless told not to before it is imported.
PROCESS_DEFAULTS = {"JAX_ENABLE_X64": "1"}

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
CACHE_BLOCK = 4 * 2**20  # bytes, measured: such a block is in cache for its second product


def _convert(xp: Namespace, data: Any, dtype: Any, where: Any) -> Array:
    return xp.asarray(data, dtype=dtype, device=where)


def _whole(_: Array) -> int | None:
    return None


# -- NumPy ---------------------------------------------------------------------------------------


def _numpy_pack(x: Any) -> Any:
    """Copy what BLAS cannot take, which NumPy multiplies by plain loops: a block of that is small."""
    (n, p), (row, column), size = x.shape[-2:], x.strides[-2:], x.itemsize
    by_rows = column == size and row >= p * size and row % size == 0
    by_columns = row == size and column >= n * size and column % size == 0
    if (by_rows or by_columns) and x.flags.aligned and x.dtype.isnative:
        return x
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="C")


def _numpy_product(a: Any, b: Any) -> Any:
    """Multiply by `dot`: matmul keeps the interpreter's lock where the product has under 500 entries.

    Rows of a column-major array, which it would copy, are left to matmul.
    """
    return np.dot(a, b) if a.flags.forc and b.flags.forc else a @ b


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


def _clip(x: Array, low: Any, high: Any) -> Array:
    # CuPy's by array-api-compat picks entries by masks, whose number the host has to read.
    xp = compat.array_namespace(x)
    raised = x if low is None else xp.maximum(x, low)
    return raised if high is None else xp.minimum(raised, high)


def _cupy_free_bytes(where: Any) -> int:
    import cupy

    with where:
        # What the pool keeps and nobody uses is free, too.
        return int(where.mem_info[0]) + int(cupy.get_default_memory_pool().free_bytes())


def _cupy_out_of_memory(error: BaseException) -> bool:
    import cupy

    if isinstance(error, cupy.cuda.runtime.CUDARuntimeError):  # by what does not ask the pool
        return bool(error.status == OUT_OF_MEMORY)
    return isinstance(error, cupy.cuda.memory.OutOfMemoryError)


# -- PyTorch -------------------------------------------------------------------------------------


def _torch_devices(torch: Any) -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def _torch_place(torch: Any, name: str) -> Any:
    return torch.device(name or "cpu")


def _torch_convert(xp: Namespace, data: Any, dtype: Any, where: Any) -> Array:
    if where is None or where.type == "cpu":
        return xp.asarray(data, dtype=dtype, device=where)
    made = xp.asarray(data, dtype=dtype)
    # Memory that the device cannot read by itself has left by the time this returns, though nothing that
    # is queued there was waited for.
    return made.to(where, non_blocking=not made.is_pinned())


def _torch_to_numpy(x: Array) -> Any:
    return x.detach().cpu().numpy()


def _torch_block_bytes(x: Array) -> int | None:
    return CACHE_BLOCK if x.device.type == "cpu" else None


def _torch_free_bytes(where: Any) -> int | None:
    if where.type != "cuda":
        return None
    import torch

    kept = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    return int(torch.cuda.mem_get_info(where)[0]) + int(kept)


def _torch_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError)


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


def _jax_free_bytes(where: Any) -> int | None:
    found = where.memory_stats() or {}  # none on a CPU
    if "bytes_limit" not in found:
        return None
    return int(found["bytes_limit"]) - int(found.get("bytes_in_use", 0))


def _jax_out_of_memory(error: BaseException) -> bool:
    import jax

    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


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
        pack=_numpy_pack,
        product=_numpy_product,
        threaded=True,
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
        to_numpy=_chunks.chunk_to_numpy,
        convert=_cupy_convert,
        block_bytes=_whole,
        in_place=True,
        clip=_clip,
        current=lambda x: x.device,
        needs_device=True,
        free_bytes=_cupy_free_bytes,
        out_of_memory=_cupy_out_of_memory,
        feed=transfer.CupyFeed,
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
        convert=_torch_convert,
        block_bytes=_torch_block_bytes,
        pack=lambda x: x if 1 in x.stride()[-2:] else x.contiguous(),
        autodiff=autodiff.TORCH,
        in_place=True,
        free_bytes=_torch_free_bytes,
        out_of_memory=_torch_out_of_memory,
        feed=transfer.torch_feed,
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
        autodiff=autodiff.JAX,
        traces=autodiff.jax_traces,
        compile=jit.jax_compile,
        compile_alone=jit.jax_compile_alone,
        program=jit.jax_program,
        compiles=True,
        block_bytes=_whole,
        in_place=False,
        free_bytes=_jax_free_bytes,
        out_of_memory=_jax_out_of_memory,
    ),
    Backend(
        name="dask",
        module="dask.array",
        namespace="array_api_compat.dask.array",
        install='"array-gd[dask]"',
        owns=compat.is_dask_array,
        devices=lambda _: ["cpu"],
        place=_only("cpu"),
        to_numpy=_chunks.to_numpy,
        convert=lambda xp, data, dtype, _: xp.asarray(data, dtype=dtype),
        block_bytes=_whole,
        in_place=False,
        resident=lambda x: x._meta,  # what a chunk is: NumPy, or CuPy
        chunked=True,
        chunks=_chunks.chunks,
        each=_chunks.each,
        reduce=_chunks.reduce,
        shared_chunks=True,
        settle=_chunks.settle,
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
