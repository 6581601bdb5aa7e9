"""The least curvature of a linear fit, where it is cheap and holds everywhere.

The squared loss is a quadratic: its Hessian is one matrix, and its smallest eigenvalue mu bounds how far
the minimum can be. One pass over the data multiplies the Hessian with all unit vectors at once, and the
product travels to the host with the first look, so that it costs no read of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Params
from agd.gradient.objective import LinearObjective
from agd.gradient.scaling import Rescaled
from agd.loss import L2, Squared

__all__ = ["Spectrum", "spectrum"]

COLUMNS = 64  # with more the product costs as much as many passes


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
        user = _least(hessian, eps)
        return (user if moved is None else _least(moved @ hessian @ moved.T, eps)), user


def _least(hessian: Any, eps: float) -> float:
    values = np.linalg.eigvalsh(0.5 * (hessian + hessian.T))
    noise = len(values) * eps * max(abs(values[0]), abs(values[-1]))
    return float(values[0]) if values[0] > noise else 0.0


def spectrum(objective: Any, state: Any) -> Spectrum | None:
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
    Spectrum or None
        The arrays, still on the device.
    """
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
        units = _units(base, p)
        if isinstance(objective, Rescaled):
            arrays.append(_matrix(objective.scaling.to_user(units)))
        if quadratic:
            arrays.append(_matrix(base.curvature_product(units)))
    ridge = np.asarray([alpha] * p + [0.0] * base.intercept)
    why = "Hessian" if quadratic else "penalty"
    return Spectrum(arrays, isinstance(objective, Rescaled), quadratic, ridge, why)


def _units(base: LinearObjective, p: int) -> Params:
    """Return the unit vectors of the parameters, as a batch."""
    like = base.blocks.resident
    xp, where = backends.namespace(like), backends.device(like)
    n = p + base.intercept
    eye = xp.eye(n, dtype=like.dtype, device=where)
    return Params(eye[:, :p], eye[:, p] if base.intercept else None)


def _matrix(rows: Params) -> Array:
    if rows.intercept is None:
        return rows.coef
    xp = backends.namespace(rows.coef)
    return xp.concat([rows.coef, xp.expand_dims(rows.intercept, axis=-1)], axis=-1)
