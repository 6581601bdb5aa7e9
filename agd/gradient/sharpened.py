"""Small directions of sparse columns, from products with the data: what their moments have lost of them.

Squaring X squares its condition number, and a sparse X has no triangular factor as sparse. But in the
directions that the moments find small, the data tell how small they are: with V0 such directions and V1 the
others, of columns Z that are centred and scaled ::

    V0 := V0 - V1 diag(e1)^(-1) V1' Z'Z V0 / m        what rounding mixed in is taken out
    (Z V0)'(Z V0) / m = U diag(f) U',   V0 := V0 U

takes four products with X for each, and f is right to a condition number of 1/eps, as of a QR.

Golub and Van Loan (2013), *Matrix Computations*, sections 8.1.2 and 8.3.
"""

from __future__ import annotations

import functools
from typing import Any

from agd import backends
from agd._typing import Array
from agd.gradient.blocks import Blocks
from agd.gradient.matrix import backward, forward
from agd.gradient.scaling import Scaling
from agd.gradient.whitening import Whitening, axes, shortest, whitening_of

__all__ = ["SMALL_SHARE", "sharpened"]

SMALL_SHARE = 1e-9  # share of the largest curvature: above, moments have seven digits of it
ENTRIES = 2**21  # of the directions' products with a block's rows


def sharpened(
    blocks: Blocks, second: Array, scaling: Scaling, kappa: Array, ridge: float
) -> tuple[Whitening, int]:
    """Return the coordinates that whiten the columns of one problem, or of several that share them.

    Parameters
    ----------
    blocks : Blocks
        The data.
    second : array, shape (p, p)
        The columns' centred second moments.
    scaling : Scaling
        The columns' centres and scales, in the dtype of `second`.
    kappa : array, shape ()
        The curvature of the loss.
    ridge : float
        The curvature of the penalty.

    Returns
    -------
    whitening : Whitening
        Directions that the data do not determine are left out.
    rank : int
        How many they determine.
    """
    e, V, _ = axes(second, scaling, kappa, ridge)
    xp, D, p = backends.namespace(e), scaling.scale, e.shape[-1]
    few = max(1, _count(e < SMALL_SHARE * xp.max(e)))
    V0, V1, e1 = V[:, :few], V[:, few:], e[few:]
    look = functools.partial(_products, blocks, scaling, kappa, ridge)
    H, _ = look(V0)
    V0 = xp.linalg.qr(V0 - V1 @ ((V1.T @ H) / e1[:, None])).Q
    H, gram = look(V0)
    f, U = xp.linalg.eigh(gram)
    V0, H = V0 @ U, H @ U
    # Centring far from zero leaves as many roundings of what is subtracted.
    reach = 1.0 + float(backends.to_numpy(xp.max(xp.abs(scaling.shift * D))))
    noise = (p + 10.0) * float(xp.finfo(e.dtype).eps) * reach
    kept = f > noise * noise * xp.max(e)
    f = xp.where(kept, f, xp.zeros_like(f))
    found = whitening_of(scaling, xp.concat([f, e1]), xp.concat([V0, V1], axis=1))
    root = xp.sqrt(xp.where(kept, f, xp.ones_like(f)))
    into = xp.concat([H * (xp.astype(kept, e.dtype) / root)[None, :], found.into[:, few:]], axis=1)
    null = D[:, None] * V0 * xp.astype(~kept, e.dtype)[None, :]
    out_of = shortest(found.out_of, D, null)
    rank = p - few + _count(kept)
    return found._replace(into=into, out_of=out_of), rank


def _count(flags: Array) -> int:
    xp = backends.namespace(flags)
    return int(backends.to_numpy(xp.sum(xp.astype(flags, xp.int32))))


def _products(
    blocks: Blocks, scaling: Scaling, kappa: Array, ridge: float, V: Array
) -> tuple[Array, Array]:
    """Return the bound on the Hessian times V, (p, k), and V' of that, (k, k), as a sum of squares."""
    xp, D = backends.namespace(V), scaling.scale
    W = (D[:, None] * V).T
    cut = blocks.replace(rows=max(64, ENTRIES // max(1, V.shape[1])))
    back, squares = cut.sum(functools.partial(_of_block, scaling.shift, W))
    share, own = kappa / xp.astype(blocks.total, V.dtype), (D * D)[:, None] * V
    return D[:, None] * back.T * share + ridge * own, squares * share + ridge * (V.T @ own)


def _of_block(shift: Array, W: Array, X: Array, y: Array, weight: Array | None) -> Any:
    """Return X'S (X W' - shift) and the squares of the latter, of one block; centred."""
    z = forward(X, W) - (W @ shift)[:, None]
    r = z if weight is None else z * weight
    back = backward(X, r) - backends.namespace(r).sum(r, axis=-1)[:, None] * shift
    return back, r @ z.T
