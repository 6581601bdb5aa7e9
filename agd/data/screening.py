"""Screening of the values of X, y and the weights: finite, within the loss's domain, labels of classes.

A fit screens its data before the first step, unless its solver reads every value of X anyway and reports what is
not finite. Valid data cost one pass and one read by the host. Only data that fail are passed over again, to count
the invalid values and to locate the first of them.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, BatchColumn, Loss, Matrix
from agd._validation import as_nonnegative, invalid_values_text
from agd.data.base import BaseData, label_positions
from agd.data.checks import check_arrays, encode_labels
from agd.data.matrix import entry_position, stored_entries
from agd.loss import Squared
from agd.loss.base import pair_offset, split_offset

__all__ = [
    "MAX_CLASSES",
    "Screened",
    "as_fitted_rows",
    "refuse_rows_without_class",
    "screen",
    "screen_block",
    "weigh_classes",
]

# The second pass, which locates an invalid value, makes a copy of the size of its block.
MAX_LOCATED_BLOCK_BYTES = 64 * 2**20
# Of a loss for any number of classes: with more labels the target is hardly one of classes.
MAX_CLASSES = 1000


class Screened(NamedTuple):
    """Data whose values were checked, what the check found out about them, and what it cost.

    Attributes
    ----------
    blocks : BaseData
        The data; for a loss of k classes y is numbered from 0 to k - 1.
    classes : tuple of float, or None
        The labels that these numbers stand for, ascending.
    min_weight_share : float
        The smallest positive weight over the sum of the weights.
    n_sync : int
        Reads by the host.
    features_checked : bool
        Whether the values of X were checked too.
    """

    blocks: BaseData
    classes: tuple[float, ...] | None
    min_weight_share: float
    n_sync: int
    features_checked: bool = True


class _BlockReport(NamedTuple):
    """Sums, extremes and counts of one block: 0 where the loss does not need them, 1 for absent weights.

    `outside` counts the targets that are out of the loss's domain; of two classes, those that are neither the
    lowest nor the highest label of the block.
    """

    X: Any
    y: Any
    weight: Any
    min_weight: Any
    min_positive_weight: Any
    outside: Any
    low: Any
    high: Any


def screen_block(
    loss: Loss, X: Matrix, y: Array, weight: Array | None, *, check_X: bool = True
) -> Array:
    """Summarise a block as a `_BlockReport`: a sum is finite only if all its terms are, and needs no temporary.

    Of a loss with another number of classes than two, the block's labels follow it.
    """
    xp, y = backends.namespace(y), split_offset(y)[0]
    _check_row_counts(X, y, weight)
    if X.shape[-2] == 0:  # a chunk whose rows were all filtered out
        empty = _EMPTY_REPORT + (math.inf,) * (MAX_CLASSES + 1) * _has_many_classes(loss)
        return xp.asarray(empty, dtype=X.dtype, device=backends.device(X))
    zero = xp.zeros((), dtype=y.dtype, device=backends.device(y))
    one: Any = zero + 1.0
    weights: tuple[Any, Any, Any] = (one, one, one)
    if weight is not None:
        positive = xp.where(weight > 0.0, weight, xp.max(weight))
        weights = xp.sum(weight), xp.min(weight), xp.min(positive)
    if loss.classes is None:
        low = high = zero
        total, outside = xp.sum(y), xp.sum(xp.astype(loss.outside(y), y.dtype))
    else:
        low, high = xp.min(y), xp.max(y)
        total, outside = low + high, xp.sum(xp.astype((y != low) & (y != high), y.dtype))
    total_X = xp.sum(stored_entries(X)) if check_X else zero
    report = xp.stack(_BlockReport(total_X, total, *weights, outside, low, high))
    report = xp.astype(report, X.dtype, copy=False)
    return xp.concat([report, _distinct_labels(y)]) if _has_many_classes(loss) else report


def _has_many_classes(loss: Loss) -> bool:
    return loss.classes not in (None, 2)


def _distinct_labels(y: Array) -> Array:
    """Return the smallest distinct entries of y, ascending, and infinity for what is left of `MAX_CLASSES` + 1."""
    # No array here has a shape that depends on values, so that one read is enough, on any device.
    xp, where = backends.namespace(y), backends.device(y)
    ordered = xp.sort(xp.reshape(y, (-1,)))
    infinite = xp.zeros_like(ordered) + math.inf
    repeated = xp.concat([ordered[:1] != ordered[:1], ordered[1:] == ordered[:-1]])
    count = min(MAX_CLASSES + 1, int(ordered.shape[0]))
    distinct = xp.sort(xp.where(repeated, infinite, ordered))[:count]
    filling = xp.full((MAX_CLASSES + 1 - count,), math.inf, dtype=y.dtype, device=where)
    return xp.concat([distinct, filling])


_EMPTY_REPORT = tuple(
    {
        "min_weight": math.inf,
        "min_positive_weight": math.inf,
        "low": math.inf,
        "high": -math.inf,
    }.get(name, 0.0)
    for name in _BlockReport._fields
)


def _check_row_counts(X: Matrix, y: Array, weight: Array | None) -> None:
    """Raise if a block's parts differ in rows, which chunks of unknown size show only here."""
    for name, rows in (("y", y), ("sample_weight", weight)):
        if rows is not None and rows.shape[-1] != X.shape[-2]:
            raise ValueError(
                f"{name} must be cut as X is, got a chunk of {rows.shape[-1]} beside one of "
                f"{X.shape[-2]} rows of X"
            )


def as_fitted_rows(
    X: Any,
    y: Any,
    sample_weight: Any,
    offset: Any,
    loss: Loss,
    labels: tuple[Any, ...] | None,
) -> BaseData:
    """Return checked rows to hold a fitted model against, with labels as their positions among those fitted.

    A label that was not fitted has the position -1: no prediction is right.

    Parameters
    ----------
    X, y, sample_weight, offset : object
        As of a fit.
    loss : Loss
        The loss that was minimised.
    labels : tuple, or None
        Of a loss of classes, the labels that were fitted, ascending.
    """
    if labels is not None and isinstance(labels[0], str | bool):
        y, given, _ = encode_labels(y)
        if given is not None and isinstance(labels[0], str):
            place = {label: float(i) for i, label in enumerate(labels)}
            y = np.asarray([place.get(label, -1.0) for label in given])[y.astype(int)]
        labels = tuple(map(float, range(len(labels))))
    data = BaseData.uncounted(*check_arrays(X, y, sample_weight, offset))
    if labels is None:
        return screen(data, loss).blocks
    data = screen(data, Squared()).blocks  # labels need not be all of those that were fitted
    numbers = tuple(map(float, labels))
    if isinstance(data.y, BatchColumn):
        return data.encode_labels(numbers)
    xp, (target, offset) = backends.namespace(data.y), split_offset(data.y)
    known = functools.reduce(operator.or_, (target == number for number in numbers))
    positions = xp.where(known, label_positions(target, numbers), 0.0 * target - 1.0)
    return data.replace(y=positions if offset is None else pair_offset(positions, offset))


def screen(
    blocks: BaseData, loss: Loss, reports: Array | None = None, *, check_X: bool = True
) -> Screened:
    """Check the values of X, y and the weights; encode the labels of classes as numbers from 0.

    Parameters
    ----------
    blocks : BaseData
        The data.
    loss : Loss
        It declares its domain and its number of classes.
    reports : array, optional
        The results of `screen_block` for each block, stacked, where another pass computed them on its way.
    check_X : bool
        Whether to check X, which takes as long as a step does, and not only y and the weights.

    Returns
    -------
    Screened
        The checked data.

    Raises
    ------
    ValueError
        For values that are not finite, negative weights, weights that are all zero, and targets that
        the loss cannot have; it counts them and gives the first position.
    """
    if reports is None:
        with np.errstate(all="ignore"):  # an overflow is reported below
            of = blocks if check_X else blocks.targets_only()
            rows = of.map(functools.partial(screen_block, loss, check_X=check_X))
        reports = backends.namespace(rows[0]).stack(rows)
    xp = backends.namespace(reports)
    if blocks.weight is None and math.isfinite(blocks.row_count):
        total, read = blocks.row_count, backends.to_numpy(reports).astype(float, copy=False)
    else:  # the same in every column of its row
        min_total = xp.min(blocks.total) + xp.zeros_like(reports[:1, :])
        with_total = backends.to_numpy(xp.concat([reports, min_total])).astype(float)
        total, read = float(with_total[-1, 0]), with_total[:-1]
    reports_read = read[:, : len(_EMPTY_REPORT)]
    least = _BlockReport(*reports_read.min(axis=0).tolist())
    most = _BlockReport(*reports_read.max(axis=0).tolist())
    _check_finite(blocks, least, most)
    if most.high < least.low:
        raise ValueError("X must have at least one row, got chunks without any")
    if least.min_weight < 0.0:
        _raise_first_error(blocks, 2, "sample_weight", "negative", lambda x: x < 0.0)
    if not total > 0.0:
        raise ValueError("sample_weight must have a positive sum, got only zeros")
    if not math.isfinite(total):
        raise ValueError("sample_weight must have a finite sum: divide the weights by a constant")
    min_weight_share = least.min_positive_weight / total
    if loss.classes is None:
        if most.outside > 0.0:
            kind = f"values out of range (loss {loss.name!r} needs {loss.domain})"
            _raise_first_error(blocks, 1, "y", kind, loss.outside)
        return Screened(blocks, None, min_weight_share, 1, check_X)
    if _has_many_classes(loss):
        classes = _check_labels(loss, np.unique(read[:, len(_EMPTY_REPORT) :]).tolist())
        numbered = classes == tuple(range(len(classes)))
        encoded = blocks if numbered else blocks.encode_labels(classes)
        return Screened(encoded, classes, min_weight_share, 1, check_X)
    labels = _two_labels(blocks, loss, least, most, _BlockReport(*reports_read.T))
    encoded = blocks if labels == (0.0, 1.0) else blocks.encode_labels(labels)
    return Screened(encoded, labels, min_weight_share, 1, check_X)


def weigh_classes(
    screened: Screened, class_weight: Any, labels: tuple[Any, ...] | None
) -> Screened:
    """Multiply the weights of the rows by those of their classes: one pass over y, and one read.

    Parameters
    ----------
    screened : Screened
        Data of classes, numbered from 0.
    class_weight : dict or str
        The weight of each label, 1 for those that are left out; or ``"balanced"``, with which all classes weigh the
        same, and the rows together as much as before.
    labels : tuple, or None
        The labels where they are not the numbers that were screened.

    Raises
    ------
    ValueError
        For a label that y does not have, a weight that is negative or not finite, and weights that are all 0.
    TypeError
        If it is neither a dict nor ``"balanced"``.
    """
    classes = labels if labels is not None else screened.classes or ()
    blocks = screened.blocks
    sums = blocks.targets_only().sum(functools.partial(_class_totals, len(classes)))
    counts = backends.to_numpy(sums).astype(float).reshape(-1, len(classes))
    if class_weight == "balanced":
        pooled = counts.sum(axis=0)
        factors = pooled.sum() / (len(classes) * np.where(pooled > 0.0, pooled, 1.0))
    elif isinstance(class_weight, dict):
        factors = _factors_by_label(class_weight, classes)
    else:
        raise TypeError(f"class_weight must be a dict or 'balanced', got {class_weight!r}")
    xp, numbers = backends.namespace(blocks.total), tuple(map(float, factors))
    total = counts @ np.asarray(numbers)
    if not (total > 0.0).all():
        raise ValueError(f"class_weight must leave some rows a weight, got {class_weight!r}")
    old = backends.to_numpy(blocks.total)
    least = min(factor for factor in numbers if factor > 0.0)
    moved = backends.to_device_of(total.reshape(blocks.batch_shape), blocks.resident)
    if blocks.total.ndim == 0:  # the weights of all problems are the same so far
        moved = moved if blocks.batch_shape else xp.reshape(moved, ())
    return screened._replace(
        blocks=blocks.weigh_classes(numbers, moved),
        min_weight_share=screened.min_weight_share * least * float(np.max(old) / total.max()),
        n_sync=screened.n_sync + 2,
    )


def _class_totals(count: int, X: Matrix, y: Array, weight: Array | None) -> Array:
    """Return the weights of the rows of each class, shape (..., classes)."""
    xp, target = backends.namespace(y), split_offset(y)[0]
    members = (xp.astype(target == number, target.dtype) for number in range(count))
    sums = [xp.sum(part if weight is None else part * weight, axis=-1) for part in members]
    return xp.stack(sums, axis=-1)


def _factors_by_label(weights: dict[Any, Any], classes: tuple[Any, ...]) -> list[float]:
    """Return the weights of the classes in their order."""
    unknown = [label for label in weights if label not in classes]
    if unknown:
        raise ValueError(
            f"class_weight has the label {unknown[0]!r}, which y has not: its labels are {classes!r}"
        )
    return [as_nonnegative(f"class_weight[{c!r}]", weights.get(c, 1.0)) for c in classes]


def _check_labels(loss: Loss, labels: list[float]) -> tuple[float, ...]:
    """Return the labels but for the infinity that fills their list; refuse a number that is not the loss's."""
    classes = tuple(label for label in labels if label != math.inf)
    if len(classes) > MAX_CLASSES:
        raise ValueError(
            f"y must have at most {MAX_CLASSES:,} classes for loss {loss.name!r}, got more: a number that "
            f"is no label is fitted by a loss such as 'squared_error'"
        )
    if len(classes) < 2:
        raise ValueError(
            f"y must have two classes or more for loss {loss.name!r}, got one: {labels[0]!r}"
        )
    if loss.classes not in (math.inf, len(classes)):
        raise ValueError(f"y must have {loss.classes} classes for loss {loss!r}, got {classes!r}")
    return classes


def _check_finite(blocks: BaseData, least: _BlockReport, most: _BlockReport) -> None:
    for which, name in enumerate(("X", "y", "sample_weight")):
        if not (math.isfinite(least[which]) and math.isfinite(most[which])):
            # The sum may have overflowed although every term is finite: then nothing is raised.
            _raise_first_error(
                blocks, which, name, "NaN or infinite", lambda x: ~_namespace(x).isfinite(x)
            )


def _namespace(x: Array) -> Any:
    return backends.namespace(x)


def _two_labels(
    blocks: BaseData,
    loss: Loss,
    least: _BlockReport,
    most: _BlockReport,
    reports: _BlockReport,
) -> tuple[float, float]:
    """Return the two labels of y, low and high; refuse a y of one label, or of more."""
    low, high = least.low, most.high
    if low == high:
        raise ValueError(f"y must have two classes for loss {loss.name!r}, got one: {low!r}")
    more = most.outside > 0.0
    if len(reports.low) > 1:
        ends = np.concatenate([reports.low, reports.high])  # infinite of a block without rows
        more = more or not ((ends == low) | (ends == high) | np.isinf(ends)).all()
    if more:
        third = functools.partial(_is_third_class, low, high)
        kind = f"values of a third class beside {low!r} and {high!r} (loss {loss.name!r} needs two)"
        _raise_first_error(blocks, 1, "y", kind, third)
    return low, high


def _is_third_class(low: float, high: float, y: Array) -> Array:
    return (y != low) & (y != high)


def _raise_first_error(
    blocks: BaseData, which: int, name: str, kind: str, is_invalid: Callable[[Array], Array]
) -> None:
    """Raise with the number of invalid values and the position of the first; return if there is none."""
    offset, total, first = 0, 0, None
    for count, index, value, rows in blocks.map(
        functools.partial(_locate_first, which, is_invalid), limit=MAX_LOCATED_BLOCK_BYTES
    ):
        block_count = int(backends.to_numpy(count))
        if block_count and first is None:
            position = [int(i) for i in backends.to_numpy(index)]
            position[-2 if which == 0 else -1] += offset
            first = (tuple(position), float(backends.to_numpy(value)))
        total += block_count
        offset += rows
    if first is not None:
        raise ValueError(invalid_values_text(name, total, kind, *first))


def _locate_first(
    which: int, is_invalid: Callable[[Array], Array], X: Matrix, y: Array, weight: Array | None
) -> tuple[Array, Array, Array, int]:
    """Count the invalid values of a block; return also the index and value of the first, and the block's rows."""
    parts: tuple[Any, ...] = (stored_entries(X), split_offset(y)[0], weight)
    x: Array = parts[which]
    xp = backends.namespace(x)
    if 0 in x.shape:  # a sparse block without an entry
        return xp.zeros((), dtype=xp.int32), xp.zeros((2,), dtype=xp.int32), x, int(X.shape[-2])
    flags = xp.reshape(xp.astype(is_invalid(x), xp.int32), (-1,))
    first = xp.argmax(flags)
    value = xp.take(xp.reshape(x, (-1,)), xp.reshape(first, (1,)))[0]
    index, rest = [], first
    if which == 0 and backends.is_sparse(X):
        return xp.sum(flags), xp.stack(entry_position(X, first)), value, int(X.shape[-2])
    for size in reversed(x.shape):
        index.append(rest % size)
        rest = rest // size
    return xp.sum(flags), xp.stack(index[::-1]), value, int(X.shape[-2])


def refuse_rows_without_class(unknown: Array) -> None:
    """Raise where a row has no class, for labels among which there is no NaN; lazy rows are not computed for it."""
    if backends.of(unknown).chunked:
        return
    rows = np.argwhere(backends.to_numpy(unknown))
    if len(rows):
        raise ValueError(
            f"X must have no NaN where the classes are labels of text, booleans or integers: {len(rows)} of "
            f"{unknown.shape[-1]} rows have no class, the first is row {int(rows[0][-1])}"
        )
