"""The largest curvature of an objective over linear parameters, by power iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Params

__all__ = ["largest_curvature"]


def _sum(x: Array) -> Array:
    return backends.namespace(x).sum(x, axis=-1)


def _dot(a: Any, b: Any) -> Array:
    total = _sum(a.coef * b.coef)
    return total if a.intercept is None else total + a.intercept * b.intercept


def _scale(a: Any, c: Array) -> Any:
    return Params(a.coef * c[..., None], None if a.intercept is None else a.intercept * c)


def largest_curvature(objective: Any, iterations: int = 20) -> Array:
    """Estimate L, the largest eigenvalue of the bound on the Hessian, by power iteration.

    The Rayleigh quotient of v_k = A v_{k-1} / |A v_{k-1}| is below L; the residual |A v - rho v| is
    added to it, so that the estimate errs to the safe side. Nothing is read by the host.

    Parameters
    ----------
    objective : objective over linear parameters
        It gives ``zeros`` and ``bound_product``.
    iterations : int
        Passes over the data.

    Returns
    -------
    array, shape (...)
        L for every problem.

    Notes
    -----
    Parlett (1998), *The Symmetric Eigenvalue Problem*, chapter 4.
    """
    with np.errstate(all="ignore"):  # what overflows is not finite, and said by those who read it
        return _power(objective, iterations)


def _power(objective: Any, iterations: int) -> Array:
    v = _start(objective.zeros())
    for _ in range(iterations):
        product = objective.bound_product(v)
        norm = _dot(product, product) ** 0.5
        xp = backends.namespace(norm)
        rho = _dot(v, product)
        # X may be all zeros; then the product is too, and v stays what it was.
        safe = xp.where(norm > 0.0, norm, xp.ones_like(norm))
        residual = optree.tree_map(lambda a, b: a - b, product, _scale(v, rho))
        v = _scale(product, 1.0 / safe)
    bound = rho + _dot(residual, residual) ** 0.5
    return xp.where(bound > 0.0, bound, xp.ones_like(bound))


def _start(like: Params) -> Any:
    """Draw a unit start on the host from a fixed seed: the same on every backend."""
    rng = np.random.default_rng(0)
    tree: Any = like
    leaves, spec = optree.tree_flatten(tree)
    drawn = [_moved(rng.standard_normal(tuple(leaf.shape)), leaf) for leaf in leaves]
    v: Any = optree.tree_unflatten(spec, drawn)
    return _scale(v, _dot(v, v) ** -0.5)


def _moved(data: Any, like: Array) -> Array:
    host = np.asarray(data).astype(str(like.dtype).rpartition(".")[2])
    return backends.of(like).convert(
        backends.namespace(like), host, like.dtype, backends.device(like)
    )
