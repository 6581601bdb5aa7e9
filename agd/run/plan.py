"""What ``method="auto"`` means for a linear fit: which coordinates, which method, from which point."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Method, Params
from agd.gradient.columns import column_peaks, column_scaling
from agd.gradient.factor import triangular
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective
from agd.gradient.scaling import Rescaled, Scaling
from agd.gradient.squares import WhitenedSquares
from agd.gradient.whitening import Whitening, from_factor, from_moments, ridge_of
from agd.loss import L2, Squared
from agd.run.spectrum import COLUMNS, least_eigenvalue
from agd.update.lbfgs import lbfgs
from agd.update.whitened import WhitenedDescent

__all__ = ["Columns", "Plan", "plan"]

WIDE = 2000  # columns: with more, the (p, p) matrices cost more than the steps they save
EVEN = 30.0  # condition: below it the moments' answer has lost three digits at most
SMALL, UNEVEN = 2**17, 1e3  # entries of X, condition: twice the precision takes milliseconds here
MEMORY = 10  # pairs of L-BFGS: in whitened coordinates few are needed


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
    n_sync : int
        Reads by the host.
    """

    low: Any
    high: Any
    least: float | None
    missing: Any
    hard: bool = False
    n_sync: int = 1

    @property
    def condition(self) -> Any:
        """The condition number of the columns: the root of the Hessian's; infinite if dependent."""
        with np.errstate(all="ignore"):
            return np.sqrt(np.divide(self.high, self.low))


class Plan(NamedTuple):
    """What to run.

    Attributes
    ----------
    method : Method
        What takes a step.
    objective : Objective
        The objective in its coordinates.
    x0 : Params
        The first point in them.
    check_every : int
        How many steps run between two looks, where the user does not say.
    columns : Columns
        What was learned of the columns.
    """

    method: Method
    objective: Any
    x0: Params
    check_every: int
    columns: Columns


def plan(base: LinearObjective, start: Params | None, *, measured: bool) -> Plan | None:
    """Choose what fits best: whitened descent for the squared loss, L-BFGS there for any other.

    Parameters
    ----------
    base : LinearObjective
        Loss, data and penalty.
    start : Params, optional
        The first point, in the user's coordinates; the best constant model by default.
    measured : bool
        Whether the stopping test measures the gradient in centred and scaled coordinates.

    Returns
    -------
    Plan or None
        None where whitening does not serve: more than 2,000 columns, a penalty that is not smooth, and
        columns whose moments the dtype cannot hold.
    """
    if base.nonsmooth or base.blocks.X.shape[-1] > WIDE:
        return None
    moments = Moments.from_blocks(base.blocks)
    scaling = column_scaling(base, moments)
    quadratic = type(base.loss) is Squared and type(base.penalty) in (L2, type(None))
    with np.errstate(all="ignore"):
        found = _columns(base, moments, scaling, quadratic=quadratic)
    if found is None:
        return None
    whitening, columns = found
    if measured:
        base = replace(base, measure=scaling)
    zero = base.zeros()
    if start is None:
        constant = None if zero.intercept is None else zero.intercept + scaling.null
        start = Params(zero.coef, constant)
    if quadratic:
        same = moments.G.dtype == zero.coef.dtype
        # Moments of well conditioned columns leave nothing to refine, nor do those that are wider.
        once = not same or np.max(columns.condition) < EVEN
        method = WhitenedDescent(3 if columns.hard else 1 if once else 2, accurate=columns.hard)
        least = None if columns.least is None else (columns.low, columns.least)
        squares = WhitenedSquares(base, whitening, moments, columns.hard, least)
        return Plan(method, squares, start, 1, columns)
    every = 1 if backends.of(zero.coef).looks_are_free else 10
    x0 = whitening.from_user(start)
    return Plan(lbfgs(MEMORY, whitened=True), Rescaled(base, whitening), x0, every, columns)


def _columns(
    base: LinearObjective, moments: Moments, scaling: Scaling, *, quadratic: bool
) -> tuple[Whitening, Columns] | None:
    """Whiten by the moments, or by a factor of the data where squaring them lost what is small."""
    whitening = _whitened(base, moments, scaling)
    xp, p = backends.namespace(moments.G), moments.G.shape[-1]
    ends = _ends(whitening, moments)
    single = quadratic and p <= COLUMNS and moments.G.ndim == 2 and base.batch_shape == ()
    parts = [ends, moments.G, moments.mean] if single else [ends]
    read = backends.to_numpy(xp.concat([xp.reshape(part, (-1,)) for part in parts]))
    size = math.prod(tuple(ends.shape))
    low, high, dead, tiny = read[:size].astype(float).reshape(tuple(ends.shape))
    if np.isnan(low).any() or ((tiny > 0.0).any() and _lost(base, moments)):
        return None
    least = _least(read[size:], p, base) if single else None
    eps = float(xp.finfo(moments.G.dtype).eps)
    # Rounding leaves an error of eps in G, and so one of eps condition² in the step: 2 % is the most.
    most = (0.02 / eps) ** 0.5 if not quadratic or _size(base) > SMALL else UNEVEN
    alone = ridge_of(base.penalty) == 0.0  # with a ridge nothing is left open
    if (low * most**2 > high).all():
        known = Columns(_plain(low), _plain(high), least, _plain(dead * alone), n_sync=1)
        return _like(whitening, scaling.shift), known
    R = triangular(base.blocks, scaling.shift, scaling.scale)
    R = R * xp.astype(xp.sqrt(_kappa(base, scaling, R)), R.dtype)[..., None, None]
    whitening, rank = from_factor(R, scaling, ridge_of(base.penalty))
    values = whitening.spectrum
    ends = xp.stack(
        [xp.min(values, axis=-1), xp.max(values, axis=-1), xp.astype(rank, values.dtype)]
    )
    low, high, rank = backends.to_numpy(ends).astype(float)
    missing = _plain((p - rank) * alone)
    return whitening, Columns(_plain(low), _plain(high), least, missing, hard=True, n_sync=2)


def _lost(base: LinearObjective, moments: Moments) -> bool:
    """Return whether a column that is not 0 is so small that its square is."""
    xp = backends.namespace(moments.G)
    square = xp.linalg.diagonal(moments.G) + moments.mean**2
    small = backends.to_numpy(square) < _least_square(moments)
    return bool((small & (column_peaks(base.blocks) > 0.0)).any())


def _least_square(moments: Moments) -> float:
    """Return the square below which numbers lose digits, or all."""
    kind = backends.namespace(moments.G).finfo(moments.G.dtype)
    return float(kind.smallest_normal) / float(kind.eps)


def _size(base: LinearObjective) -> float:
    """Return how many numbers X holds; infinite where its rows were not counted."""
    shape = base.blocks.X.shape
    return math.inf if any(isinstance(n, float) for n in shape) else math.prod(shape)


def _whitened(base: LinearObjective, moments: Moments, scaling: Scaling) -> Whitening:
    """Whiten by the moments, in their dtype."""
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
        return xp.asarray(base.loss.curvature, dtype=like.dtype, device=backends.device(like))
    d = xp.astype(scaling.intercept_scale, like.dtype, copy=False)
    return 1.0 / (d * d)


def _ends(whitening: Whitening, moments: Moments) -> Array:
    """Return least and largest curvature, and how many columns are constant and small, shape (4, ...)."""
    xp, e = backends.namespace(whitening.spectrum), whitening.spectrum
    still = xp.all(whitening.out_of == 0.0, axis=-1)
    small = xp.linalg.diagonal(moments.G) + moments.mean**2 < _least_square(moments)
    counts = [xp.sum(xp.astype(part, e.dtype), axis=-1) for part in (still, small)]
    low = xp.min(e, axis=-1)
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


def _like(whitening: Whitening, like: Array) -> Whitening:
    """Return the coordinates in the dtype of the data."""
    xp = backends.namespace(like)
    return whitening._replace(
        into=xp.astype(whitening.into, like.dtype, copy=False),
        out_of=xp.astype(whitening.out_of, like.dtype, copy=False),
        spectrum=xp.astype(whitening.spectrum, like.dtype, copy=False),
    )


def _plain(x: Any) -> Any:
    return float(x) if np.ndim(x) == 0 else x
