"""Draw which solver of a logistic fit is the quickest at which size, beside what the cost model says.

``python -m benchmarks.crossovers docs/solver_costs.png`` takes two minutes on one processor, and prints the times.
"""

from __future__ import annotations

import sys
import time
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np

import agd
from agd.run.newton_direct import newton_cost
from agd.run.solver_table import MAX_DIRECT_ROWS, lbfgs_cost

SOLVERS = {"newton_direct": "o", "newton": "s", "lbfgs_whitened": "^", "accelerated": "v"}
ROWS, COLUMNS = (300, 1000, 3000, 10_000, 30_000), (5, 10, 20, 40, 80, 160, 320)
MAX_ENTRIES = 3_200_000


def fit_seconds(X: np.ndarray, y: np.ndarray, solver: str) -> float:
    """Return the least processor time of three fits by one row of the table of solvers."""
    times = []
    with mock.patch("agd.run.solver_table.select_solver", return_value=solver):
        for _ in range(4):
            begin = time.process_time()
            result = agd.fit(X, y, loss="log_loss", penalty=agd.loss.L2(1.0 / len(y)))
            times.append(time.process_time() - begin)
    if result.solver != solver:
        raise RuntimeError(f"{solver} was left for {result.solver}")
    return min(times[1:])


def measure() -> dict[tuple[int, int], dict[str, float]]:
    """Return the seconds of each solver at each size."""
    rng, measured = np.random.default_rng(0), {}
    for p in COLUMNS:
        for n in ROWS:
            if n < 2 * p or n * p > MAX_ENTRIES:
                continue
            X = rng.normal(size=(n, p))
            z = X @ rng.normal(size=p) / np.sqrt(p)
            y = 1.0 * (rng.random(n) < 1.0 / (1.0 + np.exp(-z)))
            measured[n, p] = {solver: fit_seconds(X, y, solver) for solver in SOLVERS}
            line = ", ".join(f"{name} {1e3 * t:.1f} ms" for name, t in measured[n, p].items())
            print(f"{n} x {p}: {line}", flush=True)
    return measured


def draw(measured: dict[tuple[int, int], dict[str, float]], path: str) -> None:
    """Draw the quickest solver of each size with its time, and where the model goes over to L-BFGS."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for solver, marker in SOLVERS.items():
        best = [size for size, times in measured.items() if min(times, key=times.get) == solver]
        if best:
            axes.scatter(
                *zip(*best, strict=True), marker=marker, s=60, label=f"quickest: {solver}", zorder=3
            )
    for (n, p), times in measured.items():
        axes.annotate(
            f"{1e3 * min(times.values()):.2g} ms",
            (n, p),
            (6, 4),
            textcoords="offset points",
            fontsize=7,
        )
    n, p = np.meshgrid(np.geomspace(250, 40_000, 200), np.geomspace(4, 400, 200))
    gain = np.vectorize(lambda n, p: newton_cost(n, p) / lbfgs_cost(n, p))(n, p)
    gain = np.where((n > MAX_DIRECT_ROWS) | (p > n), 2.0, gain)
    axes.contour(n, p, gain, levels=[1.0], colors="black", linewidths=1.2)
    axes.plot([], [], color="black", label="the choice goes over from newton_direct to L-BFGS")
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="columns", xlim=(220, 50_000))
    axes.set_title("Logistic regression with a ridge, NumPy, one processor", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(measure(), sys.argv[1])
