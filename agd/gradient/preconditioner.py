"""Preconditioners: linear changes of coordinates of w that improve the condition, without a copy of X.

Gradient descent is slow where the columns' standard deviations differ, or their means are far from zero. In
the coordinates ::

    w = D v,    b = d c - mu · w

the columns of X enter centred and with standard deviation 1, so that the Hessian's diagonal is about 1, and
the function is the same: ``f(D v, d c - mu · D v)``. Only vectors of p entries change. `Scaling` is this diagonal
change, `Whitening` makes the Hessian the identity, and `Preconditioned` is an objective in either; results
are reported for (w, b).
"""

# Annotations are not deferred here: pdoc cannot resolve the names of a deferred one in a NamedTuple.

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from agd import backends
from agd._tree import dot, tree_max_abs, tree_subtract
from agd._typing import Array, Params, Penalty, Tree
from agd.gradient.linear import LinearObjective, expand_step
from agd.gradient.objective import ObjectiveInCoordinates

__all__ = [
    "Preconditioned",
    "Rescaled",
    "Scaling",
    "Whitening",
    "batched_matvec",
    "default_gradient_tolerance",
    "hessian_eigenpairs",
    "minimum_norm_basis",
    "rounding_share",
    "whitening_from_eigenpairs",
    "whitening_from_factor",
    "whitening_from_moments",
]


def default_gradient_tolerance(like: Any) -> float:
    """Return the default tolerance of a relative gradient in the dtype of `like`: eps^(2/3)."""
    eps = float(backends.namespace(like).finfo(like.dtype).eps)
    return math.exp(math.log(eps) * 2 / 3)


def rounding_share(like: Array) -> float:
    """Return the share of a predictor z that may be rounding, in units of the default tolerance.

    Rounding leaves eps |z| of z, and the tolerance is relative: what moves z by less than this share moves
    the gradient by less than the stopping test can tell.
    """
    eps = float(backends.namespace(like).finfo(like.dtype).eps)
    return 2.0 * eps / default_gradient_tolerance(like)


class Scaling(NamedTuple):
    """The change of coordinates w = D v, b = d c - mu · w, and the size of a gradient in them.

    Attributes
    ----------
    mean : array, shape (p,) or (..., p)
        mu: the columns' means; 0 for a model without an intercept.
    inv_std : array, shape (p,) or (..., p)
        The diagonal of D.
    intercept_scale : array, shape () or (...)
        The factor d.
    gradient_scale : array, shape () or (...)
        A bound on the gradient's entries, in these coordinates, at the best constant model; gradients
        relative to it do not depend on the units of X or y.
    null_model : array, shape () or (...), or (..., k)
        The best constant model, as a linear predictor; 0 for a model without an intercept. Of a predictor
        with k outputs it has an axis of these, which the columns' means and scales do not have.
    """

    mean: Array
    inv_std: Array
    intercept_scale: Array
    gradient_scale: Array
    null_model: Array

    @property
    def has_outputs(self) -> bool:
        """Whether the predictor has several outputs, so that coef is (..., k, p)."""
        several: bool = self.null_model.ndim > self.gradient_scale.ndim
        return several

    @property
    def diagonal_part(self) -> "Scaling":
        """The part of the coordinates that centres and scales: all of it."""
        return self

    def _per_output(self, x: Array, axis: int) -> Array:
        """Give what is the same for all outputs of a problem an axis that stands for them."""
        if x.ndim < -axis or not self.has_outputs:
            return x
        return backends.namespace(x).expand_dims(x, axis=axis)

    @property
    def _column_means(self) -> Array:
        return self._per_output(self.mean, -2)

    @property
    def _column_scales(self) -> Array:
        return self._per_output(self.inv_std, -2)

    @property
    def _constant_scale(self) -> Array:
        return self._per_output(self.intercept_scale, -1)

    def to_centred(self, v: Params) -> Params:
        """Return (w, d c), of which d c is the intercept beside centred columns, for (v, c)."""
        constant = None if v.intercept is None else self._constant_scale * v.intercept
        return Params(self._column_scales * v.coef, constant)

    def to_original(self, v: Params) -> Params:
        """Return (w, b) for (v, c)."""
        coef, constant = self.to_centred(v)
        if constant is None:
            return Params(coef, None)
        return Params(coef, constant - dot(self._column_means, coef))

    def to_preconditioned(self, params: Params) -> Params:
        """Return (v, c) for (w, b)."""
        coef = params.coef / self._column_scales
        if params.intercept is None:
            return Params(coef, None)
        centred = params.intercept + dot(self._column_means, params.coef)
        return Params(coef, centred / self._constant_scale)

    def transform_gradient(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, b)."""
        if g.intercept is None:
            return self.to_centred(g)
        centred = g.coef - self._column_means * g.intercept[..., None]
        return self.to_centred(Params(centred, g.intercept))

    def transform_centred_gradient(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, d c)."""
        return self.to_centred(g)

    def restore_gradient(self, g: Params) -> Params:
        """Return the gradient with respect to (w, b) for that with respect to (v, c)."""
        coef = g.coef / self._column_scales
        if g.intercept is None:
            return Params(coef, None)
        intercept = g.intercept / self._constant_scale
        return Params(coef + self._column_means * intercept[..., None], intercept)

    def prox(self, v: Params, step: float | Array, penalty: Penalty) -> Params:
        """Return argmin_u penalty(D u) + |u - v|² / (2 step): prox(D v, step D²) / D.

        The penalty acts entry by entry, or D is the same for all columns.
        """
        scale = self._column_scales
        squared = scale * scale
        if not penalty.separable:
            squared = squared[..., :1]
        near = penalty.prox(scale * v.coef, expand_step(step, outputs=self.has_outputs) * squared)
        return Params(near / scale, v.intercept)

    def resolvable_gradient_scale(self, params: Params) -> Array:
        """Return `gradient_scale`, and what the rounding of (w, b) adds to a gradient, shape (...).

        Columns far from zero, or badly conditioned, leave more rounding than the tolerance: relative to
        this scale it counts as nothing.
        """
        xp = backends.namespace(params.coef)
        reach = xp.abs(self._column_means) + 1.0 / self._column_scales
        rounded = xp.sum(reach * xp.abs(params.coef), axis=-1)
        if params.intercept is not None:
            rounded = rounded + xp.abs(params.intercept)
        rounded = xp.max(rounded, axis=-1) if self.has_outputs else rounded
        return self.gradient_scale + rounding_share(rounded) * rounded

    def relative_residual(
        self, pulled: Params, params: Params, penalty: Penalty | None = None
    ) -> Array:
        """Return how far (w, b) are from stationary, in (v, c) and as a share of `gradient_scale`.

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
            v = self.to_preconditioned(params)
            pulled = tree_subtract(v, self.prox(tree_subtract(v, pulled), 1.0, penalty))
            # Far from zero the rounding of b = d c - mu · w leaves a residual that no step can lower.
            return self.largest_entry(pulled) / self.resolvable_gradient_scale(params)
        return self.largest_entry(pulled) / self.gradient_scale

    def largest_entry(self, params: Params) -> Array:
        """Return the largest absolute entry of coefficients and intercept, shape (...)."""
        return tree_max_abs(params, params.coef.ndim - (2 if self.has_outputs else 1))


@dataclass(frozen=True)
class Preconditioned(ObjectiveInCoordinates):
    """A linear objective in the coordinates of a `Scaling`.

    Attributes
    ----------
    base : LinearObjective
        The objective of (w, b).
    scaling : Scaling or Whitening
        The coordinates.
    centre_blocks : bool
        Whether the columns are centred in every block that a pass goes through. X w + b is a small
        difference of large numbers where columns lie far from zero: their rounding, and that of the
        gradient, would hide from a line search what is left to gain.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import column_scaling
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
    >>> there = Preconditioned(base, column_scaling(base))
    >>> params, _ = there.report(there.zeros(), there.zeros())
    >>> bool(there.value_and_grad(there.zeros())[0] == base.value_and_grad(params)[0])
    True
    """

    base: LinearObjective
    scaling: Any
    centre_blocks: bool = False

    def zeros(self) -> Params:
        """Return (v, c) at zero."""
        return self.base.zeros()

    def value_and_grad(self, v: Params) -> tuple[Array, Params]:
        """Return the value and the gradient with respect to (v, c)."""
        if self.centre_blocks:
            shift = self.scaling.mean
            value, grad = self.base.value_and_grad_centred(shift, self.scaling.to_centred(v))
            near: Params = self.scaling.transform_centred_gradient(grad)
            return value, near
        value, grad = self.base.value_and_grad(self.scaling.to_original(v))
        pulled: Params = self.scaling.transform_gradient(grad)
        return value, pulled

    def bound_product(self, v: Params) -> Params:
        """Multiply by the matrix that bounds the Hessian in these coordinates."""
        product = self.base.bound_product(self.scaling.to_original(v))
        pulled: Params = self.scaling.transform_gradient(product)
        return pulled

    def hessian(self) -> Array:
        """Return the Hessian in these coordinates, of an objective on moments."""
        base: Any = self.base
        scaling = self.scaling
        known: Array = base.hessian(scaling.mean, scaling.inv_std, scaling.intercept_scale)
        return known

    def grad_norm(self, grads: Params, params: Params) -> Array:
        """Return the gradient's size: relative here, or absolute in (w, b), as the base measures it."""
        user = self.scaling.to_original(params)
        if self.base.convergence_norm is not None:
            size: Array = self.scaling.relative_residual(grads, user, self.base.penalty)
            return size
        return self.base.grad_norm(self.scaling.restore_gradient(grads), user)

    @property
    def preconditioner(self) -> Any:
        """The change of coordinates."""
        return self.scaling

    @property
    def has_bound_product(self) -> bool:
        """Whether there is a matrix like the Hessian: as of the base."""
        return self.base.has_bound_product

    @property
    def curvature_is_bounded(self) -> bool:
        """Whether that matrix bounds the Hessian: as of the base."""
        return self.base.curvature_is_bounded

    @property
    def row_count(self) -> int | None:
        """The number of rows in memory: as of the base."""
        return self.base.row_count

    def take_rows(self, rows: Array) -> "Preconditioned":
        """Return the mean over some rows, in the same coordinates."""
        return replace(self, base=self.base.take_rows(rows))

    def with_smaller_blocks(self) -> "Preconditioned | None":
        """Return the same objective over smaller blocks, where the base can have these."""
        base = self.base.with_smaller_blocks()
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
        return self.base.penalty_value(self.scaling.to_original(v))

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
        near = self.base.prox(self.scaling.to_original(v), 0.0)
        return self.base.report(near, self.scaling.restore_gradient(grads))

    def arrays(self) -> Tree:
        """Return the arrays that a compiled step takes."""
        return self.base.arrays(), self.scaling

    def with_arrays(self, arrays: Any) -> "Preconditioned":
        """Return the same objective over other arrays."""
        base, scaling = (None, None) if arrays is None else arrays
        known: Any = scaling
        return replace(self, base=self.base.with_arrays(base), scaling=known)


Rescaled = Preconditioned  # the earlier name, which stays importable

# In units of eps: the singular value that rounding leaves where two columns are equal.
RANK_NOISE_EPS = 10


class Whitening(NamedTuple):
    """The change of coordinates w = D N v, b = d c - mu · w, and the size of a gradient in them.

    Attributes
    ----------
    scaling : Scaling
        D, mu, d, and what the stopping test measures: the gradient in centred and scaled coordinates.
    sqrt : array, shape (..., p, p)
        M = V diag(e)^(1/2), of which N is the inverse's transpose.
    inv_sqrt : array, shape (..., p, p)
        N = V diag(e)^(-1/2); columns of 0 for what X does not determine.
    spectrum : array, shape (..., p)
        e, ascending: the curvatures in centred and scaled coordinates.
    """

    scaling: Scaling
    sqrt: Array
    inv_sqrt: Array
    spectrum: Array

    def cast(self, like: Array) -> "Whitening":
        """Return the same in the dtype of `like`."""
        xp = backends.namespace(like)
        sqrt, inv_sqrt, spectrum = (xp.astype(x, like.dtype, copy=False) for x in self[1:])
        return self._replace(sqrt=sqrt, inv_sqrt=inv_sqrt, spectrum=spectrum)

    def apply(self, v: Array) -> Array:
        """Return N v, in centred and scaled coordinates, for v (..., p)."""
        return self._multiply(self.inv_sqrt, v)

    def apply_transpose(self, g: Array) -> Array:
        """Return N' g, a gradient here, for one in centred and scaled coordinates."""
        return self._multiply(_transpose(self.inv_sqrt), g)

    def _multiply(self, A: Array, x: Array) -> Array:
        return batched_matvec(A, x, outputs=self.scaling.has_outputs)

    @property
    def diagonal_part(self) -> "Scaling":
        """The part of the coordinates that centres and scales."""
        return self.scaling

    @property
    def mean(self) -> Array:
        """The columns' means."""
        return self.scaling.mean

    def to_centred(self, v: Params) -> Params:
        """Return (w, d c), of which d c is the intercept beside centred columns, for (v, c)."""
        return self.scaling.to_centred(Params(self.apply(v.coef), v.intercept))

    def to_original(self, v: Params) -> Params:
        """Return (w, b) for (v, c)."""
        return self.scaling.to_original(Params(self.apply(v.coef), v.intercept))

    def to_preconditioned(self, params: Params) -> Params:
        """Return (v, c) for (w, b)."""
        there = self.scaling.to_preconditioned(params)
        return Params(self._multiply(_transpose(self.sqrt), there.coef), there.intercept)

    def transform_gradient(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, b)."""
        there = self.scaling.transform_gradient(g)
        return Params(self.apply_transpose(there.coef), there.intercept)

    def transform_centred_gradient(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, d c)."""
        there = self.scaling.transform_centred_gradient(g)
        return Params(self.apply_transpose(there.coef), there.intercept)

    def restore_gradient(self, g: Params) -> Params:
        """Return the gradient with respect to (w, b) for that with respect to (v, c)."""
        return self.scaling.restore_gradient(Params(self._multiply(self.sqrt, g.coef), g.intercept))

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
        scaled = Params(self._multiply(self.sqrt, pulled.coef), pulled.intercept)
        return self.scaling.largest_entry(scaled) / self.scaling.gradient_scale


def batched_matvec(A: Array, x: Array, *, outputs: bool = False) -> Array:
    """Return A x for each problem, and for each of its outputs where it has several: x is then (..., k, p)."""
    if A.ndim == 2 and x.ndim == 1:
        return A @ x
    if A.ndim == 2 or outputs:  # vectors that share the matrix are rows
        return x @ _transpose(A)
    return backends.namespace(A).matmul(A, x[..., None])[..., 0]


def _transpose(A: Array) -> Array:
    return backends.namespace(A).matrix_transpose(A)


def whitening_from_moments(
    second: Array, scaling: Scaling, kappa: Array, ridge: float | Array
) -> "Whitening":
    """Return the coordinates from the columns' centred second moments.

    Parameters
    ----------
    second : array, shape (..., p, p)
        G.
    scaling : Scaling
        The columns' scales.
    kappa : array, shape (...)
        The curvature of the loss.
    ridge : float, or array, shape (p,)
        The curvature of the penalty, a, or one for each coefficient.

    Returns
    -------
    Whitening
        Whose least curvatures are lost in rounding where they are below eps of the largest: there use
        `whitening_from_factor`. The spectrum is NaN where the moments are not finite.
    """
    e, V, sound = hessian_eigenpairs(second, scaling, kappa, ridge)
    xp = backends.namespace(e)
    found = whitening_from_eigenpairs(scaling, e, V)
    nothing = xp.zeros_like(e) + math.nan
    return found._replace(spectrum=xp.where(sound[..., None], found.spectrum, nothing))


def hessian_eigenpairs(
    second: Array, scaling: Scaling, kappa: Array, ridge: float | Array
) -> tuple[Array, Array, Array]:
    """Return e, ascending, and V of the columns' bound on the Hessian, and whether it is finite.

    Parameters are those of `whitening_from_moments`.
    """
    xp = backends.namespace(second)
    D = scaling.inv_std
    eye = xp.eye(D.shape[-1], dtype=D.dtype, device=backends.device(D))
    C = second * (kappa[..., None, None] * D[..., :, None] * D[..., None, :])
    C = C + eye * (ridge * D * D)[..., None, :]
    # A column that is constant has no length: it stands alone, and its coefficient stays 0.
    live = xp.astype(xp.linalg.diagonal(C) > 0.5, D.dtype)
    C = C * live[..., :, None] * live[..., None, :] + eye * (1.0 - live)[..., None, :]
    sound = xp.all(xp.isfinite(C), axis=(-2, -1))
    # An eigenvalue routine may raise for what is not finite.
    e, V = xp.linalg.eigh(xp.where(sound[..., None, None], C, eye))
    return e, V * live[..., :, None], sound


def whitening_from_factor(
    R: Array, scaling: Scaling, ridge: float | Array
) -> tuple[Whitening, Array]:
    """Return the coordinates from a triangular factor of the centred and scaled columns.

    Parameters
    ----------
    R : array, shape (..., k, p)
        With R'R = D G D, as of `triangular_factor`.
    scaling : Scaling
        The columns' scales.
    ridge : float, or array, shape (p,)
        The curvature of the penalty, a, or one for each coefficient.

    Returns
    -------
    whitening : Whitening
        With N such that w = D N v has the least length where X leaves a choice.
    rank : array of int, shape (...)
        How many directions of w the columns determine, to rounding.
    """
    xp = backends.namespace(R)
    D, p = scaling.inv_std, R.shape[-1]
    eye = xp.eye(p, dtype=D.dtype, device=backends.device(D))
    rows = xp.concat([R, eye * (ridge**0.5 * D)[..., None, :]], axis=-2)
    _, s, Vh = xp.linalg.svd(rows, full_matrices=False)
    eps = float(xp.finfo(D.dtype).eps)
    # An entry is known to eps of itself, so that a column far from zero is less well known once centred.
    reach = xp.max(xp.abs(scaling.mean * D), axis=-1, keepdims=True)
    noise = (p + RANK_NOISE_EPS) * eps * xp.where(reach > 1.0, reach, xp.ones_like(reach))
    kept = s > noise * xp.max(s, axis=-1, keepdims=True)
    V = _transpose(Vh)
    e = xp.where(kept, s * s, xp.zeros_like(s))
    found = whitening_from_eigenpairs(scaling, xp.flip(e, axis=-1), xp.flip(V, axis=-1))
    rank = xp.sum(xp.astype(kept, xp.int32), axis=-1)
    null = D[..., :, None] * V * xp.astype(~kept, D.dtype)[..., None, :]
    return found._replace(inv_sqrt=minimum_norm_basis(found.inv_sqrt, D, null)), rank


def whitening_from_eigenpairs(scaling: Scaling, e: Array, V: Array) -> "Whitening":
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


def minimum_norm_basis(N: Array, D: Array, null: Array) -> Array:
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
        DN = DN - xp.matmul(U, xp.matmul(_transpose(U), DN))
    return DN / D[..., :, None]
