"""A run on moments, held against the data: what the moments lost is made up for, and the run goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optree

from agd import backends
from agd._typing import Method, Params
from agd.run.history import History
from agd.run.loop import run
from agd.run.result import Result
from agd.run.row import plain
from agd.run.status import Status
from agd.run.stopping import Stop

__all__ = ["refined", "summed", "told"]

ROUNDS = 5  # each leaves eps condition² of what moments lost; more help only where nothing does


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
    objective : Rescaled
        Of an `OnMoments`.

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
        value, grad, residual = _on_data(objective, found)
        passes += 1
        left -= int(np.max(found.nit))
        reached = residual <= _reach(found)
        ended = ~np.asarray(found.success) | reached
        if ended.all() or passes > ROUNDS or left < 1:
            return _together(rounds, value, grad, residual, reached, passes)
        objective = replace(objective, base=objective.base.corrected(found.x, grad))
        x0 = objective.scaling.from_user(found.x)


def _reach(found: Result) -> Any:
    """Return the gradient below which the data agree that a run on moments ended where it says."""
    limits = optree.tree_leaves(found.certificate.tolerance)
    return functools.reduce(np.maximum, limits, 2.0 * np.asarray(found.certificate.grad_norm))


def _on_data(objective: Any, found: Result) -> tuple[Any, Params, Any]:
    """Return value and gradient at a result from the data, and the size of the gradient; one read."""
    base, xp = objective.base, backends.namespace(found.x.coef)
    with np.errstate(all="ignore"):
        smooth, grad = base.from_data(found.x)
        v = objective.scaling.from_user(found.x)
        size = objective.grad_norm(objective.scaling.pull_back(grad), v)
        read = backends.to_numpy(xp.stack([smooth + base.penalty_value(found.x), size]))
    return plain(read[0]), grad, np.asarray(read[1])


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
        nit=plain(nit),
        nfev=plain(nfev),
        njev=plain(nfev),
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


def _together(
    rounds: list[Result], value: Any, grad: Params, residual: Any, reached: Any, passes: int
) -> Result:
    found = summed(rounds, passes)
    certificate = replace(found.certificate, grad_norm=plain(residual))
    changes: dict[str, Any] = {}
    if not (reached | ~np.asarray(found.success)).all():
        status = np.where(reached | ~np.asarray(found.success), found.status, Status.LINE_SEARCH)
        single = status.ndim == 0
        changes = {
            "status": Status(int(status)) if single else status,
            "success": plain(status == Status.CONVERGED),
            "message": (
                "the gradient of the data falls no further than the moments of X let it: the precision "
                "of the arithmetic is reached (badly conditioned columns); try method='fista'"
            ),
        }
    return replace(
        found, fun=value, jac=grad, certificate=certificate, **changes,
        method=found.method + " on the moments",
    )  # fmt: skip
