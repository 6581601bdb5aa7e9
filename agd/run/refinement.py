"""Iterative refinement: solve on a surrogate, evaluate the data there, correct the surrogate, go on.

A surrogate costs less than the data and loses digits: moments have squared the condition number of X, and
the residual of a recursion drifts from the true one. What ends a run on a surrogate is therefore tested
once more by the gradient of the data, and the run goes on from there until both agree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import optree

from agd import backends
from agd._tree import as_scalar
from agd._typing import Method, Params
from agd.gradient.linear import LinearObjective
from agd.gradient.preconditioner import Preconditioned
from agd.run.loop import run
from agd.run.result import History, Result, Status
from agd.run.stopping import Stop
from agd.update.conjugate_gradient import LinearCG

__all__ = [
    "Evaluation",
    "MomentSurrogate",
    "RecursiveResidual",
    "Surrogate",
    "refine",
    "sum_rounds",
]

# Each round multiplies the error by eps times the squared condition number. What five rounds do not bring
# down is rounding, which no round removes.
MAX_REFINEMENTS = 5


class Evaluation(NamedTuple):
    """Value and gradient at a point from the data, and the size of the gradient, read by the host."""

    value: Any
    grad: Params
    grad_norm: Any


class Surrogate(Protocol):
    """What is minimised in place of the data, and how the data correct it."""

    @property
    def method(self) -> Method:
        """What takes a step."""
        ...

    @property
    def objective(self) -> Any:
        """What the steps are taken on, in its own coordinates."""
        ...

    @property
    def label(self) -> str:
        """What the result adds to the name of the method."""
        ...

    @property
    def advice(self) -> str:
        """What the message says where the data never agree that the run has converged."""
        ...

    def evaluate(self, params: Params) -> Evaluation:
        """Evaluate the data at a point, in the data's coordinates: one pass and one read."""
        ...

    def agreed_limit(self, result: Result) -> Any:
        """Return the gradient of the data up to which they agree that a run has converged."""
        ...

    def has_stagnated(self, grad_norm: Any, previous: Any) -> Any:
        """Return whether a round reduced the gradient of the data so little that another would not help."""
        ...

    def correct(self, params: Params, grad: Params) -> tuple[Surrogate, Params]:
        """Return the surrogate that has this gradient at this point, and where to go on."""
        ...


def refine(
    surrogate: Surrogate,
    x0: Any,
    stop: Stop,
    callback: Callable[[Result], object] | None = None,
    *,
    grad_tol: float | None = None,
    check_every: int = 10,
) -> Result:
    """Minimise a surrogate, evaluate the data there, correct it, and go on until both agree.

    Parameters
    ----------
    surrogate : Surrogate
        What is minimised in place of the data.
    x0, stop, callback, grad_tol, check_every
        As for `agd.run.run`.

    Returns
    -------
    Result
        The last round's, with value and gradient from the data, the counts of all rounds, and one
        evaluation for each pass over the data. It has converged only if it has by the data's gradient.
    """
    rounds: list[Result] = []
    steps_left, previous_norm, label = (
        stop.max_iter,
        np.inf,
        surrogate.method.name + surrogate.label,
    )
    while True:
        report = None if callback is None else functools.partial(_report_round, callback, rounds)
        round_stop = replace(stop, max_iter=steps_left)
        result = run(
            surrogate.method, surrogate.objective, x0, round_stop, report,
            grad_tol=grad_tol, check_every=check_every,
        )  # fmt: skip
        rounds.append(result)
        evaluation = surrogate.evaluate(result.x)
        grad_norm = evaluation.grad_norm
        steps_left -= int(np.max(result.nit))
        denied = np.asarray(result.success) & ~(grad_norm <= surrogate.agreed_limit(result))
        stagnated = surrogate.has_stagnated(grad_norm, previous_norm)
        if (
            not denied.any()
            or stagnated[denied].all()
            or len(rounds) > MAX_REFINEMENTS
            or steps_left < 1
        ):
            return replace(
                _merge_rounds(rounds, evaluation, denied, surrogate.advice), method=label
            )
        previous_norm = grad_norm
        surrogate, x0 = surrogate.correct(result.x, evaluation.grad)


@dataclass(frozen=True)
class MomentSurrogate:
    """The squared loss by the moments of the data, with a penalty that its prox handles.

    Attributes
    ----------
    method : Method
        What takes a step.
    objective : Preconditioned
        An `MomentObjective` in centred and scaled coordinates.
    """

    method: Any
    objective: Any
    label = " on the moments"
    advice = (
        "the gradient of the data falls no further than the moments of X let it: the precision "
        "of the arithmetic is reached (badly conditioned columns); try method='fista'"
    )

    def evaluate(self, params: Params) -> Evaluation:
        """Evaluate the data at a point: one pass and one read."""
        objective = self.objective
        base, xp = objective.base, backends.namespace(params.coef)
        with np.errstate(all="ignore"):
            smooth, grad = base.evaluate_data(params)
            v = objective.scaling.to_preconditioned(params)
            size = objective.grad_norm(objective.scaling.transform_gradient(grad), v)
            read = backends.to_numpy(xp.stack([smooth + base.penalty_value(params), size]))
        return Evaluation(as_scalar(read[0]), grad, np.asarray(read[1]))

    def agreed_limit(self, result: Result) -> Any:
        """Return the limits of the stopping criteria, or twice the run's last gradient if that is more."""
        limits = optree.tree_leaves(result.certificate.tolerance)
        return functools.reduce(np.maximum, limits, 2.0 * np.asarray(result.certificate.grad_norm))

    def has_stagnated(self, grad_norm: Any, previous: Any) -> Any:  # noqa: ARG002
        """Return False: corrected moments may gain digits in a later round."""
        return np.zeros(np.shape(grad_norm), dtype=bool)

    def correct(self, params: Params, grad: Params) -> tuple[MomentSurrogate, Params]:
        """Shift the linear term of the moments so that their gradient at the point is the data's."""
        objective = replace(self.objective, base=self.objective.base.corrected(params, grad))
        return replace(self, objective=objective), objective.scaling.to_preconditioned(params)


@dataclass(frozen=True)
class RecursiveResidual:
    """Least squares by conjugate gradients, whose residual is a recursion and not that of the data.

    Attributes
    ----------
    method : LinearCG or KernelCG
        What takes a step.
    objective : KernelLeastSquares or Preconditioned
        The objective in the span of the rows, or in coordinates of the columns.
    """

    method: Any
    objective: Any
    label = ""
    advice = (
        "the gradient of the data falls no further by conjugate gradients: the precision of the "
        "arithmetic is reached (badly conditioned columns); add a penalty, such as "
        "agd.loss.L2(1e-3), or use float64"
    )

    def evaluate(self, params: Params) -> Evaluation:
        """Evaluate the data at a point: one pass and one read."""
        base: LinearObjective = self.objective.base
        with np.errstate(all="ignore"):
            value, grad = base.value_and_grad(params)
            size = base.grad_norm(grad, params)
            if base.convergence_norm is not None:
                measure = base.convergence_norm
                size = size * (measure.gradient_scale / measure.resolvable_gradient_scale(params))
            xp = backends.namespace(value)
            read = backends.to_numpy(xp.stack([value, size]))
        return Evaluation(as_scalar(read[0]), grad, np.asarray(read[1]))

    def agreed_limit(self, result: Result) -> Any:
        """Return the limit of the stopping criteria; twice the run's last gradient where there is none."""
        limits = optree.tree_leaves(result.certificate.tolerance)
        limit = functools.reduce(np.maximum, limits, np.asarray(0.0))
        return np.where(limit > 0.0, limit, 2.0 * np.asarray(result.certificate.grad_norm))

    def has_stagnated(self, grad_norm: Any, previous: Any) -> Any:
        """Return whether the round has not even halved the gradient of the data."""
        return grad_norm > 0.5 * previous

    def correct(self, params: Params, grad: Params) -> tuple[RecursiveResidual, Params]:  # noqa: ARG002
        """Begin the recursion anew at the point, in coordinates of the columns."""
        scaling = self.objective.scaling
        restarted = RecursiveResidual(LinearCG(), Preconditioned(self.objective.base, scaling))
        return restarted, scaling.to_preconditioned(params)


def _report_round(
    callback: Callable[[Result], object], rounds: list[Result], result: Result
) -> object:
    """Call the user's callback with the counts of this round and of those before it."""
    return callback(sum_rounds([*rounds, result], 0))


def sum_rounds(rounds: list[Result], passes: int) -> Result:
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
        history=_join_histories([one.history for one in rounds]),
    )


def _join_histories(parts: list[History]) -> History:
    """Put histories one after the other; their counts go on."""
    joined = parts[0]
    for part in parts[1:]:
        moved = part._replace(nit=part.nit + joined.nit[-1], nfev=part.nfev + joined.nfev[-1])
        joined = History(*map(np.concatenate, zip(joined, moved, strict=True)))
    return joined


def _merge_rounds(rounds: list[Result], evaluation: Evaluation, denied: Any, advice: str) -> Result:
    """Return one result for all rounds; a run that the data deny has converged has not."""
    result = sum_rounds(rounds, len(rounds))
    certificate = replace(result.certificate, grad_norm=as_scalar(evaluation.grad_norm))
    changes: dict[str, Any] = {}
    if denied.any():
        # LINE_SEARCH: rounding, not the method, is what ended the run.
        status = np.where(denied, Status.LINE_SEARCH, result.status)
        changes = {
            "status": Status(int(status)) if status.ndim == 0 else status,
            "success": as_scalar(status == Status.CONVERGED),
            "message": advice,
        }
    return replace(
        result, fun=evaluation.value, jac=evaluation.grad, certificate=certificate, **changes
    )
