#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""The project's checks. ``nox`` runs them all: lint, docs, and the tests on every backend."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
# pip, not uv: the pinned torch is the CPU build for pip, and gigabytes of CUDA libraries for uv.
nox.options.default_venv_backend = "virtualenv"

PROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = ("numpy", "strict", "torch", "jax", "dask", "cupy")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = min(CORES, 4)  # each collects every test by itself: more than a few gain little


def _cuda_devices() -> int:
    """Ask the driver how many CUDA devices answer, before gigabytes are installed for none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    answers = cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if answers else 0


def _install(session: nox.Session, project: str, group: str) -> None:
    """Install the project and a group's packages; bytecode is written where a module is imported."""
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    packages = nox.project.dependency_groups(PROJECT, group)
    session.install("--no-compile", project, *packages)


def _documented_code() -> str:
    """Write the Python blocks of README.md and docs/ to one file each, and return their folder.

    A type checker then sees them as a reader's editor would.
    """
    folder = Path("build", "documented")
    folder.mkdir(parents=True, exist_ok=True)
    for page in (Path("README.md"), *Path("docs").glob("*.md")):
        blocks = re.findall(
            r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        lines = ["# pyright: reportUnusedExpression=false"]  # what a prompt shows
        for block in blocks:
            code = block.splitlines()
            if block.startswith(">>> "):  # an interactive session: its input only
                code = [line[4:] for line in code if line.startswith((">>> ", "... "))]
            lines += code
        Path(folder, f"{page.stem}.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, types, layers, and the conventions of the field."""
    _install(session, ".[cli]", "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("pyright", "agd", _documented_code())
    session.run("lint-imports")
    session.run("repo-review", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the reference from the docstrings; a warning is an error."""
    _install(session, ".[cli]", "docs")
    session.run(
        "python", "-W", "error", "-m", "pdoc", "--docformat", "numpy", "--math",
        "--output-directory", "build/docs", "agd",
    )  # fmt: skip


@nox.session
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run the tests on one backend: here its library must be there, and nothing skips for want of it."""
    if backend == "cupy" and _cuda_devices() == 0:
        session.skip("no CUDA device answers on this machine")
    _install(session, ".[cli]", backend)
    # Doctests are the same on every backend: the numpy session runs them.
    where = ["tests", "docs", "README.md", "--pyargs", "agd"] if backend == "numpy" else ["tests"]
    # A GPU is one device, and its memory is not shared out. Elsewhere workers times threads are the cores.
    _run_tests(session, backend, where, workers=1 if backend == "cupy" else WORKERS)


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """Run the tests that guard most, on NumPy and array-api-strict: `tests/helpers/quick_selection.py`."""
    _install(session, ".", "quick")
    _run_tests(session, "quick", ["tests"], WORKERS)


def _run_tests(session: nox.Session, backend: str, paths: list[str], workers: int) -> None:
    """Run pytest on paths, shared out to worker processes."""
    share = [f"--numprocesses={workers}", "--dist=loadgroup"] if workers > 1 else []
    env = {"AGD_TEST_BACKEND": backend, "OMP_NUM_THREADS": str(max(1, CORES // workers))}
    # What JAX compiles is kept, for the other workers and for the next run: most of its tests' time.
    env |= {
        "JAX_COMPILATION_CACHE_DIR": str(session.cache_dir.resolve() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    session.run("pytest", *paths, *share, *session.posargs, env=env)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Time agd beside its peers; not part of the checks."""
    _install(session, ".[cli]", "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


if __name__ == "__main__":
    nox.main()
