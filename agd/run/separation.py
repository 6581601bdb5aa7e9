"""Quasi-separation: whether a fit of classes or counts has no minimum, since a direction separates some rows.

Where a column, or a combination of some, is 0 but in rows of one class, or in rows that count nothing, the
loss decreases along it for ever, while the other rows determine all other directions. A run then ends where
the decrease that is left is below its tolerance, at coefficients that mean nothing. `explain` in
``run/diagnosis.py`` asks for this after a run has ended.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, Loss, Params
from agd.data.matrix import column_sums, forward, gram_matrix, scale_rows
from agd.gradient.column_stats import default_gradient_tolerance
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, linear_predictor
from agd.run.result import FitResult, Status

__all__ = ["separation_message"]

# Least to largest curvature that the solver met: above this ratio the minimum exists. Along a direction that
# separates, the curvature left at the end is about the tolerance of the gradient, which is coarse in float32.
MAX_CURVATURE_RATIO, MAX_CURVATURE_TOLERANCES = 1e-4, 40.0
# A row counts as flat if its slope is below this many tolerances of the gradient at z - 1, z and z + 1.
MAX_SLOPE_TOLERANCES = 1e3
# Columns with less than this share of the direction, in their standard deviations, are not named in the message.
MIN_SHARE = 0.01
# In z: the most that the direction may change other rows by, and the least for a row that it separates.
MAX_UNSEPARATED_CHANGE, MIN_SEPARATED_CHANGE = 0.05, 5.0
MAX_CLASS_PARAMETERS = 512  # of several classes: with more the eigenvalues take longer than the fit


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
    if not isinstance(result.status, Status) or known.least_curvature is None:
        return ""
    coordinates = objective.preconditioner
    scaling = base.convergence_norm if coordinates is None else coordinates.diagonal_part
    tolerance = default_gradient_tolerance(result.coef)
    ratio = max(MAX_CURVATURE_RATIO, MAX_CURVATURE_TOLERANCES * tolerance)
    if scaling is None or not known.least_curvature < ratio * known.curvature:
        return ""
    find = _find_separation if base.outputs is None else _find_class_separation
    with np.errstate(all="ignore"):
        return find(result, base, scaling)


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
    which = f"column {column} of X" if column is not None else "a direction in X"
    kind = "of one class" if base.loss.classes is not None else "of count 0"
    return _quasi_separation_words(which, int(moved), kind)


def _quasi_separation_words(which: str, rows: int, kind: str) -> str:
    return (
        f"{which} tells {rows} rows {kind} from all others (quasi-separation), so the coefficients grow "
        f"without bound and no minimum exists: add a penalty, such as penalty=agd.loss.L2(1e-3)"
    )


def _free_direction(
    read: Any, p: int, intercept: bool, like: Array
) -> tuple[Any, float, int | None]:
    """Return the part of (w, b) orthogonal to all rows with a slope, its share, and the only column in it, or None."""
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
    z, flat_rows = _find_flat_rows(loss, params, flat, X, y)
    counts = ~flat_rows if weight is None else ~flat_rows & (weight > 0.0)
    mask = xp.astype(counts, z.dtype)
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
    return [xp.sum(xp.astype(x, z.dtype)) for x in (opposed, separated)]


def _find_class_separation(result: FitResult, base: Any, scaling: Any) -> str:
    """Return the same of a predictor with an output for each class.

    A row and a class that is not its own make a pair, whose margin is the difference of their outputs: what
    is asked of rows above is asked of pairs here.
    """
    params, like = Params(result.coef, result.intercept), result.coef
    k, p = like.shape
    if k * (p + 1) > MAX_CLASS_PARAMETERS:
        return ""
    xp = backends.namespace(like)
    tolerance = MAX_SLOPE_TOLERANCES * default_gradient_tolerance(like)
    flat = scaling.gradient_scale / scaling.intercept_scale * tolerance
    shift = None if base.blocks.sparse else scaling.mean
    pair_products = functools.partial(_products_of_pairs, base.loss, params, flat, shift)
    sums = base.blocks.sum(pair_products, limit=MAX_COPIED_BLOCK_BYTES)
    zero = 0.0 * like[0, :] if shift is None else shift
    parts = [part for part in (*sums, like, zero, params.intercept) if part is not None]
    read = backends.to_numpy(xp.concat([xp.reshape(part, (-1,)) for part in parts])).astype(float)
    if not np.isfinite(read).all():
        return ""
    eps = float(np.finfo(backends.dtype_name(like.dtype)).eps)
    direction = _free_class_direction(read, int(k), int(p), base.intercept, eps)
    along = Params(*(backends.to_device_of(part, like) for part in direction))
    f = functools.partial(_count_of_pairs, base.loss, params, flat, along)
    opposed, separated = backends.to_numpy(xp.stack(base.blocks.sum(f))).tolist()
    if opposed or not separated:
        return ""
    return _quasi_separation_words("a direction in X", int(separated), "of some classes")


def _free_class_direction(read: Any, k: int, p: int, intercept: bool, eps: float) -> Any:
    """Return the part of (w, b), shapes (k, p) and (k,), that the pairs with a slope do not see."""
    pairs, m = k * (k - 1) // 2, p + 1
    products, point_entries = read[: pairs * m * m].reshape(pairs, m, m), read[pairs * m * m :]
    w, shift = point_entries[: k * p].reshape(k, p), point_entries[k * p : k * p + p]
    constant = point_entries[k * p + p :] + w @ shift if intercept else np.zeros(k)
    # In units of what each column adds to z, which no unit of the column can change.
    unit = np.append(np.max(np.abs(w), axis=0), max(np.max(np.abs(constant)), 1.0) * intercept)
    point = np.column_stack([w, constant]) / np.where(unit > 0.0, unit, 1.0)
    rows = max(float(products[:, p, p].sum()), 1.0)
    G = np.zeros((k, m, k, m))
    for (a, b), product in zip(itertools.combinations(range(k), 2), products, strict=True):
        scaled = product * np.outer(unit, unit) / rows
        for i, j, sign in ((a, a, 1.0), (b, b, 1.0), (a, b, -1.0), (b, a, -1.0)):
            G[i, :, j, :] += sign * scaled
    values, V = np.linalg.eigh(G.reshape(k * m, k * m))
    max_change = (MAX_UNSEPARATED_CHANGE / 10.0) ** 2 / m
    N = V[:, values <= max(max_change, 8.0 * k * m * eps * values[-1])]
    part = unit * (N @ (N.T @ point.reshape(-1))).reshape(k, m)
    return part[:, :p], part[:, p] - part[:, :p] @ shift


def _classify_pairs(
    loss: Loss, params: Params, flat: Array, X: Any, y: Array
) -> tuple[Array, Array]:
    """Return 1 for the class of each row, and whether the loss is flat around the output of each class."""
    z = linear_predictor(params, X, outputs=True)
    return loss.statistic(y), loss.class_probabilities(z) * math.e <= flat


def _products_of_pairs(
    loss: Loss, params: Params, flat: Array, shift: Array | None, X: Any, y: Array, weight: Any
) -> list[Array]:
    """Sum [x 1]' [x 1] over the rows whose pair of each two classes has a slope, shape (pairs, p + 1, p + 1)."""
    xp = backends.namespace(y)
    class_mask, flat_outputs = _classify_pairs(loss, params, flat, X, y)
    slope_mask = xp.astype(~flat_outputs, y.dtype)
    if weight is not None:
        slope_mask = slope_mask * xp.astype(weight > 0.0, y.dtype)[..., None]
    Z = X if shift is None else X - shift
    products = []
    for a, b in itertools.combinations(range(int(class_mask.shape[-1])), 2):
        mask = class_mask[:, a] * slope_mask[:, b] + class_mask[:, b] * slope_mask[:, a]
        rows = scale_rows(Z, mask)
        sums, count = column_sums(rows), xp.reshape(xp.sum(mask), (1,))
        top = xp.concat([gram_matrix(rows), sums[:, None]], axis=1)
        products.append(xp.concat([top, xp.concat([sums, count])[None, :]], axis=0))
    return [xp.stack(products)]


def _count_of_pairs(
    loss: Loss, params: Params, flat: Array, along: Params, X: Any, y: Array, weight: Any
) -> list[Array]:
    """Count the pairs that a move along a direction changes for the worse, or at all, and rows that it tells."""
    xp = backends.namespace(y)
    class_mask, flat_outputs = _classify_pairs(loss, params, flat, X, y)
    moved = linear_predictor(along, X, outputs=True)
    gain = xp.sum(moved * class_mask, axis=-1)[:, None] - moved
    opposed = xp.where(
        flat_outputs, gain < -MAX_UNSEPARATED_CHANGE, xp.abs(gain) > MAX_UNSEPARATED_CHANGE
    )
    separated = flat_outputs & (gain > MIN_SEPARATED_CHANGE)
    if weight is not None:
        counts = (weight > 0.0)[:, None]
        opposed, separated = opposed & counts, separated & counts
    return [xp.sum(xp.astype(xp.any(x, axis=-1), y.dtype)) for x in (opposed, separated)]
