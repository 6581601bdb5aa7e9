"""A process for each case: one case's thread pools, settings and memory do not touch the next one's."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

__all__ = ["LIMIT", "ask"]

LIMIT = 1800.0
"""Seconds that a child may take."""


def ask(job: dict[str, Any], limit: float = LIMIT) -> dict[str, Any]:
    """Run one job in a process of its own.

    Parameters
    ----------
    job : dict
        ``do`` is ``"case"`` or ``"growth"``; the rest is what that takes.
    limit : float
        Seconds after which the child is stopped.

    Returns
    -------
    dict
        What the child answered; ``error`` in place of it if it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [
            sys.executable,
            "-m",
            "benchmarks.timing.child_process",
            json.dumps(job),
            str(answer),
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
                # Its temporary files go with the folder.
                env={**os.environ, "TMPDIR": folder, **_thread_limits(job)},
            )
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {limit:.0f} s"}
        if done.returncode == 0 and answer.exists():
            found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
            return found
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    return {"error": f"exit code {done.returncode}: {last}", "stderr": done.stderr[-4000:]}


def _thread_limits(job: dict[str, Any]) -> dict[str, str]:
    """Return the environment that limits the threads of BLAS, which is read when NumPy is imported."""
    from benchmarks.cases.registry import ONE_THREAD

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, "1") if job.get("room") in ONE_THREAD else {}


def _do(job: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.cases import growth, registry
    from benchmarks.timing.clocks import clock_of, wall
    from benchmarks.timing.measurement import measure

    if job["do"] == "growth":
        return growth.measured(job["name"], job["rows"], job["rounds"])
    selection, clock, settle = None, wall, None
    if job.get("device"):
        from agd import backends

        selection = backends.select(job["device"])
        clock = clock_of(selection.backend.name, selection.device)
        if clock is not wall:
            settle = 0.0  # a device has no threads that spin
    case = registry.make(job["room"], job["name"], job["rows"], selection)
    return measure(case, job["rounds"], clock, settle)


def _peak() -> int | None:
    """Return the most memory that this process has had, where the system counts it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    """Do the job of the first argument, and write the answer to the file of the second."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timing.child_process", description=__doc__
    )
    parser.add_argument("job", type=json.loads)
    parser.add_argument("answer", type=Path)
    options = parser.parse_args()
    # JAX takes three quarters of a GPU's memory at its first array unless it is told not to.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    warnings.simplefilter("ignore")  # peers warn of limits that are meant; the answers are checked
    found = _do(options.job)
    found["peak_bytes"] = _peak()
    options.answer.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
