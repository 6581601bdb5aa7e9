"""The curvatures at a point: all of them for few variables, both ends for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Tree
from agd.gradient.flat import Flat
from agd.gradient.lanczos import lanczos
from agd.gradient.second_order import SecondOrder, rounding

__all__ = ["DENSE", "Spectrum", "spectrum", "tolerance"]

DENSE = 200  # variables up to which the Hessian is formed
KEPT = 2**27  # numbers that Lanczos may keep: 1 GiB in double precision


class Spectrum(NamedTuple):
    """Eigenvalues of a Hessian, on the host.

    Attributes
    ----------
    values : numpy.ndarray, shape (k,)
        Eigenvalues, ascending; Ritz values for many variables.
    residuals : numpy.ndarray, shape (k,)
        How far an eigenvalue may be from each; 0 for a Hessian that was formed.
    vector : callable
        ``vector(i)``: the i-th unit eigenvector, a numpy.ndarray (n,).
    noise : float
        The relative error of the Hessian.
    source : str
        How it was had.
    """

    values: Any
    residuals: Any
    vector: Callable[[int], Any]
    noise: float
    source: str


def tolerance(noise: float, eps: float) -> float:
    """Return the curvature, against the largest, that cannot be told from zero.

    The first bound is rounding in the function's own sums and in the eigenvalues of up to `DENSE` rows.
    """
    return max(2000.0 * eps, 30.0 * noise)


def spectrum(f: SecondOrder, flat: Flat, x: Tree, seed: int = 0) -> Spectrum:
    """Find the extreme curvatures of a function.

    Parameters
    ----------
    f : SecondOrder
        The function at x.
    flat : Flat
        The way between x and a vector.
    x : tree of arrays
        The point.
    seed : int
        Of Lanczos's first vector.

    Returns
    -------
    Spectrum
        Its eigenvalues and vectors.
    """
    like, n, eps = flat.vector(x), flat.size, rounding(x)
    if n > DENSE:
        ritz = lanczos(
            lambda v: flat.vector(f.product(flat.tree(v))),
            like,
            atol=tolerance(f.noise, eps),
            max_steps=max(50, min(300, KEPT // n)),
            seed=seed,
        )
        source = f"Lanczos, {len(ritz.values)} products by {f.source}"
        return Spectrum(
            ritz.values, ritz.residuals, lambda i: _host(ritz.vector(i)), f.noise, source
        )
    if f.source == "differences of fun":
        hessian, noise = _from_values(f, flat, like), eps**0.5
    else:
        hessian, noise = _from_products(f, flat, like), f.noise
    if not np.isfinite(hessian).all():
        bad = np.full((n, n), np.nan)
        return Spectrum(bad[0], bad[0], lambda i: bad[:, i], noise, f.source)
    values, vectors = np.linalg.eigh(hessian)
    return Spectrum(values, np.zeros(n), lambda i: vectors[:, i], noise, f"Hessian by {f.source}")


def _from_products(f: SecondOrder, flat: Flat, like: Array) -> Any:
    """Form the Hessian column by column; only its symmetric part is kept."""
    xp, n = backends.namespace(like), flat.size
    order = xp.arange(n, device=backends.device(like))
    units = (xp.astype(order == j, like.dtype) for j in range(n))
    hessian = _host(xp.stack([flat.vector(f.product(flat.tree(unit))) for unit in units]))
    return (hessian + hessian.T) / 2.0


def _from_values(f: SecondOrder, flat: Flat, like: Array) -> Any:
    """Form the Hessian from n² + n values, by central second differences.

    H_ij = (f(+i+j) - f(+i) - f(+j) + 2 f - f(-i) - f(-j) + f(-i-j)) / (2 h_i h_j), whose error is least,
    eps^(1/2), at h = eps^(1/4).
    """
    xp, where, row = backends.namespace(like), backends.device(like), backends.of(like)
    point, n = backends.to_numpy(like), flat.size
    eps = float(np.finfo(point.dtype).eps)
    h = (eps**0.25 * np.maximum(1.0, np.abs(point))).astype(point.dtype)
    h = (point + h) - point  # so that x + h is exact

    def at(*moves: tuple[int, int]) -> float:
        moved = np.array(point)
        for i, sign in moves:
            moved[i] = point[i] + sign * h[i]
        moved = row.convert(xp, moved, like.dtype, where)
        return float(_host(f.value(flat.tree(moved))))

    middle = at()
    sides = np.asarray([(at((i, 1)), at((i, -1))) for i in range(n)])
    hessian = np.zeros((n, n))
    for i in range(n):
        hessian[i, i] = (sides[i, 0] - 2.0 * middle + sides[i, 1]) / float(h[i]) ** 2
        for j in range(i):
            corners = at((i, 1), (j, 1)) + at((i, -1), (j, -1))
            rise = corners + 2.0 * middle - sides[i].sum() - sides[j].sum()
            hessian[i, j] = hessian[j, i] = rise / (2.0 * float(h[i]) * float(h[j]))
    return hessian


def _host(x: Array) -> Any:
    return np.asarray(backends.to_numpy(x), dtype=np.float64)
