"""Centred sums of squares and products over row blocks, which merge and subtract without losing digits.

The sums of two blocks merge into those of their union by the pairwise update of Chan, Golub and LeVeque.
Means are stored as a sum of two numbers, near and rest, so that the difference of two means keeps its digits
where the columns are far from zero. `agd.gradient.Moments` is made of these sums.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, HostArray
from agd.data.arrays import ArrayData, are_small_problems, map_small_problems
from agd.data.base import BaseData, tree_reduce
from agd.data.block_size import item_bytes
from agd.data.matrix import (
    backward,
    column_counts,
    column_sums,
    gram_matrix,
    map_entries,
    scale_rows,
    shift_entries,
)
from agd.loss.base import split_offset

__all__ = [
    "Sums",
    "about_mean",
    "accumulate",
    "accumulator",
    "check_removable",
    "divisor",
    "from_products",
    "merge",
    "minus",
    "of_chunk",
    "outer",
    "renormalised",
    "sums_at_centre",
]


class Sums(NamedTuple):
    """Weights, means as two numbers each, and centred sums of squares and products.

    Attributes
    ----------
    total, rows : array, shape () or (...)
        The sum of the weights, and the number of rows whose weight is positive.
    near, rest : array, shape (p,) or (..., p)
        The columns' means are near + rest.
    near_y, rest_y : array, shape () or (...)
        The same of y.
    xx, xy, yy : array, shapes (p, p), (p,), () or (..., p, p), (..., p), (...)
        Sums of products of what deviates from the means, times the weights.
    """

    total: Array
    rows: Array
    near: Array
    rest: Array
    near_y: Array
    rest_y: Array
    xx: Array
    xy: Array
    yy: Array


def sums_at_centre(total: Array, rows: Array, near: Array, near_y: Array) -> Sums:
    """Return sums with the weights and the centre set; all other fields hold placeholders."""
    return Sums(total, rows, near, near, near_y, near_y, near, near, near)


def about_mean(known: Sums, d: Array, e: Array, weight: Array | None) -> Sums:
    """Fill in the rest of the means and the centred sums, from deviations d and e from `near`."""
    xp, total = backends.namespace(d), known.total
    if weight is None:
        root = xp.ones(d.shape[-2:-1], dtype=d.dtype, device=backends.device(d))
    else:
        # Roots on both sides keep the product of a matrix with itself, which is exactly symmetric.
        root = xp.sqrt(weight)
        d, e = scale_rows(d, root), e * root
    safe = divisor(total)
    rest, rest_y = backward(d, root) / safe[..., None], xp.sum(e * root, axis=-1) / safe
    # `near` is close to the mean, so that what is subtracted is small, and hardly a digit cancels.
    xx = gram_matrix(d) - outer(rest) * total[..., None, None]
    xy = backward(d, e) - rest * (rest_y * total)[..., None]
    yy = xp.sum(e * e, axis=-1) - rest_y * rest_y * total
    return known._replace(rest=rest, rest_y=rest_y, xx=xx, xy=xy, yy=yy)


def from_products(known: Sums, S: Array) -> Sums:
    """Fill in the same, from S = D' D of D = [d e 1], each row times the root of its weight."""
    total, p = known.total, S.shape[0] - 2
    safe = divisor(total)
    rest, rest_y = S[:p, p + 1] / safe, S[p, p + 1] / safe
    xx = S[:p, :p] - outer(rest) * total
    xy = S[:p, p] - rest * (rest_y * total)
    return known._replace(
        rest=rest, rest_y=rest_y, xx=xx, xy=xy, yy=S[p, p] - rest_y * rest_y * total
    )


def outer(v: Array) -> Array:
    """Return v v'."""
    return v[..., :, None] * v[..., None, :]


def divisor(total: Array) -> Array:
    """Return the total, and 1 where it is 0 and divides nothing but zeros."""
    xp = backends.namespace(total)
    return xp.where(total > 0.0, total, xp.ones_like(total))


def merge(parts: Sequence[Sums]) -> Sums:
    """Merge sums over disjoint rows.

    ::

        xx = Σ_i xx_i + Σ_i t_i (m_i - m)(m_i - m)',    m = Σ_i t_i m_i / Σ_i t_i

    Parameters
    ----------
    parts : sequence of Sums
        At least one.

    Returns
    -------
    Sums
        Over all the rows.

    Notes
    -----
    Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", The American
    Statistician 37, equation 2.1, for more than two at once.
    """
    if len(parts) == 1:
        return parts[0]
    merged: Sums = backends.of(parts[0].xx).compile(_merge_sums)(None, list(parts))
    return merged


def _merge_sums(_: None, parts: Sequence[Sums]) -> Sums:
    xp = backends.namespace(parts[0].xx)
    total, rows, xx, xy, yy = (
        functools.reduce(lambda a, b: a + b, terms)
        for terms in zip(*((p.total, p.rows, p.xx, p.xy, p.yy) for p in parts), strict=True)
    )
    safe, share = divisor(total), xp.stack([part.total for part in parts], axis=-1)
    near, d = _gather_sums([p.near for p in parts], [p.rest for p in parts], share, safe, -2)
    near_y, e = _gather_sums([p.near_y for p in parts], [p.rest_y for p in parts], share, safe, -1)
    empty = Sums(total, rows, near, near, near_y, near_y, xx, xy, yy)
    between = about_mean(empty, d, e, share)
    near, rest = renormalised(near, between.rest)
    near_y, rest_y = renormalised(near_y, between.rest_y)
    return Sums(
        total, rows, near, rest, near_y, rest_y,
        xx=xx + between.xx, xy=xy + between.xy, yy=yy + between.yy,
    )  # fmt: skip


def _gather_sums(
    near: list[Array], rest: list[Array], share: Array, total: Array, axis: int
) -> tuple[Array, Array]:
    """Return a point amid the means, and how the means deviate from it, stacked as rows."""
    xp = backends.namespace(near[0])
    points, more = xp.stack(near, axis=axis), xp.stack(rest, axis=axis)
    factor = share / total[..., None]
    amid = xp.sum(points * (factor[..., None] if axis == -2 else factor), axis=axis)
    return amid, (points - xp.expand_dims(amid, axis=axis)) + more


def renormalised(near: Array, rest: Array) -> tuple[Array, Array]:
    """Return a mean, near + rest, as the nearest number and what that leaves."""
    mean = near + rest
    return mean, (near - mean) + rest


def check_removable(whole: Sums, part: Sums) -> None:
    """Refuse to take away more rows, or more weight, than there are; the host reads once."""
    xp = backends.namespace(whole.xx)
    read = backends.to_numpy(xp.stack([whole.rows, part.rows, whole.total, part.total]))
    rows, fewer, weight, less = read
    if (fewer > rows).any():
        worst = (fewer - rows).argmax()
        raise ValueError(
            f"cannot remove {fewer.flat[worst]:.0f} rows from moments of {rows.flat[worst]:.0f}"
        )
    if (((rows > fewer) & (less >= weight)) | (less > weight * (1.0 + 1e-6))).any():
        worst = (less - weight).argmax()
        raise ValueError(
            f"cannot remove rows of weight {less.flat[worst]:.6g} from moments of weight "
            f"{weight.flat[worst]:.6g}"
        )


def minus(whole: Sums, part: Sums) -> Sums:
    """Return the sums over the rows of `whole` that are not those of `part`: `merge` undone.

    Where no row is left everything is 0.
    """
    xp = backends.namespace(whole.xx)
    rows = whole.rows - part.rows
    left = xp.astype(rows > 0.0, whole.total.dtype)
    total = (whole.total - part.total) * left
    share = part.total / divisor(total) * left
    d = (part.near - whole.near) + (part.rest - whole.rest)
    e = (part.near_y - whole.near_y) + (part.rest_y - whole.rest_y)
    factor = share * whole.total
    return Sums(
        total, rows,
        near=whole.near * left[..., None], rest=(whole.rest - d * share[..., None]) * left[..., None],
        near_y=whole.near_y * left, rest_y=(whole.rest_y - e * share) * left,
        xx=(whole.xx - part.xx - outer(d) * factor[..., None, None]) * left[..., None, None],
        xy=(whole.xy - part.xy - d * (e * factor)[..., None]) * left[..., None],
        yy=(whole.yy - part.yy - e * e * factor) * left,
    )  # fmt: skip


CACHED_BLOCK_BYTES = (
    4 * 2**20
)  # bytes: a centred block this size is in cache for its products (measured)
MAX_BLOCK_BYTES = 32 * 2**20  # bytes: the largest centred block
MAX_SINGLE_PRECISION_ROWS = (
    4096  # rows: the longest sum where there is nothing wider than float32 to take it in
)
MAX_SPARSE_ROWS = 2**18  # of a sparse block at most
MIN_JOINT_COLUMNS = (
    32  # columns from which y is best multiplied beside them, where rows are contiguous
)
CENTRE_SAMPLE_ROWS = 64  # rows: as many as give a centre that lies among a block's rows


def accumulator(x: Array) -> Any:
    """Return the dtype to sum in: float64 where the device of `x` has it, else that of `x`."""
    info = backends.namespace(x).__array_namespace_info__()
    kinds = info.dtypes(device=backends.device(x), kind="real floating")
    return kinds.get("float64", x.dtype)


def accumulate(blocks: BaseData) -> Sums:
    """Add up the blocks of data: one pass, one graph where they are chunks.

    Parameters
    ----------
    blocks : BaseData
        The data.

    Returns
    -------
    Sums
        In memory, where the data (or its chunks) are.
    """
    return blocks.merge_chunks(_of_rows, merge)


def of_chunk(rows: int | None, X: Array, y: Array, weight: Array | None) -> Sums:
    """Return the sums over one chunk, which is cut into blocks of `rows` in its turn."""
    return _of_rows(ArrayData(X, y, weight, rows=rows))


def _of_rows(blocks: ArrayData) -> Sums:
    """Sum blocks in a tree, so that rounding grows with the logarithm of their number; offsets are left out."""
    dtype = accumulator(blocks.X)
    if blocks.has_offset:
        blocks = blocks.replace(y=split_offset(blocks.y)[0])
    if are_small_problems(blocks, dtype):
        return _of_problems(dtype, blocks)
    if blocks.sparse and blocks.weight is not None and blocks.weight.ndim > 1:
        return _of_weighted_targets(blocks, blocks.weight)
    parts = blocks.replace(rows=blocks.rows or _rows_per_block(blocks, dtype))
    return parts.retry_in_halves(functools.partial(_of_cut, parts, dtype))


def _of_weighted_targets(blocks: ArrayData, weight: Array) -> Sums:
    """Sum one target after the other, whose rows have weights of their own: a sparse X has no axis for them."""
    stack = backends.namespace(weight).stack
    sums = [
        _of_rows(blocks.replace(y=blocks.y[j, ...], weight=weight[j, ...], total=None))
        for j in range(int(weight.shape[0]))
    ]
    return Sums(*(stack(list(part)) for part in zip(*sums, strict=True)))


def _of_cut(blocks: ArrayData, dtype: Any, cut: list[Any]) -> Sums:
    X, row = blocks.X, backends.of(blocks.X)
    spare = row.host_accessible and len(cut) > 1
    one_block = row.compile(_of_sparse_block if blocks.sparse else _sums_of_block)
    if spare and not blocks.sparse:
        one_block = functools.partial(_sums_of_block, spare=True)
    size = math.prod((*_problem_sums(blocks), X.shape[-1], X.shape[-1], item_bytes(X, dtype)))
    arity = max(2, min(32, MAX_BLOCK_BYTES // size))

    def of_strip(strip: list[Any]) -> Sums:
        merged: Sums = tree_reduce((one_block(dtype, *block) for block in strip), merge, arity)
        return merged

    strips = blocks.map_groups(of_strip, cut, size, heavy=True) if row.threaded else [of_strip(cut)]
    return merge(strips)


def _of_problems(dtype: Any, blocks: BaseData) -> Sums:
    """Sum some of the problems at a time, all their rows at once."""
    sums = Sums(*map_small_problems(functools.partial(_of_piece, dtype), blocks, dtype))
    shared = blocks.weight is None or blocks.weight.ndim == 1
    return sums if not shared else sums._replace(total=sums.total[0], rows=sums.rows[0])


def _of_piece(dtype: Any, X: HostArray, y: HostArray, weight: HostArray | None) -> Sums:
    """Sum some problems; the number of rows, which they share, is written out for each."""
    if weight is not None:
        return _sums_of_block(dtype, X, y, weight)
    X, y = X.astype(dtype, copy=False), y.astype(dtype, copy=False)
    found = _about_zero(X, y) if _zero_serves(X[0], X[0].mean(axis=0)) else None
    if found is None:
        ones: HostArray = np.ones(X.shape[1], dtype=dtype)
        near, near_y = backward(X, ones) / X.shape[1], y.mean(axis=-1)
        found = _centred_block(X, y, near, near_y)
    parts: Any = found[:2]
    total, rows = (np.broadcast_to(part, len(X)) for part in parts)
    return found._replace(total=total, rows=rows)


def _about_zero(X: HostArray, y: HostArray) -> Sums | None:
    """Sum some problems without a copy of X; None where 0 is a bad centre for one of them."""
    n, near_y = X.shape[-2], y.mean(axis=-1)
    found = _centred_block(X, y, np.zeros_like(X[:, 0, :]), near_y, X)
    xx: HostArray = found.xx
    spread = np.linalg.diagonal(xx)
    return found if np.all(n * found.rest * found.rest <= spread) else None


def _centred_block(X: Array, y: Array, near: Array, near_y: Array, d: Array | None = None) -> Sums:
    """Sum rows of weight 1 about a point among them; `d` is X less that point where it is known."""
    xp = backends.namespace(X)
    total = xp.full((), float(X.shape[-2]), dtype=X.dtype, device=backends.device(X))
    d = X - near[..., None, :] if d is None else d
    return about_mean(sums_at_centre(total, total, near, near_y), d, y - near_y[..., None], None)


def _rows_per_block(blocks: BaseData, dtype: Any) -> int:
    """Return how many rows to centre at once: in cache, but for wide X enough of them to pay."""
    X = blocks.X
    n, p = int(X.shape[-2]), int(X.shape[-1])
    if blocks.sparse:  # products have p² entries for any rows: the more, the better
        entry_bytes = item_bytes(X, dtype) + int(X.indices.dtype.itemsize)
        return min(
            n, MAX_SPARSE_ROWS, MAX_BLOCK_BYTES * n // max(1, int(blocks.entries) * entry_bytes) + 1
        )
    row_bytes = math.prod((*_problem_sums(blocks), p, item_bytes(X, dtype)))
    most = MAX_BLOCK_BYTES // row_bytes
    if backends.of(X).block_bytes(X) is not None:
        # Adding a block's (p, p) to the others' costs p² whatever its rows.
        most = min(most, max(CACHED_BLOCK_BYTES // row_bytes, 4 * p))
    if item_bytes(X, dtype) < 8:
        most = min(most, MAX_SINGLE_PRECISION_ROWS)
    return max(1, min(n, most))


def _problem_sums(blocks: BaseData) -> tuple[int, ...]:
    """Return the leading axes of a centred block: X's, or those of weights for each problem."""
    axes = tuple(blocks.X.shape)[:-2]
    return axes if axes or blocks.weight is None else tuple(blocks.weight.shape)[:-1]


def _sums_of_block(
    dtype: Any, X: Array, y: Array, weight: Array | None, *, spare: bool = False
) -> Sums:
    """Centre a block about a point among its rows, and sum its squares and products.

    With `spare`, for NumPy alone, either the copy is spared, where 0 is as good a centre, or the copy has all
    that is multiplied.
    """
    xp, n, centred = backends.namespace(X), X.shape[-2], None
    if spare and _side_by_side_pays(X, y, weight):
        return _side_by_side(dtype, X, y, weight)
    y = xp.astype(y, dtype, copy=False)
    X = xp.astype(X, dtype, copy=False)
    if n == 0:  # a chunk whose rows were all filtered out
        X, y = _one_zero_row(X, -2), _one_zero_row(y, -1)
        weight = xp.zeros((1,), dtype=dtype, device=backends.device(X))
    if weight is None:
        some = max(1, n // CENTRE_SAMPLE_ROWS)
        near, near_y = xp.mean(X[..., ::some, :], axis=-2), xp.mean(y[..., ::some], axis=-1)
        if spare and _zero_serves(X[..., ::some, :], near):
            near, centred = xp.zeros_like(near), backends.of(X).pack(X)
        return _centred_block(X, y, near, near_y, centred)
    weight = xp.astype(weight, dtype, copy=False)
    total = xp.sum(weight, axis=-1)
    rows = xp.sum(xp.astype(weight > 0.0, dtype), axis=-1)
    near = backward(X, weight) / divisor(total)[..., None]
    near_y = xp.sum(y * weight, axis=-1) / divisor(total)
    known = sums_at_centre(total, rows, near, near_y)
    return about_mean(known, X - near[..., None, :], y - near_y[..., None], weight)


def _side_by_side_pays(X: HostArray, y: HostArray, weight: HostArray | None) -> bool:
    """Return whether one product of everything is sooner than three of parts (measured)."""
    if X.ndim > 2 or y.ndim > 1 or (weight is not None and weight.ndim > 1):
        return False
    return bool(X.shape[1] >= (2 if _by_columns(X) else MIN_JOINT_COLUMNS))


def _by_columns(X: HostArray) -> bool:
    return bool(abs(X.strides[0]) < abs(X.strides[1]))


def _side_by_side(dtype: Any, X: HostArray, y: HostArray, weight: HostArray) -> Sums:
    """Centre a block and y into one array, beside a column of ones, and sum all products at once."""
    (n, p), some = X.shape, max(1, X.shape[0] // CENTRE_SAMPLE_ROWS)
    D = np.empty((n, p + 2), dtype=dtype, order="F" if _by_columns(X) else "C")
    if weight is None:
        total: HostArray = np.asarray(n, dtype=dtype)
        rows: HostArray = total
        near, near_y = X[::some].mean(axis=0, dtype=dtype), y[::some].mean(dtype=dtype)
    else:
        weight = weight.astype(dtype, copy=False)
        total, rows = weight.sum(), (weight > 0.0).sum(dtype=dtype)
        near, near_y = weight @ X / divisor(total), weight @ y / divisor(total)
    np.subtract(X, near, out=D[:, :p])
    np.subtract(y, near_y, out=D[:, p])
    D[:, p + 1] = 1.0
    if weight is not None:
        D *= np.sqrt(weight)[:, None]
    return from_products(sums_at_centre(total, rows, near, near_y), gram_matrix(D))


def _zero_serves(some: Array, near: Array) -> bool:
    """Return whether the columns' means are within their spreads of 0, as some rows have it.

    Squares about 0 then are at most twice those about the mean: their difference loses a bit.
    """
    xp = backends.namespace(some)
    d = some - near[..., None, :]
    return bool(xp.all(near * near <= xp.mean(d * d, axis=-2)))


def _of_sparse_block(dtype: Any, X: Array, y: Array, weight: Array | None) -> Sums:
    """Sum squares and products of a sparse block.

    A column that has an entry in every row is centred as in a dense block. Any other has a 0: its mean is
    no larger than its spread times the root of its rows, and is subtracted at the end.
    """
    xp, n = backends.namespace(X), X.shape[0]
    X = map_entries(X, lambda x: xp.astype(x, dtype, copy=False))
    y = xp.astype(y, dtype, copy=False)
    like = {"dtype": y.dtype, "device": backends.device(y)}
    total = rows = xp.full((), float(n), **like)
    if weight is not None:
        weight = xp.astype(weight, y.dtype, copy=False)
        total, rows = xp.sum(weight), xp.sum(xp.astype(weight > 0.0, y.dtype))
    mean = column_sums(X) / float(n)
    near = xp.where(column_counts(X, None) == n, mean, xp.zeros_like(mean))
    near_y = xp.mean(y, axis=-1)
    known = sums_at_centre(total, rows, near, near_y)
    return about_mean(known, shift_entries(X, near), y - near_y[..., None], weight)


def _one_zero_row(x: Array, axis: int) -> Array:
    xp, shape = backends.namespace(x), list(x.shape)
    shape[axis] = 1
    return xp.zeros(tuple(shape), dtype=x.dtype, device=backends.device(x))
