"""Many fits in one call on a device: 100,000 problems of 100 rows and 5 columns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

import agd
from agd import backends
from benchmarks.cases.device_fits import TOL
from benchmarks.cases.small_and_batched_fits import batch, batch_norm
from benchmarks.peers import device_libraries, handwritten
from benchmarks.problems.device_data import DTYPES, host, traffic
from benchmarks.timing.measurement import Case, Quality, offered

__all__ = ["CASES"]

ALPHA = 0.01


def _stacked(found: Any) -> Any:
    """Return coefficients and intercepts of all problems, one a row."""
    if hasattr(found, "coef"):
        return np.concatenate([host(found.coef), host(found.intercept)[:, None]], axis=1)
    return host(found)


def _by_hand(X: Any, Y: Any, where: Any, tol: float | None) -> Callable[[], Any]:
    """Return the batched formulas in the library of X: logistic ones to a tolerance."""
    xp = array_api_compat.array_namespace(X)
    if tol is None:
        return handwritten.batched_squares(xp, X, Y)
    fit = handwritten.batched_newton(xp, X, Y, ALPHA, where)
    return lambda: fit(tol)


def _many(n: int, selection: Any, loss: str, dtype: str) -> Case:
    A, T = (part.astype(dtype) for part in batch(max(n // 10, 10)))
    logistic, tol = loss == "log_loss", TOL[dtype]
    if logistic:
        T = (T > 0.0).astype(dtype)
    X, Y = selection.asarray(A), selection.asarray(T)
    goal = tol if logistic else None

    def torch() -> Any:
        parts = device_libraries.on_torch(selection, A, T)
        return _by_hand(*parts, parts[0].device, goal)

    def jax() -> Any:
        return device_libraries.jax_many(selection, A, T, ALPHA if logistic else None, tol)

    own = (f"{selection.backend.name} by hand", lambda: _by_hand(X, Y, selection.device, goal))
    others = [("torch by hand", torch), ("jax vmap", jax)]
    calls, missing = offered([own, *(pair for pair in others if pair[0] != own[0])])
    penalty, stop = (agd.loss.L2(ALPHA), agd.Stop(grad_tol=tol)) if logistic else (None, None)
    quality = Quality("|g|inf", batch_norm(A, T, ALPHA), 2.0 * tol) if logistic else None
    to = f" to gradient {tol:.0e}" if logistic else ""
    return Case(
        f"many: {len(A):,} {loss} of 100 x 5 {dtype}{to}",
        {"agd": lambda: agd.fit(X, Y, loss=loss, penalty=penalty, stop=stop), **calls},
        _stacked, 1e-3 if dtype == "float32" else 1e-6, None,
        lambda: backends.namespace(X).sum(X), missing=missing, quality=quality,
        # The penalty is all the curvature that is sure of a logistic fit.
        atol=4.0 * tol * 6**0.5 / ALPHA if logistic else 1e-4,
        traffic=traffic(A.nbytes, selection, A.dtype, n),
    )  # fmt: skip


CASES: dict[str, Callable[[int, Any], Case]] = {
    f"many: {loss} {dtype}": functools.partial(_many, loss=loss, dtype=dtype)
    for loss in ("squared_error", "log_loss")
    for dtype in DTYPES
}
