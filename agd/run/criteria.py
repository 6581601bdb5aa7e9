"""Stopping tests, and how they compose: with & and |, nested as one likes.

>>> GradTol(1e-8) & ValueTol(1e-12) | MaxIter(500) | Deadline(seconds=10)
GradTol(1e-08) & ValueTol(1e-12) | MaxIter(500) | Deadline(seconds=10)

Each is a value: it can be compared, hashed and used in many runs. A run asks it at every look, on the
host, for each of its problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import optree

from agd._typing import Tree
from agd._validation import count, not_negative, positive
from agd.run.row import Row
from agd.run.status import Status

__all__ = [
    "Criterion",
    "Deadline",
    "GradTol",
    "MaxEval",
    "MaxIter",
    "Seen",
    "StepTol",
    "Test",
    "ValueTol",
]

RUNNING = -1  # in an array of statuses: none yet
_ZERO: Any = 0.0
_NUMBER = optree.tree_structure(_ZERO)  # the structure of a single number


class Seen(NamedTuple):
    """What a criterion judges by: this look, the last and the first, calls and seconds so far.

    `advanced` is true for the problems that took a step since the last look and are finite: only of
    these does it mean anything that value or point have not changed.
    """

    row: Row
    last: Row
    first: Row
    advanced: Any
    calls: Any
    seconds: float


class Criterion:
    """A stopping test. `a & b` holds where both hold, `a | b` where either does.

    What a run says then: for `|` the status of the first that holds; for `&` that it converged, if
    one of the two says so, or else what the first says.
    """

    def __and__(self, other: object) -> Criterion:
        """Hold where both hold."""
        return _All(_joined(_All, self, other)) if isinstance(other, Criterion) else NotImplemented

    def __or__(self, other: object) -> Criterion:
        """Hold where either holds."""
        return _Any(_joined(_Any, self, other)) if isinstance(other, Criterion) else NotImplemented

    def judge(self, seen: Seen) -> Any:
        """Return a status for each problem, -1 where the test does not hold.

        Parameters
        ----------
        seen : Seen
            What the run knows.

        Returns
        -------
        numpy.ndarray of int, shape (...)
            The statuses.
        """
        raise NotImplementedError

    @property
    def ends(self) -> bool:
        """Whether it holds sooner or later, however the run goes."""
        raise NotImplementedError

    def parts(self) -> Iterator[Test]:
        """Give the tests that it is made of."""
        raise NotImplementedError

    def resolved(self, x: Tree) -> Criterion:
        """Return the criterion for parameters such as `x`, with a limit for every leaf."""
        raise NotImplementedError


def _joined(kind: type, first: Criterion, second: Criterion) -> tuple[Criterion, ...]:
    parts: list[Criterion] = []
    for one in (first, second):
        parts += one.operands if isinstance(one, kind) else (one,)  # type: ignore[attr-defined]
    return tuple(parts)


@dataclass(frozen=True, repr=False)
class _Joined(Criterion):
    operands: tuple[Criterion, ...]

    def parts(self) -> Iterator[Test]:
        """Give the operands' parts."""
        for operand in self.operands:
            yield from operand.parts()

    def resolved(self, x: Tree) -> Criterion:
        """Return it with every operand resolved."""
        return type(self)(tuple(operand.resolved(x) for operand in self.operands))


class _Any(_Joined):
    """The operands joined by |."""

    def judge(self, seen: Seen) -> Any:
        """Return the status of the first that holds."""
        status = self.operands[0].judge(seen)
        for operand in self.operands[1:]:
            status = np.where(status == RUNNING, operand.judge(seen), status)
        return status

    @property
    def ends(self) -> bool:
        """Whether one of them does."""
        return any(operand.ends for operand in self.operands)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.operands))


class _All(_Joined):
    """The operands joined by &."""

    def judge(self, seen: Seen) -> Any:
        """Return CONVERGED where all hold and one says so, else what the first says."""
        each = np.stack([operand.judge(seen) for operand in self.operands])
        said = np.where((each == Status.CONVERGED).any(axis=0), int(Status.CONVERGED), each[0])
        return np.where((each == RUNNING).any(axis=0), RUNNING, said)

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
    ends: ClassVar[bool] = False

    def holds(self, seen: Seen) -> Any:
        """Return where the test holds, shape (...)."""
        raise NotImplementedError

    def judge(self, seen: Seen) -> Any:
        """Return the test's status where it holds, else -1."""
        return np.where(self.holds(seen), int(self.status), RUNNING)

    def parts(self) -> Iterator[Test]:
        """Give itself."""
        yield self

    def resolved(self, x: Tree) -> Criterion:  # noqa: ARG002 - only tests by leaf ask
        """Return itself: one limit does for all leaves."""
        return self


def _limit(atol: Any, rtol: float, size: Any) -> Any:
    """Return the larger of the absolute and the relative limit; an unknown size has none."""
    return np.fmax(atol, rtol * size) if rtol else atol


@dataclass(frozen=True, repr=False)
class GradTol(Test):
    """Converged when the gradient is small: |g| <= max(atol, rtol |g_0|).

    |g| is the largest absolute partial derivative, and g_0 that at the first point. With a penalty that
    is not smooth, or bounds, g is x - prox(x - g): what stands between x and a stationary point.

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
        not_negative("rtol", self.rtol)
        limits, structure = optree.tree_flatten(self.atol)
        if not isinstance(self.atol, dict | list | tuple):
            not_negative("atol", self.atol)
        for limit in limits:
            if not (isinstance(limit, float) and limit == math.inf):
                not_negative("atol", limit)
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

    def holds(self, seen: Seen) -> Any:
        """Return where the gradient is within its limit."""
        if not self.per_leaf:
            return seen.row.grad_norm <= self.limit(seen.first)
        inside = True
        for limit, now, first in zip(self._limits, seen.row.leaves, seen.first.leaves, strict=True):
            inside = inside & (now <= _limit(limit, self.rtol, first))
        return inside

    def limit(self, first: Row) -> Any:
        """Return what the size of the gradient is held against; the limits given, if by leaf."""
        return self.atol if self.per_leaf else _limit(self.atol, self.rtol, first.grad_norm)

    def __repr__(self) -> str:
        return f"GradTol({self.atol!r}{f', rtol={self.rtol!r}' if self.rtol else ''})"


@dataclass(frozen=True, repr=False)
class _Change(Test):
    rtol: float
    atol: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that are no numbers."""
        not_negative("rtol", self.rtol)
        not_negative("atol", self.atol)

    def __repr__(self) -> str:
        more = f", atol={self.atol!r}" if self.atol else ""
        return f"{type(self).__name__}({self.rtol!r}{more})"


class StepTol(_Change):
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

    def holds(self, seen: Seen) -> Any:
        """Return where the last step that was taken is within its limit."""
        size = np.where(seen.row.size > 0.0, seen.row.size, 1.0)
        moved = seen.row.moved * size
        return seen.advanced & (moved <= _limit(self.atol, self.rtol, size))


class ValueTol(_Change):
    """Converged when the value stands still: |f - f_before| <= max(atol, rtol |f|).

    f_before is the value at the last look, ``check_every`` steps ago. A look at which no step was taken
    since, as when a line search has yet to find its point, says nothing.

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

    def holds(self, seen: Seen) -> Any:
        """Return where the change since the last look is within its limit."""
        change = np.abs(seen.row.value - seen.last.value)
        return seen.advanced & (change <= _limit(self.atol, self.rtol, np.abs(seen.row.value)))


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
