"""When a run stops, and what it says then."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from agd._validation import count, not_negative

__all__ = ["Judge", "Row", "Status", "Stop"]

RISES = 5  # checks in a row with a higher value: a run that rises so long is not oscillating
FACTOR = 10.0  # how far above its start a rising run must be to count as diverging


class Status(IntEnum):
    """How a run ended; the values are SciPy's where SciPy has one.

    >>> Status.CONVERGED == 0
    True
    """

    CONVERGED = 0
    MAX_ITER = 1
    DIVERGED = 2
    NON_FINITE = 3
    CALLBACK = 99

    @property
    def advice(self) -> str:
        """What happened, and what to do next."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "converged",
    Status.MAX_ITER: (
        "stopped at the iteration limit before it converged: raise max_iter, start from this result "
        "(init=), or ask for less (grad_tol)"
    ),
    Status.DIVERGED: "diverged: the learning rate is too large; returned the last finite point",
    Status.NON_FINITE: (
        "the value or the gradient is not finite: returned the last finite point; check the data and "
        "the function there"
    ),
    Status.CALLBACK: "stopped by the callback, before it converged: to go on, start from this result (init=)",
}


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
    check_every : int
        How many steps run between two looks at the device: value, gradient norm and finite flag are
        read together, in one transfer. A run can thus be up to ``check_every - 1`` steps longer than
        it had to be.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no number, or below its least value.

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
    check_every: int = 10

    def __post_init__(self) -> None:
        """Refuse limits that could never hold."""
        count("max_iter", self.max_iter)
        count("check_every", self.check_every)
        for name in ("grad_tol", "step_tol", "value_tol"):
            if getattr(self, name) is not None:
                not_negative(name, getattr(self, name))


class Row(NamedTuple):
    """What one look at the device brings, a number for each problem."""

    value: Any
    grad_norm: Any
    moved: Any
    finite: Any
    steps: Any
    curvature: Any


class Judge:
    """Turn the rows that a run reads into one status for each problem; it lives on the host.

    Parameters
    ----------
    stop : Stop
        The limits.
    grad_tol : float
        The gradient's limit, resolved.
    first : Row
        The row at the first point.
    """

    def __init__(self, stop: Stop, grad_tol: float, first: Row) -> None:
        self.stop = stop
        self.grad_tol = grad_tol
        self.first = first
        self.last = first
        self.rises = np.zeros(np.shape(first.value), dtype=int)
        self.status = np.full(np.shape(first.value), -1)
        self._end(first.finite == 0, Status.NON_FINITE)
        self._end(first.grad_norm <= grad_tol, Status.CONVERGED)

    @property
    def done(self) -> Any:
        """Which problems have ended."""
        return self.status >= 0

    def look(self, row: Row) -> None:
        """Judge the problems that still run by what they are now."""
        rising = row.value > self.last.value
        self.rises = np.where(rising, self.rises + 1, 0)
        above = (row.value > self.first.value + (FACTOR - 1.0) * np.abs(self.first.value)) & (
            row.grad_norm > FACTOR * self.first.grad_norm
        )
        broken = row.finite == 0
        self._end(broken & (row.grad_norm > self.first.grad_norm), Status.DIVERGED)
        self._end(broken, Status.NON_FINITE)
        self._end(row.grad_norm <= self.grad_tol, Status.CONVERGED)
        if self.stop.step_tol is not None:
            self._end(row.moved <= self.stop.step_tol, Status.CONVERGED)
        if self.stop.value_tol is not None:
            change = np.abs(row.value - self.last.value)
            self._end(change <= self.stop.value_tol * np.abs(row.value), Status.CONVERGED)
        self._end(above & (self.rises >= RISES), Status.DIVERGED)
        self.last = row

    def end(self, status: Status) -> None:
        """End every problem that still runs."""
        self._end(np.ones(np.shape(self.status), dtype=bool), status)

    def _end(self, where: Any, status: Status) -> None:
        self.status = np.where(where & ~self.done, int(status), self.status)
