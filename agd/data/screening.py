"""What only the values can tell of data: finite, within the loss's domain, two classes.

The sound case costs one pass and one read by the host. Only data that fail are looked at again, to say
how many values are wrong and where the first one is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Loss
from agd._validation import invalid_values_text
from agd.data.arrays import Blocks, beside
from agd.data.matrix import entries, place

__all__ = [
    "Screened",
    "report",
    "screen",
]

TEMPORARY = 64 * 2**20  # bytes: the largest block for the second look, which copies its block


class Screened(NamedTuple):
    """Blocks whose values are sound, what was learned of them, and what it cost.

    Attributes
    ----------
    blocks : Blocks
        The data; for a loss of two classes y is 0 and 1.
    classes : tuple of float, or None
        The labels that 0 and 1 stand for.
    least_share : float
        The smallest positive weight over the sum of the weights.
    n_sync : int
        Reads by the host.
    whole : bool
        Whether the values of X were looked at too.
    """

    blocks: Blocks
    classes: tuple[float, float] | None
    least_share: float
    n_sync: int
    whole: bool = True


class _Report(NamedTuple):
    """One block's sums, extremes and counts; 0 where the loss does not ask, 1 for weights not given."""

    X: Any
    y: Any
    weight: Any
    least_weight: Any
    least_positive: Any
    outside: Any
    low: Any
    high: Any
    not_binary: Any
    not_signs: Any


def report(loss: Loss, X: Array, y: Array, weight: Array | None, *, whole: bool = True) -> Array:
    """Look a block over: a sum is finite only if all its terms are, and makes no temporary."""
    xp = backends.namespace(y)
    _alike(X, y, weight)
    if X.shape[-2] == 0:  # a chunk whose rows were all filtered out: nothing to find fault with
        return xp.asarray(_NOTHING, dtype=X.dtype, device=backends.device(X))
    columns = dict.fromkeys(_Report._fields, xp.zeros((), dtype=y.dtype, device=backends.device(y)))
    columns["y"] = xp.sum(y)
    if whole:
        columns["X"] = xp.sum(entries(X))
    if weight is None:
        one = columns["low"] + 1.0
        columns |= {"weight": one, "least_weight": one, "least_positive": one}
    else:
        positive = xp.where(weight > 0.0, weight, xp.max(weight))
        columns |= {
            "weight": xp.sum(weight),
            "least_weight": xp.min(weight),
            "least_positive": xp.min(positive),
        }
    if loss.classes is None:
        columns["outside"] = _count(loss.outside(y))
    else:
        columns |= {
            "low": xp.min(y),
            "high": xp.max(y),
            "not_binary": _count((y != 0.0) & (y != 1.0)),
            "not_signs": _count((y != -1.0) & (y != 1.0)),
        }
    return xp.stack([xp.astype(columns[name], X.dtype) for name in _Report._fields])


_NOTHING = tuple(
    {"least_weight": math.inf, "least_positive": math.inf, "low": math.inf, "high": -math.inf}.get(
        name, 0.0
    )
    for name in _Report._fields
)


def _alike(X: Array, y: Array, weight: Array | None) -> None:
    """Raise if a block's parts differ in rows, which chunks of unknown size show only here."""
    for name, rows in (("y", y), ("sample_weight", weight)):
        if rows is not None and rows.shape[-1] != X.shape[-2]:
            raise ValueError(
                f"{name} must be cut as X is, got a chunk of {rows.shape[-1]} beside one of "
                f"{X.shape[-2]} rows of X"
            )


def _count(mask: Array) -> Array:
    xp = backends.namespace(mask)
    return xp.sum(xp.astype(mask, xp.int32))


def screen(
    blocks: Blocks, loss: Loss, reports: Array | None = None, *, whole: bool = True
) -> Screened:
    """Check the values of X, y and the weights; encode the labels of two classes as 0 and 1.

    Parameters
    ----------
    blocks : Blocks
        The data.
    loss : Loss
        It says which targets it can have.
    reports : array, optional
        What `report` gave for each block, stacked, where another pass took it along.
    whole : bool
        Whether to look at X, which takes as long as a step does, beside y and the weights.

    Returns
    -------
    Screened
        Sound data.

    Raises
    ------
    ValueError
        For values that are not finite, negative weights, weights that are all zero, and targets that
        the loss cannot have; it counts them and gives the first position.
    """
    if reports is None:
        with np.errstate(all="ignore"):  # what overflows here is looked at again, and then said
            of = blocks if whole else beside(blocks)
            rows = of.each(functools.partial(report, loss, whole=whole))
        reports = backends.namespace(rows[0]).stack(rows)
    xp = backends.namespace(reports)
    # The same in every column of its row.
    least_total = xp.min(blocks.total) + xp.zeros_like(reports[:1, :])
    read = backends.to_numpy(xp.concat([reports, least_total])).astype(float)
    found, total = _Report(*read[:-1].T), read[-1, 0]
    _finite(blocks, found)
    if found.high.max() < found.low.min():
        raise ValueError("X must have at least one row, got chunks without any")
    if found.least_weight.min() < 0.0:
        _fail(blocks, 2, "sample_weight", "negative", lambda x: x < 0.0)
    if not total > 0.0:
        raise ValueError("sample_weight must have a positive sum, got only zeros")
    if not math.isfinite(total):
        raise ValueError("sample_weight must have a finite sum: divide the weights by a constant")
    least_share = float(found.least_positive.min() / total)
    if loss.classes is None:
        if found.outside.sum() > 0:
            kind = f"values out of range (loss {loss.name!r} needs {loss.domain})"
            _fail(blocks, 1, "y", kind, loss.outside)
        return Screened(blocks, None, least_share, 1, whole)
    return _two_classes(blocks, loss, found, least_share)._replace(whole=whole)


def _finite(blocks: Blocks, found: _Report) -> None:
    for which, name in enumerate(("X", "y", "sample_weight")):
        if not np.isfinite(found[which]).all():
            # The sum may have overflowed although every term is finite: then nothing is found.
            _fail(blocks, which, name, "NaN or infinite", lambda x: ~_xp(x).isfinite(x))


def _xp(x: Array) -> Any:
    return backends.namespace(x)


def _two_classes(blocks: Blocks, loss: Loss, found: _Report, least_share: float) -> Screened:
    """Find the two labels, low and high, and write them as 0 and 1."""
    low, high = float(found.low.min()), float(found.high.max())
    n_sync = 1
    if low == high:
        raise ValueError(f"y must have two classes for loss {loss.name!r}, got one: {low!r}")
    plain = found.not_binary.sum() == 0
    if not plain and found.not_signs.sum() > 0:
        third = functools.partial(_neither, low, high)
        n_sync += 1
        more = f"values of a third class beside {low!r} and {high!r} (loss {loss.name!r} needs two)"
        _fail(blocks, 1, "y", more, third)
    if plain:
        return Screened(blocks, (low, high), least_share, n_sync)
    return Screened(blocks.encoded(high), (low, high), least_share, n_sync)


def _neither(low: float, high: float, y: Array) -> Array:
    return (y != low) & (y != high)


def _fail(
    blocks: Blocks, which: int, name: str, kind: str, wrong: Callable[[Array], Array]
) -> None:
    """Raise with the number of wrong values and the place of the first; return if there is none."""
    offset, total, first = 0, 0, None
    for count, index, value, rows in blocks.each(
        functools.partial(_locate, which, wrong), limit=TEMPORARY
    ):
        here = int(backends.to_numpy(count))
        if here and first is None:
            place = [int(i) for i in backends.to_numpy(index)]
            place[-2 if which == 0 else -1] += offset
            first = (tuple(place), float(backends.to_numpy(value)))
        total += here
        offset += rows
    if first is not None:
        raise ValueError(invalid_values_text(name, total, kind, *first))


def _locate(
    which: int, wrong: Callable[[Array], Array], X: Array, y: Array, weight: Array | None
) -> tuple[Array, Array, Array, int]:
    """Count the wrong values of a block; give the index and the value of the first, and its rows."""
    x: Array = (entries(X), y, weight)[which]
    xp = backends.namespace(x)
    if 0 in x.shape:  # a sparse block without an entry
        return xp.zeros((), dtype=xp.int32), xp.zeros((2,), dtype=xp.int32), x, int(X.shape[-2])
    flags = xp.reshape(xp.astype(wrong(x), xp.int32), (-1,))
    first = xp.argmax(flags)
    value = xp.take(xp.reshape(x, (-1,)), xp.reshape(first, (1,)))[0]
    index, rest = [], first
    if which == 0 and backends.is_sparse(X):
        return xp.sum(flags), xp.stack(place(X, first)), value, int(X.shape[-2])
    for size in reversed(x.shape):
        index.append(rest % size)
        rest = rest // size
    return xp.sum(flags), xp.stack(index[::-1]), value, int(X.shape[-2])
