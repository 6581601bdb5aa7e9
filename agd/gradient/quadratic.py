"""Objectives of least squares that are evaluated from second moments, so that a step needs no pass over the data.

Proximal solvers minimise a `MomentObjective`, Newton's method a `WhitenedLeastSquares`. Moments lose digits of badly
conditioned columns, so the result is checked against the data and refined.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agd import backends
from agd._tree import tree_subtract
from agd._typing import Array, Params
from agd.gradient.linear import LinearObjective
from agd.gradient.moments import Moments, hessian_with_intercept
from agd.gradient.objective import ObjectiveInCoordinates
from agd.gradient.preconditioner import Whitening
from agd.gradient.qr import compensated_gradient

__all__ = [
    "MomentObjective",
    "WhitenedLeastSquares",
]


@dataclass(frozen=True)
class MomentObjective(LinearObjective):
    r"""A `LinearObjective` of the squared loss that is evaluated from moments of its data.

    ::

        value(w, b) = (w'Gw - 2 c'w + yy + r²) / 2 + linear_correction · (w, b),    r = mean · w + b - mean_y

    Moments lose digits of badly conditioned columns. `linear_correction` makes up for that: the difference of the
    gradient of the data to that of the moments at one point, with which a minimum here near that point is
    one of the data.

    Attributes
    ----------
    moments : Moments
        Those of the data.
    linear_correction : Params, optional
        What to add to the gradient.

    Notes
    -----
    The correction is that of iterative refinement: Björck (1967), "Iterative refinement of linear least
    squares solutions".

    Examples
    --------
    >>> import numpy as np
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
    >>> quick = MomentObjective.of_data(base, Moments.from_blocks(base.blocks))
    >>> value, grad = quick.value_and_grad(quick.zeros())
    >>> float(value), grad.coef, float(grad.intercept)
    (2.5, array([-3.5]), -2.0)
    """

    moments: Any = None
    linear_correction: Params | None = None

    @property
    def worth_compiling(self) -> bool:
        """Whether a compiled step would be faster: steps are short, and no read by the host is saved."""
        return False

    @classmethod
    def of_data(cls, base: LinearObjective, moments: Moments) -> MomentObjective:
        """Return the objective of the same data that is evaluated from their moments."""
        return cls(
            base.blocks, base.loss, base.penalty, base.intercept, base.convergence_norm, moments
        )

    def evaluate_data(self, params: Params) -> tuple[Array, Params]:
        """Return value and gradient from one pass over the data."""
        return super().value_and_grad(params)

    def corrected(self, params: Params, grad: Params) -> MomentObjective:
        """Return the objective whose gradient at `params` is `grad`, that of the data there."""
        _, ours = replace(self, linear_correction=None).value_and_grad(params)
        return replace(self, linear_correction=tree_subtract(grad, ours))

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return the value and the gradient, as the moments have them."""
        value, grad = self.moments.value_and_grad(params)
        if self.linear_correction is None:
            return value, grad
        xp = backends.namespace(params.coef)
        value = value + xp.sum(self.linear_correction.coef * params.coef, axis=-1)
        coef = grad.coef + self.linear_correction.coef
        if params.intercept is None:
            return value, Params(coef, None)
        value = value + self.linear_correction.intercept * params.intercept
        return value, Params(coef, grad.intercept + self.linear_correction.intercept)

    def curvature_product(self, params: Params) -> Params:
        """Multiply by the Hessian of the squared loss."""
        product: Params = self.moments.curvature_product(params)
        return product

    def hessian(self, shift: Array, scale: Array, intercept_scale: Array) -> Array:
        """Return the Hessian in the coordinates of a `Scaling`, shape (..., d, d); d counts the intercept.

        It is in the dtype of the moments.

        Parameters
        ----------
        shift, scale, intercept_scale : array
            Those of the scaling.
        """
        G, mean = self.moments.G, self.moments.mean
        xp = backends.namespace(G)
        shift, scale, unit = (
            xp.astype(x, G.dtype, copy=False) for x in (shift, scale, intercept_scale)
        )
        mean = mean - shift
        second = G + mean[..., :, None] * mean[..., None, :]
        H = hessian_with_intercept(second, mean, intercept=self.intercept)
        if self.intercept:
            constant = xp.zeros_like(scale[..., :1]) + unit[..., None]
            scale = xp.concat([scale + xp.zeros_like(constant), constant], axis=-1)
        return H * scale[..., :, None] * scale[..., None, :]


@dataclass(frozen=True)
class WhitenedLeastSquares(ObjectiveInCoordinates):
    """A linear model's squared loss at params of the user's, with steps taken in whitened coordinates.

    Points are (w, b), so that they lose no digits to a change of coordinates; gradients are
    (g_w - mu g_b, g_b), those of columns that are centred.

    Attributes
    ----------
    base : LinearObjective
        The squared loss, and none or an `L2` penalty.
    whitening : Whitening
        The coordinates in which the Hessian is the identity.
    moments : Moments
        Those of the data.
    compensated : bool
        Whether the gradient is summed in twice the precision, for badly conditioned columns.
    least_curvature : tuple of float, optional
        The least curvature in centred and scaled coordinates and in (w, b), where they are known.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import Moments, column_scaling
    >>> from agd.gradient.preconditioner import whitening_from_moments
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
    >>> moments = Moments.from_blocks(base.blocks)
    >>> whitening = whitening_from_moments(moments.G, column_scaling(base, moments), np.asarray(1.0), 0.0)
    >>> squares = WhitenedLeastSquares(base, whitening, moments)
    >>> _, grad = squares.first(base.zeros())
    >>> w, b = squares.move(base.zeros(), grad)
    >>> w.round(6), round(float(b), 6)
    (array([1.714286]), -1.0)
    """

    base: LinearObjective
    whitening: Whitening
    moments: Moments
    compensated: bool = False
    least_curvature: tuple[float, float] | None = None

    @property
    def worth_compiling(self) -> bool:
        """Whether a compiled step would be faster: a step or two end the run, sooner than it is compiled."""
        return False

    @property
    def quadratic(self) -> bool:
        """Whether the objective is a quadratic: it is."""
        return True

    def zeros(self) -> Params:
        """Return the params at zero."""
        return self.base.zeros()

    def first(self, params: Params) -> tuple[Array, Params]:
        """Return value and gradient as the moments have them: no pass over the data."""
        value, grad = self.moments.value_and_grad(params, self.base.penalty)
        return value, self._centred(grad)

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return value and gradient from one pass over the data."""
        if not self.compensated:
            value, grad = self.base.value_and_grad(params)
            return value, self._centred(grad)
        value, grad = compensated_gradient(self.base.blocks, self.whitening.scaling.mean, params)
        penalty = self.base.penalty
        if penalty is None:
            return value, grad
        coef = grad.coef + penalty.gradient(params.coef)
        return value + penalty.value(params.coef), Params(coef, grad.intercept)

    def _centred(self, grad: Params) -> Params:
        if grad.intercept is None:
            return grad
        shift = self.whitening.scaling.mean
        return Params(grad.coef - shift * grad.intercept[..., None], grad.intercept)

    def move(self, params: Params, grad: Params) -> Params:
        """Return the point a step of length 1 down the gradient of the whitened coordinates."""
        scaling = self.whitening.scaling
        step = scaling.inv_std * self.whitening.apply(
            self.whitening.apply_transpose(scaling.inv_std * grad.coef)
        )
        coef = params.coef - step
        if params.intercept is None:
            return Params(coef, None)
        along = backends.namespace(coef).sum(scaling.mean * step, axis=-1)
        return Params(coef, params.intercept - grad.intercept + along)

    def length(self, grad: Params) -> Array:
        """Return the gradient's length in the whitened coordinates: the root of twice what a step gains."""
        xp, scaling = backends.namespace(grad.coef), self.whitening.scaling
        there = self.whitening.apply_transpose(scaling.inv_std * grad.coef)
        length: Array = xp.linalg.vector_norm(there, axis=-1)
        return length if grad.intercept is None else xp.hypot(length, grad.intercept)

    def grad_norm(self, grads: Params, params: Params) -> Array:
        """Return the gradient's size, as the base measures it.

        Where that is relative, what the rounding of the params makes of the gradient counts as nothing:
        columns far from zero, or badly conditioned, leave more of it than the tolerance.
        """
        if self.base.convergence_norm is None:
            return self.base.grad_norm(self._user(grads), params)
        measure, xp = self.base.convergence_norm, backends.namespace(grads.coef)
        size: Array = xp.max(xp.abs(measure.inv_std * grads.coef), axis=-1)
        if grads.intercept is not None:
            size = xp.maximum(size, xp.abs(grads.intercept))
        resolvable: Array = measure.resolvable_gradient_scale(params)
        return size / resolvable

    def _user(self, grads: Params) -> Params:
        if grads.intercept is None:
            return grads
        shift = self.whitening.scaling.mean
        return Params(grads.coef + shift * grads.intercept[..., None], grads.intercept)

    def report(self, params: Params, grads: Params) -> tuple[Params, Params]:
        """Return the point, and the gradient with respect to (w, b)."""
        return params, self._user(grads)
