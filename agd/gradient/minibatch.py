"""Rows of a finite sum: how many there are, the objective over some of them, and how curved one can be.

A mini-batch method asks no more of an objective than this: of a `LinearObjective` and its coordinates
they are taken from the data, any other objective answers by ``rows`` and ``take``.

>>> import numpy as np
>>> from agd.gradient import LinearObjective
>>> objective = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
>>> row_count(objective)
3
>>> value, _ = take_rows(objective, np.asarray([0, 2])).value_and_grad(objective.zeros())
>>> float(value)  # the mean of 1/2 and 36/2
9.25
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array
from agd.data.matrix import squared_row_norms
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, LinearObjective, largest_curvature
from agd.gradient.preconditioner import Preconditioned, Scaling

__all__ = [
    "batch_curvature",
    "row_count",
    "stratified_rows",
    "take_rows",
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


def row_count(objective: Any) -> int | None:
    """Return over how many rows an objective is a mean.

    Parameters
    ----------
    objective : Objective
        Any.

    Returns
    -------
    int or None
        None for an objective that has no rows to take, or whose rows lie in chunks (Dask).
    """
    if isinstance(objective, Preconditioned):
        return row_count(objective.base)
    if isinstance(objective, LinearObjective):
        blocks = objective.blocks
        return None if blocks.lazy else int(blocks.X.shape[-2])
    found: int | None = getattr(objective, "rows", None)
    return found


def take_rows(objective: Any, rows: Array) -> Any:
    """Return the objective over some of its rows: an unbiased estimate of the whole.

    Parameters
    ----------
    objective : Objective
        One that has rows.
    rows : array of int, shape (k,)
        Which; the same for every problem of a batch.

    Returns
    -------
    Objective
        The mean over these rows, and the penalty whole. With weights the sum over the rows is divided
        by k/n of all weights, not by the weights of these rows, which would bias it.
    """
    if isinstance(objective, Preconditioned):
        return replace(objective, base=take_rows(objective.base, rows))
    if isinstance(objective, LinearObjective):
        return replace(objective, blocks=objective.blocks.take(rows))
    return objective.take(rows)


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
    base, scaling = objective, None
    if isinstance(objective, Preconditioned):
        base, scaling = objective.base, objective.scaling
    if not isinstance(base, LinearObjective) or base.loss.curvature_bound is None:
        return None
    n, b = base.blocks.X.shape[-2], batch_size
    whole = largest_curvature(objective)
    if n == b:
        return whole
    single = _row_curvature(base, scaling)
    return (n * (b - 1) * whole + (n - b) * single) / (b * (n - 1))


def _row_curvature(base: LinearObjective, scaling: Scaling | None) -> Array:
    """Return the largest curvature of one row's loss, and the penalty's, in these coordinates."""
    blocks, penalty, bound = base.blocks, base.penalty, base.loss.curvature_bound
    constant: Any = 0.0
    if base.intercept:
        constant = 1.0 if scaling is None else (scaling.intercept_scale**2)[..., None]
    each = blocks.map(
        functools.partial(_max_row_curvature, scaling, constant), limit=MAX_COPIED_BLOCK_BYTES
    )
    xp = backends.namespace(each[0])
    largest = functools.reduce(xp.maximum, each) * (blocks.X.shape[-2] * bound) / blocks.total
    if penalty is None or penalty.curvature_bound is None:
        return largest
    extra: Any = penalty.curvature_bound
    if scaling is not None:
        extra = extra * xp.max(scaling.inv_std**2, axis=-1)
    return largest + extra


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
