"""How much memory a fit takes beside its data: by rows of blocks, never a copy of X."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

import agd

# One X of 200 MB, and so one process of tests where these are shared out.
pytestmark = [pytest.mark.backend("numpy"), pytest.mark.xdist_group("memory")]

N, P = 500_000, 50
LIMIT = 64 * 2**20 + 2 * 8 * N + 64 * 8 * P  # and two vectors of n, and a few of p


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal(size=(N, P))
    return X, X @ (rng.normal(size=P) / P**0.5) + rng.standard_normal(size=N)


def peak(call):
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", agd.ConvergenceWarning)
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("method", "loss", "layout"),
    [
        ("gd", "squared_error", "by rows"),
        ("gd", "squared_error", "rows reversed"),
        ("gd", "log_loss", "by rows"),
        ("gd", "log_loss", "by columns"),
        ("auto", "squared_error", "by rows"),
        ("auto", "log_loss", "by rows"),
    ],
)
def test_a_fit_takes_no_memory_of_the_size_of_its_data(data, method, loss, layout):
    X, y = data
    y = y if loss == "squared_error" else (y > 0.0) * 1.0
    if layout != "by rows":
        X = np.asfortranarray(X) if layout == "by columns" else X[::-1]
    found = peak(lambda: agd.fit(X, y, loss=loss, method=method, stop=agd.Stop(5)))
    assert found < LIMIT, f"{found / 2**20:.0f} MiB"
