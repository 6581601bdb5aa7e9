"""Sums of centred squares and products: of many blocks as of one, and of some rows less others.

Sums are merged as rows are summed: their means are rows, and their weights the weights. Means are kept as
two numbers, near and rest, so that the difference of two of them keeps its digits where the columns lie
far from zero.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import functools
from collections.abc import Sequence
from typing import NamedTuple

from agd import backends
from agd._typing import Array
from agd.gradient.matrix import backward, gram, times_rows

__all__ = [
    "Sums",
    "about",
    "about_mean",
    "check_removable",
    "divisor",
    "from_products",
    "merge",
    "minus",
    "outer",
    "renormalised",
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


def about(total: Array, rows: Array, near: Array, near_y: Array) -> Sums:
    """Return weights and a centre, in whose places stand what the rest of the sums is to replace."""
    return Sums(total, rows, near, near, near_y, near_y, near, near, near)


def about_mean(known: Sums, d: Array, e: Array, weight: Array | None) -> Sums:
    """Fill in the rest of the means and the centred sums, from deviations d and e from `near`."""
    xp, total = backends.namespace(d), known.total
    if weight is None:
        root = xp.ones(d.shape[-2:-1], dtype=d.dtype, device=backends.device(d))
    else:
        root = xp.sqrt(weight)
        d, e = times_rows(d, root), e * root
    safe = divisor(total)
    rest, rest_y = backward(d, root) / safe[..., None], xp.sum(e * root, axis=-1) / safe
    xx = gram(d) - outer(rest) * total[..., None, None]
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
    merged: Sums = backends.of(parts[0].xx).compile(_merge)(None, list(parts))
    return merged


def _merge(_: None, parts: Sequence[Sums]) -> Sums:
    xp = backends.namespace(parts[0].xx)
    total, rows, xx, xy, yy = (
        functools.reduce(lambda a, b: a + b, [getattr(part, name) for part in parts])
        for name in ("total", "rows", "xx", "xy", "yy")
    )
    safe, share = divisor(total), xp.stack([part.total for part in parts], axis=-1)
    near, d = _gathered([p.near for p in parts], [p.rest for p in parts], share, safe, -2)
    near_y, e = _gathered([p.near_y for p in parts], [p.rest_y for p in parts], share, safe, -1)
    empty = Sums(total, rows, near, near, near_y, near_y, xx, xy, yy)
    between = about_mean(empty, d, e, share)
    near, rest = renormalised(near, between.rest)
    near_y, rest_y = renormalised(near_y, between.rest_y)
    return Sums(
        total, rows, near, rest, near_y, rest_y,
        xx=xx + between.xx, xy=xy + between.xy, yy=yy + between.yy,
    )  # fmt: skip


def _gathered(
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
