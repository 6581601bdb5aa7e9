"""Whiten as a linear change of coordinates of w: columns that are correlated become independent.

Centred and scaled columns may still be correlated, and descent is slow along what they have in common.
With D the columns' scales and C = D (kappa G + a I) D = V diag(e) V' the bound on the Hessian that they
leave (G the columns' centred second moments, kappa the loss's curvature, a the penalty's), in the
coordinates ::

    w = D V diag(e)^(-1/2) v,    b = d c - mu · w

the bound is the identity: a quadratic is at its least after one step of length 1, and any other loss is
as well conditioned as its curvature is even.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import math
from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Params, Penalty
from agd.gradient.objective import largest
from agd.gradient.scaling import Scaling

__all__ = [
    "Whitening",
    "axes",
    "from_factor",
    "from_moments",
    "ridge_of",
    "shortest",
    "whitening_of",
]


NOISE = 10  # eps: what a factor of two columns leaves of their difference where there is none


class Whitening(NamedTuple):
    """The change of coordinates w = D N v, b = d c - mu · w, and the size of a gradient in them.

    Attributes
    ----------
    scaling : Scaling
        D, mu, d, and what the stopping test measures: the gradient in centred and scaled coordinates.
    into : array, shape (..., p, p)
        M = V diag(e)^(1/2), of which N is the inverse's transpose.
    out_of : array, shape (..., p, p)
        N = V diag(e)^(-1/2); columns of 0 for what X does not determine.
    spectrum : array, shape (..., p)
        e, ascending: the curvatures in centred and scaled coordinates.
    """

    scaling: Scaling
    into: Array
    out_of: Array
    spectrum: Array

    def cast(self, like: Array) -> "Whitening":
        """Return the same in the dtype of `like`."""
        xp = backends.namespace(like)
        parts = {"into": self.into, "out_of": self.out_of, "spectrum": self.spectrum}
        return self._replace(
            **{name: xp.astype(part, like.dtype, copy=False) for name, part in parts.items()}
        )

    def out(self, v: Array) -> Array:
        """Return N v, in centred and scaled coordinates, for v (..., p)."""
        return times(self.out_of, v)

    def back(self, g: Array) -> Array:
        """Return N' g, a gradient here, for one in centred and scaled coordinates."""
        return times(_turned(self.out_of), g)

    @property
    def shift(self) -> Array:
        """The columns' means."""
        return self.scaling.shift

    def centred(self, v: Params) -> Params:
        """Return (w, d c), of which d c is the intercept beside centred columns, for (v, c)."""
        return self.scaling.centred(Params(self.out(v.coef), v.intercept))

    def to_user(self, v: Params) -> Params:
        """Return (w, b) for (v, c)."""
        return self.scaling.to_user(Params(self.out(v.coef), v.intercept))

    def from_user(self, params: Params) -> Params:
        """Return (v, c) for (w, b)."""
        there = self.scaling.from_user(params)
        return Params(times(_turned(self.into), there.coef), there.intercept)

    def pull_back(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, b)."""
        there = self.scaling.pull_back(g)
        return Params(self.back(there.coef), there.intercept)

    def pull_back_centred(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, d c)."""
        there = self.scaling.pull_back_centred(g)
        return Params(self.back(there.coef), there.intercept)

    def push_forward(self, g: Params) -> Params:
        """Return the gradient with respect to (w, b) for that with respect to (v, c)."""
        return self.scaling.push_forward(Params(times(self.into, g.coef), g.intercept))

    def relative_residual(
        self,
        pulled: Params,
        params: Params,  # noqa: ARG002
        penalty: Penalty | None = None,  # noqa: ARG002
    ) -> Array:
        """Return the largest entry of a gradient with respect to (v, c), as the scaling measures it.

        Parameters as in `Scaling`, of which only the gradient counts: no penalty here has a prox. It is
        measured in the scaled coordinates, not in these: in the direction of a small e rounding
        leaves a gradient here that no step can lower.
        """
        there = Params(times(self.into, pulled.coef), pulled.intercept)
        return largest(there) / self.scaling.unit


def times(A: Array, x: Array) -> Array:
    """Return A x for each problem."""
    if A.ndim == 2 and x.ndim == 1:
        return A @ x
    if A.ndim == 2:  # problems that share the columns
        return x @ _turned(A)
    return backends.namespace(A).matmul(A, x[..., None])[..., 0]


def _turned(A: Array) -> Array:
    return backends.namespace(A).matrix_transpose(A)


def from_moments(second: Array, scaling: Scaling, kappa: Array, ridge: float) -> Whitening:
    """Return the coordinates from the columns' centred second moments.

    Parameters
    ----------
    second : array, shape (..., p, p)
        G.
    scaling : Scaling
        The columns' scales.
    kappa : array, shape (...)
        The curvature of the loss.
    ridge : float
        The curvature of the penalty, a.

    Returns
    -------
    Whitening
        Whose least curvatures are lost in rounding where they are below eps of the largest: there use
        `from_factor`. The spectrum is NaN where the moments are not finite.
    """
    e, V, sound = axes(second, scaling, kappa, ridge)
    xp = backends.namespace(e)
    found = whitening_of(scaling, e, V)
    nothing = xp.zeros_like(e) + math.nan
    return found._replace(spectrum=xp.where(sound[..., None], found.spectrum, nothing))


def axes(second: Array, scaling: Scaling, kappa: Array, ridge: float) -> tuple[Array, Array, Array]:
    """Return e, ascending, and V of the columns' bound on the Hessian, and whether it is finite.

    Parameters are those of `from_moments`.
    """
    xp = backends.namespace(second)
    D = scaling.scale
    eye = xp.eye(D.shape[-1], dtype=D.dtype, device=backends.device(D))
    C = second * (kappa[..., None, None] * D[..., :, None] * D[..., None, :])
    C = C + ridge * eye * (D * D)[..., None, :]
    # A column that is constant has no length: it stands alone, and its coefficient stays 0.
    live = xp.astype(xp.linalg.diagonal(C) > 0.5, D.dtype)
    C = C * live[..., :, None] * live[..., None, :] + eye * (1.0 - live)[..., None, :]
    sound = xp.all(xp.isfinite(C), axis=(-2, -1))
    # An eigenvalue routine may raise for what is not finite.
    e, V = xp.linalg.eigh(xp.where(sound[..., None, None], C, eye))
    return e, V * live[..., :, None], sound


def from_factor(R: Array, scaling: Scaling, ridge: float) -> tuple[Whitening, Array]:
    """Return the coordinates from a triangular factor of the centred and scaled columns.

    Parameters
    ----------
    R : array, shape (..., k, p)
        With R'R = D G D, as of `triangular`.
    scaling : Scaling
        The columns' scales.
    ridge : float
        The curvature of the penalty, a.

    Returns
    -------
    whitening : Whitening
        With N such that w = D N v has the least length where X leaves a choice.
    rank : array of int, shape (...)
        How many directions of w the columns determine, to rounding.
    """
    xp = backends.namespace(R)
    D, p = scaling.scale, R.shape[-1]
    eye = xp.eye(p, dtype=D.dtype, device=backends.device(D))
    rows = xp.concat([R, ridge**0.5 * eye * D[..., None, :]], axis=-2)
    _, s, Vh = xp.linalg.svd(rows, full_matrices=False)
    eps = float(xp.finfo(D.dtype).eps)
    # An entry is known to eps of itself, so that a column far from zero is less well known once centred.
    reach = xp.max(xp.abs(scaling.shift * D), axis=-1, keepdims=True)
    noise = (p + NOISE) * eps * xp.where(reach > 1.0, reach, xp.ones_like(reach))
    kept = s > noise * xp.max(s, axis=-1, keepdims=True)
    V = _turned(Vh)
    e = xp.where(kept, s * s, xp.zeros_like(s))
    found = whitening_of(scaling, xp.flip(e, axis=-1), xp.flip(V, axis=-1))
    rank = xp.sum(xp.astype(kept, xp.int32), axis=-1)
    null = D[..., :, None] * V * xp.astype(~kept, D.dtype)[..., None, :]
    return found._replace(out_of=shortest(found.out_of, D, null)), rank


def whitening_of(scaling: Scaling, e: Array, V: Array) -> Whitening:
    """Return the coordinates of e and V; those of an e that is 0 or less are left out."""
    xp = backends.namespace(e)
    known = e > 0.0
    root = xp.sqrt(xp.where(known, e, xp.ones_like(e)))
    mask = xp.astype(known, e.dtype)
    return Whitening(
        scaling,
        V * (root * mask)[..., None, :],
        V * (mask / root)[..., None, :],
        xp.where(known, e, xp.zeros_like(e)),
    )


def shortest(N: Array, D: Array, null: Array) -> Array:
    """Take from D N what lies along the columns of `null`, which X does not see."""
    xp = backends.namespace(N)
    length = xp.sqrt(xp.sum(null * null, axis=-2, keepdims=True))
    null = null / xp.where(length > 0.0, length, xp.ones_like(length))
    U, s, _ = xp.linalg.svd(
        null, full_matrices=False
    )  # what its columns of 0 add is taken out again
    eps = float(xp.finfo(D.dtype).eps)
    there = s > s.shape[-1] * eps * xp.max(s, axis=-1, keepdims=True)
    U = U * xp.astype(there, D.dtype)[..., None, :]
    DN = D[..., :, None] * N
    for _ in range(2):  # twice: once leaves what rounding does
        DN = DN - xp.matmul(U, xp.matmul(_turned(U), DN))
    return DN / D[..., :, None]


def ridge_of(penalty: Any) -> float:
    """Return a smooth penalty's curvature; 0 without one."""
    if penalty is None or penalty.curvature is None:
        return 0.0
    return float(penalty.curvature)
