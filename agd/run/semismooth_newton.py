"""Squared loss with a penalty that acts entry by entry: a semismooth Newton method on the host's moments.

A point is the minimum where it stays in place under a proximal gradient step, v = prox(v - g(v)). That is a
system of equations with kinks, and Newton's method for it solves a linear system over the entries that are at
no kink: the others take the value that the prox gives them. A few such systems lead to the minimum. The data
evaluate it, and correct the moments where these have lost digits. What does not go well is `NotApplicable`,
and left to `agd.run.linear_solvers.ActiveSetOnMoments`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from agd._typing import NotApplicable
from agd.run.certificate import Certificate, Deferred
from agd.run.host_moments import DataGradient, Rows, rows_of
from agd.run.linear_problem import LinearProblem, Solution, acts_on_any_array
from agd.run.normal_equations import HostScaling, extreme_curvatures, relative_tolerance
from agd.run.refinement import MAX_REFINEMENTS
from agd.run.result import FitResult, History, Status
from agd.update.active_set import PenalisedQuadratic, StepRecord

__all__ = [
    "SemismoothNewton",
    "converged_result",
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


def _contraction(log: list[StepRecord]) -> float | None:
    """Return by what factor the residual shrank a step, over the last half of them."""
    last = len(log) - 1
    middle = last - last // 2
    if last == middle or not log[middle].size > 0.0:
        return None
    return math.pow(log[last].size / log[middle].size, 1.0 / (last - middle))
