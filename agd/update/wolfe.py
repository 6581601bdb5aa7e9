"""A line search for the strong Wolfe conditions: bracket, then zoom; one trial at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agd import backends
from agd._typing import Array
from agd._validation import count
from agd.update._vector import sign
from agd.update.line_search import (
    Backtracking,
    Point,
    SearchState,
    check_shares,
    decreased,
    first_state,
    full,
    is_finite,
    pick,
)

__all__ = ["StrongWolfe", "check_search", "words"]


@dataclass(frozen=True)
class StrongWolfe:
    r"""A search for a step that decreases the value enough and flattens the slope enough.

    Accept t if ::

        f(t) <= f(0) + c1 t f'(0)    and    |f'(t)| <= c2 |f'(0)|

    The step grows, by the secant of the slopes and at most fourfold, until a bracket is found; then
    the bracket shrinks (zoom) to the minimiser of the cubic through its ends, kept away from them, or
    to its middle where a trial has not shrunk it by a third. A trial that is not finite shortens
    the step tenfold. The second condition keeps s · y positive for L-BFGS and conjugate gradients.

    Parameters
    ----------
    c1, c2 : float
        0 < c1 < c2 < 1. A small c2 asks for a nearly exact search, as conjugate gradients need.
    max_trials : int
        The most trials; the best that decreased enough is then taken.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range.

    Notes
    -----
    Wolfe (1969), "Convergence conditions for ascent methods"; Nocedal and Wright (2006), *Numerical
    Optimization*, algorithms 3.5 and 3.6; Moré and Thuente (1994), "Line search algorithms with
    guaranteed sufficient decrease", for the growth and the shrinking. Where rounding hides the
    decrease it is read from the slopes, as in Hager and Zhang (2005).
    """

    c1: float = 1e-4
    c2: float = 0.9
    max_trials: int = 30

    memory: int = 1

    def __post_init__(self) -> None:
        """Refuse parameters that no step could meet."""
        check_shares(self.c1, self.c2)
        count("max_trials", self.max_trials)

    def start(
        self,
        value: Array,
        slope: Array,
        first: Array,
        least: Array | None = None,
        reference: Array | None = None,
    ) -> SearchState:
        """Return the state before the first trial; parameters as in `Backtracking.start`."""
        return first_state(value, slope, first, least, reference)

    def step(self, state: SearchState, value: Array, slope: Array) -> SearchState:
        """Take the value and the slope at ``state.step``, and accept it or name the next trial."""
        xp = backends.namespace(value)
        trial = Point(state.step, value, slope)
        finite = is_finite(trial)
        low_enough = finite & decreased(self.c1, state, trial)
        accepted = low_enough & (xp.abs(slope) <= -self.c2 * state.origin.slope)
        beaten = ~low_enough | (value >= state.low.value) & (state.low.step > 0.0)
        # A trial above the line, or past the minimum, closes the bracket; else it is the new low end.
        onward = xp.where(state.bracketed, state.high.step - state.low.step, full(slope, 1.0))
        across = slope * onward >= 0.0
        high = pick(beaten, trial, pick(across, state.low, state.high))
        low = pick(beaten, state.low, trial)
        bracketed = state.bracketed | beaten | across
        grown = _extrapolate(state.low, trial)
        width = xp.abs(high.step - low.step)
        step = xp.where(bracketed, _interpolate(low, high), grown)
        slow = bracketed & state.bracketed & (width > 0.66 * state.width)
        step = xp.where(slow, 0.5 * (low.step + high.step), step)
        trials = state.trials + 1.0
        spent = (trials >= self.max_trials) | (bracketed & (width <= state.least))
        exhausted = ~accepted & (spent | ~xp.isfinite(step))
        settled = xp.where(accepted, trial.step, low.step)
        return state._replace(
            step=xp.where(accepted | exhausted, state.step, step),
            taken=xp.where(accepted | exhausted, settled, state.taken),
            low=low,
            high=high,
            bracketed=bracketed,
            width=xp.where(bracketed, width, state.width),
            trials=trials,
            improved=~beaten,
            accepted=accepted,
            exhausted=exhausted,
        )


def _extrapolate(low: Point, trial: Point) -> Array:
    """Go on past a trial that still falls: to where the secant of the slopes is 0, within bounds."""
    xp = backends.namespace(trial.step)
    gone = trial.step - low.step
    rise = trial.slope - low.slope
    secant = xp.where(
        rise > 0.0, -trial.slope / xp.where(rise > 0.0, rise, full(rise, 1.0)), full(rise, 4.0)
    )
    return trial.step + gone * backends.clip(secant, 1.1, 4.0)


def _interpolate(low: Point, high: Point) -> Array:
    """Return the minimiser of the cubic through both ends, kept within the middle of the bracket."""
    xp = backends.namespace(low.step)
    length = high.step - low.step
    usable = is_finite(high) & (length != 0.0)
    h = xp.where(usable, length, xp.ones_like(length))
    value = xp.where(usable, high.value, low.value)
    slope = xp.where(usable, high.slope, low.slope)
    theta = 3.0 * (low.value - value) / h + low.slope + slope
    # In units of the largest, of which no square overflows.
    unit = xp.maximum(xp.abs(theta), xp.maximum(xp.abs(low.slope), xp.abs(slope)))
    unit = xp.where(unit > 0.0, unit, full(unit, 1.0))
    inside = (theta / unit) ** 2 - (low.slope / unit) * (slope / unit)
    gamma = unit * xp.sqrt(backends.clip(inside, low=0.0)) * sign(h)
    below = 2.0 * gamma - low.slope + slope
    cubic = (gamma - low.slope + theta) / xp.where(below != 0.0, below, full(below, 1.0))
    # Where rounding hides the difference of the values, the slopes alone still tell.
    noise = 16.0 * float(xp.finfo(value.dtype).eps) * xp.abs(low.value)
    rise = slope - low.slope
    secant = -low.slope / xp.where(rise != 0.0, rise, full(rise, 1.0))
    hidden = (xp.abs(value - low.value) <= noise) & (rise != 0.0)
    share = xp.where(hidden, secant, cubic)
    share = xp.where((inside >= 0.0) & (below != 0.0) | hidden, share, full(h, 0.5))
    # The high end may not be finite: then a tenth of the way to it.
    return low.step + xp.where(usable, backends.clip(share, 0.1, 0.9), full(h, 0.1)) * length


def check_search(search: object) -> None:
    """Refuse what is no line search."""
    known = all(hasattr(search, part) for part in ("memory", "start", "step"))
    if isinstance(search, type) or not known:
        raise TypeError(
            f"search must be a line search such as agd.update.StrongWolfe(), got {search!r}"
        )


def words(search: Any) -> str:
    """Name a line search, for what a result calls a method."""
    if isinstance(search, StrongWolfe):
        return "strong Wolfe"
    if isinstance(search, Backtracking):
        return "backtracking" if search.memory == 1 else "non-monotone backtracking"
    return type(search).__name__
