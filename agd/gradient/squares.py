"""The squared loss seen through its moments: where to go is read from them, how it stands from the data."""

from __future__ import annotations

from dataclasses import dataclass

from agd import backends
from agd._typing import Array, Loss, Params, Tree
from agd.gradient.columns import relative
from agd.gradient.factor import accurate_gradient
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective
from agd.gradient.whitening import Whitening

__all__ = ["WhitenedSquares"]


@dataclass(frozen=True)
class WhitenedSquares:
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
    accurate : bool
        Whether the gradient is summed in twice the precision, for badly conditioned columns.
    least : tuple of float, optional
        The least curvature in centred and scaled coordinates and in (w, b), where they are known.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import Moments, column_scaling
    >>> from agd.gradient.whitening import from_moments
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
    >>> moments = Moments.from_blocks(base.blocks)
    >>> whitening = from_moments(moments.G, column_scaling(base, moments), np.asarray(1.0), 0.0)
    >>> squares = WhitenedSquares(base, whitening, moments)
    >>> _, grad = squares.first(base.zeros())
    >>> w, b = squares.move(base.zeros(), grad)
    >>> w.round(6), round(float(b), 6)
    (array([1.714286]), -1.0)
    """

    base: LinearObjective
    whitening: Whitening
    moments: Moments
    accurate: bool = False
    least: tuple[float, float] | None = None
    compilable = None  # a step or two end the run: to compile them would take longer

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return self.base.batch_shape

    @property
    def loss(self) -> Loss:
        """The loss of one row."""
        return self.base.loss

    nonsmooth = False
    quadratic = True

    def zeros(self) -> Params:
        """Return the params at zero."""
        return self.base.zeros()

    def first(self, params: Params) -> tuple[Array, Params]:
        """Return value and gradient as the moments have them: no pass over the data."""
        value, grad = self.moments.value_and_grad(params, self.base.penalty)
        return value, self._centred(grad)

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return value and gradient from one pass over the data."""
        if not self.accurate:
            value, grad = self.base.value_and_grad(params)
            return value, self._centred(grad)
        value, grad = accurate_gradient(self.base.blocks, self.whitening.scaling.shift, params)
        penalty = self.base.penalty
        if penalty is None:
            return value, grad
        coef = grad.coef + penalty.grad(params.coef)
        return value + penalty.value(params.coef), Params(coef, grad.intercept)

    def _centred(self, grad: Params) -> Params:
        if grad.intercept is None:
            return grad
        shift = self.whitening.scaling.shift
        return Params(grad.coef - shift * grad.intercept[..., None], grad.intercept)

    def move(self, params: Params, grad: Params) -> Params:
        """Return the point a step of length 1 down the gradient of the whitened coordinates."""
        scaling = self.whitening.scaling
        step = scaling.scale * self.whitening.out(self.whitening.back(scaling.scale * grad.coef))
        coef = params.coef - step
        if params.intercept is None:
            return Params(coef, None)
        along = backends.namespace(coef).sum(scaling.shift * step, axis=-1)
        return Params(coef, params.intercept - grad.intercept + along)

    def length(self, grad: Params) -> Array:
        """Return the gradient's length in the whitened coordinates: the root of twice what a step gains."""
        xp, scaling = backends.namespace(grad.coef), self.whitening.scaling
        there = self.whitening.back(scaling.scale * grad.coef)
        length: Array = xp.linalg.vector_norm(there, axis=-1)
        return length if grad.intercept is None else xp.hypot(length, grad.intercept)

    def grad_norm(self, grads: Params, params: Params) -> Array:
        """Return the gradient's size, as the base measures it.

        Where that is relative, what the rounding of the params makes of the gradient counts as nothing:
        columns far from zero, or badly conditioned, leave more of it than the tolerance.
        """
        if self.base.measure is None:
            return self.base.grad_norm(self._user(grads), params)
        xp, scale = backends.namespace(grads.coef), self.base.measure.scale
        size: Array = xp.max(xp.abs(scale * grads.coef), axis=-1)
        reach = xp.abs(self.base.measure.shift) + 1.0 / scale
        rounded = xp.sum(reach * xp.abs(params.coef), axis=-1)
        if grads.intercept is not None:
            size = xp.maximum(size, xp.abs(grads.intercept))
            rounded = rounded + xp.abs(params.intercept)
        share = 2.0 * float(xp.finfo(rounded.dtype).eps) / relative(grads.coef)
        return size / (self.base.measure.unit + share * rounded)

    def _user(self, grads: Params) -> Params:
        if grads.intercept is None:
            return grads
        shift = self.whitening.scaling.shift
        return Params(grads.coef + shift * grads.intercept[..., None], grads.intercept)

    def report(self, params: Params, grads: Params) -> tuple[Params, Params]:
        """Return the point, and the gradient with respect to (w, b)."""
        return params, self._user(grads)

    def arrays(self) -> Tree:
        """Return None: it is not compiled."""
        return None

    def with_arrays(self, arrays: Tree) -> WhitenedSquares:  # noqa: ARG002
        """Return the objective as it is."""
        return self
