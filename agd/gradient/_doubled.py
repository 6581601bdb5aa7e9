"""Sums and products in twice the working precision, as pairs whose second part is what rounding lost.

A pair (h, l) stands for h + l, with h the rounded value. Everything here is plain arithmetic of the
array library, so it runs on any dtype and device that rounds as IEEE 754 says.

Dekker (1971), "A floating-point technique for extending the available precision"; Knuth, *The Art of
Computer Programming* 2, section 4.2.2; Ogita, Rump and Oishi (2005), "Accurate sum and dot product".
"""

from __future__ import annotations

import math

from agd import backends
from agd._typing import Array

__all__ = ["add", "product", "times", "total"]

Pair = tuple[Array, Array]


def add(a: Array, b: Array) -> Pair:
    """Return a + b without loss, as a pair.

    Examples
    --------
    >>> import numpy as np
    >>> high, low = add(np.asarray(1.0), np.asarray(2.0**-60))
    >>> float(high), float(low) == 2.0**-60
    (1.0, True)
    """
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


def product(a: Array, b: Array) -> Pair:
    """Return a b without loss, as a pair, where nothing over- or underflows.

    Examples
    --------
    >>> import numpy as np
    >>> high, low = product(np.asarray(1.0 + 2.0**-30), np.asarray(1.0 + 2.0**-30))
    >>> float(high) == 1.0 + 2.0**-29, float(low) == 2.0**-60
    (True, True)
    """
    p = a * b
    ah, al = _split(a)
    bh, bl = _split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _split(a: Array) -> Pair:
    """Return a as the sum of two numbers of half its digits, whose products are exact."""
    digits = 1 - round(math.log2(float(backends.namespace(a).finfo(a.dtype).eps)))
    t = (2.0 ** ((digits + 1) // 2) + 1.0) * a
    high = t - (t - a)
    return high, a - high


def times(a: Pair, b: Pair) -> Pair:
    """Return the product of two pairs, but for what is of the order of the square of the rounding."""
    high, low = product(a[0], b[0])
    return high, low + (a[0] * b[1] + a[1] * b[0])


def total(pair: Pair, axis: int = -1) -> Pair:
    """Add pairs up along an axis, two and two, in twice the precision.

    Parameters
    ----------
    pair : tuple of array
        The terms, of equal shapes.
    axis : int
        Along which.

    Returns
    -------
    tuple of array
        The sum, without that axis.

    Examples
    --------
    >>> import numpy as np
    >>> terms = np.asarray([1.0, 1e100, -1e100, 1.0])
    >>> [float(part) for part in total((terms, np.zeros(4)))]
    [0.0, 2.0]
    """
    high, low = pair
    xp = backends.namespace(high)
    high, low = xp.moveaxis(high, axis, 0), xp.moveaxis(low, axis, 0)
    if high.shape[0] == 0:
        return xp.sum(high, axis=0), xp.sum(low, axis=0)
    while (n := high.shape[0]) > 1:
        half = n // 2
        odd = (high[2 * half :, ...], low[2 * half :, ...])
        s, lost = add(high[:half, ...], high[half : 2 * half, ...])
        lost = lost + (low[:half, ...] + low[half : 2 * half, ...])
        high, low = s, lost
        if odd[0].shape[0]:
            high, low = xp.concat([high, odd[0]]), xp.concat([low, odd[1]])
    return high[0, ...], low[0, ...]
