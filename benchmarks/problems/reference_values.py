"""What answers are held against: losses, gradients and gaps by plain NumPy, and the data they are of."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "coefficients",
    "gradient_norm",
    "huber_loss",
    "lasso_gap",
    "log_loss",
    "problem",
    "read",
]


def problem(n: int, p: int = 50) -> tuple[Any, Any, Any]:
    """Draw rows X, their linear predictor z, and the generator for what comes next."""
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(n, p)), rng.normal(size=p) / p**0.5
    return X, X @ w + 0.5, rng


def read(X: Any) -> Any:
    """Read X once: no fit can be quicker."""
    return X @ np.ones(X.shape[-1], dtype=X.dtype)


def coefficients(found: Any) -> Any:
    """Return what a call found, coefficients first and then the intercept, as one vector."""
    if hasattr(found, "coef_"):
        found = (found.coef_, found.intercept_)
    elif hasattr(found, "coef"):
        found = (found.coef, found.intercept)
    return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in found])


def slope(loss: str, z: Any, y: Any, delta: float = 1.35) -> Any:
    """Return the derivative of a loss by the linear predictor."""
    if loss == "log_loss":
        return 1.0 / (1.0 + np.exp(-z)) - y
    if loss == "poisson":
        return np.exp(z) - y
    return np.clip(z - y, -delta, delta) if loss == "huber" else z - y


def gradient_norm(loss: str, X: Any, y: Any, alpha: float, answer: Any) -> float:
    """Return the largest entry of the gradient of mean loss + alpha/2 |w|², at (w, intercept)."""
    w, b = answer[:-1], answer[-1]
    r = slope(loss, X @ w + b, y)
    return float(max(np.abs(X.T @ r / len(y) + alpha * w).max(), abs(r.mean())))


def log_loss(X: Any, y: Any, w: Any) -> float:
    """Return the mean log loss of a model without intercept."""
    z = X @ w
    return float(np.mean(np.logaddexp(0.0, z) - y * z))


def huber_loss(X: Any, y: Any, delta: float, answer: Any) -> float:
    """Return the mean Huber loss at (w, intercept)."""
    r = np.abs(X @ answer[:-1] + answer[-1] - y)
    return float(np.mean(np.where(r <= delta, r * r / 2.0, delta * (r - delta / 2.0))))


def lasso_gap(X: Any, y: Any, alpha: float, answer: Any) -> float:
    """Return the duality gap of |y - X w - b|²/(2 n) + alpha |w|_1, at the best b for this w.

    The dual point is the residual, scaled until X' theta is at most alpha n in every entry.
    """
    n, w = len(y), answer[:-1]
    centred = y - y.mean()
    r = y - X @ w
    r -= r.mean()
    theta = r * min(1.0, alpha * n / np.abs(X.T @ r).max())
    primal = r @ r / (2 * n) + alpha * np.abs(w).sum()
    dual = (centred @ centred - (centred - theta) @ (centred - theta)) / (2 * n)
    return float(primal - dual)
