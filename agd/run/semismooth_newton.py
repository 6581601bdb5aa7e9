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
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from agd import loss
from agd._typing import NotApplicable
from agd.run.certificate import Certificate, Deferred
from agd.run.host_moments import DataGradient, Rows, rows_of
from agd.run.linear_problem import LinearProblem, Solution
from agd.run.normal_equations import HostScaling, extreme_curvatures, relative_tolerance
from agd.run.refinement import MAX_REFINEMENTS
from agd.run.result import FitResult, History, Status
from agd.update.active_set import (
    MIN_PROX_DERIVATIVE,
    MIN_SCALED_CURVATURE,
    partition_entries,
    solve_free,
    solve_symmetric,
)
from agd.update.proximal import CompositePoint

__all__ = [
    "QuadraticModel",
    "SemismoothNewton",
    "StepRecord",
    "acts_on_any_array",
    "converged_result",
    "minimise",
]

METHOD_NAME = "semismooth Newton on the moments"
MAX_STEPS, MIN_STEP_LENGTH = 100, 2.0**-12
# The minimum of a face takes a linear system for each entry that meets a kink on the way: it is not sought of more
# columns, unless so many steps of halved length have not led to the end.
MAX_EXACT_COLUMNS, MAX_HALVED_STEPS = 128, 30
# A point that is larger than the gradient at 0 by more lies along columns that are dependent: its value is rounding.
MAX_GROWTH = 1e6
# A short and a long difference by which the prox is differentiated.
ROOT_EPS, SHARE = math.sqrt(float(np.finfo(np.float64).eps)), 2.0**-8
# Penalties of which it is known that they act on arrays of every library.
OWN_PENALTIES = (loss.L1, loss.ElasticNet, loss.NonNegative, loss.Box)


class StepRecord(NamedTuple):
    """What the history says of a step: the value, the relative residual, and how far the params moved."""

    value: float
    size: float
    moved: float


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
        if not problem.penalty_fits_dtype:
            raise NotApplicable("a penalty that the dtype of X cannot hold")
        if not problem.traits.host_accessible and not acts_on_any_array(problem.penalty):
            raise NotApplicable("the penalty may act on arrays of the data's library alone")
        with np.errstate(all="ignore"):
            return Solution(_fit_target(rows_of(problem), problem))


def acts_on_any_array(penalty: Any) -> bool:
    """Return whether a penalty of the data's library acts on NumPy arrays too."""
    return type(penalty) in OWN_PENALTIES and all(
        isinstance(value, Real) for value in penalty.parameters.values()
    )


class QuadraticModel:
    """The quadratic v'Cv/2 - q'v + constant plus the penalty of D v, of which D is the diagonal `scale`."""

    def __init__(self, C: Any, q: Any, scale: Any, penalty: Any, constant: float = 0.0) -> None:
        self.C, self.q, self.constant = C, q, constant
        self.scale, self.square = scale, scale**2
        self.penalty = penalty

    def prox(self, v: Any, step: Any = 1.0) -> Any:
        """Return argmin_u penalty(D u) + |u - v|² / (2 step)."""
        point: Any = self.penalty.prox(self.scale * v, step * self.square)
        return point / self.scale

    def gradient(self, v: Any) -> Any:
        """Return the gradient of the quadratic."""
        return self.C @ v - self.q

    def value(self, v: Any, g: Any) -> float:
        """Return the objective, where g is the gradient of the quadratic."""
        penalty: Any = self.penalty.value(self.scale * v)
        return float(self.constant + 0.5 * (v @ (g - self.q)) + penalty)

    def face_minimum(self, v: Any, g: Any) -> Any:
        """Return the minimum over the entries that a proximal gradient step leaves free, which is no higher."""
        step = self._gradient_step()
        at = CompositePoint(v, g, step, step)
        return solve_free(self, self.C, at, partition_entries(self, at, step))

    def _gradient_step(self) -> Any:
        return np.asarray(1.0 / float(np.add.reduce(np.abs(self.C), axis=1).max()))

    def face_step(self, v: Any, g: Any) -> Any:
        """Return a point where the objective is lower: along the face that a proximal gradient step reaches.

        On the face the objective is a quadratic, and Newton's direction leads to its minimum. Entries that would
        cross a kink on the way there stay at it; the step is halved until the objective falls.
        """
        step = self._gradient_step()
        at = partition_entries(self, CompositePoint(v, g, step, step), step)
        z, free = at.x, np.flatnonzero(at.free)
        slope = (g + self.C @ (z - v) + at.slope)[free]
        matrix = self.C[free[:, None], free]
        matrix.flat[:: len(free) + 1] += at.curvature[free]
        direction = np.zeros_like(z)
        direction[free] = -solve_symmetric(matrix, slope)
        value, length = self.value(z, self.gradient(z)), 1.0
        while length > MIN_STEP_LENGTH:
            end = self.prox(z + length * direction, 0.0)
            end[at.kinked & (z * end < 0.0)] = 0.0
            if self.value(end, self.gradient(end)) < value:
                return end
            length *= 0.5
        return z

    def newton_point(self, v: Any, g: Any, forward: Any, z: Any) -> Any:
        """Return the solution of the system over the entries that are at no kink at z = prox(forward)."""
        offset = np.copysign(ROOT_EPS * float(np.abs(forward).max()), forward)
        derivative = (self.prox(forward + offset) - z) / offset
        free = np.flatnonzero(derivative > MIN_PROX_DERIVATIVE)
        residual = (g + self.C @ (z - v) + forward - z)[free]
        matrix = self.C[free[:, None], free]
        derivative = derivative[free]
        if (np.abs(1.0 - derivative) > MIN_SCALED_CURVATURE).any():
            # A long difference is exact where the prox is linear, and the penalty a quadratic.
            exact = ((self.prox(forward * (1.0 + SHARE)) - z) / (SHARE * forward))[free]
            linear = np.abs(exact - derivative) < MIN_SCALED_CURVATURE
            # The derivative of the prox is 1 / (1 + h'').
            matrix.flat[:: len(free) + 1] += 1.0 / np.where(linear, exact, derivative) - 1.0
        point = z.copy()
        point[free] -= np.linalg.solve(matrix, residual)
        scale = max(float(np.abs(z).max()), float(np.abs(self.q).max()))
        if not float(np.abs(point).max()) <= MAX_GROWTH * scale:
            raise np.linalg.LinAlgError("the free columns are dependent")
        return point


def minimise(
    model: QuadraticModel, v: Any, unit: float, tolerance: float, log: list[StepRecord]
) -> tuple[Any, float]:
    """Take Newton steps until v stays in place; return it and the relative residual.

    Newton's method may cycle: a step that does not lower the objective is taken back, and one along a face, which
    does, takes its place.
    """
    least, best, lowest, moved = math.inf, math.inf, v, 0.0
    for _ in range(MAX_STEPS):
        g = model.gradient(v)
        forward = v - g
        z = model.prox(forward)
        value, size = model.value(v, g), float(np.abs(v - z).max()) / unit
        log.append(StepRecord(value, size, moved))
        if size <= tolerance:
            return v, size
        if not math.isfinite(size):
            break
        newton = value < least or (
            value == math.inf and size < best
        )  # a set may be left for a while
        if value < least:
            least, lowest = value, v
        elif not newton:
            v, g = lowest, model.gradient(lowest)
        best = min(best, size)
        if newton:
            try:
                new = model.newton_point(v, g, forward, z)
            except np.linalg.LinAlgError:  # the free columns are dependent
                newton = False
        if not newton:
            few = len(v) <= MAX_EXACT_COLUMNS or len(log) > MAX_HALVED_STEPS
            new = model.face_minimum(v, g) if few else model.face_step(v, g)
        moved = float(np.abs(model.scale * (new - v)).max())
        moved /= float(np.abs(model.scale * new).max()) or 1.0
        v = new
    raise NotApplicable("steps that do not lead to the minimum")


def _fit_target(rows: Rows, problem: LinearProblem) -> FitResult:
    intercept, kind, penalty = problem.intercept, rows.kind, problem.penalty
    m = rows.moments() if intercept else rows.moments().about_zero()
    scaling, tolerance = HostScaling.of(m, 0.0, kind), relative_tolerance(kind)
    C, q = scaling.hessian(m, 0.0), scaling.scale * m.c
    model, passes = QuadraticModel(C, q, scaling.scale, penalty, 0.5 * m.yy), 0
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
