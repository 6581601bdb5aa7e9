"""Functions of one variable that the losses and penalties share: accurate, quick, and differentiable.

Each is written twice where that pays. NumPy's ``where`` takes a branch at every entry, which costs five
times what a maximum does when the signs are mixed, and its ``log1p`` takes twice as long as the
exponential before it. A library that differentiates gives a maximum's two sides half the derivative each
at a tie, which is wrong one derivative later: there a side is chosen with ``where``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array

__all__ = [
    "clip_between",
    "log1p",
    "one_if_positive",
    "positive_and_negative_part",
    "safe_sqrt",
    "soft_threshold",
    "sum_of_log1p",
    "to_device_of",
]


def positive_and_negative_part(s: Array) -> tuple[Array, Array]:
    """Return max(s, 0) and min(s, 0), differentiated at 0 as from below.

    Examples
    --------
    >>> import numpy as np
    >>> positive_and_negative_part(np.asarray([2.0, -3.0]))
    (array([2., 0.]), array([ 0., -3.]))
    """
    xp = backends.namespace(s)
    if backends.of(s).autodiff is None:
        return xp.maximum(s, 0.0), xp.minimum(s, 0.0)
    above, zero = s > 0.0, xp.zeros_like(s)
    return xp.where(above, s, zero), xp.where(above, zero, s)


def clip_between(x: Array, low: float, high: float) -> Array:
    """Return x clipped to [low, high].

    Examples
    --------
    >>> import numpy as np
    >>> clip_between(np.asarray([0.5, 3.0]), -1.0, 1.0)
    array([0.5, 1. ])
    """
    xp = backends.namespace(x)
    if backends.of(x).autodiff is None:  # the namespace's clip looks for NaN in its limits
        return xp.minimum(xp.maximum(x, low), high)
    return backends.clip(x, low, high)


def one_if_positive(s: Array, below: Array) -> Array:
    """Return 1 where s is above 0, and `below`, which is at most 1, elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> one_if_positive(np.asarray([2.0, -3.0]), np.asarray([0.5, 0.5]))
    array([1. , 0.5])
    """
    xp = backends.namespace(s)
    if backends.of(s).autodiff is None:
        return xp.maximum(below, xp.astype(s > 0.0, below.dtype))
    return xp.where(s > 0.0, xp.ones_like(below), below)


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


def soft_threshold(w: Array, threshold: float | Array) -> Array:
    """Return sign(w) max(|w| - threshold, 0), entry by entry: exactly 0 within the threshold."""
    # Not by sign(w), which the torch namespace cannot map over a batch.
    return backends.clip(w - threshold, low=0.0) + backends.clip(w + threshold, high=0.0)


def safe_sqrt(squares: Array) -> Array:
    """Return the square root of numbers of 0 or more; by autodiff 0 where they are 0, not infinite."""
    xp = backends.namespace(squares)
    some = squares > 0.0
    return xp.where(some, xp.sqrt(xp.where(some, squares, xp.ones_like(squares))), squares)


def to_device_of(data: Any, w: Array) -> Array:
    """Return numbers of the host in the library, on the device and in the dtype of w."""
    host = np.asarray(data).astype(str(w.dtype).rpartition(".")[2])
    return backends.of(w).convert(backends.namespace(w), host, w.dtype, backends.device(w))
