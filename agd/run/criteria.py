"""How stopping tests compose: with & and |, nested as one likes.

>>> from agd.run import Deadline, GradTol, MaxIter, ValueTol
>>> GradTol(1e-8) & ValueTol(1e-12) | MaxIter(500) | Deadline(seconds=10)
GradTol(1e-08) & ValueTol(1e-12) | MaxIter(500) | Deadline(seconds=10)

Each is a value: it can be compared, hashed and used in many runs. A run asks it at every look, on the
host, for each of its problems.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from agd._typing import Tree
from agd.run.row import Row
from agd.run.status import Status

__all__ = [
    "Criterion",
    "Seen",
    "Test",
]

RUNNING = -1  # in an array of statuses: none yet


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
