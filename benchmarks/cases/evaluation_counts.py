"""What is counted, not timed: evaluations to a gradient norm on data that nobody has scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from benchmarks.problems.reference_values import coefficients, gradient_norm
from benchmarks.timing.measurement import Case, Quality, offered

__all__ = ["CASES"]

ALPHA, TOL = 1e-3, 1e-6


def _breast_cancer(n: int) -> Case:
    """Count values with gradients on breast_cancer as it comes, mean log loss + 1e-3/2 |w|²."""
    del n
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    y = y * 1.0

    def scipy() -> Any:
        from scipy import optimize

        def pair(x: Any) -> tuple[float, Any]:
            z = X @ x[:-1] + x[-1]
            value = np.mean(np.logaddexp(0.0, z) - y * z) + ALPHA / 2.0 * x[:-1] @ x[:-1]
            r = 1.0 / (1.0 + np.exp(-z)) - y
            return value, np.append(X.T @ r / len(y) + ALPHA * x[:-1], r.mean())

        options = {"gtol": TOL, "ftol": 0.0, "maxiter": 100_000, "maxfun": 100_000}
        return lambda: optimize.minimize(
            pair, np.zeros(X.shape[1] + 1), jac=True, method="L-BFGS-B", options=options
        )

    calls, missing = offered((("scipy L-BFGS-B", scipy),))
    settings = {"loss": "log_loss", "penalty": agd.loss.L2(ALPHA), "stop": agd.Stop(grad_tol=TOL)}
    return Case(
        f"evaluations: breast_cancer unscaled, to gradient {TOL:.0e}",
        {"agd": lambda: agd.fit(X, y, **settings), **calls},
        lambda found: found.x if isinstance(found.x, np.ndarray) else coefficients(found),
        0.5, 130.0, missing=missing, count=lambda found: found.nfev,
        quality=Quality("|g|inf", lambda a: gradient_norm("log_loss", X, y, ALPHA, a), TOL),
    )  # fmt: skip


CASES: dict[str, Callable[[int], Case]] = {"breast_cancer": _breast_cancer}
