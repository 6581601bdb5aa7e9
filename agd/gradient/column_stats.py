"""Means and standard deviations of the columns, and the diagonal preconditioner that they give.

Two passes over the data tell them, or none where the moments are known. A linear fit starts here: the
scaling also fixes the unit in which the stopping criteria measure a gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Loss
from agd.data.base import BaseData
from agd.data.matrix import (
    backward,
    column_counts,
    column_sums,
    map_entries,
    max_abs_columns,
    shift_entries,
)
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, LinearObjective
from agd.gradient.moments import Moments
from agd.gradient.preconditioner import Scaling, default_gradient_tolerance, rounding_share
from agd.loss.base import split_offset
from agd.loss.penalties import ridge_like

__all__ = [
    "column_peaks",
    "column_scaling",
    "column_spread",
    "default_gradient_tolerance",
]


def _first_moments(X: Array, y: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Sum the columns of a block, and their absolute values; count its rows."""
    xp = backends.namespace(X)
    rows = xp.full((), float(X.shape[-2]), dtype=X.dtype, device=backends.device(X))
    return column_sums(X), column_sums(map_entries(X, xp.abs)), rows


def _second_moments(
    shift: Array, size: Array, X: Array, y: Array, weight: Array | None
) -> tuple[Array, Array]:
    """Sum d and d² with the rows' weights, where d = (X - shift) / size."""
    xp = backends.namespace(X)
    d = (X - shift[..., None, :]) / size[..., None, :]
    if weight is None:
        return xp.sum(d, axis=-2), xp.sum(d * d, axis=-2)
    return backward(d, weight), backward(d * d, weight)


def _sparse_second_moments(
    shift: Array, size: Array, X: Array, y: Array, weight: Array | None
) -> tuple[Array, Array]:
    """Sum over the entries, and what the zeros make of it: no large sums cancel."""
    xp = backends.namespace(X)
    ones = xp.ones((X.shape[0],), dtype=X.dtype) if weight is None else weight
    # Shifted zeros would fill the matrix: they are counted, and each contributes the same number.
    d, zero = shift_entries(X, shift, size), -shift / size
    empty = xp.sum(ones) - column_counts(X, weight)
    full = column_counts(X, None) == X.shape[0]
    empty = xp.where(full, xp.zeros_like(empty), empty)  # to the last digit, whatever the weights
    first = backward(d, ones) + empty * zero
    return first, backward(map_entries(d, lambda x: x * x), ones) + empty * zero * zero


def column_spread(blocks: BaseData, intercept: bool) -> tuple[Array, Array]:
    """Return the columns' weighted means and spreads: about the mean, or about 0.

    Two passes: the second is about the plain mean and in units of the mean size, so that neither a
    column far from zero nor one of extreme size loses its spread to rounding.
    """
    sums, sizes, rows = blocks.sum(_first_moments, limit=MAX_COPIED_BLOCK_BYTES)
    xp = backends.namespace(sums)
    size = sizes / rows
    size = xp.where(size > 0.0, size, xp.ones_like(size))
    shift = sums / rows if intercept else xp.zeros_like(sums)
    moments = functools.partial(
        _sparse_second_moments if blocks.sparse else _second_moments, shift, size
    )
    first, second = blocks.sum(moments, limit=MAX_COPIED_BLOCK_BYTES)
    total = blocks.total[..., None]
    first, second = first / total, second / total
    if not intercept:
        return shift, size * xp.sqrt(second)
    # The shift is the plain mean, which weights move: the square of what they move it by is taken off again.
    variance = backends.clip(second - first * first, low=0.0)
    mean = shift + size * first
    # Below this a column is constant but for the rounding of its mean.
    noise = 64.0 * xp.finfo(variance.dtype).eps
    spread = xp.where(variance > noise * noise, xp.sqrt(variance), xp.zeros_like(variance))
    return mean, size * spread


def _mean_statistic(blocks: BaseData, loss: Loss, moments: Moments | None) -> Array:
    """Return the weighted mean of the loss's statistic of y, in the shape of the null model.

    Of a loss with one output that is the mean of y, which the moments have where data in chunks have some.
    """
    if moments is None or loss.outputs is not None or loss.has_offset:
        sums: Array = blocks.targets_only().sum(functools.partial(_sum_statistic, loss))
        return sums / (blocks.total if loss.outputs is None else blocks.total[..., None])
    xp = backends.namespace(moments.mean_y)
    return xp.astype(moments.mean_y, blocks.total.dtype, copy=False)


def _sum_statistic(loss: Loss, X: Array, y: Array, weight: Array | None) -> Array:
    statistic = loss.statistic(y)
    return backends.namespace(y).sum(
        _weigh_rows(loss, statistic, weight), axis=-1 if loss.outputs is None else -2
    )


def _weigh_rows(loss: Loss, x: Array, weight: Array | None) -> Array:
    """Return x, which has the shape of the loss's predictor, times the weights of the rows."""
    if weight is None:
        return x
    return x * (weight if loss.outputs is None else weight[..., None])


def _null_slopes(
    loss: Loss, z: Array, share: float, X: Array, y: Array, weight: Array | None
) -> tuple[Array, ...]:
    """Return norms of dl/dz at a constant z over the rows of a block.

    They are, side by side, the norm of dl/dz and the norm of its change when z grows by a share of itself, shape
    (2, ...), and, for a loss without a bound on its second derivative, the sum of d²l/dz².
    """
    xp, zero = backends.namespace(y), backends.namespace(y).zeros_like(split_offset(y)[0])
    at = zero + z[..., None] if loss.outputs is None else zero[..., None] + z[..., None, :]
    if loss.outputs is None:  # both at once: a call is a dozen operations
        slopes = loss.gradient(xp.stack([at, at + share * at]), y)
        slope, moved = slopes[0, ...], slopes[1, ...]
    else:
        slope, moved = loss.gradient(at, y), loss.gradient(at + share * at, y)
    pair = xp.stack([slope, moved - slope])
    pair = _weigh_rows(loss, pair, None if weight is None else xp.sqrt(weight))
    if loss.outputs is not None:  # the outputs of all rows are one vector
        pair = xp.reshape(pair, (*pair.shape[:-2], -1))
    lengths = _vector_length(pair)
    if loss.curvature_bound is not None:
        return (lengths,)
    hessian = loss.hessian(at, y)
    hessian = hessian if weight is None else hessian * weight
    return lengths, xp.sum(hessian, axis=-1)


def _vector_length(x: Array) -> Array:
    """Return the Euclidean length along the last axis; no square of it over- or underflows."""
    xp = backends.namespace(x)
    if x.shape[-1] == 0:  # a chunk whose rows were all filtered out
        return xp.sum(x, axis=-1)
    peak = xp.max(xp.abs(x), axis=-1)
    unit = xp.where(peak > 0.0, peak, xp.ones_like(peak))
    shares = x / unit[..., None]
    return peak * xp.sqrt(xp.sum(shares * shares, axis=-1))


def column_peaks(blocks: BaseData) -> Any:
    """Return each column's largest absolute value, on the host: numpy.ndarray, shape (..., p)."""
    parts = [backends.to_numpy(part) for part in blocks.map(_block_peaks)]
    return np.max([part for part in parts if part.size], axis=0)


def _block_peaks(X: Array, y: Array, weight: Array | None) -> Array:
    # A chunk may be left with no rows.
    return max_abs_columns(X) if X.shape[-2] else backends.namespace(X).zeros_like(X)


def column_scaling(objective: LinearObjective, moments: Moments | None = None) -> Scaling:
    """Measure the columns and the null model, and return the coordinates that even them out.

    D_j = 1 / sqrt(kappa var_j + a), where kappa is the loss's curvature (its bound, or for a loss
    without one its mean at the best constant model) and a the penalty's: the Hessian's diagonal
    becomes about 1. Where a penalty has a prox that couples the coefficients, all columns get the least
    of these D_j, and the diagonal is at most about 1.

    Parameters
    ----------
    objective : LinearObjective
        Loss, data and penalty.
    moments : Moments, optional
        The data's; without them the columns are measured in two passes over X.

    Returns
    -------
    Scaling
        The coordinates.
    """
    with np.errstate(all="ignore"):  # an overflow leaves coordinates that no run calls finite
        return _column_scaling(objective, moments)


def _spread_known(moments: Moments, like: Array, intercept: bool) -> tuple[Array, Array]:
    """Return the columns' means and spreads from their moments, in the dtype of `like`."""
    xp = backends.namespace(like)
    variance, mean = xp.linalg.diagonal(moments.G), moments.mean
    if not intercept:
        root = xp.sqrt(variance + mean * mean)
        return 0.0 * xp.astype(mean, like.dtype), xp.astype(root, like.dtype)
    # Below this a column is constant but for the rounding of its mean.
    noise = 64.0 * float(xp.finfo(like.dtype).eps) * xp.abs(mean)
    spread = xp.sqrt(backends.clip(variance, low=0.0))
    spread = xp.where(spread > noise, spread, xp.zeros_like(spread))
    return xp.astype(mean, like.dtype), xp.astype(spread, like.dtype)


def _null_model(
    objective: LinearObjective, like: Array, moments: Moments | None
) -> tuple[Array, Array, Array]:
    """Return the best constant model, the slopes' root mean square there, and the loss's curvature."""
    blocks, loss = objective.blocks, objective.loss
    xp, total = backends.namespace(like), blocks.total
    # Data in chunks are not sampled: the moments know their mean.
    known = moments if blocks.lazy else None
    classes = loss.classes is not None and not loss.has_offset
    somewhere = objective.intercept or classes or loss.positive_predictor
    mean: Any = _mean_statistic(blocks, loss, known) if somewhere else None
    null = loss.null_model(mean) if objective.intercept else _zero_columns(objective)
    # The slopes are those of a constant that the loss can have, also where the model has none.
    constant = loss.null_model(mean) if loss.positive_predictor else null
    slopes = functools.partial(_null_slopes, loss, constant, rounding_share(like))
    if classes:
        parts, total = [slopes(like, *_row_per_class(loss, mean, like))], xp.ones_like(total)
    else:
        parts = blocks.targets_only().map(slopes)
    lengths, *hessians = (xp.stack(column, axis=-1) for column in zip(*parts, strict=True))
    lengths = lengths[..., 0] if len(parts) == 1 else _vector_length(lengths)
    slope, noise = lengths[0, ...], lengths[1, ...]
    noise = xp.where(noise < xp.inf, noise, xp.zeros_like(noise))
    rms = xp.maximum(slope, noise) / xp.sqrt(total)
    if loss.curvature_bound is not None and 0.0 < loss.curvature_bound < np.inf:
        # The same for all problems: those that share X share the columns' scales.
        bound = loss.curvature_bound
        return null, rms, xp.full((), bound, dtype=rms.dtype, device=backends.device(rms))
    kappa = xp.sum(hessians[0], axis=-1) / total if hessians else xp.ones_like(rms)
    return null, rms, xp.where((kappa > 0.0) & xp.isfinite(kappa), kappa, xp.ones_like(kappa))


def _row_per_class(loss: Loss, mean: Array, like: Array) -> tuple[Array, Array]:
    """Return targets and weights of a row of each class, which a constant model cannot tell from all rows."""
    xp, shares = backends.namespace(like), loss.class_shares(mean)
    targets = xp.arange(shares.shape[-1], dtype=like.dtype, device=backends.device(like))
    return targets, xp.astype(shares, like.dtype, copy=False)


def _null_known(moments: Moments, like: Array, intercept: bool) -> tuple[Array, Array, Array]:
    """Return the same of the squared loss, whose slopes there are the targets less their mean."""
    xp, mean, yy = backends.namespace(like), moments.mean_y, moments.yy
    null = mean if intercept else xp.zeros_like(mean)
    square = yy if intercept else yy + mean * mean
    rms = xp.maximum(xp.sqrt(backends.clip(square, low=0.0)), rounding_share(like) * xp.abs(null))
    one = xp.ones((), dtype=like.dtype, device=backends.device(like))
    return xp.astype(null, like.dtype, copy=False), xp.astype(rms, like.dtype, copy=False), one


def _column_scaling(objective: LinearObjective, moments: Moments | None) -> Scaling:
    loss = objective.loss
    if moments is None:
        mean, spread = column_spread(objective.blocks, objective.intercept)
    else:
        mean, spread = _spread_known(moments, objective.zeros().coef, objective.intercept)
    if moments is not None and loss.quadratic:
        null, rms, kappa = _null_known(moments, mean, objective.intercept)
    else:
        null, rms, kappa = _null_model(objective, mean, moments)
    xp = backends.namespace(mean)
    penalty = objective.penalty
    ridge = penalty.curvature_bound if penalty is not None else None
    root_kappa = xp.sqrt(kappa)
    root = root_kappa[..., None] * spread
    if ridge:
        root = xp.hypot(root, xp.zeros_like(spread) + ridge_like(penalty, spread) ** 0.5)
    constant = xp.where(mean == 0.0, xp.ones_like(mean), xp.abs(mean))
    root = xp.where(root == 0.0, constant, root)
    if penalty is not None and not (
        penalty.smooth or penalty.separable
    ):  # its prox knows but one scale
        root = xp.zeros_like(root) + xp.max(root, axis=-1, keepdims=True)
    unit = rms / root_kappa
    return Scaling(
        mean=mean,
        inv_std=_known_moments(1.0 / root, root),
        intercept_scale=xp.ones_like(rms) / root_kappa,
        gradient_scale=_known_moments(xp.where(unit > 0.0, unit, xp.ones_like(unit)), unit),
        null_model=null,
    )


def _known_moments(x: Array, source: Array) -> Array:
    """Return x with NaN where its source is not finite: a share of infinity would look like 0."""
    return x + (source - source)


def _zero_columns(objective: LinearObjective) -> Array:
    coef = objective.zeros().coef
    return backends.namespace(coef).sum(coef, axis=-1)
