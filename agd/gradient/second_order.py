"""Value, gradient and Hessian of a linear model's smooth objective, from one pass over the data.

The Hessian is a sum of squares and products of the columns, weighted by the second derivatives of the rows:
``X' diag(h) X / m``. `NewtonObjective` has it in centred and scaled coordinates, for `agd.update.newton`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from agd import backends
from agd._tree import dot, tree_max_abs
from agd._typing import Array, Loss, Params
from agd.data.arrays import are_small_problems, map_small_problems
from agd.data.matrix import backward, gram_matrix, scale_rows
from agd.gradient.linear import MAX_COPIED_BLOCK_BYTES, LinearObjective, linear_predictor
from agd.gradient.objective import ObjectiveInCoordinates
from agd.gradient.preconditioner import Scaling
from agd.loss.penalties import ridge_like, ridge_strength

__all__ = ["NewtonObjective", "second_order", "second_order_block"]


def second_order_block(
    loss: Loss,
    X: Array,
    y: Array,
    weight: Array | None,
    coef: Array,
    intercept: Array | None = None,
    shift: Array | None = None,
) -> tuple[Array, ...]:
    """Sum the loss, its gradient and its Hessian over the rows of one block, less a shift where there is one.

    The parts of the Hessian are X' diag(h) X, and with an intercept X' h and the sum of h, where h are
    the second derivatives of the rows times their weights, and 0 where the loss is not convex.
    """
    if shift is not None:
        X = X - shift[..., None, :]
    params = Params(coef, intercept)
    value, slope, curvature = loss.value_gradient_and_hessian(linear_predictor(params, X), y)
    curvature = backends.clip(curvature, low=0.0)
    if weight is not None:
        value, slope, curvature = value * weight, slope * weight, curvature * weight
    xp = backends.namespace(y)
    root = xp.sqrt(curvature)
    rows = scale_rows(X, root)
    parts = (xp.sum(value, axis=-1), backward(X, slope), gram_matrix(rows))
    if intercept is None:
        return parts
    return *parts, xp.sum(slope, axis=-1), backward(rows, root), xp.sum(curvature, axis=-1)


def second_order(base: LinearObjective, shift: Array, params: Params) -> tuple[Array, Array, Array]:
    """Sum loss, gradient and Hessian over the rows, at parameters of columns less a shift: one pass.

    Parameters
    ----------
    base : LinearObjective
        The objective; its penalty is left out.
    shift : array, shape (p,) or (..., p)
        What the columns are centred by, as of `value_and_grad_centred`. A dense X is centred in each block,
        so that columns far from zero lose no digits; of a sparse X the sums are centred.
    params : Params
        coef (..., p) and the intercept (...) beside such columns, or None.

    Returns
    -------
    value : array, shape (...)
        The sum of the losses.
    grad : array, shape (..., d)
        Its gradient; d counts the intercept, which comes last.
    hessian : array, shape (..., d, d)
        Its Hessian, in which a row counts 0 where the loss is not convex.
    """
    centred = params.intercept is not None and not base.blocks.sparse
    value, slope, hessian, *intercept_sums = _sum_blocks(base, params, shift, centred=centred)
    if not intercept_sums:
        return value, slope, hessian
    grad, hessian = _with_intercept_sums(slope, hessian, intercept_sums, None if centred else shift)
    return value, grad, hessian


def _sum_blocks(
    base: LinearObjective, params: Params, shift: Array, *, centred: bool
) -> tuple[Array, ...]:
    coef, intercept = params
    if intercept is not None and not centred:
        intercept = intercept - dot(shift, coef)
    alike = tuple(coef.shape)[:-1] == base.batch_shape
    small = alike and are_small_problems(base.blocks)
    f = functools.partial(second_order_block, base.loss)
    more: tuple[Array, ...] = (coef,)
    if intercept is not None:
        more = (coef, intercept, shift) if centred else (coef, intercept)
    if small:
        return map_small_problems(f, base.blocks, more=more)
    limit = MAX_COPIED_BLOCK_BYTES // max(1, math.prod(base.batch_shape))
    sums: tuple[Array, ...] = base.blocks.sum(
        lambda X, y, weight: f(X, y, weight, *more), limit=limit
    )
    return sums


def _with_intercept_sums(
    slope: Array, hessian: Array, intercept_sums: list[Array], shift: Array | None
) -> tuple[Array, Array]:
    """Join the sums of `second_order_block` to a gradient and a Hessian, less a shift where there is one."""
    slope_sum, cross, curvature_sum = intercept_sums
    xp = backends.namespace(slope)
    if shift is not None:
        slope = slope - shift * slope_sum[..., None]
        outer = cross[..., :, None] * shift[..., None, :]
        squares = shift[..., :, None] * shift[..., None, :] * curvature_sum[..., None, None]
        hessian = hessian - outer - xp.matrix_transpose(outer) + squares
        cross = cross - shift * curvature_sum[..., None]
    side = xp.concat([cross, curvature_sum[..., None]], axis=-1)
    upper = xp.concat([hessian, cross[..., :, None]], axis=-1)
    grad = xp.concat([slope, slope_sum[..., None]], axis=-1)
    return grad, xp.concat([upper, side[..., None, :]], axis=-2)


@dataclass(frozen=True)
class NewtonObjective(ObjectiveInCoordinates):
    """A linear model's objective with the Hessian of its smooth part, in centred and scaled coordinates.

    Points and gradients are vectors of d entries, those of the coefficients and then that of the intercept,
    so that a Newton step is one solution of a system of d equations.

    Attributes
    ----------
    base : LinearObjective
        The objective of (w, b), with none, an `L2` penalty or one that has a prox.
    scaling : Scaling
        The coordinates.
    scale, mean_scale : array, shapes (..., d)
        The factors of the coefficients and of the intercept; the same over the sum of the weights of the rows.
    scale_products : array, shape (..., d, d)
        The products of two factors, over the sum of the weights.
    ridge : array, shape (..., d), or None
        The curvatures of an `L2` penalty in these coordinates.
    ridge_hessian : array, shape (..., d, d), or None
        The diagonal matrix of them.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import column_scaling
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
    >>> objective = NewtonObjective.of(base, column_scaling(base))
    >>> value, grad, hessian = objective.second_order(objective.from_params(base.zeros()))
    >>> bool(value == base.value_and_grad(base.zeros())[0]), hessian.round(6)
    (True, array([[ 1., -0.],
           [-0.,  1.]]))
    """

    base: LinearObjective
    scaling: Scaling
    scale: Array
    mean_scale: Array
    scale_products: Array
    ridge: Array | None
    ridge_hessian: Array | None

    @classmethod
    def of(cls, base: LinearObjective, scaling: Scaling) -> NewtonObjective:
        """Return the objective in the coordinates of a scaling."""
        scale, zero = scaling.inv_std, base.zeros().coef
        xp = backends.namespace(zero)
        if scale.shape != zero.shape:
            scale = scale + 0.0 * zero
        coef_scale = scale
        if base.intercept:
            unit = xp.zeros_like(zero[..., :1]) + scaling.intercept_scale[..., None]
            scale = xp.concat([scale, unit], axis=-1)
        total = base.blocks.total[..., None]
        mean_scale = scale / total
        products = scale[..., :, None] * scale[..., None, :] / total[..., None]
        ridge = hessian = None
        if not base.nonsmooth and ridge_strength(base.penalty) > 0.0:
            ridge = ridge_like(base.penalty, zero) * coef_scale * coef_scale
            if base.intercept:
                ridge = xp.concat([ridge, xp.zeros_like(ridge[..., :1])], axis=-1)
            eye = xp.eye(scale.shape[-1], dtype=scale.dtype, device=backends.device(scale))
            hessian = eye * ridge[..., None, :]
        return cls(base, scaling, scale, mean_scale, products, ridge, hessian)

    @property
    def preconditioner(self) -> Scaling:
        """The change of coordinates."""
        return self.scaling

    @property
    def worth_compiling(self) -> bool:
        """Whether a compiled step would be faster: steps are few, and the host decides on each."""
        return False

    def _params(self, x: Array) -> Params:
        return Params(x[..., :-1], x[..., -1]) if self.base.intercept else Params(x, None)

    def from_params(self, params: Params) -> Array:
        """Return the vector of the parameters (w, b) of the user."""
        coef, intercept = self.scaling.to_preconditioned(params)
        if intercept is None:
            return coef
        return backends.namespace(coef).concat([coef, intercept[..., None]], axis=-1)

    def second_order(self, x: Array) -> tuple[Array, Array, Array]:
        """Return the value (...), the gradient (..., d) and the Hessian (..., d, d), from one pass."""
        params = self._params(self.scale * x)
        value, grad, hessian = second_order(self.base, self.scaling.mean, params)
        value, grad = value / self.base.blocks.total, self.mean_scale * grad
        hessian = self.scale_products * hessian
        if self.ridge is None:
            return value, grad, hessian
        slope = self.ridge * x
        return value + 0.5 * dot(slope, x), grad + slope, hessian + self.ridge_hessian

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """Return the value and the gradient; the Hessian costs a pass as well."""
        value, grad, _ = self.second_order(x)
        return value, grad

    @property
    def nonsmooth(self) -> bool:
        """Whether the penalty is left to `prox`."""
        return self.base.nonsmooth

    def penalty_value(self, x: Array) -> Array:
        """Return the part of the objective that is left to `prox`, shape (...); else 0.

        A point at the edge of a set may lie outside by rounding: the nearest point within counts.
        """
        return self.base.penalty_value(self.base.prox(self._params(self.scale * x), 0.0))

    def grad_norm(self, grads: Array, params: Array) -> Array:
        """Return the gradient's size: relative here, or absolute in (w, b), as the base measures it.

        Where the penalty has a prox, it is the size of x - prox(x - g, 1).
        """
        relative = self.base.convergence_norm is not None
        if relative and not self.nonsmooth:
            size: Array = tree_max_abs(grads, grads.ndim - 1) / self.scaling.gradient_scale
            return size
        if relative:
            user = self.scaling.to_original(self._params(params))
            return self.scaling.relative_residual(self._params(grads), user, self.base.penalty)
        x, g = self.report(params, grads)
        return self.base.grad_norm(g, x)

    def report(self, x: Array, grads: Array) -> tuple[Params, Params]:
        """Return parameters and gradient in the user's coordinates, the parameters within the penalty's set."""
        params = self.base.prox(self.scaling.to_original(self._params(x)), 0.0)
        return params, self.scaling.restore_gradient(self._params(grads))
