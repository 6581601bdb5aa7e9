"""What the host saw of a run: kept off the device, a row for each look that brought something new."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from typing import Any, NamedTuple

import numpy as np

from agd.run.row import Row

__all__ = ["History", "Log", "contraction"]


class History(NamedTuple):
    """What the host saw of a run, one entry for each look; NumPy arrays, off the device.

    Looks at which no problem had taken a step since the last are left out, except the last of all.

    Attributes
    ----------
    nit : numpy.ndarray, shape (looks,)
        Steps taken by then, by the problem that took most.
    value : numpy.ndarray, shape (looks, ...)
        The objective.
    grad_norm : numpy.ndarray, shape (looks, ...)
        The size of its gradient, as the stopping test measured it.
    step : numpy.ndarray, shape (looks, ...)
        How far the last step moved a parameter, at the most, as a share of the largest parameter.
    nfev : numpy.ndarray of int, shape (looks, ...)
        Calls of the function by then.
    """

    nit: Any
    value: Any
    grad_norm: Any
    step: Any
    nfev: Any


class Log:
    """Collect the rows of a run; a history of them is a view, which later rows leave as it is.

    Parameters
    ----------
    first : Row
        The row at the first point.
    calls : numpy.ndarray of int, shape (...)
        Calls of the function by then.
    """

    def __init__(self, first: Row, calls: Any) -> None:
        self._rows = np.empty((16, 5, *np.shape(first.value)))
        self._kept = 0
        self._loose = False
        self.add(first, calls, keep=True)

    def add(self, row: Row, calls: Any, *, keep: bool) -> None:
        """Add a row; one that is not to be kept gives way to the next."""
        if self._kept + 1 >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        entry = (row.iterations, row.value, row.grad_norm, row.moved, calls)
        self._rows[self._kept] = np.stack(entry)
        self._kept += keep
        self._loose = not keep

    def history(self) -> History:
        """Return what was kept so far, and the last row."""
        rows = self._rows[: self._kept + self._loose]
        nit, value, grad_norm, step, calls = (rows[:, i] for i in range(5))
        nit = np.max(nit, axis=tuple(range(1, nit.ndim))).astype(int)
        return History(nit, value, grad_norm, step, calls.astype(int))

    def contraction(self) -> Any:
        """Return by what factor the gradient shrank a step, shape (...), as `contraction` has it."""
        rows = self._rows[: self._kept + self._loose]
        return contraction(rows[:, 0], rows[:, 2])


def contraction(nit: Any, size: Any) -> Any:
    """Return by what factor the gradient shrank a step, shape (...), over the last half of them.

    It is the geometric mean, (|g_n| / |g_m|)^(1 / (n - m)), with m the first step seen from n/2 on;
    NaN where there are not two such looks.

    Parameters
    ----------
    nit, size : numpy.ndarray, shape (looks, ...)
        Steps taken, and the size of the gradient.
    """
    from_half = np.argmax(nit >= 0.5 * nit[-1], axis=0)[None, ...]
    m, before = (np.take_along_axis(x, from_half, axis=0)[0] for x in (nit, size))
    with np.errstate(all="ignore"):
        factor = (size[-1] / before) ** (1.0 / (nit[-1] - m))
    return np.where(nit[-1] > m, factor, np.nan)
