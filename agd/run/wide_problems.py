"""Squared loss with more columns than rows, on the host: the dual form and working sets, in NumPy arrays.

Without a penalty or with a ridge the shortest of all minima lies in the span of the rows, w = Z' u with Z the
centred rows, and u solves ::

    (Z Z' / m + a I) u = (y - mean of y) / m

which has an equation for each row in place of one for each column (`DualNormalEquations`).

With a penalty that acts entry by entry, few columns have a coefficient that is not at a kink of the penalty, such
as 0. Each step of `WorkingSets` takes the columns that have one, and those that violate the condition of optimality
most, minimises the objective over these alone by their second moments, and evaluates all columns at the end, by one
pass over the data. No matrix of all columns is formed.

What does not go well is `NotApplicable`, and left to the row that follows in ``agd.run.SOLVERS``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agd._typing import NotApplicable
from agd.run.certificate import Certificate
from agd.run.diagnosis import rank_deficiency
from agd.run.host_moments import RowMoments, Rows, rows_of
from agd.run.linear_problem import LinearProblem, Solution, acts_on_any_array
from agd.run.normal_equations import HostScaling, relative_tolerance
from agd.run.result import FitResult
from agd.run.semismooth_newton import (
    converged_result,
    minimise,
)
from agd.update.active_set import PenalisedQuadratic, StepRecord

__all__ = ["DualNormalEquations", "WorkingSets", "column_moments"]

WORKING_SETS_NAME = "proximal Newton on working sets"
# The first set has so many columns.
MIN_WORKING_COLUMNS, MAX_ROUNDS = 64, 40


class WorkingSets:
    """One problem of the squared loss in NumPy arrays of many columns."""

    def fit(self, problem: LinearProblem) -> Solution:
        """Fit by proximal Newton steps on working sets.

        Parameters
        ----------
        problem : LinearProblem
            One problem of the squared loss; the penalty acts entry by entry.

        Returns
        -------
        Solution
            The complete result.

        Raises
        ------
        NotApplicable
            For columns that are constant or of extreme size, for a penalty of the user's, and where the steps
            do not lead to the minimum.

        Notes
        -----
        Massias, Gramfort and Salmon (2018), "Celer: a fast solver for the lasso with dual extrapolation".
        """
        if not acts_on_any_array(problem.penalty):
            raise NotApplicable("the penalty may not act on some columns alone")
        with np.errstate(all="ignore"):
            return Solution(_fit_columns(rows_of(problem), problem))


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


def _fit_columns(rows: Rows, problem: LinearProblem) -> FitResult:
    intercept, penalty = problem.intercept, problem.penalty
    m, variance = column_moments(problem)
    scaling = HostScaling.of_columns(m, variance, 0.0, rows.kind)
    scale, tolerance = scaling.scale, relative_tolerance(rows.kind)
    model = PenalisedQuadratic(None, None, scale, penalty)
    origin = v = model.prox(np.zeros_like(scale))
    w = scale * v
    b, moved, log = m.mean_y - float(m.mean @ w), 0.0, list[StepRecord]()
    for _ in range(MAX_ROUNDS):
        w, b = scaling.round_params(w, b)
        v = w / scale
        data = rows.evaluate(w, b, intercept)
        g = scale * (data.coef - scaling.shift * data.intercept)
        violation = np.abs(v - model.prox(v - g))
        size = max(float(violation.max()), abs(data.intercept)) / scaling.resolvable_unit(w, b)
        value: Any = penalty.value(w)  # type: ignore[union-attr]
        data = data._replace(value=data.value + float(value))
        log.append(StepRecord(data.value, size, moved))
        if size <= tolerance:
            certificate = Certificate(size, tolerance)
            counts = len(log) - 1, len(log), len(log)
            return converged_result(
                rows, problem, WORKING_SETS_NAME, (w, b), data, log, certificate, counts
            )
        if not math.isfinite(size):
            break
        working = _working_set(v != origin, violation)
        step = _minimise_columns(problem, scaling, working, v, g, tolerance)
        new = w.copy()
        new[working] = scale[working] * step
        moved = float(np.abs(new - w).max()) / (float(np.abs(new).max()) or 1.0)
        if intercept:
            b = b - data.intercept - float(m.mean @ (new - w))
        w = new
    raise NotApplicable("steps that do not lead to the minimum")


def _working_set(free: Any, violation: Any) -> Any:
    """Return the columns that are not where they began, and half as many that violate optimality most."""
    count = min(len(free), max(MIN_WORKING_COLUMNS, int(np.count_nonzero(free)) // 2))
    chosen = free.copy()
    worst = np.argpartition(-violation, count - 1)[:count]
    chosen[worst[violation[worst] > 0.0]] = True
    return np.flatnonzero(chosen)


def _minimise_columns(
    problem: LinearProblem, scaling: HostScaling, working: Any, v: Any, g: Any, tolerance: float
) -> Any:
    """Minimise over some columns, whose gradient at v is g: by their second moments, formed here."""
    X, y, weight = problem.data
    scale = scaling.scale[working]
    Z = (X[:, working] - scaling.shift[working]) * scale
    total = float(len(y))
    if weight is not None:
        total = float(np.add.reduce(weight))
        Z *= np.sqrt(weight)[:, None]
    C = Z.T @ Z / total
    penalty: Any = problem.penalty
    q = C @ v[working] - g[working]
    model = PenalisedQuadratic(C, q, scale, penalty.of_columns(working))
    return minimise(model, v[working], scaling.unit, tolerance, [])[0]


DUAL_FORM_NAME = "normal equations of the rows"
# Rows of a larger condition number are left to the factorisation of X itself, which does not square it.
MAX_DUAL_CONDITION = 1e3
MAX_STEPS = 3


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
    for steps in range(MAX_STEPS + 1):
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
