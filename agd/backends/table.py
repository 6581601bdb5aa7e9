"""The rows of the table: what differs between the array libraries, library by library.

A new backend is a row of `TABLE` here and a row of ``tests/helpers/array_libraries.py``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat as compat
import numpy as np
import optree

from agd._typing import Namespace, NativeArray, Tree
from agd.backends import function_transforms, transfer
from agd.backends.backend import Backend, TaskGraph

__all__ = ["PROCESS_DEFAULTS", "TABLE", "follows_standard", "standard_row"]

# The environment of a process that is agd's own, such as its command line. A table's numbers are
# float64, which JAX narrows to float32 unless this is set before it is imported.
PROCESS_DEFAULTS = {"JAX_ENABLE_X64": "1"}

CUDA_ERROR_MEMORY_ALLOCATION = 2

# Measured: a block of this size is still in cache for the second product with it.
CACHE_BLOCK_BYTES = 4 * 2**20


def _asarray(xp: Namespace, data: Any, dtype: Any, device: Any) -> NativeArray:
    return xp.asarray(data, dtype=dtype, device=device)


def _no_blocks(_: NativeArray) -> int | None:
    return None


# -- NumPy ---------------------------------------------------------------------------------------


def _numpy_pack(x: Any) -> Any:
    """Return a block that BLAS can multiply: a copy of one that NumPy would multiply in plain loops."""
    (n, p), (row_stride, column_stride), size = x.shape[-2:], x.strides[-2:], x.itemsize
    row_major = column_stride == size and row_stride >= p * size and row_stride % size == 0
    column_major = row_stride == size and column_stride >= n * size and column_stride % size == 0
    if (row_major or column_major) and x.flags.aligned and x.dtype.isnative:
        return x
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="C")


def _numpy_matmul(a: Any, b: Any) -> Any:
    """Multiply by `dot`, since matmul holds the interpreter's lock where the product has under 500 entries.

    A block of rows of a column-major array is left to matmul, since `dot` would copy it.
    """
    return np.dot(a, b) if a.flags.forc and b.flags.forc else a @ b


def _cpu_device(_: Any, name: str) -> Any:
    """Return the device of a library that has the CPU alone: None, its default."""
    if name not in ("", "cpu"):
        raise RuntimeError("there is no such device")


# -- CuPy ----------------------------------------------------------------------------------------


def _cupy_devices(cupy: Any) -> list[str]:
    return [str(i) for i in range(cupy.cuda.runtime.getDeviceCount())]


def _cupy_device(cupy: Any, name: str) -> Any:
    index = name.removeprefix("cuda:")
    if index and index not in _cupy_devices(cupy):
        raise RuntimeError("there is no such device")
    return cupy.cuda.Device(int(index or 0))


def _cupy_convert(xp: Namespace, data: Any, dtype: Any, device: Any) -> NativeArray:
    import cupy

    # CuPy creates arrays on the current device; its asarray does not take another.
    with device if device is not None else cupy.cuda.Device():
        return xp.asarray(data, dtype=dtype)


def _cupy_clip(x: NativeArray, low: Any, high: Any) -> NativeArray:
    # array-api-compat clips CuPy arrays by boolean masks, which makes the host wait for their counts.
    xp = compat.array_namespace(x)
    bounded_below = x if low is None else xp.maximum(x, low)
    return bounded_below if high is None else xp.minimum(bounded_below, high)


def _cupy_free_bytes(device: Any) -> int:
    import cupy

    with device:
        # Blocks that CuPy's memory pool keeps for later arrays count as free.
        return int(device.mem_info[0]) + int(cupy.get_default_memory_pool().free_bytes())


def _cupy_is_out_of_memory(error: BaseException) -> bool:
    import cupy

    if isinstance(error, cupy.cuda.runtime.CUDARuntimeError):  # from calls that bypass the pool
        status = error.status  # pyright: ignore[reportAttributeAccessIssue]
        return bool(status == CUDA_ERROR_MEMORY_ALLOCATION)
    return isinstance(error, cupy.cuda.memory.OutOfMemoryError)


# -- PyTorch -------------------------------------------------------------------------------------


def _torch_devices(torch: Any) -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def _torch_device(torch: Any, name: str) -> Any:
    return torch.device(name or "cpu")


def _torch_convert(xp: Namespace, data: Any, dtype: Any, device: Any) -> NativeArray:
    if device is None or device.type == "cpu":
        return xp.asarray(data, dtype=dtype, device=device)
    host: NativeArray = xp.asarray(data, dtype=dtype)
    # A non-blocking copy from pageable memory has read the source when it returns, and does not wait for
    # the work that is queued on the device. From pinned memory it would still be reading the source.
    return host.to(device, non_blocking=not host.is_pinned())


def _torch_to_numpy(x: NativeArray) -> Any:
    return x.detach().cpu().numpy()


def _torch_block_bytes(x: NativeArray) -> int | None:
    return CACHE_BLOCK_BYTES if x.device.type == "cpu" else None


def _torch_free_bytes(device: Any) -> int | None:
    if device.type != "cuda":
        return None
    import torch

    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + int(cached)


def _torch_is_out_of_memory(error: BaseException) -> bool:
    import torch

    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, torch.OutOfMemoryError)


# -- JAX -----------------------------------------------------------------------------------------


def _jax_devices(jax: Any) -> list[str]:
    return [f"{d.platform}:{d.id}" for d in jax.devices()]


def _jax_device(jax: Any, name: str) -> Any:
    platform, _, index = name.partition(":")
    device_by_id = {str(device.id): device for device in jax.devices(platform or None)}
    if index and index not in device_by_id:
        raise RuntimeError("there is no such device")
    return device_by_id[index] if index else next(iter(device_by_id.values()))


# Cached so that it warns once: the setting is that of the process.
@functools.cache
def _jax_warn_narrowing(_: str) -> None:
    warnings.warn(
        "JAX narrows float64 to float32: results carry about 7 digits. For double precision call "
        'jax.config.update("jax_enable_x64", True) before any array is made',
        UserWarning,
        stacklevel=4,
    )


def _jax_free_bytes(device: Any) -> int | None:
    stats = device.memory_stats() or {}  # a CPU has none
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))


def _jax_is_out_of_memory(error: BaseException) -> bool:
    import jax

    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


# -- array-api-strict ----------------------------------------------------------------------------


def _strict_devices(strict: Any) -> list[str]:
    names = strict.__array_namespace_info__().devices()
    return [str(d).partition("'")[2].partition("'")[0] for d in names]


def _strict_device(strict: Any, name: str) -> Any:
    return strict.Device(name or "CPU_DEVICE")


def _strict_to_numpy(x: NativeArray) -> Any:
    cpu = compat.array_namespace(x).Device("CPU_DEVICE")
    return np.asarray(x if x.device == cpu else x.to_device(cpu))


# -- Dask ----------------------------------------------------------------------------------------


def _dask_to_numpy(x: NativeArray) -> Any:
    return _chunk_to_numpy(x.compute())


def _chunk_to_numpy(x: NativeArray) -> Any:
    """Copy a chunk, which is an array of NumPy or of CuPy, to the host."""
    return x.get() if compat.is_cupy_array(x) else np.asarray(x)


def _dask_row_blocks(*arrays: NativeArray | None) -> list[Any]:
    """Cut arrays that share their rows (the first axis) into a list of tuples of delayed blocks."""
    columns: list[list[Any]] = []
    for x in arrays:
        if x is None:
            columns.append([None] * len(columns[0]))
            continue
        uncut_rows = x.rechunk(dict.fromkeys(range(1, x.ndim), -1)) if x.ndim > 1 else x
        columns.append(list(uncut_rows.to_delayed().ravel()))
    return list(zip(*columns, strict=True))


def _dask_delay(f: Callable[..., Any]) -> Callable[..., Any]:
    from dask.delayed import delayed

    # "call" and "log" need a function of the caller's, which does not travel to other processes.
    state = {kind: "warn" if do in {"call", "log"} else do for kind, do in np.geterr().items()}
    task: Callable[..., Any] = delayed(functools.partial(_call_with_errstate, state, f), pure=False)
    return task


def _call_with_errstate(state: Any, f: Callable[..., Any], *args: Any) -> Any:
    with np.errstate(**state):
        return f(*args)


def _dask_compute(tasks: Sequence[Any]) -> list[Any]:
    import dask.base

    compute = getattr(dask.base, "compute")  # noqa: B009 - Dask does not annotate it
    return list(compute(*tasks))


def _dask_align_chunks(x: NativeArray, like: NativeArray) -> NativeArray:
    return x.rechunk((like.chunks[0], *x.chunks[1:]))


def _dask_persist(tree: Tree) -> Tree:
    import dask.base

    leaves, structure = optree.tree_flatten(tree)
    persist = getattr(dask.base, "persist")  # noqa: B009 - Dask does not annotate it
    return optree.tree_unflatten(structure, persist(*leaves))


def _numpy_clip(x: Any, low: Any, high: Any) -> Any:
    """Clip by two ufuncs: the namespace's own function takes ten times as long on small arrays."""
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


# -- a library that the table does not name ---------------------------------------------------------


def standard_row(x: Any) -> Backend:
    """Return a row for the library of an array that follows the Array API, and of which no more is known.

    Its arrays are computed with by their own namespace, whole and where they are. They are copied to the host for
    single numbers, and moved there by DLPack or by what NumPy makes of them.
    """
    library = type(x).__module__.partition(".")[0]
    return Backend(
        name=library,
        module=library,
        namespace=library,
        install=library,
        owns=lambda y: type(y).__module__.partition(".")[0] == library and follows_standard(y),
        devices=lambda _: [],
        get_device=_cpu_device,
        to_numpy=_standard_to_numpy,
        convert=_asarray,
        block_bytes=_no_blocks,
        mutable=False,
    )


def follows_standard(x: Any) -> bool:
    """Return whether x is an array of the Array API, by the method that all such arrays have."""
    return hasattr(x, "__array_namespace__") and not isinstance(x, type)


def _standard_to_numpy(x: Any) -> Any:
    try:
        return np.from_dlpack(x)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return np.asarray(x)


# -- the table -----------------------------------------------------------------------------------

TABLE: tuple[Backend, ...] = (
    Backend(
        name="numpy",
        module="numpy",
        namespace="array_api_compat.numpy",
        install="numpy",
        owns=compat.is_numpy_array,
        devices=lambda _: ["cpu"],
        get_device=_cpu_device,
        to_numpy=np.asarray,
        convert=_asarray,
        block_bytes=lambda _: CACHE_BLOCK_BYTES,
        pack=_numpy_pack,
        matmul=_numpy_matmul,
        clip=_numpy_clip,
        threaded=True,
        mutable=True,
        host_accessible=True,
    ),
    Backend(
        name="cupy",
        module="cupy",
        namespace="array_api_compat.cupy",
        install='"array-gd[cuda12]" or "array-gd[cuda13]"',
        owns=compat.is_cupy_array,
        devices=_cupy_devices,
        get_device=_cupy_device,
        to_numpy=_chunk_to_numpy,
        convert=_cupy_convert,
        block_bytes=_no_blocks,
        mutable=True,
        clip=_cupy_clip,
        device_context=lambda x: x.device,
        needs_accelerator=True,
        free_bytes=_cupy_free_bytes,
        is_out_of_memory=_cupy_is_out_of_memory,
        transfer=transfer.CupyTransfer,
    ),
    Backend(
        name="torch",
        module="torch",
        namespace="array_api_compat.torch",
        install='"array-gd[torch]"',
        owns=compat.is_torch_array,
        devices=_torch_devices,
        get_device=_torch_device,
        to_numpy=_torch_to_numpy,
        convert=_torch_convert,
        block_bytes=_torch_block_bytes,
        pack=lambda x: x if 1 in x.stride()[-2:] else x.contiguous(),
        autodiff=function_transforms.TORCH_AUTODIFF,
        mutable=True,
        write_count=lambda x: None if x.is_inference() else x._version,
        free_bytes=_torch_free_bytes,
        is_out_of_memory=_torch_is_out_of_memory,
        transfer=transfer.torch_transfer,
    ),
    Backend(
        name="jax",
        module="jax",
        namespace="jax.numpy",
        install='"array-gd[jax]"',
        owns=compat.is_jax_array,
        devices=_jax_devices,
        get_device=_jax_device,
        to_numpy=np.asarray,
        convert=_asarray,
        warn_narrowing=_jax_warn_narrowing,
        autodiff=function_transforms.JAX_AUTODIFF,
        is_traceable=function_transforms.jax_is_traceable,
        compile=function_transforms.jax_compile,
        compile_unshared=function_transforms.jax_compile_unshared,
        trace_program=function_transforms.jax_trace_program,
        compiles=True,
        block_bytes=_no_blocks,
        mutable=False,
        free_bytes=_jax_free_bytes,
        is_out_of_memory=_jax_is_out_of_memory,
    ),
    Backend(
        name="dask",
        module="dask.array",
        namespace="array_api_compat.dask.array",
        install='"array-gd[dask]"',
        owns=compat.is_dask_array,
        devices=lambda _: ["cpu"],
        get_device=_cpu_device,
        to_numpy=_dask_to_numpy,
        convert=lambda xp, data, dtype, _: xp.asarray(data, dtype=dtype),
        block_bytes=_no_blocks,
        mutable=False,
        resident=lambda x: x._meta,  # an empty array of the chunks' library: NumPy, or CuPy
        chunked=True,
        align_chunks=_dask_align_chunks,
        parallel_chunks=True,
        task_graph=TaskGraph(_dask_row_blocks, _dask_delay, _dask_compute),
        persist=_dask_persist,
    ),
    Backend(
        name="array-api-strict",
        module="array_api_strict",
        namespace="array_api_strict",
        install="array-api-strict",
        owns=lambda x: type(x).__module__.partition(".")[0] == "array_api_strict",
        devices=_strict_devices,
        get_device=_strict_device,
        to_numpy=_strict_to_numpy,
        convert=_asarray,
        block_bytes=_no_blocks,
        mutable=True,
    ),
)
