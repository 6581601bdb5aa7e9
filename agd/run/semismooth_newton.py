"""Squared loss with a penalty that acts entry by entry: a semismooth Newton method on the host's moments.

A point is the minimum where it stays in place under a proximal gradient step, v = prox(v - g(v)). That is a
system of equations with kinks, and Newton's method for it solves a linear system over the entries that are at
no kink: the others take the value that the prox gives them. A few such systems lead to the minimum. The data
evaluate it, and correct the moments where these have lost digits. What does not go well is `NotApplicable`,
and left to the row that follows in ``agd.run.SOLVERS``.

Of many columns few have a coefficient that is not at a kink of the penalty, such as 0. Each step of `WorkingSets`
takes the columns that have one, and those that violate the condition of optimality most, minimises the objective over
these alone by their second moments, and evaluates all columns at the end, by one pass over the data.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from agd._typing import NotApplicable
from agd.run.certificate import Certificate, Deferred
from agd.run.host_moments import Rows, rows_of
from agd.run.linear_problem import LinearProblem, Solution, acts_on_any_array
from agd.run.normal_equations import (
    HostScaling,
    column_moments,
    converged_result,
    extreme_curvatures,
    relative_tolerance,
)
from agd.run.refinement import MAX_REFINEMENTS
from agd.run.result import FitResult
from agd.update.proximal_newton import PenalisedQuadratic, StepRecord

__all__ = [
    "SemismoothNewton",
    "WorkingSets",
    "minimise",
]

METHOD_NAME = "semismooth Newton on the moments"


class SemismoothNewton:
    """One problem of the squared loss whose moments the host holds, with a penalty that has a separable prox."""

    def fit(self, problem: LinearProblem) -> Solution:
        """Fit by semismooth Newton steps on the moments, refined on the data.

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
            For columns that are constant or of extreme size, for a penalty of the user's beside arrays that are
            not NumPy's, and where the steps do not lead to the minimum.

        Notes
        -----
        Qi and Sun (1993), "A nonsmooth version of Newton's method"; Hintermüller, Ito and Kunisch (2002),
        "The primal-dual active set strategy as a semismooth Newton method".
        """
        if not problem.traits.host_accessible and not acts_on_any_array(problem.penalty):
            raise NotApplicable("the penalty may act on arrays of the data's library alone")
        with np.errstate(all="ignore"):
            return Solution(_fit_target(rows_of(problem), problem))


def minimise(
    model: PenalisedQuadratic, v: Any, unit: float, tolerance: float, log: list[StepRecord]
) -> tuple[Any, float]:
    """Return the minimum of a model and its relative residual; parameters as in `PenalisedQuadratic.minimise`.

    Raises
    ------
    NotApplicable
        Where the steps do not lead to a relative residual within the tolerance.
    """
    v, size = model.minimise(v, tolerance, unit, log)
    if not size <= tolerance:
        raise NotApplicable("steps that do not lead to the minimum")
    return v, size


def _fit_target(rows: Rows, problem: LinearProblem) -> FitResult:
    intercept, kind, penalty = problem.intercept, rows.kind, problem.penalty
    m = rows.moments() if intercept else rows.moments().about_zero()
    scaling, tolerance = HostScaling.of(m, 0.0, kind), relative_tolerance(kind)
    C, q = scaling.hessian(m, 0.0), scaling.scale * m.c
    model, passes = PenalisedQuadratic(C, q, scaling.scale, penalty, 0.5 * m.yy), 0
    log: list[StepRecord] = []
    v, centre = model.prox(np.zeros_like(m.c)), m.mean_y
    while True:
        v, size = minimise(model, v, scaling.unit, tolerance, log)
        w, b = model.scale * v, 0.0
        if intercept:
            b = centre - float(scaling.shift @ w)
        w, b = scaling.round_params(w, b)
        data = rows.evaluate(w, b, intercept)
        passes += 1
        v = w / model.scale
        g = model.scale * (data.coef - scaling.shift * data.intercept)
        residual = float(np.abs(v - model.prox(v - g)).max())
        after = max(residual, abs(data.intercept)) / scaling.resolvable_unit(w, b)
        if after <= max(tolerance, 2.0 * size):
            break
        if passes > MAX_REFINEMENTS or not math.isfinite(after):
            raise NotApplicable("data that do not agree with their moments")
        # Shift the linear terms so that the gradient at this point is that of the data.
        model.q = model.q - (g - model.gradient(v))
        centre = centre - data.intercept
        log.pop()
    value = data.value + float(penalty.value(w))  # type: ignore[union-attr]
    certificate = Deferred(
        after, tolerance, observed=_contraction(log), ends=functools.partial(extreme_curvatures, model.C)
    )  # fmt: skip
    data = data._replace(value=value)
    counts = len(log) - 1, len(log) + passes, 1 + passes
    return converged_result(rows, problem, METHOD_NAME, (w, b), data, log, certificate, counts)


def _contraction(log: list[StepRecord]) -> float | None:
    """Return by what factor the residual shrank a step, over the last half of them."""
    last = len(log) - 1
    middle = last - last // 2
    if last == middle or not log[middle].size > 0.0:
        return None
    return math.pow(log[last].size / log[middle].size, 1.0 / (last - middle))


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
