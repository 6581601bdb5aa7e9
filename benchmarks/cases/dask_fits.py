"""A logistic fit of chunks on two workers, beside dask-glm at the same loss."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import agd
from benchmarks.problems.reference_values import log_loss
from benchmarks.timing.measurement import Case, Quality, offered

__all__ = ["CASES"]

WORKERS, COLUMNS, CHUNKS = 2, 20, 8


def _persisted(X: Any, y: Any) -> tuple[Any, Any]:
    """Put the rows on a cluster of two workers, which ends with the process."""
    from dask import array
    from distributed import Client, LocalCluster, wait

    cluster = LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    client = Client(cluster)
    atexit.register(cluster.close)
    atexit.register(client.close)
    rows = -(-len(y) // CHUNKS)
    both = (
        array.from_array(X, chunks=(rows, X.shape[1])).persist(),
        array.from_array(y, chunks=rows).persist(),
    )
    wait(both)
    return both


def _logistic(n: int) -> Case:
    """Time all to the loss that dask-glm's L-BFGS reaches with its default tolerance."""
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(n, COLUMNS)), rng.normal(size=COLUMNS) / COLUMNS**0.5
    y = (rng.uniform(size=n) < 1.0 / (1.0 + np.exp(-(X @ w)))) * 1.0
    A, t = _persisted(X, y)
    target = {"dask-glm lbfgs": 0.3, "dask-glm gradient_descent": 0.1}

    def lbfgs() -> Any:
        from dask_glm.algorithms import lbfgs as solve

        return lambda: solve(A, t)

    calls, missing = offered((("dask-glm lbfgs", lbfgs),))
    reached = [log_loss(X, y, call()) for call in calls.values()]
    # A loss is as good as another within 1e-9 of it: some 1e-5 of a coefficient.
    limit = reached[0] * (1.0 + 1e-9) if reached else np.inf
    quality = Quality("loss", lambda answer: log_loss(X, y, answer), limit)

    def descent() -> Any:
        from dask_glm.algorithms import gradient_descent as solve

        # Its default tolerance, 1e-14, is taken only where a looser one falls short.
        tol = _first(lambda tol: solve(A, t, tol=tol), quality, (1e-8, 1e-11, 1e-14))
        return lambda: solve(A, t, tol=tol)

    def ours(tol: float) -> Any:
        return agd.fit(A, t, loss="log_loss", intercept=False, stop=agd.Stop(grad_tol=tol))

    more, why = offered((("dask-glm gradient_descent", descent),))
    tol = _first(lambda tol: ours(tol).coef, quality, [10.0**-k for k in range(2, 12)])
    return Case(
        f"dask: logistic, {n:,} x {COLUMNS} on {WORKERS} workers",
        {"agd": lambda: ours(tol), **calls, **more},
        lambda found: np.asarray(getattr(found, "coef", found)),
        1e-2, target, lambda: (A @ np.ones(COLUMNS)).sum().compute(),
        missing={**missing, **why}, quality=quality,
    )  # fmt: skip


def _first(fit: Callable[[float], Any], quality: Quality, tols: Iterable[float]) -> float:
    """Return the first tolerance whose fit reaches the quality, or else the last."""
    for tol in tols:
        if quality.of(np.asarray(fit(tol))) <= quality.limit:
            break
    return tol


CASES: dict[str, Callable[[int], Case]] = {"dask logistic": _logistic}
