"""Whole fits of the squared loss and of the lasso: to the same coefficients, or to the same gap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import agd
from benchmarks.problems.reference_values import coefficients, lasso_gap, problem, read
from benchmarks.timing.measurement import Case, Quality, offered

__all__ = ["CASES", "loosest"]

ALPHA = 0.05


def loosest(
    fit: Callable[[float], Any], quality: Quality, tols: Iterable[float]
) -> tuple[float, Any]:
    """Find the first tolerance whose fit reaches the quality, so that nobody works for more than that.

    Parameters
    ----------
    fit : callable
        Fits to a tolerance.
    quality : Quality
        Of the vector of coefficients.
    tols : iterable of float
        From loose to tight.

    Raises
    ------
    RuntimeError
        If none does.
    """
    for tol in tols:
        reached = quality.of(coefficients(fit(tol)))
        if reached <= quality.limit:
            return tol, reached
    raise RuntimeError(
        f"no tolerance reaches {quality.name} {quality.limit:.3g}, but {reached:.3g}"
    )


def _numpy(X: Any, y: Any, alpha: float) -> Any:
    """Solve the centred normal equations, as one would by hand."""

    def call() -> Any:
        shift, level = X.mean(axis=0), y.mean()
        C = X - shift
        w = np.linalg.solve(
            C.T @ C / len(y) + alpha * np.eye(X.shape[1]), C.T @ (y - level) / len(y)
        )
        return w, level - shift @ w

    return call


def _torch(X: Any, y: Any) -> Any:
    import torch

    A, t = torch.from_numpy(X), torch.from_numpy(y)

    def call() -> Any:
        with_ones = torch.cat([A, torch.ones(len(t), 1, dtype=A.dtype)], dim=1)
        w = torch.linalg.lstsq(with_ones, t[:, None], driver="gelsd").solution[:, 0]
        return w[:-1], w[-1:]

    return call


def _model(module: str, name: str, *data: Any, **settings: Any) -> Any:
    """Return a peer's estimator's fit."""
    import importlib

    model = getattr(importlib.import_module(module), name)(**settings)
    return lambda: model.fit(*data)


def _ridge(n: int) -> Case:
    X, z, rng = problem(n)
    y, alpha = z + rng.normal(size=n), 1e-3
    calls, missing = offered(
        (
            (
                "Ridge(cholesky)",
                lambda: _model(
                    "sklearn.linear_model", "Ridge", X, y, alpha=alpha * n, solver="cholesky"
                ),
            ),
            (
                "glum",
                lambda: _model(
                    "glum", "GeneralizedLinearRegressor", X, y, family="normal", alpha=alpha, l1_ratio=0,
                    gradient_tol=1e-9,
                ),
            ),
            ("numpy", lambda: _numpy(X, y, alpha)),
        )
    )  # fmt: skip
    return Case(
        f"fit: ridge, {n:,} x 50",
        {"agd": lambda: agd.fit(X, y, penalty=agd.loss.L2(alpha)), **calls},
        coefficients, 1e-6, {"Ridge(cholesky)": 0.5}, lambda: read(X), missing=missing,
    )  # fmt: skip


def _least_squares(n: int) -> Case:
    X, z, rng = problem(n)
    y = z + rng.normal(size=n)
    calls, missing = offered(
        (
            ("LinearRegression", lambda: _model("sklearn.linear_model", "LinearRegression", X, y)),
            ("numpy", lambda: _numpy(X, y, 0.0)),
            ("torch lstsq", lambda: _torch(X, y)),
        )
    )
    return Case(
        f"fit: least squares, {n:,} x 50",
        {"agd": lambda: agd.fit(X, y), **calls},
        coefficients, 1e-6, {"LinearRegression": 0.1}, lambda: read(X), missing=missing,
    )  # fmt: skip


def _lasso(n: int) -> Case:
    """Time all to the duality gap that scikit-learn reaches with its default tolerance."""
    X, z, rng = problem(n)
    y = z + rng.normal(size=n)

    def sklearn_lasso(**settings: Any) -> Any:
        return _model("sklearn.linear_model", "Lasso", X, y, alpha=ALPHA, **settings)

    calls, missing = offered((("Lasso(precompute)", lambda: sklearn_lasso(precompute=True)),))
    reached = [lasso_gap(X, y, ALPHA, coefficients(call())) for call in calls.values()]
    # At the last digits of the objective a gap is rounding: nobody is held to less.
    gap = Quality(
        "duality gap",
        lambda answer: lasso_gap(X, y, ALPHA, answer),
        max([1e-12, *(1.001 * g for g in reached)]) if reached else 1e-8,
    )

    def ours(tol: float) -> Any:
        return agd.fit(X, y, penalty=agd.loss.L1(ALPHA), stop=agd.Stop(grad_tol=tol))

    def skglm(tol: float) -> Any:
        return _model("skglm", "Lasso", X, y, alpha=ALPHA, tol=tol)()

    def glum(tol: float) -> Any:
        return _model(
            "glum", "GeneralizedLinearRegressor", X, y, family="normal", alpha=ALPHA, l1_ratio=1.0,
            gradient_tol=tol,
        )()  # fmt: skip

    def at_gap(fit: Callable[[float], Any]) -> Any:
        tol, _ = loosest(fit, gap, (10.0**-k for k in range(2, 13)))
        return lambda: fit(tol)

    more, why = offered((("skglm", lambda: at_gap(skglm)), ("glum", lambda: at_gap(glum))))
    return Case(
        f"fit: lasso to gap {gap.limit:.0e}, {n:,} x 50",
        {"agd": at_gap(ours), **calls, **more},
        coefficients, 1e-2, {"Lasso(precompute)": 0.4}, lambda: read(X),
        missing={**missing, **why}, quality=gap,
    )  # fmt: skip


CASES: dict[str, Callable[[int], Case]] = {
    "ridge": _ridge,
    "least squares": _least_squares,
    "lasso": _lasso,
}
