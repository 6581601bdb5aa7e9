"""Fits of sparse, text-like X beside scikit-learn's, to the gradient that its default tolerance reaches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from benchmarks.timing.measurement import Case, Quality, offered, present

__all__ = ["CASES"]

WORDS = 30  # of a row, on average
SHARE = 5  # of the rows asked for, one in so many: a row here is 30 numbers and their columns
ALPHA = 1e-5


def _text(n: int, p: int) -> tuple[Any, Any]:
    """Draw rows of words as frequent as Zipf has them, of length 1 each, and a linear predictor."""
    from scipy import sparse

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


def _vector(found: Any) -> Any:
    """Return what a call found, the intercept last, as one vector."""
    if hasattr(found, "coef_"):
        return np.append(np.ravel(found.coef_), np.ravel(found.intercept_))
    return np.append(np.ravel(found.coef), np.ravel(found.intercept))


def _gradient_norm(slope: Callable[[Any], Any], X: Any, answer: Any) -> float:
    """Return the largest entry of the penalised mean loss's gradient, by plain products."""
    r = slope(X @ answer[:-1] + answer[-1])
    return float(max(np.abs(X.T @ r / len(r) + ALPHA * answer[:-1]).max(), abs(r.mean())))


def _case(
    name: str,
    loss: str,
    X: Any,
    y: Any,
    slope: Callable[[Any], Any],
    peer: tuple[str, Callable[[], Any]],
) -> Case:
    """Time both to twice the gradient that the peer reaches."""
    n, p = X.shape
    size = functools.partial(_gradient_norm, slope, X)
    calls, missing = offered([peer])
    reached = min([size(_vector(call())) for call in calls.values()] or [1e-5])
    ours = functools.partial(
        agd.fit, X, y, loss=loss, penalty=agd.loss.L2(ALPHA), stop=agd.Stop(grad_tol=2.0 * reached)
    )
    return Case(
        f"sparse {name} to |g| {2.0 * reached:.0e}, {n:,} x {p:,}", {"agd": ours, **calls}, _vector, np.inf,
        None, X.data.sum, missing=missing, quality=Quality("|g|", size, 2.0 * reached),
    )  # fmt: skip


def _logistic(p: int, n: int) -> Case:
    X, z = _text(max(n // SHARE, 20), p)
    y = (np.random.default_rng(1).uniform(size=len(z)) < 1.0 / (1.0 + np.exp(-z))) * 1.0

    def peer() -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=1.0 / (ALPHA * len(y)), max_iter=1000).fit(X, y)

    slope = functools.partial(lambda y, z: 1.0 / (1.0 + np.exp(-z)) - y, y)
    reference = ("LogisticRegression(lbfgs)", lambda: present("sklearn", peer))
    return _case("logistic", "log_loss", X, y, slope, reference)


def _ridge(p: int, n: int) -> Case:
    X, z = _text(max(n // SHARE, 20), p)
    y = z + np.random.default_rng(1).normal(size=len(z))

    def peer() -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(alpha=ALPHA * len(y), solver="sparse_cg", tol=1e-6).fit(X, y)

    reference = ("Ridge(sparse_cg)", lambda: present("sklearn", peer))
    return _case("ridge", "squared_error", X, y, lambda z: z - y, reference)


CASES: dict[str, Callable[[int], Case]] = {
    f"{make.__name__[1:]}, {p:,} columns": functools.partial(make, p)
    for p in (2_000, 50_000)
    for make in (_logistic, _ridge)
}
