"""The article's seven points on a device, where launches are all the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from agd import backends
from benchmarks.peers import device_libraries, handwritten
from benchmarks.problems.device_data import plain
from benchmarks.timing.measurement import Case, offered

__all__ = ["CASES"]

LR, DELTA, TARGET = 8e-3, 0.5, 1.2


def _points(selection: Any) -> tuple[Any, Any]:
    """Return the seven points on the device, x as a column."""
    x, y = np.asarray(agd.line.X), np.asarray(agd.line.Y)
    return selection.asarray(x[:, None]), selection.asarray(y)


def _loop(xp: Any, x: Any, y: Any, epochs: int, loss: str) -> Callable[[], Any]:
    """Return gradient descent on a line as one writes it: three formulas in a loop."""

    def call() -> tuple[Any, Any]:
        w, b = xp.zeros_like(x[0]), xp.zeros_like(x[0])
        for _ in range(epochs):
            r = w * x + b - y
            if loss == "huber":
                r = xp.clip(r, -DELTA, DELTA)
            w, b = w - LR * xp.mean(r * x), b - LR * xp.mean(r)
        return w, b

    return call


def _jax_loop(selection: Any, x: Any, y: Any, epochs: int, loss: str) -> Callable[[], Any]:
    """Return the same loop, compiled whole by JAX."""
    x, y = device_libraries.on_jax(selection, x, y)
    import jax
    from jax import numpy as jnp

    def run(x: Any, y: Any) -> Any:
        def epoch(_: Any, at: Any) -> Any:
            r = at[0] * x + at[1] - y
            r = jnp.clip(r, -DELTA, DELTA) if loss == "huber" else r
            return at[0] - LR * (r * x).mean(), at[1] - LR * r.mean()

        return jax.lax.fori_loop(0, epochs, epoch, (jnp.zeros(()), jnp.zeros(())))

    compiled = jax.jit(run)
    return lambda: jax.block_until_ready(compiled(x, y))


def _descent(n: int, selection: Any, loss: str) -> Case:
    """Time the same epochs of descent by all: of the squared loss 5,000, as in the article."""
    full = 5000 if loss == "squared_error" else 1000
    epochs = max(full * min(n, 10**6) // 10**6, 10)
    X, y = _points(selection)
    host = (np.asarray(agd.line.X), np.asarray(agd.line.Y))
    xp, by_hand = backends.namespace(X), f"{selection.backend.name} by hand"
    calls, missing = offered(
        (
            (by_hand, lambda: _loop(xp, X[:, 0], y, epochs, loss)),
            ("jax", lambda: _jax_loop(selection, *host, epochs, loss)),
        )
    )  # fmt: skip
    chosen: Any = agd.loss.Huber(DELTA) if loss == "huber" else loss
    method, stop = (
        agd.update.gradient_descent(LR),
        agd.Stop(epochs, grad_tol=0.0, check_every=epochs),
    )
    return Case(
        f"small: seven points, {epochs:,} epochs of {loss}",
        {"agd": lambda: agd.fit(X, y, loss=chosen, method=method, stop=stop), **calls},
        plain, 1e-9, {by_hand: TARGET}, missing=missing,
    )  # fmt: skip


def _one_fit(n: int, selection: Any) -> Case:
    """Time one fit of the seven points to the end."""
    del n
    X, y = _points(selection)
    by_hand = f"{selection.backend.name} by hand"
    calls, missing = offered(
        (
            (by_hand, lambda: handwritten.squares(backends.namespace(X), X, y)),
            ("cuML LinearRegression", lambda: device_libraries.cuml("LinearRegression", X, y)),
        )
    )
    return Case(
        "small: seven points, one fit", {"agd": lambda: agd.fit(X, y), **calls}, plain, 1e-9,
        {by_hand: TARGET}, rounds=50, missing=missing,
    )  # fmt: skip


CASES: dict[str, Callable[[int, Any], Case]] = {
    "small: the article's epochs": lambda n, selection: _descent(n, selection, "squared_error"),
    "small: epochs of Huber": lambda n, selection: _descent(n, selection, "huber"),
    "small: one fit": _one_fit,
}
