"""Lanczos: the extreme eigenvalues of a symmetric matrix that is known by its products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array

__all__ = ["Ritz", "lanczos"]

LOOK = 5  # steps before the first look at the Ritz values, which costs k³
BLOCK = 16  # vectors that are kept in one array


class Ritz(NamedTuple):
    """What the Krylov space knows of a matrix H.

    Attributes
    ----------
    values : numpy.ndarray, shape (k,)
        Ritz values, ascending. The least is no less than H's least eigenvalue, the largest no more than
        its largest.
    residuals : numpy.ndarray, shape (k,)
        |H u - theta u| of each: an eigenvalue lies no farther than that.
    weights : numpy.ndarray, shape (k, k)
        Column i holds the coordinates of the i-th Ritz vector in `basis`.
    basis : array, shape (k, n)
        Orthonormal rows.
    """

    values: Any
    residuals: Any
    weights: Any
    basis: Array

    def vector(self, i: int) -> Array:
        """Return the i-th Ritz vector, shape (n,), of unit length."""
        xp, where = backends.namespace(self.basis), backends.device(self.basis)
        weights = _move(self.weights[:, i], self.basis, xp, where)
        return weights @ self.basis


def lanczos(
    product: Callable[[Array], Array],
    like: Array,
    *,
    rtol: float = 1e-4,
    atol: float = 0.0,
    max_steps: int = 300,
    seed: int = 0,
) -> Ritz:
    r"""Find both ends of a symmetric matrix's spectrum from its products with vectors.

    ::

        beta_k q_{k+1} = H q_k - alpha_k q_k - beta_{k-1} q_{k-1},    alpha_k = q_k · H q_k

    with every new vector orthogonalised against all before it, twice, so that rounding makes no ghosts.
    The eigenvalues of the tridiagonal matrix of alpha and beta are the Ritz values; the residual of one
    is beta_k times the last entry of its eigenvector. Steps end when both ends are known, or when the
    space is one that H maps to itself.

    Parameters
    ----------
    product : callable
        ``product(v)``: H v, for v (n,).
    like : array, shape (n,)
        A vector where those of the products shall be, and of their dtype.
    rtol, atol : float
        An end is known when its residual is at most `rtol` times its absolute value, or `atol` times
        the largest Ritz value. The error of a Ritz value is of the order of the residual's square.
    max_steps : int
        How many products there may be, and vectors are kept.
    seed : int
        Of the first vector, which is drawn on the host, so that every library starts from the same.

    Returns
    -------
    Ritz
        Ritz values with residuals, and their vectors.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 4th ed., sections 10.1 and 10.3.

    Examples
    --------
    >>> import numpy as np
    >>> diagonal = np.linspace(-1.0, 5.0, 400)
    >>> found = lanczos(lambda v: diagonal * v, np.zeros(400))
    >>> found.values[[0, -1]].round(4)
    array([-1.,  5.])
    """
    xp, where, row = backends.namespace(like), backends.device(like), backends.of(like)
    n = int(like.shape[0])
    eps = float(xp.finfo(like.dtype).eps)
    start = np.random.default_rng(seed).standard_normal(n)
    q = _move(start / np.linalg.norm(start), like, xp, where)
    blocks: list[Array] = []
    alphas: list[float] = []
    betas: list[float] = []
    size, k, look = 0.0, 0, LOOK
    while True:
        blocks, k = _kept(xp, blocks, q), k + 1
        w = product(q)
        alphas.append(_number(xp.sum(q * w)))
        w = row.persist(_orthogonal(w, blocks))
        betas.append(_number(xp.sqrt(xp.sum(w * w))))
        size = max(abs(alphas[-1]) + betas[-1], size)
        last = betas[-1] <= 10.0 * eps * size or k >= min(n, max_steps) or not math.isfinite(size)
        if last or k == look:
            look += max(LOOK, look // 4)
            values, weights, residuals = _ritz(alphas, betas)
            limit = np.maximum(rtol * np.abs(values), max(atol, eps) * size)
            if last or (residuals <= limit)[[0, -1]].all():
                return Ritz(values, residuals, weights, xp.concat(blocks))
        q = w / betas[-1]


def _kept(xp: Any, blocks: list[Array], q: Array) -> list[Array]:
    """Add a vector to the last block, so that a step copies one block and not the whole basis."""
    row = xp.reshape(q, (1, -1))
    if blocks and int(blocks[-1].shape[0]) < BLOCK:
        return [*blocks[:-1], xp.concat([blocks[-1], row])]
    return [*blocks, row]


def _orthogonal(w: Array, blocks: list[Array]) -> Array:
    """Take off what lies in the span of the basis; twice is enough (Kahan, Parlett)."""
    for block in blocks * 2:
        w = w - (block @ w) @ block
    return w


def _ritz(alphas: list[float], betas: list[float]) -> tuple[Any, Any, Any]:
    """Return the eigenvalues and eigenvectors of the tridiagonal matrix, and the residuals."""
    off = np.diag(betas[:-1], 1)
    tridiagonal = np.diag(alphas) + off + off.T
    if not np.isfinite(tridiagonal).all():
        bad = np.full(len(alphas), np.nan)
        return bad, np.eye(len(alphas)), bad
    values, weights = np.linalg.eigh(tridiagonal)
    return values, weights, np.abs(betas[-1] * weights[-1])


def _number(x: Array) -> float:
    return float(backends.to_numpy(x))


def _move(host: Any, like: Array, xp: Any, where: Any) -> Array:
    host = host.astype(str(like.dtype).rpartition(".")[2])
    return backends.of(like).convert(xp, host, like.dtype, where)
