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
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from agd._typing import HostArray, NotApplicable, Params
from agd.gradient.linear import LinearObjective
from agd.loss.penalties import ridge_curvatures, ridge_like, ridge_strength
from agd.run.certificate import Deferred
from agd.run.linear_problem import LinearProblem, Revealed, Solution
from agd.run.normal_equations import extreme_curvatures, relative_tolerance, rounding_share_of
from agd.run.result import FitResult, History, Status
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

__all__ = [
    "DirectNewton",
    "evaluation_cost",
    "hessian_cost",
    "newton_cost",
    "newton_path",
    "steps_for_hessian",
]

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
# Entries of X times columns from which Hessians in single precision are sooner, by a third and more, the spreads of
# columns whose squares these hold, and the least curvature that they resolve, as a share of the largest.
MIN_SINGLE_OPERATIONS, MAX_SINGLE_SPREAD, MIN_SINGLE_CURVATURE_RATIO = 2e6, 1e12, 1e-4
SINGLE_PRODUCT_SHARE = 0.6
# The slope at the end of a step as a share of that at its beginning, above which its length is corrected once; a step
# of less than the least length, which is one that fails, asks for another direction.
MAX_SLOPE_RATIO, MIN_STEP_LENGTH, MAX_STEP_LENGTH = 0.3, 0.25, 4.0
# A Hessian by which the gradient shrinks by less a step is replaced. A step takes as long as so many evaluations, with
# the trials of its search and its direction.
MAX_CONTRACTION, STEP_EVALUATIONS = 0.5, 2.0
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
        base = problem.check_values(Revealed.X)
        if base.outputs is not None:
            _check_outputs(problem, base)
        with np.errstate(all="ignore"):
            rows = _ScaledRows.of(base)
            tolerance = relative_tolerance(np.dtype(problem.resident.dtype))
            try:
                run, params, grads = _fit(rows, tolerance)
            except np.linalg.LinAlgError as error:
                raise NotApplicable("a singular Hessian") from error
            return Solution(_result(problem, run, params, grads, tolerance))


def _fit(rows: _ScaledRows, tolerance: float) -> tuple[_DirectRun, Any, Any]:
    """Return the run, and the user's parameters and gradient at its end."""
    nonsmooth = rows.base.nonsmooth
    if len(rows.y) < len(rows.mean) and not nonsmooth:
        return _fit_in_span_of_rows(rows, tolerance)
    run = _iterate_proximal(rows, tolerance) if nonsmooth else _iterate(rows, tolerance)
    return run, rows.user_params(run.point.x), rows.user_gradient(run.point.grad)


def newton_path(
    problem: LinearProblem, penalties: list[Any], tolerance: float | None = None
) -> Iterator[tuple[HostArray, Any, float]]:
    """Yield coefficients, intercept and mean loss for each penalty, by Newton steps from the answer before.

    Parameters
    ----------
    problem : LinearProblem
        A problem that `DirectNewton` serves, with at least as many rows as columns.
    penalties : list of Penalty
        The penalties, the strongest first, smooth all of them or none.
    tolerance : float, optional
        The relative gradient or residual at the end; by default that of the dtype.

    Raises
    ------
    NotApplicable
        As of `DirectNewton`, and for fewer rows than columns with a smooth penalty.
    """
    one = problem.with_penalty(penalties[-1])
    base = one.check_values(Revealed.X)
    problem.learn_from(one)
    if base.outputs is not None:
        _check_outputs(problem, base)
    kind = np.dtype(problem.resident.dtype)
    tolerance = relative_tolerance(kind) if tolerance is None else tolerance
    rows, point = _ScaledRows.of(base), None
    if len(rows.y) < len(rows.mean) and not base.nonsmooth:
        raise NotApplicable("fewer rows than columns")
    iterate = _iterate_proximal if base.nonsmooth else _iterate
    for penalty in penalties:
        rows = rows.with_penalty(penalty)
        point = iterate(rows, tolerance, point).point
        w, b = rows.user_params(point.x)
        w = penalty.prox(w, 0.0 * w) if base.nonsmooth else w
        yield w, b, point.value - float(np.add.reduce(penalty.value(w), axis=None))


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
    null : _ConstantModel
        That model.
    alpha : float or numpy.ndarray, shape (p,)
        The curvatures of a ridge.
    several : bool
        Whether the predictor of a row has several outputs.
    row_share : float
        What the slopes of `row_terms` are still to be multiplied by: the share of rows that weigh the same.
    products : numpy.ndarray, shape (d, d), or None
        The products of the columns over n, where all rows have the same second derivative at the constant model.
    single : numpy.ndarray, shape (n, d), or None
        Z in single precision, of which the Hessians are made where these are dear: steps by them are as good, and
        value and gradient stay in double precision. `work` is then single as well.
    """

    base: LinearObjective
    Z: HostArray
    work: HostArray
    y: HostArray
    share: HostArray | None
    mean: HostArray
    scale: HostArray
    unit: float
    null: _ConstantModel
    alpha: Any
    several: bool = False
    row_share: float = 1.0
    products: HostArray | None = None
    single: HostArray | None = None

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
        null = _ConstantModel.of(base, y, share)
        several, row_share = base.outputs is not None, 1.0 / n if share is None else 1.0
        rows = cls(
            base, Z, work, y, share, mean, mean, 1.0, null, _ridge(base, mean), several, row_share
        )
        if not in_span:
            rows = rows._with_products()
        return rows._scaled(np.sqrt(rows._variances()))

    def _with_products(self) -> _ScaledRows:
        """Return the same with the products of the columns, where these are the first Hessian, and in which precision."""
        rows, n = self, len(self.y)
        if not self.several and self.Z.size * self.Z.shape[1] >= MIN_SINGLE_OPERATIONS:
            halves = self.work.reshape(-1).view(np.float32)[: 2 * self.Z.size]
            single, work = halves.reshape(2, *self.Z.shape)
            single[:] = self.Z
            rows = self._replace(single=single, work=work)
        if self.share is not None or not self.null.has_equal_curvatures:
            return rows
        Z = rows.Z if rows.single is None else rows.single
        return rows._replace(products=(Z.T @ Z) / n)

    def _variances(self) -> HostArray:
        """Return the variances of the columns."""
        p, Z, share = len(self.mean), self.Z, self.share
        if self.products is not None:
            variance = self.products.diagonal()[:p].astype(np.float64)
            if self.single is None or _fits_single(variance):
                return variance
        if self.work.dtype == np.float64 and len(self.work):
            return _mean_of_rows(share, np.square(Z, out=self.work))[:p]
        squares: HostArray = np.einsum("ij,ij->j", Z, Z if share is None else share[:, None] * Z)
        return squares[:p] / len(Z) if share is None else squares[:p]

    def _scaled(self, spread: HostArray) -> _ScaledRows:
        """Return the same for columns of this spread; raise `NotApplicable` for those that are constant."""
        eps, p = float(np.finfo(self.base.blocks.X.dtype).eps), len(self.mean)
        if not (spread > 64.0 * eps * np.abs(self.mean)).all():
            raise NotApplicable("columns that are constant, or not finite")
        if not (self.null.curvature > 0.0 and 0.0 < self.null.slope < math.inf):
            raise NotApplicable("a best constant model that is the minimum")
        width, scale = 1.0 / math.sqrt(self.null.curvature), np.empty(self.Z.shape[1])
        scale[:p] = 1.0 / np.hypot(spread / width, np.sqrt(self.alpha))
        scale[p:] = width
        if not (np.isfinite(scale).all() and scale.min() > 0.0):
            raise NotApplicable("columns of extreme size")
        rows = self._replace(scale=scale, unit=self.null.slope * width)
        fits = self.single is None or _fits_single(spread * spread)
        return rows if fits else rows.with_double_hessians()

    def with_penalty(self, penalty: Any) -> _ScaledRows:
        """Return the same rows and scales with another penalty."""
        base = replace(self.base, penalty=penalty)
        return self._replace(base=base, alpha=_ridge(base, self.mean))

    def with_double_hessians(self) -> _ScaledRows:
        """Return the same with Hessians in double precision."""
        return self._replace(single=None, products=None, work=np.empty_like(self.Z))

    @property
    def outputs(self) -> int:
        """The number of outputs of a row's predictor, each with d parameters; 1 for a predictor that is a number."""
        return int(self.base.outputs or 1)

    def ridge(self) -> HostArray:
        """Return the curvatures of a quadratic penalty in these coordinates, one for each parameter."""
        curvatures, p = np.zeros(len(self.scale)), len(self.mean)
        curvatures[:p] = self.alpha * self.scale[:p] ** 2
        return curvatures if not self.several else np.tile(curvatures, self.outputs)

    def start(self) -> HostArray:
        """Return the best constant model: the parameters of one output after the other."""
        x, p = np.zeros((self.outputs, len(self.scale))), len(self.mean)
        x[:, p:] = np.reshape(self.null.predictor, (-1, 1)) / self.scale[p:]
        return x.reshape(-1)

    def predictor(self, x: HostArray) -> HostArray:
        """Return the rows' predictor, (n,) or (n, k), at a point, or its change along a step."""
        if not self.several:
            return self.Z @ (self.scale * x)
        return self.Z @ (self.scale * x.reshape(self.outputs, -1)).T

    def row_terms(self, z: HostArray) -> tuple[float, HostArray, HostArray]:
        """Return the loss, its slopes over the rows, and what `hessian` takes of these: their second derivatives.

        With several outputs these are matrices, which are not made before they are asked for: it is the predictor.
        """
        return self.weigh(*_row_losses(self.base, self.y, z))

    def weigh(
        self, value: HostArray, slope: HostArray, h: HostArray
    ) -> tuple[float, HostArray, HostArray]:
        """Return what `row_terms` does, for the loss of each row."""
        if self.share is None:
            return float(np.add.reduce(value)) / len(self.y), slope, h
        share = self.share if not self.several else self.share[:, None]
        return float(self.share @ value), slope * share, h

    def gradient(self, slope: HostArray) -> HostArray:
        """Return the gradient that these slopes of the rows make."""
        if not self.several:
            return (self.row_share * self.scale) * (slope @ self.Z)
        grad: HostArray = (self.row_share * self.scale) * (slope.T @ self.Z)
        return grad.reshape(-1)

    def slope_along(self, slope: HostArray, along: HostArray) -> float:
        """Return the derivative along a step that changes the predictor by `along`, where these are the slopes."""
        product = slope @ along if slope.ndim == 1 else np.vdot(slope, along)
        return self.row_share * float(product)

    def evaluate(self, x: HostArray) -> tuple[float, HostArray, HostArray]:
        """Return the value, the gradient, and what `hessian` takes of the rows."""
        value, slope, h = self.row_terms(self.predictor(x))
        return value, self.gradient(slope), h

    def hessian(self, h: HostArray) -> HostArray:
        """Return the Hessian of rows with these second derivatives; where one is negative it counts as 0."""
        if self.several:
            return self._hessian_of_outputs(h)
        Z = self.Z if self.single is None else self.single
        products, n = self.scale[:, None] * self.scale, len(h)
        if h is self.null.losses[2] and self.products is not None:
            products *= float(h[0])
            products *= self.products
            return products
        h = np.maximum(h, 0.0) / n if self.share is None else np.maximum(h, 0.0) * self.share
        roots = np.sqrt(h).astype(Z.dtype, copy=False)
        rows = np.multiply(Z, roots[:, None], out=self.work)
        products *= rows.T @ rows
        return products

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
        return x if not self.several else x.reshape(self.outputs, -1)


def _ridge(base: LinearObjective, mean: HostArray) -> Any:
    """Return the curvatures of a smooth penalty of the columns; one that has a prox is left to it."""
    return 0.0 if base.nonsmooth else ridge_like(base.penalty, mean)


def _mean_of_rows(share: HostArray | None, x: HostArray) -> Any:
    """Return the weighted mean over the rows; a product with a vector is quicker than a sum along an axis."""
    return np.ones(len(x)) @ x / len(x) if share is None else share @ x


def _fits_single(variance: HostArray) -> bool:
    """Return whether single precision holds the products of columns of these variances."""
    low, high = MAX_SINGLE_SPREAD**-2, MAX_SINGLE_SPREAD**2
    return bool(variance.min() > low and variance.max() < high)


class _ConstantModel(NamedTuple):
    """The best constant model.

    Attributes
    ----------
    predictor : numpy.ndarray, shape () or (k,)
        Its predictor.
    z : numpy.ndarray, shape (n,) or (n, k)
        The same of each row.
    losses : tuple of numpy.ndarray
        What `_row_losses` returns there.
    slope, curvature : float
        The root mean square of the rows' slopes there, or what rounding of the predictor makes of them where that is
        more, and the loss's curvature.
    """

    predictor: Any
    z: HostArray
    losses: tuple[HostArray, HostArray, HostArray]
    slope: float
    curvature: float

    @classmethod
    def of(cls, base: LinearObjective, y: HostArray, share: HostArray | None) -> _ConstantModel:
        """Evaluate it."""
        loss: Any = base.loss
        mean = np.asarray(_mean_of_rows(share, loss.statistic(y)))
        predictor: Any = loss.null_model(mean) if base.intercept else np.zeros(mean.shape)
        z = np.zeros((len(y), *mean.shape)) + predictor
        losses = _row_losses(base, y, z)
        squares = losses[1] * losses[1]
        square = _mean_of_rows(share, squares if mean.ndim == 0 else np.add.reduce(squares, axis=1))
        bound = loss.curvature_bound
        kappa = float(_mean_of_rows(share, losses[2])) if bound is None else bound
        largest = float(np.maximum.reduce(np.abs(predictor), axis=None))
        rounding = rounding_share_of(base.blocks.X.dtype) * kappa * largest
        return cls(predictor, z, losses, max(math.sqrt(square), rounding), kappa)

    @property
    def has_equal_curvatures(self) -> bool:
        """Whether the loss has the same second derivative for all rows, as most losses do."""
        h = self.losses[2]
        return h.ndim == 1 and bool((h == h[0]).all())


def _row_losses(
    base: LinearObjective, y: HostArray, z: HostArray
) -> tuple[HostArray, HostArray, HostArray]:
    """Return the loss of each row, its slope, and its second derivative; of several outputs the predictor instead."""
    loss: Any = base.loss
    if base.outputs is None:
        terms: tuple[HostArray, HostArray, HostArray] = loss.value_gradient_and_hessian(z, y)
        return terms
    return *loss.value_and_gradient(z, y), z


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
    predictor : numpy.ndarray, shape (n,)
        That of the rows.
    pull : numpy.ndarray, shape (d,)
        The gradient of the ridge.
    """

    x: HostArray
    grad: HostArray
    value: float
    row_curvature: HostArray
    size: float
    predictor: Any = None
    pull: Any = None


class _DirectRun(NamedTuple):
    """How the steps ended: the last point, the last Hessian, the history, and how many points were evaluated."""

    point: _Point
    hessian: HostArray
    history: History
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
    width = 1.0 / math.sqrt(rows.null.curvature)
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
    if n * d * d >= MIN_SINGLE_OPERATIONS:
        products *= SINGLE_PRODUCT_SHARE
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
    factored : bool
        Whether to factor it, which serves several steps, and says whether it is positive definite.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a factored Hessian is not positive definite.
    """

    def __init__(self, hessian: HostArray, damping: float, *, factored: bool = True) -> None:
        self.hessian = hessian
        damped = hessian.copy()
        diagonal = damped.reshape(-1)[:: len(damped) + 1]
        rounding = DIAGONAL_NOISE_EPS * len(damped) * EPS64
        diagonal += damping + rounding * float(np.maximum.reduce(diagonal))
        self.damped, self.damping = damped, damping
        self.root: Any = inverse_cholesky(damped) if factored else None
        self.pairs: list[tuple[HostArray, HostArray, float]] = []

    @property
    def least_curvature(self) -> float:
        """A bound from below on the least eigenvalue of a factored Hessian; it is at most d times too small."""
        return 1.0 / float(np.add.reduce(self.root * self.root, axis=None))

    def direction(self, g: HostArray) -> HostArray:
        """Return minus the inverse times g."""
        if self.root is None:
            solution: HostArray = np.linalg.solve(self.damped, -g)
            return solution
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
        if self.root is not None and product > 0.0:
            self.pairs.append((s, y, 1.0 / product))


def _iterate(rows: _ScaledRows, tolerance: float, start: _Point | None = None) -> _DirectRun:
    """Take Newton steps until the gradient is within the tolerance; a Hessian serves several where it is dear.

    They begin at the end of a run with another ridge, where there was one, else at the best constant model.
    """
    line, most = _LineOfRows(rows), _most_steps(rows)
    kept_steps = steps_for_hessian(len(rows.y), len(line.ridge))
    first = point = line.first_point(start)
    inverse = line.inverse_hessian(point, 0.0)
    _check_condition(inverse)
    steps, damping, age, begun = [point], 0.0, 0, point
    while not point.size <= tolerance:
        if line.evaluations > 3 * most or len(steps) > most or not math.isfinite(point.size):
            raise NotApplicable("steps that do not lead to a minimum")
        if age >= kept_steps and line.new_hessian_pays(steps[-2:], begun, tolerance):
            inverse, age, begun = (
                line.inverse_hessian(point, damping, factored=kept_steps > 1),
                0,
                point,
            )
        new = line.search(point, inverse.direction(point.grad))
        if new is None:
            # A Hessian of another point is replaced by the one here before the step is shortened.
            damping = damping if age else DAMPING_GROWTH * damping + MIN_DAMPING
            inverse, age, begun = line.inverse_hessian(point, damping), 0, point
            damping = inverse.damping
            continue
        damping = damping / DAMPING_DECAY if damping > MIN_DAMPING / DAMPING_DECAY else 0.0
        age += 1
        inverse.correct(new.x - point.x, new.grad - point.grad)
        steps.append(new)
        point = new
    if np.min(ridge_curvatures(rows.base.penalty)) == 0.0:
        _check_curvature(first, point, line)
    return _DirectRun(point, inverse.hessian, _step_records(steps), line.evaluations)


class _Trial(NamedTuple):
    """A point on a line: the predictor of the rows, the value, the slopes of the rows, and the ridge's gradient."""

    x: HostArray
    predictor: HostArray
    value: float
    slope: HostArray
    row_curvature: HostArray
    pull: HostArray


class _LineOfRows:
    """The objective of some rows along a line: a trial costs no product with the rows but the one of the step.

    Parameters
    ----------
    rows : _ScaledRows
        The rows.
    """

    def __init__(self, rows: _ScaledRows) -> None:
        self.rows, self.ridge, self.evaluations = rows, rows.ridge(), 0
        n, d = len(rows.y), len(self.ridge)
        self.step_cost = STEP_EVALUATIONS * evaluation_cost(n, d)
        self.hessian_cost = hessian_cost(n, d)

    def first_point(self, start: _Point | None = None) -> _Point:
        """Return the best constant model, which needs no product with the rows but that of the gradient.

        A point of a run with another ridge needs none.
        """
        if start is not None:
            pull = self.ridge * start.x
            change = pull - start.pull
            g, value = start.grad + change, start.value + 0.5 * float(change @ start.x)
            size = float(np.maximum.reduce(np.abs(g))) / self.rows.unit
            return start._replace(grad=g, value=value, size=size, pull=pull)
        x, null = self.rows.start(), self.rows.null
        return self._complete(self._trial(x, null.z, self.rows.weigh(*null.losses)))

    def _trial(
        self, x: HostArray, z: HostArray, terms: tuple[float, HostArray, HostArray] | None = None
    ) -> _Trial:
        """Evaluate a point, but for the gradient, which takes a product with the rows."""
        self.evaluations += 1
        value, slope, h = self.rows.row_terms(z) if terms is None else terms
        pull = self.ridge * x
        return _Trial(x, z, value + 0.5 * float(pull @ x), slope, h, pull)

    def _complete(self, trial: _Trial) -> _Point:
        g = self.rows.gradient(trial.slope)
        g += trial.pull
        size = float(np.maximum.reduce(np.abs(g))) / self.rows.unit
        return _Point(
            trial.x, g, trial.value, trial.row_curvature, size, trial.predictor, trial.pull
        )

    def search(self, old: _Point, move: HostArray) -> _Point | None:
        """Return an acceptable point along a step, at its end or where the slope says that the minimum is.

        None says that there is no such point, or none but near the beginning.
        """
        change = float(move @ old.grad)
        if not change < 0.0:
            return None
        along = self.rows.predictor(move)
        trial = self._trial(old.x + move, old.predictor + along)
        end = self.rows.slope_along(trial.slope, along) + float(trial.pull @ move)
        lower = trial.value <= old.value + MIN_DECREASE_SHARE * change
        if (not lower or abs(end) > -MAX_SLOPE_RATIO * change) and math.isfinite(end):
            length = change / (change - end) if end > change else math.inf
            length = min(max(length, MIN_STEP_LENGTH), MAX_STEP_LENGTH)
            nearer = self._trial(old.x + length * move, old.predictor + length * along)
            if nearer.value < trial.value or not lower:
                trial, change = nearer, length * change
        new = self._complete(trial)
        return new if _descends(old, new, change) else None

    def new_hessian_pays(self, last: list[_Point], begun: _Point, tolerance: float) -> bool:
        """Return whether a Hessian at the last point saves evaluations that cost more than it.

        The steps by a Hessian come nearer by a factor that is proportional to the distance of its point, where they
        began: that of a new one is smaller by as much as the gradient is now.
        """
        size, factor = last[1].size, last[1].size / last[0].size
        if not factor < MAX_CONTRACTION:
            return True
        to_go, newer = math.log(tolerance / size), factor * min(1.0, size / begun.size)
        saved = math.ceil(to_go / math.log(factor)) - math.ceil(to_go / math.log(newer))
        return saved * self.step_cost > self.hessian_cost

    def inverse_hessian(
        self, point: _Point, damping: float, *, factored: bool = True
    ) -> _InverseHessian:
        """Return the inverse of the Hessian at a point, with the least damping that it takes."""
        hessian = self.hessian(point)
        while damping < MAX_DAMPING:
            with contextlib.suppress(np.linalg.LinAlgError):
                inverse = _InverseHessian(hessian, damping, factored=factored)
                least = MIN_SINGLE_CURVATURE_RATIO * float(hessian.diagonal().max())
                if self.rows.single is None or inverse.least_curvature > least:
                    return inverse
            if self.rows.single is not None:
                self.rows = self.rows.with_double_hessians()
                hessian = self.hessian(point)
                continue
            damping = DAMPING_GROWTH * damping + MIN_DAMPING
        raise NotApplicable("a Hessian that is not finite")

    def hessian(self, point: _Point) -> HostArray:
        """Return the Hessian at a point."""
        hessian = self.rows.hessian(point.row_curvature)
        hessian.reshape(-1)[:: len(self.ridge) + 1] += self.ridge
        return hessian


def _most_steps(rows: _ScaledRows) -> int:
    if np.min(ridge_curvatures(rows.base.penalty)) > 0.0:
        return MAX_RIDGE_STEPS
    return MAX_STEPS if rows.base.blocks.X.dtype == np.float64 else MAX_STEPS_SINGLE


def _step_records(steps: list[_Point]) -> History:
    """Return the history of the points of a run."""
    x = np.asarray([point.x for point in steps])
    numbers = np.asarray([(point.value, point.size) for point in steps])
    moved, nit = np.full(len(steps), math.nan), np.arange(len(steps))
    sizes = np.maximum.reduce(np.abs(x[1:]), axis=1)
    sizes[sizes == 0.0] = 1.0
    moved[1:] = np.maximum.reduce(np.abs(x[1:] - x[:-1]), axis=1) / sizes
    return History(nit, numbers[:, 0], numbers[:, 1], moved, 1 + nit)


def _check_condition(inverse: _InverseHessian) -> None:
    """Raise `NotApplicable` for columns that are nearly dependent: by a bound, and by eigenvalues where it is large."""
    most = float(np.add.reduce(np.abs(inverse.hessian), axis=1).max())
    if inverse.damping == 0.0 and inverse.least_curvature > MIN_CURVATURE_RATIO * most:
        return
    curvatures = np.linalg.eigvalsh(inverse.hessian) if math.isfinite(most) else np.zeros(1)
    if not curvatures[0] > MIN_CURVATURE_RATIO * curvatures[-1]:
        raise NotApplicable("columns that are nearly dependent, or values that are not finite")


def _check_curvature(first: _Point, last: _Point, line: _LineOfRows) -> None:
    """Raise `NotApplicable` where little curvature is left, as where there is no minimum.

    The Hessian is at least as large a share of the first one as the curvature of each row is; where a row has lost
    more, the eigenvalues tell.
    """
    numbers = last.row_curvature.ndim == 1
    if numbers and (last.row_curvature > MIN_CURVATURE_SHARE * first.row_curvature).all():
        return
    before, after = (np.linalg.eigvalsh(line.hessian(point))[0] for point in (first, last))
    if not after > MIN_CURVATURE_SHARE * before:
        raise NotApplicable("a curvature that vanishes, as where there is no minimum")


def _iterate_proximal(
    rows: _ScaledRows, tolerance: float, start: _Point | None = None
) -> _DirectRun:
    """Take proximal Newton steps until the residual is within the tolerance; parameters as of `_iterate`."""
    penalty: Any = rows.base.penalty
    p, most = len(rows.mean), _most_steps(rows)
    scale, d = rows.scale[:p], len(rows.scale)

    def evaluate(x: HostArray) -> tuple[_Point, HostPoint]:
        constant = start is None and not x[:p].any() and not steps
        value, slope, h = (
            rows.weigh(*rows.null.losses) if constant else rows.row_terms(rows.predictor(x))
        )
        g = rows.gradient(slope)
        at = HostPoint.of(penalty, scale, value, x, g, hessian)
        size = float(np.maximum.reduce(np.abs(at.residual))) / rows.unit
        return _Point(x, g, at.value, h, size), at

    x, hessian, steps = rows.start(), np.eye(d), list[_Point]()
    x[:p] = penalty.prox(0.0 * scale, 0.0 * scale) / scale
    x = x if start is None else start.x
    point, at = evaluate(x)
    steps.append(point)
    evaluations, damping, last = 1, 0.0, None
    while not point.size <= tolerance:
        if evaluations > 2 * most or len(steps) > most or not math.isfinite(point.size):
            raise NotApplicable("steps that do not lead to a minimum")
        if point is not last:
            rows, hessian = _resolved_hessian(rows, point)
            at, last = at._replace(hessian=hessian), point
        rounding = DIAGONAL_NOISE_EPS * d * EPS64 * float(hessian.diagonal().max())
        new, new_at = evaluate(at.model_minimum(penalty, damping + rounding))
        evaluations += 1
        change = float((new.x - point.x) @ point.grad) + new_at.penalty - at.penalty
        if not _descends(point, new, change):
            damping = DAMPING_GROWTH * damping + MIN_DAMPING
            continue
        damping = damping / DAMPING_DECAY if damping > MIN_DAMPING / DAMPING_DECAY else 0.0
        steps.append(new)
        point, at = new, new_at
    return _DirectRun(point, hessian, _step_records(steps), evaluations)


def _resolved_hessian(rows: _ScaledRows, point: _Point) -> tuple[_ScaledRows, HostArray]:
    """Return the Hessian at a point, in double precision where single does not resolve its curvatures, and the rows."""
    hessian = rows.hessian(point.row_curvature)
    if rows.single is None:
        return rows, hessian
    shift = MIN_SINGLE_CURVATURE_RATIO * float(hessian.diagonal().max())
    try:
        np.linalg.cholesky(hessian - shift * np.eye(len(hessian)))
    except np.linalg.LinAlgError:
        rows = rows.with_double_hessians()
        return rows, rows.hessian(point.row_curvature)
    return rows, hessian


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
    (w, b), (point, hessian, history, evaluations) = user_params, run
    if nonsmooth:
        w = penalty.prox(w, 0.0 * w)  # type: ignore[union-attr] # the nearest point that is allowed

    def params(coef: HostArray, intercept: Any) -> Params:
        constant: Any = None if intercept is None else np.asarray(intercept, dtype=kind)
        return Params(coef.astype(kind, copy=False), constant)

    x, jac = params(w, b), params(*user_gradient)
    nit = len(history.nit) - 1
    whole = hessian is not None  # in the span of the rows the other curvatures are not known
    ends = functools.partial(extreme_curvatures, hessian) if whole else None
    method = ProximalNewton() if nonsmooth else Newton()
    return FitResult(
        x=x, fun=point.value, jac=jac, nit=nit, nfev=evaluations, njev=evaluations,
        status=Status.CONVERGED, success=True, message=Status.CONVERGED.message(nit),
        history=history, n_sync=1 + evaluations, method=method.name + ("" if whole else " on the rows"),
        certificate=Deferred(point.size, tolerance, ends=ends),
        coef=x.coef, intercept=x.intercept, loss=problem.loss, classes=problem.screened_data.classes,
        n_passes=None, solver=problem.solver,
    )  # fmt: skip
