"""Whether a run is sooner had in closed form than step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from agd import backends
from agd._typing import Method
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective
from agd.loss import L2, Squared
from agd.run.columns import WIDE, row_count, serve
from agd.run.limits import Deadline
from agd.run.result import Result
from agd.run.stopping import Stop
from agd.run.tolerances import GCV
from agd.update import Descent, Trajectory

__all__ = ["asks_gcv", "tells", "worthwhile"]

STEPS = 400  # that a run takes where it may take more: fewer only where columns are even


def worthwhile(
    base: LinearObjective,
    method: Method,
    stop: Stop,
    callback: Callable[[Result], object] | None = None,
) -> Moments | None:
    """Return the moments of the data where they give the run, and sooner than its steps do.

    Parameters
    ----------
    base : LinearObjective
        Loss, data and penalty, in the data's own units.
    method, stop, callback
        As for `agd.run.run`.

    Returns
    -------
    Moments or None
        None where the loop has to run: another loss, penalty or rule; a callback or a deadline, which
        are of steps that are taken; so few steps, or so many columns, that the loop is done sooner; and
        data whose moments the dtype cannot hold.

    Notes
    -----
    A pass for the moments takes as long as 10 + p / 25 steps, measured from 5 to 2,000 columns, and their
    factors take 3 p³ products.
    """
    if not _had_at_once(base, method, stop, callback):
        return None
    moments = Moments.from_blocks(base.blocks)
    return moments if asks_gcv(stop) or serve(base, moments) else None


def tells(
    base: LinearObjective,
    method: Method,
    stop: Stop,
    callback: Callable[[Result], object] | None = None,
) -> bool:
    """Return whether `worthwhile` returns moments only of finite data; parameters as there."""
    return not asks_gcv(stop) and _had_at_once(base, method, stop, callback)


def _had_at_once(base: LinearObjective, method: Method, stop: Stop, callback: Any) -> bool:
    """Return whether the moments give the run, and sooner, should they serve."""
    known = isinstance(method, Descent) and Trajectory.knows(method.rule)
    known = known and type(base.loss) is Squared and type(base.penalty) in (L2, type(None))
    timed = any(isinstance(part, Deadline) for part in stop.criterion().parts())
    if not known or timed or callback is not None:
        return False
    return asks_gcv(stop) or _pays(base, stop)


def _pays(base: LinearObjective, stop: Stop) -> bool:
    """Return whether the closed form takes fewer seconds than the steps; in units of a nanosecond."""
    rows, p = row_count(base), base.blocks.X.shape[-1]
    n = float(rows) if math.isfinite(rows) else 1e9
    problems = math.prod(base.batch_shape)
    X = base.blocks.X
    if backends.is_sparse(X):  # 2 to 8 nanoseconds for each pair of entries in a row, measured
        entries = float(X.nnz)
        step, moments = 2.0 * entries * problems + 5e4, entries * (20.0 + 8.0 * entries / n)
        return bool(
            p <= WIDE
            and moments + (3.0 * p**3 + 1e5) * problems + 5e5 < min(stop.max_iter, STEPS) * step
        )
    # Of many problems a product takes 1 microsecond, however small; factors and evaluations 30.
    apart, each = (2e3, 3e4) if problems > 1 else (0.0, 1e5)
    step = (n * p + apart) * problems + 5e4
    whole = (n * p * (10.0 + p / 25.0) + 3.0 * p**3 + each) * problems + 5e5
    return bool(p <= WIDE and whole < min(stop.max_iter, STEPS) * step)


def asks_gcv(stop: Stop) -> bool:
    """Return whether it is the smallest generalised cross-validation that ends the run, and no more."""
    return (
        isinstance(stop.when, GCV) and (stop.grad_tol, stop.step_tol, stop.value_tol) == (None,) * 3
    )
