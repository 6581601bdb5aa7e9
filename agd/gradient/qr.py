"""QR of the data by row blocks, and a gradient of least squares in twice the working precision.

Both serve columns so badly conditioned that their second moments lose too many digits. The extended precision
is compensated arithmetic on pairs: a pair (h, l) stands for h + l, with h the rounded value. Everything here is plain arithmetic of the
array library, so it runs on any dtype and device that rounds as IEEE 754 says.

Dekker (1971), "A floating-point technique for extending the available precision"; Knuth, *The Art of
Computer Programming* 2, section 4.2.2; Ogita, Rump and Oishi (2005), "Accurate sum and dot product".
"""

from __future__ import annotations

import functools
import math
from typing import Any

from agd import backends
from agd._typing import Array, Params
from agd.data.base import BaseData

__all__ = [
    "compensated_gradient",
    "multiply_pairs",
    "sum_pairs",
    "triangular_factor",
    "two_product",
    "two_sum",
]

Pair = tuple[Array, Array]


def two_sum(a: Array, b: Array) -> Pair:
    """Return a + b without loss, as a pair.

    Examples
    --------
    >>> import numpy as np
    >>> high, low = two_sum(np.asarray(1.0), np.asarray(2.0**-60))
    >>> float(high), float(low) == 2.0**-60
    (1.0, True)
    """
    s = a + b
    z = s - a
    return s, (a - (s - z)) + (b - z)


def two_product(a: Array, b: Array) -> Pair:
    """Return a b without loss, as a pair, where nothing over- or underflows.

    Examples
    --------
    >>> import numpy as np
    >>> high, low = two_product(np.asarray(1.0 + 2.0**-30), np.asarray(1.0 + 2.0**-30))
    >>> float(high) == 1.0 + 2.0**-29, float(low) == 2.0**-60
    (True, True)
    """
    p = a * b
    ah, al = _split_halves(a)
    bh, bl = _split_halves(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _split_halves(a: Array) -> Pair:
    """Return a as the sum of two numbers of half its digits, whose products are exact."""
    digits = 1 - round(math.log2(float(backends.namespace(a).finfo(a.dtype).eps)))
    t = (2.0 ** ((digits + 1) // 2) + 1.0) * a
    high = t - (t - a)
    return high, a - high


def multiply_pairs(a: Pair, b: Pair) -> Pair:
    """Return the product of two pairs, but for what is of the order of the square of the rounding."""
    high, low = two_product(a[0], b[0])
    return high, low + (a[0] * b[1] + a[1] * b[0])


def sum_pairs(pair: Pair, axis: int = -1) -> Pair:
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
    >>> [float(part) for part in sum_pairs((terms, np.zeros(4)))]
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
        s, lost = two_sum(high[:half, ...], high[half : 2 * half, ...])
        lost = lost + (low[:half, ...] + low[half : 2 * half, ...])
        high, low = s, lost
        if odd[0].shape[0]:
            high, low = xp.concat([high, odd[0]]), xp.concat([low, odd[1]])
    return high[0, ...], low[0, ...]


# A pass here makes several copies of its block, which should stay in cache.
MAX_COPIED_BLOCK_BYTES = 8 * 2**20


def triangular_factor(blocks: BaseData, shift: Array, scale: Array) -> Array:
    r"""Return R with R'R = Z'Z/m, for the rows Z = sqrt(s_i) (x_i - shift) scale.

    Parameters
    ----------
    blocks : BaseData
        The data.
    shift, scale : array, shape (p,) or (..., p)
        What makes the columns centred, and of length 1.

    Returns
    -------
    array, shape (..., k, p)
        Upper triangular, k = min(n, p).

    Examples
    --------
    >>> import numpy as np
    >>> blocks = BaseData.of(np.asarray([[3.0], [4.0]]), np.zeros(2))
    >>> abs(triangular_factor(blocks, np.zeros(1), np.ones(1))) ** 2
    array([[12.5]])
    """
    total = blocks.total
    xp = backends.namespace(total)
    factors = blocks.map(
        functools.partial(_factor_block, shift, scale), limit=MAX_COPIED_BLOCK_BYTES
    )
    R: Array = factors[0]
    for other in factors[1:]:
        R = _merge_triangles(xp.concat([R, other], axis=-2))
    return R / xp.sqrt(total)[..., None, None]


def _factor_block(shift: Array, scale: Array, X: Array, y: Array, weight: Array | None) -> Array:
    xp = backends.namespace(X)
    Z = (X - shift[..., None, :]) * scale[..., None, :]
    return _merge_triangles(Z if weight is None else Z * xp.sqrt(weight)[..., None])


def _merge_triangles(Z: Array) -> Array:
    """Return R of a QR of Z, as far as it has rows."""
    return backends.namespace(Z).linalg.qr(Z, mode="reduced").R


def compensated_gradient(blocks: BaseData, shift: Array, params: Params) -> tuple[Array, Params]:
    r"""Return value and gradient of the squared loss, with sums and products in twice the precision.

    ::

        r_i = x_i · w + b - y_i
        value = Σ s_i r_i² / 2m,    g_c = Σ s_i (x_i - shift) r_i / m,    g_b = Σ s_i r_i / m

    What is left after cancellation is rounded once: the gradient is that of these very params.

    Parameters
    ----------
    blocks : BaseData
        The data.
    shift : array, shape (p,) or (..., p)
        The columns' centres, to which g_c refers: g_c = g_w - shift g_b.
    params : Params
        The point.

    Returns
    -------
    value : array, shape (...)
        The mean loss.
    grad : Params
        (g_c, g_b).

    Examples
    --------
    >>> import numpy as np
    >>> blocks = BaseData.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
    >>> value, grad = compensated_gradient(blocks, np.asarray([1.5]), Params(np.zeros(1), np.zeros(())))
    >>> float(value), grad.coef, float(grad.intercept)
    (2.5, array([-0.5]), -2.0)
    """
    sums = blocks.map(
        functools.partial(_compensated_block, shift, params), limit=MAX_COPIED_BLOCK_BYTES
    )
    xp = backends.namespace(sums[0][0])
    parts = [xp.stack(column, axis=-1) for column in zip(*sums, strict=True)]
    total = blocks.total
    value = xp.sum(parts[0], axis=-1) / (2.0 * total)
    coef, coef_low = sum_pairs((parts[1], parts[2]))
    coef = (coef + coef_low) / total[..., None]
    if params.intercept is None:
        return value, Params(coef, None)
    intercept, low = sum_pairs((parts[3], parts[4]))
    return value, Params(coef, (intercept + low) / total)


def _compensated_block(
    shift: Array, params: Params, X: Array, y: Array, weight: Array | None
) -> tuple[Any, ...]:
    """Sum s r², (x - shift) r and r over the rows of one block; the last two as pairs."""
    xp = backends.namespace(X)
    zero = xp.zeros_like(y)
    terms, lost = two_product(X, xp.zeros_like(X) + params.coef[..., None, :])
    high, low = sum_pairs((terms, lost))
    if params.intercept is not None:
        high, more = two_sum(high, zero + params.intercept[..., None])
        low = low + more
    high, more = two_sum(high, -y)
    r = two_sum(high, low + more)
    squares = r[0] * r[0] if weight is None else r[0] * r[0] * weight
    if weight is not None:
        r = multiply_pairs(r, (zero + weight, zero))
    centred = two_sum(X, xp.zeros_like(X) - shift[..., None, :])
    wide = tuple(xp.zeros_like(X) + part[..., None] for part in r)
    coef, coef_low = sum_pairs(multiply_pairs(centred, (wide[0], wide[1])), axis=-2)
    intercept, low = sum_pairs(r)
    return xp.sum(squares, axis=-1), coef, coef_low, intercept, low
