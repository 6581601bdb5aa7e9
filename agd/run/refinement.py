"""A run on moments, held against the data: what the moments lost is made up for, and the run goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._tree import as_scalar
from agd._typing import Array, Method, Params
from agd.gradient.column_stats import column_scaling, default_gradient_tolerance
from agd.gradient.conditioning import known_row_count
from agd.gradient.kernel import KernelLeastSquares
from agd.gradient.linear import LinearObjective
from agd.gradient.preconditioner import Preconditioned, Scaling
from agd.loss import L2, Squared
from agd.loss.penalties import ridge_strength
from agd.run.loop import run
from agd.run.result import FitResult, History, Result, Status
from agd.run.select_solver import Plan, every, null, takes_moments
from agd.run.stopping import Stop
from agd.update.conjugate_gradient import LinearCG, RowCG

__all__ = [
    "conjugate",
    "few_rows",
    "held",
    "refined",
    "summed",
    "told",
]

MAX_REFINEMENTS = (
    5  # each leaves eps condition² of what moments lost; more help only where nothing does
)


def refined(
    method: Method,
    objective: Any,
    x0: Params,
    stop: Stop,
    callback: Callable[[Result], object] | None = None,
    *,
    grad_tol: float | None = None,
    check_every: int = 10,
) -> Result:
    """Minimise an objective on moments, evaluate the data there, correct the moments, and go on.

    Parameters
    ----------
    method, x0, stop, callback, grad_tol, check_every
        As for `agd.run.run`.
    objective : Preconditioned
        Of a `MomentObjective`.

    Returns
    -------
    Result
        The last round's, with value and gradient from the data, the counts of all rounds, and one
        evaluation for each pass over the data. It has converged only if it has by the data's gradient.
    """
    rounds: list[Result] = []
    passes, left = 0, stop.max_iter
    while True:
        hear = None if callback is None else functools.partial(told, callback, rounds)
        some = replace(stop, max_iter=left)
        found = run(method, objective, x0, some, hear, grad_tol=grad_tol, check_every=check_every)
        rounds.append(found)
        value, grad, residual = _evaluate_surrogate_on_data(objective, found)
        passes += 1
        left -= int(np.max(found.nit))
        reached = residual <= _reach(found)
        ended = ~np.asarray(found.success) | reached
        if ended.all() or passes > MAX_REFINEMENTS or left < 1:
            return _merge_rounds(rounds, value, grad, residual, reached, passes)
        objective = replace(objective, base=objective.base.corrected(found.x, grad))
        x0 = objective.scaling.to_preconditioned(found.x)


def _reach(found: Result) -> Any:
    """Return the gradient below which the data agree that a run on moments ended where it says."""
    limits = optree.tree_leaves(found.certificate.tolerance)
    return functools.reduce(np.maximum, limits, 2.0 * np.asarray(found.certificate.grad_norm))


def _evaluate_surrogate_on_data(objective: Any, found: Result) -> tuple[Any, Params, Any]:
    """Return value and gradient at a result from the data, and the size of the gradient; one read."""
    base, xp = objective.base, backends.namespace(found.x.coef)
    with np.errstate(all="ignore"):
        smooth, grad = base.evaluate_data(found.x)
        v = objective.scaling.to_preconditioned(found.x)
        size = objective.grad_norm(objective.scaling.transform_gradient(grad), v)
        read = backends.to_numpy(xp.stack([smooth + base.penalty_value(found.x), size]))
    return as_scalar(read[0]), grad, np.asarray(read[1])


def told(callback: Callable[[Result], object], rounds: list[Result], result: Result) -> object:
    """Tell a callback of a round's result, with the counts of those before."""
    return callback(summed([*rounds, result], 0))


def summed(rounds: list[Result], passes: int) -> Result:
    """Return the last round's result with the counts and the history of all."""
    last = rounds[-1]
    nit = sum(np.asarray(one.nit) for one in rounds)
    nfev = sum(np.asarray(one.nfev) for one in rounds) + passes
    return replace(
        last,
        nit=as_scalar(nit),
        nfev=as_scalar(nfev),
        njev=as_scalar(nfev),
        n_sync=sum(one.n_sync for one in rounds) + passes,
        history=_joined([one.history for one in rounds]),
    )


def _joined(parts: list[History]) -> History:
    """Put histories one after the other; counts go on."""
    joined = parts[0]
    for part in parts[1:]:
        moved = part._replace(nit=part.nit + joined.nit[-1], nfev=part.nfev + joined.nfev[-1])
        joined = History(*map(np.concatenate, zip(joined, moved, strict=True)))
    return joined


def _merge_rounds(
    rounds: list[Result], value: Any, grad: Params, residual: Any, reached: Any, passes: int
) -> Result:
    found = summed(rounds, passes)
    certificate = replace(found.certificate, grad_norm=as_scalar(residual))
    changes: dict[str, Any] = {}
    if not (reached | ~np.asarray(found.success)).all():
        status = np.where(reached | ~np.asarray(found.success), found.status, Status.LINE_SEARCH)
        single = status.ndim == 0
        changes = {
            "status": Status(int(status)) if single else status,
            "success": as_scalar(status == Status.CONVERGED),
            "message": (
                "the gradient of the data falls no further than the moments of X let it: the precision "
                "of the arithmetic is reached (badly conditioned columns); try method='fista'"
            ),
        }
    return replace(
        found, fun=value, jac=grad, certificate=certificate, **changes,
        method=found.method + " on the moments",
    )  # fmt: skip


MAX_CG_ROUNDS = (
    5  # each starts from the gradient of the data: more help only where rounding is all there is
)
UNEVEN = 100.0  # ratio of the columns' spreads above which the shortest answer takes too many steps


def conjugate(base: LinearObjective, start: Params | None, *, measured: bool) -> Plan | None:
    """Choose for the squared loss, alone or with `L2`, of columns so many that no moments are formed.

    Of fewer rows than columns that is descent in the span of the rows. Else, and from a point or to a
    gradient that the user asks for, it is in centred and scaled coordinates; without a penalty in
    coordinates of one scale, as long as the columns are of about one size, so that the answer from
    0 is the shortest.

    Parameters
    ----------
    base : LinearObjective
        Loss, data and penalty.
    start : Params, optional
        The first point; the best constant model by default.
    measured : bool
        Whether the stopping test measures the gradient in centred and scaled coordinates.

    Returns
    -------
    Plan or None
        None for another loss or penalty, and where moments serve.
    """
    quadratic = type(base.loss) is Squared and type(base.penalty) in (L2, type(None))
    if not quadratic or takes_moments(base):
        return None
    scaling = column_scaling(base)
    if measured:
        base = replace(base, convergence_norm=scaling)
    scaling, even = _coordinates(base, scaling)
    few = known_row_count(base) < base.blocks.X.shape[-1] and not base.blocks.lazy
    if few and even and measured and start is None:
        with np.errstate(all="ignore"):  # as in a run: what is not finite is said by the status
            rows = KernelLeastSquares.of(base, scaling)
            return Plan(RowCG(), rows, rows.zeros(), every(base))
    there = Preconditioned(base, scaling)
    with np.errstate(all="ignore"):
        x0 = scaling.to_preconditioned(null(base, scaling) if start is None else start)
    return Plan(LinearCG(), there, x0, every(base))


def _coordinates(base: LinearObjective, scaling: Scaling) -> tuple[Scaling, bool]:
    """Return coordinates of one scale where many answers are left open, and whether rows serve."""
    if ridge_strength(base.penalty) > 0.0 or known_row_count(base) >= base.blocks.X.shape[-1]:
        return scaling, True
    xp, D = backends.namespace(scaling.inv_std), scaling.inv_std
    least = xp.min(D, axis=-1, keepdims=True)
    ratio = float(np.max(backends.to_numpy(xp.max(D, axis=-1) / least[..., 0])))
    if not ratio <= UNEVEN:
        return scaling, False
    return scaling._replace(inv_std=xp.zeros_like(D) + least), True


def held(
    method: Method,
    objective: Any,
    x0: Any,
    stop: Stop,
    callback: Callable[[Result], object] | None = None,
    *,
    grad_tol: float | None = None,
    check_every: int = 10,
) -> Result:
    """Minimise by recursion, evaluate the data there, and go on from there while that says so.

    Parameters
    ----------
    method, x0, stop, callback, grad_tol, check_every
        As for `agd.run.run`.
    objective : KernelLeastSquares or Preconditioned
        What `conjugate` chose.

    Returns
    -------
    Result
        The last round's, with value and gradient from the data, and the counts of all rounds. It has
        converged only if it has by the data's gradient.
    """
    rounds: list[Result] = []
    base, scaling, left, least = objective.base, objective.scaling, stop.max_iter, np.inf
    while True:
        hear = None if callback is None else functools.partial(told, callback, rounds)
        some = replace(stop, max_iter=left)
        found = run(method, objective, x0, some, hear, grad_tol=grad_tol, check_every=check_every)
        rounds.append(found)
        value, grad, residual = _evaluate_on_data(base, found.x)
        left -= int(np.max(found.nit))
        reached = residual <= _limit(found)
        open_ = np.asarray(found.success) & ~reached
        idle = (residual > 0.5 * least)[open_].all() or len(rounds) > MAX_CG_ROUNDS
        if idle or left < 1:
            return _merge_cg_rounds(rounds, value, grad, residual, open_)
        least = residual
        method, objective = LinearCG(), Preconditioned(base, scaling)
        x0 = scaling.to_preconditioned(found.x)


def _limit(found: Result) -> Any:
    """Return the gradient that the run was held against; twice its last where it was against none."""
    limits = optree.tree_leaves(found.certificate.tolerance)
    limit = functools.reduce(np.maximum, limits, np.asarray(0.0))
    return np.where(limit > 0.0, limit, 2.0 * np.asarray(found.certificate.grad_norm))


def _evaluate_on_data(base: LinearObjective, params: Params) -> tuple[Any, Params, Any]:
    """Return value and gradient from the data, and the size of the gradient; one read."""
    with np.errstate(all="ignore"):
        value, grad = base.value_and_grad(params)
        size = base.grad_norm(grad, params)
        if base.convergence_norm is not None:
            size = size * _rounding(base.convergence_norm, params)
        xp = backends.namespace(value)
        read = backends.to_numpy(xp.stack([value, size]))
    return as_scalar(read[0]), grad, np.asarray(read[1])


def _rounding(measure: Scaling, params: Params) -> Array:
    """Return the share of a gradient that rounding of the params does not make, as of whitened columns."""
    xp = backends.namespace(params.coef)
    reach = xp.abs(measure.mean) + 1.0 / measure.inv_std
    rounded = xp.sum(reach * xp.abs(params.coef), axis=-1)
    if params.intercept is not None:
        rounded = rounded + xp.abs(params.intercept)
    share = 2.0 * float(xp.finfo(rounded.dtype).eps) / default_gradient_tolerance(params.coef)
    return measure.gradient_scale / (measure.gradient_scale + share * rounded)


def _merge_cg_rounds(
    rounds: list[Result], value: Any, grad: Params, residual: Any, open_: Any
) -> Result:
    found = summed(rounds, len(rounds))
    certificate = replace(found.certificate, grad_norm=as_scalar(residual))
    changes: dict[str, Any] = {}
    if open_.any():
        status = np.where(open_, Status.LINE_SEARCH, found.status)
        changes = {
            "status": Status(int(status)) if status.ndim == 0 else status,
            "success": as_scalar(status == Status.CONVERGED),
            "message": (
                "the gradient of the data falls no further by conjugate gradients: the precision of the "
                "arithmetic is reached (badly conditioned columns); add a penalty, such as "
                "agd.loss.L2(1e-3), or use float64"
            ),
        }
    return replace(
        found, fun=value, jac=grad, certificate=certificate, method=rounds[0].method, **changes
    )


def few_rows(result: FitResult, objective: Any) -> str:
    """Return what to warn of where rows are too few to determine the coefficients; else nothing.

    Parameters
    ----------
    result : FitResult
        How the run ended.
    objective : KernelLeastSquares or Preconditioned
        What `conjugate` chose.
    """
    base = objective.base
    n, p = known_row_count(base), int(result.coef.shape[-1]) + base.intercept
    if n >= p or ridge_strength(base.penalty) > 0.0:
        return ""
    constant = " and the intercept" * base.intercept
    scale = backends.to_numpy(objective.scaling.inv_std)
    which = "the shortest" if (scale == scale[..., :1]).all() else "one choice"
    return (
        f"the columns of X{constant} are linearly dependent: their rank is at most {int(n)} of {p}, as X has "
        f"{int(n)} rows. Many coefficients fit equally well, and these are {which}: drop columns, or add a "
        f"penalty such as agd.loss.L2(1e-3)"
    )
