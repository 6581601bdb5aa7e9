"""Squared loss of many columns with a penalty that acts entry by entry: proximal Newton steps on working sets.

Of many columns few have a coefficient that is not at a kink of the penalty, such as 0. Each step takes the
columns that have one, and those that violate the condition of optimality most, minimises the objective over
these alone by their second moments, and evaluates all columns at the end, by one pass over the data. No matrix
of all columns is formed. What does not go well is `NotApplicable`, and left to FISTA.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agd._typing import NotApplicable
from agd.run.certificate import Certificate
from agd.run.host_moments import RowMoments, Rows, rows_of
from agd.run.linear_problem import LinearProblem, Solution
from agd.run.normal_equations import HostScaling, relative_tolerance
from agd.run.result import FitResult
from agd.run.semismooth_newton import (
    QuadraticModel,
    StepRecord,
    acts_on_any_array,
    converged_result,
    minimise,
)

__all__ = ["WorkingSets", "column_moments"]

METHOD_NAME = "proximal Newton on working sets"
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
            raise NotApplicable("the penalty may have a parameter for each column")
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
    scale, unit, tolerance = scaling.scale, scaling.unit, relative_tolerance(rows.kind)
    model = QuadraticModel(None, None, scale, penalty)
    origin = v = model.prox(np.zeros_like(scale))
    w = scale * v
    b, moved, log = m.mean_y - float(m.mean @ w), 0.0, list[StepRecord]()
    for _ in range(MAX_ROUNDS):
        w, b = scaling.round_params(w, b)
        v = w / scale
        data = rows.evaluate(w, b, intercept)
        g = scale * (data.coef - scaling.shift * data.intercept)
        violation = np.abs(v - model.prox(v - g))
        size = max(float(violation.max()), abs(data.intercept)) / unit
        value: Any = penalty.value(w)  # type: ignore[union-attr]
        data = data._replace(value=data.value + float(value))
        log.append(StepRecord(data.value, size, moved))
        if size <= tolerance:
            certificate = Certificate(size, tolerance)
            counts = len(log) - 1, len(log), len(log)
            return converged_result(
                rows, problem, METHOD_NAME, (w, b), data, log, certificate, counts
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
    model = QuadraticModel(C, C @ v[working] - g[working], scale, problem.penalty)
    return minimise(model, v[working], scaling.unit, tolerance, [])[0]
