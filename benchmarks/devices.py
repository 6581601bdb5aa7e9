"""The cases on a device: agd beside the same array library by hand, torch, and cuML if it is installed.

The data are drawn on the host, so that every library has the same, and moved before anything is timed.
Answers are checked on the host by plain NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import agd
from agd import backends
from agd._typing import Params
from agd.gradient import LinearObjective
from benchmarks.cases import Case, Quality, offered
from benchmarks.many import batch
from benchmarks.plain import gradient_norm, lasso_gap, problem

__all__ = ["CASES"]

B, ALPHA, LASSO, DELTA = 0.1, 1e-4, 0.05, 1.35


def _host(found: Any) -> Any:
    """Return coefficients and intercept, or the parts of a tuple, as one vector on the host."""
    if hasattr(found, "coef_"):
        found = (found.coef_, found.intercept_)
    elif hasattr(found, "coef"):
        found = (found.coef, found.intercept)
    return np.concatenate([np.ravel(_numpy(part)) for part in found]).astype(np.float64)


def _numpy(part: Any) -> Any:
    if hasattr(part, "detach"):
        return part.detach().cpu().numpy()
    if backends.is_array(part):
        return backends.to_numpy(part)
    return np.asarray(part)


def _by_hand(xp: Any, loss: str, X: Any, y: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return (value and gradient) and (slope and curvature) of a loss, as one would write them."""

    def parts(z: Any) -> tuple[Any, Any]:
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

    def pair(w: Any, b: Any) -> tuple[Any, ...]:
        z = X @ w + b
        if loss == "log_loss":
            value = xp.mean(xp.logaddexp(xp.zeros_like(z), z) - y * z)
        else:
            value = xp.mean((z - y) ** 2) / 2.0
        r, _ = parts(z)
        return value, xp.matrix_transpose(X) @ r / X.shape[0], xp.mean(r)

    return pair, parts


def _reweighted(xp: Any, loss: str, X: Any, y: Any, alpha: float) -> Callable[[float], Any]:
    """Return reweighted least squares by hand, to a gradient norm; the first column is the intercept's."""
    A = xp.concat([xp.ones_like(X[:, :1]), X], axis=1)
    n, p = A.shape
    ridge = xp.ones_like(A[0, :]) * alpha
    ridge = xp.where(xp.arange(p, device=backends.device(X)) == 0, xp.zeros_like(ridge), ridge)
    identity = xp.eye(p, dtype=X.dtype, device=backends.device(X))
    _, parts = _by_hand(xp, loss, X, y)

    def fit(tol: float) -> Any:
        w = xp.zeros_like(ridge)
        for _ in range(200):
            r, curvature = parts(A @ w)
            g = xp.matrix_transpose(A) @ r / n + ridge * w
            if float(xp.max(xp.abs(g))) <= tol:
                break
            H = xp.matrix_transpose(A) @ (A * curvature[:, None]) / n + identity * ridge
            w = w - xp.linalg.solve(H, g[:, None])[:, 0]
        return w[1:], w[:1]

    return fit


def _torch(loss: str, X: Any, y: Any, w: Any, device: Any) -> Callable[[], Any]:
    """Return a value and gradient by torch's autograd, on its own device or the first of CUDA."""
    import torch

    where = device if isinstance(device, torch.device) else torch.device("cuda")
    A, t, start = (torch.as_tensor(part, device=where) for part in (X, y, w))

    def call() -> Any:
        coef = start.clone().requires_grad_()
        b = torch.tensor(B, dtype=A.dtype, device=where, requires_grad=True)
        z = A @ coef + b
        if loss == "log_loss":
            value = torch.nn.functional.binary_cross_entropy_with_logits(z, t)
        else:
            value = torch.nn.functional.mse_loss(z, t) / 2.0
        value.backward()
        return value.detach(), coef.grad, b.grad

    return call


def _cuml(name: str, X: Any, y: Any, **settings: Any) -> Callable[[], Any]:
    import cuml

    model = getattr(cuml, name)(output_type="numpy", **settings)
    return lambda: model.fit(X, y)


def _floor(X: Any) -> Callable[[], Any]:
    ones = backends.namespace(X).ones_like(X[0, :])
    return lambda: X @ ones


def _pass(n: int, selection: Any, loss: str) -> Case:
    host, z, rng = problem(n)
    labels = (z + rng.logistic(size=n) > 0.0) * 1.0
    w = rng.normal(size=host.shape[1]) / host.shape[1] ** 0.5
    X, y, coef = (selection.asarray(part) for part in (host, labels, w))
    xp = backends.namespace(X)
    objective = LinearObjective.of(X, y, loss=agd.loss.get(loss))
    params = Params(coef, selection.asarray(np.asarray(B)))

    def ours() -> Any:
        value, grad = objective.value_and_grad(params)
        return value, grad.coef, grad.intercept

    def by_hand() -> Any:
        pair, _ = _by_hand(xp, loss, X, y)
        return lambda: pair(coef, B)

    calls, missing = offered(
        (
            (f"{selection.backend.name} by hand", by_hand),
            ("torch", lambda: _torch(loss, host, labels, w, selection.device)),
        )
    )
    return Case(
        f"pass: {loss}, {n:,} x 50 on {selection}", {"agd": ours, **calls}, _host, 1e-4,
        {"log_loss": 0.5}.get(loss, 0.6), _floor(X), rounds=15, missing=missing,
    )  # fmt: skip


def _targets(loss: str, z: Any, rng: Any) -> Any:
    """Draw targets of the kind that a loss is of."""
    if loss == "log_loss":
        return (rng.uniform(size=len(z)) < 1.0 / (1.0 + np.exp(-z))) * 1.0
    if loss == "poisson":
        return rng.poisson(np.exp(0.5 * z - 0.5)) * 1.0
    noise = rng.normal(size=len(z))
    rare = np.arange(len(z)) % 20 == 0
    return z + (np.where(rare, 30.0 * noise, noise) if loss == "huber" else noise)


CUML: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "squared_error": ("Ridge", lambda n: {"alpha": ALPHA * n}),
    "log_loss": ("LogisticRegression", lambda n: {"C": 1.0 / (ALPHA * n)}),
}


def _fit(n: int, selection: Any, loss: str) -> Case:
    """Time all to a gradient norm: 1e-6, or what the dtype reaches."""
    host, z, rng = problem(n)
    t, alpha = _targets(loss, z, rng), 0.0 if loss == "huber" else ALPHA
    X, y = selection.asarray(host), selection.asarray(t)
    xp = backends.namespace(X)
    tol = max(1e-6, 30.0 * float(xp.finfo(X.dtype).eps))
    chosen: Any = agd.loss.Huber(DELTA) if loss == "huber" else loss
    settings: Mapping[str, Any] = {
        "loss": chosen, "penalty": agd.loss.L2(alpha) if alpha else None, "stop": agd.Stop(grad_tol=tol),
    }  # fmt: skip

    def by_hand() -> Any:
        fit = _reweighted(xp, loss, X, y, alpha)
        return lambda: fit(tol)

    peers = [(f"{selection.backend.name} by hand", by_hand)]
    if loss in CUML:
        name, more = CUML[loss]
        peers.append((f"cuML {name}", lambda: _cuml(name, X, y, **more(n))))
    calls, missing = offered(peers)
    quality = Quality(
        "|g|inf", lambda answer: gradient_norm(loss, host, t, alpha, answer), 2.0 * tol
    )
    return Case(
        f"fit: {loss} to gradient {tol:.0e}, {n:,} x 50 on {selection}",
        {"agd": lambda: agd.fit(X, y, **settings), **calls},
        _host, 2e-2, None, _floor(X), missing=missing, quality=quality,
    )  # fmt: skip


def _lasso(n: int, selection: Any) -> Case:
    host, z, rng = problem(n)
    t = z + rng.normal(size=n)
    X, y = selection.asarray(host), selection.asarray(t)
    calls, missing = offered((("cuML Lasso", lambda: _cuml("Lasso", X, y, alpha=LASSO, tol=1e-6)),))
    gap = Quality("duality gap", lambda answer: lasso_gap(host, t, LASSO, answer), 1e-6)
    stop = agd.Stop(grad_tol=1e-6)
    return Case(
        f"fit: lasso to gap 1e-06, {n:,} x 50 on {selection}",
        {"agd": lambda: agd.fit(X, y, penalty=agd.loss.L1(LASSO), stop=stop), **calls},
        _host, 2e-2, None, _floor(X), missing=missing, quality=gap,
    )  # fmt: skip


def _many(n: int, selection: Any) -> Case:
    X, Y = (selection.asarray(part) for part in batch(max(n // 100, 10)))
    xp = backends.namespace(X)

    def by_hand() -> Any:
        def call() -> Any:
            A = xp.concat([X, xp.ones_like(X[..., :1])], axis=2)
            T = xp.matrix_transpose(A)
            w = xp.linalg.solve(T @ A, T @ Y[..., None])[..., 0]
            return w[..., :-1], w[..., -1]

        return call

    calls, missing = offered(((f"{selection.backend.name} by hand", by_hand),))
    return Case(
        f"many: {X.shape[0]:,} squared of 100 x 5 on {selection}",
        {"agd": lambda: agd.fit(X, Y), **calls},
        _host, 1e-3, None, lambda: xp.sum(X), missing=missing,
    )  # fmt: skip


CASES: dict[str, Callable[[int, Any], Case]] = {
    "pass log_loss": functools.partial(_pass, loss="log_loss"),
    "pass squared_error": functools.partial(_pass, loss="squared_error"),
    "ridge": functools.partial(_fit, loss="squared_error"),
    "logistic": functools.partial(_fit, loss="log_loss"),
    "Poisson": functools.partial(_fit, loss="poisson"),
    "Huber": functools.partial(_fit, loss="huber"),
    "lasso": _lasso,
    "many squared": _many,
}
