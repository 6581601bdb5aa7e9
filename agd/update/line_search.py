"""Line searches: the step along a direction, one trial at a time.

A search is a state machine on a few numbers for each problem, not a loop: `start` names the first trial
step, and `step` takes the value and the derivative at a trial and says whether it is accepted, or which
trial to make next; `agd.update.line_search_descent` evaluates the trials. It is written once against the
namespace of its numbers: these are Python floats for one problem, NumPy arrays for a batch on the host, and
traced arrays inside ``jax.jit``, ``jax.lax.while_loop`` or ``torch.func.vmap``, where nothing waits for the
host.

>>> import numpy as np
>>> from agd.update import StrongWolfe
>>> search = StrongWolfe()
>>> f, slope = lambda t: (t - 3.0) ** 2, lambda t: 2.0 * (t - 3.0)
>>> state = search.start(f(np.asarray(0.0)), slope(np.asarray(0.0)), np.asarray(0.1))
>>> while not (state.accepted or state.exhausted):
...     state = search.step(state, f(state.step), slope(state.step))
>>> bool(abs(slope(state.taken)) <= 0.9 * 6.0)
True
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from agd import backends
from agd._typing import Scalar
from agd._validation import as_count, as_positive

__all__ = [
    "Backtracking",
    "LineSearch",
    "LineSearchState",
    "StrongWolfe",
    "TrialPoint",
    "check_search",
    "check_wolfe_constants",
    "constant_like",
    "has_sufficient_decrease",
    "initial_state",
    "is_finite_trial",
    "rounding_unit",
    "search_name",
    "select_trial",
]


# Asked at every step, and dear to ask of a namespace. By the type of the array too, since dtypes of two
# libraries may not be compared.
_UNIT_BY_DTYPE: dict[tuple[type, Any], float] = {}


class TrialPoint(NamedTuple):
    """A trial: the step, and the value and the slope along the direction there."""

    step: Scalar
    value: Scalar
    slope: Scalar


class LineSearchState(NamedTuple):
    """Where a search stands; every field has the shape of the batch.

    Attributes
    ----------
    step : array
        The trial to evaluate next.
    taken : array
        The step that the search settled on; 0 while it has none.
    origin : TrialPoint
        Step 0.
    reference : array
        What the sufficient decrease is counted from: the value at 0, or the largest of the last few.
    low : TrialPoint
        The best trial that decreases enough, or the origin.
    high : TrialPoint
        The other end of the bracket, where there is one.
    bracketed : array of bool
        Whether a step to be taken lies between `low` and `high`.
    width : array
        The bracket's length before the last trial.
    trials : array
        How many were made.
    least : array
        Steps shorter than this do not change the point.
    eps : array
        The rounding of the dtype in which the values are computed.
    improved, accepted, exhausted : array of bool
        What became of the last trial: it is the new `low`; it is taken; or no trial is left, and
        `low` is taken where that is any step at all.
    """

    step: Scalar
    taken: Scalar
    origin: TrialPoint
    reference: Scalar
    low: TrialPoint
    high: TrialPoint
    bracketed: Scalar
    width: Scalar
    trials: Scalar
    least: Scalar
    eps: Scalar
    improved: Scalar
    accepted: Scalar
    exhausted: Scalar


class LineSearch(Protocol):
    """What the methods ask of a line search."""

    @property
    def memory(self) -> int:
        """How many of the last values the sufficient decrease may be counted from."""
        ...

    def start(
        self,
        value: Scalar,
        slope: Scalar,
        first: Scalar,
        least: Scalar | None = None,
        reference: Scalar | None = None,
    ) -> LineSearchState:
        """Return the state before the first trial."""
        ...

    def step(self, state: LineSearchState, value: Scalar, slope: Scalar) -> LineSearchState:
        """Return the state after the trial at ``state.step``."""
        ...


def initial_state(
    value: Scalar, slope: Scalar, first: Scalar, least: Scalar | None, reference: Scalar | None
) -> LineSearchState:
    """Return the state of any search before its first trial."""
    xp = backends.namespace(value)
    zero = xp.zeros_like(value)
    no = xp.zeros_like(value, dtype=xp.bool)
    origin = TrialPoint(zero, value, slope)
    return LineSearchState(
        step=first,
        taken=zero,
        origin=origin,
        reference=value if reference is None else reference,
        low=origin,
        high=origin,
        bracketed=no,
        width=zero + xp.inf,
        trials=zero,
        least=zero if least is None else least,
        eps=xp.full_like(value, rounding_unit(value)),
        improved=no,
        accepted=no,
        exhausted=no,
    )


def rounding_unit(x: Scalar) -> float:
    """Return the rounding of an array's dtype; that of double precision for a Python float."""
    if type(x) is float:
        return sys.float_info.epsilon
    key = (type(x), x.dtype)
    unit = _UNIT_BY_DTYPE.get(key)
    if unit is None:
        unit = _UNIT_BY_DTYPE[key] = float(backends.namespace(x).finfo(x.dtype).eps)
    return unit


def has_sufficient_decrease(c1: float, state: LineSearchState, trial: TrialPoint) -> Scalar:
    """Say whether the value fell enough; where rounding hides the fall, ask the slopes.

    Near a minimum f(t) - f(0) is smaller than the rounding of f. There the condition in slopes,
    f'(t) <= (2 c1 - 1) f'(0), means the same for a quadratic and does not cancel.
    """
    xp = backends.namespace(trial.value)
    enough = trial.value <= state.reference + c1 * trial.step * state.origin.slope
    noise = 16.0 * state.eps * xp.abs(state.origin.value)
    hidden_by_rounding = xp.abs(trial.value - state.origin.value) <= noise
    derivative_falls = trial.slope <= (2.0 * c1 - 1.0) * state.origin.slope
    return xp.where(
        hidden_by_rounding, derivative_falls | (enough & (trial.value < state.origin.value)), enough
    )


def is_finite_trial(trial: TrialPoint) -> Scalar:
    """Return whether value and slope are finite."""
    xp = backends.namespace(trial.value)
    return xp.isfinite(trial.value) & xp.isfinite(trial.slope)


def constant_like(like: Scalar, number: float) -> Scalar:
    """Return an array of one number."""
    return backends.namespace(like).full_like(like, number)


def select_trial(condition: Scalar, yes: TrialPoint, no: TrialPoint) -> TrialPoint:
    """Take each problem's trial from `yes` where its condition holds, from `no` elsewhere."""
    xp = backends.namespace(condition)
    return TrialPoint(*(xp.where(condition, a, b) for a, b in zip(yes, no, strict=True)))


def check_wolfe_constants(c1: float, c2: float) -> None:
    """Refuse shares that no step could meet."""
    as_positive("c1", c1)
    as_positive("c2", c2)
    if not (c1 < 0.5 and c1 < c2 <= 1.0):
        raise ValueError(f"c1 must be below 1/2 and below c2 <= 1, got c1={c1!r}, c2={c2!r}")


@dataclass(frozen=True)
class Backtracking:
    r"""Armijo's search: shorten the step until the value has decreased enough.

    Accept t if ::

        f(t) <= max(f_k, ..., f_{k-memory+1}) + c1 t f'(0)

    and try next, after a trial that failed, the minimiser of the parabola through f(0), f'(0) and f(t),
    kept within [t/10, t/2].

    Parameters
    ----------
    c1 : float
        The share of the first-order decrease that is enough, in (0, 1/2).
    memory : int
        How many of the last values the decrease may be counted from: 1 makes every step descend, more
        let the value rise on the way (non-monotone), which steps of Barzilai and Borwein need.
    max_trials : int
        The most trials.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range.

    Notes
    -----
    Armijo (1966), "Minimization of functions having Lipschitz continuous first partial derivatives";
    Grippo, Lampariello and Lucidi (1986), "A nonmonotone line search technique for Newton's method".
    Where rounding hides the decrease it is read from the slopes, as in Hager and Zhang (2005).

    Examples
    --------
    >>> import numpy as np
    >>> search = Backtracking()
    >>> state = search.start(np.asarray(9.0), np.asarray(-6.0), np.asarray(8.0))
    >>> state = search.step(state, np.asarray(25.0), np.asarray(10.0))  # (t - 3)² at 8: too far
    >>> bool(state.accepted), float(state.step)
    (False, 3.0)
    """

    c1: float = 1e-4
    memory: int = 1
    max_trials: int = 40

    def __post_init__(self) -> None:
        """Refuse parameters that no step could meet."""
        check_wolfe_constants(self.c1, 1.0)
        as_count("memory", self.memory)
        as_count("max_trials", self.max_trials)

    def start(
        self,
        value: Scalar,
        slope: Scalar,
        first: Scalar,
        least: Scalar | None = None,
        reference: Scalar | None = None,
    ) -> LineSearchState:
        """Return the state before the first trial.

        Parameters
        ----------
        value, slope : array, shape (...)
            f(0) and f'(0), which must be negative.
        first : array, shape (...)
            The first trial, above 0.
        least : array, optional
            Steps shorter than this do not change the point; 0 by default.
        reference : array, optional
            What the decrease is counted from; f(0) by default.

        Returns
        -------
        SearchState
            Its ``step`` is what to evaluate.
        """
        return initial_state(value, slope, first, least, reference)

    def step(self, state: LineSearchState, value: Scalar, slope: Scalar) -> LineSearchState:
        """Take the value and the slope at ``state.step``, and accept it or name a shorter one."""
        xp = backends.namespace(value)
        trial = TrialPoint(state.step, value, slope)
        finite = is_finite_trial(trial)
        accepted = finite & has_sufficient_decrease(self.c1, state, trial)
        if accepted is True:  # one problem on the host: where to go next need not be computed
            return _accepted_state(state, trial)
        t = trial.step
        curvature = xp.where(
            finite, value - state.origin.value - state.origin.slope * t, constant_like(t, 1.0)
        )
        parabola = (
            -0.5
            * state.origin.slope
            * t
            * t
            / xp.where(curvature > 0.0, curvature, constant_like(curvature, 1.0))
        )
        shorter = (
            xp.where(curvature > 0.0, backends.clip(parabola / t, 0.1, 0.5), constant_like(t, 0.5))
            * t
        )
        shorter = xp.where(finite, shorter, 0.1 * t)
        trials = state.trials + 1.0
        exhausted = xp.logical_not(accepted) & (
            (trials >= self.max_trials) | (shorter <= state.least)
        )
        return state._replace(
            step=xp.where(accepted | exhausted, t, shorter),
            taken=xp.where(accepted, t, state.taken),
            trials=trials,
            improved=accepted,
            low=select_trial(accepted, trial, state.low),
            accepted=accepted,
            exhausted=exhausted,
        )


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
        check_wolfe_constants(self.c1, self.c2)
        as_count("max_trials", self.max_trials)

    def start(
        self,
        value: Scalar,
        slope: Scalar,
        first: Scalar,
        least: Scalar | None = None,
        reference: Scalar | None = None,
    ) -> LineSearchState:
        """Return the state before the first trial; parameters as in `Backtracking.start`."""
        return initial_state(value, slope, first, least, reference)

    def step(self, state: LineSearchState, value: Scalar, slope: Scalar) -> LineSearchState:
        """Take the value and the slope at ``state.step``, and accept it or name the next trial."""
        xp = backends.namespace(value)
        trial = TrialPoint(state.step, value, slope)
        finite = is_finite_trial(trial)
        low_enough = finite & has_sufficient_decrease(self.c1, state, trial)
        accepted = low_enough & (xp.abs(slope) <= -self.c2 * state.origin.slope)
        if accepted is True:  # one problem on the host: where to go next need not be computed
            return _accepted_state(state, trial)
        rejected = xp.logical_not(low_enough) | (value >= state.low.value) & (state.low.step > 0.0)
        # A trial above the line, or past the minimum, closes the bracket; else it is the new low end.
        bracket_side = xp.where(
            state.bracketed, state.high.step - state.low.step, constant_like(slope, 1.0)
        )
        passed_minimum = slope * bracket_side >= 0.0
        high = select_trial(rejected, trial, select_trial(passed_minimum, state.low, state.high))
        low = select_trial(rejected, state.low, trial)
        bracketed = state.bracketed | rejected | passed_minimum
        extrapolated = _extrapolate(state.low, trial)
        width = xp.abs(high.step - low.step)
        step = xp.where(bracketed, _interpolate(low, high, state.eps), extrapolated)
        shrinks_slowly = bracketed & state.bracketed & (width > 0.66 * state.width)
        step = xp.where(shrinks_slowly, 0.5 * (low.step + high.step), step)
        trials = state.trials + 1.0
        out_of_trials = (trials >= self.max_trials) | (bracketed & (width <= state.least))
        exhausted = xp.logical_not(accepted) & (out_of_trials | xp.logical_not(xp.isfinite(step)))
        final_step = xp.where(accepted, trial.step, low.step)
        return state._replace(
            step=xp.where(accepted | exhausted, state.step, step),
            taken=xp.where(accepted | exhausted, final_step, state.taken),
            low=low,
            high=high,
            bracketed=bracketed,
            width=xp.where(bracketed, width, state.width),
            trials=trials,
            improved=xp.logical_not(rejected),
            accepted=accepted,
            exhausted=exhausted,
        )


def _accepted_state(state: LineSearchState, trial: TrialPoint) -> LineSearchState:
    """Return the last state of a search whose trial is accepted."""
    return LineSearchState(
        step=state.step,
        taken=trial.step,
        origin=state.origin,
        reference=state.reference,
        low=trial,
        high=state.high,
        bracketed=state.bracketed,
        width=state.width,
        trials=state.trials + 1.0,
        least=state.least,
        eps=state.eps,
        improved=True,
        accepted=True,
        exhausted=False,
    )


def _extrapolate(low: TrialPoint, trial: TrialPoint) -> Scalar:
    """Go on past a trial that still falls: to where the secant of the slopes is 0, within bounds."""
    xp = backends.namespace(trial.step)
    advance = trial.step - low.step
    derivative_change = trial.slope - low.slope
    secant = xp.where(
        derivative_change > 0.0,
        -trial.slope
        / xp.where(
            derivative_change > 0.0, derivative_change, constant_like(derivative_change, 1.0)
        ),
        constant_like(derivative_change, 4.0),
    )
    return trial.step + advance * backends.clip(secant, 1.1, 4.0)


def _interpolate(low: TrialPoint, high: TrialPoint, eps: Scalar) -> Scalar:
    """Return the minimiser of the cubic through both ends, kept within the middle of the bracket."""
    xp = backends.namespace(low.step)
    length = high.step - low.step
    usable = is_finite_trial(high) & (length != 0.0)
    h = xp.where(usable, length, xp.ones_like(length))
    value = xp.where(usable, high.value, low.value)
    slope = xp.where(usable, high.slope, low.slope)
    theta = 3.0 * (low.value - value) / h + low.slope + slope
    # In units of the largest, of which no square overflows.
    unit = xp.maximum(xp.abs(theta), xp.maximum(xp.abs(low.slope), xp.abs(slope)))
    unit = xp.where(unit > 0.0, unit, constant_like(unit, 1.0))
    discriminant = (theta / unit) * (theta / unit) - (low.slope / unit) * (slope / unit)
    gamma = unit * xp.sqrt(backends.clip(discriminant, low=0.0))
    gamma = xp.where(h > 0.0, gamma, -gamma)
    denominator = 2.0 * gamma - low.slope + slope
    cubic = (gamma - low.slope + theta) / xp.where(
        denominator != 0.0, denominator, constant_like(denominator, 1.0)
    )
    # Where rounding hides the difference of the values, the slopes alone still tell.
    noise = 16.0 * eps * xp.abs(low.value)
    derivative_change = slope - low.slope
    secant = -low.slope / xp.where(
        derivative_change != 0.0, derivative_change, constant_like(derivative_change, 1.0)
    )
    hidden = (xp.abs(value - low.value) <= noise) & (derivative_change != 0.0)
    fraction = xp.where(hidden, secant, cubic)
    fraction = xp.where(
        (discriminant >= 0.0) & (denominator != 0.0) | hidden, fraction, constant_like(h, 0.5)
    )
    # The high end may not be finite: then a tenth of the way to it.
    return (
        low.step
        + xp.where(usable, backends.clip(fraction, 0.1, 0.9), constant_like(h, 0.1)) * length
    )


def check_search(search: object) -> None:
    """Refuse what is no line search."""
    is_search = all(hasattr(search, part) for part in ("memory", "start", "step"))
    if isinstance(search, type) or not is_search:
        raise TypeError(
            f"search must be a line search such as agd.update.StrongWolfe(), got {search!r}"
        )


def search_name(search: Any) -> str:
    """Name a line search, for what a result calls a method."""
    if isinstance(search, StrongWolfe):
        return "strong Wolfe"
    if isinstance(search, Backtracking):
        return "backtracking" if search.memory == 1 else "non-monotone backtracking"
    return type(search).__name__
