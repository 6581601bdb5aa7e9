"""Whole fits of the other smooth losses: to the same gradient norm, or to the same loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from benchmarks.cases.squared_and_lasso_fits import loosest
from benchmarks.problems.reference_values import (
    coefficients,
    gradient_norm,
    huber_loss,
    problem,
    read,
)
from benchmarks.timing.measurement import Case, Quality, offered, present

__all__ = ["CASES"]

ALPHA = 1e-4
TOLS = tuple(10.0**-k for k in range(2, 11))


def _to_gradient(
    n: int,
    loss: str,
    data: tuple[Any, Any],
    reference: tuple[str, Callable[[], Any]],
    others: dict[str, Callable[[float], Any]],
    target: float | None,
) -> Case:
    """Time all to the gradient norm that a peer reaches with its default tolerance.

    Parameters
    ----------
    n : int
        Rows.
    loss : str
        The loss, with ALPHA/2 |w|² added.
    data : tuple
        X and y.
    reference : tuple
        The peer's name, and what makes its call.
    others : dict
        Fits to a tolerance; the loosest that reaches the norm is timed.
    target : float or None
        In times of the reference's time.
    """
    X, y = data
    calls, missing = offered((reference,))
    of: Callable[[Any], float] = lambda answer: gradient_norm(loss, X, y, ALPHA, answer)
    reached = [of(coefficients(call())) for call in calls.values()]
    limit = 1.001 * reached[0] if reached else 1e-5
    quality = Quality("|g|inf", of, limit)

    def at_norm(fit: Callable[[float], Any]) -> Any:
        tol, _ = loosest(fit, quality, TOLS)
        return lambda: fit(tol)

    more, why = offered((name, lambda fit=fit: at_norm(fit)) for name, fit in others.items())
    settings = {"loss": loss, "penalty": agd.loss.L2(ALPHA), "stop": agd.Stop(grad_tol=limit)}
    return Case(
        f"fit: {loss} to gradient {limit:.0e}, {n:,} x 50",
        {"agd": lambda: agd.fit(X, y, **settings), **calls, **more},
        coefficients, 2e-2, None if target is None else {reference[0]: target}, lambda: read(X),
        missing={**missing, **why}, quality=quality,
        # With columns of spread 1 the curvature is above 0.1: so far apart may two such answers be.
        atol=20.0 * limit,
    )  # fmt: skip


def _glum(family: str, X: Any, y: Any) -> Callable[[float], Any]:
    def fit(tol: float) -> Any:
        from glum import GeneralizedLinearRegressor

        return GeneralizedLinearRegressor(
            family=family, alpha=ALPHA, l1_ratio=0, gradient_tol=tol
        ).fit(X, y)

    return fit


def _logistic(n: int) -> Case:
    X, z, rng = problem(n)
    y = (rng.uniform(size=n) < 1.0 / (1.0 + np.exp(-z))) * 1.0

    def peer(tol: float = 1e-4, solver: str = "lbfgs") -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=1.0 / (ALPHA * n), tol=tol, solver=solver).fit(X, y)

    return _to_gradient(
        n, "log_loss", (X, y), ("LogisticRegression(lbfgs)", lambda: present("sklearn", peer)),
        {
            "LogisticRegression(newton-cholesky)": lambda tol: peer(tol, "newton-cholesky"),
            "glum": _glum("binomial", X, y),
        },
        0.5,
    )  # fmt: skip


def _poisson(n: int) -> Case:
    X, z, rng = problem(n)
    y = rng.poisson(np.exp(0.5 * z - 0.5)) * 1.0

    def peer(tol: float = 1e-4, solver: str = "lbfgs") -> Any:
        from sklearn.linear_model import PoissonRegressor

        return PoissonRegressor(alpha=ALPHA, tol=tol, solver=solver).fit(X, y)

    return _to_gradient(
        n, "poisson", (X, y), ("PoissonRegressor(lbfgs)", lambda: present("sklearn", peer)),
        {
            "PoissonRegressor(newton-cholesky)": lambda tol: peer(tol, "newton-cholesky"),
            "glum": _glum("poisson", X, y),
        },
        None,
    )  # fmt: skip


def _huber(n: int) -> Case:
    """Time all to the same loss: the scale that scikit-learn fits as well is given to the others."""
    X, z, rng = problem(n)
    y = z + rng.normal(size=n)
    y = np.where(np.arange(n) % 20 == 0, y + 30.0 * rng.normal(size=n), y)
    scale = [1.0]

    def scikit_learn() -> Any:
        from sklearn.linear_model import HuberRegressor

        peer = HuberRegressor(alpha=0.0)
        scale[0] = float(peer.fit(X, y).scale_)
        return lambda: peer.fit(X, y)

    calls, missing = offered((("HuberRegressor", scikit_learn),))
    delta = 1.35 * scale[0]
    reached = [huber_loss(X, y, delta, coefficients(call())) for call in calls.values()]
    quality = Quality(
        "loss",
        lambda answer: huber_loss(X, y, delta, answer),
        reached[0] * (1.0 + 1e-9) if reached else np.inf,
    )

    def ours(tol: float) -> Any:
        return agd.fit(X, y, loss=agd.loss.Huber(delta), stop=agd.Stop(grad_tol=tol))

    def skglm(tol: float) -> Any:
        from skglm import GeneralizedLinearEstimator
        from skglm.datafits import Huber
        from skglm.penalties import L1
        from skglm.solvers import AndersonCD

        return GeneralizedLinearEstimator(Huber(delta), L1(0.0), AndersonCD(tol=tol)).fit(X, y)

    def at_loss(fit: Callable[[float], Any]) -> Any:
        tol, _ = loosest(fit, quality, TOLS)
        return lambda: fit(tol)

    more, why = offered((("skglm", lambda: at_loss(skglm)),))
    return Case(
        f"fit: Huber to the same loss, {n:,} x 50",
        {"agd": at_loss(ours), **calls, **more},
        coefficients, 1e-2, {"HuberRegressor": 0.1}, lambda: read(X),
        missing={**missing, **why}, quality=quality,
    )  # fmt: skip


CASES: dict[str, Callable[[int], Case]] = {
    "logistic": _logistic,
    "Poisson": _poisson,
    "Huber": _huber,
}
