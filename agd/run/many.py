"""The whitened step of many small least-squares fits, on the host: a few of the problems at a time.

As in `agd.run.direct` one step is enough. What a problem costs is then reading it, so that as many
problems as stay in cache are fitted from the first look to the last, and threads share such pieces.
Whatever does not go well, for one problem of them, is left to the loop, which says why.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import functools
from typing import Any, NamedTuple

import numpy as np

from agd._typing import Loss, Params, Penalty
from agd._validation import Data
from agd.gradient._workers import allowed, in_order
from agd.loss import L2, Squared
from agd.run.certificate import Deferred
from agd.run.direct import EPS, LEAST_SQUARE, NAME, READS, SHARE, TOLERANCE
from agd.run.fitted import FitResult
from agd.run.history import History
from agd.run.plan import EVEN
from agd.run.status import Status

__all__ = ["many"]

PIECE = 2**17  # numbers of X in a piece: 1 MiB, and as much for the centred columns (measured)
COLUMNS = 16  # with more the factors cost more than what is saved


class _Moments(NamedTuple):
    mean: Any
    mean_y: Any
    G: Any
    c: Any
    yy: Any


class _Coordinates(NamedTuple):
    """What whitens: C is the Hessian in scaled coordinates, `inverse` its inverse."""

    shift: Any
    scale: Any
    root: Any
    unit: Any
    C: Any
    inverse: Any


class _Point(NamedTuple):
    """Params, value, and the gradient: centred, and with respect to b."""

    w: Any
    b: Any
    value: Any
    grad: Any
    slope: Any


class _Fits(NamedTuple):
    """What a piece leaves; an entry for each of its problems."""

    w: Any
    b: Any
    jac: Any
    slope: Any
    value: Any
    before: Any
    after: Any
    first: Any
    moved: Any
    C: Any


class _NotPlainError(Exception):
    """A problem that one step does not solve."""


def many(data: Data, loss: Loss, penalty: Penalty | None, intercept: bool) -> FitResult | None:
    """Fit a batch of small problems by one whitened step each, where one is enough for all.

    Parameters
    ----------
    data : Data
        Checked data; of any kind, size and number of problems.
    loss : Loss
        The loss.
    penalty : Penalty or None
        The penalty.
    intercept : bool
        Whether the models have a constant term.

    Returns
    -------
    FitResult or None
        What the loop would have returned, but for rounding; the certificate's curvatures are found when
        they are asked for. None for what is not a batch X (b, n, p) of the squared loss, with no penalty
        or `L2`, unweighted and in double precision, of at most 16 columns and 131,072 numbers to a
        problem; and where one of the problems is not plain: values that are not finite, columns that are
        constant, of extreme size or of a condition near 30.

    Examples
    --------
    >>> import numpy as np
    >>> from agd._validation import as_data
    >>> x = np.asarray([[[1.0], [2.0], [4.0]], [[0.0], [1.0], [2.0]]])
    >>> found = many(as_data(x, [[1.0, 2.0, 6.0], [1.0, 3.0, 5.0]]), Squared(), None, True)
    >>> found.coef.round(6)
    array([[1.714286],
           [2.      ]])
    """
    X, y, weight = data
    if type(X) is not np.ndarray or X.dtype != np.float64 or weight is not None or X.ndim != 3:
        return None
    if X[0].size > PIECE or X.shape[-1] > COLUMNS:
        return None
    if type(loss) is not Squared or type(penalty) not in (L2, type(None)):
        return None
    each = max(1, PIECE // X[0].size)
    pieces = [(X[i : i + each], y[i : i + each]) for i in range(0, len(X), each)]
    ridge = 0.0 if penalty is None else float(penalty.curvature or 0.0)
    fit = functools.partial(_piece, ridge, intercept)
    try:
        with np.errstate(all="ignore"):  # what overflows is not finite, and the loop's to explain
            parts = in_order(fit, pieces, min(allowed(), len(pieces)))
    except (_NotPlainError, np.linalg.LinAlgError):
        return None
    return _result(_Fits(*map(np.concatenate, zip(*parts, strict=True))), loss, intercept)


def _piece(ridge: float, intercept: bool, block: tuple[Any, Any]) -> _Fits:
    """Fit some problems, from the moments to the gradient at the end."""
    X, y = (np.ascontiguousarray(part) for part in block)
    m = _moments(X, y)
    if not intercept:
        m = _about_zero(m)
    there = _coordinates(m, ridge)
    zero = np.zeros_like(m.mean_y)
    start = _Point(np.zeros_like(m.c), m.mean_y, 0.5 * m.yy, -m.c, zero)
    end = _moved(start, there, X, y, ridge, intercept)
    before, after = _grad_norm(start, there), _grad_norm(end, there)
    if not ((before > TOLERANCE) & (after <= TOLERANCE) & np.isfinite(end.value)).all():
        raise _NotPlainError
    largest = np.abs(end.w).max(axis=-1)
    size = np.maximum(largest, np.abs(end.b))
    moved = np.maximum(largest, np.abs(end.b - start.b)) / np.where(size > 0.0, size, 1.0)
    jac = end.grad + there.shift * end.slope[:, None]
    return _Fits(
        end.w, end.b, jac, end.slope, end.value, before, after, start.value, moved, there.C
    )


def _moments(X: Any, y: Any) -> _Moments:
    n = y.shape[-1]
    ones = np.ones(n)
    mean, mean_y = ones @ X / n, np.add.reduce(y, axis=-1) / n
    d, e = X - mean[:, None, :], y - mean_y[:, None]
    # What rounding took from the means.
    rest, rest_y = ones @ d / n, np.add.reduce(e, axis=-1) / n
    # Of two arrays a small product is sooner found than of one, whose symmetry BLAS would look for.
    G = d.transpose(0, 2, 1) @ d.copy() / n - rest[:, :, None] * rest[:, None, :]
    c = (e[:, None, :] @ d)[:, 0] / n - rest * rest_y[:, None]
    yy = np.einsum("bn,bn->b", e, e) / n - rest_y * rest_y
    return _Moments(mean + rest, mean_y + rest_y, G, c, yy)


def _about_zero(m: _Moments) -> _Moments:
    """Return the moments about 0, those of a model without an intercept."""
    mean, mean_y = m.mean, m.mean_y
    return _Moments(
        np.zeros_like(mean), np.zeros_like(mean_y),
        m.G + mean[:, :, None] * mean[:, None, :], m.c + mean * mean_y[:, None], m.yy + mean_y * mean_y,
    )  # fmt: skip


def _coordinates(m: _Moments, ridge: float) -> _Coordinates:
    p = m.c.shape[-1]
    variance = np.diagonal(m.G, axis1=-2, axis2=-1)
    spread = np.sqrt(variance)
    # A column that is constant but for rounding, or lost by squaring; NaN fails as well.
    plain = (spread > 64.0 * EPS * np.abs(m.mean)) & (variance + m.mean**2 >= LEAST_SQUARE)
    if not (plain.all() and ((m.yy > 0.0) & (m.yy + m.mean_y**2 >= LEAST_SQUARE)).all()):
        raise _NotPlainError
    root = np.hypot(spread, ridge**0.5) if ridge else spread
    scale = 1.0 / root
    C = m.G * (scale[:, :, None] * scale[:, None, :])
    if ridge:
        C = C + np.eye(p) * (ridge * scale * scale)[:, None, :]
    inverse = np.linalg.inv(C)
    # The largest curvature is at most the trace, p; the least at least 1 over the inverse's norm.
    most = p * np.sqrt(np.einsum("bij,bij->b", inverse, inverse))
    if not (most < EVEN**2).all():
        raise _NotPlainError
    unit = np.maximum(np.sqrt(m.yy), SHARE * np.abs(m.mean_y))
    return _Coordinates(m.mean, scale, root, unit, C, inverse)


def _moved(
    point: _Point, there: _Coordinates, X: Any, y: Any, ridge: float, intercept: bool
) -> _Point:
    """Step, and look at the data."""
    n = y.shape[-1]
    scaled = (there.scale * point.grad)[:, :, None]
    step = there.scale * (there.inverse @ scaled)[:, :, 0]
    w, b = point.w - step, point.b
    if intercept:
        b = b - point.slope + (there.shift * step).sum(axis=-1)
    r = (X @ w[:, :, None])[:, :, 0] + (b[:, None] - y)
    value, grad = 0.5 * np.einsum("bn,bn->b", r, r) / n, (r[:, None, :] @ X)[:, 0] / n
    slope = np.add.reduce(r, axis=-1) / n if intercept else np.zeros_like(b)
    if ridge:
        value, grad = value + 0.5 * ridge * (w * w).sum(axis=-1), grad + ridge * w
    return _Point(w, b, value, grad - there.shift * slope[:, None], slope)


def _grad_norm(point: _Point, there: _Coordinates) -> Any:
    """Return the relative size of a gradient, less what rounding of the params makes of it."""
    size = np.maximum(np.abs(there.scale * point.grad).max(axis=-1), np.abs(point.slope))
    reach = np.abs(there.shift) + there.root
    rounded = (reach * np.abs(point.w)).sum(axis=-1) + np.abs(point.b)
    return size / (there.unit + SHARE * rounded)


def _curvatures(C: Any) -> tuple[Any, Any]:
    """Return the least and the largest curvature of each problem."""
    e = np.linalg.eigh(C)[0]
    return e[:, 0], e[:, -1]


def _result(fits: _Fits, loss: Loss, intercept: bool) -> FitResult:
    count = len(fits.value)
    one = np.ones(count, dtype=int)
    x = Params(fits.w, fits.b if intercept else None)
    history = History(
        np.asarray([0, 1]), np.stack([fits.first, fits.value]), np.stack([fits.before, fits.after]),
        np.stack([np.zeros(count), fits.moved]), np.stack([one, 2 * one]),
    )  # fmt: skip
    return FitResult(
        x=x, fun=fits.value, jac=Params(fits.jac, fits.slope if intercept else None),
        nit=one, nfev=2 * one, njev=2 * one,
        status=np.full(count, int(Status.CONVERGED)), success=np.ones(count, dtype=bool),
        message=f"{count} of {count} {Status.CONVERGED.advice}",
        history=history, n_sync=READS, method=NAME,
        certificate=Deferred(fits.after, TOLERANCE, ends=functools.partial(_curvatures, fits.C)),
        coef=x.coef, intercept=x.intercept, loss=loss, classes=None,
    )  # fmt: skip
