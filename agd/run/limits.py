"""The tests that end a run whether or not it has converged: of steps, of calls, of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from agd._validation import count, positive
from agd.run.criteria import Seen, Test
from agd.run.status import Status

__all__ = ["Deadline", "MaxEval", "MaxIter"]


@dataclass(frozen=True)
class _Count(Test):
    limit: int

    status: ClassVar[Status] = Status.MAX_ITER
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no whole number of 1 or more."""
        count(self._name, self.limit)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self._name}({self.limit})"


@dataclass(frozen=True, repr=False)
class MaxIter(_Count):
    """Stopped after so many steps; trials that a line search refused are none.

    Parameters
    ----------
    limit : int
        The most steps; 1 or more.

    Raises
    ------
    TypeError, ValueError
        For what is no whole number of 1 or more.

    Examples
    --------
    >>> MaxIter(500).ends
    True
    """

    def holds(self, seen: Seen) -> Any:
        """Return where the limit is reached."""
        return seen.row.iterations >= self.limit


@dataclass(frozen=True, repr=False)
class MaxEval(_Count):
    """Stopped after so many calls of the function; finite differences make several for a gradient.

    A step that has begun is ended, so that a run can exceed the limit by the calls of one step.

    Parameters
    ----------
    limit : int
        The most calls; 1 or more.

    Raises
    ------
    TypeError, ValueError
        For what is no whole number of 1 or more.

    Examples
    --------
    >>> MaxEval(1000)
    MaxEval(1000)
    """

    def holds(self, seen: Seen) -> Any:
        """Return where the limit is reached."""
        return seen.calls >= self.limit


@dataclass(frozen=True)
class Deadline(Test):
    """Stopped so many seconds after the run began, compilation included.

    The clock is read at the looks, and these come closer as the deadline does: a run exceeds it by
    about the time of a step.

    Parameters
    ----------
    seconds : float
        The time that the run may take; above 0.

    Raises
    ------
    TypeError, ValueError
        For what is no finite number above 0.

    Examples
    --------
    >>> Deadline(seconds=10)
    Deadline(seconds=10)
    """

    seconds: float

    status: ClassVar[Status] = Status.DEADLINE
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no finite number above 0."""
        positive("seconds", self.seconds)

    def holds(self, seen: Seen) -> Any:
        """Return whether the time is up."""
        return np.full(np.shape(seen.row.value), seen.seconds >= self.seconds)
