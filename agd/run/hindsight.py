"""Judging a run whose every step is known at once: the first look at which a test would have held."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from agd.run.criteria import RUNNING
from agd.run.looks import GRID, Looks, at, joined, spread
from agd.run.row import Row
from agd.run.status import Status
from agd.run.stopping import RISES, Judge

__all__ = ["Scan", "beside", "scanned"]

FEW, MORE = 64, 16  # looks taken together at first, and how many times as many after that
ALL, EXACT = 10_000, 4096  # looks of a run all of which are judged, and of a longer one

Look: TypeAlias = Callable[[Any], Row]


def _judged(judge: Judge, rows: Row) -> Any:
    """Return the status at each of some looks in a row, as if no problem had ended before.

    The judge goes on to the last of them, but for its status.

    Parameters
    ----------
    judge : Judge
        As the last look before these left it.
    rows : Row
        The looks; columns of shape (K, ...).

    Returns
    -------
    numpy.ndarray of int, shape (K, ...)
        The statuses, -1 for none.
    """
    last = judge.last
    before = last._replace(
        value=np.concatenate([last.value[None], rows.value[:-1]]),
        iterations=np.concatenate([last.iterations[None], rows.iterations[:-1]]),
        leaves=None,
    )
    index = np.arange(1, len(rows.value) + 1).reshape(-1, *(1,) * last.value.ndim)
    with np.errstate(invalid="ignore"):
        rising = rows.value > before.value
    calm = np.maximum.accumulate(np.where(rising, 0, index), axis=0)
    since = np.take_along_axis(rows.iterations, np.clip(calm - 1, 0, None), axis=0)
    each = copy.copy(judge)
    each.last = before
    each.rises = np.where(calm > 0, index - calm, judge.rises + index)
    each.rising_since = np.where(calm > 0, since, judge.rising_since)
    status = _settled(each, rows)
    judge.last = at(rows, -1)
    judge.rises, judge.rising_since = each.rises[-1], each.rising_since[-1]
    return status


def _settled(each: Judge, rows: Row) -> Any:
    each.advanced = np.ones(rows.value.shape, dtype=bool)
    each.stepped_at, each.calls = rows.steps, rows.evaluations
    each.status = np.full(rows.value.shape, RUNNING)
    each.settle(rows)
    return each.status


def _alone(judge: Judge, row: Row, before: Row) -> Any:
    """Return the status at some looks, each beside the look before it; a rise is taken to last."""
    each = copy.copy(judge)
    each.last = before
    with np.errstate(invalid="ignore"):
        each.rises = np.where(row.value > before.value, RISES, 0)
    each.rising_since = np.zeros_like(row.iterations)
    return _settled(each, row)


class Scan(NamedTuple):
    """How the looks of a run were judged.

    Attributes
    ----------
    steps, status : numpy.ndarray of int, shape (...)
        After how many steps each problem ends, and how.
    rows : Row
        Looks up to the last end; columns of shape (K, ...).
    first, row, before : Row
        The first point, the ends, and the looks before the ends.
    judge : Judge or None
        Who judged; None where nobody did.
    """

    steps: Any
    status: Any
    rows: Row
    first: Row
    row: Row
    before: Row
    judge: Judge | None

    @classmethod
    def at_steps(cls, look: Look, looks: Looks, most: int, steps: Any, status: int) -> "Scan":
        """Return the scan of a run whose problems end after known steps."""
        rows = _looked(look, looks.steps(spread(0, looks.total)), most)
        end = at(look(steps[None]), 0)
        return cls(steps, np.full(steps.shape, status), rows, at(rows, 0), end, end, None)


def scanned(look: Look, judge_of: Any, looks: Looks, most: int) -> Scan:
    """Find the first look of each problem at which a test holds.

    Up to 10,000 looks all are judged, in their order; of more the first 4,096. Beyond, the first one is
    searched for on a grid that is even in the logarithm, and within it ever more finely: what holds
    between two points of the grid, and not at the second, is not seen.

    Parameters
    ----------
    look : callable
        It takes steps, (K,) or (K, ...), and returns their `Row`.
    judge_of : callable
        It takes the first row and returns the judge.
    looks : Looks
        At which steps a loop would have looked.
    most : int
        How many looks may be taken together.

    Returns
    -------
    Scan
        The ends.
    """
    exact = looks.total if looks.total <= ALL else EXACT
    size = max(2, min(FEW, most))
    rows = look(looks.steps(np.arange(min(size, exact + 1))))
    first = at(rows, 0)
    judge = judge_of(first)
    status, parts, seen = judge.status, [rows], 0
    end = np.where(judge.done, 0, RUNNING)
    rows = at(rows, slice(1, None))
    while (end == RUNNING).any():
        index = seen + 1 + np.arange(len(rows.value)).reshape(-1, *(1,) * end.ndim)
        each = _with_last(_judged(judge, rows), index, looks)
        at_end, held = _first_held(each)
        new = held & (end == RUNNING)
        status = np.where(new, np.take_along_axis(each, at_end[None], axis=0)[0], status)
        end = np.where(new, seen + 1 + at_end, end)
        seen += len(index)
        if seen >= exact or (end != RUNNING).all():
            break
        size = min(MORE * size, most)
        rows = look(looks.steps(np.arange(seen + 1, min(seen + size, exact) + 1)))
        parts.append(rows)
    if (end != RUNNING).all():
        rows = joined(parts)
        row, before = _taken(rows, end), _taken(rows, np.maximum(end - 1, 0))
        rows = at(rows, slice(0, int(end.max()) + 1))
        return Scan(looks.steps(end), status, rows, first, row, before, judge)
    end, status = _searched(look, judge, looks, most, (seen, end, status))
    ends = look(np.stack([looks.steps(end), looks.steps(end - 1)]))
    rows = joined([*parts, _looked(look, looks.steps(spread(seen, int(end.max()))[1:]), most)])
    return Scan(looks.steps(end), status, rows, first, at(ends, 0), at(ends, 1), judge)


def _taken(rows: Row, index: Any) -> Row:
    """Return each problem's entry at an index of its own."""

    def taken(x: Any) -> Any:
        return np.take_along_axis(x, index[None], axis=0)[0]

    found = {
        name: taken(x) for name, x in rows._asdict().items() if name != "leaves" and x is not None
    }
    if rows.leaves is not None:
        found["leaves"] = np.stack([taken(leaf) for leaf in rows.leaves])
    return rows._replace(**found)


def beside(scan: Scan, row: Row) -> Any:
    """Return the statuses at the ends where the gradient there is another: what the data say.

    Parameters
    ----------
    scan : Scan
        The ends.
    row : Row
        The same from the data.

    Returns
    -------
    numpy.ndarray of int, shape (...)
        The statuses, -1 where nothing would have ended the run; the scan's own where nobody judged, and at
        a first point.
    """
    if scan.judge is None:
        return scan.status
    mixed = scan.row._replace(grad_norm=row.grad_norm, leaves=row.leaves)
    found = _alone(scan.judge, mixed, scan.before)
    return np.where((scan.steps == 0) | (scan.status == Status.DIVERGED), scan.status, found)


def _searched(look: Look, judge: Judge, looks: Looks, most: int, known: Any) -> tuple[Any, Any]:
    """Find the ends that lie beyond the looks that were judged one by one."""
    seen, end, status = known
    open_ = end == RUNNING
    low, high = np.where(open_, seen, end), np.where(open_, looks.total, end)
    points = np.broadcast_to(
        spread(seen, looks.total)[:, *(None,) * end.ndim], (GRID + 1, *end.shape)
    )
    while True:
        pairs = [
            (points[i : i + most], points[i : i + most] - 1) for i in range(0, len(points), most)
        ]
        each = [
            _alone(judge, look(looks.steps(now)), look(looks.steps(before)))
            for now, before in pairs
        ]
        found = _with_last(np.concatenate(each), points, looks)
        index, held = _first_held(found)
        index = np.where(held, index, len(points) - 1)
        here, prior = (
            np.take_along_axis(points, np.clip(index - back, 0, None)[None], axis=0)[0]
            for back in (0, 1)
        )
        high, low = np.where(open_, here, high), np.where(open_, prior, low)
        said = np.take_along_axis(found, index[None], axis=0)[0]
        status = np.where(open_, said, status)
        if (high - low <= 1).all():
            return high, status
        parts = np.arange(GRID + 1).reshape(-1, *(1,) * end.ndim)
        whole, rest = np.divmod(high - low, GRID)  # their product with a part must not overflow
        points = low + whole * parts + rest * parts // GRID


def _with_last(status: Any, index: Any, looks: Looks) -> Any:
    """Return the statuses, with one at the last look of all, which ends every run."""
    out = (status == RUNNING) & (index >= looks.total)
    return np.where(out, int(Status.MAX_ITER), status)


def _looked(look: Look, steps: Any, most: int) -> Row:
    return joined([look(steps[i : i + most]) for i in range(0, len(steps), most)])


def _first_held(status: Any) -> tuple[Any, Any]:
    """Return the index of the first status of each problem along the first axis, and whether it has one."""
    held = status != RUNNING
    return np.argmax(held, axis=0), held.any(axis=0)
