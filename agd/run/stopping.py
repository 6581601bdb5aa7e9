"""When a run stops: the simple form of the tests, and the judge that asks them."""

from __future__ import annotations

import functools
import operator
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from agd._validation import count, not_negative
from agd.run.criteria import Criterion, Seen
from agd.run.limits import Deadline, MaxEval, MaxIter
from agd.run.row import Row
from agd.run.status import Status
from agd.run.tolerances import GCV, GradTol, StepTol, ValueTol

__all__ = ["Judge", "Stop", "as_stop"]

# A run that rises for so many looks, and steps, in a row is not oscillating,
RISES, RISING_STEPS = 5, 25
FACTOR = 10.0  # and this far above its start it counts as diverging.
IDLE = 500  # trials in a row without a step: more than any line search makes
IDLE_EPOCHS = 25  # as many epochs of mini-batches, each undone and its step halved


@dataclass(frozen=True)
class Stop:
    """When to stop: the first of these that holds ends the run.

    Parameters
    ----------
    max_iter : int
        The most steps.
    grad_tol : float, optional
        Converged when the largest absolute partial derivative is at most this, in the user's
        coordinates and units. By default (None) a linear fit is converged when its gradient is
        eps^(2/3) of what it is at the best constant model (3.7e-11 in float64, 2.4e-5 in float32),
        measured in centred and scaled coordinates, which no change of units can alter.
    step_tol : float, optional
        Converged when no parameter moved by more than this share of the largest parameter in the
        last step.
    value_tol : float, optional
        Converged when the value changed by at most this share of itself since the last check.
    check_every : int, optional
        How many steps run between two looks at the device: value, gradient norm and finite flag are
        read together, in one transfer. A run can thus be up to ``check_every - 1`` steps longer than
        it had to be. By default (None) 10, and 1 where ``agd.minimize`` runs on NumPy arrays.
    when : Criterion, optional
        Another test, or several joined by & and |, such as
        ``GradTol(1e-8) & ValueTol(1e-12) | Deadline(seconds=10)``.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no number, or below its least value.

    Notes
    -----
    A criterion may be given in place of a Stop. It then stands for itself: only where it tests nothing
    but limits is the default test of the gradient kept, and only where it has no limit that is sure to
    come the 10,000 steps.

    Examples
    --------
    >>> Stop(max_iter=0)
    Traceback (most recent call last):
    ...
    ValueError: max_iter must be 1 or more, got 0
    """

    max_iter: int = 10_000
    grad_tol: float | None = None
    step_tol: float | None = None
    value_tol: float | None = None
    check_every: int | None = None
    when: Criterion | None = None

    def __post_init__(self) -> None:
        """Refuse limits that could never hold."""
        count("max_iter", self.max_iter)
        if self.check_every is not None:
            count("check_every", self.check_every)
        for name in ("grad_tol", "step_tol", "value_tol"):
            if getattr(self, name) is not None:
                not_negative(name, getattr(self, name))
        if self.when is not None and not isinstance(self.when, Criterion):
            raise TypeError(
                f"when must be a criterion such as agd.GradTol(1e-8), got {self.when!r}"
            )

    @property
    def tests_convergence(self) -> bool:
        """Whether it says itself when a gradient is small enough, or what to test in its place."""
        parts = () if self.when is None else self.when.parts()
        return self.grad_tol is not None or any(p.status is Status.CONVERGED for p in parts)

    def criterion(self, grad_tol: float = 0.0) -> Criterion:
        """Return all of it as one criterion.

        Parameters
        ----------
        grad_tol : float
            The gradient's limit where it says nothing of convergence itself.

        Returns
        -------
        Criterion
            The tests, joined by |.
        """
        tests: list[Criterion] = []
        if self.grad_tol is not None or not self.tests_convergence:
            tests.append(GradTol(grad_tol if self.grad_tol is None else self.grad_tol))
        if self.step_tol is not None:
            tests.append(StepTol(self.step_tol))
        if self.value_tol is not None:
            tests.append(ValueTol(self.value_tol))
        if self.when is not None:
            tests.append(self.when)
        return functools.reduce(operator.or_, [*tests, MaxIter(self.max_iter)])


USUAL = Stop()


def as_stop(stop: Stop | Criterion | str | None) -> Stop:
    """Return what a user gave as `stop` as a `Stop`.

    Parameters
    ----------
    stop : Stop, Criterion, "gcv" or None
        A criterion that is not sure to end a run gets the default limit of 10,000 steps. "gcv" is `GCV`
        over a billion steps, which cost what one does.

    Returns
    -------
    Stop
        The limits.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> as_stop(GradTol(1e-6)).max_iter
    10000
    """
    if stop is None:
        return USUAL
    if isinstance(stop, Stop):
        return stop
    if isinstance(stop, str) and stop == "gcv":
        return Stop(max_iter=10**9, when=GCV())
    if not isinstance(stop, Criterion):
        raise TypeError(
            f"stop must be an agd.Stop, such as agd.Stop(max_iter=100), or a criterion, such as "
            f"agd.GradTol(1e-8), or 'gcv', got {stop!r}"
        )
    return Stop(max_iter=sys.maxsize, when=stop) if stop.ends else Stop(when=stop)


class Judge:
    """Turn the rows that a run reads into one status for each problem; it lives on the host.

    Parameters
    ----------
    criterion : Criterion
        The tests, resolved for the parameters.
    first : Row
        The row at the first point.
    calls : numpy.ndarray of int, shape (...)
        Calls of the function by then.
    eps : float
        The rounding of the objective's dtype.
    seconds : float
        The time that the run has taken so far.
    epoch : int
        The steps that an iteration takes: those of an epoch, for a method that draws mini-batches.
    """

    def __init__(
        self,
        criterion: Criterion,
        first: Row,
        calls: Any,
        eps: float,
        seconds: float = 0.0,
        epoch: int = 1,
    ) -> None:
        self.criterion, self.epoch = criterion, epoch
        self.first = self.last = first
        with np.errstate(over="ignore"):  # a value that large has no room to fall
            self.low = -np.fmax(1.0, np.abs(first.value)) / eps  # where steps drown in rounding,
            self.lowest = self.low / eps  # and where no more are asked for
        self.calls, self.seconds, self.pace = calls, seconds, 0.0
        self.rises = np.zeros(np.shape(first.value), dtype=int)
        self.rising_since, self.stepped_at = first.iterations, first.steps
        self.status = np.full(np.shape(first.value), -1)
        self.advanced = np.zeros(np.shape(first.value), dtype=bool)
        self._end(first.finite == 0, Status.NON_FINITE)
        self.settle(first)

    @property
    def done(self) -> Any:
        """Which problems have ended."""
        return self.status >= 0

    def look(self, row: Row, calls: Any, seconds: float) -> None:
        """Judge the problems that still run by what they are now."""
        taken = np.max(row.steps - self.last.steps)
        self.pace = (seconds - self.seconds) / max(float(taken), 1.0)
        self.calls, self.seconds = calls, seconds
        self.advanced = row.iterations > self.last.iterations
        self.stepped_at = np.where(self.advanced, row.steps, self.stepped_at)
        rising = self.advanced & (row.value > self.last.value)
        still = rising | ~self.advanced
        self.rising_since = np.where(still, self.rising_since, row.iterations)
        self.rises = np.where(still, self.rises + rising, 0)
        self.settle(row)
        self.last = row

    def settle(self, row: Row) -> None:
        """Ask for convergence first, then for failure, then for the limits."""
        first = self.first
        with np.errstate(all="ignore"):
            going = self.advanced & (row.finite != 0)
            shown, going = _settled(row, going)
            seen = Seen(shown, self.last, first, going, self.calls, self.seconds)
            status = self.criterion.judge(seen)
            above = (row.value > first.value + (FACTOR - 1.0) * np.abs(first.value)) & (
                row.grad_norm > FACTOR * first.grad_norm
            )
        rises = (self.rises >= RISES) & (row.iterations - self.rising_since >= RISING_STEPS)
        broken = row.finite == 0
        self._end(status == Status.CONVERGED, Status.CONVERGED)
        self._end(row.value < self.lowest, Status.UNBOUNDED)
        self._end(broken & (row.grad_norm > first.grad_norm), Status.DIVERGED)
        self._end(broken, Status.NON_FINITE)
        failed = row.failed != 0
        self._end(failed & (row.walled != 0), Status.NON_FINITE)
        self._end(failed & (row.value < self.low), Status.UNBOUNDED)
        self._end(failed, Status.LINE_SEARCH)
        self._end(above & rises, Status.DIVERGED)
        self._end(status >= 0, status)
        self._end(
            row.steps - self.stepped_at >= max(IDLE, IDLE_EPOCHS * self.epoch), Status.LINE_SEARCH
        )

    def reopen(self, where: Any, row: Row) -> None:
        """Judge some problems anew, by a row at the same points; no step has led to it."""
        self.status = np.where(where, -1, self.status)
        self.advanced = np.zeros_like(self.advanced)
        self.last = row
        self.settle(row)

    def stride(self, most: int, calls_a_step: int) -> int:
        """Return how many steps to take before the next look, so that no limit is passed unseen.

        Parameters
        ----------
        most : int
            What the user asks for.
        calls_a_step : int
            How often a step calls the function, at the most; an epoch of mini-batches together.

        Returns
        -------
        int
            1 or more.
        """
        running = ~self.done
        begun = int(np.max(self.last.steps)) % self.epoch
        steps, calls = (np.max(x[running]) for x in (self.last.iterations, self.calls))
        room = float(most)
        for part in self.criterion.parts():
            if isinstance(part, MaxIter) and part.limit > steps:
                room = min(room, (part.limit - steps) * self.epoch - begun)
            elif isinstance(part, MaxEval) and part.limit > calls:
                room = min(room, -(-(part.limit - calls) * self.epoch // calls_a_step))
            elif isinstance(part, Deadline):
                # The first steps are taken one at a time: nothing is known of their pace.
                left = max(part.seconds - self.seconds, 0.0)
                room = min(room, left / self.pace if self.pace > 0.0 else 1.0)
        return max(1, int(room))

    def end(self, status: Status) -> None:
        """End every problem that still runs."""
        self._end(np.ones(np.shape(self.status), dtype=bool), status)

    def _end(self, where: Any, status: Any) -> None:
        if where.any():
            self.status = np.where(where & ~self.done, status, self.status)


def _settled(row: Row, going: Any) -> tuple[Row, Any]:
    """Hide from the tests of convergence what says nothing yet: the point may be a saddle."""
    open_ = row.unsettled != 0
    if not np.any(open_):
        return row, going
    leaves = None if row.leaves is None else np.where(open_, np.inf, row.leaves)
    hidden = row._replace(grad_norm=np.where(open_, np.inf, row.grad_norm), leaves=leaves)
    return hidden, going & ~open_
