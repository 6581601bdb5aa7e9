"""How time grows with rows, columns, epochs and the number of problems, and with which exponent."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import agd
from benchmarks.cases.small_and_batched_fits import batch
from benchmarks.timing.clocks import wall
from benchmarks.timing.measurement import SETTLE

__all__ = ["SERIES", "Series", "exponent", "measured"]


class Series(NamedTuple):
    """A size that grows, up to a share of the largest number of rows, and the call for each size."""

    name: str
    sizes: Sequence[int]
    call: Callable[[int, int], Callable[[], Any]]


def _rows(loss: str, columns: int) -> Callable[[int, int], Callable[[], Any]]:
    def make(size: int, n: int) -> Callable[[], Any]:
        del n
        X, y = _data(size, columns, loss)
        return lambda: agd.fit(X, y, loss=loss)

    return make


def _columns(loss: str) -> Callable[[int, int], Callable[[], Any]]:
    def make(size: int, n: int) -> Callable[[], Any]:
        X, y = _data(max(n // 20, 4 * size), size, loss)
        return lambda: agd.fit(X, y, loss=loss)

    return make


def _data(n: int, p: int, loss: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(n, p)), rng.normal(size=p) / p**0.5
    z = X @ w
    if loss == "log_loss":
        return X, (rng.uniform(size=n) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    return X, z + rng.normal(size=n)


def _epochs(loss: str) -> Callable[[int, int], Callable[[], Any]]:
    """Make runs of exactly so many epochs of the article's descent."""

    def make(size: int, n: int) -> Callable[[], Any]:
        X, y = _data(max(n // 100, 100), 10, loss)
        stop = agd.Stop(size, grad_tol=0.0, check_every=size)
        return lambda: agd.fit(X, y, loss=loss, method="gd", stop=stop)

    return make


def _problems(size: int, n: int) -> Callable[[], Any]:
    del n
    X, Y = batch(size)
    return lambda: agd.fit(X, Y)


TENS = [10**k for k in range(3, 8)]

SERIES: dict[str, Series] = {
    series.name: series
    for series in (
        Series("rows, squared, 20 columns", TENS, _rows("squared_error", 20)),
        Series("rows, logistic, 20 columns", TENS, _rows("log_loss", 20)),
        Series("columns, squared", (2, 8, 32, 128, 512), _columns("squared_error")),
        Series("columns, logistic", (2, 8, 32, 128, 512), _columns("log_loss")),
        Series("epochs, squared (closed form)", (10, 10**3, 10**5, 10**7, 10**9), _epochs("squared_error")),
        Series("epochs, logistic (loop)", (10, 30, 100, 300, 1000), _epochs("log_loss")),
        Series("problems of 100 x 5, squared", (10, 100, 1000, 10_000, 100_000), _problems),
    )
}  # fmt: skip


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of log time against log size by least squares: 1 is linear, 2 is square.

    Parameters
    ----------
    sizes, seconds : sequence of float
        At least two sizes, all positive.

    Returns
    -------
    float
        The exponent; nan for fewer than two sizes.
    """
    if len(sizes) < 2:
        return math.nan
    x, y = np.log(np.asarray(sizes)), np.log(np.asarray(seconds))
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def measured(name: str, n: int, rounds: int) -> dict[str, Any]:
    """Time one series.

    Parameters
    ----------
    name : str
        A key of `SERIES`.
    n : int
        The rows of the cases: sizes of rows go up to 10 n, and of problems to n / 10.
    rounds : int
        Calls for each size, of which the median counts.
    """
    series = SERIES[name]
    most = {"rows": 10 * n, "problems": n // 10}.get(series.name.split()[0].rstrip(","), math.inf)
    sizes = [size for size in series.sizes if size <= most] or list(series.sizes[:1])
    seconds = [_median(series.call(size, n), rounds) for size in sizes]
    upper = slice(len(sizes) // 2, None) if len(sizes) > 3 else slice(None)
    return {
        "series": name,
        "sizes": sizes,
        "seconds": seconds,
        "exponent": exponent(sizes, seconds),
        # Small sizes cost what a call costs: the upper half shows where it goes.
        "upper": exponent(sizes[upper], seconds[upper]),
    }


def _median(call: Callable[[], Any], rounds: int) -> float:
    call()
    runs = []
    for _ in range(rounds):
        time.sleep(SETTLE)
        runs.append(wall(call))
    return statistics.median(runs)
