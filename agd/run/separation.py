"""Quasi-separation: whether a fit of classes or counts has no minimum, since a direction separates some rows.

Where a column, or a combination of some, is 0 but in rows of one class, or in rows that count nothing, the
loss decreases along it for ever, while the other rows determine all other directions. A run then ends where
the decrease that is left is below its tolerance, at coefficients that mean nothing. `explain` in
``run/diagnosis.py`` asks for this after a run has ended.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Loss, Params
from agd.data.matrix import column_sums, forward, gram_matrix, scale_rows
from agd.gradient.column_stats import default_gradient_tolerance
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, linear_predictor
from agd.run.result import FitResult, Status

__all__ = ["separation_message"]

# Least to largest curvature that the solver met: above this ratio the minimum exists.
MAX_CURVATURE_RATIO = 1e-4
# Tolerances of the gradient: a row has no slope left where it is below, at z and one step to either side.
MAX_SLOPE_TOLERANCES = 1e3
MIN_SHARE = 0.01  # of a direction, in spreads of the columns: those with less are not named
# In z: the most that the direction may change other rows by, and the least for a row that it separates.
MAX_UNSEPARATED_CHANGE, MIN_SEPARATED_CHANGE = 0.05, 5.0


def separation_message(result: FitResult, objective: Any) -> str:
    """Return what to say of a fit that has no minimum; nothing where it has one.

    Only where the method met hardly any curvature are the data asked: two passes, and two reads.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : LinearObjective or Preconditioned
        What was minimised.

    Returns
    -------
    str
        A part of a message.

    Notes
    -----
    Albert and Anderson (1984), "On the existence of maximum likelihood estimates in logistic regression
    models". The direction looked for is the part of w that rows with a slope do not see; along it every
    row without must go the way it lies already.
    """
    base, known = objective.linear_objective, result.certificate
    if not base.loss.has_recession_direction or base.penalty is not None:
        return ""
    if base.outputs is not None:  # of several outputs no sign of z says which way a row lies
        return ""
    if not isinstance(result.status, Status) or known.least_curvature is None:
        return ""
    coordinates = objective.preconditioner
    scaling = base.convergence_norm if coordinates is None else coordinates.diagonal_part
    if scaling is None or not known.least_curvature < MAX_CURVATURE_RATIO * known.curvature:
        return ""
    with np.errstate(all="ignore"):
        return _find_separation(result, base, scaling)


def _find_separation(result: FitResult, base: Any, scaling: Any) -> str:
    params, like = Params(result.coef, result.intercept), result.coef
    tolerance = MAX_SLOPE_TOLERANCES * default_gradient_tolerance(like)
    flat = scaling.gradient_scale / scaling.intercept_scale * tolerance
    shift = None if base.blocks.sparse else scaling.mean
    block_products = functools.partial(_products_of_block, base.loss, params, flat, shift)
    xp = backends.namespace(like)
    zero = 0.0 * like if shift is None else shift
    sums = base.blocks.sum(block_products, limit=MAX_COPIED_BLOCK_BYTES)
    parts = [*sums, like, zero, 1.0 / scaling.inv_std, params.intercept]
    sizes = [xp.reshape(part, (-1,)) for part in parts if part is not None]
    read = backends.to_numpy(xp.concat(sizes)).astype(float)
    if not np.isfinite(read).all():
        return ""
    direction, constant, column = _free_direction(read, int(like.shape[-1]), base.intercept, like)
    along = backends.to_device_of(direction, like)
    f = functools.partial(_count_of_block, base.loss, params, flat, along, constant)
    opposed, moved = backends.to_numpy(xp.stack(base.blocks.sum(f))).tolist()
    if opposed or not moved:
        return ""
    which = f"column {column} of X tells" if column is not None else "a direction in X tells"
    kind = "of one class" if base.loss.classes is not None else "of count 0"
    return (
        f"; {which} {int(moved)} rows {kind} from all others (quasi-separation), so the coefficients grow "
        f"without bound and no minimum exists: add a penalty, such as penalty=agd.loss.L2(1e-3)"
    )


def _free_direction(
    read: Any, p: int, intercept: bool, like: Array
) -> tuple[Any, float, int | None]:
    """Return the part of (w, b) that rows with a slope do not see, and the column that it is all of."""
    G, sums, rows = read[: p * p].reshape(p, p), read[p * p : p * p + p], read[p * p + p]
    w, shift, spread = read[p * p + p + 1 :][: 3 * p].reshape(3, p)
    G = np.block([[G, sums[:, None]], [sums[None, :], np.full((1, 1), rows)]])
    constant = read[-1] + shift @ w if intercept else 0.0
    # In units of what each adds to z, which no unit of a column can change.
    unit = np.append(np.abs(w), max(abs(constant), 1.0) if intercept else 0.0)
    point = np.append(np.sign(w), constant / unit[-1] if intercept else 0.0)
    values, V = np.linalg.eigh(G * np.outer(unit, unit) / max(rows, 1.0))
    eps = float(np.finfo(backends.dtype_name(like.dtype)).eps)
    max_change = (MAX_UNSEPARATED_CHANGE / 10.0) ** 2 / (p + 1)
    N = V[:, values <= max(max_change, 8.0 * (p + 1) * eps * values[-1])]
    projection = N @ (N.T @ point)
    direction = unit[:-1] * projection[:-1]
    part = spread * np.abs(direction)
    large = np.flatnonzero(part > max(MIN_SHARE * part.max(), MIN_SHARE))
    column = int(large[0]) if len(large) == 1 else None
    return direction, float(unit[-1] * projection[-1] - shift @ direction), column


def _find_flat_rows(
    loss: Loss, params: Params, flat: Array, X: Array, y: Array
) -> tuple[Array, Array]:
    """Return the predictor of each row, and whether the loss is flat around it."""
    xp, z = backends.namespace(y), linear_predictor(params, X)
    slopes = [xp.abs(loss.gradient(z + by, y)) for by in (-1.0, 0.0, 1.0)]
    return z, functools.reduce(xp.maximum, slopes) <= flat


def _products_of_block(
    loss: Loss, params: Params, flat: Array, shift: Array | None, X: Array, y: Array, weight: Any
) -> list[Array]:
    """Sum products of the columns with one another, and the columns, over the rows that have a slope."""
    xp = backends.namespace(y)
    _, flat_rows = _find_flat_rows(loss, params, flat, X, y)
    counts = ~flat_rows if weight is None else ~flat_rows & (weight > 0.0)
    mask = xp.astype(counts, y.dtype)
    Z = scale_rows(X if shift is None else X - shift, mask)
    return [gram_matrix(Z), column_sums(Z), xp.sum(mask)]


def _count_of_block(
    loss: Loss,
    params: Params,
    flat: Array,
    along: Array,
    constant: float,
    X: Array,
    y: Array,
    weight: Any,
) -> list[Array]:
    """Count the rows that a move along a direction changes for the worse, or at all, and those it tells."""
    xp = backends.namespace(y)
    z, flat_rows = _find_flat_rows(loss, params, flat, X, y)
    moved = forward(X, along) + constant
    outward = xp.where(z > 0.0, moved, -moved)
    opposed = xp.where(
        flat_rows, outward < -MAX_UNSEPARATED_CHANGE, xp.abs(moved) > MAX_UNSEPARATED_CHANGE
    )
    separated = flat_rows & (outward > MIN_SEPARATED_CHANGE)
    if weight is not None:
        opposed, separated = opposed & (weight > 0.0), separated & (weight > 0.0)
    return [xp.sum(xp.astype(x, y.dtype)) for x in (opposed, separated)]
