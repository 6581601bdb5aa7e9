"""Small least-squares problems in NumPy arrays: the Newton step on the normal equations, without a loop.

A fit that goes well takes one step, from the best constant model to the minimum that the moments know. For
few rows the loop that checks before and after costs more than the arithmetic. Here the formulas of
`agd.run.linear_solvers.NormalEquations` are written out for one problem, in the same order, so that the
answer is the same to the last bit (with weights, and in single precision, to rounding), and for a batch.
Whatever does not go well is `NotApplicable`, and left to the loop, which says why.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agd._typing import Loss, NotApplicable, Params
from agd.data.threads import parallel_map, thread_count
from agd.gradient.column_stats import default_gradient_tolerance
from agd.gradient.conditioning import MAX_SMALL_CONDITION, MAX_SPECTRUM_COLUMNS
from agd.gradient.cross_products import SAMPLE
from agd.run.certificate import Certificate, Deferred
from agd.run.linear_problem import LinearProblem, Solution
from agd.run.linear_solvers import MAX_SINGLE_PASS_CONDITION
from agd.run.result import FitResult, History, Status
from agd.update.newton import NewtonStep

__all__ = [
    "BatchedNormalEquations",
    "RowMoments",
    "SmallNormalEquations",
    "SmallRows",
]


class SmallRows(NamedTuple):
    """The data: X, y and the weights."""

    X: Any
    y: Any
    weight: Any

    def in_double(self) -> SmallRows:
        """Return them in double precision."""
        return SmallRows(*(None if part is None else part.astype(np.float64) for part in self))


class RowMoments(NamedTuple):
    """Means and centred second moments; `square` is that of y about the best constant."""

    mean: Any
    mean_y: float
    G: Any
    c: Any
    yy: float

    @classmethod
    def of(cls, X: Any, y: Any, weight: Any = None) -> RowMoments:
        """Return the weighted means and centred second moments of the rows of X and y."""
        if weight is not None:
            return cls._weighted(X, y, weight)
        n = len(y)
        some = max(1, n // SAMPLE)
        shift, shift_y = _column_mean(X[::some]), float(_column_mean(y[::some]))
        d, e = X - shift, y - shift_y
        rest, rest_y = d.T @ np.ones(n) / n, float(np.add.reduce(e)) / n
        xx, xy = d.T @ d - rest[:, None] * rest * n, d.T @ e - rest * (rest_y * n)
        yy = float(np.add.reduce(e * e)) - rest_y * rest_y * n
        return cls(shift + rest, shift_y + rest_y, xx / n, xy / n, yy / n)

    @classmethod
    def _weighted(cls, X: Any, y: Any, weight: Any) -> RowMoments:
        total = float(np.add.reduce(weight))
        mean, mean_y = weight @ X / total, float(weight @ y) / total
        d, e = X - mean, y - mean_y
        heavy = d * weight[:, None]
        yy = float(np.add.reduce(weight * e * e)) / total
        return cls(mean, mean_y, heavy.T @ d / total, heavy.T @ e / total, yy)

    def about_zero(self) -> RowMoments:
        """Return the moments about 0, those of a model without an intercept."""
        mean, mean_y = self.mean, self.mean_y
        return RowMoments(
            np.zeros_like(mean), 0.0,
            self.G + mean[:, None] * mean, self.c + mean * mean_y, self.yy + mean_y * mean_y,
        )  # fmt: skip


def _column_mean(x: Any) -> Any:
    return np.add.reduce(x, axis=0) / len(x)


MAX_SMALL_COLUMNS = MAX_SPECTRUM_COLUMNS
MAX_SMALL_ROWS = 10_000  # the products of more are shared among threads, in blocks
EPS64 = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
MIN_SQUARE = float(np.finfo(np.float64).smallest_normal) / EPS64  # squares below it lose digits
GRADIENT_TOLERANCE = default_gradient_tolerance(np.zeros(()))
ROUNDING_SHARE = (
    2.0 * EPS64 / GRADIENT_TOLERANCE
)  # of a predictor: what rounding makes of it means nothing to the tolerance
METHOD_NAME = NewtonStep().name
CONVERGED_MESSAGE = f"{Status.CONVERGED.advice} (after 1 step)"
LOOP_READS = 3  # what the loop reads: the spectrum, and a look before and after the step


def _gradient_tolerance(kind: Any) -> float:
    return (
        GRADIENT_TOLERANCE
        if kind == np.float64
        else default_gradient_tolerance(np.zeros((), dtype=kind))
    )


def _rounding_share(kind: Any) -> float:
    return ROUNDING_SHARE if kind == np.float64 else 2.0 * EPS32 / _gradient_tolerance(kind)


class _SmallWhitening(NamedTuple):
    """What whitens the columns, and what a gradient is measured by: a `Whitening` of one problem."""

    shift: Any
    scale: Any
    root: Any
    unit: float
    out_of: Any
    low: float
    high: float
    kind: Any

    @classmethod
    def of(cls, m: RowMoments, ridge: float, kind: Any) -> _SmallWhitening:
        """Whiten; raise `NotApplicable` for columns that are constant, lost by squaring or dependent."""
        eps = EPS64 if kind == np.float64 else EPS32
        variance = m.G.diagonal()
        spread = np.sqrt(variance)
        # A column that is constant but for rounding, or lost by squaring; NaN fails as well.
        if not (spread > 64.0 * eps * np.abs(m.mean)).all():
            raise NotApplicable("columns that are constant, dependent or of extreme size")
        squares = float((variance + m.mean * m.mean).min()), m.yy + m.mean_y * m.mean_y
        if not (m.yy > 0.0 and min(squares) >= MIN_SQUARE):
            raise NotApplicable("columns that are constant, dependent or of extreme size")
        root = np.hypot(spread, ridge**0.5) if ridge else spread
        scale = 1.0 / root
        C = m.G * (scale[:, None] * scale)
        if ridge:
            C = C + np.diag(ridge * (scale * scale))
        if not math.isfinite(float(np.add.reduce(C, axis=None))):
            raise NotApplicable("columns that are constant, dependent or of extreme size")
        e, V = np.linalg.eigh(C)
        low, high = float(e[0]), float(e[-1])
        if not low * MAX_SMALL_CONDITION**2 > high:
            raise NotApplicable("columns that are constant, dependent or of extreme size")
        unit = max(math.sqrt(m.yy), _rounding_share(kind) * abs(m.mean_y))
        return cls(m.mean, scale, root, unit, V * (1.0 / np.sqrt(e)), low, high, kind)

    @property
    def passes(self) -> int:
        """How many passes over the data the step takes."""
        single_pass = (
            self.kind != np.float64 or math.sqrt(self.high / self.low) < MAX_SINGLE_PASS_CONDITION
        )
        return 1 if single_pass else 2

    def step(self, grad: Any) -> Any:
        """Return the step down a gradient, in the user's coordinates."""
        return self.scale * (self.out_of @ (self.out_of.T @ (self.scale * grad)))

    def grad_norm(self, grad: Any, slope: float, w: Any, b: float) -> float:
        """Return the relative size of a gradient, less what rounding of the params makes of it."""
        size = max(float(np.abs(self.scale * grad).max()), abs(slope))
        reach = np.abs(self.shift) + self.root
        rounded = float(np.add.reduce(reach * np.abs(w))) + abs(b)
        return size / (self.unit + _rounding_share(self.kind) * rounded)


class _EvaluatedPoint(NamedTuple):
    """Params, value, and the gradient: centred, and with respect to b."""

    w: Any
    b: float
    value: float
    grad: Any
    slope: float


class SmallNormalEquations:
    """One least-squares problem of few NumPy rows, at most 64 columns and 131,072 numbers."""

    def fit(self, problem: LinearProblem) -> Solution:
        """Fit by one Newton step, where one is enough.

        Parameters
        ----------
        problem : LinearProblem
            One problem of the squared loss, with no penalty or `L2`.

        Returns
        -------
        Solution
            What the loop would have returned.

        Raises
        ------
        NotApplicable
            For weights that are negative, infinite or all zero; for values that are not finite; for
            columns that are dependent, constant, badly conditioned or of extreme size; and for a step
            that does not lead to the minimum.

        Examples
        --------
        >>> import agd
        >>> result = agd.fit([[1.0], [2.0], [4.0]], [1.0, 2.0, 6.0])
        >>> result.coef.round(6), result.nit
        (array([1.714286]), 1)
        """
        X, y, weight = problem.data
        with np.errstate(all="ignore"):  # what overflows is not finite, and the loop's to explain
            if weight is not None and not _is_valid_weight(weight):
                raise NotApplicable("weights that the loop has words for")
            rows = SmallRows(X, y, weight)
            rows = rows if X.dtype == np.float64 else rows.in_double()
            return Solution(_fit_small(rows, X.dtype, problem))


def _is_valid_weight(weight: Any) -> bool:
    total = float(np.add.reduce(weight))
    return bool(weight.ndim == 1 and weight.min() >= 0.0 and math.isfinite(total) and total > 0.0)


def _fit_small(rows: SmallRows, kind: Any, problem: LinearProblem) -> FitResult:
    ridge, intercept = problem.traits.ridge, problem.intercept
    centred = RowMoments.of(*rows)
    m = centred if intercept else centred.about_zero()
    whitening = _SmallWhitening.of(m, ridge, kind)
    # The best constant model, as the moments have it.
    start = _EvaluatedPoint(np.zeros_like(m.c), m.mean_y, 0.5 * m.yy, -m.c, 0.0)
    before = whitening.grad_norm(*_gradient_arguments(start))
    point = start
    for _ in range(whitening.passes):
        point = _take_step(point, whitening, rows, ridge, intercept)
    after = whitening.grad_norm(*_gradient_arguments(point))
    if not (before > _gradient_tolerance(kind) >= after and math.isfinite(point.value)):
        raise NotApplicable("a step that does not lead to the minimum")
    least = _least_eigenvalue(centred, ridge, intercept)
    result = _small_result(start, point, (before, after), whitening, least, problem.loss, intercept)
    # Weights are checked before the loop, which takes one more read.
    return result if rows.weight is None else replace(result, n_sync=LOOP_READS + 1)


def _gradient_arguments(point: _EvaluatedPoint) -> tuple[Any, float, Any, float]:
    return point.grad, point.slope, point.w, point.b


def _take_step(
    point: _EvaluatedPoint,
    whitening: _SmallWhitening,
    rows: SmallRows,
    ridge: float,
    intercept: bool,
) -> _EvaluatedPoint:
    """Step, and look at the data."""
    (X, y, weight), step = rows, whitening.step(point.grad)
    w, b = point.w - step, point.b
    if intercept:
        b = b - point.slope + float(np.add.reduce(whitening.shift * step))
    if whitening.kind != np.float64:  # evaluate the point that is returned
        w, b = w.astype(whitening.kind).astype(float), float(whitening.kind.type(b))
    r = X @ w + b - y
    if weight is None:
        n, value = float(len(y)), 0.5 * float(np.vecdot(r, r))
    else:
        n, value = float(np.add.reduce(weight)), float(np.add.reduce(0.5 * r**2 * weight))
        r = r * weight
    value, grad = value / n, X.T @ r / n
    slope = float(np.add.reduce(r)) / n if intercept else 0.0
    if ridge:
        value, grad = value + 0.5 * ridge * float(np.add.reduce(w * w)), grad + ridge * w
    return _EvaluatedPoint(
        w, b, value, grad - whitening.shift * slope if intercept else grad, slope
    )


def _least_eigenvalue(m: RowMoments, ridge: float, intercept: bool) -> float:
    """Return the least curvature in the user's coordinates, 0 for one that rounding may have made."""
    p = len(m.mean)
    hessian = np.empty((p + intercept, p + intercept))
    np.add(m.G, m.mean[:, None] * m.mean, out=hessian[:p, :p])
    if ridge:
        hessian[:p, :p] += ridge * np.eye(p)
    if intercept:
        hessian[p, :p] = hessian[:p, p] = m.mean
        hessian[p, p] = 1.0
    least = float(np.linalg.eigvalsh(hessian)[0])
    noise = len(hessian) * EPS64 * float(np.add.reduce(np.abs(hessian), axis=1).max())
    return least if least > noise else 0.0


def _small_result(
    start: _EvaluatedPoint,
    end: _EvaluatedPoint,
    sizes: tuple[float, float],
    whitening: _SmallWhitening,
    least: float,
    loss: Loss,
    intercept: bool,
) -> FitResult:
    calls, largest = 1 + whitening.passes, float(np.abs(end.w).max())
    size = max(largest, abs(end.b))
    moved = max(largest, abs(end.b - start.b)) / (size or 1.0)
    jac, kind = end.grad + whitening.shift * end.slope if intercept else end.grad, whitening.kind
    x = Params(end.w.astype(kind, copy=False), np.asarray(end.b, dtype=kind) if intercept else None)
    distance = None
    if least > 0.0:  # even where the gradient is 0 the point is a rounded one
        eps = EPS64 if kind == np.float64 else EPS32
        distance = math.hypot(*jac.tolist(), end.slope) / least + eps * size
    history = History(
        np.asarray([0, 1]), np.asarray([start.value, end.value]), np.asarray(sizes),
        np.asarray([0.0, moved]), np.asarray([1, calls]),
    )  # fmt: skip
    certificate = Certificate(
        sizes[1], _gradient_tolerance(kind), curvature=whitening.high, largest_step=2.0 / whitening.high,
        least_curvature=whitening.low, condition=whitening.high / whitening.low,
        distance=distance, source="Hessian",
    )  # fmt: skip
    return FitResult(
        x=x, fun=end.value,
        jac=Params(
            jac.astype(kind, copy=False), np.asarray(end.slope, dtype=kind) if intercept else None
        ),
        nit=1, nfev=calls, njev=calls, status=Status.CONVERGED, success=True, message=CONVERGED_MESSAGE,
        history=history, n_sync=LOOP_READS, method=METHOD_NAME, certificate=certificate,
        coef=x.coef, intercept=x.intercept, loss=loss, classes=None,
    )  # fmt: skip


MAX_PIECE_ENTRIES = (
    2**17
)  # numbers of X in a piece: 1 MiB, and as much for the centred columns (measured)
MAX_BATCHED_COLUMNS = 16  # with more the factors cost more than what is saved


class _BatchedMoments(NamedTuple):
    mean: Any
    mean_y: Any
    G: Any
    c: Any
    yy: Any


class _BatchedWhitening(NamedTuple):
    """What whitens: C is the Hessian in scaled coordinates, `inverse` its inverse."""

    shift: Any
    scale: Any
    root: Any
    unit: Any
    C: Any
    inverse: Any


class _BatchedPoint(NamedTuple):
    """Params, value, and the gradient: centred, and with respect to b."""

    w: Any
    b: Any
    value: Any
    grad: Any
    slope: Any


class _BatchedFits(NamedTuple):
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


class BatchedNormalEquations:
    """Many small least-squares problems in one NumPy array X (b, n, p), each of at most 16 columns."""

    def fit(self, problem: LinearProblem) -> Solution:
        """Fit a batch by one Newton step for each problem, where one is enough for all.

        Parameters
        ----------
        problem : LinearProblem
            A batch of the squared loss, with no penalty or `L2`.

        Returns
        -------
        Solution
            What the loop would have returned, but for rounding; the certificate's curvatures are computed
            when they are asked for.

        Raises
        ------
        NotApplicable
            For several targets beside one X, weights and single precision; and where one of the problems
            has values that are not finite, columns that are constant or of extreme size, or a condition
            number near 30.

        Examples
        --------
        >>> import numpy as np
        >>> import agd
        >>> X = np.asarray([[[1.0], [2.0], [4.0]], [[0.0], [1.0], [2.0]]])
        >>> agd.fit(X, np.asarray([[1.0, 2.0, 6.0], [1.0, 3.0, 5.0]])).coef.round(6)
        array([[1.714286],
               [2.      ]])
        """
        X, y, weight = problem.data
        if X.dtype != np.float64 or weight is not None or X.ndim != 3:
            raise NotApplicable("one unweighted batch in double precision is needed")
        each = max(1, MAX_PIECE_ENTRIES // X[0].size)
        pieces = [(X[i : i + each], y[i : i + each]) for i in range(0, len(X), each)]
        fit = functools.partial(_fit_piece, problem.traits.ridge, problem.intercept)
        try:
            with np.errstate(
                all="ignore"
            ):  # what overflows is not finite, and the loop's to explain
                parts = parallel_map(fit, pieces, min(thread_count(), len(pieces)))
        except np.linalg.LinAlgError as error:
            raise NotApplicable("a singular problem") from error
        fits = _BatchedFits(*map(np.concatenate, zip(*parts, strict=True)))
        return Solution(_batched_result(fits, problem.loss, problem.intercept))


def _fit_piece(ridge: float, intercept: bool, block: tuple[Any, Any]) -> _BatchedFits:
    """Fit some problems, from the moments to the gradient at the end."""
    X, y = (np.ascontiguousarray(part) for part in block)
    m = _batched_moments(X, y)
    if not intercept:
        m = _moments_about_zero(m)
    whitening = _batched_whitening(m, ridge)
    zero = np.zeros_like(m.mean_y)
    start = _BatchedPoint(np.zeros_like(m.c), m.mean_y, 0.5 * m.yy, -m.c, zero)
    end = _take_batched_step(start, whitening, X, y, ridge, intercept)
    before, after = _batched_grad_norm(start, whitening), _batched_grad_norm(end, whitening)
    if not (
        (before > GRADIENT_TOLERANCE) & (after <= GRADIENT_TOLERANCE) & np.isfinite(end.value)
    ).all():
        raise NotApplicable
    largest = np.abs(end.w).max(axis=-1)
    size = np.maximum(largest, np.abs(end.b))
    moved = np.maximum(largest, np.abs(end.b - start.b)) / np.where(size > 0.0, size, 1.0)
    jac = end.grad + whitening.shift * end.slope[:, None]
    return _BatchedFits(
        end.w, end.b, jac, end.slope, end.value, before, after, start.value, moved, whitening.C
    )


def _batched_moments(X: Any, y: Any) -> _BatchedMoments:
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
    return _BatchedMoments(mean + rest, mean_y + rest_y, G, c, yy)


def _moments_about_zero(m: _BatchedMoments) -> _BatchedMoments:
    """Return the moments about 0, those of a model without an intercept."""
    mean, mean_y = m.mean, m.mean_y
    return _BatchedMoments(
        np.zeros_like(mean), np.zeros_like(mean_y),
        m.G + mean[:, :, None] * mean[:, None, :], m.c + mean * mean_y[:, None], m.yy + mean_y * mean_y,
    )  # fmt: skip


def _batched_whitening(m: _BatchedMoments, ridge: float) -> _BatchedWhitening:
    p = m.c.shape[-1]
    variance = np.diagonal(m.G, axis1=-2, axis2=-1)
    spread = np.sqrt(variance)
    # A column that is constant but for rounding, or lost by squaring; NaN fails as well.
    regular = (spread > 64.0 * EPS64 * np.abs(m.mean)) & (variance + m.mean**2 >= MIN_SQUARE)
    if not (regular.all() and ((m.yy > 0.0) & (m.yy + m.mean_y**2 >= MIN_SQUARE)).all()):
        raise NotApplicable
    root = np.hypot(spread, ridge**0.5) if ridge else spread
    scale = 1.0 / root
    C = m.G * (scale[:, :, None] * scale[:, None, :])
    if ridge:
        C = C + np.eye(p) * (ridge * scale * scale)[:, None, :]
    inverse = np.linalg.inv(C)
    # The largest curvature is at most the trace, p; the least at least 1 over the inverse's norm.
    most = p * np.sqrt(np.einsum("bij,bij->b", inverse, inverse))
    if not (most < MAX_SINGLE_PASS_CONDITION**2).all():
        raise NotApplicable
    unit = np.maximum(np.sqrt(m.yy), ROUNDING_SHARE * np.abs(m.mean_y))
    return _BatchedWhitening(m.mean, scale, root, unit, C, inverse)


def _take_batched_step(
    point: _BatchedPoint,
    whitening: _BatchedWhitening,
    X: Any,
    y: Any,
    ridge: float,
    intercept: bool,
) -> _BatchedPoint:
    """Step, and look at the data."""
    n = y.shape[-1]
    scaled = (whitening.scale * point.grad)[:, :, None]
    step = whitening.scale * (whitening.inverse @ scaled)[:, :, 0]
    w, b = point.w - step, point.b
    if intercept:
        b = b - point.slope + (whitening.shift * step).sum(axis=-1)
    r = (X @ w[:, :, None])[:, :, 0] + (b[:, None] - y)
    value, grad = 0.5 * np.einsum("bn,bn->b", r, r) / n, (r[:, None, :] @ X)[:, 0] / n
    slope = np.add.reduce(r, axis=-1) / n if intercept else np.zeros_like(b)
    if ridge:
        value, grad = value + 0.5 * ridge * (w * w).sum(axis=-1), grad + ridge * w
    return _BatchedPoint(w, b, value, grad - whitening.shift * slope[:, None], slope)


def _batched_grad_norm(point: _BatchedPoint, whitening: _BatchedWhitening) -> Any:
    """Return the relative size of a gradient, less what rounding of the params makes of it."""
    size = np.maximum(np.abs(whitening.scale * point.grad).max(axis=-1), np.abs(point.slope))
    reach = np.abs(whitening.shift) + whitening.root
    rounded = (reach * np.abs(point.w)).sum(axis=-1) + np.abs(point.b)
    return size / (whitening.unit + ROUNDING_SHARE * rounded)


def _extreme_curvatures(C: Any) -> tuple[Any, Any]:
    """Return the least and the largest curvature of each problem."""
    e = np.linalg.eigh(C)[0]
    return e[:, 0], e[:, -1]


def _batched_result(fits: _BatchedFits, loss: Loss, intercept: bool) -> FitResult:
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
        history=history, n_sync=LOOP_READS, method=METHOD_NAME,
        certificate=Deferred(fits.after, GRADIENT_TOLERANCE, ends=functools.partial(_extreme_curvatures, fits.C)),
        coef=x.coef, intercept=x.intercept, loss=loss, classes=None,
    )  # fmt: skip
