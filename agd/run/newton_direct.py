"""Newton's method for one small problem of NumPy arrays, without a loop over compiled steps.

The rows are centred and scaled once, beside a column of ones, and every step is a few operations of NumPy. The
formulas are those of `agd.update.newton.Newton` and, for penalties that act entry by entry, those of
`agd.update.proximal_newton.ProximalNewton`. Whatever does not go well, such as a fit without a minimum, is
`NotApplicable`, and left to these.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from agd._typing import HostArray, NotApplicable, Params
from agd.gradient.linear import LinearObjective
from agd.gradient.preconditioner import rounding_share
from agd.loss.penalties import ridge_strength
from agd.run.certificate import Deferred
from agd.run.linear_problem import LinearProblem, Revealed, Solution
from agd.run.normal_equations import extreme_curvatures, relative_tolerance
from agd.run.result import FitResult, Status
from agd.run.semismooth_newton import StepRecord, step_history
from agd.update.newton import (
    DAMPING_DECAY,
    DAMPING_GROWTH,
    DIAGONAL_NOISE_EPS,
    MAX_GRADIENT_RATIO,
    MIN_CURVATURE_RATIO,
    MIN_DAMPING,
    MIN_DECREASE_SHARE,
    VALUE_NOISE_EPS,
    Newton,
)
from agd.update.proximal_newton import EPS64, HostPoint, ProximalNewton

__all__ = ["DirectNewton"]

# Without a minimum the gradient shrinks by a factor of e a step, which does not bring it to the tolerance in as many.
MAX_STEPS, MAX_STEPS_SINGLE = 14, 8
# The least curvature at the end as a share of that at the start: where less is left there may be no minimum.
MIN_CURVATURE_SHARE = 1e-3


class DirectNewton:
    """One problem of NumPy arrays with a smooth loss, and no penalty, `L2` or one that acts entry by entry."""

    def fit(self, problem: LinearProblem) -> Solution:
        """Fit by Newton steps.

        Parameters
        ----------
        problem : LinearProblem
            One problem of a few rows and columns, with default settings.

        Returns
        -------
        Solution
            The complete result.

        Raises
        ------
        NotApplicable
            For columns that are constant or nearly dependent, values that are not finite, and steps that do not
            lead to a minimum.
        """
        if not problem.penalty_fits_dtype:
            raise NotApplicable("a penalty that the dtype of X cannot hold")
        base = problem.check_values(Revealed.X)
        with np.errstate(all="ignore"):
            rows, tolerance = (
                _ScaledRows.of(base),
                relative_tolerance(np.dtype(problem.resident.dtype)),
            )
            if len(rows.y) >= len(rows.mean) or base.nonsmooth:
                run = _iterate(rows, tolerance)
                params, grads = (
                    rows.user_params(run.point.at.x),
                    rows.user_gradient(run.point.at.grad),
                )
            else:
                run, params, grads = _fit_in_span_of_rows(rows, tolerance)
            return Solution(_result(problem, run, params, grads, tolerance))


class _ScaledRows(NamedTuple):
    """The rows in centred and scaled coordinates on the host, in double precision.

    Attributes
    ----------
    base : LinearObjective
        Loss and penalty.
    Z : numpy.ndarray, shape (n, d)
        The centred and scaled columns, and one of constants for the intercept.
    y, weight, total : numpy.ndarray
        Targets, weights or None, and the sum of the weights.
    mean, scale : numpy.ndarray, shapes (p,), (d,)
        What the columns were centred by, and multiplied with.
    unit : float
        A bound on the entries of the gradient at the best constant model.
    null : float
        That model, in these coordinates.
    width : float
        The factor of the intercept.
    """

    base: LinearObjective
    Z: HostArray
    y: HostArray
    weight: HostArray | None
    total: float
    mean: HostArray
    scale: HostArray
    unit: float
    null: float
    width: float

    @classmethod
    def of(cls, base: LinearObjective) -> _ScaledRows:
        """Centre and scale as `agd.gradient.column_scaling` does; raise `NotApplicable` for constant columns."""
        parts: Any = [
            None if part is None else part.astype(np.float64, copy=False) for part in base.blocks
        ]
        X, y, weight = parts
        n, p = X.shape
        share = np.full(n, 1.0 / n) if weight is None else weight / np.add.reduce(weight)
        mean = share @ X if base.intercept else np.zeros(p)
        d = X - mean if base.intercept else X
        variance = share @ (d * d) - (share @ d) ** 2 * base.intercept
        spread = np.sqrt(variance)
        eps = float(np.finfo(base.blocks.X.dtype).eps)
        if not (spread > 64.0 * eps * np.abs(mean)).all():
            raise NotApplicable("columns that are constant, or not finite")
        loss: Any = base.loss
        at = float(loss.null_model(np.asarray(share @ y))) if base.intercept else 0.0
        z = np.full(n, float(at))
        slope = loss.gradient(z, y)
        moved = loss.gradient(z + rounding_share(base.blocks.X) * z, y) - slope
        rms = math.sqrt(max(share @ slope**2, share @ moved**2))
        bound = loss.curvature_bound
        kappa = bound if bound is not None else float(share @ loss.hessian(z, y))
        if not (kappa > 0.0 and 0.0 < rms < math.inf):
            raise NotApplicable("a best constant model that is the minimum")
        alpha = ridge_strength(base.penalty)
        scale = 1.0 / np.hypot(math.sqrt(kappa) * spread, math.sqrt(alpha))
        width = 1.0 / math.sqrt(kappa)
        Z = np.empty((n, p + base.intercept))
        np.multiply(d, scale, out=Z[:, :p])
        Z[:, p:] = width
        total = float(n) if weight is None else float(np.add.reduce(weight))
        full = np.append(scale, width) if base.intercept else scale
        return cls(base, Z, y, weight, total, mean, full, rms * width, at / width, width)

    def second_order(self, x: HostArray, ridge: HostArray) -> tuple[float, HostArray, HostArray]:
        """Return value, gradient and Hessian, with a quadratic penalty of these curvatures."""
        loss: Any = self.base.loss
        value, slope, h = loss.value_gradient_and_hessian(self.Z @ x, self.y)
        h = np.maximum(h, 0.0)
        if self.weight is not None:
            value, slope, h = value * self.weight, slope * self.weight, h * self.weight
        rows = self.Z * np.sqrt(h)[:, None]
        grad, hessian = slope @ self.Z / self.total, rows.T @ rows / self.total
        f = float(np.add.reduce(value)) / self.total + 0.5 * float(ridge @ (x * x))
        hessian.flat[:: len(x) + 1] += ridge
        return f, grad + ridge * x, hessian

    def user_params(self, x: HostArray) -> tuple[HostArray, Any]:
        """Return the coefficients and the intercept, or None."""
        w = self.scale[: len(self.mean)] * x[: len(self.mean)]
        if not self.base.intercept:
            return w, None
        return w, np.asarray(self.scale[-1] * x[-1] - self.mean @ w)

    def user_gradient(self, g: HostArray) -> tuple[HostArray, Any]:
        """Return the gradient with respect to them."""
        p = len(self.mean)
        if not self.base.intercept:
            return g / self.scale, None
        slope = g[p] / self.scale[p]
        return g[:p] / self.scale[:p] + self.mean * slope, np.asarray(slope)


class _Point(NamedTuple):
    """A point of a run: what was evaluated there, and the size of its residual."""

    at: HostPoint
    size: float


def _evaluate(rows: _ScaledRows, x: HostArray, ridge: HostArray) -> _Point:
    """Evaluate a point; the residual is the gradient, or x - prox(x - g, 1) where the penalty has a prox."""
    value, g, H = rows.second_order(x, ridge)
    penalty: Any = rows.base.penalty
    p, residual, added = len(rows.mean), g, 0.0
    if penalty is not None and not penalty.smooth:
        scale = rows.scale[:p]
        near: HostArray = penalty.prox(scale * (x - g)[:p], scale**2)
        residual = np.append(x[:p] - near / scale, g[p:])
        added = float(penalty.value(scale * x[:p]))
    point = HostPoint(x, g, H, value + added, added, residual)
    return _Point(point, float(np.abs(residual).max()) / rows.unit)


class _DirectRun(NamedTuple):
    """How the steps ended: the last point, the history, and how many points were evaluated."""

    point: _Point
    log: list[StepRecord]
    evaluations: int


def _fit_in_span_of_rows(rows: _ScaledRows, tolerance: float) -> tuple[_DirectRun, Any, Any]:
    """Fit more columns than rows with a ridge: w lies in the span of the centred rows, d = R' Q'.

    The coefficients of an orthonormal basis Q of that span have the same ridge, so that no (p, p) matrix is made.
    """
    p, alpha = len(rows.mean), ridge_strength(rows.base.penalty)
    Q, R = np.linalg.qr((rows.Z[:, :p] / rows.scale[:p]).T)
    T = np.ascontiguousarray(R.T)
    share = 1.0 / rows.total if rows.weight is None else rows.weight[:, None] / rows.total
    spread = np.sqrt(np.add.reduce(share * (T * T), axis=0))
    scale = 1.0 / np.hypot(spread / rows.width, math.sqrt(alpha))
    constant = np.full((len(T), rows.Z.shape[1] - p), rows.width)
    full = np.append(scale, rows.scale[p:])
    reduced = rows._replace(
        Z=np.concatenate([T * scale, constant], axis=1), mean=np.zeros(len(scale)), scale=full
    )
    run = _iterate(reduced, 0.1 * tolerance)
    (u, c), (g, slope) = (
        reduced.user_params(run.point.at.x),
        reduced.user_gradient(run.point.at.grad),
    )
    w, grad = Q @ u, Q @ g
    size = float(np.abs(rows.scale[:p] * grad).max())
    if slope is not None:
        size = max(size, abs(float(slope)) * rows.width)
        c, grad = c - rows.mean @ w, grad + rows.mean * slope
    if not size <= tolerance * rows.unit:
        raise NotApplicable("a gradient that is not as small in the columns as in the rows")
    return run._replace(point=run.point._replace(size=size / rows.unit)), (w, c), (grad, slope)


def _iterate(rows: _ScaledRows, tolerance: float) -> _DirectRun:
    """Take Newton steps until the residual is within the tolerance."""
    penalty: Any = rows.base.penalty
    p, d, nonsmooth = len(rows.mean), rows.Z.shape[1], rows.base.nonsmooth
    scale, kind = rows.scale[:p], np.dtype(rows.base.blocks.X.dtype)
    ridge = np.zeros(d)
    if not nonsmooth:
        ridge[:p] = ridge_strength(penalty) * scale**2
    x = np.zeros(d)
    x[p:] = rows.null
    if nonsmooth:
        x[:p] = penalty.prox(0.0 * scale, 0.0 * scale) / scale
    point = _evaluate(rows, x, ridge)
    first = np.linalg.eigvalsh(point.at.hessian) if math.isfinite(point.size) else np.zeros(d)
    if not (nonsmooth or first[0] > MIN_CURVATURE_RATIO * first[-1]):
        raise NotApplicable("columns that are nearly dependent, or values that are not finite")
    log, evaluations, damping = [StepRecord(point.at.value, point.size, math.nan)], 1, 0.0
    most = MAX_STEPS if kind == np.float64 else MAX_STEPS_SINGLE
    while not point.size <= tolerance:
        if evaluations > 2 * most or len(log) > most or not math.isfinite(point.size):
            raise NotApplicable("steps that do not lead to a minimum")
        rounding = DIAGONAL_NOISE_EPS * d * EPS64 * float(point.at.hessian.diagonal().max())
        if nonsmooth:
            new_x = point.at.model_minimum(scale, penalty, damping + rounding)
        else:
            damped = point.at.hessian.copy()
            damped.flat[:: d + 1] += damping + rounding
            new_x = point.at.x - np.linalg.solve(damped, point.at.grad)
        new, evaluations = _evaluate(rows, new_x, ridge), evaluations + 1
        if not _descends(point, new):
            damping = DAMPING_GROWTH * damping + MIN_DAMPING
            continue
        damping = damping / DAMPING_DECAY if damping > MIN_DAMPING / DAMPING_DECAY else 0.0
        moved = float(np.abs(new_x - point.at.x).max()) / (float(np.abs(new_x).max()) or 1.0)
        point = new
        log.append(StepRecord(point.at.value, point.size, moved))
    if (
        penalty is None
        and not np.linalg.eigvalsh(point.at.hessian)[0] > MIN_CURVATURE_SHARE * first[0]
    ):
        raise NotApplicable("a curvature that vanishes, as where there is no minimum")
    return _DirectRun(point, log, evaluations)


def _descends(old: _Point, new: _Point) -> bool:
    """Return whether a step lowers the value enough, or the residual where rounding hides that."""
    change = float((new.at.x - old.at.x) @ old.at.grad) + new.at.penalty - old.at.penalty
    noise = VALUE_NOISE_EPS * EPS64 * abs(old.at.value)
    enough = new.at.value <= old.at.value + MIN_DECREASE_SHARE * change
    hidden = abs(new.at.value - old.at.value) <= noise or abs(change) <= noise
    return enough or (hidden and new.size <= MAX_GRADIENT_RATIO * old.size)


def _result(
    problem: LinearProblem, run: _DirectRun, user_params: Any, user_gradient: Any, tolerance: float
) -> FitResult:
    """Put together the result of a run that has converged."""
    kind, penalty = problem.resident.dtype, problem.penalty
    nonsmooth = penalty is not None and not penalty.smooth
    (w, b), (point, log, evaluations) = user_params, run
    if nonsmooth:
        w = penalty.prox(w, 0.0 * w)  # type: ignore[union-attr] # the nearest point that is allowed

    def params(coef: HostArray, intercept: Any) -> Params:
        constant: Any = None if intercept is None else np.asarray(intercept, dtype=kind)
        return Params(coef.astype(kind, copy=False), constant)

    x, jac = params(w, b), params(*user_gradient)
    nit = len(log) - 1
    whole = len(point.at.x) >= len(w)  # in the span of the rows the other curvatures are not known
    ends = functools.partial(extreme_curvatures, point.at.hessian) if whole else None
    method = ProximalNewton() if nonsmooth else Newton()
    return FitResult(
        x=x, fun=point.at.value, jac=jac, nit=nit, nfev=evaluations, njev=evaluations,
        status=Status.CONVERGED, success=True, message=Status.CONVERGED.message(nit),
        history=step_history(log), n_sync=1 + evaluations, method=method.name + ("" if whole else " on the rows"),
        certificate=Deferred(point.size, tolerance, ends=ends),
        coef=x.coef, intercept=x.intercept, loss=problem.loss, classes=problem.screened_data.classes,
        n_passes=None, solver=problem.solver,
    )  # fmt: skip
