"""Least squares with fewer rows than columns: the normal equations in dual form, in NumPy arrays.

The shortest of all minima lies in the span of the rows, w = Z' u with Z the centred rows, and u solves ::

    (Z Z' / m + a I) u = (y - mean of y) / m

which has an equation for each row in place of one for each column. The data evaluate the answer, and a second step
corrects it where the rows are not well conditioned. What does not go well is `NotApplicable`, and left to
`agd.run.linear_solvers.NormalEquations`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agd._typing import NotApplicable
from agd.run.certificate import Certificate
from agd.run.diagnosis import rank_deficiency
from agd.run.host_moments import RowMoments, Rows, rows_of
from agd.run.linear_problem import LinearProblem, Solution
from agd.run.normal_equations import HostScaling, relative_tolerance
from agd.run.result import FitResult
from agd.run.semismooth_newton import StepRecord, converged_result
from agd.run.working_sets import column_moments

__all__ = ["DualNormalEquations"]

METHOD_NAME = "normal equations of the rows"
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
                rows, problem, METHOD_NAME, (w, b), data, log, Certificate(size, tolerance), counts
            )
        step = -system.solve_gradient(grad) if steps else system.solve_targets(y - m.mean_y)
        w = w + step
        moved = float(np.abs(step).max()) / (float(np.abs(w).max()) or 1.0)
        if intercept:
            b = b - data.intercept - float(scaling.shift @ step)
    raise NotApplicable("a step that does not lead to the minimum")
