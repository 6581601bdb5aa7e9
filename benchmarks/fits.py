"""Whole fits beside scikit-learn: to the same answer, or to the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import agd
from benchmarks.cases import Case

__all__ = ["cases"]


def cases(n: int) -> Iterator[Case]:
    """Make the cases on n rows and 50 columns, and the many small ones."""
    try:
        from sklearn import linear_model
    except ImportError:
        print("fits: scikit-learn is not installed, so there is nothing to compare with")
        return
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(n, 50)), rng.normal(size=50) / 50**0.5
    z = X @ w + 0.5
    y = z + rng.normal(size=n)

    def floor() -> Any:
        return X.sum()

    yield from _squared(linear_model, X, y, floor)
    yield _logistic(linear_model, X, (rng.uniform(size=n) < 1.0 / (1.0 + np.exp(-z))) * 1.0, floor)
    yield _huber(
        linear_model, X, np.where(np.arange(n) % 20 == 0, y + 30.0 * rng.normal(size=n), y), floor
    )
    yield from _small(linear_model, rng)


def _coefficients(found: Any) -> Any:
    """Return what a call found, coefficients first, as one vector."""
    if hasattr(found, "coef_"):
        return np.append(np.ravel(found.coef_), np.ravel(found.intercept_))
    return np.append(np.ravel(found.coef), np.ravel(found.intercept))


def _squared(peers: Any, X: Any, y: Any, floor: Callable[[], Any]) -> Iterator[Case]:
    n, alpha = len(y), 1e-3
    size = f"{n:,} x 50"
    ridge = peers.Ridge(alpha=alpha * n, solver="cholesky")
    yield Case(
        f"fits: ridge, {size}",
        {
            "agd": lambda: agd.fit(X, y, penalty=agd.loss.L2(alpha)),
            "Ridge(cholesky)": lambda: ridge.fit(X, y),
        },
        _coefficients, 1e-6, 0.5, floor,
    )  # fmt: skip
    plain = peers.LinearRegression()
    yield Case(
        f"fits: least squares, {size}",
        {"agd": lambda: agd.fit(X, y), "LinearRegression": lambda: plain.fit(X, y)},
        _coefficients, 1e-6, 0.1, floor,
    )  # fmt: skip
    lasso = peers.Lasso(0.05, precompute=True)
    yield Case(
        f"fits: lasso, {size}",
        {
            "agd": lambda: agd.fit(X, y, penalty=agd.loss.L1(0.05)),
            "Lasso(precompute)": lambda: lasso.fit(X, y),
        },
        _coefficients, 1e-3, 0.4, floor,
    )  # fmt: skip


def _logistic(peers: Any, X: Any, labels: Any, floor: Callable[[], Any]) -> Case:
    """Time both to the gradient that scikit-learn reaches with its default tolerance."""
    n, alpha = len(labels), 1e-4
    peer = peers.LogisticRegression(C=1.0 / (alpha * n)).fit(X, labels)
    w = peer.coef_[0]
    slope = 1.0 / (1.0 + np.exp(-(X @ w + peer.intercept_[0]))) - labels
    reached = max(np.abs(X.T @ slope / n + alpha * w).max(), abs(slope.mean()))
    kwargs = {"loss": "log_loss", "penalty": agd.loss.L2(alpha), "stop": agd.Stop(grad_tol=reached)}
    return Case(
        f"fits: logistic to |g| {reached:.0e}, {n:,} x 50",
        {
            "agd": lambda: agd.fit(X, labels, **kwargs),
            "LogisticRegression(lbfgs)": lambda: peer.fit(X, labels),
        },
        _coefficients, 1e-2, 0.5, floor,
    )  # fmt: skip


def _huber(peers: Any, X: Any, y: Any, floor: Callable[[], Any]) -> Case:
    """Time both to the same loss: the scale that scikit-learn fits as well is given to agd."""
    peer = peers.HuberRegressor(alpha=0.0).fit(X, y)
    loss = agd.loss.Huber(1.35 * peer.scale_)
    return Case(
        f"fits: Huber, {len(y):,} x 50",
        {
            "agd": lambda: agd.fit(X, y, loss=loss, stop=agd.Stop(grad_tol=1e-5)),
            "HuberRegressor": lambda: peer.fit(X, y),
        },
        _coefficients, 1e-2, 0.1, floor,
    )  # fmt: skip


def _small(peers: Any, rng: Any) -> Iterator[Case]:
    x, y = np.asarray(agd.line.X)[:, None], np.asarray(agd.line.Y)
    plain = peers.LinearRegression()

    def often(call: Callable[[], Any]) -> Any:
        for _ in range(200):
            found = call()
        return found

    yield Case(
        "fits: seven points, 200 times",
        {"agd": lambda: often(lambda: agd.fit(x, y)), "LinearRegression": lambda: often(lambda: plain.fit(x, y))},
        _coefficients, 1e-9, 0.5,
    )  # fmt: skip
    X = rng.normal(size=(10_000, 100, 5))
    Y = X @ np.arange(5.0) + rng.normal(size=(10_000, 100))
    labels = (Y > 0.0) * 1.0

    def loop(model: Any, targets: Any) -> Any:
        return np.asarray(
            [_coefficients(model.fit(A, t))[:-1] for A, t in zip(X, targets, strict=True)]
        )

    yield Case(
        "fits: 10,000 of 100 x 5",
        {"agd": lambda: agd.fit(X, Y).coef, "a loop over LinearRegression": lambda: loop(plain, Y)},
        np.asarray, 1e-6, 0.01,
    )  # fmt: skip
    logistic = peers.LogisticRegression(C=1.0)
    yield Case(
        "fits: 10,000 logistic of 100 x 5",
        {
            "agd": lambda: agd.fit(
                X, labels, loss="log_loss", penalty=agd.loss.L2(0.01), stop=agd.Stop(grad_tol=1e-4)
            ).coef,
            "a loop over LogisticRegression": lambda: loop(logistic, labels),
        },
        lambda found: np.linalg.norm(found, axis=-1), 5e-2, 0.05,
    )  # fmt: skip
