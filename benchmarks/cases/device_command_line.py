"""The command line end to end: `agd fit TABLE` on a device beside NumPy, over tables that grow.

Start of the interpreter, imports, reading of the file and transfers are all in the time.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problems.random_data import draw
from benchmarks.timing.measurement import Case

__all__ = ["CASES", "pays_from"]

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
P = 20
GROUP = 500_000  # rows that are turned into a table's columns at a time
NUMPY = "--backend numpy"


def _write(path: Path, n: int, loss: str) -> None:
    """Write rows x0, x1, ... and their target y as Parquet, some rows at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    X, y, _ = draw(n, P, loss)
    names = [f"x{j}" for j in range(P)]
    schema = pa.schema([(name, pa.float64()) for name in (*names, "y")])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, n, GROUP):
            rows = slice(start, start + GROUP)
            columns = [*np.ascontiguousarray(X[rows].T), y[rows]]
            writer.write_table(pa.table(columns, schema=schema))


def _fit(table: Path, loss: str, backend: str) -> Callable[[], Any]:
    """Return a run of the command in a process of its own, to what it printed."""
    command = [
        sys.executable, "-m", "agd", "fit", str(table), "--target", "y", "--loss", loss, "--l2", "1e-4",
        "--backend", backend, "--json",
    ]  # fmt: skip

    def call() -> Any:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-200:]}")
        return json.loads(done.stdout)

    return call


def _answer(found: Any) -> Any:
    return np.asarray([*found["coefficients"].values(), found["intercept"]])


def _case(n: int, selection: Any, loss: str, rows: int) -> Case:
    size = max(rows * n // 1_000_000, 100)
    # It is removed with the other temporary files of this process, by `benchmarks.timing.child_process`.
    table = Path(tempfile.mkdtemp(), "table.parquet")
    _write(table, size, loss)
    return Case(
        f"cli: {loss}, {size:,} x {P} Parquet",
        {"agd": _fit(table, loss, spec(selection)), NUMPY: _fit(table, loss, "numpy")}, _answer, 1e-3, None, most=3, size=size,
    )  # fmt: skip


def spec(selection: Any) -> str:
    """Write a selection as the option --backend takes it."""
    return f"{selection.backend.name}:{selection.device_name}".removesuffix(":")


def pays_from(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say from how many rows on the device is sooner than NumPy, for each loss."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if NUMPY in row.get("numbers", {}):
            loss = row["case"].removeprefix("cli: ").partition(",")[0]
            numbers = row["numbers"]
            found.setdefault(loss, []).append((row["size"], numbers["agd"] / numbers[NUMPY]))
    lines = []
    for loss, pairs in found.items():
        sizes = sorted(pairs)
        slower = [size for size, ratio in sizes if ratio >= 1.0]
        sooner = [size for size, _ in sizes if size > max(slower, default=0)]
        lines.append(
            f"agd fit, {loss}: pays from {sooner[0]:,} rows on" if sooner
            else f"agd fit, {loss}: does not pay up to {sizes[-1][0]:,} rows"
        )  # fmt: skip
    return lines


CASES: dict[str, Callable[[int, Any], Case]] = {
    f"cli: {loss}, {rows:,} rows": functools.partial(_case, loss=loss, rows=rows)
    for loss in ("squared_error", "log_loss")
    for rows in SIZES
}
