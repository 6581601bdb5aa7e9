"""Whole fits of data on a device, all to the same gradient norm, or to the same duality gap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import agd
from benchmarks.peers import device_libraries, handwritten
from benchmarks.problems.device_data import SHAPES, Problem, crossed, floor, plain, problem
from benchmarks.problems.reference_values import lasso_gap
from benchmarks.timing.measurement import Case, Quality, offered

__all__ = ["CASES", "TOL"]

ALPHA, LASSO = 1e-4, 0.05
READS = 5.0
TOL = {"float32": 1e-4, "float64": 1e-6}
"""The gradient norm that all are to reach, of rows of about 1: in single precision what sums of ten million keep."""


def _squared_peers(data: Problem) -> list[tuple[str, Callable[[], Any]]]:
    return [
        (data.by_hand, lambda: handwritten.squares(data.xp, data.X, data.y)),
        ("torch lstsq", lambda: device_libraries.torch_lstsq(data.selection, data.A, data.t)),
        ("jax", lambda: device_libraries.jax_squares(data.selection, data.A, data.t)),
        (
            "cuML LinearRegression",
            lambda: device_libraries.cuml("LinearRegression", data.X, data.y),
        ),
    ]


def _newton(data: Problem, alpha: float, tol: float) -> Callable[[], Any]:
    fit = handwritten.newton(data.xp, data.loss, data.X, data.y, alpha, data.selection.device)
    return lambda: fit(tol)


def _logistic_peers(data: Problem, tol: float) -> list[tuple[str, Callable[[], Any]]]:
    on_host = (data.selection, data.A, data.t)
    C = 1.0 / (ALPHA * data.A.shape[0])
    return [
        (data.by_hand, lambda: _newton(data, ALPHA, tol)),
        ("torch LBFGS", lambda: device_libraries.torch_lbfgs(*on_host, ALPHA, tol)),
        ("jax", lambda: device_libraries.jax_newton(*on_host, ALPHA, tol)),
        (
            "cuML LogisticRegression",
            lambda: device_libraries.cuml("LogisticRegression", data.X, data.y, C=C, tol=tol),
        ),
    ]


def _fit(
    n: int, selection: Any, loss: str, shape: tuple[int, int] = SHAPES[0], dtype: str = "float64"
) -> Case:
    data, tol = problem(n, selection, loss, shape, dtype), TOL[dtype]
    # An answer of reweighted squares to a gradient norm is no more than that: others are not sooner.
    alpha = ALPHA if loss in ("log_loss", "poisson") else 0.0
    if loss == "squared_error":
        calls, missing = offered(_squared_peers(data))
    elif loss == "log_loss":
        calls, missing = offered(_logistic_peers(data, tol))
    else:
        calls, missing = offered([(data.by_hand, lambda: _newton(data, alpha, tol))])
    chosen: Any = agd.loss.Huber(handwritten.DELTA) if loss == "huber" else loss
    penalty, stop = agd.loss.L2(alpha) if alpha else None, agd.Stop(grad_tol=tol)

    def ours() -> Any:
        return agd.fit(data.X, data.y, loss=chosen, penalty=penalty, stop=stop)

    targets = {"reads": READS} if (loss, shape) == ("squared_error", SHAPES[0]) else {}
    return Case(
        f"fit: {loss} to gradient {tol:.0e}, {data.size}", {"agd": ours, **calls}, plain, 2e-2,
        None, floor(data.X), missing=missing, quality=Quality("|g|inf", data.norm(alpha), 2.0 * tol),
        # Where p is a fifth of n or less, no curvature is below a tenth: so far apart may two be.
        atol=40.0 * tol, traffic=data.traffic(**targets),
    )  # fmt: skip


def _lasso(n: int, selection: Any) -> Case:
    data = problem(n, selection, "squared_error", SHAPES[0])
    lasso = lambda: device_libraries.cuml("Lasso", data.X, data.y, alpha=LASSO, tol=1e-6)
    calls, missing = offered([("cuML Lasso", lasso)])
    gap = Quality("duality gap", lambda answer: lasso_gap(data.A, data.t, LASSO, answer), 1e-6)
    penalty, stop = agd.loss.L1(LASSO), agd.Stop(grad_tol=1e-6)
    return Case(
        f"fit: lasso to gap 1e-06, {data.size}",
        {"agd": lambda: agd.fit(data.X, data.y, penalty=penalty, stop=stop), **calls},
        plain, 2e-2, None, floor(data.X), missing=missing, quality=gap, traffic=data.traffic(),
    )  # fmt: skip


CASES = crossed("fit", _fit)
CASES["fit: Poisson"] = functools.partial(_fit, loss="poisson")
CASES["fit: Huber"] = functools.partial(_fit, loss="huber")
CASES["fit: lasso"] = _lasso
