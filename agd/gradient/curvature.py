"""The largest curvature of a linear model's objective, by power iteration: the L of a 1/L step size."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree

from agd import backends
from agd._tree import tree_dot, tree_scale, tree_subtract
from agd._typing import Array, Params

__all__ = ["largest_curvature"]


def largest_curvature(objective: Any, iterations: int = 20) -> Array:
    """Estimate L, the largest eigenvalue of the bound on the Hessian, by power iteration.

    The Rayleigh quotient of v_k = A v_{k-1} / |A v_{k-1}| is below L; the residual |A v - rho v| is
    added to it, so that the estimate errs to the safe side. Nothing is read by the host.

    Parameters
    ----------
    objective : objective over linear parameters
        It gives ``zeros``, ``bound_product`` and ``batch_shape``.
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
        return _power_step(objective, iterations)


def _power_step(objective: Any, iterations: int) -> Array:
    zeros = objective.zeros()
    batch = len(objective.batch_shape)
    v = _start_vector(zeros, batch)
    for _ in range(iterations):
        product = objective.bound_product(v)
        norm = tree_dot(product, product, batch) ** 0.5
        xp = backends.namespace(norm)
        rho = tree_dot(v, product, batch)
        # X may be all zeros; then the product is too, and v stays what it was.
        safe = xp.where(norm > 0.0, norm, xp.ones_like(norm))
        residual = tree_subtract(product, tree_scale(rho, v))
        v = tree_scale(1.0 / safe, product)
    bound = rho + tree_dot(residual, residual, batch) ** 0.5
    return xp.where(bound > 0.0, bound, xp.ones_like(bound))


def _start_vector(like: Params, batch: int) -> Any:
    """Draw a unit start on the host from a fixed seed: the same on every backend."""
    rng = np.random.default_rng(0)
    tree: Any = like
    leaves, spec = optree.tree_flatten(tree)
    drawn = [backends.to_device_of(rng.standard_normal(tuple(leaf.shape)), leaf) for leaf in leaves]
    v: Any = optree.tree_unflatten(spec, drawn)
    return tree_scale(tree_dot(v, v, batch) ** -0.5, v)
