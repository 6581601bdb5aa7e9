"""On what it was measured: the processor or device, its cores, the load, and versions."""

from __future__ import annotations

import ctypes
import datetime as dt
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

__all__ = ["described", "file_name", "load"]

DISTRIBUTIONS = (
    "numpy", "scipy", "scikit-learn", "torch", "jax", "skglm", "glum", "dask", "distributed", "dask-glm",
    "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "cupy", "cupy-cuda12x", "cupy-cuda13x", "cuml",
    "cuml-cu12", "cuml-cu13", "pyarrow",
)  # fmt: skip


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """Return the load average of the last minute, None where it is not counted."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _device(selection: Any) -> dict[str, str]:
    """Say what the device is, as its library tells it; ``name`` is always there."""
    name, device = selection.backend.name, selection.device
    if name == "cupy":
        return _of_cupy(device)
    if name == "torch" and getattr(device, "type", "cpu") == "cuda":
        return _of_torch(device)
    return {"name": getattr(device, "device_kind", "cpu").replace("cpu", _processor())}


def _of_cupy(device: Any) -> dict[str, str]:
    from cupy.cuda import runtime

    found = runtime.getDeviceProperties(device.id)
    text = found["name"]
    return _card(
        text.decode() if isinstance(text, bytes) else str(text),
        found["totalGlobalMem"],
        (found["major"], found["minor"]),
        found["multiProcessorCount"],
        found.get("l2CacheSize"),
        runtime=_version(runtime.runtimeGetVersion()),
    )


def _of_torch(device: Any) -> dict[str, str]:
    import torch

    found = torch.cuda.get_device_properties(device)
    return _card(
        found.name,
        found.total_memory,
        (found.major, found.minor),
        found.multi_processor_count,
        getattr(found, "L2_cache_size", None),
        runtime=str(torch.version.cuda or torch.version.hip),
    )


def _card(
    name: str, memory: int, capability: tuple[int, int], cores: int, cache: int | None, runtime: str
) -> dict[str, str]:
    """Word a card's properties."""
    said = {
        "name": name,
        "memory": f"{memory / 2**30:.1f} GiB",
        "compute capability": "{}.{}".format(*capability),
        "multiprocessors": str(cores),
        "L2 cache": f"{cache / 2**20:.0f} MiB" if cache else "",
        "driver": _driver(),
        "CUDA of the driver": _driver_cuda(),
        "CUDA runtime": runtime,
    }
    return {key: value for key, value in said.items() if value}


def _version(number: int) -> str:
    """Write a version that CUDA gives as one number, 12040, with a point."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver() -> str:
    """Return the version of NVIDIA's kernel module; empty where the system does not show it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"Kernel Module\D*([\d.]+)", text)
    return found[1] if found else ""


def _driver_cuda() -> str:
    """Return the newest CUDA that the driver knows; empty where there is no driver."""
    number = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return ""
    return _version(number.value) if status == 0 else ""


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def described(selection: Any = None) -> dict[str, Any]:
    """Say what this machine is.

    Parameters
    ----------
    selection : Selection, optional
        The device that arrays are on, if it is not the processor.

    Returns
    -------
    dict
        ``name``, ``device`` (what is known of it, empty if that is the processor), ``cores``, ``load``
        (a list, to which later looks are added), ``threads`` (limits that the environment sets),
        ``system``, ``versions`` and ``date``.
    """
    device = {} if selection is None else _device(selection)
    return {
        "name": f"{device['name']} by {selection}" if device else _processor(),
        "device": device,
        "cores": _cores(),
        "load": [load()],
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "system": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
    }


def file_name(machine: dict[str, Any]) -> str:
    """Return the name of the file that keeps this machine's table."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine["name"].lower()).strip("-")
    return f"{slug}-{machine['cores']}-cores.md"
