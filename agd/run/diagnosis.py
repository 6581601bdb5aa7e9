"""Explain how a linear fit ended: overflow, divergence, separation, dependent columns, bad conditioning.

It stands between the solver and the door: `explain` turns the result of a run into the `FitResult` that the
user gets, with what is known of its causes in the message, and returns what to warn of. `classify_result` serves
``agd.minimize(..., certify=True)``: second derivatives say what kind of critical point was reached.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Array, Method, Params, Tree
from agd._validation import as_value
from agd.gradient import CriticalPoint, FunctionObjective, critical_point
from agd.gradient.column_stats import column_peaks, column_scaling
from agd.gradient.conditioning import Columns
from agd.gradient.linear import LinearObjective, linear_predictor
from agd.gradient.objective import largest_curvature
from agd.gradient.preconditioner import Preconditioned
from agd.loss.penalties import ridge_strength
from agd.run.certificate import (
    Certificate,
    convergence_kind,
    predicted_contraction,
    stack_params,
    unit_params,
)
from agd.run.linear_problem import LinearProblem, Solution, check_penalty_range
from agd.run.loop import attach_result, attached_result, status_message
from agd.run.result import FitResult, Result, Status, as_fit_result
from agd.run.separation import separation_message
from agd.run.stopping import DIVERGENCE_FACTOR, default_tolerance

__all__ = [
    "check_dependence",
    "check_range",
    "classify_result",
    "explain",
    "explain_conditioning",
    "few_rows_warning",
    "name_interrupted_fit",
    "rank_deficiency",
    "warns_of_status",
]


def explain(solution: Solution, problem: LinearProblem) -> tuple[FitResult, str]:
    """Put a solution into words: what the status means here, and what to warn of the rank of X.

    Parameters
    ----------
    solution : Solution
        How the run ended, and what was run.
    problem : LinearProblem
        The problem.

    Returns
    -------
    result : FitResult
        The result in the user's terms.
    warning : str
        What to warn of the rank of X; empty where there is nothing.

    Raises
    ------
    ValueError
        For values of X that are not finite, and for what the dtype cannot hold.
    """
    result, plan, rank_warning, warning = solution
    if plan is None or rank_warning is None:
        return result, warning
    problem.check_after(result)
    screened = problem.screened_data
    result = as_fit_result(result, screened, problem.loss, problem.solver)
    result = _explain_status(result, plan.objective, plan.method, screened.min_weight_share)
    check_range(result, plan.objective, plan.method, given=problem.start is not None)
    return rank_warning(result, plan)


def name_interrupted_fit(interrupt: KeyboardInterrupt, problem: LinearProblem, labels: Any) -> None:
    """Put the result that an interrupt carries into the user's terms; without one there is nothing to do."""
    result = attached_result(interrupt)
    if result is None or problem.screened is None:
        return
    result = as_fit_result(result, problem.screened, problem.loss)
    attach_result(interrupt, result if labels is None else replace(result, classes=labels))


def check_range(result: FitResult, objective: Any, method: Any = None, *, given: bool) -> None:
    """Refuse what the dtype cannot hold the fit of, where a run broke at its first point.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : LinearObjective or Preconditioned
        What was minimised.
    method : Method, optional
        What took the step.
    given : bool
        Whether the user chose the first point, at which the loss may overflow for that.

    Raises
    ------
    ValueError
        For a penalty that the dtype cannot hold, a column so large that sums over its rows overflow, one
        so small that its coefficient does (it names the column and its size), targets so large that the
        loss does, a first step so long that it does, and units in which the curvature does, for a method
        that works in them.
    """
    broken = (np.asarray(result.status) == Status.NON_FINITE) & (np.asarray(result.nit) == 0)
    if not broken.any():
        return
    base = objective.linear_objective
    kind = backends.dtype_name(base.blocks.X.dtype)
    if base.penalty is not None:
        check_penalty_range(base.penalty, kind)
    peaks, usable = _column_sizes(base)
    slopes = np.isfinite(backends.to_numpy(result.jac.coef))
    sound = np.isfinite(np.asarray(result.fun))
    # With unusable columns the value is not finite either: only without them is it y's doing.
    bad = np.argwhere(~usable)
    if not len(bad) and not sound.all():
        if given:
            return
        problem = _problem_label(np.argwhere(~sound)[0])
        if result.loss.positive_predictor:
            raise ValueError(
                f"loss {result.loss!r} is of predictors above 0, and the first point has others{problem}: give an "
                f"init whose predictors are above 0, such as the best constant model of intercept=True"
            )
        raise ValueError(
            f"y{problem} is too large for loss {result.loss.name!r} in {kind}: the loss of the best "
            f"constant model overflows; divide y by a constant"
        )
    bad = bad if len(bad) else np.argwhere(~slopes)
    if not len(bad):
        if objective is base:
            raise ValueError(_too_far(result.method, method, float(np.max(peaks)), kind))
        return
    first = tuple(int(i) for i in bad[0])
    peak = float(np.broadcast_to(peaks, usable.shape)[first])
    problem = _problem_label(first[:-1]) if base.blocks.X.ndim > 2 else ""
    what = "large: sums over its rows" if peak > 1.0 else "small: its coefficient"
    raise ValueError(
        f"column {first[-1]} of X{problem}, whose largest absolute value is {peak:.3g}, is too {what} "
        f"would overflow {kind}; divide it by a constant near its size"
    )


def _too_far(name: str, method: Any, peak: float, kind: str) -> str:
    """Word the error for a first step out of the dtype's range: by a rate that was given, or by L."""
    rule = None if method is None else method.update_rule
    rate = None if rule is None else rule.constant_rate
    if rate is not None:
        return (
            f"the first step of method {name!r} leads out of the range of {kind}: use a smaller "
            f"learning_rate than {rate:.3g}, or method='auto' (the largest absolute value in X "
            f"is {peak:.3g})"
        )
    return (
        f"method {name!r} works in the units of X, in which the curvature overflows {kind}: "
        f"use method='auto', or divide the columns of X, of size {peak:.3g}, by a constant"
    )


def _problem_label(index: Any) -> str:
    """Name a problem of a batch, or a target beside others; nothing where there is but one."""
    numbers = ", ".join(str(int(i)) for i in index)
    return f" of problem {numbers}" if numbers else ""


def _column_sizes(base: LinearObjective) -> tuple[Any, Any]:
    """Return each column's largest absolute value, and whether it has coordinates to fit it in."""
    scaling = base.convergence_norm if base.convergence_norm is not None else column_scaling(base)
    xp = backends.namespace(scaling.inv_std)
    usable = xp.isfinite(scaling.inv_std) & xp.isfinite(scaling.mean) & (scaling.inv_std > 0.0)
    return column_peaks(base.blocks), backends.to_numpy(usable)


MIN_CORRECT_DIGITS = 4.0  # of the coefficients: with fewer there is a warning
CURVATURE_PASSES = 20  # over the data, that it takes to measure the largest curvature
# Rules whose rate has a largest stable value of about 2/L.
RATE_LIMITED_RULES = frozenset({"gradient_descent", "momentum", "nesterov", "heavy_ball"})
RATE_ADVICE = "use a learning_rate below it, or 'auto'"


def _explain_status(
    result: FitResult, objective: Any, method: Any, min_weight_share: float
) -> FitResult:
    """Name the largest stable step after a divergence, and classes that a plane separates.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : LinearObjective or Preconditioned
        What was minimised.
    method : Method
        What took the steps.
    min_weight_share : float
        The smallest positive weight over the sum of the weights.

    Returns
    -------
    FitResult
        The same, with more to read in its message.
    """
    separated = _separated_problems(result, objective, min_weight_share)
    if separated.any():
        return without_minimum(result, where=separated)
    result = _mark_diverged(result, method)
    if np.any(result.status == Status.DIVERGED):
        return _explain_divergence(result, objective, method)
    if np.any(result.status == Status.MAX_ITER):
        without_counts = _problems_without_counts(result, objective)
        if without_counts.any():
            return without_minimum(result, where=without_counts, words=NO_COUNT_WORDS)
        return _too_long(result, objective, method)
    result = explain_failed_search(result)
    if not result.loss.convex:
        note = f"; loss {result.loss.name!r} is not convex: another minimum may be lower"
        return replace(result, message=result.message + note)
    words = separation_message(result, objective)
    if words:
        return without_minimum(result, where=False, words=words)
    without_counts = _problems_without_counts(result, objective)
    if not without_counts.any():
        return result
    return without_minimum(result, where=without_counts, words=NO_COUNT_WORDS)


SEPARATION_WORDS = (
    "the classes are perfectly separated, so the coefficients grow without bound and no minimum exists: add a "
    "penalty, such as penalty=agd.loss.L2(1e-3)"
)


NO_COUNT_WORDS = "all counts are 0, so the intercept falls without bound and no minimum exists"
# Where no row counts the mean loss is the mean of the predictions: the targets are summed where it is below this.
MAX_VALUE_WITHOUT_COUNTS = 1e-3


def _problems_without_counts(result: FitResult, objective: Any) -> Any:
    """Return the problems whose targets are all 0 under a loss that then falls for ever, shape (...): one read."""
    base, value = objective.linear_objective, np.asarray(result.fun)
    none = np.zeros(np.shape(result.status), dtype=bool)
    counts = base.loss.has_recession_direction and base.loss.classes is None
    if not counts or base.penalty is not None or result.intercept is None or base.blocks.lazy:
        return none
    suspected = (value > 0.0) & (value < MAX_VALUE_WITHOUT_COUNTS)
    if not suspected.any():
        return none
    total = backends.to_numpy(base.blocks.sum(_sum_of_targets)[0])
    return suspected & (total == 0.0)


def _sum_of_targets(_: Any, y: Array, weight: Any) -> list[Array]:
    """Sum the targets of one block, with their weights."""
    xp = backends.namespace(y)
    return [xp.sum(y if weight is None else y * weight, axis=-1)]


def _separated_problems(result: FitResult, objective: Any, min_weight_share: float) -> Any:
    """Return the problems whose rows all lie on the side of their class, shape (...).

    A row on the wrong side costs at least log 2: where the mean loss says that there is none, no pass is
    needed. Where a run ended too early for that, the rows are asked: one pass, one read.
    """
    base = objective.linear_objective
    none = np.zeros(np.shape(result.status), dtype=bool)
    if result.classes is None or base.penalty is not None or not base.loss.has_recession_direction:
        return none
    separated = np.asarray(result.fun) < math.log(2.0) * min_weight_share
    early = np.isin(
        np.asarray(result.status), (Status.MAX_ITER, Status.LINE_SEARCH, Status.PLATEAU)
    )
    if (
        base.blocks.lazy
        or not (early & ~separated & (np.asarray(result.fun) < math.log(2.0))).any()
    ):
        return separated
    count = functools.partial(_count_costly_rows, base.loss, Params(result.coef, result.intercept))
    with np.errstate(all="ignore"):
        costly = backends.to_numpy(base.blocks.sum(count)[0])
    return separated | (early & (costly == 0.0))


def _count_costly_rows(loss: Any, params: Params, X: Any, y: Array, weight: Any) -> list[Array]:
    """Count the rows that cost log 2 or more, which no row on the side of its class does."""
    xp = backends.namespace(y)
    value = loss.value(linear_predictor(params, X, outputs=loss.outputs is not None), y)
    costly = value >= math.log(2.0) * (1.0 - 1e-6)
    if weight is not None:
        costly = costly & (weight > 0.0)
    return [xp.sum(xp.astype(costly, value.dtype), axis=-1)]


def without_minimum(result: FitResult, *, where: Any, words: str = "") -> FitResult:
    """Return the result with the status of problems that have no minimum, or of one that words are given of."""
    where = np.asarray(where) | (bool(words) and np.ndim(result.status) == 0)
    if not where.any():
        return result
    status = np.where(where, int(Status.UNBOUNDED), np.asarray(result.status))
    single = status.ndim == 0
    message = status_message(status, np.asarray(result.nit))
    return replace(
        result,
        status=Status(int(status)) if single else status,
        success=False if single else status == Status.CONVERGED,
        message=message.replace(Status.UNBOUNDED.advice, words or SEPARATION_WORDS),
    )


def explain_failed_search(result: FitResult) -> FitResult:
    """Say of a search that found nothing what that can be: the gradient is none of the user's."""
    wrong = f", or the slope of loss {result.loss.name!r} is wrong" * result.loss.user_defined
    words = (
        f"the line search found no lower point along its direction: the precision of the arithmetic is "
        f"reached{wrong}: ask for less (grad_tol)"
    )
    return replace(result, message=result.message.replace(Status.LINE_SEARCH.advice, words))


def _mark_diverged(result: FitResult, method: Any) -> FitResult:
    """Call a run diverged that ran out of steps far above its first value: more would not help.

    Only a rule takes steps that nothing holds against the value. A loss whose slope is bounded has no
    gradient that grows, by which the run itself would have known.
    """
    if method.update_rule is None:
        return result
    first = np.asarray(result.history.value[0])
    status = np.asarray(result.status)
    above = (status == Status.MAX_ITER) & (
        np.asarray(result.fun) > first + (DIVERGENCE_FACTOR - 1.0) * np.abs(first)
    )
    if not above.any():
        return result
    status = np.where(above, int(Status.DIVERGED), status)
    single = status.ndim == 0
    return replace(
        result,
        status=Status(int(status)) if single else status,
        message=status_message(status, np.asarray(result.nit)),
    )


# L/mu above which descent in the units of the columns takes more steps than the default limit.
MAX_CONDITION_OF_DESCENT = 1e4


def _unscaled_advice(result: FitResult, objective: Any) -> str:
    """Return what to advise where columns of unlike scales make L/mu large; nothing where they are alike.

    L/mu is at least the square of the largest ratio of their spreads; where the certificate has it, that is said.
    """
    scaling = objective.linear_objective.convergence_norm
    if objective.preconditioner is not None or scaling is None:
        return ""
    known, host = result.certificate, backends.to_numpy(scaling.inv_std)
    usable = np.where(np.isfinite(host) & (host > 0.0), host, np.nan)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of a problem without a usable column
        ratio = float(np.nanmax(np.nanmax(usable, axis=-1) / np.nanmin(usable, axis=-1)))
    if not ratio * ratio > MAX_CONDITION_OF_DESCENT:
        return ""
    measured = known.source == "Hessian" and isinstance(known.condition, float)
    exact = measured and math.isfinite(known.condition)
    condition = (
        f"L/mu is {known.condition if exact else ratio * ratio:.2g}{' or more' * (not exact)}"
    )
    return f"the spreads of the columns differ by a factor of {ratio:.2g}, so that {condition}: use method='auto'"


def _too_long(result: FitResult, objective: Any, method: Any) -> FitResult:
    """Advise a smaller rate, not more steps, where the rate is above the largest stable one."""
    if advice := _unscaled_advice(result, objective):
        words = f"stopped at the limit of iterations or calls before it converged: {advice}"
        result = replace(result, n_sync=result.n_sync + 1)
        return replace(result, message=result.message.replace(Status.MAX_ITER.advice, words))
    rule = method.update_rule
    rate = rule.constant_rate if rule is not None and rule.name == "gradient_descent" else None
    # Measuring takes a few passes: of a run as short as that there is nothing to say yet.
    if rate is None or result.loss.curvature_bound is None or np.max(result.nit) < CURVATURE_PASSES:
        return result
    result, least = _largest_step(result, objective, Status.MAX_ITER)
    if not rate > least:
        return result
    words = (
        f"stopped at the limit of iterations or calls before it converged: learning_rate={rate:.6g} is "
        f"above 2/L = {least:.6g}, the largest stable step of gradient descent here: {RATE_ADVICE}"
    )
    return replace(result, message=result.message.replace(Status.MAX_ITER.advice, words))


def _largest_step(result: FitResult, objective: Any, status: Status) -> tuple[FitResult, float]:
    """Return 2/L of the problems with a status, the least of them; L is measured where it is not known yet."""
    if result.certificate.curvature is None:
        L = backends.to_numpy(largest_curvature(objective)).astype(float)
        L = L.item() if L.ndim == 0 else L
        certificate = replace(result.certificate, curvature=L, largest_step=2.0 / L)
        result = replace(result, certificate=certificate, n_sync=result.n_sync + 1)
    ended = np.asarray(result.status) == status
    return result, float(np.min(np.asarray(result.certificate.largest_step)[ended]))


def _explain_divergence(result: FitResult, objective: Any, method: Any) -> FitResult:
    """Name the largest stable step, where the run took steps of gradient descent that were longer."""
    rule = method.update_rule
    if rule is None:  # it found its steps by itself
        return result
    if rule.name not in RATE_LIMITED_RULES:
        note = f"; use a smaller learning_rate for {rule.name!r}, or method='auto'"
        return replace(result, message=result.message + note)
    if result.loss.curvature_bound is None:
        note = f"; loss {result.loss.name!r} has no largest stable step: use method='auto'"
        return replace(result, message=result.message + note)
    result, least = _largest_step(result, objective, Status.DIVERGED)
    if rule.constant_rate is not None and rule.constant_rate < least:
        words = (
            "diverged, though by no step that is too long: the first point (init=) is out of range"
        )
        return replace(result, message=result.message.replace(Status.DIVERGED.advice, words))
    note = f"; 2/L = {least:.6g} is the largest stable step of gradient descent here: {RATE_ADVICE}"
    return replace(result, message=result.message + note)


def warns_of_status(result: FitResult) -> bool:
    """Return whether the caller has to be warned: an end that neither the tests nor he asked for."""
    if isinstance(result.status, Status):
        return result.status not in (Status.CONVERGED, Status.CALLBACK)
    return bool((~result.success & (result.status != Status.CALLBACK)).any())


def check_dependence(result: FitResult, objective: Any) -> tuple[FitResult, str]:
    """Say whether the columns are linearly dependent, where the certificate leaves that open.

    The Hessian that the certificate rests on is that of the columns as they are, and of columns far from
    zero it knows little. Here it is formed from columns that are centred and scaled, whose rank can be
    told from rounding; this takes one pass over the data and one read.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : LinearObjective or Preconditioned
        What was minimised.

    Returns
    -------
    result : FitResult
        The same, with the read counted.
    message : str
        What to warn of; empty where the columns are independent, or nothing is known of them.
    """
    known = result.certificate
    if known.source != "Hessian" or known.condition != math.inf:
        return result, ""
    preconditioned = objective
    if objective.preconditioner is None:
        scaling = objective.convergence_norm or column_scaling(objective)
        preconditioned = Preconditioned(objective, scaling)
    hessian, reach = _scaled_hessian(preconditioned)
    result = replace(result, n_sync=result.n_sync + 1)
    if not np.isfinite(hessian).all():
        return result, ""
    n = len(hessian)
    values = np.linalg.eigvalsh((hessian + hessian.T) / 2.0)
    noise = n * float(np.finfo(hessian.dtype).eps) * max(1.0, reach)
    rank = int((values > noise * values[-1]).sum())
    if rank == n:
        return result, ""
    return result, rank_deficiency(
        f"{rank} of {n} (the scaled Hessian's condition number is above {1.0 / noise:.0e})",
        intercept=preconditioned.base.intercept,
    )


def rank_deficiency(
    rank: str, *, intercept: bool, subject: str = "", rows: str = "", choice: str = "one choice"
) -> str:
    """Word the warning that the columns are linearly dependent.

    Parameters
    ----------
    rank : str
        The rank and the number of columns, such as "3 of 4".
    intercept : bool
        Whether the constant term counts as a column.
    subject, rows : str
        Which columns, and in which rows, if not all of X.
    choice : str
        Which of the many solutions the coefficients are.
    """
    constant = " and the intercept" * intercept
    return (
        f"the columns of X{subject}{constant} are linearly dependent{rows}: their rank is {rank}. Many "
        f"coefficients fit equally well, and these are {choice}: drop columns, or add a penalty such as "
        f"agd.loss.L2(1e-3)"
    )


def _scaled_hessian(preconditioned: Preconditioned) -> tuple[Any, float]:
    """Form the Hessian in scaled coordinates; return it, and how far from zero a column's mean is."""
    with np.errstate(all="ignore"):
        eye = unit_params(preconditioned.base, preconditioned.base.blocks.X.shape[-1])
        product = stack_params(preconditioned.bound_product(eye))
        xp = backends.namespace(product)
        reach = xp.max(
            xp.abs(preconditioned.scaling.mean * preconditioned.scaling.inv_std),
            axis=-1,
            keepdims=True,
        )
        read = backends.to_numpy(xp.concat([xp.reshape(product, (-1,)), reach]))
    n = product.shape[0]
    return np.asarray(read[:-1]).reshape(n, n), float(read[-1])


def explain_conditioning(
    result: FitResult, columns: Columns, *, quadratic: bool
) -> tuple[FitResult, str]:
    """Say what a plan learned of the columns: how they are conditioned, and whether they are dependent.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    columns : Columns
        What was learned.
    quadratic : bool
        Whether the curvatures are those of the objective everywhere.

    Returns
    -------
    result : FitResult
        The same, with the certificate filled in and a bad condition named in the message.
    message : str
        What to warn of; empty where the columns are independent, by a margin.
    """
    if quadratic:
        result = replace(result, certificate=_columns_certificate(result, columns))
    several = "" if np.ndim(columns.rank_deficiency) == 0 else " of a problem"
    missing, intercept = int(np.max(columns.rank_deficiency)), result.intercept is not None
    if missing > 0:
        n = int(result.coef.shape[-1]) + intercept
        return result, rank_deficiency(
            f"{n - missing} of {n}", intercept=intercept, subject=several, choice="the shortest"
        )
    if not columns.ill_conditioned:
        return result, ""
    worst = float(np.max(columns.condition))
    note = (
        f"the columns of X{several}, centred and scaled, have condition number {worst:.2g}: a change "
        f"in a last digit of X or y may change the coefficients by that factor"
    )
    result = replace(result, message=f"{result.message}; {note}")
    kind = backends.dtype_name(result.coef.dtype)
    digits = -math.log10(worst * float(np.finfo(kind).eps))
    if digits >= MIN_CORRECT_DIGITS:
        return result, ""
    return result, (
        f"{note}, which leaves {max(digits, 0.0):.0f} of their digits or so: drop columns, or add a penalty "
        f"such as agd.loss.L2(1e-3)"
    )


def _columns_certificate(result: FitResult, columns: Columns) -> Certificate:
    """Fill in the curvatures in centred and scaled coordinates."""
    low, high = columns.low, columns.high
    with np.errstate(all="ignore"):  # a problem of zeros has no curvature
        condition, largest_step = np.divide(high, low), np.divide(2.0, high)
    return replace(
        result.certificate,
        curvature=high,
        least_curvature=low,
        largest_step=float(largest_step) if np.ndim(largest_step) == 0 else largest_step,
        condition=float(condition) if np.ndim(condition) == 0 else condition,
        source="Hessian",
    )


def few_rows_warning(result: FitResult, objective: Any) -> str:
    """Return what to warn of where rows are too few to determine the coefficients; else nothing.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : KernelLeastSquares or Preconditioned
        What was minimised.
    """
    base = objective.base
    n, p = base.blocks.row_count, int(result.coef.shape[-1]) + base.intercept
    if n >= p or ridge_strength(base.penalty) > 0.0:
        return ""
    scale = backends.to_numpy(objective.scaling.inv_std)
    return rank_deficiency(
        f"at most {int(n)} of {p}, as X has {int(n)} rows",
        intercept=base.intercept,
        choice="the shortest" if (scale == scale[..., :1]).all() else "one choice",
    )


NEGATED_KINDS = {"minimum": "maximum", "maximum": "minimum"}


def classify_result(
    result: Result,
    objective: FunctionObjective,
    method: Method,
    derivatives: tuple[Callable[..., Any], Any, tuple[Any, ...]],
    *,
    negative: bool = False,
    forward: bool = False,
) -> Certificate:
    """Return a run's certificate with the critical point's kind, and the curvatures of its Hessian.

    Where the run converged by a gradient's limit that is above what `critical_point` asks for by itself,
    that limit says what is critical: a point that was good enough for the run is here, too. A gradient by
    the 2-point formula is known to its error only, and `critical_point` takes a better one: that error is
    allowed beside the limit.

    Parameters
    ----------
    result : Result
        The run's.
    objective : FunctionObjective
        What it minimised; with a penalty, that is part of the function.
    method : Method
        How it moved.
    derivatives : tuple of callable, jac, args
        The function as the user gave it, for as many derivatives as it has.
    negative : bool
        Whether the objective is the function's negative. The kind is then that of the function, the
        curvatures those of the objective.
    forward : bool
        Whether the run had its gradient by the 2-point formula.

    Returns
    -------
    Certificate
        What is known.
    """
    fun, jac, args, mirrored = _add_penalty(objective, derivatives, negative=negative)
    point = critical_point(fun, result.x, jac, args)
    grad_tol = _gradient_limit(result)
    if forward and result.success:
        grad_tol += _forward_error(point, result)
    if point.grad_tol < point.grad_norm <= grad_tol:
        point = critical_point(fun, result.x, jac, args, grad_tol=grad_tol)
    mu, L = _extreme_eigenvalues(point, mirrored=mirrored)
    convex = mu > 0.0
    kind, rate = convergence_kind(method)
    return replace(
        result.certificate,
        kind=NEGATED_KINDS.get(point.kind, point.kind) if negative and not mirrored else point.kind,
        curvature=L,
        least_curvature=mu,
        largest_step=2.0 / L if L > 0.0 else None,
        condition=L / mu if convex else None,
        contraction=predicted_contraction(mu, L, kind, rate) if convex and kind else None,
        source="Hessian",
        direction=_direction_down(point, result.x, fun, jac, args) if mirrored else point.direction,
    )


def _direction_down(
    point: CriticalPoint, x: Tree, fun: Callable[..., Any], jac: Any, args: tuple[Any, ...]
) -> Tree:
    """Return where the negative of a function falls, at a point that is known as one of the function itself."""
    if point.kind not in ("saddle", "minimum"):
        return None

    def negated(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *inputs: optree.tree_map(operator.neg, f(*inputs))

    turned = negated(jac) if callable(jac) else jac
    return critical_point(negated(fun), x, turned, args, grad_tol=point.grad_tol).direction


def _add_penalty(
    objective: FunctionObjective,
    derivatives: tuple[Callable[..., Any], Any, tuple[Any, ...]],
    *,
    negative: bool,
) -> tuple[Callable[..., Any], Any, tuple[Any, ...], bool]:
    """Make a smooth penalty part of the function; the last says whether it is the negative's mirror image."""
    fun, jac, args = derivatives
    if objective.penalty is None:
        return fun, jac, args, negative
    if callable(jac) or jac is True:
        return objective.value_and_grad, True, (), False

    def penalised(params: Tree, *args: Any) -> Array:  # to be differentiated as a whole, twice
        value, extra = as_value(fun(params, *args), params), objective.added(params)
        return value - extra if negative else value + extra

    return penalised, jac, args, negative


def _gradient_limit(result: Result) -> float:
    """Return the largest limit of a partial derivative at which the run converged; 0 if it did not."""
    if not result.success:
        return 0.0
    limits: list[Any] = optree.tree_leaves(result.certificate.tolerance)
    return float(np.max(limits)) if limits else 0.0


def _forward_error(point: CriticalPoint, result: Result) -> float:
    """Bound the error of (f(x + h) - f(x)) / h with h = eps^(1/2) max(1, |x|): h L / 2 + 2 eps |f| / h."""
    leaves = optree.tree_leaves(result.x)
    size = max(1.0, *(float(np.max(np.abs(backends.to_numpy(x)))) for x in leaves))
    L = max(abs(point.least_curvature), abs(point.largest_curvature))
    root = default_tolerance(result.x) ** 1.5
    return float(root * (0.5 * L * size + 2.0 * abs(result.fun) / size))


def _extreme_eigenvalues(point: CriticalPoint, *, mirrored: bool) -> tuple[float, float]:
    least, largest = point.least_curvature, point.largest_curvature
    return (-largest, -least) if mirrored else (least, largest)
