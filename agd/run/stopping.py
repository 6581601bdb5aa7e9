"""When a run ends: stopping criteria, `Stop`, and the monitor that applies them.

Criteria compose with & and |, nested as one likes.

>>> from agd.run import Deadline, GradTol, MaxIter, ValueTol
>>> GradTol(1e-8) & ValueTol(1e-12) | MaxIter(500) | Deadline(seconds=10)
GradTol(1e-08) & ValueTol(1e-12) | MaxIter(500) | Deadline(seconds=10)

Each is a value: it can be compared, hashed and used in many runs. The loop hands every observation to a
`StoppingMonitor`, which evaluates the criterion on the host, for each problem, and watches for divergence,
overflow and failed line searches.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import optree

from agd import backends
from agd._typing import Tree
from agd._validation import as_count, as_nonnegative, as_positive
from agd.run.observation import Observation
from agd.run.result import Status

__all__ = [
    "GCV",
    "Criterion",
    "Deadline",
    "GradTol",
    "MaxEval",
    "MaxIter",
    "Plateau",
    "RunProgress",
    "StepTol",
    "Stop",
    "StoppingMonitor",
    "Test",
    "ValueTol",
    "as_stop",
    "default_tolerance",
]

RUNNING = -1  # in an array of statuses: the problem has not ended


class RunProgress(NamedTuple):
    """What a criterion is evaluated on.

    Attributes
    ----------
    observation, previous, first : Observation
        This observation, the one before it and that at the first point.
    advanced : numpy.ndarray of bool, shape (...)
        The problems that took a step since the previous observation and are finite: only of these does it
        mean anything that the value or the point have not changed.
    calls : numpy.ndarray of int, shape (...)
        Calls of the user's function so far.
    seconds : float
        The time since the run began.
    without_gain : int or numpy.ndarray of int, shape (...)
        Steps since the value last gained what `Plateau` asks for; 0 where that is not among the tests.
    """

    observation: Observation
    previous: Observation
    first: Observation
    advanced: Any
    calls: Any
    seconds: float
    without_gain: Any = 0


class RunClock(NamedTuple):
    """How far a run is from the limits of steps, calls and time; the largest of its running problems.

    Attributes
    ----------
    iterations, calls : int
        Iterations, and calls of the user's function.
    seconds : float
        The time since the run began.
    epoch, steps_into_epoch : int
        Steps of an iteration, and those since the last one ended.
    calls_per_step : int
        Calls of the function in a step, at the most; of an epoch together.
    seconds_per_step : float
        The time that the last steps took; 0 before the first.
    """

    iterations: Any
    calls: Any
    seconds: float
    epoch: int
    steps_into_epoch: int
    calls_per_step: int
    seconds_per_step: float


class Criterion:
    """A stopping test. `a & b` holds where both hold, `a | b` where either does.

    What a run says then: for `|` the status of the first that holds; for `&` that it converged, if
    one of the two says so, or else what the first says.
    """

    def __and__(self, other: object) -> Criterion:
        """Hold where both hold."""
        return (
            _All(_flatten_operands(_All, self, other))
            if isinstance(other, Criterion)
            else NotImplemented
        )

    def __or__(self, other: object) -> Criterion:
        """Hold where either holds."""
        return (
            _Any(_flatten_operands(_Any, self, other))
            if isinstance(other, Criterion)
            else NotImplemented
        )

    def evaluate(self, progress: RunProgress) -> Any:
        """Return a status for each problem, -1 where the test does not hold.

        Parameters
        ----------
        progress : RunProgress
            What the run knows.

        Returns
        -------
        numpy.ndarray of int, shape (...)
            The statuses.
        """
        raise NotImplementedError

    @property
    def ends(self) -> bool:
        """Whether it is sure to hold at some step, however the run goes."""
        raise NotImplementedError

    def parts(self) -> Iterator[Test]:
        """Give the tests that it is made of."""
        raise NotImplementedError

    def resolved(self, x: Tree) -> Criterion:
        """Return the criterion for parameters such as `x`, with a limit for every leaf."""
        raise NotImplementedError


def _flatten_operands(kind: type, first: Criterion, second: Criterion) -> tuple[Criterion, ...]:
    parts: list[Criterion] = []
    for one in (first, second):
        parts += one.operands if isinstance(one, kind) else (one,)  # type: ignore[attr-defined]
    return tuple(parts)


@dataclass(frozen=True, repr=False)
class _Composite(Criterion):
    operands: tuple[Criterion, ...]

    def parts(self) -> Iterator[Test]:
        """Give the operands' parts."""
        for operand in self.operands:
            yield from operand.parts()

    def resolved(self, x: Tree) -> Criterion:
        """Return it with every operand resolved."""
        return type(self)(tuple(operand.resolved(x) for operand in self.operands))


class _Any(_Composite):
    """The operands joined by |."""

    def evaluate(self, progress: RunProgress) -> Any:
        """Return the status of the first that holds."""
        status = self.operands[0].evaluate(progress)
        for operand in self.operands[1:]:
            other = operand.evaluate(progress)
            if isinstance(status, int):
                status = other if status == RUNNING else status
            else:
                status = np.where(status == RUNNING, other, status)
        return status

    @property
    def ends(self) -> bool:
        """Whether one of them does."""
        return any(operand.ends for operand in self.operands)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.operands))


class _All(_Composite):
    """The operands joined by &."""

    def evaluate(self, progress: RunProgress) -> Any:
        """Return CONVERGED where all hold and one says so, else what the first says."""
        each = np.stack([operand.evaluate(progress) for operand in self.operands])
        status = np.where((each == Status.CONVERGED).any(axis=0), int(Status.CONVERGED), each[0])
        return np.where((each == RUNNING).any(axis=0), RUNNING, status)

    @property
    def ends(self) -> bool:
        """Whether all of them do."""
        return all(operand.ends for operand in self.operands)

    def __repr__(self) -> str:
        return " & ".join(
            f"({part!r})" if isinstance(part, _Any) else repr(part) for part in self.operands
        )


class Test(Criterion):
    """A single test: where it holds, and the status that it gives."""

    status: ClassVar[Status] = Status.CONVERGED
    ends: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleMethodOverride]

    def holds(self, progress: RunProgress) -> Any:
        """Return where the test holds, shape (...)."""
        raise NotImplementedError

    def steps_left(self, clock: RunClock) -> float:  # noqa: ARG002 - only limits ask
        """Return how many steps the run may take before the test has to be evaluated."""
        return math.inf

    def evaluate(self, progress: RunProgress) -> Any:
        """Return the test's status where it holds, else -1."""
        holds = self.holds(progress)
        if isinstance(holds, bool):  # one problem, whose observation is in Python floats
            return int(self.status) if holds else RUNNING
        return np.where(holds, int(self.status), RUNNING)

    def parts(self) -> Iterator[Test]:
        """Give itself."""
        yield self

    def resolved(self, x: Tree) -> Criterion:  # noqa: ARG002 - only tests by leaf ask
        """Return itself: one limit does for all leaves."""
        return self


@dataclass(frozen=True)
class _CountLimit(Test):
    limit: int

    status: ClassVar[Status] = Status.MAX_ITER
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no whole number of 1 or more."""
        as_count(self._name, self.limit)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self._name}({self.limit})"


@dataclass(frozen=True, repr=False)
class MaxIter(_CountLimit):
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

    def holds(self, progress: RunProgress) -> Any:
        """Return where the limit is reached."""
        return progress.observation.iterations >= self.limit

    def steps_left(self, clock: RunClock) -> float:
        """Return the steps up to the limit; a limit that is passed asks for nothing."""
        left = self.limit - clock.iterations
        return float(left * clock.epoch - clock.steps_into_epoch) if left > 0 else math.inf


@dataclass(frozen=True, repr=False)
class MaxEval(_CountLimit):
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

    def holds(self, progress: RunProgress) -> Any:
        """Return where the limit is reached."""
        return progress.calls >= self.limit

    def steps_left(self, clock: RunClock) -> float:
        """Return the steps that make the calls up to the limit, rounded up."""
        left = self.limit - clock.calls
        return float(-(-left * clock.epoch // clock.calls_per_step)) if left > 0 else math.inf


@dataclass(frozen=True)
class Deadline(Test):
    """Stopped so many seconds after the run began, compilation included.

    The clock is read at each observation, and these come closer as the deadline does: a run exceeds it by
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
        as_positive("seconds", self.seconds)

    def holds(self, progress: RunProgress) -> Any:
        """Return whether the time is up."""
        return np.full(np.shape(progress.observation.value), progress.seconds >= self.seconds)

    def steps_left(self, clock: RunClock) -> float:
        """Return the steps that the time is enough for, by the pace of the last ones."""
        left = max(self.seconds - clock.seconds, 0.0)
        # The first steps are taken one at a time: nothing is known of their pace.
        return left / clock.seconds_per_step if clock.seconds_per_step > 0.0 else 1.0


_ZERO: Any = 0.0
_NUMBER = optree.tree_structure(_ZERO)  # the structure of a single number


def _larger_limit(atol: Any, rtol: float, size: Any) -> Any:
    """Return the larger of the absolute and the relative limit; an unknown size has none."""
    if not rtol:
        return atol
    limit = np.fmax(atol, rtol * size)
    return float(limit) if type(size) is float else limit


@dataclass(frozen=True, repr=False)
class GradTol(Test):
    """Converged when the gradient is small: |g| <= max(atol, rtol |g_0|).

    |g| is the largest absolute partial derivative, and g_0 that at the first point. With a penalty that
    is not smooth, g is (x - prox(x - t g)) / t, with t at most 1 and so short that a kink near x is not reached;
    of an entry at its bound, a derivative that points outwards counts for nothing.

    Parameters
    ----------
    atol : float or tree of float
        The absolute limit. A tree in the structure of the parameters (or the top of it) gives a limit
        for each leaf, and all have to hold; ``math.inf`` asks nothing of a leaf.
    rtol : float
        The limit as a share of the gradient at the first point, leaf by leaf if `atol` is a tree.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no number of 0 or more; when a run begins, for a tree that does not fit.

    Examples
    --------
    >>> GradTol({"w": 1e-8, "b": 1e-3}) | GradTol(0.0, rtol=1e-6)
    GradTol({'w': 1e-08, 'b': 0.001}) | GradTol(0.0, rtol=1e-06)
    """

    atol: Tree = field(compare=False)
    rtol: float = 0.0
    _limits: tuple[float, ...] = field(init=False)
    _structure: Any = field(init=False)

    def __post_init__(self) -> None:
        """Refuse limits that are no numbers; keep them in a form that can be hashed."""
        as_nonnegative("rtol", self.rtol)
        limits, structure = optree.tree_flatten(self.atol)
        if not isinstance(self.atol, dict | list | tuple):
            as_nonnegative("atol", self.atol)
        for limit in limits:
            if not (isinstance(limit, float) and limit == math.inf):
                as_nonnegative("atol", limit)
        object.__setattr__(self, "_limits", tuple(map(float, limits)))
        object.__setattr__(self, "_structure", structure)

    @property
    def per_leaf(self) -> bool:
        """Whether each leaf has a limit of its own."""
        return bool(self._structure != _NUMBER)

    def resolved(self, x: Tree) -> Criterion:
        """Return the test with a limit for every leaf of `x`, or say that its tree does not fit."""
        if not self.per_leaf:
            return self
        try:
            limits = optree.broadcast_prefix(self.atol, x)
        except ValueError as reason:
            raise ValueError(
                f"GradTol's atol must be a number or a tree in the structure of the parameters, "
                f"{optree.tree_structure(x)}, got {self.atol!r}"
            ) from reason
        return GradTol(limits, self.rtol)

    def holds(self, progress: RunProgress) -> Any:
        """Return where the gradient is within its limit."""
        if not self.per_leaf:
            return progress.observation.grad_norm <= self.limit(progress.first)
        inside = True
        for limit, now, first in zip(
            self._limits, progress.observation.leaves, progress.first.leaves, strict=True
        ):
            inside = inside & (now <= _larger_limit(limit, self.rtol, first))
        return inside

    def limit(self, first: Observation) -> Any:
        """Return what the size of the gradient is held against; the limits given, if by leaf."""
        return self.atol if self.per_leaf else _larger_limit(self.atol, self.rtol, first.grad_norm)

    def __repr__(self) -> str:
        return f"GradTol({self.atol!r}{f', rtol={self.rtol!r}' if self.rtol else ''})"


# A default limit is at most this share of the first gradient: a function of small values is no nearer to its
# minimum for that, and one whose values grow for ever is never near.
MAX_TOLERANCE_SHARE = 1e-2


@dataclass(frozen=True, repr=False)
class ScaleFreeGradTol(GradTol):
    r"""A limit of the gradient that no one asked for, of a function of unknown scale.

    A share of the first gradient caps it. And D, by how much the value should fall in the next step, has to be small
    beside what the value fell by so far, and beside itself, or else rounding ::

        D <= max(eps^(2/3) min(f_0 - f, |f|), eps |f|, eps (f_0 - f))

    A gradient may be small for the small values of the function, or on a slope without an end.
    """

    eps: float = 0.0

    def limit(self, first: Observation) -> Any:
        """Return the limit, or the share where that is less."""
        return capped_limit(super().limit(first), first)

    def holds(self, progress: RunProgress) -> Any:
        """Return where gradient and predicted decrease are within their limits."""
        inside = super().holds(progress)
        if not np.any(inside):
            return inside
        value, first = progress.observation.value, progress.first.value
        xp, size, fall = backends.namespace(value), abs(value), abs(first - value)
        share = self.eps ** (2.0 / 3.0) * xp.minimum(fall, size)
        limit = xp.maximum(share, self.eps * xp.maximum(size, fall))
        at_rest = progress.observation.predicted_decrease <= limit
        return inside & (at_rest | (progress.observation.grad_norm == 0.0))


def capped_limit(limit: Any, first: Observation) -> Any:
    """Return a limit of the gradient, or the largest share of the first one where that is less."""
    most = MAX_TOLERANCE_SHARE * first.grad_norm
    return min(limit, most) if type(most) is float else np.fmin(limit, most)


@dataclass(frozen=True, repr=False)
class _ChangeTol(Test):
    rtol: float
    atol: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that are no numbers."""
        as_nonnegative("rtol", self.rtol)
        as_nonnegative("atol", self.atol)

    def __repr__(self) -> str:
        more = f", atol={self.atol!r}" if self.atol else ""
        return f"{type(self).__name__}({self.rtol!r}{more})"


class StepTol(_ChangeTol):
    """Converged when the step is small: max |x_k - x_{k-1}| <= max(atol, rtol max |x_k|).

    Parameters
    ----------
    rtol : float
        The limit as a share of the largest parameter.
    atol : float
        The absolute limit.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no finite number of 0 or more.

    Examples
    --------
    >>> StepTol(1e-9)
    StepTol(1e-09)
    """

    def holds(self, progress: RunProgress) -> Any:
        """Return where the last step that was taken is within its limit."""
        size = progress.observation.size
        xp = backends.namespace(size)
        size = xp.where(size > 0.0, size, xp.ones_like(size))
        moved = progress.observation.moved * size
        return progress.advanced & (moved <= _larger_limit(self.atol, self.rtol, size))


class ValueTol(_ChangeTol):
    """Converged when the value stands still: |f - f_before| <= max(atol, rtol |f|).

    f_before is the value at the previous observation, ``check_every`` steps ago. The test does not hold where
    no step was taken since, as when a line search has yet to find its point.

    Parameters
    ----------
    rtol : float
        The limit as a share of the value.
    atol : float
        The absolute limit.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no finite number of 0 or more.

    Examples
    --------
    >>> ValueTol(1e-12, atol=1e-300)
    ValueTol(1e-12, atol=1e-300)
    """

    def holds(self, progress: RunProgress) -> Any:
        """Return where the change since the previous observation is within its limit."""
        change = abs(progress.observation.value - progress.previous.value)
        return progress.advanced & (
            change <= _larger_limit(self.atol, self.rtol, abs(progress.observation.value))
        )


# At a plateau the gradient must be below this share of the first one for the run to have converged: what is
# left to gain is about the square of the share, times the condition number of the scaled columns.
MAX_PLATEAU_GRADIENT_SHARE = 0.02


@dataclass(frozen=True)
class Plateau(Test):
    """Ended when the value has gained too little for some steps: of mini-batches, whose steps are epochs.

    A gain is a value that is lower than at the last gain by more than `rtol` of the whole fall since the first
    point. The run has converged if the gradient has become small too, |g| <= 0.02 |g_0|; else its status is
    `Status.PLATEAU`.

    Parameters
    ----------
    rtol : float
        The share of the whole fall that counts as a gain, 0 or more.
    patience : int
        The steps without a gain, 1 or more.

    Raises
    ------
    TypeError, ValueError
        For a share or a number of steps that is out of range.

    Notes
    -----
    The tests that scikit-learn calls ``tol`` and ``n_iter_no_change``.

    Examples
    --------
    >>> Plateau(1e-4, patience=5)
    Plateau(rtol=0.0001, patience=5)
    """

    rtol: float = 1e-4
    patience: int = 5

    def __post_init__(self) -> None:
        """Refuse a share that is negative, and a patience of nothing."""
        as_nonnegative("rtol", self.rtol)
        as_count("patience", self.patience)

    def holds(self, progress: RunProgress) -> Any:
        """Return where the value stands still."""
        return progress.without_gain >= self.patience

    def evaluate(self, progress: RunProgress) -> Any:
        """Return CONVERGED where the value stands still and the gradient is small, else PLATEAU."""
        limit = MAX_PLATEAU_GRADIENT_SHARE * progress.first.grad_norm
        small = progress.observation.grad_norm <= limit
        status = np.where(small, int(Status.CONVERGED), int(Status.PLATEAU))
        return np.where(self.holds(progress), status, RUNNING)


@dataclass(frozen=True)
class GCV(Test):
    """Converged at the step whose generalised cross-validation is the smallest: early stopping.

    That step is known where the whole run is, in closed form: of gradient descent, ``momentum`` or
    ``nesterov`` with a constant learning rate, on the squared loss with no penalty or `L2`. In
    ``agd.fit`` it is also spelt ``stop="gcv"``. See ``agd.update.Trajectory.gcv``.

    Raises
    ------
    ValueError
        By any other run.

    Examples
    --------
    >>> GCV()
    GCV()
    """

    def holds(self, progress: RunProgress) -> Any:  # noqa: ARG002 - whatever was seen
        """Refuse: a loop knows only the steps that it took."""
        raise ValueError(
            "stop='gcv' needs the whole run in closed form: the squared loss with no penalty or L2, "
            "method 'gd', 'momentum' or 'nesterov' with a constant learning rate, no callback, and no "
            "other test beside it"
        )


# A run whose value increases at so many observations in a row, over so many steps, is not oscillating.
MIN_INCREASES, MIN_INCREASING_STEPS = 5, 25
DIVERGENCE_FACTOR = 10.0  # times its first value: such a run diverges once it is above this
MAX_FAILED_TRIALS = 500  # trials in a row without a step: more than any line search makes
MAX_FAILED_EPOCHS = 25  # epochs of mini-batches in a row, each undone and its step halved


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
        How many steps run between two observations: value, gradient norm and finite flag are read
        together, in one transfer from the device. A run can thus be up to ``check_every - 1`` steps longer than
        it had to be. By default (None) 10, and 1 where ``agd.minimize`` runs on NumPy arrays and for methods
        with a line search, which read these numbers at each evaluation.
    when : Criterion, optional
        Another test, or several joined by & and |, such as
        ``GradTol(1e-8) & ValueTol(1e-12) | Deadline(seconds=10)``.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no number, or below its least value.

    Notes
    -----
    A criterion may be given in place of a Stop. If it has only limits (steps, calls, time), the default test of the
    gradient is added; if none of its limits is sure to be reached, so is ``max_iter=10_000``.

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
        as_count("max_iter", self.max_iter)
        if self.check_every is not None:
            as_count("check_every", self.check_every)
        tolerances = {
            "grad_tol": self.grad_tol,
            "step_tol": self.step_tol,
            "value_tol": self.value_tol,
        }
        for name, tolerance in tolerances.items():
            if tolerance is not None:
                as_nonnegative(name, tolerance)
        if self.when is not None and not isinstance(self.when, Criterion):
            raise TypeError(
                f"when must be a criterion such as agd.GradTol(1e-8), got {self.when!r}"
            )

    @property
    def tests_convergence(self) -> bool:
        """Whether it says itself when a gradient is small enough, or what to test in its place."""
        parts = () if self.when is None else self.when.parts()
        return self.grad_tol is not None or any(p.status is Status.CONVERGED for p in parts)

    def criterion(self, grad_tol: float = 0.0, *, value_eps: float | None = None) -> Criterion:
        """Return all of it as one criterion.

        Parameters
        ----------
        grad_tol : float
            The gradient's limit where it says nothing of convergence itself.
        value_eps : float, optional
            The rounding of the values, where that limit knows nothing of their scale: see `ScaleFreeGradTol`.

        Returns
        -------
        Criterion
            The tests, joined by |.
        """
        tests: list[Criterion] = []
        if self.grad_tol is not None:
            tests.append(GradTol(self.grad_tol))
        elif not self.tests_convergence:
            tests.append(
                GradTol(grad_tol)
                if value_eps is None
                else ScaleFreeGradTol(grad_tol, eps=value_eps)
            )
        if self.step_tol is not None:
            tests.append(StepTol(self.step_tol))
        if self.value_tol is not None:
            tests.append(ValueTol(self.value_tol))
        if self.when is not None:
            tests.append(self.when)
        return functools.reduce(operator.or_, [*tests, MaxIter(self.max_iter)])


DEFAULT_STOP = Stop()


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
        return DEFAULT_STOP
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


class StoppingMonitor:
    """Turn the observations of a run into one status for each problem; it lives on the host.

    Beside the criterion it knows the ends that no one asks for: a value or gradient that is not finite, a
    line search that failed, divergence, and a value that falls without bound.

    Parameters
    ----------
    criterion : Criterion
        The tests, resolved for the parameters.
    first : Observation
        That at the first point.
    calls : numpy.ndarray of int, shape (...)
        Calls of the function by then.
    eps : float
        The rounding of the objective's dtype.
    seconds : float
        The time that the run has taken so far.
    epoch : int
        The steps that an iteration takes: those of an epoch, for a solver that draws mini-batches.
    is_rounding : callable, optional
        ``is_rounding(observation)``: where a gradient is rounding, so that a line search that finds no lower
        point from there has found the minimum. Nowhere by default.
    """

    def __init__(
        self,
        criterion: Criterion,
        first: Observation,
        calls: Any,
        eps: float,
        seconds: float = 0.0,
        epoch: int = 1,
        is_rounding: Callable[[Observation], Any] | None = None,
    ) -> None:
        self.criterion, self.epoch, self.is_rounding = criterion, epoch, is_rounding
        self.max_grad_norm: Any = None  # above it no problem has converged
        self.first = self.previous = first
        with np.errstate(over="ignore"):  # a first value near overflow leaves no room to fall
            # Below the first limit steps drown in rounding; at the second no more are taken.
            self.rounding_floor = -np.fmax(1.0, np.abs(first.value)) / eps
            self.unbounded_below = self.rounding_floor / eps
        if type(first.value) is float:
            self.rounding_floor = float(self.rounding_floor)
            self.unbounded_below = float(self.unbounded_below)
        self.calls, self.seconds, self.seconds_per_step = calls, seconds, 0.0
        shape = np.shape(first.value)
        self.consecutive_increases: Any = np.zeros(shape, dtype=int) if shape else 0
        self.increasing_since, self.last_step = first.iterations, first.steps
        plateaus = [part for part in criterion.parts() if isinstance(part, Plateau)]
        self.plateau = plateaus[0] if plateaus else None
        self.last_gain, self.without_gain = (first.value, first.iterations), 0.0 * first.iterations
        self.status, self.all_done = np.full(shape, RUNNING), not np.prod(shape)
        self.advanced: Any = np.zeros(shape, dtype=bool)
        if type(first.value) is float:
            self.advanced = False
        # At the deadline a gradient by differences is left unfinished.
        deadlines = (part.seconds for part in criterion.parts() if isinstance(part, Deadline))
        late = any(seconds >= limit for limit in deadlines)
        self._end(first.finite == 0, Status.DEADLINE if late else Status.NON_FINITE)
        self.check(first)

    @property
    def done(self) -> Any:
        """Which problems have ended."""
        return self.status >= 0

    @property
    def any_advanced(self) -> bool:
        """Whether any problem took a step since the observation before the last."""
        advanced = self.advanced
        return advanced if type(advanced) is bool else bool(np.any(advanced))

    def update(self, observation: Observation, calls: Any, seconds: float) -> None:
        """Take in a new observation, and check the problems that still run."""
        previous, xp = self.previous, backends.namespace(observation.value)
        steps = _largest(observation.steps - previous.steps)
        self.seconds_per_step = (seconds - self.seconds) / max(steps, 1.0)
        self.calls, self.seconds = calls, seconds
        self.advanced = observation.iterations > previous.iterations
        self.last_step = xp.where(self.advanced, observation.steps, self.last_step)
        increased = self.advanced & (observation.value > previous.value)
        not_decreased = increased | xp.logical_not(self.advanced)
        since = xp.where(not_decreased, self.increasing_since, observation.iterations)
        count = xp.where(not_decreased, self.consecutive_increases + increased, 0)
        self.increasing_since, self.consecutive_increases = since, count
        if self.plateau is not None:
            self._count_steps_without_gain(self.plateau, observation)
        self.check(observation)
        self.previous = observation

    def check(self, observation: Observation) -> None:
        """Set the status of the problems that end: convergence first, then failures, then limits."""
        first = self.first
        with np.errstate(all="ignore"):
            advanced = self.advanced & (observation.finite != 0)
            tested, advanced = _hide_possible_saddles(observation, advanced)
            if self.max_grad_norm is not None:
                low = observation.grad_norm <= self.max_grad_norm
                tested = tested._replace(grad_norm=np.where(low, tested.grad_norm, np.inf))
            status = self.criterion.evaluate(
                RunProgress(
                    tested,
                    self.previous,
                    first,
                    advanced,
                    self.calls,
                    self.seconds,
                    self.without_gain,
                )
            )
            rise = (DIVERGENCE_FACTOR - 1.0) * abs(first.value)
            far_above = (observation.value > first.value + rise) & (
                observation.grad_norm > DIVERGENCE_FACTOR * first.grad_norm
            )
        increasing = (self.consecutive_increases >= MIN_INCREASES) & (
            observation.iterations - self.increasing_since >= MIN_INCREASING_STEPS
        )
        nonfinite, stalled = observation.finite == 0, observation.stalled != 0
        self._end((status == Status.CONVERGED) & ~nonfinite, Status.CONVERGED)
        # What is not finite at the deadline may be what was left of a gradient by differences.
        self._end((status == Status.DEADLINE) & (nonfinite | stalled), Status.DEADLINE)
        self._end(observation.value < self.unbounded_below, Status.UNBOUNDED)
        self._end(nonfinite & (observation.grad_norm > first.grad_norm), Status.DIVERGED)
        self._end(nonfinite, Status.NON_FINITE)
        self._end(stalled & (observation.hit_nonfinite != 0), Status.NON_FINITE)
        self._end(stalled & (observation.value < self.rounding_floor), Status.UNBOUNDED)
        if self.is_rounding is not None and np.any(stalled):
            low = self.max_grad_norm is None or observation.grad_norm <= self.max_grad_norm
            self._end(stalled & low & self.is_rounding(observation), Status.CONVERGED)
        self._end(stalled, Status.LINE_SEARCH)
        self._end(far_above & increasing, Status.DIVERGED)
        self._end(status >= 0, status)
        max_trials = max(MAX_FAILED_TRIALS, MAX_FAILED_EPOCHS * self.epoch)
        no_step = observation.steps - self.last_step >= max_trials
        self._end(no_step & (observation.hit_nonfinite != 0), Status.NON_FINITE)
        self._end(no_step, Status.LINE_SEARCH)

    def _count_steps_without_gain(self, plateau: Plateau, observation: Observation) -> None:
        """Note the value of the last gain, and how many steps ago it was."""
        value, steps = observation.value, observation.iterations
        last_value, last_steps = self.last_gain
        gained = last_value - value > plateau.rtol * (self.first.value - value)
        self.last_gain = np.where(gained, value, last_value), np.where(gained, steps, last_steps)
        self.without_gain = steps - self.last_gain[1]

    def reopen(self, where: Any, observation: Observation) -> None:
        """Check some problems again, from an observation at the same points; no step has led to it."""
        self.status = np.where(where, RUNNING, self.status)
        self.all_done = bool(self.done.all())
        self.advanced = self.advanced ^ self.advanced
        self.previous = observation
        self.check(observation)

    def refuse_convergence(self, where: Any, observation: Observation, max_grad_norm: Any) -> None:
        """Let some problems go on until their gradient is smaller; one whose search stalled has failed."""
        earlier = np.inf if self.max_grad_norm is None else self.max_grad_norm
        self.max_grad_norm = np.where(where, max_grad_norm, earlier)
        self.reopen(where, observation)

    def steps_until_check(self, check_every: int, calls_per_step: int) -> int:
        """Return how many steps to take before the next observation, so that no limit is missed.

        Parameters
        ----------
        check_every : int
            The most steps between two observations.
        calls_per_step : int
            How often a step calls the function, at the most; an epoch of mini-batches together.

        Returns
        -------
        int
            1 or more.
        """
        if check_every == 1:
            return 1
        running = ~self.done
        clock = RunClock(
            iterations=_largest(self.previous.iterations, running),
            calls=_largest(self.calls, running),
            seconds=self.seconds,
            epoch=self.epoch,
            steps_into_epoch=int(_largest(self.previous.steps)) % self.epoch,
            calls_per_step=calls_per_step,
            seconds_per_step=self.seconds_per_step,
        )
        limits = [part.steps_left(clock) for part in self.criterion.parts()]
        return max(1, int(min([float(check_every), *limits])))

    def end(self, status: Status) -> None:
        """End every problem that still runs."""
        self._end(np.ones(np.shape(self.status), dtype=bool), status)

    def _end(self, where: Any, status: Any) -> None:
        if where is not False and np.any(where):
            self.status = np.where(where & ~self.done, status, self.status)
            self.all_done = bool(self.done.all())


def _largest(x: Any, where: Any = None) -> float:
    """Return the largest entry of an array, among those that a mask selects; a number is returned as it is."""
    if type(x) is float or np.ndim(x) == 0:
        return float(x)
    return float(np.max(x if where is None else x[where]))


def _hide_possible_saddles(observation: Observation, advanced: Any) -> tuple[Observation, Any]:
    """Hide from the tests of convergence the problems whose point may yet be a saddle."""
    may_be_saddle = observation.may_be_saddle != 0
    if may_be_saddle is False or not np.any(may_be_saddle):
        return observation, advanced
    grad_norm = np.where(may_be_saddle, np.inf, observation.grad_norm)
    leaves = (
        None if observation.leaves is None else np.where(may_be_saddle, np.inf, observation.leaves)
    )
    return observation._replace(grad_norm=grad_norm, leaves=leaves), advanced & ~may_be_saddle


def default_tolerance(point: Tree) -> float:
    """Return eps^(1/3), with eps the rounding of the coarsest of the point's dtypes."""
    leaves = optree.tree_leaves(point)
    eps = max(float(backends.namespace(x).finfo(x.dtype).eps) for x in leaves)
    return math.exp(math.log(eps) / 3.0)
