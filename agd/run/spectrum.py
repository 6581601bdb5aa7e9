"""The least curvature of a linear fit, where it is cheap and holds everywhere.

The squared loss is a quadratic: its Hessian [X 1]' diag(s) [X 1] / m is one matrix, and the smallest
eigenvalue mu bounds how far the minimum can be. One pass over the data gives it, a few times as long as
one for a gradient, and it travels to the host with the first look, so that it costs no read of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Params
from agd.gradient.matrix import column_sums, gram, times_rows
from agd.gradient.objective import TEMPORARY, LinearObjective
from agd.gradient.scaling import Rescaled
from agd.gradient.squares import WhitenedSquares
from agd.loss import L2, Squared

__all__ = ["Spectrum", "least_eigenvalue", "matrix", "spectrum", "units"]

COLUMNS = 64  # with more the pass costs more than those that measure L


class Spectrum(NamedTuple):
    """What it takes to know mu: arrays to be read, and what is to be done with them.

    Attributes
    ----------
    arrays : list of array
        The change of coordinates where there is one, (n, n), and the data's part of the Hessian,
        (n, n), where it is constant.
    rescaled, quadratic : bool
        Which of the two there are.
    ridge : numpy.ndarray, shape (n,)
        The penalty's part of the Hessian, its diagonal.
    why : str
        How mu is had.
    """

    arrays: list[Array]
    rescaled: bool
    quadratic: bool
    ridge: Any
    why: str

    def least(self, host: list[Any]) -> tuple[float, float] | None:
        """Return mu in the method's coordinates and in the user's, from the arrays as read.

        An eigenvalue that rounding may have made is 0.
        """
        if not all(np.isfinite(x).all() for x in host):
            return None
        eps = max((float(np.finfo(x.dtype).eps) for x in host), default=0.0)
        moved = np.asarray(host[0], dtype=float) if self.rescaled else None
        hessian = np.diag(self.ridge)
        if self.quadratic:
            hessian = hessian + np.asarray(host[-1], dtype=float)
        bare = np.eye(len(hessian))
        user = least_eigenvalue(bare, hessian, eps)
        return (user if moved is None else least_eigenvalue(moved, hessian, eps)), user


class Known(NamedTuple):
    """A least curvature that the objective brings: nothing is left to read or to find out.

    Attributes
    ----------
    pair : tuple of float
        It in the method's coordinates and in the user's.
    arrays : tuple
        None.
    why : str
        How it is known.
    """

    pair: tuple[float, float]
    arrays: tuple[Array, ...] = ()
    why: str = "Hessian"

    def least(self, _: Any) -> tuple[float, float]:
        """Return both."""
        return self.pair


def least_eigenvalue(moved: Any, hessian: Any, eps: float) -> float:
    """Return the least eigenvalue of J H J', with 0 for one that the rounding of H may have made."""
    values = np.linalg.eigvalsh(moved @ hessian @ moved.T)
    sizes = np.abs(moved) @ np.abs(hessian) @ np.abs(moved).T
    noise = len(values) * eps * sizes.sum(axis=-1).max()
    return float(values[0]) if values[0] > noise else 0.0


def spectrum(objective: Any, state: Any) -> Spectrum | Known | None:
    """Return what it takes to know the least curvature, or None where that is not cheap.

    It is for one problem whose method has measured L; then, of the squared loss, or of any loss with an
    `L2` penalty on all of its parameters (mu >= alpha).

    Parameters
    ----------
    objective : Objective
        What is minimised.
    state : NamedTuple
        The method's state at the first point.

    Returns
    -------
    Spectrum, Known or None
        The arrays, still on the device.
    """
    if isinstance(objective, WhitenedSquares):
        return None if objective.least is None else Known(objective.least)
    base = objective.base if isinstance(objective, Rescaled) else objective
    if not isinstance(base, LinearObjective) or getattr(base, "nonsmooth", False):
        return None
    p = base.blocks.X.shape[-1]
    known = getattr(state, "curvature", None) is not None
    if not known or base.batch_shape != () or p > COLUMNS:
        return None
    alpha = base.penalty.alpha if isinstance(base.penalty, L2) else 0.0
    quadratic = isinstance(base.loss, Squared)
    if not quadratic and (alpha == 0.0 or base.intercept):
        return None
    arrays: list[Array] = []
    with np.errstate(all="ignore"):
        if isinstance(objective, Rescaled):
            arrays.append(matrix(objective.scaling.to_user(units(base, p))))
        if quadratic:
            arrays.append(_hessian(base))
    ridge = np.asarray([alpha] * p + [0.0] * base.intercept)
    why = "Hessian" if quadratic else "penalty"
    return Spectrum(arrays, isinstance(objective, Rescaled), quadratic, ridge, why)


def units(base: LinearObjective, p: int) -> Params:
    """Return the unit vectors of the parameters, as a batch.

    Parameters
    ----------
    base : LinearObjective
        Whose parameters.
    p : int
        How many coefficients.

    Returns
    -------
    Params
        coef (n, p) and intercept (n,), or None.
    """
    like = base.blocks.resident
    xp, where = backends.namespace(like), backends.device(like)
    n = p + base.intercept
    eye = xp.eye(n, dtype=like.dtype, device=where)
    return Params(eye[:, :p], eye[:, p] if base.intercept else None)


def _squares(X: Array, _: Array, weight: Array | None) -> tuple[Array, Array]:
    """Sum x x' and x over the rows of one block, with their weights."""
    xp = backends.namespace(X)
    rooted = X if weight is None else times_rows(X, xp.sqrt(weight))
    return gram(rooted), column_sums(X if weight is None else times_rows(X, weight))


def _hessian(base: LinearObjective) -> Array:
    """Return the Hessian of the squared loss, shape (p, p), or (p + 1, p + 1) with the intercept."""
    squares, sums = base.blocks.sum(_squares, limit=TEMPORARY)
    squares, sums = squares / base.blocks.total, sums / base.blocks.total
    if not base.intercept:
        return squares
    xp = backends.namespace(squares)
    last = xp.concat([sums, xp.ones_like(sums[:1])])
    return xp.concat([xp.concat([squares, sums[:, None]], axis=1), last[None, :]], axis=0)


def matrix(rows: Params) -> Array:
    """Return a batch of parameters as the rows of a matrix, the intercept last.

    Parameters
    ----------
    rows : Params
        coef (n, p) and intercept (n,), or None.

    Returns
    -------
    array, shape (n, p) or (n, p + 1)
        The matrix.
    """
    if rows.intercept is None:
        return rows.coef
    xp = backends.namespace(rows.coef)
    return xp.concat([rows.coef, xp.expand_dims(rows.intercept, axis=-1)], axis=-1)
