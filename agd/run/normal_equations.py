"""Least squares by one Newton step on the normal equations, without a loop.

A fit that goes well takes one step, from the best constant model to the minimum that the moments know. The
moments are read by the host at once, however many there are, and all of linear algebra and decisions
happens there; the device sums the moments, evaluates the point that the step leads to, and does nothing else.
The formulas are those of `agd.run.linear_solvers.NormalEquations`, for one problem and for a batch.
Whatever does not go well is `NotApplicable`, and left to the loop, which says why.

With more columns than rows the shortest of all minima lies in the span of the rows, w = Z' u with Z the centred rows,
and u solves ::

    (Z Z' / m + a I) u = (y - mean of y) / m

which has an equation for each row in place of one for each column (`DualNormalEquations`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import NotApplicable, Params
from agd.data.threads import parallel_map, thread_count
from agd.gradient.column_stats import default_gradient_tolerance
from agd.gradient.conditioning import (
    MAX_SMALL_CONDITION,
    MAX_SMALL_ENTRIES,
    MAX_SPECTRUM_COLUMNS,
    MIN_RESOLVED_SHARE,
)
from agd.run.certificate import Certificate, Deferred
from agd.run.diagnosis import rank_deficiency
from agd.run.host_moments import EPS64, DataGradient, ResidentRows, RowMoments, Rows, rows_of
from agd.run.linear_problem import LinearProblem, Solution
from agd.run.linear_solvers import MAX_SINGLE_PASS_CONDITION
from agd.run.result import FitResult, History, Status
from agd.update.newton import NewtonStep
from agd.update.proximal_newton import StepRecord

__all__ = [
    "BatchedNormalEquations",
    "DirectNormalEquations",
    "DualNormalEquations",
    "HostScaling",
    "column_moments",
    "converged_result",
    "extreme_curvatures",
    "relative_tolerance",
    "rounding_share_of",
    "step_history",
]


EPS32 = float(np.finfo(np.float32).eps)
GRADIENT_TOLERANCE = default_gradient_tolerance(np.zeros(()))
ROUNDING_SHARE = (
    2.0 * EPS64 / GRADIENT_TOLERANCE
)  # of a predictor: what rounding makes of it means nothing to the tolerance
METHOD_NAME = NewtonStep().name
CONVERGED_MESSAGE = Status.CONVERGED.message(1)
# Vectors by which inverse iteration estimates the least curvature of many columns.
PROBES = 4
# Up to so many columns the spectrum costs no more than an inverse.
MAX_SMALL_SPECTRUM_COLUMNS = 16
IRREGULAR = "columns that are constant, dependent or of extreme size"


def relative_tolerance(kind: Any) -> float:
    """Return the default tolerance of a relative gradient in a dtype, as NumPy knows it."""
    if kind == np.float64:
        return GRADIENT_TOLERANCE
    return default_gradient_tolerance(np.zeros((), dtype=kind))


def rounding_share_of(kind: Any) -> float:
    """Return the share of a predictor that may be rounding in a dtype, in units of the default tolerance."""
    return ROUNDING_SHARE if kind == np.float64 else 2.0 * EPS32 / relative_tolerance(kind)


def _min_square(eps: float) -> float:
    """Return the square below which squares in the moments' dtype lose digits."""
    kind = np.finfo(np.float64 if eps == EPS64 else np.float32)
    return float(kind.smallest_normal) / eps


def max_condition(problem: LinearProblem, eps: float) -> float:
    """Return the condition number of the columns up to which their moments are accurate enough.

    Rounding leaves an error of eps in the moments, and so one of eps condition² in the step. A few entries are
    factored by QR from a lower condition number on.
    """
    most = math.sqrt(0.02 / eps)
    if problem.traits.sparse:
        return min(most, math.sqrt(1.0 / MIN_RESOLVED_SHARE))
    return min(most, MAX_SMALL_CONDITION) if problem.traits.entries <= MAX_SMALL_ENTRIES else most


class HostScaling(NamedTuple):
    """Columns centred and scaled on the host, and what a gradient is measured by.

    Attributes
    ----------
    shift, scale, root : numpy.ndarray, shape (p,)
        The columns' means, D, and its inverse.
    unit : float
        A bound on the gradient's entries at the best constant model.
    kind : numpy.dtype
        That of the data.
    """

    shift: Any
    scale: Any
    root: Any
    unit: float
    kind: Any

    @classmethod
    def of(cls, m: RowMoments, ridge: float, kind: Any) -> HostScaling:
        """Scale; raise `NotApplicable` for columns that are constant, or lost by squaring."""
        return cls.of_columns(m, m.G.diagonal(), ridge, kind)

    @classmethod
    def of_columns(cls, m: RowMoments, variance: Any, ridge: float, kind: Any) -> HostScaling:
        """Return the same for variances (p,) of the columns; the second moments are not looked at."""
        eps = EPS64 if kind == np.float64 else EPS32
        spread = np.sqrt(variance)
        # A column that is constant but for rounding, or lost by squaring; NaN fails as well.
        if not (spread > 64.0 * eps * np.abs(m.mean)).all():
            raise NotApplicable(IRREGULAR)
        squares = float((variance + m.mean * m.mean).min()), m.yy + m.mean_y * m.mean_y
        if not (m.yy > 0.0 and min(squares) >= _min_square(m.eps)):
            raise NotApplicable(IRREGULAR)
        root = np.hypot(spread, ridge**0.5) if ridge else spread
        unit = max(math.sqrt(m.yy), rounding_share_of(kind) * abs(m.mean_y))
        return cls(m.mean, 1.0 / root, root, unit, kind)

    def hessian(self, m: RowMoments, ridge: float) -> Any:
        """Return the Hessian in these coordinates, (p, p); raise `NotApplicable` where it is not finite."""
        C = m.G * (self.scale[:, None] * self.scale)
        if ridge:
            C = C + np.diag(ridge * (self.scale * self.scale))
        if not math.isfinite(float(np.add.reduce(C, axis=None))):
            raise NotApplicable(IRREGULAR)
        return C

    def resolvable_unit(self, w: Any, b: float) -> float:
        """Return `unit`, and what the rounding of the params adds to a gradient."""
        reach = np.abs(self.shift) + self.root
        rounded = float(np.add.reduce(reach * np.abs(w))) + abs(b)
        return self.unit + rounding_share_of(self.kind) * rounded

    def round_params(self, w: Any, b: float) -> tuple[Any, float]:
        """Return parameters as the data's dtype holds them."""
        return w.astype(self.kind).astype(float), float(self.kind.type(b))

    def grad_norm(self, grad: Any, slope: float, w: Any, b: float) -> float:
        """Return the relative size of a gradient, less what rounding of the params makes of it."""
        size = max(float(np.abs(self.scale * grad).max()), abs(slope))
        return size / self.resolvable_unit(w, b)


class _Spectrum:
    """The inverse of the Hessian of few columns by its eigenvectors, which are known for the certificate too."""

    def __init__(self, C: Any, m: RowMoments, scaling: HostScaling, max_condition: float) -> None:  # noqa: ARG002
        e, V = np.linalg.eigh(C) if len(C) > 1 else (C[0], np.ones((1, 1)))
        low, high = float(e[0]), float(e[-1])
        if not low * max_condition**2 > high:
            raise NotApplicable(IRREGULAR)
        self.condition = math.sqrt(high / low)
        self.ends = low, high
        self.root = V * (1.0 / np.sqrt(e))

    def solve(self, v: Any) -> Any:
        """Multiply by the inverse."""
        return self.root @ (self.root.T @ v)


class _Inverse:
    """The inverse of the Hessian of some columns, whose norm bounds the condition; the spectrum if that is large."""

    def __init__(self, C: Any, m: RowMoments, scaling: HostScaling, max_condition: float) -> None:  # noqa: ARG002
        self.inverse = np.linalg.inv(C)
        bound = _row_sum_norm(C) * _row_sum_norm(self.inverse)
        if not bound < MAX_SINGLE_PASS_CONDITION**2:
            low, high = extreme_curvatures(C)
            if not low * max_condition**2 > high:
                raise NotApplicable(IRREGULAR)
            bound = high / low
        self.condition = math.sqrt(bound)

    def solve(self, v: Any) -> Any:
        """Multiply by the inverse."""
        return self.inverse @ v


def _row_sum_norm(A: Any) -> float:
    return float(np.add.reduce(np.abs(A), axis=1).max())


class _Factor:
    """The inverse of the Hessian of more columns by elimination, with an estimate of its condition."""

    def __init__(self, C: Any, m: RowMoments, scaling: HostScaling, max_condition: float) -> None:
        self.C = C
        # One inverse iteration on a few vectors, by the same elimination as the first step.
        probes = np.random.default_rng(0).standard_normal((len(C), PROBES))
        first = -scaling.scale * m.c
        solved = np.linalg.solve(C, np.column_stack([first, probes]))
        self.first, self.first_solved = first, solved[:, 0]
        Q, _ = np.linalg.qr(solved[:, 1:])
        low = float(np.linalg.eigvalsh(Q.T @ (C @ Q))[0])
        high = _row_sum_norm(C)
        if not low * max_condition**2 > high:
            raise NotApplicable(IRREGULAR)
        self.condition = math.sqrt(high / low)

    def solve(self, v: Any) -> Any:
        """Multiply by the inverse."""
        if np.array_equal(v, self.first):
            return self.first_solved
        return np.linalg.solve(self.C, v)


class _EvaluatedPoint(NamedTuple):
    """Params, value, and the gradient: centred, and with respect to b."""

    w: Any
    b: float
    value: float
    grad: Any
    slope: float


class DirectNormalEquations:
    """One least-squares problem whose moments the host holds."""

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
        with np.errstate(all="ignore"):  # what overflows is not finite, and the loop's to explain
            try:
                return Solution(_fit_one(rows_of(problem), problem))
            except np.linalg.LinAlgError as error:
                raise NotApplicable(IRREGULAR) from error


def _fit_one(rows: Rows, problem: LinearProblem) -> FitResult:
    ridge, intercept, kind = problem.traits.ridge, problem.intercept, rows.kind
    centred = rows.moments()
    m = centred if intercept else centred.about_zero()
    scaling = HostScaling.of(m, ridge, kind)
    C = scaling.hessian(m, ridge)
    limit = max_condition(problem, m.eps)
    inverse: _Spectrum | _Inverse | _Factor
    if len(C) <= MAX_SMALL_SPECTRUM_COLUMNS:
        inverse = _Spectrum(C, m, scaling, limit)
    else:
        kind_of_inverse = _Inverse if len(C) <= MAX_SPECTRUM_COLUMNS else _Factor
        inverse = kind_of_inverse(C, m, scaling, limit)
    # The best constant model, as the moments have it.
    start = _EvaluatedPoint(np.zeros_like(m.c), m.mean_y, 0.5 * m.yy, -m.c, 0.0)
    before = scaling.grad_norm(*_gradient_arguments(start))
    # Moments of well-conditioned columns, or in a wider dtype than the data, leave nothing to refine.
    wide = m.eps < np.finfo(kind).eps
    passes = 1 if wide or inverse.condition < MAX_SINGLE_PASS_CONDITION else 2
    point = start
    for _ in range(passes):
        step = scaling.scale * inverse.solve(scaling.scale * point.grad)
        point = _take_step(point, step, scaling, rows, ridge, intercept)
    after = scaling.grad_norm(*_gradient_arguments(point))
    if not (before > relative_tolerance(kind) >= after and math.isfinite(point.value)):
        raise NotApplicable("a step that does not lead to the minimum")
    jac = point.grad + scaling.shift * point.slope if intercept else point.grad
    end = point._replace(grad=jac)
    certificate = _certificate(after, C, inverse, centred, problem, end, kind)
    return _direct_result(start, end, (before, after), passes, certificate, rows, problem)


def _gradient_arguments(point: _EvaluatedPoint) -> tuple[Any, float, Any, float]:
    return point.grad, point.slope, point.w, point.b


def _take_step(
    point: _EvaluatedPoint,
    step: Any,
    scaling: HostScaling,
    rows: Rows,
    ridge: float,
    intercept: bool,
) -> _EvaluatedPoint:
    """Step, and look at the data."""
    w, b = point.w - step, point.b
    if intercept:
        b = b - point.slope + float(np.add.reduce(scaling.shift * step))
    if scaling.kind != np.float64:  # evaluate the point that is returned
        w, b = scaling.round_params(w, b)
    value, grad, slope = rows.evaluate(w, b, intercept)
    if ridge:
        value, grad = value + 0.5 * ridge * float(np.add.reduce(w * w)), grad + ridge * w
    return _EvaluatedPoint(w, b, value, grad - scaling.shift * slope if intercept else grad, slope)


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


def _certificate(
    size: float,
    C: Any,
    inverse: Any,
    m: RowMoments,
    problem: LinearProblem,
    end: _EvaluatedPoint,
    kind: Any,
) -> Certificate:
    """Say what is known of the end; of many columns the curvatures are computed when they are asked for."""
    tolerance = relative_tolerance(kind)
    if isinstance(inverse, _Factor):
        return Deferred(size, tolerance, ends=functools.partial(extreme_curvatures, C))
    bound = functools.partial(
        _bound_by_moments,
        m,
        problem.traits.ridge,
        problem.intercept,
        end,
        float(np.finfo(kind).eps),
    )
    if isinstance(inverse, _Inverse):
        ends = functools.partial(extreme_curvatures, C)
        return Deferred(size, tolerance, ends=ends, distance_bound=bound)
    low, high = inverse.ends
    return Deferred(
        size, tolerance, curvature=high, largest_step=2.0 / high,
        least_curvature=low, condition=high / low, source="Hessian", distance_bound=bound,
    )  # fmt: skip


def _bound_by_moments(
    m: RowMoments, ridge: float, intercept: bool, end: _EvaluatedPoint, eps: float
) -> float | None:
    """Return a bound on the distance to the minimum, from the least curvature in the user's coordinates."""
    least = _least_eigenvalue(m, ridge, intercept)
    if not least > 0.0:
        return None
    # Even where the gradient is 0 the point is a rounded one.
    largest = max(float(np.abs(end.w).max()), abs(end.b))
    return math.hypot(*end.grad.tolist(), end.slope) / least + eps * largest


def extreme_curvatures(C: Any) -> tuple[float, float]:
    """Return the least and the largest curvature of one problem."""
    e = np.linalg.eigvalsh(C)
    return float(e[0]), float(e[-1])


def _direct_result(
    start: _EvaluatedPoint,
    end: _EvaluatedPoint,
    sizes: tuple[float, float],
    passes: int,
    certificate: Certificate,
    rows: Rows,
    problem: LinearProblem,
) -> FitResult:
    calls, largest, intercept = 1 + passes, float(np.abs(end.w).max()), problem.intercept
    size = max(largest, abs(end.b))
    moved = max(largest, abs(end.b - start.b)) / (size or 1.0)
    history = History(
        np.asarray([0, 1]), np.asarray([start.value, end.value]), np.asarray(sizes),
        np.asarray([0.0, moved]), np.asarray([1, calls]),
    )  # fmt: skip
    x = rows.params(end.w, end.b, intercept)
    return FitResult(
        x=x, fun=end.value, jac=rows.params(end.grad, end.slope, intercept),
        nit=1, nfev=calls, njev=calls, status=Status.CONVERGED, success=True, message=CONVERGED_MESSAGE,
        # The moments and each evaluation are read, and before them what tells of the weights.
        history=history, n_sync=calls + (problem.data.weight is not None), method=METHOD_NAME,
        certificate=certificate, coef=x.coef, intercept=x.intercept, loss=problem.loss, classes=None,
        n_passes=rows.n_passes, solver=problem.solver,
    )  # fmt: skip


MAX_PIECE_ENTRIES = (
    2**17
)  # numbers of X in a piece: 1 MiB, and as much for the centred columns (measured)
MAX_BATCHED_COLUMNS = 16  # with more the factors cost more than what is saved


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
    """Many small least-squares problems in one X (b, n, p), each of at most 16 columns."""

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
        X, weight = problem.data.X, problem.data.weight
        if backends.dtype_name(X.dtype) != "float64" or weight is not None or X.ndim != 3:
            raise NotApplicable("one unweighted batch in double precision is needed")
        fit = functools.partial(_fit_problems, problem.traits.ridge, problem.intercept)
        try:
            with np.errstate(
                all="ignore"
            ):  # what overflows is not finite, and the loop's to explain
                if not problem.traits.numpy:
                    rows = ResidentRows(problem)
                    return Solution(_batched_result(fit(rows), rows.params, problem))
                fits = _fit_pieces(fit, X, problem.data.y)
                return Solution(_batched_result(fits, _as_params, problem))
        except np.linalg.LinAlgError as error:
            raise NotApplicable("a singular problem") from error


def _fit_pieces(fit: Callable[[Any], _BatchedFits], X: Any, y: Any) -> _BatchedFits:
    """Fit some problems of NumPy arrays at a time, which threads share."""
    each = max(1, MAX_PIECE_ENTRIES // X[0].size)
    pieces = [HostProblems(X[i : i + each], y[i : i + each]) for i in range(0, len(X), each)]
    parts = parallel_map(fit, pieces, min(thread_count(), len(pieces)))
    return _BatchedFits(*map(np.concatenate, zip(*parts, strict=True)))


class HostProblems:
    """Some problems of NumPy arrays in double precision, at once."""

    def __init__(self, X: Any, y: Any) -> None:
        self.X, self.y = X, y

    def moments(self) -> RowMoments:
        """Return the moments of each."""
        self.X, self.y = (np.ascontiguousarray(part) for part in (self.X, self.y))
        X, y, n = self.X, self.y, self.y.shape[-1]
        ones = np.ones(n)
        mean, mean_y = ones @ X / n, np.add.reduce(y, axis=-1) / n
        d, e = X - mean[:, None, :], y - mean_y[:, None]
        # What rounding took from the means.
        rest, rest_y = ones @ d / n, np.add.reduce(e, axis=-1) / n
        # Of two arrays a small product is sooner found than of one, whose symmetry BLAS would look for.
        G = d.transpose(0, 2, 1) @ d.copy() / n - rest[:, :, None] * rest[:, None, :]
        c = (e[:, None, :] @ d)[:, 0] / n - rest * rest_y[:, None]
        yy = np.einsum("bn,bn->b", e, e) / n - rest_y * rest_y
        return RowMoments(mean + rest, mean_y + rest_y, G, c, yy)

    def evaluate(self, w: Any, b: Any, intercept: bool) -> DataGradient:
        """Return the mean losses and their gradients at a point of each."""
        n = self.y.shape[-1]
        r = (self.X @ w[:, :, None])[:, :, 0] + (b[:, None] - self.y)
        value, grad = 0.5 * np.einsum("bn,bn->b", r, r) / n, (r[:, None, :] @ self.X)[:, 0] / n
        return DataGradient(value, grad, np.add.reduce(r, axis=-1) / n if intercept else 0.0 * b)


def _as_params(w: Any, b: Any, intercept: bool) -> Params:
    return Params(w, b if intercept else None)


def _fit_problems(ridge: float, intercept: bool, rows: Any) -> _BatchedFits:
    m = rows.moments()
    m = m if intercept else m.about_zero()
    whitening = _batched_whitening(m, ridge)
    zero = np.zeros_like(m.mean_y)
    start = _BatchedPoint(np.zeros_like(m.c), m.mean_y, 0.5 * m.yy, -m.c, zero)
    end = _take_batched_step(start, whitening, rows, ridge, intercept)
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


def _batched_whitening(m: RowMoments, ridge: float) -> _BatchedWhitening:
    p = m.c.shape[-1]
    variance = np.diagonal(m.G, axis1=-2, axis2=-1)
    spread = np.sqrt(variance)
    # A column that is constant but for rounding, or lost by squaring; NaN fails as well.
    regular = (spread > 64.0 * EPS64 * np.abs(m.mean)) & (
        variance + m.mean**2 >= _min_square(EPS64)
    )
    if not (regular.all() and ((m.yy > 0.0) & (m.yy + m.mean_y**2 >= _min_square(EPS64))).all()):
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
    rows: Any,
    ridge: float,
    intercept: bool,
) -> _BatchedPoint:
    """Step, and look at the data."""
    scaled = (whitening.scale * point.grad)[:, :, None]
    step = whitening.scale * (whitening.inverse @ scaled)[:, :, 0]
    w, b = point.w - step, point.b
    if intercept:
        b = b - point.slope + (whitening.shift * step).sum(axis=-1)
    value, grad, slope = rows.evaluate(w, b, intercept)
    if ridge:
        value, grad = value + 0.5 * ridge * (w * w).sum(axis=-1), grad + ridge * w
    return _BatchedPoint(w, b, value, grad - whitening.shift * slope[:, None], slope)


def _batched_grad_norm(point: _BatchedPoint, whitening: _BatchedWhitening) -> Any:
    """Return the relative size of a gradient, less what rounding of the params makes of it."""
    size = np.maximum(np.abs(whitening.scale * point.grad).max(axis=-1), np.abs(point.slope))
    reach = np.abs(whitening.shift) + whitening.root
    rounded = (reach * np.abs(point.w)).sum(axis=-1) + np.abs(point.b)
    return size / (whitening.unit + ROUNDING_SHARE * rounded)


def extreme_curvatures_of_each(C: Any) -> tuple[Any, Any]:
    """Return the least and the largest curvature of each problem."""
    e = np.linalg.eigh(C)[0]
    return e[:, 0], e[:, -1]


def _batched_result(
    fits: _BatchedFits, params: Callable[..., Params], problem: LinearProblem
) -> FitResult:
    count, intercept = len(fits.value), problem.intercept
    one = np.ones(count, dtype=int)
    x = params(fits.w, fits.b, intercept)
    history = History(
        np.asarray([0, 1]), np.stack([fits.first, fits.value]), np.stack([fits.before, fits.after]),
        np.stack([np.zeros(count), fits.moved]), np.stack([one, 2 * one]),
    )  # fmt: skip
    return FitResult(
        x=x, fun=fits.value, jac=params(fits.jac, fits.slope, intercept),
        nit=one, nfev=2 * one, njev=2 * one,
        status=np.full(count, int(Status.CONVERGED)), success=np.ones(count, dtype=bool),
        message=f"{count} of {count} {Status.CONVERGED.advice}",
        history=history, n_sync=2, method=METHOD_NAME,
        certificate=Deferred(fits.after, GRADIENT_TOLERANCE, ends=functools.partial(extreme_curvatures_of_each, fits.C)),
        coef=x.coef, intercept=x.intercept, loss=problem.loss, classes=None, solver=problem.solver,
    )  # fmt: skip


def converged_result(
    rows: Rows,
    problem: LinearProblem,
    method: str,
    point: tuple[Any, float],
    data: DataGradient,
    log: list[StepRecord],
    certificate: Certificate,
    counts: tuple[int, int, int],
) -> FitResult:
    """Return the result of a run that has converged.

    Parameters
    ----------
    rows : Rows
        The data.
    problem : LinearProblem
        The problem.
    method : str
        What the result calls the method.
    point : tuple of numpy.ndarray and float
        Coefficients and intercept.
    data : DataGradient
        The objective there, and the gradient of its smooth part.
    log : list of StepRecord
        The course of the run.
    certificate : Certificate
        What is known of the point.
    counts : tuple of int
        Steps, evaluations and reads.
    """
    intercept, (nit, nfev, reads) = problem.intercept, counts
    x = rows.params(*point, intercept)
    return FitResult(
        x=x, fun=data.value, jac=rows.params(data.coef, data.intercept, intercept), nit=nit, nfev=nfev, njev=nfev,
        status=Status.CONVERGED, success=True, message=Status.CONVERGED.message(nit),
        history=step_history(log), n_sync=reads + (problem.data.weight is not None), method=method,
        certificate=certificate, coef=x.coef, intercept=x.intercept, loss=problem.loss, classes=None,
        n_passes=rows.n_passes, solver=problem.solver,
    )  # fmt: skip


def step_history(log: list[StepRecord]) -> History:
    """Return the history of a run that evaluates once a step."""
    value, size, moved = np.asarray(log).T
    nit = np.arange(len(log))
    return History(nit, value, size, moved, 1 + nit)


def column_moments(problem: LinearProblem) -> tuple[RowMoments, Any]:
    """Return means, variances and the like of NumPy arrays, without products of columns."""
    X, y, weight = problem.data
    weight = np.ones(len(y)) if weight is None else weight.astype(np.float64)
    total = float(np.add.reduce(weight))
    y = y.astype(np.float64, copy=False)
    mean, mean_y = weight @ X / total, float(weight @ y) / total
    if not problem.intercept:
        mean, mean_y = np.zeros_like(mean), 0.0
    d, e = X - mean, y - mean_y
    variance, yy = weight @ (d * d) / total, float(weight @ (e * e)) / total
    return RowMoments(mean, mean_y, None, None, yy), variance


DUAL_FORM_NAME = "normal equations of the rows"
# Rows of a larger condition number are left to the factorisation of X itself, which does not square it.
MAX_DUAL_CONDITION = 1e3
MAX_DUAL_STEPS = 3


class DualNormalEquations:
    """One least-squares problem in NumPy arrays, with fewer rows than columns."""

    def fit(self, problem: LinearProblem) -> Solution:
        """Fit by one or two solutions of the normal equations in dual form.

        Parameters
        ----------
        problem : LinearProblem
            One problem of the squared loss, with no penalty or `L2`.

        Returns
        -------
        Solution
            The complete result; without a penalty it is the shortest answer, with a warning that there are others.

        Raises
        ------
        NotApplicable
            For columns that are constant or of extreme size, rows that are dependent or badly conditioned, and a
            step that does not lead to the minimum.

        Notes
        -----
        Saunders, Gammerman and Vovk (1998), "Ridge regression learning algorithm in dual variables".
        """
        with np.errstate(all="ignore"):
            try:
                result = _fit_rows(rows_of(problem), problem)
            except np.linalg.LinAlgError as error:
                raise NotApplicable("rows that are dependent or badly conditioned") from error
        if problem.traits.ridge > 0.0:
            return Solution(result)
        n, p = problem.data.X.shape
        rank = f"{n} of {p + problem.intercept}"
        warning = rank_deficiency(rank, intercept=problem.intercept, choice="the shortest")
        return Solution(result, warning=warning)


class _DualSystem:
    """The matrix of the dual equations; what it solves for lies in the span of the rows."""

    def __init__(self, problem: LinearProblem, m: RowMoments) -> None:
        X, y, weight = problem.data
        share = np.ones(len(y)) if weight is None else weight.astype(np.float64)
        self.root = np.sqrt(share / np.add.reduce(share))
        self.ridge = problem.traits.ridge
        self.Z = (X - m.mean) * self.root[:, None]
        self.K = self.Z @ self.Z.T
        if self.ridge:
            self.K.flat[:: len(y) + 1] += self.ridge
            return
        if problem.intercept:
            # The centred rows vanish in one direction, in which any curvature leaves the answer as it is.
            self.K += float(np.trace(self.K)) / len(y) * self.root[:, None] * self.root
        e = np.linalg.eigvalsh(self.K)
        if not e[0] * MAX_DUAL_CONDITION**2 > e[-1]:
            raise NotApplicable("rows that are dependent or badly conditioned")

    def solve_targets(self, e: Any) -> Any:
        """Return w for targets less their mean."""
        step: Any = self.Z.T @ np.linalg.solve(self.K, self.root * e)
        return step

    def solve_gradient(self, grad: Any) -> Any:
        """Return the Newton step down a gradient in the span of the rows."""
        product = np.linalg.solve(self.K, self.Z @ grad)
        if self.ridge:
            return (grad - self.Z.T @ product) / self.ridge
        return self.Z.T @ np.linalg.solve(self.K, product)


def _fit_rows(rows: Rows, problem: LinearProblem) -> FitResult:
    intercept, ridge, y = problem.intercept, problem.traits.ridge, problem.data.y
    m, variance = column_moments(problem)
    scaling = HostScaling.of_columns(m, variance, ridge, rows.kind)
    tolerance, system = relative_tolerance(rows.kind), _DualSystem(problem, m)
    w, b, moved = np.zeros_like(m.mean), m.mean_y, 0.0
    log: list[StepRecord] = []
    for steps in range(MAX_DUAL_STEPS + 1):
        w, b = scaling.round_params(w, b)
        data = rows.evaluate(w, b, intercept)
        data = data._replace(
            value=data.value + 0.5 * ridge * float(w @ w), coef=data.coef + ridge * w
        )
        grad = data.coef - scaling.shift * data.intercept
        size = scaling.grad_norm(grad, data.intercept, w, b)
        log.append(StepRecord(data.value, size, moved))
        if steps and size <= tolerance:
            counts = steps, 1 + steps, 1 + steps
            return converged_result(
                rows,
                problem,
                DUAL_FORM_NAME,
                (w, b),
                data,
                log,
                Certificate(size, tolerance),
                counts,
            )
        step = -system.solve_gradient(grad) if steps else system.solve_targets(y - m.mean_y)
        w = w + step
        moved = float(np.abs(step).max()) / (float(np.abs(w).max()) or 1.0)
        if intercept:
            b = b - data.intercept - float(scaling.shift @ step)
    raise NotApplicable("a step that does not lead to the minimum")
