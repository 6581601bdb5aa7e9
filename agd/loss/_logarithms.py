"""log(1 + u) of many u, and its sum: NumPy's own takes twice as long as the exponential before it."""

from __future__ import annotations

from agd import backends
from agd._typing import Array

__all__ = ["log1p", "sum_of_log1p"]

TOGETHER = 32  # factors of at most 2, whose product float32 has; more would save nothing (measured)


def log1p(u: Array) -> Array:
    """Return log(1 + u) for u in [0, 1], to a few units in the last place.

    1 + u is rounded by d, which is known exactly: log(1 + u) = log(w) + d / w with w = 1 + u - d, and
    w is at most 2 where d is at most half a unit of 1, so that d alone is as good as d / w.

    Examples
    --------
    >>> import numpy as np
    >>> log1p(np.asarray([0.0, 1e-20, 1.0]))
    array([0.00000000e+00, 1.00000000e-20, 6.93147181e-01])
    """
    xp = backends.namespace(u)
    if not backends.of(u).threaded:
        return xp.log1p(u)
    w = 1.0 + u
    return xp.log(w) + (u - (w - 1.0))


def sum_of_log1p(u: Array) -> Array:
    """Return the sum of log(1 + u) over the last axis, for u in [0, 1].

    (1 + a) (1 + b) = 1 + (a + b + ab), in which nothing cancels: the logarithm is taken of products of a
    few entries each.

    Parameters
    ----------
    u : array, shape (..., n)
        Numbers in [0, 1].

    Returns
    -------
    array, shape (...)
        The sum.

    Examples
    --------
    >>> import numpy as np
    >>> float(sum_of_log1p(np.asarray([1e-20, 1e-20, 0.0])))
    2e-20
    """
    xp = backends.namespace(u)
    if not backends.of(u).threaded:
        return xp.sum(xp.log1p(u), axis=-1)
    n = u.shape[-1]
    parts = min(TOGETHER, 1 << (n.bit_length() // 2))
    width = n // parts
    rest = xp.sum(xp.log1p(u[..., parts * width :]), axis=-1)
    while parts > 1:
        parts //= 2
        a, b = u[..., : parts * width], u[..., parts * width : 2 * parts * width]
        u = a * b
        u += a
        u += b
    return rest + xp.sum(xp.log1p(u[..., :width]), axis=-1)
