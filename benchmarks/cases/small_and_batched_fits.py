"""Small fits: the article's seven points, and thousands of problems at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from benchmarks.problems.reference_values import coefficients
from benchmarks.timing.measurement import Case, Quality, offered

__all__ = ["CASES", "batch", "batch_norm"]

TIMES, EPOCHS, LR, ALPHA = 200, 100, 0.1, 0.01


def batch(problems: int) -> tuple[Any, Any]:
    """Draw problems of 100 rows and 5 columns."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(problems, 100, 5))
    return X, X @ np.arange(5.0) + rng.normal(size=(problems, 100))


def batch_norm(X: Any, labels: Any, alpha: float) -> Callable[[Any], float]:
    """Return the worst gradient norm of many logistic fits, as a function of their (w, intercept)."""

    def norm(answer: Any) -> float:
        w, b = answer[:, :-1], answer[:, -1:]
        r = 1.0 / (1.0 + np.exp(-((X @ w[..., None])[..., 0] + b))) - labels
        slopes = (r[:, None, :] @ X)[:, 0] / 100.0 + alpha * w
        return float(max(np.abs(slopes).max(), np.abs(r.mean(axis=1)).max()))

    return norm


def _problems(n: int) -> int:
    return max(n // 100, 10)  # 10,000 problems beside a million rows


def _estimator(name: str, **settings: Any) -> Any:
    from sklearn import linear_model

    return getattr(linear_model, name)(**settings)


def _looped(model: Any, X: Any, Y: Any) -> Callable[[], Any]:
    return lambda: np.asarray(
        [np.append(found.coef_, found.intercept_) for found in _fits(model, X, Y)]
    )


def _fits(model: Any, X: Any, Y: Any) -> Any:
    return (model.fit(A, t) for A, t in zip(X, Y, strict=True))


def _stacked(found: Any) -> Any:
    return np.concatenate([found.coef, found.intercept[:, None]], axis=1)


def _seven_points(n: int) -> Case:
    """Time a fit of seven points, 200 times over."""
    del n
    x, y = np.asarray(agd.line.X)[:, None], np.asarray(agd.line.Y)

    def often(call: Callable[[], Any]) -> Any:
        for _ in range(TIMES):
            found = call()
        return found

    def scikit_learn() -> Any:
        plain = _estimator("LinearRegression")
        return lambda: often(lambda: plain.fit(x, y))

    calls, missing = offered((("LinearRegression", scikit_learn),))
    return Case(
        f"fit: seven points, {TIMES} times",
        {"agd": lambda: often(lambda: agd.fit(x, y)), **calls},
        coefficients, 1e-9, {"LinearRegression": 0.5}, rounds=15, missing=missing,
    )  # fmt: skip


def _article(n: int) -> Case:
    """Time the article on seven points: the general core beside the three formulas."""
    del n
    x, y = np.asarray(agd.line.X), np.asarray(agd.line.Y)
    method, stop = agd.update.gradient_descent(8e-3), agd.Stop(5000, grad_tol=0.0, check_every=5000)

    def formulas() -> Any:
        weights = {"w0": 0.0, "w1": 0.0}
        for _ in range(5000):
            _, weights = agd.gradient_descent(x, y, weights, 8e-3)
        return [weights["w1"], weights["w0"]]

    def core() -> Any:
        found = agd.fit(x[:, None], y, method=method, stop=stop)
        return [found.coef[0], found.intercept]

    return Case("the article, 5,000 epochs", {"agd": core, "agd.line": formulas}, np.asarray, 1e-9)


def _squared(n: int) -> Case:
    X, Y = batch(_problems(n))

    def by_hand() -> Any:
        def call() -> Any:
            A = np.concatenate([X, np.ones((*X.shape[:2], 1))], axis=2)
            T = np.swapaxes(A, 1, 2)
            return np.linalg.solve(T @ A, T @ Y[..., None])[..., 0]

        return call

    calls, missing = offered(
        (
            ("loop of LinearRegression", lambda: _looped(_estimator("LinearRegression"), X, Y)),
            ("numpy", by_hand),
        )
    )
    return Case(
        f"many: {len(X):,} squared of 100 x 5",
        {"agd": lambda: _stacked(agd.fit(X, Y)), **calls},
        np.asarray, 1e-6, {"loop of LinearRegression": 0.01}, X.sum, missing=missing,
    )  # fmt: skip


def _epochs(n: int) -> Case:
    """Time the same 100 epochs of gradient descent by all, from 0."""
    X, Y = batch(_problems(n))
    method, stop = (
        agd.update.gradient_descent(LR),
        agd.Stop(EPOCHS, grad_tol=0.0, check_every=EPOCHS),
    )

    def vmapped() -> Any:
        import jax
        from jax import numpy as jnp

        jax.config.update("jax_enable_x64", True)  # noqa: FBT003 - JAX's own signature

        def loss(params: Any, A: Any, t: Any) -> Any:
            return jnp.mean((A @ params[0] + params[1] - t) ** 2) / 2

        def run(A: Any, t: Any) -> Any:
            def epoch(_: Any, params: Any) -> Any:
                grads = jax.grad(loss)(params, A, t)
                return params[0] - LR * grads[0], params[1] - LR * grads[1]

            w, b = jax.lax.fori_loop(0, EPOCHS, epoch, (jnp.zeros(A.shape[1]), jnp.zeros(())))
            return jnp.append(w, b)

        call, A, t = jax.jit(jax.vmap(run)), jnp.asarray(X), jnp.asarray(Y)
        return lambda: jax.block_until_ready(call(A, t))

    def by_hand() -> Any:
        def call() -> Any:
            w, b = np.zeros((len(X), 5)), np.zeros(len(X))
            for _ in range(EPOCHS):
                r = (X @ w[..., None])[..., 0] + b[:, None] - Y
                w = w - LR * (r[:, None, :] @ X)[:, 0] / 100.0
                b = b - LR * r.mean(axis=1)
            return np.concatenate([w, b[:, None]], axis=1)

        return call

    calls, missing = offered((("jax vmap", vmapped), ("numpy", by_hand)))
    return Case(
        f"many: {len(X):,} of 100 x 5, {EPOCHS} epochs",
        {"agd": lambda: _stacked(agd.fit(X, Y, method=method, stop=stop)), **calls},
        np.asarray, 1e-9, {"jax vmap": 0.1}, X.sum, missing=missing,
    )  # fmt: skip


def _logistic(n: int) -> Case:
    """Time all to the worst gradient norm that scikit-learn reaches with its default tolerance."""
    X, Y = batch(_problems(n))
    labels = (Y > 0.0) * 1.0

    norm = batch_norm(X, labels, ALPHA)

    def scikit_learn() -> Any:
        return _looped(_estimator("LogisticRegression", C=1.0 / (ALPHA * 100)), X, labels)

    calls, missing = offered((("loop of LogisticRegression", scikit_learn),))
    reached = [norm(call()) for call in calls.values()]
    limit = 1.001 * reached[0] if reached else 1e-4
    settings = {"loss": "log_loss", "penalty": agd.loss.L2(ALPHA), "stop": agd.Stop(grad_tol=limit)}
    return Case(
        f"many: {len(X):,} logistic of 100 x 5 to gradient {limit:.0e}",
        {"agd": lambda: _stacked(agd.fit(X, labels, **settings)), **calls},
        np.asarray, 5e-2, {"loop of LogisticRegression": 0.05}, X.sum,
        missing=missing, quality=Quality("|g|inf", norm, limit),
        # The penalty is all the curvature that is sure: so far apart may two such answers be.
        atol=2.0 * limit * 6**0.5 / ALPHA,
    )  # fmt: skip


CASES: dict[str, Callable[[int], Case]] = {
    "seven points": _seven_points,
    "the article": _article,
    "many squared": _squared,
    "many epochs": _epochs,
    "many logistic": _logistic,
}
