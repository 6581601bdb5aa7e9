"""What one would write by hand in the same array library: passes, fits and loops, in a few lines each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "DELTA",
    "batched_newton",
    "batched_squares",
    "fused_pass",
    "newton",
    "squares",
    "value_and_grad",
]

DELTA = 1.35
MOST = 50  # steps of Newton's method


def _parts(xp: Any, loss: str, z: Any, y: Any) -> tuple[Any, Any]:
    """Return slope and curvature of a loss at z."""
    if loss == "log_loss":
        mean = 1.0 / (1.0 + xp.exp(-z))
        return mean - y, mean * (1.0 - mean)
    if loss == "poisson":
        return xp.exp(z) - y, xp.exp(z)
    r = z - y
    if loss == "huber":  # a weight above its curvature, with which no step overshoots
        size = xp.where(xp.abs(r) > DELTA, xp.abs(r), DELTA * xp.ones_like(r))
        return xp.clip(r, -DELTA, DELTA), DELTA / size
    return r, xp.ones_like(r)


def value_and_grad(xp: Any, loss: str, X: Any, y: Any, w: Any, b: float) -> Callable[[], Any]:
    """Return a value and gradient, by two products with X."""

    def call() -> tuple[Any, ...]:
        z = X @ w + b
        if loss == "log_loss":
            value = xp.mean(xp.logaddexp(xp.zeros_like(z), z) - y * z)
        else:
            value = xp.mean((z - y) ** 2) / 2.0
        r, _ = _parts(xp, loss, z, y)
        return value, xp.matrix_transpose(X) @ r / X.shape[0], xp.mean(r)

    return call


def fused_pass(loss: str, X: Any, y: Any, w: Any, b: float) -> Callable[[], Any]:
    """Return the same in CuPy, with one kernel for all that is done to each row's z."""
    import cupy

    @cupy.fuse()
    def rowwise(z: Any, y: Any, b: Any) -> Any:
        z = z + b
        if loss == "log_loss":
            small = cupy.exp(-cupy.abs(z))
            value = cupy.maximum(z, 0.0) + cupy.log1p(small) - y * z
            return value, cupy.where(z >= 0.0, 1.0, small) / (1.0 + small) - y
        return (z - y) * (z - y) / 2.0, z - y

    offset = cupy.asarray(b, dtype=X.dtype)

    def call() -> tuple[Any, ...]:
        value, r = rowwise(X @ w, y, offset)
        return value.mean(), X.T @ r / len(y), r.mean()

    return call


def squares(xp: Any, X: Any, y: Any) -> Callable[[], Any]:
    """Return least squares by the centred normal equations."""

    def call() -> tuple[Any, Any]:
        n, shift, level = X.shape[0], xp.mean(X, axis=0), xp.mean(y)
        T = xp.matrix_transpose(X)
        G = T @ X / n - shift[:, None] * shift
        w = xp.linalg.solve(G, (T @ y / n - shift * level)[:, None])[:, 0]
        return w, level - shift @ w

    return call


def newton(xp: Any, loss: str, X: Any, y: Any, alpha: float, where: Any) -> Callable[[float], Any]:
    """Return a fit by Newton's method, or by reweighted squares, to a gradient norm."""
    n, p = X.shape
    T, ridge = xp.matrix_transpose(X), alpha * xp.eye(p, dtype=X.dtype, device=where)

    def fit(tol: float) -> tuple[Any, Any]:
        w, b = xp.zeros_like(X[0, :]), xp.zeros_like(X[0, :1])
        for _ in range(MOST):
            r, c = _parts(xp, loss, X @ w + b, y)
            g = xp.concat([T @ r / n + alpha * w, xp.mean(r)[None]])
            if float(xp.max(xp.abs(g))) <= tol:
                break
            cross, corner = (T @ c / n)[:, None], xp.mean(c)[None, None]
            top = xp.concat([T @ (X * c[:, None]) / n + ridge, cross], axis=1)
            H = xp.concat([top, xp.concat([xp.matrix_transpose(cross), corner], axis=1)])
            step = xp.linalg.solve(H, g[:, None])[:, 0]
            w, b = w - step[:-1], b - step[-1:]
        return w, b

    return fit


def _with_ones(xp: Any, X: Any) -> Any:
    return xp.concat([X, xp.ones_like(X[..., :1])], axis=-1)


def batched_squares(xp: Any, X: Any, Y: Any) -> Callable[[], Any]:
    """Return many least squares at once, by their normal equations."""

    def call() -> Any:
        A = _with_ones(xp, X)
        T = xp.matrix_transpose(A)
        return xp.linalg.solve(T @ A, T @ Y[..., None])[..., 0]

    return call


def batched_newton(xp: Any, X: Any, Y: Any, alpha: float, where: Any) -> Callable[[float], Any]:
    """Return many logistic fits at once by Newton's method, until the worst gradient is small."""
    n, p = X.shape[-2:]
    ridge = alpha * xp.astype(xp.arange(p + 1, device=where) < p, X.dtype)
    diagonal = xp.eye(p + 1, dtype=X.dtype, device=where) * ridge

    def fit(tol: float) -> Any:
        A = _with_ones(xp, X)
        T, w = xp.matrix_transpose(A), xp.zeros_like(A[:, 0, :])
        for _ in range(MOST):
            r, c = _parts(xp, "log_loss", (A @ w[..., None])[..., 0], Y)
            g = (T @ r[..., None])[..., 0] / n + ridge * w
            if float(xp.max(xp.abs(g))) <= tol:
                break
            H = T @ (A * c[..., None]) / n + diagonal
            w = w - xp.linalg.solve(H, g[..., None])[..., 0]
        return w

    return fit
