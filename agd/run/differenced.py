"""What a run knows of a gradient by finite differences: how far to trust it, and what to do then."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agd.run.criteria import Seen, Test
from agd.run.row import Row
from agd.run.status import Status

__all__ = ["Differenced", "Noise"]

# By how much a gradient has to stand out of the error of one-sided differences; and by how much after
# so many trials without a step, which a line search makes where its slopes are wrong.
MARGIN, STALLED, TRIALS = 4.0, 100.0, 4
ROUNDINGS = 4.0  # how many a value is taken to be wrong by


class Differenced(NamedTuple):
    """How a run's gradient is differenced.

    Attributes
    ----------
    eps : float
        The rounding of the values.
    central : Objective or None
        The same objective by central differences, for the last steps; None where they are central.
    """

    eps: float
    central: Any = None

    @property
    def noise(self) -> float:
        """Return what rounding leaves unknown of a central difference, as a share of the value."""
        return float(ROUNDINGS * self.eps ** (2.0 / 3.0))

    def undecided(self, row: Row, status: Any, limit: Any, trials: Any) -> Any:
        r"""Return the problems of which one-sided differences say no more.

        Their error is about ::

            eps^(1/2) (L max(1, |x|) / 2 + 2 |f|)

        with L the largest curvature that the run has seen. A problem is undecided where the gradient
        does not stand out of that; and where the line search can go no further, or the gradient is
        within its limit and the error is not known to be, whatever the estimate says.

        Parameters
        ----------
        row : Row
            The last look.
        status : numpy.ndarray of int, shape (...)
            What the problems' statuses are.
        limit : float or numpy.ndarray
            The gradient's limit.
        trials : numpy.ndarray, shape (...)
            How many steps of the loop brought no step of the problem's, last.
        """
        size = np.fmax(1.0, row.size)
        error = self.eps**0.5 * (0.5 * row.curvature * size + 2.0 * np.abs(row.value))
        small = row.grad_norm <= limit
        margin = np.where(trials >= TRIALS, STALLED, MARGIN)
        hidden = margin * error >= np.where(small, limit, row.grad_norm)
        converged = (status == Status.CONVERGED) & small & (hidden | (row.curvature <= 0.0))
        return (status < 0) & hidden | converged | (status == Status.LINE_SEARCH)


@dataclass(frozen=True)
class Noise(Test):
    """Converged when the gradient is within a share of the value: what differences leave unknown of it."""

    share: float

    def limit(self, row: Row) -> Any:
        """Return what the size of the gradient is held against."""
        return self.share * np.abs(row.value)

    def holds(self, seen: Seen) -> Any:
        """Return where the gradient is within its limit."""
        return seen.row.grad_norm <= self.limit(seen.row)
