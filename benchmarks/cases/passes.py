"""One pass over the data: the value and the gradient of a loss at one point.

agd reads X by row blocks that are still in cache for their second product; NumPy by hand, scikit-learn,
torch's autograd and jitted JAX read it twice. The floor is one read of X, by BLAS in a product X @ w.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import agd
from agd._typing import Params
from agd.gradient import LinearObjective
from benchmarks.timing.measurement import Case, offered

__all__ = ["CASES", "jitted", "two_products"]

B = 0.1  # the intercept

LOSSES = {"log_loss": 0.5, "squared_error": 0.6}
"""Losses and their targets, in times of the best peer's time."""

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "float64": lambda X: X,
    "float32": lambda X: X.astype(np.float32),
    "column-major": np.asfortranarray,
    # Every second column of a wider table, whose rows are twice as long as what is read of them.
    "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
}


def _case(n: int, loss: str, layout: str, p: int = 50) -> Case:
    """Make the case of a loss on X of a layout; the targets are for plain float64."""
    rng = np.random.default_rng(0)
    X = LAYOUTS[layout](rng.normal(size=(n, p)))
    w = (rng.normal(size=p) / p**0.5).astype(X.dtype)
    y = (X @ w + rng.logistic(size=n) > 0.0).astype(X.dtype)
    peers = {"numpy": _by_hand, "scikit-learn": _scikit_learn, "torch": _torch, "jax": jitted}
    calls, missing = offered(
        (name, functools.partial(peer, loss, X, y, w)) for name, peer in peers.items()
    )
    return Case(
        f"pass: {loss}, {n:,} x {p} {layout}",
        {"agd": _ours(loss, X, y, w), **calls},
        _flat,
        1e-9 if X.dtype == np.float64 else 1e-3,
        LOSSES[loss] if layout == "float64" else None,
        lambda: X @ w,
        rounds=15,
        missing=missing,
    )


CASES: dict[str, Callable[[int], Case]] = {
    f"{loss} {layout}": functools.partial(_case, loss=loss, layout=layout)
    for layout in LAYOUTS
    for loss in LOSSES
}


def _flat(found: tuple[Any, ...]) -> Any:
    """Put a value, the gradient of w and that of the intercept into one vector."""
    return np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1) for part in found])


def _ours(loss: str, X: Any, y: Any, w: Any) -> Any:
    objective = LinearObjective.of(X, y, loss=agd.loss.get(loss))
    params = Params(w, np.asarray(B, dtype=X.dtype))

    def call() -> tuple[Any, ...]:
        value, grad = objective.value_and_grad(params)
        return value, grad.coef, grad.intercept

    return call


def _by_hand(loss: str, X: Any, y: Any, w: Any) -> Any:
    return lambda: two_products(loss, X, y, w)


def two_products(loss: str, X: Any, y: Any, w: Any) -> tuple[Any, ...]:
    """Return value and gradient by two products with the whole of X."""
    z = X @ w + X.dtype.type(B)
    if loss == "log_loss":
        value, r = np.mean(np.logaddexp(0, z) - y * z), 1 / (1 + np.exp(-z)) - y
    else:
        r = z - y
        value = np.mean(r * r) / 2
    return value, X.T @ r / len(y), r.mean()


def _scikit_learn(loss: str, X: Any, y: Any, w: Any) -> Any:
    from sklearn._loss.loss import HalfBinomialLoss, HalfSquaredError
    from sklearn.linear_model._linear_loss import LinearModelLoss

    base = HalfBinomialLoss() if loss == "log_loss" else HalfSquaredError()
    theirs, coef = (
        LinearModelLoss(base_loss=base, fit_intercept=True),
        np.append(w, w.dtype.type(B)),
    )
    return lambda: theirs.loss_gradient(coef, X, y)


def _torch(loss: str, X: Any, y: Any, w: Any) -> Any:
    import torch
    from torch.nn import functional

    A, target = torch.from_numpy(X), torch.from_numpy(y)

    def call() -> tuple[Any, ...]:
        coef = torch.from_numpy(w).requires_grad_()
        b = torch.tensor(B, dtype=A.dtype, requires_grad=True)
        z = A @ coef + b
        if loss == "log_loss":
            value = functional.binary_cross_entropy_with_logits(z, target)
        else:
            value = functional.mse_loss(z, target) / 2
        value.backward()
        return value.detach(), coef.grad, b.grad

    return call


def jitted(loss: str, X: Any, y: Any, w: Any) -> Any:
    """Return a value and gradient by JAX, compiled."""
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", True)  # noqa: FBT003 - JAX's own signature

    def value(params: Any, X: Any, y: Any) -> Any:
        z = X @ params[0] + params[1]
        if loss == "log_loss":
            return jnp.mean(jax.nn.softplus(z) - y * z)
        return jnp.mean((z - y) ** 2) / 2

    call = jax.jit(jax.value_and_grad(value))
    params, A, target = (
        (jnp.asarray(w), jnp.asarray(B, dtype=X.dtype)),
        jnp.asarray(X),
        jnp.asarray(y),
    )

    def run() -> tuple[Any, ...]:
        found, grads = jax.block_until_ready(call(params, A, target))
        return found, *grads

    return run
