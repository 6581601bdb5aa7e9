"""Centre and scale as a linear change of coordinates of w: never a copy of X.

Descent is slow along columns of small spread beside columns of large spread, or far from zero. In the
coordinates ::

    w = D v,    b = d c - mu · w

the columns of X enter centred and with spread 1, so that the Hessian's diagonal is about 1, while the
function is the same: ``f(D v, d c - mu · D v)``. Only p-vectors change; results are reported for w, b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from agd import backends
from agd._tree import dot, tree_max_abs, tree_subtract
from agd._typing import Array, Loss, Params, Penalty, Tree
from agd.gradient.linear import LinearObjective, trailing

__all__ = [
    "Rescaled",
    "Scaling",
    "Whitening",
    "axes",
    "from_factor",
    "from_moments",
    "shortest",
    "whitening_of",
]


class Scaling(NamedTuple):
    """The change of coordinates w = D v, b = d c - mu · w, and the size of a gradient in them.

    Attributes
    ----------
    shift : array, shape (p,) or (..., p)
        mu: the columns' means; 0 for a model without an intercept.
    scale : array, shape (p,) or (..., p)
        The diagonal of D.
    intercept_scale : array, shape () or (...)
        The factor d.
    unit : array, shape () or (...)
        A bound on the gradient's entries, in these coordinates, at the best constant model; gradients
        relative to it do not depend on the units of X or y.
    null : array, shape () or (...)
        The best constant model, as a linear predictor; 0 for a model without an intercept.
    """

    shift: Array
    scale: Array
    intercept_scale: Array
    unit: Array
    null: Array

    def centred(self, v: Params) -> Params:
        """Return (w, d c), of which d c is the intercept beside centred columns, for (v, c)."""
        constant = None if v.intercept is None else self.intercept_scale * v.intercept
        return Params(self.scale * v.coef, constant)

    def to_user(self, v: Params) -> Params:
        """Return (w, b) for (v, c)."""
        coef, constant = self.centred(v)
        if constant is None:
            return Params(coef, None)
        return Params(coef, constant - dot(self.shift, coef))

    def from_user(self, params: Params) -> Params:
        """Return (v, c) for (w, b)."""
        coef = params.coef / self.scale
        if params.intercept is None:
            return Params(coef, None)
        centred = params.intercept + dot(self.shift, params.coef)
        return Params(coef, centred / self.intercept_scale)

    def pull_back(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, b)."""
        if g.intercept is None:
            return self.centred(g)
        return self.centred(Params(g.coef - self.shift * g.intercept[..., None], g.intercept))

    def pull_back_centred(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, d c)."""
        return self.centred(g)

    def push_forward(self, g: Params) -> Params:
        """Return the gradient with respect to (w, b) for that with respect to (v, c)."""
        if g.intercept is None:
            return Params(g.coef / self.scale, None)
        intercept = g.intercept / self.intercept_scale
        return Params(g.coef / self.scale + self.shift * intercept[..., None], intercept)

    def prox(self, v: Params, step: float | Array, penalty: Penalty) -> Params:
        """Return argmin_u penalty(D u) + |u - v|² / (2 step): prox(D v, step D²) / D.

        The penalty acts entry by entry, or D is the same for all columns.
        """
        squared = self.scale * self.scale
        if not penalty.separable:
            squared = squared[..., :1]
        near = penalty.prox(self.scale * v.coef, trailing(step) * squared)
        return Params(near / self.scale, v.intercept)

    def relative_residual(
        self, pulled: Params, params: Params, penalty: Penalty | None = None
    ) -> Array:
        """Return how far (w, b) are from stationary, in (v, c) and as a share of `unit`.

        Parameters
        ----------
        pulled : Params
            The gradient with respect to (v, c).
        params : Params
            The point (w, b).
        penalty : Penalty, optional
            Where it has a prox, not the gradient g is measured but v - prox(v - g, 1).

        Returns
        -------
        array, shape (...)
            The largest entry.
        """
        if penalty is not None and not penalty.smooth:
            v = self.from_user(params)
            pulled = tree_subtract(v, self.prox(tree_subtract(v, pulled), 1.0, penalty))
        return tree_max_abs(pulled, pulled.coef.ndim - 1) / self.unit


@dataclass(frozen=True)
class Rescaled:
    """A linear objective in the coordinates of a `Scaling`.

    Attributes
    ----------
    base : LinearObjective
        The objective of (w, b).
    scaling : Scaling or Whitening
        The coordinates.
    centred : bool
        Whether the columns are centred in every block that a pass goes through. X w + b is a small
        difference of large numbers where columns lie far from zero: their rounding, and that of the
        gradient, would hide from a line search what is left to gain.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import column_scaling
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
    >>> there = Rescaled(base, column_scaling(base))
    >>> params, _ = there.report(there.zeros(), there.zeros())
    >>> bool(there.value_and_grad(there.zeros())[0] == base.value_and_grad(params)[0])
    True
    """

    base: LinearObjective
    scaling: Any
    centred: bool = False

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return self.base.batch_shape

    @property
    def loss(self) -> Loss:
        """The loss of one row."""
        return self.base.loss

    def zeros(self) -> Params:
        """Return (v, c) at zero."""
        return self.base.zeros()

    def value_and_grad(self, v: Params) -> tuple[Array, Params]:
        """Return the value and the gradient with respect to (v, c)."""
        if self.centred:
            shift = self.scaling.shift
            value, grad = self.base.about(shift, self.scaling.centred(v))
            near: Params = self.scaling.pull_back_centred(grad)
            return value, near
        value, grad = self.base.value_and_grad(self.scaling.to_user(v))
        pulled: Params = self.scaling.pull_back(grad)
        return value, pulled

    def bound_product(self, v: Params) -> Params:
        """Multiply by the matrix that bounds the Hessian in these coordinates."""
        product = self.base.bound_product(self.scaling.to_user(v))
        pulled: Params = self.scaling.pull_back(product)
        return pulled

    def hessian(self) -> Array:
        """Return the Hessian in these coordinates, of an objective on moments."""
        base: Any = self.base
        scaling = self.scaling
        known: Array = base.hessian(scaling.shift, scaling.scale, scaling.intercept_scale)
        return known

    def grad_norm(self, grads: Params, params: Params) -> Array:
        """Return the gradient's size: relative here, or absolute in (w, b), as the base measures it."""
        user = self.scaling.to_user(params)
        if self.base.measure is not None:
            return self.scaling.relative_residual(grads, user, self.base.penalty)
        return self.base.grad_norm(self.scaling.push_forward(grads), user)

    @property
    def compilable(self) -> bool | None:
        """Whether a step is worth compiling, and can be: as of the base."""
        found: bool | None = getattr(self.base, "compilable", True)
        return found

    def halved(self) -> Rescaled | None:
        """Return the same objective over smaller blocks, where the base can have these."""
        halved = getattr(self.base, "halved", None)
        base = None if halved is None else halved()
        return None if base is None else replace(self, base=base)

    @property
    def nonsmooth(self) -> bool:
        """Whether the penalty is left to `prox`."""
        return self.base.nonsmooth

    @property
    def quadratic(self) -> bool:
        """Whether the smooth part is a quadratic."""
        return self.base.quadratic

    def penalty_value(self, v: Params) -> Array:
        """Return the part of the objective that is left to `prox`, shape (...); else 0."""
        return self.base.penalty_value(self.scaling.to_user(v))

    def prox(self, v: Params, step: float | Array) -> Params:
        """Return argmin_u penalty(D u) + |u - v|² / (2 step); parameters as in the base's."""
        penalty = self.base.penalty
        if penalty is None or penalty.smooth:
            return v
        near: Params = self.scaling.prox(v, step, penalty)
        return near

    def report(self, v: Params, grads: Params) -> tuple[Params, Params]:
        """Return parameters and gradient in the user's coordinates.

        Of a set, D times a point at its edge may lie outside by rounding: the nearest point within
        is returned.
        """
        return self.base.prox(self.scaling.to_user(v), 0.0), self.scaling.push_forward(grads)

    def arrays(self) -> Tree:
        """Return the arrays that a compiled step takes."""
        return self.base.arrays(), self.scaling

    def with_arrays(self, arrays: Any) -> Rescaled:
        """Return the same objective over other arrays."""
        base, scaling = (None, None) if arrays is None else arrays
        known: Any = scaling
        return replace(self, base=self.base.with_arrays(base), scaling=known)


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

    def cast(self, like: Array) -> Whitening:
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
        return tree_max_abs(there, there.coef.ndim - 1) / self.scaling.unit


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
