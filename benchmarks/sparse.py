"""Fits of sparse, text-like X beside scikit-learn's: to the same answer, or to the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import agd
from benchmarks.cases import Case

__all__ = ["cases"]

WORDS = 30  # of a row, on average


def cases(n: int) -> Iterator[Case]:
    """Make the cases on n rows of 30 words each, of a vocabulary of 2,000 and of 50,000."""
    try:
        from scipy import sparse
        from sklearn import linear_model
    except ImportError:
        print(
            "sparse: scikit-learn and SciPy are not installed, so there is nothing to compare with"
        )
        return
    for p in (2_000, 50_000):
        X, z = _text(sparse, n, p)
        rng = np.random.default_rng(1)

        def floor(X: Any = X) -> Any:
            return X.data.sum()

        labels = (rng.uniform(size=n) < 1.0 / (1.0 + np.exp(-z))) * 1.0
        yield _logistic(linear_model, X, labels, floor)
        yield _ridge(linear_model, X, z + rng.normal(size=n), floor)


def _text(sparse: Any, n: int, p: int) -> tuple[Any, Any]:
    """Draw rows of words as frequent as Zipf has them, of length 1 each, and a linear predictor."""
    rng = np.random.default_rng(0)
    share = 1.0 / np.arange(10.0, p + 10.0)
    words = np.searchsorted(np.cumsum(share / share.sum()), rng.uniform(size=n * WORDS))
    starts = np.arange(0, n * WORDS + 1, WORDS)
    X = sparse.csr_array((np.ones(n * WORDS), np.minimum(words, p - 1), starts), shape=(n, p))
    X.sum_duplicates()
    X.data = np.log1p(X.data)
    lengths = np.sqrt(X.multiply(X).sum(axis=1))
    X = sparse.csr_array(sparse.diags_array(1.0 / lengths) @ X)
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X, 5.0 * (X @ rng.normal(size=p))


def _coefficients(found: Any) -> Any:
    """Return what a call found, the intercept last, as one vector."""
    if hasattr(found, "coef_"):
        return np.append(np.ravel(found.coef_), np.ravel(found.intercept_))
    return np.append(np.ravel(found.coef), np.ravel(found.intercept))


def _logistic(peers: Any, X: Any, labels: Any, floor: Callable[[], Any]) -> Case:
    """Time both to the gradient that scikit-learn reaches with its default tolerance."""
    (n, p), alpha = X.shape, 1e-5
    peer = peers.LogisticRegression(C=1.0 / (alpha * n), max_iter=1000).fit(X, labels)
    w = peer.coef_[0]
    slope = 1.0 / (1.0 + np.exp(-(X @ w + peer.intercept_[0]))) - labels
    reached = max(np.abs(X.T @ slope / n + alpha * w).max(), abs(slope.mean()))
    kwargs = {"loss": "log_loss", "penalty": agd.loss.L2(alpha), "stop": agd.Stop(grad_tol=reached)}
    return Case(
        f"sparse: logistic to |g| {reached:.0e}, {n:,} x {p:,}",
        {
            "agd": lambda: agd.fit(X, labels, **kwargs),
            "LogisticRegression(lbfgs)": lambda: peer.fit(X, labels),
        },
        _coefficients, 5e-2, None, floor,
    )  # fmt: skip


def _ridge(peers: Any, X: Any, y: Any, floor: Callable[[], Any]) -> Case:
    """Time both to a gradient that leaves the coefficients alike."""
    (n, p), alpha = X.shape, 1e-5
    peer = peers.Ridge(alpha=alpha * n, solver="sparse_cg", tol=1e-6)
    # Above 2,000 columns the descent is iterative, as the peer's.
    stop = None if p <= 2_000 else agd.Stop(grad_tol=1e-9)
    return Case(
        f"sparse: ridge, {n:,} x {p:,}",
        {
            "agd": lambda: agd.fit(X, y, penalty=agd.loss.L2(alpha), stop=stop),
            "Ridge(sparse_cg)": lambda: peer.fit(X, y),
        },
        _coefficients, 1e-2, None, floor,
    )  # fmt: skip
