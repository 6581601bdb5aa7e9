"""Badly scaled, correlated data for ridge regression, and its solution by NumPy alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def correlated_rows(n: int = 60, p: int = 4, seed: int = 0) -> tuple[Any, Any]:
    """Draw X (n, p), whose columns are correlated, unequal in size and off zero, and targets y (n,)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) @ (np.eye(p) + 0.4 * rng.normal(size=(p, p)))
    X = X * np.logspace(-2, 2, p) + np.linspace(-3, 30, p)
    return X, X @ np.linspace(1, -1, p) + rng.normal(size=n)


def ridge_solution(X: Any, y: Any, weight: Any = None, alpha: float = 0.0) -> tuple[Any, Any]:
    """Return the coefficients and the intercept of ridge regression by lstsq on centred rows."""
    s = np.ones(len(y)) if weight is None else weight
    mean_x, mean_y = np.average(X, axis=0, weights=s), np.average(y, weights=s)
    root = np.sqrt(s / s.sum())[:, None]
    rows = np.vstack([root * (X - mean_x), math.sqrt(alpha) * np.eye(X.shape[1])])
    targets = np.append(root[:, 0] * (y - mean_y), np.zeros(X.shape[1]))
    w = np.linalg.lstsq(rows, targets)[0]
    return w, mean_y - mean_x @ w
