"""Data of the size of a device's memory: drawn in chunks and in their own precision, with no copy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.problems.reference_values import slope

__all__ = ["draw", "gradient_norm", "targets"]

VALUES = 2**21
"""Numbers in a chunk: it is what a check converts to double precision at a time."""


def _chunks(n: int, p: int) -> Iterator[slice]:
    size = max(VALUES // p, 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def targets(loss: str, z: Any, rng: Any) -> Any:
    """Draw targets of the kind that a loss is of."""
    if loss == "log_loss":
        return (rng.uniform(size=len(z)) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    if loss == "poisson":
        return rng.poisson(np.exp(0.5 * z - 0.5)) * 1.0
    noise = rng.normal(size=len(z))
    rare = np.arange(len(z)) % 20 == 0
    return z + (np.where(rare, 30.0 * noise, noise) if loss == "huber" else noise)


def draw(n: int, p: int, loss: str, dtype: str = "float64") -> tuple[Any, Any, Any]:
    """Draw rows X, targets y of a loss, and coefficients w of the model that y is from.

    Every chunk has a generator of its own, so that threads fill them in any order.

    Parameters
    ----------
    n, p : int
        Rows and columns.
    loss : str
        As `targets` takes it.
    dtype : str
        ``"float32"`` or ``"float64"``, of all three.
    """
    kind, first = np.dtype(dtype), np.random.SeedSequence(0)
    w = np.random.default_rng(first).normal(size=p) / p**0.5
    X, y = np.empty((n, p), dtype=kind), np.empty(n, dtype=kind)
    chunks = list(_chunks(n, p))

    def fill(rows: slice, seed: Any) -> None:
        rng = np.random.default_rng(seed)
        rng.standard_normal(out=X[rows], dtype=kind.type)
        y[rows] = targets(loss, X[rows] @ w + 0.5, rng)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, chunks, first.spawn(len(chunks))))
    return X, y, w.astype(kind)


def gradient_norm(loss: str, X: Any, y: Any, alpha: float) -> Callable[[Any], float]:
    """Return the largest entry of the gradient of mean loss + alpha/2 |w|², as a function of (w, intercept).

    It is summed in double precision whatever the data have, a chunk at a time.
    """

    def norm(answer: Any) -> float:
        w, b = answer[:-1], answer[-1]
        g, level = alpha * w, 0.0
        for rows in _chunks(*X.shape):
            A = X[rows].astype(np.float64)
            r = slope(loss, A @ w + b, y[rows]) / len(y)
            g, level = g + A.T @ r, level + r.sum()
        return float(max(np.abs(g).max(), abs(level)))

    return norm
