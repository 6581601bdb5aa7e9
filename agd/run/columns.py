"""How the columns of X are conditioned, and the coordinates that whiten them."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import math
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array
from agd.gradient.blocks import Blocks
from agd.gradient.columns import column_peaks
from agd.gradient.factor import triangular
from agd.gradient.matrix import sliced, taken
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective
from agd.gradient.rows import apart
from agd.gradient.scaling import Scaling
from agd.gradient.sharpened import SMALL_SHARE, sharpened
from agd.gradient.whitening import Whitening, from_factor, from_moments, ridge_of
from agd.loss import Squared
from agd.run.row import plain
from agd.run.spectrum import COLUMNS, least_eigenvalue

__all__ = ["WIDE", "Columns", "by_moments", "row_count", "sample", "serve", "whitened"]

WIDE = 2000  # columns: with more, the (p, p) matrices and their factors cost more than the steps they save

ENOUGH = 100  # rows to a column: a sample has no fewer
SAMPLE, ROWS = 2**20, 20_000  # entries of X, rows: nor, but for wide or narrow X, of either
FAR = 16.0  # spreads: beyond, a predictor is rounded by more than line searches take for rounding of a value
SMALL, UNEVEN = 2**17, 1e3  # entries of X, condition: twice the precision takes milliseconds here


class Columns(NamedTuple):
    """What was learned of the columns on the way.

    Attributes
    ----------
    low, high : float or numpy.ndarray
        The least and the largest curvature in centred and scaled coordinates.
    least : float or None
        The least curvature in the user's coordinates, for one problem of the squared loss with few
        columns.
    missing : float or numpy.ndarray
        By how many directions the columns fall short of full rank.
    hard : bool
        Whether their condition is such that the moments do not serve, and they were factored.
    far : bool
        Whether one lies so far from zero, in its own spread, that a predictor's rounding tells.
    """

    low: Any
    high: Any
    least: float | None
    missing: Any
    hard: bool = False
    far: bool = False

    @property
    def plain(self) -> bool:
        """Whether all columns are independent and their condition is good."""
        return not self.hard and not np.any(self.missing)

    @property
    def condition(self) -> Any:
        """The condition number of the columns: the root of the Hessian's; infinite if dependent."""
        with np.errstate(all="ignore"):
            return np.sqrt(np.divide(self.high, self.low))


def whitened(
    base: LinearObjective, moments: Moments, scaling: Scaling, *, quadratic: bool
) -> tuple[Whitening, Columns] | None:
    """Whiten by the moments, or by a factor of the data where squaring them lost what is small.

    Parameters
    ----------
    base : LinearObjective
        Loss, data and penalty.
    moments : Moments
        Those of the data.
    scaling : Scaling
        The columns' centres and scales.
    quadratic : bool
        Whether the curvatures are those of the objective everywhere.

    Returns
    -------
    tuple of Whitening and Columns, or None
        None for columns whose moments the dtype cannot hold.
    """
    whitening = by_moments(base, moments, scaling)
    xp, p = backends.namespace(moments.G), moments.G.shape[-1]
    ends = _ends(base, whitening, moments)
    single = quadratic and p <= COLUMNS and moments.G.ndim == 2 and base.batch_shape == ()
    parts = [ends, moments.G, moments.mean] if single else [ends]
    read = backends.to_numpy(xp.concat([xp.reshape(part, (-1,)) for part in parts]))
    size = math.prod(tuple(ends.shape))
    low, high, dead, tiny, reach = read[:size].astype(float).reshape(tuple(ends.shape))
    if np.isnan(low).any() or ((tiny > 0.0).any() and _lost(base, moments)):
        return None
    least = _least(read[size:], p, base) if single else None
    eps = float(xp.finfo(moments.G.dtype).eps)
    # Rounding leaves an error of eps in G, and so one of eps condition² in the step: 2 % is the most.
    most = (0.02 / eps) ** 0.5 if not quadratic or _size(base) > SMALL else UNEVEN
    sparse = backends.is_sparse(base.blocks.X)
    if sparse:  # a few products with X are all that it costs
        most = min(most, SMALL_SHARE**-0.5)
    alone = ridge_of(base.penalty) == 0.0  # with a ridge nothing is left open
    far = bool(base.intercept and not sparse and (reach > FAR).any())
    if (low * most**2 > high).all():
        known = Columns(plain(low), plain(high), least, plain(dead * alone), far=far)
        return whitening.cast(scaling.shift), known
    if sparse:
        return _sharpened(base, moments, scaling, whitening)
    R = triangular(base.blocks, scaling.shift, scaling.scale)
    R = R * xp.astype(xp.sqrt(_kappa(base, scaling, R)), R.dtype)[..., None, None]
    whitening, rank = from_factor(R, scaling, ridge_of(base.penalty))
    values = whitening.spectrum
    ends = xp.stack(
        [xp.min(values, axis=-1), xp.max(values, axis=-1), xp.astype(rank, values.dtype)]
    )
    low, high, rank = backends.to_numpy(ends).astype(float)
    missing = plain((p - rank) * alone)
    return whitening, Columns(plain(low), plain(high), least, missing, hard=True, far=far)


def _sharpened(
    base: LinearObjective, moments: Moments, scaling: Scaling, rough: Whitening
) -> tuple[Whitening, Columns]:
    """Whiten badly conditioned sparse columns, which have no factor as sparse, by products with them.

    Problems whose curvatures differ keep the coordinates of the moments.
    """
    xp, p = backends.namespace(moments.G), moments.G.shape[-1]
    second, _ = moments.quadratic(intercept=base.intercept)
    kappa, ridge = _kappa(base, scaling, second), ridge_of(base.penalty)
    found, rank = rough, p
    if kappa.ndim == 0 and second.ndim == 2:
        wide = Scaling(*(xp.astype(part, second.dtype, copy=False) for part in scaling))
        found, rank = sharpened(base.blocks, second, wide, kappa, ridge)
    values = found.spectrum
    low, high = backends.to_numpy(xp.stack([xp.min(values, axis=-1), xp.max(values, axis=-1)]))
    missing = (p - rank) * (ridge == 0.0)
    columns = Columns(plain(low), plain(high), None, missing, hard=True)
    return found._replace(scaling=scaling).cast(scaling.shift), columns


def serve(base: LinearObjective, moments: Moments, scale: Array | None = None) -> bool:
    """Return whether the moments, and the scales, are finite and no square behind them is lost: one read."""
    xp = backends.namespace(moments.G)
    with np.errstate(all="ignore"):  # what overflows is not finite
        finite = moments.finite if scale is None else moments.finite & xp.all(xp.isfinite(scale))
        tiny = xp.any(_small(moments)) | xp.any(_small_targets(moments))
        sound, tiny = backends.to_numpy(xp.stack([finite, tiny]))
    return bool(sound and not (tiny and _lost(base, moments)))


def _lost(base: LinearObjective, moments: Moments) -> bool:
    """Return whether targets, or a column that is not 0, are so small that their squares are lost."""
    if type(base.loss) is Squared and backends.to_numpy(_small_targets(moments)).any():
        return True
    below = backends.to_numpy(_small(moments))
    return bool((below & (column_peaks(base.blocks) > 0.0)).any())


def sample(blocks: Blocks) -> Blocks | None:
    """Return some of the rows, evenly apart, where they tell as much of the columns as all do.

    Coordinates need not be exact: with 100 rows or more to a column, two directions that are as long in
    the sample differ by less than a half in the data. None where the rows are few, or in chunks.
    """
    if backends.of(blocks.X).chunked:
        return None
    n, p = blocks.X.shape[-2:]
    step = int(n) // max(ENOUGH * int(p), min(SAMPLE // int(p), ROWS))
    if step < 2 or int(n) * int(p) < 2 * SAMPLE:
        return None
    if int(p) * (int(n) // step) > 2 * SAMPLE:  # large: a view of the rows, not a copy
        weight = None if blocks.weight is None else blocks.weight[..., ::step]
        return Blocks.of(sliced(blocks.X, None, None, step), blocks.y[..., ::step], weight)
    xp, rows = backends.namespace(blocks.y), apart(int(n), step, blocks.y)
    weight = None if blocks.weight is None else xp.take(blocks.weight, rows, axis=-1)
    return Blocks.of(taken(blocks.X, rows), xp.take(blocks.y, rows, axis=-1), weight)


def _small(moments: Moments) -> Array:
    """Return for each column whether its mean square is so small that it has lost digits, or is 0."""
    xp = backends.namespace(moments.G)
    return xp.linalg.diagonal(moments.G) + moments.mean**2 < _least_square(moments)


def _small_targets(moments: Moments) -> Array:
    """Return for each problem whether the targets' mean square is that small."""
    return moments.yy + moments.mean_y**2 < _least_square(moments)


def _least_square(moments: Moments) -> float:
    """Return the square below which numbers lose digits, or all."""
    kind = backends.namespace(moments.G).finfo(moments.G.dtype)
    return float(kind.smallest_normal) / float(kind.eps)


def row_count(base: LinearObjective) -> float:
    """Return the number of rows; of unknown ones there are many."""
    rows = base.blocks.X.shape[-2]
    return math.inf if rows is None or math.isnan(rows) else rows


def _size(base: LinearObjective) -> float:
    """Return how many numbers X holds."""
    *problems, _, p = base.blocks.X.shape
    size: float = row_count(base) * math.prod([*problems, p])
    return size


def by_moments(base: LinearObjective, moments: Moments, scaling: Scaling) -> Whitening:
    """Whiten by the moments of the columns, in their dtype; parameters as of `whitened`."""
    xp = backends.namespace(moments.G)
    second, _ = moments.quadratic(intercept=base.intercept)
    scale = xp.astype(scaling.scale, second.dtype, copy=False)
    kappa = _kappa(base, scaling, second)
    found = from_moments(second, scaling._replace(scale=scale), kappa, ridge_of(base.penalty))
    return found._replace(scaling=scaling)


def _kappa(base: LinearObjective, scaling: Scaling, like: Array) -> Array:
    """Return the loss's curvature: its bound, one for all problems, or that at the null model."""
    xp = backends.namespace(like)
    if base.loss.curvature is not None:
        return xp.full((), base.loss.curvature, dtype=like.dtype, device=backends.device(like))
    d = xp.astype(scaling.intercept_scale, like.dtype, copy=False)
    return 1.0 / (d * d)


def _ends(base: LinearObjective, whitening: Whitening, moments: Moments) -> Array:
    """Return least and largest curvature, how many columns are constant and small, and how far one lies.

    That is its mean over its spread, as curvature and penalty leave it; shape (5, ...).
    """
    xp, e = backends.namespace(whitening.spectrum), whitening.spectrum
    there = whitening.scaling
    reach = xp.max(xp.abs(there.shift * there.scale), axis=-1)
    reach = xp.astype(reach, e.dtype) * xp.sqrt(_kappa(base, there, e))
    still = xp.all(whitening.out_of == 0.0, axis=-1)
    tiny = _small(moments) | xp.any(_small_targets(moments))
    counts = [xp.sum(xp.astype(part, e.dtype), axis=-1) for part in (still, tiny)]
    counts.append(reach)
    low = xp.where(moments.finite, xp.min(e, axis=-1), xp.min(0.0 * e, axis=-1) + math.nan)
    return xp.stack([low, xp.max(e, axis=-1), *(0.0 * low + count for count in counts)])


def _least(read: Any, p: int, base: LinearObjective) -> float:
    """Return the least curvature in the user's coordinates, from G and the means as read."""
    eps = float(np.finfo(read.dtype).eps)
    read = read.astype(float)
    G, mean = read[: p * p].reshape(p, p), read[p * p :]
    hessian = G + np.outer(mean, mean) + ridge_of(base.penalty) * np.eye(p)
    if base.intercept:
        hessian = np.block([[hessian, mean[:, None]], [mean[None, :], np.ones((1, 1))]])
    return least_eigenvalue(np.eye(len(hessian)), hessian, eps)
