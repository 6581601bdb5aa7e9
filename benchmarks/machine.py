"""On what it was measured: the processor or device, its cores, the load, and versions."""

from __future__ import annotations

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
    "cupy-cuda12x", "cupy-cuda13x", "cuml-cu12", "cuml-cu13",
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


def _device(selection: Any) -> str:
    """Name the device itself where its library can."""
    name, device = selection.backend.name, selection.device
    if name == "cupy":
        import cupy

        found = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
        return found.decode() if isinstance(found, bytes) else str(found)
    if name == "torch" and getattr(device, "type", "cpu") == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"{_processor()} by {selection}"


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
        ``name``, ``cores``, ``load`` (a list, to which later looks are added), ``threads`` (limits
        that the environment sets), ``system``, ``versions`` and ``date``.
    """
    return {
        "name": _processor() if selection is None else _device(selection),
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
