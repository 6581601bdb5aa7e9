"""Everyday sizes: fits of 150 x 4 to 10,000 x 20 beside scikit-learn, and Rosenbrock's function beside SciPy.

They take less than the clock on the wall can tell on a busy machine: what is compared is processor time, with
one thread for BLAS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from agd.loss import L1, L2, ElasticNet
from benchmarks.problems.reference_values import coefficients
from benchmarks.timing.measurement import Case, Quality, offered

__all__ = ["CASES"]

SIZES = [(150, 4), (569, 30), (1_000, 20), (10_000, 20), (1_000, 200), (300, 1_000)]
SMOOTH, KINKED, WIDE = 0.5, 1.0, 1.0  # the ratios to reach; wide is more columns than rows
VARIABLES = {
    2: 2.0,
    100: 2.0,
    10_000: 1.0,
}  # of Rosenbrock's function, and the ratio for an evaluation
ALPHA, L1_LOGISTIC = 0.05, 0.02  # strengths of the penalties with a kink
MAX_EXCESS = 1e-6  # how far a value of the objective may be above agd's, relative to it
ROUNDS = 7
FOLDS = 10
ANY_DISTANCE = 1e300  # of answers that are not held against each other, as an `atol`
FEW = {"max_iter": 2_000, "tol": 1e-6}
MANY = {"max_iter": 10_000, "tol": 1e-8}


def _estimator(name: str, X: Any, y: Any, **settings: Any) -> tuple[str, Callable[[], Any]]:
    """Return a peer by its name, and what makes the call that fits it."""

    def make() -> Callable[[], Any]:
        from sklearn import linear_model

        plain = getattr(linear_model, name)(**settings)
        return lambda: plain.fit(X, y)

    return name, make


KINDS: dict[str, tuple[str, Callable[[int], Any], str, dict[str, Any]]] = {
    "least squares": ("squared_error", lambda n: None, "LinearRegression", {}),  # noqa: ARG005
    "ridge": ("squared_error", lambda n: L2(1.0 / n), "Ridge", {"alpha": 1.0}),
    "logistic": ("log_loss", lambda n: L2(1.0 / n), "LogisticRegression", FEW),
    "Poisson": ("poisson", lambda n: L2(1.0 / n), "PoissonRegressor", FEW),
    "Huber": ("huber", lambda n: L2(1e-4), "HuberRegressor", {"max_iter": 2_000}),  # noqa: ARG005
    "lasso": ("squared_error", lambda n: L1(ALPHA), "Lasso", {"alpha": ALPHA, **MANY}),  # noqa: ARG005
    "elastic net": (
        "squared_error",
        lambda n: ElasticNet(ALPHA, 0.5),  # noqa: ARG005
        "ElasticNet",
        {"alpha": ALPHA, "l1_ratio": 0.5, **MANY},
    ),
    "logistic with L1": (
        "log_loss",
        lambda n: L1(L1_LOGISTIC),  # noqa: ARG005
        "LogisticRegression",
        {"l1_ratio": 1.0, "solver": "liblinear", "tol": 1e-6},
    ),
}
"""What is fitted: the loss, the penalty for n rows, and the peer with its settings."""


def _data(n: int, p: int, kind: str) -> tuple[Any, Any]:
    """Draw X and y: columns of different units for the squared loss, standardised ones where the peer needs it."""
    rng = np.random.default_rng(n + p)
    X = rng.normal(size=(n, p)) * np.exp(rng.normal(size=p))
    Z = X / X.std(axis=0)
    z = Z @ rng.normal(size=p) / np.sqrt(p)
    y = z + rng.normal(size=n)
    labels, counts = rng.random(n) < 1.0 / (1.0 + np.exp(-z)), rng.poisson(np.exp(z))
    targets = {"log_loss": labels * 1.0, "poisson": counts * 1.0}
    return X if kind in {"least squares", "ridge"} else Z, targets.get(KINDS[kind][0], y)


def _fit(rows: int, columns: int, kind: str, n: int) -> Case:
    """Return the case of one fit, whose quality is the value of the objective; its size is not n."""
    del n
    loss, make_penalty, name, settings = KINDS[kind]
    (X, y), penalty = _data(rows, columns, kind), make_penalty(rows)
    if kind == "logistic with L1":
        settings = {**settings, "C": 1.0 / (L1_LOGISTIC * rows)}
    elif kind == "Poisson":
        settings = {**settings, "alpha": 1.0 / rows}
    calls, missing = offered([_estimator(name, X, y, **settings)])
    ratio = WIDE if columns > rows else KINKED if isinstance(penalty, L1 | ElasticNet) else SMOOTH
    objective = agd.loss.get(loss)

    def value(answer: Any) -> float:
        z = X @ answer[:-1] + answer[-1]
        penalised = 0.0 if penalty is None else float(penalty.value(answer[:-1]))
        return float(np.mean(objective.value(z, y))) + penalised

    def fit() -> Any:
        return agd.fit(X, y, loss=loss, penalty=penalty)

    lowest = value(coefficients(fit()))
    # HuberRegressor also fits the spread, and liblinear penalises the intercept: their minima are others.
    same = kind not in {"Huber", "logistic with L1"}
    quality = Quality(
        "excess of the objective", lambda a: value(a) - lowest, MAX_EXCESS * abs(lowest)
    )
    return Case(
        f"everyday: {kind}, {rows:,} x {columns:,}", {"agd": fit, **calls}, coefficients, 1e-6,
        {name: ratio}, rounds=ROUNDS, missing=missing, quality=quality if same else None,
        atol=ANY_DISTANCE, processor_time=True,
    )  # fmt: skip


def _rosenbrock(variables: int, n: int) -> Case:
    """Return the case of one evaluation by L-BFGS beside SciPy's, the function's own time included."""
    del n

    def make() -> Callable[[], Any]:
        from scipy.optimize import minimize, rosen, rosen_der

        return lambda: minimize(rosen, x0, jac=rosen_der, method="L-BFGS-B")

    def ours() -> Any:
        from scipy.optimize import rosen, rosen_der

        return agd.minimize(rosen, x0, jac=rosen_der)

    x0 = np.tile([-1.2, 1.0], variables // 2)
    calls, missing = offered([("L-BFGS-B", make)])
    return Case(
        f"everyday: an evaluation of Rosenbrock's function in {variables:,}", {"agd": ours, **calls},
        lambda result: result.x, 1e-2, {"L-BFGS-B": VARIABLES[variables]}, rounds=ROUNDS, missing=missing,
        per=lambda result: float(result.nfev), processor_time=True,
        atol=ANY_DISTANCE,  # in many variables there are several minima
    )  # fmt: skip


def _lasso_path(rows: int, columns: int, n: int) -> Case:
    """Return the case of a lasso for 100 strengths on centred data, whose coefficients are held against each other."""
    del n
    X, y = _data(rows, columns, "lasso")
    X, y = np.asfortranarray(X - X.mean(axis=0)), y - y.mean()

    def make() -> Callable[[], Any]:
        from sklearn.linear_model import lasso_path

        return lambda: lasso_path(X, y, alphas=100)[1].T

    def ours() -> Any:
        return agd.penalty_path(X, y, L1(), alphas=100, intercept=False).coef

    calls, missing = offered([("lasso_path", make)])
    return Case(
        f"everyday: lasso path, {rows:,} x {columns:,}", {"agd": ours, **calls}, np.ravel, 1e-2,
        {"lasso_path": 1.0}, rounds=ROUNDS, missing=missing, processor_time=True, atol=0.05,
    )  # fmt: skip


def _logistic_choice(rows: int, columns: int, n: int) -> Case:
    """Return the case of a ridge for two classes, chosen from 50 strengths in 10 folds: the same folds and criterion."""
    del n
    X, y = _data(rows, columns, "logistic")
    number = np.random.default_rng(0).permutation(rows) % FOLDS
    folds = [(np.flatnonzero(number != i), np.flatnonzero(number == i)) for i in range(FOLDS)]
    strengths = np.logspace(-4.0, 4.0, 50)

    def make() -> Callable[[], Any]:
        from sklearn.linear_model import LogisticRegressionCV

        settings: dict[str, Any] = {"Cs": strengths, "cv": folds, "scoring": "neg_log_loss"}
        return lambda: np.ravel(LogisticRegressionCV(**settings).fit(X, y).coef_)

    def ours() -> Any:
        alphas = 1.0 / (strengths * rows)
        options: dict[str, Any] = {"alphas": alphas, "folds": folds, "loss": "log_loss"}
        return agd.cross_validate(X, y, L2(), **options).model.coef

    calls, missing = offered([("LogisticRegressionCV", make)])
    return Case(
        f"everyday: logistic, 50 strengths, {FOLDS} folds, {rows:,} x {columns:,}",
        {"agd": ours, **calls}, np.asarray, 1e-2, {"LogisticRegressionCV": 0.3}, rounds=3,
        missing=missing, processor_time=True, atol=0.01,
    )  # fmt: skip


CASES: dict[str, Callable[[int], Case]] = (
    {
        f"{kind}, {rows} x {columns}": functools.partial(_fit, rows, columns, kind)
        for rows, columns in SIZES
        for kind in KINDS
    }
    | {
        "lasso path": functools.partial(_lasso_path, 1_000, 200),
        "logistic choice": functools.partial(_logistic_choice, 1_000, 20),
    }
    | {
        f"Rosenbrock in {variables}": functools.partial(_rosenbrock, variables)
        for variables in VARIABLES
    }
)
