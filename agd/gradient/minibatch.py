"""Samples of the rows of a finite sum: how they are drawn, and how curved a mini-batch can be.

The stochastic solvers draw mini-batches, and ask here for a step size that suits them. The objective itself
gives the mean over some of its rows.

>>> import numpy as np
>>> from agd.gradient import LinearObjective
>>> objective = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
>>> objective.row_count
3
>>> value, _ = objective.take_rows(np.asarray([0, 2])).value_and_grad(objective.zeros())
>>> float(value)  # the mean of 1/2 and 36/2
9.25
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array
from agd.data.matrix import squared_row_norms
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, LinearObjective, largest_curvature
from agd.gradient.preconditioner import Scaling

__all__ = [
    "batch_curvature",
    "stratified_rows",
]


def stratified_rows(n: int, step: int, like: Array) -> Array:
    """Return one of every `step` of n rows, drawn from a fixed seed: no period in the rows can be met.

    Parameters
    ----------
    n, step : int
        How many rows, and one of how many.
    like : array
        Where the answer goes.

    Returns
    -------
    array of int, shape (n // step,)
        Ascending.

    Examples
    --------
    >>> import numpy as np
    >>> rows = stratified_rows(12, 4, np.zeros(1))
    >>> rows // 4
    array([0, 1, 2])
    """
    first = np.arange(n // step) * step
    drawn = first + np.random.default_rng(n).integers(0, step, size=first.shape)
    return backends.to_device_of(drawn, like, backends.namespace(like).int64)


def batch_curvature(objective: Any, batch_size: int) -> Array | None:
    r"""Return a bound on the curvature that a method sees which draws `batch_size` of n rows at random.

    ::

        L_b = (n (b - 1) L + (n - b) L_max) / (b (n - 1))

    the expected smoothness: between L_max, the largest curvature of a single row, at b = 1 and L, that
    of the mean over all rows, at b = n. L is a power iteration's, L_max is
    curvature · max_i s_i |x_i|² (with |x_i|² one more for an intercept) plus the penalty's curvature.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    batch_size : int
        b, from 1 to the number of rows.

    Returns
    -------
    array, shape (...), or None
        None where the loss's curvature has no bound, or the objective is no linear model's.

    Notes
    -----
    Gower, Loizou, Qian, Sailanbayev, Shulgin and Richtárik (2019), "SGD: general analysis and improved
    rates", proposition 3.8.
    """
    base, scaling = objective.linear_objective, objective.preconditioner
    if base is None or not base.curvature_is_bounded:
        return None
    n, b = int(base.blocks.X.shape[-2]), batch_size
    whole = largest_curvature(objective)
    if n == b:
        return whole
    single = _row_curvature(base, scaling)
    return (n * (b - 1) * whole + (n - b) * single) / (b * (n - 1))


def _row_curvature(base: LinearObjective, scaling: Scaling | None) -> Array:
    """Return the largest curvature of one row's loss, and the penalty's, in these coordinates."""
    blocks, penalty = base.blocks, base.penalty
    bound: Any = base.loss.curvature_bound  # a number, as `batch_curvature` asked
    constant: Any = 0.0
    if base.intercept:
        constant = 1.0 if scaling is None else (scaling.intercept_scale**2)[..., None]
    each = blocks.map(
        functools.partial(_max_row_curvature, scaling, constant), limit=MAX_COPIED_BLOCK_BYTES
    )
    xp = backends.namespace(each[0])
    scale: float = blocks.X.shape[-2] * bound
    largest: Array = functools.reduce(xp.maximum, each) * scale / blocks.total
    if penalty is None or penalty.curvature_bound is None:
        return largest
    extra = penalty.curvature_bound
    if scaling is None:
        return largest + extra
    return largest + extra * xp.max(scaling.inv_std**2, axis=-1)


def _max_row_curvature(
    scaling: Scaling | None, constant: Any, X: Array, y: Array, weight: Array | None
) -> Array:
    """Return the largest squared length of a block's rows, times their weights."""
    xp, shift, scale = backends.namespace(X), None, None
    if scaling is not None:
        # Without an intercept the columns are not centred: their shift is no part of z.
        shift = scaling.mean if not isinstance(constant, float) else None
        scale = scaling.inv_std
    squares = squared_row_norms(X, shift, scale) + constant
    return xp.max(squares if weight is None else squares * weight, axis=-1)
