"""Elementary functions that the losses and penalties share: numerically stable, fast and differentiable.

Some are written twice. NumPy's ``where`` branches at every entry, which costs five times as much as
``maximum`` when the signs are mixed, and its ``log1p`` takes twice as long as ``exp``. A library with
automatic differentiation, on the other hand, differentiates ``maximum`` at a tie as the mean of both sides,
which is wrong for second derivatives: there ``where`` selects one side.
"""

from __future__ import annotations

from agd import backends
from agd._typing import Array

__all__ = [
    "clip_between",
    "log1p",
    "logistic_terms",
    "one_if_positive",
    "positive_and_negative_part",
    "safe_sqrt",
    "soft_threshold",
    "sum_of_log1p",
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
    # Without differentiation the faster of the two forms serves: see the module's docstring.
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
    # The namespace's own clip spends time on looking for NaN in the limits.
    if backends.of(x).autodiff is None:
        return xp.minimum(xp.maximum(x, low), high)
    return backends.clip(x, low, high)


def one_if_positive(s: Array, below: Array) -> Array:
    """Return 1 where s is above 0, and elsewhere `below`, whose entries are at most 1.

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


# Factors of at most 2 in one product, whose size float32 can hold; more saved no time when measured.
MAX_FACTORS = 32


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
    parts = min(MAX_FACTORS, 1 << (n.bit_length() // 2))
    width = n // parts
    rest = xp.sum(xp.log1p(u[..., parts * width :]), axis=-1)
    # Each round combines the two halves of the entries. `a * b` is new, so that u += a leaves the caller's array alone.
    while parts > 1:
        parts //= 2
        a, b = u[..., : parts * width], u[..., parts * width : 2 * parts * width]
        u = a * b
        u += a
        u += b
    return rest + xp.sum(xp.log1p(u[..., :width]), axis=-1)


def soft_threshold(w: Array, threshold: float | Array) -> Array:
    """Return sign(w) max(|w| - threshold, 0), entry by entry: exactly 0 within the threshold."""
    # Written without sign(w), which torch's namespace cannot map over a batch.
    return backends.clip(w - threshold, low=0.0) + backends.clip(w + threshold, high=0.0)


def safe_sqrt(squares: Array) -> Array:
    """Return the square root of nonnegative numbers, with derivative 0 rather than infinity at 0."""
    xp = backends.namespace(squares)
    positive = squares > 0.0
    # Automatic differentiation would multiply the infinite derivative of the root at 0 by 0, which is NaN.
    return xp.where(positive, xp.sqrt(xp.where(positive, squares, xp.ones_like(squares))), squares)


def logistic_terms(t: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return log(1 + exp(t)) and log(1 + exp(-t)), and their slopes in t and -t, without overflow.

    Examples
    --------
    >>> import numpy as np
    >>> (above, below), (up, down) = logistic_terms(np.asarray([0.0, 1000.0]))
    >>> above.round(6), below.round(6), up, down
    (array([6.93147e-01, 1.00000e+03]), array([0.693147, 0.      ]), array([0.5, 1. ]), array([0.5, 0. ]))
    """
    xp = backends.namespace(t)
    size = xp.abs(t)
    e = xp.exp(-size)
    near = 1.0 / (1.0 + e)
    far, rest, positive = e * near, log1p(e), t > 0.0
    above, below = positive_and_negative_part(t)
    slopes = xp.where(positive, near, far), xp.where(positive, far, near)
    return (above + rest, rest - below), slopes
