"""The other libraries on a device: torch, jitted JAX on a device of its own kind, and cuML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.cases import passes
from benchmarks.timing.measurement import AbsentError

__all__ = [
    "cuml",
    "jax_many",
    "jax_newton",
    "jax_pass",
    "jax_squares",
    "on_jax",
    "on_torch",
    "torch_lbfgs",
    "torch_lstsq",
    "torch_pass",
]

MOST = 20  # steps of Newton's method


def on_cpu(selection: Any) -> bool:
    """Return whether a selection is of the processor's memory."""
    return not any(word in str(selection) for word in ("cupy", "cuda", "gpu"))


# -- torch ---------------------------------------------------------------------------------------


def on_torch(selection: Any, *parts: Any) -> list[Any]:
    """Return host arrays as tensors, on the selection's device or the first of CUDA."""
    import torch

    where = selection.device
    if not isinstance(where, torch.device):
        if not on_cpu(selection) and not torch.cuda.is_available():
            raise AbsentError("has no CUDA device here")
        where = torch.device("cpu" if on_cpu(selection) else "cuda")
    return [torch.as_tensor(part, device=where) for part in parts]


def torch_pass(selection: Any, loss: str, A: Any, t: Any, w: Any, b: float) -> Callable[[], Any]:
    """Return a value and gradient by torch's autograd."""
    import torch

    X, y, start = on_torch(selection, A, t, w)

    def call() -> tuple[Any, ...]:
        coef = start.clone().requires_grad_()
        offset = torch.tensor(b, dtype=X.dtype, device=X.device, requires_grad=True)
        value = _torch_loss(loss, X @ coef + offset, y)
        value.backward()
        return value.detach(), coef.grad, offset.grad

    return call


def _torch_loss(loss: str, z: Any, y: Any) -> Any:
    from torch.nn import functional

    if loss == "log_loss":
        return functional.binary_cross_entropy_with_logits(z, y)
    return functional.mse_loss(z, y) / 2.0


def torch_lstsq(selection: Any, A: Any, t: Any) -> Callable[[], Any]:
    """Return least squares by torch, which makes a QR."""
    import torch

    X, y = on_torch(selection, A, t)

    def call() -> tuple[Any, Any]:
        with_ones = torch.cat([X, torch.ones_like(X[:, :1])], dim=1)
        w = torch.linalg.lstsq(with_ones, y[:, None], driver="gels").solution[:, 0]
        return w[:-1], w[-1:]

    return call


def torch_lbfgs(selection: Any, A: Any, t: Any, alpha: float, tol: float) -> Callable[[], Any]:
    """Return a logistic fit by torch's L-BFGS on the gradient of autograd."""
    import torch

    X, y = on_torch(selection, A, t)

    def call() -> tuple[Any, Any]:
        w = torch.zeros_like(X[0, :], requires_grad=True)
        b = torch.zeros_like(X[0, :1], requires_grad=True)
        rule = torch.optim.LBFGS(
            [w, b], max_iter=500, tolerance_grad=tol, tolerance_change=0.0, line_search_fn="strong_wolfe"
        )  # fmt: skip

        def closure() -> Any:
            rule.zero_grad()
            value = _torch_loss("log_loss", X @ w + b, y) + alpha / 2.0 * (w @ w)
            value.backward()
            return value

        rule.step(closure)
        return w.detach(), b.detach()

    return call


# -- JAX -----------------------------------------------------------------------------------------


def on_jax(selection: Any, *parts: Any) -> list[Any]:
    """Return host arrays as JAX's, on the processor or on a GPU as the selection is."""
    import jax

    jax.config.update("jax_enable_x64", True)  # noqa: FBT003 - JAX's own signature
    # By default a GPU multiplies float32 in fewer bits, which the others here do not.
    jax.config.update("jax_default_matmul_precision", "highest")
    if not on_cpu(selection) and jax.devices()[0].platform == "cpu":
        raise AbsentError("has no GPU here")
    where = jax.devices("cpu")[0] if on_cpu(selection) else jax.devices()[0]
    return [jax.device_put(part, where) for part in parts]


def jax_pass(selection: Any, loss: str, A: Any, t: Any, w: Any) -> Callable[[], Any]:
    """Return a jitted value and gradient."""
    return passes.jitted(loss, *on_jax(selection, A, t, w))


def _jitted(call: Callable[..., Any], *parts: Any) -> Callable[[], Any]:
    import jax

    compiled = jax.jit(call)
    return lambda: jax.block_until_ready(compiled(*parts))


def jax_squares(selection: Any, A: Any, t: Any) -> Callable[[], Any]:
    """Return least squares by the centred normal equations, jitted."""
    X, y = on_jax(selection, A, t)
    from jax import numpy as jnp

    def squares(X: Any, y: Any) -> Any:
        shift, level = X.mean(axis=0), y.mean()
        G = X.T @ X / len(y) - jnp.outer(shift, shift)
        w = jnp.linalg.solve(G, X.T @ y / len(y) - shift * level)
        return w, level - shift @ w

    return _jitted(squares, X, y)


def _jax_newton(X: Any, y: Any, alpha: float, tol: float) -> Any:
    """Return (w, b) of a logistic fit by Newton's method, in a loop that JAX compiles."""
    import jax
    from jax import numpy as jnp

    n, p = X.shape
    ridge = jnp.append(jnp.full(p, alpha, X.dtype), jnp.zeros(1, X.dtype))

    def look(w: Any) -> Any:
        mean = jax.nn.sigmoid(X @ w[:-1] + w[-1])
        r = mean - y
        return jnp.append(X.T @ r / n, r.mean()) + ridge * w, mean * (1.0 - mean)

    def step(state: Any) -> Any:
        k, w, g, c = state
        cross = X.T @ c / n
        H = jnp.block(
            [[X.T @ (X * c[:, None]) / n, cross[:, None]], [cross[None], c.mean()[None, None]]]
        )
        w = w - jnp.linalg.solve(H + jnp.diag(ridge), g)
        return k + 1, w, *look(w)

    def wanted(state: Any) -> Any:
        return (state[0] < MOST) & (jnp.abs(state[2]).max() > tol)

    start = jnp.zeros(p + 1, X.dtype)
    w = jax.lax.while_loop(wanted, step, (0, start, *look(start)))[1]
    return w[:-1], w[-1]


def jax_newton(selection: Any, A: Any, t: Any, alpha: float, tol: float) -> Callable[[], Any]:
    """Return a logistic fit by Newton's method, jitted."""
    return _jitted(lambda X, y: _jax_newton(X, y, alpha, tol), *on_jax(selection, A, t))


def jax_many(
    selection: Any, A: Any, t: Any, alpha: float | None = None, tol: float = 0.0
) -> Callable[[], Any]:
    """Return many fits at once, jitted and vmapped: logistic ones if there is an alpha."""
    X, y = on_jax(selection, A, t)
    import jax
    from jax import numpy as jnp

    def squares(X: Any, y: Any) -> Any:
        B = jnp.concatenate([X, jnp.ones_like(X[:, :1])], axis=1)
        return jnp.linalg.solve(B.T @ B, B.T @ y)

    def logistic(X: Any, y: Any) -> Any:
        return jnp.append(*_jax_newton(X, y, alpha, tol))

    return _jitted(jax.vmap(squares if alpha is None else logistic), X, y)


# -- cuML ----------------------------------------------------------------------------------------


def cuml(name: str, X: Any, y: Any, **settings: Any) -> Callable[[], Any]:
    """Return the fit of an estimator of cuML, on arrays of the device."""
    import cuml

    model = getattr(cuml, name)(output_type="numpy", **settings)
    return lambda: model.fit(X, y)
