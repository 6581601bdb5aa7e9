"""At which steps a loop looks, and many looks in one row."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from typing import Any, NamedTuple

import numpy as np

from agd.run.criteria import Criterion
from agd.run.limits import MaxEval, MaxIter
from agd.run.row import Row

__all__ = ["GRID", "Looks", "at", "joined", "spread"]

FAR = 2**61  # steps: as far as they are counted
GRID = 256  # looks that stand for a longer stretch of them


class Looks(NamedTuple):
    """At which steps a loop looks: every so many, and at each limit on the way.

    Attributes
    ----------
    starts, ends, before : numpy.ndarray of int, shape (limits,)
        Between which limits a look lies, and how many looks come before.
    every : int
        The steps between two looks.
    total : int
        How many there are, without that at the first point.
    """

    starts: Any
    ends: Any
    before: Any
    every: int
    total: int

    @classmethod
    def of(cls, criterion: Criterion, last: int, every: int) -> "Looks":
        """Return the looks of a run with these tests, up to the step `last`."""
        last, limits = min(last, FAR), set()
        for part in criterion.parts():
            if isinstance(part, MaxIter):
                limits.add(part.limit)
            elif isinstance(part, MaxEval):  # one evaluation at the first point, and one a step
                limits.add(part.limit - 1)
        ends = np.asarray(sorted({n for n in limits if 0 < n < last} | {last}), dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        every = min(every, FAR)
        counts = -(-(ends - starts) // every)
        before = np.cumsum(counts) - counts
        return cls(starts, ends, before, every, int(counts.sum()))

    def steps(self, look: Any) -> Any:
        """Return the steps that were taken by a look; look 0 is that at the first point."""
        look = np.clip(look, 0, self.total)
        part = np.clip(np.searchsorted(self.before, look, side="left") - 1, 0, None)
        steps = self.starts[part] + (look - self.before[part]) * self.every
        return np.where(look > 0, np.minimum(steps, self.ends[part]), 0)


def at(row: Row, index: Any) -> Row:
    """Return the entries of a row's looks at an index."""
    found = {
        name: None if column is None else column[index]
        for name, column in row._asdict().items()
        if name != "leaves"
    }
    return Row(**found, leaves=None if row.leaves is None else row.leaves[:, index])


def joined(rows: list[Row]) -> Row:
    """Return the looks of several rows, one after the other."""
    found = {}
    for name in Row._fields:
        parts = [getattr(row, name) for row in rows]
        axis = 1 if name == "leaves" else 0
        found[name] = None if parts[0] is None else np.concatenate(parts, axis=axis)
    return Row(**found)


def spread(low: int, high: int) -> Any:
    """Return looks from low to high: all, or some that are even in the logarithm."""
    if high - low <= GRID:
        return np.arange(low, high + 1)
    apart = np.geomspace(max(low, 1), high, GRID).round().astype(np.int64)
    return np.concatenate([[low], np.clip(apart, low, high)])
