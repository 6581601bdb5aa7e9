"""The condition of the columns of X, and a whitening preconditioner that is accurate for it.

The second moments X'X give the preconditioner in one pass, but forming them squares the condition number.
Where that costs digits, a QR factorisation of a dense X takes their place. A sparse X has no factor that is
as sparse; there the smallest eigenpairs are refined by a Rayleigh-Ritz step on products with the data. With
V0 the directions of small curvature, V1 the others, and Z the centred and scaled columns ::

    V0 := V0 - V1 diag(e1)^(-1) V1' Z'Z V0 / m        remove the components along V1 that rounding added
    (Z V0)'(Z V0) / m = U diag(f) U',   V0 := V0 U

takes four products with X for each direction, and f is accurate up to a condition number of 1/eps, as after
a QR. The solver is chosen by what is learned of the columns here.

Golub and Van Loan (2013), *Matrix Computations*, sections 8.1.2 and 8.3.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import Array, NotApplicable
from agd.data.base import BaseData
from agd.data.block_size import stratified_rows
from agd.data.matrix import backward, forward, gather_rows, slice_rows
from agd.gradient.column_stats import column_peaks
from agd.gradient.curvature import least_eigenvalue
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments, hessian_with_intercept
from agd.gradient.preconditioner import (
    Scaling,
    Whitening,
    hessian_eigenpairs,
    minimum_norm_basis,
    whitening_from_eigenpairs,
    whitening_from_factor,
    whitening_from_moments,
)
from agd.gradient.qr import triangular_factor
from agd.loss.penalties import ridge_curvatures, ridge_like

__all__ = [
    "MAX_NORMAL_COLUMNS",
    "MAX_SPECTRUM_COLUMNS",
    "MIN_RESOLVED_SHARE",
    "Columns",
    "moments_are_accurate",
    "rayleigh_ritz_whitening",
    "subsample_rows",
    "whiten_by_moments",
    "whiten_columns",
]

# Eigenvalues above this share of the largest have seven digits in the moments.
MIN_RESOLVED_SHARE = 1e-9
# Entries of the product of one block's rows with the small directions.
MAX_PRODUCT_ENTRIES = 2**21


def rayleigh_ritz_whitening(
    blocks: BaseData, second: Array, scaling: Scaling, kappa: Array, ridge: float | Array
) -> tuple[Whitening, int]:
    """Return the coordinates that whiten the columns of one problem, or of several that share them.

    Parameters
    ----------
    blocks : BaseData
        The data.
    second : array, shape (p, p)
        The columns' centred second moments.
    scaling : Scaling
        The columns' centres and scales, in the dtype of `second`.
    kappa : array, shape ()
        The curvature of the loss.
    ridge : float, or array, shape (p,)
        The curvature of the penalty, or one for each coefficient.

    Returns
    -------
    whitening : Whitening
        Directions that the data do not determine are left out.
    rank : int
        How many they determine.
    """
    e, V, _ = hessian_eigenpairs(second, scaling, kappa, ridge)
    xp, D, p = backends.namespace(e), scaling.inv_std, e.shape[-1]
    few = max(1, _as_count_column(e < MIN_RESOLVED_SHARE * xp.max(e)))
    V0, V1, e1 = V[:, :few], V[:, few:], e[few:]
    look = functools.partial(_data_products, blocks, scaling, kappa, ridge)
    H, _ = look(V0)
    V0 = xp.linalg.qr(V0 - V1 @ ((V1.T @ H) / e1[:, None])).Q
    H, gram = look(V0)
    f, U = xp.linalg.eigh(gram)
    V0, H = V0 @ U, H @ U
    # Centring far from zero leaves as many roundings of what is subtracted.
    reach = 1.0 + float(backends.to_numpy(xp.max(xp.abs(scaling.mean * D))))
    noise = (p + 10.0) * float(xp.finfo(e.dtype).eps) * reach
    kept = f > noise * noise * xp.max(e)
    f = xp.where(kept, f, xp.zeros_like(f))
    found = whitening_from_eigenpairs(scaling, xp.concat([f, e1]), xp.concat([V0, V1], axis=1))
    root = xp.sqrt(xp.where(kept, f, xp.ones_like(f)))
    into = xp.concat([H * (xp.astype(kept, e.dtype) / root)[None, :], found.sqrt[:, few:]], axis=1)
    null = D[:, None] * V0 * xp.astype(~kept, e.dtype)[None, :]
    out_of = minimum_norm_basis(found.inv_sqrt, D, null)
    rank = p - few + _as_count_column(kept)
    return found._replace(sqrt=into, inv_sqrt=out_of), rank


def _as_count_column(flags: Array) -> int:
    xp = backends.namespace(flags)
    return int(backends.to_numpy(xp.sum(xp.astype(flags, xp.int32))))


def _data_products(
    blocks: BaseData, scaling: Scaling, kappa: Array, ridge: float | Array, V: Array
) -> tuple[Array, Array]:
    """Return the bound on the Hessian times V, (p, k), and V' of that, (k, k), as a sum of squares."""
    xp, D = backends.namespace(V), scaling.inv_std
    W = (D[:, None] * V).T
    cut = blocks.replace(rows=max(64, MAX_PRODUCT_ENTRIES // max(1, V.shape[1])))
    back, squares = cut.sum(functools.partial(_direction_products, scaling.mean, W))
    share, own = kappa / xp.astype(blocks.total, V.dtype), (ridge * D * D)[:, None] * V
    return D[:, None] * back.T * share + own, squares * share + V.T @ own


def _direction_products(shift: Array, W: Array, X: Array, y: Array, weight: Array | None) -> Any:
    """Return X'S (X W' - shift) and the squares of the latter, of one block; centred."""
    z = forward(X, W) - (W @ shift)[:, None]
    r = z if weight is None else z * weight
    back = backward(X, r) - backends.namespace(r).sum(r, axis=-1)[:, None] * shift
    return back, r @ z.T


# With more columns the (p, p) matrices and their factorisations cost more than the steps that they save.
MAX_NORMAL_COLUMNS = 2000

# A sample has at least this many rows for each column, so that the eigenvalues of its moments are within a half.
MIN_SAMPLE_ROWS_PER_COLUMN = 100
# It has at least this many entries or rows, whichever is fewer rows; a smaller X is read whole.
MIN_SAMPLE_ENTRIES, MIN_SAMPLE_ROWS = 2**20, 20_000

# A column whose mean is farther from zero, in standard deviations, rounds X @ w by more than a line search
# takes for rounding of the value: it is centred inside each block.
MAX_MEAN_OVER_STD = 16.0

# On this few entries a QR takes milliseconds, so it is used from a lower condition number on.
MAX_SMALL_ENTRIES, MAX_SMALL_CONDITION = 2**17, 1e3


class Columns(NamedTuple):
    """The condition of the columns, as a whitening preconditioner finds it.

    Attributes
    ----------
    low, high : float or numpy.ndarray
        The least and the largest curvature in centred and scaled coordinates.
    least : float or None
        The least curvature in the user's coordinates, for one problem of the squared loss with few
        columns.
    rank_deficiency : float or numpy.ndarray
        The number of columns less their rank.
    ill_conditioned : bool
        Whether their condition is such that the moments are not accurate enough, and they were factored.
    far_from_zero : bool
        Whether the mean of a column is more than `MAX_MEAN_OVER_STD` standard deviations from zero.
    """

    low: Any
    high: Any
    least: float | None
    rank_deficiency: Any
    ill_conditioned: bool = False
    far_from_zero: bool = False

    @property
    def well_conditioned(self) -> bool:
        """Whether all columns are independent and their condition is good."""
        return not self.ill_conditioned and not np.any(self.rank_deficiency)

    @property
    def condition(self) -> Any:
        """The condition number of the columns: the root of the Hessian's; infinite if dependent."""
        with np.errstate(all="ignore"):
            return np.sqrt(np.divide(self.high, self.low))


def whiten_columns(
    base: LinearObjective, moments: Moments, scaling: Scaling, *, quadratic: bool
) -> tuple[Whitening, Columns]:
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
    tuple of Whitening and Columns
        The coordinates, and what was learned of the columns.

    Raises
    ------
    NotApplicable
        For columns whose moments the dtype cannot hold.
    """
    whitening = whiten_by_moments(base, moments, scaling)
    xp, p = backends.namespace(moments.G), moments.G.shape[-1]
    ends = _extreme_curvatures(base, whitening, moments)
    single = (
        quadratic and p <= MAX_SPECTRUM_COLUMNS and moments.G.ndim == 2 and base.batch_shape == ()
    )
    parts = [ends, moments.G, moments.mean] if single else [ends]
    read = backends.to_numpy(xp.concat([xp.reshape(part, (-1,)) for part in parts]))
    size = math.prod(tuple(ends.shape))
    low, high, dead, tiny, reach = read[:size].astype(float).reshape(tuple(ends.shape))
    if np.isnan(low).any() or ((tiny > 0.0).any() and _squares_underflow(base, moments)):
        raise NotApplicable("the moments of X are not finite in this dtype, or lose digits in it")
    least = _least_curvature(read[size:], p, base) if single else None
    eps = float(xp.finfo(moments.G.dtype).eps)
    # Rounding leaves an error of eps in G, and so one of eps condition² in the step: 2 % is the most.
    most = (
        (0.02 / eps) ** 0.5
        if not quadratic or _entry_count(base) > MAX_SMALL_ENTRIES
        else MAX_SMALL_CONDITION
    )
    sparse = base.blocks.sparse
    if sparse:  # a few products with X are all that it costs
        most = min(most, MIN_RESOLVED_SHARE**-0.5)
    # With a ridge on all coefficients nothing is left open.
    alone = np.min(ridge_curvatures(base.penalty)) == 0.0
    far = bool(base.intercept and not sparse and (reach > MAX_MEAN_OVER_STD).any())
    if (low * most**2 > high).all():
        known = Columns(
            as_scalar(low), as_scalar(high), least, as_scalar(dead * alone), far_from_zero=far
        )
        return whitening.cast(scaling.mean), known
    if sparse:
        return _refine_sparse_whitening(base, moments, scaling, whitening)
    R = triangular_factor(base.blocks, scaling.mean, scaling.inv_std)
    R = R * xp.astype(xp.sqrt(_loss_curvature(base, scaling, R)), R.dtype)[..., None, None]
    whitening, rank = whitening_from_factor(R, scaling, ridge_like(base.penalty, scaling.inv_std))
    values = whitening.spectrum
    ends = xp.stack(
        [xp.min(values, axis=-1), xp.max(values, axis=-1), xp.astype(rank, values.dtype)]
    )
    low, high, rank = backends.to_numpy(ends).astype(float)
    missing = as_scalar((p - rank) * alone)
    return whitening, Columns(
        as_scalar(low), as_scalar(high), least, missing, ill_conditioned=True, far_from_zero=far
    )


def _refine_sparse_whitening(
    base: LinearObjective, moments: Moments, scaling: Scaling, rough: Whitening
) -> tuple[Whitening, Columns]:
    """Whiten badly conditioned sparse columns, which have no factor as sparse, by products with them.

    Problems whose curvatures differ keep the coordinates of the moments.
    """
    xp, p = backends.namespace(moments.G), moments.G.shape[-1]
    second, _ = moments.quadratic(intercept=base.intercept)
    kappa = _loss_curvature(base, scaling, second)
    found, rank = rough, p
    if kappa.ndim == 0 and second.ndim == 2:
        wide = Scaling(*(xp.astype(part, second.dtype, copy=False) for part in scaling))
        ridge = ridge_like(base.penalty, wide.inv_std)
        found, rank = rayleigh_ritz_whitening(base.blocks, second, wide, kappa, ridge)
    values = found.spectrum
    low, high = backends.to_numpy(xp.stack([xp.min(values, axis=-1), xp.max(values, axis=-1)]))
    missing = (p - rank) * bool(np.min(ridge_curvatures(base.penalty)) == 0.0)
    columns = Columns(as_scalar(low), as_scalar(high), None, missing, ill_conditioned=True)
    return found._replace(scaling=scaling).cast(scaling.mean), columns


def moments_are_accurate(
    base: LinearObjective, moments: Moments, scale: Array | None = None
) -> bool:
    """Return whether the moments, and the scales, are finite and no square behind them is lost: one read."""
    xp = backends.namespace(moments.G)
    with np.errstate(all="ignore"):  # what overflows is not finite
        finite = moments.finite if scale is None else moments.finite & xp.all(xp.isfinite(scale))
        tiny = xp.any(_small_columns(moments)) | xp.any(_small_targets(moments))
        sound, tiny = backends.to_numpy(xp.stack([finite, tiny]))
    return bool(sound and not (tiny and _squares_underflow(base, moments)))


def _squares_underflow(base: LinearObjective, moments: Moments) -> bool:
    """Return whether targets, or a column that is not 0, are so small that their squares are lost."""
    if base.loss.quadratic and backends.to_numpy(_small_targets(moments)).any():
        return True
    below = backends.to_numpy(_small_columns(moments))
    return bool((below & (column_peaks(base.blocks) > 0.0)).any())


def subsample_rows(blocks: BaseData) -> BaseData | None:
    """Return a sample of rows, evenly apart, that is large enough to whiten the columns; None for few or lazy rows.

    Coordinates need not be exact: with 100 rows for each column the eigenvalues of a sample are within a factor of
    1.5 of those of the data.
    """
    if blocks.lazy:
        return None
    n, p = blocks.X.shape[-2:]
    step = int(n) // max(
        MIN_SAMPLE_ROWS_PER_COLUMN * int(p), min(MIN_SAMPLE_ENTRIES // int(p), MIN_SAMPLE_ROWS)
    )
    if step < 2 or int(n) * int(p) < 2 * MIN_SAMPLE_ENTRIES:
        return None
    if int(p) * (int(n) // step) > 2 * MIN_SAMPLE_ENTRIES:  # large: a view of the rows, not a copy
        weight = None if blocks.weight is None else blocks.weight[..., ::step]
        return BaseData.of(slice_rows(blocks.X, None, None, step), blocks.y[..., ::step], weight)
    xp, rows = backends.namespace(blocks.y), stratified_rows(int(n), step, blocks.y)
    weight = None if blocks.weight is None else xp.take(blocks.weight, rows, axis=-1)
    return BaseData.of(gather_rows(blocks.X, rows), xp.take(blocks.y, rows, axis=-1), weight)


def _small_columns(moments: Moments) -> Array:
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


def _entry_count(base: LinearObjective) -> float:
    """Return how many numbers X holds."""
    *problems, _, p = base.blocks.X.shape
    size: float = base.blocks.row_count * math.prod([*problems, p])
    return size


def whiten_by_moments(base: LinearObjective, moments: Moments, scaling: Scaling) -> Whitening:
    """Whiten by the moments of the columns, in their dtype; parameters as of `whiten_columns`."""
    xp = backends.namespace(moments.G)
    second, _ = moments.quadratic(intercept=base.intercept)
    scale = xp.astype(scaling.inv_std, second.dtype, copy=False)
    kappa = _loss_curvature(base, scaling, second)
    found = whitening_from_moments(
        second, scaling._replace(inv_std=scale), kappa, ridge_like(base.penalty, scale)
    )
    return found._replace(scaling=scaling)


def _loss_curvature(base: LinearObjective, scaling: Scaling, like: Array) -> Array:
    """Return the loss's curvature: its bound, one for all problems, or that at the null model."""
    xp = backends.namespace(like)
    if base.loss.curvature_bound is not None:
        return xp.full(
            (), base.loss.curvature_bound, dtype=like.dtype, device=backends.device(like)
        )
    d = xp.astype(scaling.intercept_scale, like.dtype, copy=False)
    return 1.0 / (d * d)


def _extreme_curvatures(base: LinearObjective, whitening: Whitening, moments: Moments) -> Array:
    """Return least and largest curvature, how many columns are constant and small, and how far one lies.

    That is its mean over its spread, as curvature and penalty leave it; shape (5, ...).
    """
    xp, e = backends.namespace(whitening.spectrum), whitening.spectrum
    there = whitening.scaling
    reach = xp.max(xp.abs(there.mean * there.inv_std), axis=-1)
    reach = xp.astype(reach, e.dtype) * xp.sqrt(_loss_curvature(base, there, e))
    still = xp.all(whitening.inv_sqrt == 0.0, axis=-1)
    tiny = _small_columns(moments) | xp.any(_small_targets(moments))
    counts = [xp.sum(xp.astype(part, e.dtype), axis=-1) for part in (still, tiny)]
    counts.append(reach)
    low = xp.where(moments.finite, xp.min(e, axis=-1), xp.min(0.0 * e, axis=-1) + math.nan)
    return xp.stack([low, xp.max(e, axis=-1), *(0.0 * low + count for count in counts)])


def _least_curvature(read: Any, p: int, base: LinearObjective) -> float:
    """Return the least curvature in the user's coordinates, from G and the means as read."""
    eps = float(np.finfo(read.dtype).eps)
    read = read.astype(float)
    G, mean = read[: p * p].reshape(p, p), read[p * p :]
    second = G + np.outer(mean, mean) + np.diag(ridge_curvatures(base.penalty) * np.ones(p))
    hessian = hessian_with_intercept(second, mean, intercept=base.intercept)
    return least_eigenvalue(np.eye(hessian.shape[0]), hessian, eps)


# With more columns the Hessian's pass costs more than the power iteration that it certifies.
MAX_SPECTRUM_COLUMNS = 64
