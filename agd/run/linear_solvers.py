"""The solvers of linear fits: each plans its coordinates and first point, and runs.

They are the rows of ``agd.run.SOLVERS``, all with the one method ``fit(problem) -> Solution``. What is
learned of the data on the way, such as the condition of the columns, stays with the solver that learns it.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agd import backends
from agd._tree import as_scalar
from agd._typing import Array, Loss, NotApplicable, Params
from agd.gradient.column_stats import default_gradient_tolerance
from agd.gradient.conditioning import moments_are_accurate, subsample_rows, whiten_columns
from agd.gradient.kernel import KernelLeastSquares
from agd.gradient.linear import LinearObjective, linear_predictor
from agd.gradient.moments import Moments
from agd.gradient.preconditioner import Preconditioned, Scaling
from agd.gradient.quadratic import MomentObjective, WhitenedLeastSquares
from agd.gradient.second_order import NewtonObjective
from agd.loss import Squared
from agd.run.diagnosis import check_dependence, explain_conditioning, few_rows_warning
from agd.run.linear_problem import (
    LinearProblem,
    Plan,
    Revealed,
    Solution,
    acts_on_any_array,
    null_model,
    steps_between_checks,
)
from agd.run.loop import run
from agd.run.refinement import MomentSurrogate, RecursiveResidual, refine, sum_rounds
from agd.run.result import FitResult, Result, Status
from agd.run.warm_start import gather_subsample, is_worthwhile, start_from_subsample
from agd.update.conjugate_gradient import KernelCG, LinearCG
from agd.update.descent import Accelerated
from agd.update.directions import lbfgs
from agd.update.newton import MIN_CURVATURE_RATIO, Newton, NewtonStep
from agd.update.proximal import FISTA, ProximalGradient
from agd.update.proximal_newton import ActiveSet, ProximalNewton

__all__ = [
    "ActiveSetOnMoments",
    "ConjugateGradients",
    "ConvexStart",
    "FistaOnMoments",
    "Iterations",
    "KernelConjugateGradients",
    "LinearSolver",
    "MomentSolver",
    "NewtonOnData",
    "NormalEquations",
    "ProximalNewtonOnData",
    "ReweightedLasso",
    "ScaleEstimate",
    "ScaledLBFGS",
    "WhitenedLBFGS",
    "loop_settings",
    "plan_iterations",
]

# Below this condition number of the columns the answer by moments has lost three digits at most.
MAX_SINGLE_PASS_CONDITION = 30.0
LBFGS_MEMORY = 10  # pairs; in whitened coordinates few are needed
# Where the spreads of the columns differ by more, the shortest answer takes too many steps.
MAX_SPREAD_RATIO = 100.0


class LinearSolver:
    """One row of the table of solvers: it makes a `Plan` for a problem and runs it.

    Attributes
    ----------
    constant_hessian : bool
        Whether the curvatures of the plan's columns are those of the objective everywhere.
    """

    constant_hessian = False

    def fit(self, problem: LinearProblem) -> Solution:
        """Minimise the objective of a linear fit.

        Parameters
        ----------
        problem : LinearProblem
            Data, loss, penalty and settings.

        Returns
        -------
        Solution
            How the run ended, and what was run.

        Raises
        ------
        NotApplicable
            Where this solver cannot serve the problem.
        ValueError
            For values that are not finite, and targets outside the loss's domain.
        """
        revealed = self.revealed(problem)
        base = problem.check_values(revealed)
        with base.blocks.single_threaded_blas():
            plan = self.plan(problem, base)
            if revealed is Revealed.X_AND_Y:  # the plan's moments are finite, and so are the data
                problem.mark_checked()
            result, plan = self.iterate(problem, plan)
        return Solution(result, plan, self.rank_warning)

    def revealed(self, problem: LinearProblem) -> Revealed:  # noqa: ARG002
        """Return what the passes of this solver tell of values that are not finite."""
        return Revealed.NOTHING

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Choose coordinates, method and first point; raise `NotApplicable` where they do not serve."""
        raise NotImplementedError

    def iterate(self, problem: LinearProblem, plan: Plan) -> tuple[Result, Plan]:
        """Run a plan; where its objective is not finite at its first point, the plan that follows it."""
        result = run(plan.method, plan.objective, plan.x0, **loop_settings(problem, plan))
        if plan.otherwise is not None and result.status == Status.NON_FINITE and result.nit == 0:
            return self.iterate(problem, plan.otherwise)
        return result, plan

    def rank_warning(self, result: Any, plan: Plan) -> tuple[Any, str]:
        """Return the result, completed, and what to warn of the rank of X."""
        if plan.columns is None:
            return check_dependence(result, plan.objective)
        return explain_conditioning(result, plan.columns, quadratic=self.constant_hessian)


def loop_settings(problem: LinearProblem, plan: Plan) -> dict[str, Any]:
    """Return the arguments of `agd.run.run` that are those of the fit."""
    return {
        "stop": problem.stop,
        "callback": problem.callback,
        "grad_tol": default_gradient_tolerance(problem.resident),
        "check_every": plan.check_every,
    }


class Iterations(LinearSolver):
    """A method that steps on the data: the user's own, or one that needs no more than gradients.

    Parameters
    ----------
    make : callable, optional
        From the loss to the method; by default the method is the one that the user chose.
    """

    def __init__(self, make: Callable[[Any], Any] | None = None) -> None:
        self.make = make

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Choose the coordinates that the method works in: the data's, or centred and scaled ones."""
        method: Any = problem.method if self.make is None else self.make(problem.loss)
        return plan_iterations(problem, base, method)


def plan_iterations(
    problem: LinearProblem, base: LinearObjective, method: Any, moments: Moments | None = None
) -> Plan:
    """Choose the coordinates that a given method works in, and the first point in them.

    Parameters
    ----------
    problem : LinearProblem
        The problem.
    base : LinearObjective
        Its objective over checked data.
    method : Method
        What takes a step; one whose ``rescaled`` is true works in centred and scaled coordinates.
    moments : Moments, optional
        Those of the data, where they are known.
    """
    rescaled = method.rescaled
    start, zero = problem.start, base.zeros()
    if not (rescaled or problem.uses_scaled_gradient_norm):
        return Plan(method, base, base.prox(zero if start is None else start, 0.0))
    base, scaling = problem.with_convergence_norm(base, moments)
    if start is None:
        start = null_model(base, scaling) if rescaled else zero
    start = base.prox(start, 0.0)  # the nearest point that the penalty allows
    if not rescaled:
        return Plan(method, base, start)
    with np.errstate(all="ignore"):  # the status tells of what is not finite, as in a run
        return Plan(method, Preconditioned(base, scaling), scaling.to_preconditioned(start))


class MomentSolver(LinearSolver):
    """A solver that begins with a pass for the moments of the data."""

    def revealed(self, problem: LinearProblem) -> Revealed:
        """Return what is finite where the moments are; those of another loss than squared say less of y.

        Weights must be checked by themselves, as no sum tells that one is negative.
        """
        squared = problem.traits.quadratic and problem.data.weight is None
        return Revealed.X_AND_Y if squared else Revealed.X

    def moments(self, problem: LinearProblem, base: LinearObjective) -> Moments:
        """Return the moments of the data: of the pass that checked them, or of one of their own."""
        if problem.moments is None:
            problem.moments = Moments.from_blocks(base.blocks)
        return problem.moments


class NormalEquations(MomentSolver):
    """Squared loss with no penalty or `L2`: Newton steps on the moments, refined on the data.

    Coordinates whiten the columns, so that one step leads to the minimum. Columns whose condition number
    is above 1e7 are factored by QR instead, and the gradient is summed in twice the precision.
    """

    constant_hessian = True

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Whiten the columns by their moments, or by QR where squaring them lost what is small."""
        moments = self.moments(problem, base)
        start = problem.start
        base, scaling = problem.with_convergence_norm(base, moments)
        start = null_model(base, scaling) if start is None else start
        with np.errstate(all="ignore"):
            whitening, columns = whiten_columns(base, moments, scaling, quadratic=True)
            # Moments of well-conditioned columns, or in a wider dtype than w, leave nothing to refine.
            wide = moments.G.dtype != start.coef.dtype
            once = wide or np.max(columns.condition) < MAX_SINGLE_PASS_CONDITION
            accurate = columns.ill_conditioned and not problem.traits.sparse
            passes = 3 if columns.ill_conditioned else 1 if once else 2
            least = None if columns.least is None else (columns.low, columns.least)
            squares = WhitenedLeastSquares(base, whitening, moments, accurate, least)
            method: Any = NewtonStep(passes, compensated=accurate)
            return Plan(method, squares, start, 1, columns)

    def iterate(self, problem: LinearProblem, plan: Plan) -> tuple[Result, Plan]:
        """Run the plan, and check after each step: one or two are all."""
        settings = loop_settings(problem, plan)
        settings["stop"] = replace(problem.stop, check_every=1)
        return run(plan.method, plan.objective, plan.x0, **settings), plan


class WhitenedLBFGS(MomentSolver):
    """A smooth loss of moderately many columns: L-BFGS in coordinates that whiten them.

    Fits of many rows begin where a fit of a subsample ends (`agd.run.warm_start`).
    """

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Whiten by the moments of a subsample where these serve, else by those of all rows."""
        start = problem.start
        squared = problem.traits.quadratic
        few = subsample_rows(base.blocks) if problem.moments is None and not squared else None
        if few is not None:
            with contextlib.suppress(NotApplicable):
                plan = self._whiten(problem, base, Moments.from_blocks(few), start)
                if plan.columns is not None and plan.columns.well_conditioned:
                    begin = start is None and is_worthwhile(base, few)
                    return start_from_subsample(plan, few) if begin else plan
        moments = self.moments(problem, base)
        plan = self._whiten(problem, base, moments, start)
        samples_chunks = (
            plan.columns is not None and plan.columns.well_conditioned and problem.traits.lazy
        )
        if start is not None or not samples_chunks:
            return plan
        with contextlib.suppress(NotApplicable):
            return start_from_subsample(plan, gather_subsample(base.blocks, moments))
        return plan

    def _whiten(
        self, problem: LinearProblem, base: LinearObjective, moments: Moments, start: Params | None
    ) -> Plan:
        base, scaling = problem.with_convergence_norm(base, moments)
        with np.errstate(all="ignore"):
            start = null_model(base, scaling) if start is None else start
            whitening, columns = whiten_columns(base, moments, scaling, quadratic=False)
            objective = Preconditioned(base, whitening, centre_blocks=columns.far_from_zero)
            x0, every = whitening.to_preconditioned(start), steps_between_checks(problem.resident)
            return Plan(lbfgs(LBFGS_MEMORY, whitened=True), objective, x0, every, columns)


class NewtonOnData(LinearSolver):
    """A smooth loss with no penalty or `L2`, of few columns: Newton's method in centred and scaled coordinates.

    Columns that are nearly dependent are left to `WhitenedLBFGS`, which factors them where squaring them loses
    what is small.
    """

    def revealed(self, problem: LinearProblem) -> Revealed:  # noqa: ARG002
        """Return that the sums of the columns, and the first Hessian, are finite only where X is."""
        return Revealed.X

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Centre and scale the columns; the method refuses what is not finite or badly conditioned."""
        if problem.traits.several_outputs:
            raise NotApplicable("a matrix of curvatures for each row")
        start = problem.start
        base, scaling = problem.with_convergence_norm(base, problem.moments)
        with np.errstate(all="ignore"):
            start = null_model(base, scaling) if start is None else start
            objective = NewtonObjective.of(base, scaling)
            start = base.prox(start, 0.0)  # the nearest point that the penalty allows
            return Plan(self.method(), objective, objective.from_params(start), 1)

    def method(self) -> Any:
        """Return what takes a step."""
        return Newton(MIN_CURVATURE_RATIO)


class ProximalNewtonOnData(NewtonOnData):
    """The same with a penalty that acts entry by entry, handled by its prox on the host."""

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """As of `NewtonOnData`; raise `NotApplicable` for a penalty that may not act on NumPy arrays."""
        if not problem.traits.numpy and not acts_on_any_array(problem.penalty):
            raise NotApplicable("the penalty may act on arrays of the data's library alone")
        return super().plan(problem, base)

    def method(self) -> Any:
        """Return what takes a step."""
        return ProximalNewton()


class FistaOnMoments(MomentSolver):
    """Squared loss with a penalty that has a prox: FISTA on the moments, refined on the data."""

    def method(self) -> Any:
        """Return what takes a step."""
        return FISTA()

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Scale the columns; raise `NotApplicable` where the dtype cannot hold the moments."""
        moments = self.moments(problem, base)
        start = problem.start
        base, scaling = problem.with_convergence_norm(base, moments)
        with np.errstate(all="ignore"):
            start = null_model(base, scaling) if start is None else start
            if not moments_are_accurate(base, moments, scaling.inv_std):
                raise NotApplicable
            objective = Preconditioned(MomentObjective.of_data(base, moments), scaling)
            x0 = scaling.to_preconditioned(
                base.prox(start, 0.0)
            )  # the nearest point that is allowed
            return Plan(self.method(), objective, x0, steps_between_checks(problem.resident))

    def iterate(self, problem: LinearProblem, plan: Plan) -> tuple[Result, Plan]:
        """Run on the moments, and refine on the data."""
        surrogate = MomentSurrogate(plan.method, plan.objective)
        return refine(surrogate, plan.x0, **loop_settings(problem, plan)), plan


class ActiveSetOnMoments(FistaOnMoments):
    """The same with steps that go on to the minimum over the entries that are free."""

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Scale the columns; raise `NotApplicable` where the host cannot read numbers at no cost."""
        if not problem.traits.host_accessible:
            raise NotApplicable
        return super().plan(problem, base)

    def method(self) -> Any:
        """Return what takes a step."""
        return ActiveSet()


class ConjugateGradients(LinearSolver):
    """Squared loss with no penalty or `L2` of many columns: conjugate gradients, refined on the data.

    Without a penalty the columns keep one common scale as long as their spreads are alike, so that the
    answer from 0 is the shortest one.
    """

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Centre and scale the columns."""
        start = problem.start
        base, scaling, _ = self.coordinates(problem, base)
        objective = Preconditioned(base, scaling)
        with np.errstate(all="ignore"):
            x0 = scaling.to_preconditioned(null_model(base, scaling) if start is None else start)
        return Plan(LinearCG(), objective, x0, steps_between_checks(problem.resident))

    def coordinates(
        self, problem: LinearProblem, base: LinearObjective
    ) -> tuple[LinearObjective, Scaling, bool]:
        """Return the objective, centres and scales of the columns, and whether the rows serve as well."""
        base, scaling = problem.with_convergence_norm(base)
        if problem.traits.ridge > 0.0 or problem.traits.rows >= problem.traits.columns:
            return base, scaling, True
        if not problem.spread_ratio <= MAX_SPREAD_RATIO:
            return base, scaling, False
        xp, scale = backends.namespace(scaling.inv_std), scaling.inv_std
        least = xp.min(scale, axis=-1, keepdims=True)
        return base, scaling._replace(inv_std=xp.zeros_like(scale) + least), True

    def iterate(self, problem: LinearProblem, plan: Plan) -> tuple[Result, Plan]:
        """Run the recursion, and refine on the data."""
        surrogate = RecursiveResidual(plan.method, plan.objective)
        return refine(surrogate, plan.x0, **loop_settings(problem, plan)), plan

    def rank_warning(self, result: Any, plan: Plan) -> tuple[Any, str]:
        """Return the result, and what to warn of where rows are too few to determine the coefficients."""
        return result, few_rows_warning(result, plan.objective)


class KernelConjugateGradients(ConjugateGradients):
    """The same in the span of the rows, where these are fewer than the columns."""

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Take the rows as coordinates; raise `NotApplicable` for a start or a limit that the user gives."""
        if not problem.uses_scaled_gradient_norm or problem.init is not None:
            raise NotApplicable
        base, scaling, alike = self.coordinates(problem, base)
        if not alike:
            raise NotApplicable
        with np.errstate(all="ignore"):  # the status tells of what is not finite, as in a run
            squares = KernelLeastSquares.of(base, scaling)
            every = steps_between_checks(problem.resident)
            return Plan(KernelCG(), squares, squares.zeros(), every)


class ScaledLBFGS(LinearSolver):
    """A smooth loss over a sparse X with many columns: L-BFGS in centred and scaled coordinates."""

    def plan(self, problem: LinearProblem, base: LinearObjective) -> Plan:
        """Centre and scale the columns; raise `NotApplicable` for a dense X, which this does not serve."""
        if not problem.traits.sparse:
            raise NotApplicable
        start = problem.start
        base, scaling = problem.with_convergence_norm(base)
        x0 = scaling.to_preconditioned(null_model(base, scaling) if start is None else start)
        every = steps_between_checks(problem.resident)
        return Plan(lbfgs(LBFGS_MEMORY), Preconditioned(base, scaling), x0, every)


def _accelerated_descent(loss: Loss) -> Accelerated:
    return Accelerated(backtracking=loss.curvature_bound is None)


def _fista(_: Loss) -> FISTA:
    return FISTA()


def _proximal_gradient(_: Loss) -> ProximalGradient:
    return ProximalGradient()


# Functions with names, so that the table can be pickled.
ACCELERATED = Iterations(_accelerated_descent)
FISTA_ON_DATA = Iterations(_fista)
PROXIMAL_GRADIENT = Iterations(_proximal_gradient)


# Lassos in a row, and the change of their weights, as a share of the largest, at which no other is tried.
MAX_REWEIGHTINGS, MAX_WEIGHT_CHANGE = 200, 1e-9


@dataclass(frozen=True)
class ReweightedLasso:
    """Minimise with a penalty that is not convex: by convex ones that touch it, each from the minimum of the last.

    Parameters
    ----------
    solve : callable
        From a `LinearProblem` to its `Solution`: the table of solvers itself.
    """

    solve: Callable[[LinearProblem], Solution]

    def fit(self, problem: LinearProblem) -> Solution:
        """Minimise the objective of a linear fit; parameters and errors as of `LinearSolver.fit`."""
        penalty: Any = problem.penalty
        start = problem.start
        touching = (
            penalty.starting_penalty()
            if start is None
            else penalty.linearised(_params_on_host(start))
        )
        rounds, stable = list[Result](), False
        while not stable and len(rounds) < MAX_REWEIGHTINGS:
            one = problem.with_penalty(touching, problem.warm_start)
            solution = self.solve(one)
            problem.learn_from(one)
            rounds.append(solution.result)
            coef = solution.result.x.coef
            added = penalty.value(coef) - touching.value(coef)
            before, touching = touching, penalty.linearised(_params_on_host(solution.result.x))
            stable = _alike(before, touching)
        result = sum_rounds(rounds, 0)
        if problem.loss.outputs is not None:
            added = backends.namespace(added).sum(added, axis=-1)
        fun = np.asarray(result.fun) + backends.to_numpy(added)
        note = "; the penalty is not convex: another minimum may be lower"
        result = replace(
            result, fun=as_scalar(fun), message=result.message + note,
            method=f"{result.method}, by {len(rounds)} lassos that touch the penalty",
        )  # fmt: skip
        if not stable:
            status = np.full_like(np.asarray(result.status), Status.MAX_ITER)
            result = replace(result, status=as_scalar(status), success=as_scalar(status == 0))
        return solution._replace(result=result)


def _params_on_host(params: Params) -> Any:
    return np.asarray(backends.to_numpy(params.coef), dtype=float)


def _alike(before: Any, after: Any) -> bool:
    """Return whether two penalties have the same slopes at 0 but for rounding."""
    (a, _), (b, _) = (penalty.elastic_parts or (0.0, 0.0) for penalty in (before, after))
    return bool(
        np.max(np.abs(np.asarray(a) - b)) <= MAX_WEIGHT_CHANGE * np.max(np.abs(b), initial=0.0)
    )


@dataclass(frozen=True)
class ConvexStart:
    """Minimise a loss that is not convex from the minimum of one that is, which the loss names.

    Parameters
    ----------
    solve : callable
        From a `LinearProblem` to its `Solution`: the table of solvers itself.
    """

    solve: Callable[[LinearProblem], Solution]

    def fit(self, problem: LinearProblem) -> Solution:
        """Minimise the objective of a linear fit; parameters and errors as of `LinearSolver.fit`."""
        start = problem.loss.starting_loss
        if start is None:
            raise NotApplicable(f"loss {problem.loss.name!r} names no loss to start from")
        with_start = replace(problem, loss=start, default_settings=False)
        first = self.solve(with_start).result
        second = replace(with_start, loss=problem.loss, init=first.x)
        solution = self.solve(second)
        problem.screened, problem.moments = second.screened, second.moments
        result = sum_rounds([first, solution.result], 0)
        result = replace(result, method=f"{result.method}, from the minimum of {start.name}")
        return solution._replace(result=result)


# Rounds of the secant method, of which about six are needed, and the change of the spread that ends them.
MAX_SCALE_ROUNDS = 40
MIN_SCALE_CHANGE, MIN_SCALE_CHANGE_EPS = 1e-10, 64.0
# Residuals beside the targets, in units of the dtype's precision, that are rounding.
MAX_EXACT_RESIDUAL_EPS = 32.0


@dataclass(frozen=True)
class ScaleEstimate:
    """Estimate the spread of the residuals along with the coefficients, for a loss that is made of it.

    At the coefficients that minimise the loss for a spread σ, the mean square of the loss's slopes is another spread.
    Where the two are the same, coefficients and σ minimise Owen's function of both. The secant method finds that σ
    from the spread that least squares leave.

    Parameters
    ----------
    solve : callable
        From a `LinearProblem` to its `Solution`: the table of solvers itself.
    """

    solve: Callable[[LinearProblem], Solution]

    def fit(self, problem: LinearProblem) -> Solution:
        """Minimise the objective of a linear fit; parameters and errors as of `LinearSolver.fit`."""
        loss = problem.loss
        if problem.traits.batch_shape != ():
            raise ValueError(
                f"loss {loss!r} estimates one spread, and there are {problem.traits.problems} problems: fit one at a time"
            )
        base = problem.check_values(Revealed.NOTHING)
        eps = float(np.finfo(backends.dtype_name(problem.resident.dtype)).eps)
        change = max(MIN_SCALE_CHANGE, MIN_SCALE_CHANGE_EPS * eps)
        rounds = list[Result]()
        solution, scale = self._fit_round(problem, Squared(), rounds)
        # Residuals of this size are rounding: the targets are fitted exactly, and any loss of them does.
        least = MAX_EXACT_RESIDUAL_EPS * eps * _root_mean_square(base, Squared(), base.zeros())
        earlier: tuple[float, float] | None = None
        for _ in range(MAX_SCALE_ROUNDS):
            problem.loss = loss.with_scale(max(scale, least) or 1.0)
            if scale <= least:
                break
            solution, measured = self._fit_round(problem, problem.loss, rounds)
            if not np.all(solution.result.success) or abs(measured - scale) <= change * scale:
                break
            scale, earlier = _secant_step(scale, measured, earlier), (scale, measured)
        result = sum_rounds(rounds, 0)
        result = replace(result, method=f"{result.method}, delta by the spread of the residuals")
        if isinstance(result, FitResult):
            result = replace(result, loss=problem.loss)
        return solution._replace(result=result)

    def _fit_round(
        self, problem: LinearProblem, loss: Loss, rounds: list[Result]
    ) -> tuple[Solution, float]:
        """Fit with one loss, from where the last round ended, and measure the root mean square of its slopes."""
        one = replace(problem, loss=loss, solver=None)
        if rounds:
            one = replace(one, init=None, warm_start=rounds[-1].x)
        solution = self.solve(one)
        problem.screened, problem.moments = one.screened, one.moments
        rounds.append(solution.result)
        base = problem.check_values(Revealed.NOTHING)
        return solution, _root_mean_square(base, loss, solution.result.x)


def _root_mean_square(base: LinearObjective, loss: Loss, params: Params) -> float:
    """Return the root mean square of a loss's slopes: one pass, and one read."""
    sums = base.blocks.sum(functools.partial(_squared_slopes, loss, params))
    return math.sqrt(float(backends.to_numpy(sums / base.blocks.total)))


def _squared_slopes(loss: Loss, params: Params, X: Array, y: Array, weight: Array | None) -> Array:
    """Sum the squares of the loss's slopes over the rows of one block."""
    slope = loss.gradient(linear_predictor(params, X), y)
    squares = slope * slope
    return backends.namespace(y).sum(squares if weight is None else squares * weight)


def _secant_step(scale: float, measured: float, earlier: tuple[float, float] | None) -> float:
    """Return a spread nearer to the one that is measured where it is assumed, by logarithms of two points."""
    if earlier is None or not (measured > 0.0 < earlier[1]):
        return measured
    before, after = (math.log(at) for at in (earlier[0], scale))
    gap_before, gap = math.log(earlier[1] / earlier[0]), math.log(measured / scale)
    if gap == gap_before:
        return measured
    step = -gap * (after - before) / (gap - gap_before)
    # A spread is measured between the one that was assumed and the solution: further on by a few times at most.
    return scale * math.exp(step) if 0.0 < step / gap < 20.0 else measured
