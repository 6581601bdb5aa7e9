"""The triangular factor of the data, a block at a time, and their gradient in twice the precision.

Squaring X squares its condition number: where the moments have lost the small directions, these two have
not. Both read X in blocks; neither makes a copy of more than one.

Demmel, Grigori, Hoemmen and Langou (2012), "Communication-optimal parallel and sequential QR and LU
factorizations"; Björck (1967), "Iterative refinement of linear least squares solutions".
"""

from __future__ import annotations

import functools
from typing import Any

from agd import backends
from agd._typing import Array, Params
from agd.gradient import _doubled as doubled
from agd.gradient.blocks import Blocks

__all__ = ["accurate_gradient", "triangular"]

TEMPORARY = 8 * 2**20  # bytes of X in a block: a pass here makes a few copies of its block


def triangular(blocks: Blocks, shift: Array, scale: Array) -> Array:
    r"""Return R with R'R = Z'Z/m, for the rows Z = sqrt(s_i) (x_i - shift) scale.

    Parameters
    ----------
    blocks : Blocks
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
    >>> blocks = Blocks.of(np.asarray([[3.0], [4.0]]), np.zeros(2))
    >>> abs(triangular(blocks, np.zeros(1), np.ones(1))) ** 2
    array([[12.5]])
    """
    total = blocks.total
    xp = backends.namespace(total)
    factors = blocks.each(functools.partial(_factor, shift, scale), limit=TEMPORARY)
    R = factors[0]
    for other in factors[1:]:
        R = _triangle(xp.concat([R, other], axis=-2))
    return R / xp.sqrt(total)[..., None, None]


def _factor(shift: Array, scale: Array, X: Array, y: Array, weight: Array | None) -> Array:
    xp = backends.namespace(X)
    Z = (X - shift[..., None, :]) * scale[..., None, :]
    return _triangle(Z if weight is None else Z * xp.sqrt(weight)[..., None])


def _triangle(Z: Array) -> Array:
    """Return R of a QR of Z, as far as it has rows."""
    return backends.namespace(Z).linalg.qr(Z, mode="reduced").R


def accurate_gradient(blocks: Blocks, shift: Array, params: Params) -> tuple[Array, Params]:
    r"""Return value and gradient of the squared loss, with sums and products in twice the precision.

    ::

        r_i = x_i · w + b - y_i
        value = Σ s_i r_i² / 2m,    g_c = Σ s_i (x_i - shift) r_i / m,    g_b = Σ s_i r_i / m

    What is left after cancellation is rounded once: the gradient is that of these very params.

    Parameters
    ----------
    blocks : Blocks
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
    >>> blocks = Blocks.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
    >>> value, grad = accurate_gradient(blocks, np.asarray([1.5]), Params(np.zeros(1), np.zeros(())))
    >>> float(value), grad.coef, float(grad.intercept)
    (2.5, array([-0.5]), -2.0)
    """
    sums = blocks.each(functools.partial(_doubled_block, shift, params), limit=TEMPORARY)
    xp = backends.namespace(sums[0][0])
    parts = [xp.stack(column, axis=-1) for column in zip(*sums, strict=True)]
    total = blocks.total
    value = xp.sum(parts[0], axis=-1) / (2.0 * total)
    coef, coef_low = doubled.total((parts[1], parts[2]))
    coef = (coef + coef_low) / total[..., None]
    if params.intercept is None:
        return value, Params(coef, None)
    intercept, low = doubled.total((parts[3], parts[4]))
    return value, Params(coef, (intercept + low) / total)


def _doubled_block(
    shift: Array, params: Params, X: Array, y: Array, weight: Array | None
) -> tuple[Any, ...]:
    """Sum s r², (x - shift) r and r over the rows of one block; the last two as pairs."""
    xp = backends.namespace(X)
    zero = xp.zeros_like(y)
    terms, lost = doubled.product(X, xp.zeros_like(X) + params.coef[..., None, :])
    high, low = doubled.total((terms, lost))
    if params.intercept is not None:
        high, more = doubled.add(high, zero + params.intercept[..., None])
        low = low + more
    high, more = doubled.add(high, -y)
    r = doubled.add(high, low + more)
    squares = r[0] * r[0] if weight is None else r[0] * r[0] * weight
    if weight is not None:
        r = doubled.times(r, (zero + weight, zero))
    centred = doubled.add(X, xp.zeros_like(X) - shift[..., None, :])
    wide = tuple(xp.zeros_like(X) + part[..., None] for part in r)
    coef, coef_low = doubled.total(doubled.times(centred, (wide[0], wide[1])), axis=-2)
    intercept, low = doubled.total(r)
    return xp.sum(squares, axis=-1), coef, coef_low, intercept, low
