"""Newton's method for one small problem of NumPy arrays, without a loop over compiled steps.

The rows are centred once, beside a column of ones, and every step is a few operations of NumPy. The formulas are
those of `agd.update.newton.Newton` and, for penalties that act entry by entry, those of
`agd.update.proximal_newton.ProximalNewton`. A Hessian that is dear beside an evaluation serves several steps, each
of which corrects its inverse (L-BFGS). Whatever does not go well, such as a fit without a minimum, is
`NotApplicable`, and left to these.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from agd._typing import HostArray, NotApplicable, Params
from agd.gradient.linear import LinearObjective
from agd.gradient.preconditioner import rounding_share
from agd.loss.base import entries_like
from agd.loss.penalties import ridge_curvatures, ridge_strength
from agd.run.certificate import Deferred
from agd.run.linear_problem import LinearProblem, Revealed, Solution
from agd.run.normal_equations import extreme_curvatures, relative_tolerance
from agd.run.result import FitResult, Status
from agd.run.semismooth_newton import step_history
from agd.update.active_set import StepRecord
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

__all__ = ["DirectNewton", "evaluation_cost", "hessian_cost", "newton_cost", "steps_for_hessian"]

# Without a minimum the gradient shrinks by a factor of e a step, which does not bring it to the tolerance in as many.
MAX_STEPS, MAX_STEPS_SINGLE = 14, 8
# More damping than this leaves no step.
MAX_DAMPING = 1e12
# Steps where a ridge makes sure of a minimum.
MAX_RIDGE_STEPS = 60
# The least curvature at the end as a share of that at the start: where less is left there may be no minimum.
MIN_CURVATURE_SHARE = 1e-3
# Parameters of all outputs together, whose Hessian is one matrix, and entries of X times the pairs of outputs, up to
# which it is sooner than L-BFGS (measured: a third of the time at 500,000, 1.4 times at 5,000,000).
MAX_OUTPUT_PARAMETERS, MAX_OUTPUT_ENTRIES = 400, 2**21
# The inverse of a triangular matrix of more rows is put together from those of its halves.
MAX_INVERTED_ROWS = 32
# Equal curvatures, those of most losses at a constant model, spare the scaling of the rows where these are many.
MIN_ROWS_OF_PRODUCT = 500
# What an evaluation takes, and what a Hessian and its factor take besides, in microseconds on one processor
# (measured): for each call, row, entry of X, product of two entries of a row, which short rows pay as if they had
# some columns more, and product of three in the factor. Then the same of a whole fit beside its steps.
EVALUATION_COST = {"call": 30.0, "row": 6e-3, "entry": 3e-4}
HESSIAN_COST = {"call": 15.0, "entry": 4e-4, "product": 1.9e-5, "columns": 30, "factor": 3e-5}
FIT_COST = {"call": 400.0, "entry": 1.6e-3}
# Evaluations and Hessians of a fit, by the steps that a Hessian serves.
COUNTS_OF_FIT = {1: (6, 5), 3: (8, 3), 6: (9, 3)}


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
        if base.outputs is not None:
            _check_outputs(problem, base)
        with np.errstate(all="ignore"):
            rows = _ScaledRows.of(base)
            tolerance = relative_tolerance(np.dtype(problem.resident.dtype))
            if len(rows.y) < len(rows.mean) and not base.nonsmooth:
                run, params, grads = _fit_in_span_of_rows(rows, tolerance)
            else:
                iterate = _iterate_proximal if base.nonsmooth else _iterate
                run = iterate(rows, tolerance)
                params = rows.user_params(run.point.x)
                grads = rows.user_gradient(run.point.grad)
            return Solution(_result(problem, run, params, grads, tolerance))


def _check_outputs(problem: LinearProblem, base: LinearObjective) -> None:
    """Raise `NotApplicable` where the matrices of several outputs are large, or the user's own."""
    k = int(base.outputs or 1)
    parameters = k * (problem.data.X.shape[-1] + problem.intercept)
    large = parameters > MAX_OUTPUT_PARAMETERS or problem.data.X.size * k**2 > MAX_OUTPUT_ENTRIES
    if large or base.loss.user_defined:
        raise NotApplicable(
            "many parameters of all outputs, or a matrix of curvatures that may be wrong"
        )


class _ScaledRows(NamedTuple):
    """The rows in centred and scaled coordinates on the host, in double precision.

    Attributes
    ----------
    base : LinearObjective
        Loss and penalty.
    Z : numpy.ndarray, shape (n, d)
        The centred columns, and one of ones for the intercept.
    work : numpy.ndarray, shape (n, d)
        Memory that is written anew for every Hessian: new memory would cost more than the product. Without rows
        where the Hessians are those in the span of the rows.
    y, share : numpy.ndarray, shape (n,)
        Targets, and the weights over their sum; None for rows that weigh the same.
    mean, scale : numpy.ndarray, shapes (p,), (d,)
        What the columns were centred by, and the factors between these coordinates and those of Z.
    unit : float
        A bound on the entries of the gradient at the best constant model.
    null : numpy.ndarray, shape () or (k,)
        That model, as a predictor.
    """

    base: LinearObjective
    Z: HostArray
    work: HostArray
    y: HostArray
    share: HostArray | None
    mean: HostArray
    scale: HostArray
    unit: float
    null: Any

    @classmethod
    def of(cls, base: LinearObjective) -> _ScaledRows:
        """Centre and scale as `agd.gradient.column_scaling` does; raise `NotApplicable` for constant columns."""
        pairs = np.complex128 if base.blocks.has_offset else np.float64
        kinds = (np.float64, pairs, np.float64)
        parts: Any = [
            None if part is None else part.astype(kind, copy=False)
            for part, kind in zip(base.blocks, kinds, strict=True)
        ]
        X, y, weight = parts
        n, p = X.shape
        share = None if weight is None else weight / np.add.reduce(weight)
        mean = _mean_of_rows(share, X) if base.intercept else np.zeros(p)
        # One piece of memory: two would be given back to the system after each fit, and be dear to have again.
        in_span = n < p and not base.nonsmooth
        memory = np.empty((n if in_span else 2 * n, p + base.intercept))
        Z, work = memory[:n], memory[n:]
        np.subtract(X, mean, out=Z[:, :p])
        Z[:, p:] = 1.0
        if in_span:
            variance = np.einsum("ij,ij->j", Z, Z if share is None else share[:, None] * Z)[:p]
            variance = variance / n if share is None else variance
        else:
            variance = _mean_of_rows(share, np.square(Z, out=work))[:p]
        spread = np.sqrt(variance)
        eps = float(np.finfo(base.blocks.X.dtype).eps)
        if not (spread > 64.0 * eps * np.abs(mean)).all():
            raise NotApplicable("columns that are constant, or not finite")
        null, rms, kappa = _slopes_of_constant_model(base, y, share)
        if not (kappa > 0.0 and 0.0 < rms < math.inf):
            raise NotApplicable("a best constant model that is the minimum")
        width, scale = 1.0 / math.sqrt(kappa), np.empty(Z.shape[1])
        scale[:p] = 1.0 / np.hypot(spread / width, np.sqrt(_ridge(base, mean)))
        scale[p:] = width
        if not (np.isfinite(scale).all() and scale.min() > 0.0):
            raise NotApplicable("columns of extreme size")
        return cls(base, Z, work, y, share, mean, scale, rms * width, null)

    @property
    def outputs(self) -> int:
        """The number of outputs of a row's predictor, each with d parameters; 1 for a predictor that is a number."""
        return int(self.base.outputs or 1)

    def ridge(self) -> HostArray:
        """Return the curvatures of a quadratic penalty in these coordinates, one for each parameter."""
        curvatures, p = np.zeros_like(self.scale), len(self.mean)
        curvatures[:p] = _ridge(self.base, self.mean) * self.scale[:p] ** 2
        return np.tile(curvatures, self.outputs)

    def start(self) -> HostArray:
        """Return the best constant model: the parameters of one output after the other."""
        x, p = np.zeros((self.outputs, len(self.scale))), len(self.mean)
        x[:, p:] = np.reshape(self.null, (-1, 1)) / self.scale[p:]
        return x.reshape(-1)

    def evaluate(self, x: HostArray) -> tuple[float, HostArray, HostArray]:
        """Return the value, the gradient, and what `hessian` takes of the rows: their second derivatives.

        With several outputs these are matrices, which are not made before they are asked for: it is the predictor.
        """
        loss: Any = self.base.loss
        if self.base.outputs is not None:
            z = self.Z @ (self.scale * x.reshape(self.outputs, -1)).T
            value, slope = loss.value_and_gradient(z, self.y)
            share = 1.0 / len(self.y) if self.share is None else self.share[:, None]
            total = np.add.reduce(value * (share if self.share is None else self.share))
            grad: HostArray = self.scale * ((slope * share).T @ self.Z)
            return float(total), grad.reshape(-1), z
        value, slope, h = loss.value_gradient_and_hessian(self.Z @ (self.scale * x), self.y)
        if self.share is None:
            n = len(self.y)
            return float(np.add.reduce(value)) / n, (self.scale / n) * (slope @ self.Z), h
        return float(self.share @ value), self.scale * ((slope * self.share) @ self.Z), h

    def hessian(self, h: HostArray) -> HostArray:
        """Return the Hessian of rows with these second derivatives; where one is negative it counts as 0."""
        if self.base.outputs is not None:
            return self._hessian_of_outputs(h)
        products, n = self.scale[:, None] * self.scale, len(h)
        if self.share is None and n >= MIN_ROWS_OF_PRODUCT and (h == h[0]).all():
            return (float(h[0]) / n * products) * (self.Z.T @ self.Z)
        h = np.maximum(h, 0.0) / n if self.share is None else np.maximum(h, 0.0) * self.share
        rows = np.multiply(self.Z, np.sqrt(h)[:, None], out=self.work)
        return products * (rows.T @ rows)

    def _hessian_of_outputs(self, z: HostArray) -> HostArray:
        """Return the Hessian at a predictor z of several outputs, by the rows of its blocks.

        Where a constant in all outputs changes nothing, a curvature takes the place of the missing one: there is no
        gradient along it, and no step.
        """
        k, (n, d) = self.outputs, self.Z.shape
        loss: Any = self.base.loss
        curvatures = loss.hessian(z, self.y)
        curvatures = (
            curvatures / n if self.share is None else curvatures * self.share[:, None, None]
        )
        hessian = np.empty((k, d, k, d))
        for i, j in itertools.combinations_with_replacement(range(k), 2):
            rows = np.multiply(self.Z, curvatures[:, i, j, None], out=self.work)
            hessian[i, :, j] = hessian[j, :, i] = self.Z.T @ rows
        hessian *= self.scale[:, None, None] * self.scale
        if loss.shift_invariant:
            hessian += np.eye(d)[:, None, :] / k
        return hessian.reshape(k * d, k * d)

    def user_params(self, x: HostArray) -> tuple[HostArray, Any]:
        """Return the coefficients and the intercept, or None."""
        p, x = len(self.mean), self.scale * self._by_output(x)
        if not self.base.intercept:
            return x, None
        return x[..., :p], np.asarray(x[..., p] - x[..., :p] @ self.mean)

    def user_gradient(self, g: HostArray) -> tuple[HostArray, Any]:
        """Return the gradient with respect to them."""
        p, g = len(self.mean), self._by_output(g) / self.scale
        if not self.base.intercept:
            return g, None
        return g[..., :p] + self.mean * g[..., p:], np.asarray(g[..., p])

    def _by_output(self, x: HostArray) -> HostArray:
        return x if self.base.outputs is None else x.reshape(self.outputs, -1)


def _ridge(base: LinearObjective, mean: HostArray) -> Any:
    """Return the curvatures of a smooth penalty of the columns; one that has a prox is left to it."""
    return 0.0 if base.nonsmooth else entries_like("weights", ridge_curvatures(base.penalty), mean)


def _mean_of_rows(share: HostArray | None, x: HostArray) -> Any:
    """Return the weighted mean over the rows; a product with a vector is quicker than a sum along an axis."""
    return np.ones(len(x)) @ x / len(x) if share is None else share @ x


def _slopes_of_constant_model(
    base: LinearObjective, y: HostArray, share: HostArray | None
) -> tuple[Any, float, float]:
    """Return the best constant model, the slopes' root mean square there, and the loss's curvature."""
    loss: Any = base.loss
    mean = np.asarray(_mean_of_rows(share, loss.statistic(y)))
    null: Any = loss.null_model(mean) if base.intercept else np.zeros(mean.shape)
    if (
        loss.classes is not None and not loss.has_offset
    ):  # a row of each class tells what all rows do
        shares: HostArray = loss.class_shares(mean)
        share, y = shares, np.arange(float(len(shares)))
    z = np.zeros((len(y), *mean.shape)) + null
    slope = loss.gradient(z, y)
    moved = loss.gradient(z + rounding_share(base.blocks.X) * z, y) - slope
    squares = (
        _mean_of_rows(share, np.sum(s * s, axis=tuple(range(1, s.ndim)))) for s in (slope, moved)
    )
    square = max(squares)
    bound = loss.curvature_bound
    kappa = bound if bound is not None else float(_mean_of_rows(share, loss.hessian(z, y)))
    return null, math.sqrt(square), kappa


class _Point(NamedTuple):
    """A point of a run, and what was evaluated there.

    Attributes
    ----------
    x, grad : numpy.ndarray, shape (d,)
        The point, and the gradient of the smooth part.
    value : float
        The whole objective.
    row_curvature : numpy.ndarray, shape (n,)
        The second derivatives of the rows, times their shares of the weights.
    size : float
        The relative residual: the gradient, or x - prox(x - g, 1) where the penalty has a prox.
    """

    x: HostArray
    grad: HostArray
    value: float
    row_curvature: HostArray
    size: float


class _DirectRun(NamedTuple):
    """How the steps ended: the last point, the last Hessian, the history, and how many points were evaluated."""

    point: _Point
    hessian: HostArray
    log: list[StepRecord]
    evaluations: int


def _fit_in_span_of_rows(rows: _ScaledRows, tolerance: float) -> tuple[_DirectRun, Any, Any]:
    """Fit more columns than rows with a ridge: w = Z' a lies in the span of the centred rows.

    With T T' = Z Z' the coefficients u = T' a have the same ridge, so that no (p, p) matrix is made. The centred
    rows vanish in one direction; a column of ones closes that gap, and the intercept leaves it without a weight.
    """
    p, alpha, n = len(rows.mean), ridge_strength(rows.base.penalty), len(rows.y)
    Z = rows.Z[:, :p]
    K = Z @ Z.T
    gap = float(np.trace(K)) / n if rows.base.intercept else 0.0
    try:
        T = np.linalg.cholesky(K + gap)
    except np.linalg.LinAlgError as error:
        raise NotApplicable("rows that are dependent") from error
    spread = np.sqrt(_mean_of_rows(rows.share, T * T))
    width = 1.0 / math.sqrt(_slopes_of_constant_model(rows.base, rows.y, rows.share)[2])
    scale = 1.0 / np.hypot(spread / width, math.sqrt(alpha))
    Z_of_span = np.concatenate([T, rows.Z[:, p:]], axis=1)
    reduced = rows._replace(
        Z=Z_of_span,
        work=np.empty_like(Z_of_span),
        mean=np.zeros(n),
        scale=np.append(scale, rows.scale[p:]),
    )
    run = _iterate(reduced, 0.1 * tolerance)
    u, c = reduced.user_params(run.point.x)
    a = np.linalg.solve(T.T, u)
    x = np.empty_like(rows.scale)
    x[:p] = (a @ Z) / rows.scale[:p]
    if c is not None:
        x[p:] = (c + gap * np.add.reduce(a)) / rows.scale[p:]
    value, grad, h = rows.evaluate(x)
    ridge = rows.ridge()
    grad += ridge * x
    size = float(np.abs(grad).max()) / rows.unit
    if not size <= tolerance:
        raise NotApplicable("a gradient that is not as small in the columns as in the rows")
    point = _Point(x, grad, value + 0.5 * float(ridge @ (x * x)), h, size)
    run = run._replace(point=point, hessian=None, evaluations=run.evaluations + 1)
    return run, rows.user_params(x), rows.user_gradient(grad)


def inverse_cholesky(matrix: HostArray) -> HostArray:
    """Return N with N' N the inverse of a positive definite matrix; N is the inverse of its Cholesky factor.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite.

    Examples
    --------
    >>> inverse_cholesky(np.asarray([[4.0, 0.0], [0.0, 1.0]]))
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    return _invert_triangle(np.linalg.cholesky(matrix))


def _invert_triangle(L: HostArray) -> HostArray:
    """Return the inverse of a lower triangular matrix, from those of its halves: mostly products."""
    if len(L) <= MAX_INVERTED_ROWS:
        inverse: HostArray = np.linalg.inv(L)
        return inverse
    half, inverse = len(L) // 2, np.zeros_like(L)
    upper, lower = _invert_triangle(L[:half, :half]), _invert_triangle(L[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = upper, lower
    inverse[half:, :half] = -(lower @ L[half:, :half]) @ upper
    return inverse


def steps_for_hessian(n: float, d: float) -> int:
    """Return how many steps a Hessian of n rows and d columns serves: more where it is dear beside an evaluation.

    The steps between are corrected by what they measure, and come nearer by a smaller factor than Newton's own.
    Three steps for a Hessian take one evaluation more than one step for each, and less than half of the Hessians.
    """
    evaluation, hessian = evaluation_cost(n, d), hessian_cost(n, d)
    return 1 if hessian < 0.6 * evaluation else 3 if hessian < 5.0 * evaluation else 6


def evaluation_cost(n: float, d: float) -> float:
    """Return what value and gradient of n rows and d columns take, in microseconds."""
    cost = EVALUATION_COST
    return cost["call"] + cost["row"] * n + cost["entry"] * n * d


def hessian_cost(n: float, d: float) -> float:
    """Return what a Hessian of n rows and d columns and the inverse of its factor take, in microseconds."""
    cost = HESSIAN_COST
    products = cost["product"] * n * d * (d + cost["columns"])
    return cost["call"] + cost["entry"] * n * d + products + cost["factor"] * d**3


def newton_cost(n: float, d: float) -> float:
    """Return what a whole fit by Newton's method without the loop takes, in microseconds."""
    evaluations, hessians = COUNTS_OF_FIT[steps_for_hessian(n, d)]
    steps = evaluations * evaluation_cost(n, d) + hessians * hessian_cost(n, d)
    return FIT_COST["call"] + FIT_COST["entry"] * n * d + steps


class _InverseHessian:
    """The inverse of a Hessian, which the steps since correct by what they measured (L-BFGS).

    Parameters
    ----------
    hessian : numpy.ndarray, shape (d, d)
        The Hessian at some point.
    damping : float
        What is added to its diagonal.

    Raises
    ------
    numpy.linalg.LinAlgError
        If it is not positive definite.
    """

    def __init__(self, hessian: HostArray, damping: float) -> None:
        self.hessian = hessian
        damped = hessian.copy()
        diagonal = damped.reshape(-1)[:: len(damped) + 1]
        rounding = DIAGONAL_NOISE_EPS * len(damped) * EPS64
        diagonal += damping + rounding * float(diagonal.max())
        self.root, self.damping = inverse_cholesky(damped), damping
        self.pairs: list[tuple[HostArray, HostArray, float]] = []

    @property
    def least_curvature(self) -> float:
        """A bound from below on the least eigenvalue of the Hessian; it is at most d times too small."""
        return 1.0 / float(np.add.reduce(self.root * self.root, axis=None))

    def direction(self, g: HostArray) -> HostArray:
        """Return minus the inverse times g."""
        q, factors = -g, []
        for s, y, inverse_product in reversed(self.pairs):
            factors.append(inverse_product * float(s @ q))
            q = q - factors[-1] * y
        q = (self.root @ q) @ self.root
        for s, y, inverse_product in self.pairs:
            q = q + (factors.pop() - inverse_product * float(y @ q)) * s
        return q

    def correct(self, s: HostArray, y: HostArray) -> None:
        """Learn from a step s that the gradient changed by y along it."""
        product = float(s @ y)
        if product > 0.0:
            self.pairs.append((s, y, 1.0 / product))


def _iterate(rows: _ScaledRows, tolerance: float) -> _DirectRun:
    """Take Newton steps until the gradient is within the tolerance; a Hessian serves several where it is dear."""
    ridge, most = rows.ridge(), _most_steps(rows)
    kept_steps = steps_for_hessian(len(rows.y), len(ridge))

    def evaluate(x: HostArray) -> _Point:
        value, g, h = rows.evaluate(x)
        slope = ridge * x
        g += slope
        size = float(np.abs(g).max()) / rows.unit
        return _Point(x, g, value + 0.5 * float(slope @ x), h, size)

    def factor(point: _Point, damping: float) -> _InverseHessian:
        hessian = rows.hessian(point.row_curvature)
        hessian.reshape(-1)[:: len(ridge) + 1] += ridge
        while damping < MAX_DAMPING:
            with contextlib.suppress(np.linalg.LinAlgError):
                return _InverseHessian(hessian, damping)
            damping = DAMPING_GROWTH * damping + MIN_DAMPING
        raise NotApplicable("a Hessian that is not finite")

    first = point = evaluate(rows.start())
    inverse = factor(point, 0.0)
    _check_condition(inverse)
    steps, evaluations, damping, age = [point], 1, 0.0, 0
    while not point.size <= tolerance:
        if evaluations > 2 * most or len(steps) > most or not math.isfinite(point.size):
            raise NotApplicable("steps that do not lead to a minimum")
        if age == kept_steps:
            inverse, age = factor(point, damping), 0
        move = inverse.direction(point.grad)
        new = evaluate(point.x + move)
        evaluations += 1
        if not _descends(point, new, float(move @ point.grad)):
            # A Hessian of another point is replaced by the one here before the step is shortened.
            damping = damping if age else DAMPING_GROWTH * damping + MIN_DAMPING
            inverse, age = factor(point, damping), 0
            damping = inverse.damping
            continue
        damping = damping / DAMPING_DECAY if damping > MIN_DAMPING / DAMPING_DECAY else 0.0
        age += 1
        if age < kept_steps:
            inverse.correct(move, new.grad - point.grad)
        steps.append(new)
        point = new
    if rows.base.penalty is None:
        _check_curvature(first, point, factor)
    return _DirectRun(point, inverse.hessian, _log_steps(steps), evaluations)


def _most_steps(rows: _ScaledRows) -> int:
    if ridge_strength(rows.base.penalty) > 0.0:
        return MAX_RIDGE_STEPS
    return MAX_STEPS if rows.base.blocks.X.dtype == np.float64 else MAX_STEPS_SINGLE


def _log_steps(steps: list[_Point]) -> list[StepRecord]:
    """Return what the history says of the points of a run."""
    x = np.asarray([point.x for point in steps])
    moves, sizes = np.abs(x[1:] - x[:-1]).max(axis=1), np.abs(x[1:]).max(axis=1)
    moved = [math.nan, *(moves / np.where(sizes > 0.0, sizes, 1.0)).tolist()]
    return [StepRecord(point.value, point.size, m) for point, m in zip(steps, moved, strict=True)]


def _check_condition(inverse: _InverseHessian) -> None:
    """Raise `NotApplicable` for columns that are nearly dependent: by a bound, and by eigenvalues where it is large."""
    most = float(np.add.reduce(np.abs(inverse.hessian), axis=1).max())
    if inverse.damping == 0.0 and inverse.least_curvature > MIN_CURVATURE_RATIO * most:
        return
    curvatures = np.linalg.eigvalsh(inverse.hessian) if math.isfinite(most) else np.zeros(1)
    if not curvatures[0] > MIN_CURVATURE_RATIO * curvatures[-1]:
        raise NotApplicable("columns that are nearly dependent, or values that are not finite")


def _check_curvature(first: _Point, last: _Point, factor: Any) -> None:
    """Raise `NotApplicable` where little curvature is left, as where there is no minimum.

    The Hessian is at least as large a share of the first one as the curvature of each row is; where a row has lost
    more, the eigenvalues tell.
    """
    numbers = last.row_curvature.ndim == 1
    if numbers and (last.row_curvature > MIN_CURVATURE_SHARE * first.row_curvature).all():
        return
    before, after = (np.linalg.eigvalsh(factor(point, 0.0).hessian)[0] for point in (first, last))
    if not after > MIN_CURVATURE_SHARE * before:
        raise NotApplicable("a curvature that vanishes, as where there is no minimum")


def _iterate_proximal(rows: _ScaledRows, tolerance: float) -> _DirectRun:
    """Take proximal Newton steps until the residual is within the tolerance."""
    penalty: Any = rows.base.penalty
    p, most = len(rows.mean), _most_steps(rows)
    scale, d = rows.scale[:p], len(rows.scale)

    def evaluate(x: HostArray) -> tuple[_Point, HostPoint]:
        value, g, h = rows.evaluate(x)
        near: HostArray = penalty.prox(scale * (x - g)[:p], scale**2)
        residual = np.append(x[:p] - near / scale, g[p:])
        added = float(penalty.value(scale * x[:p]))
        size = float(np.abs(residual).max()) / rows.unit
        at = HostPoint(x, g, rows.hessian(h), value + added, added, residual)
        return _Point(x, g, value + added, h, size), at

    x = rows.start()
    x[:p] = penalty.prox(0.0 * scale, 0.0 * scale) / scale
    point, at = evaluate(x)
    steps, evaluations, damping = [point], 1, 0.0
    while not point.size <= tolerance:
        if evaluations > 2 * most or len(steps) > most or not math.isfinite(point.size):
            raise NotApplicable("steps that do not lead to a minimum")
        rounding = DIAGONAL_NOISE_EPS * d * EPS64 * float(at.hessian.diagonal().max())
        new, new_at = evaluate(at.model_minimum(scale, penalty, damping + rounding))
        evaluations += 1
        change = float((new.x - point.x) @ point.grad) + new_at.penalty - at.penalty
        if not _descends(point, new, change):
            damping = DAMPING_GROWTH * damping + MIN_DAMPING
            continue
        damping = damping / DAMPING_DECAY if damping > MIN_DAMPING / DAMPING_DECAY else 0.0
        steps.append(new)
        point, at = new, new_at
    return _DirectRun(point, at.hessian, _log_steps(steps), evaluations)


def _descends(old: _Point, new: _Point, change: float) -> bool:
    """Return whether a step lowers the value enough, or the residual where rounding hides that.

    The change is what the gradient, and the penalty where it has a prox, promise.
    """
    noise = VALUE_NOISE_EPS * EPS64 * abs(old.value)
    enough = new.value <= old.value + MIN_DECREASE_SHARE * change
    hidden = abs(new.value - old.value) <= noise or abs(change) <= noise
    return enough or (hidden and new.size <= MAX_GRADIENT_RATIO * old.size)


def _result(
    problem: LinearProblem, run: _DirectRun, user_params: Any, user_gradient: Any, tolerance: float
) -> FitResult:
    """Put together the result of a run that has converged."""
    kind, penalty = problem.resident.dtype, problem.penalty
    nonsmooth = penalty is not None and not penalty.smooth
    (w, b), (point, hessian, log, evaluations) = user_params, run
    if nonsmooth:
        w = penalty.prox(w, 0.0 * w)  # type: ignore[union-attr] # the nearest point that is allowed

    def params(coef: HostArray, intercept: Any) -> Params:
        constant: Any = None if intercept is None else np.asarray(intercept, dtype=kind)
        return Params(coef.astype(kind, copy=False), constant)

    x, jac = params(w, b), params(*user_gradient)
    nit = len(log) - 1
    whole = hessian is not None  # in the span of the rows the other curvatures are not known
    ends = functools.partial(extreme_curvatures, hessian) if whole else None
    method = ProximalNewton() if nonsmooth else Newton()
    return FitResult(
        x=x, fun=point.value, jac=jac, nit=nit, nfev=evaluations, njev=evaluations,
        status=Status.CONVERGED, success=True, message=Status.CONVERGED.message(nit),
        history=step_history(log), n_sync=1 + evaluations, method=method.name + ("" if whole else " on the rows"),
        certificate=Deferred(point.size, tolerance, ends=ends),
        coef=x.coef, intercept=x.intercept, loss=problem.loss, classes=problem.screened_data.classes,
        n_passes=None, solver=problem.solver,
    )  # fmt: skip
