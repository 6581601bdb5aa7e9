"""Centre and scale as a linear change of coordinates of w: never a copy of X.

Descent is slow along columns of small spread beside columns of large spread, or far from zero. In the
coordinates ::

    w = D v,    b = d c - mu · w

the columns of X enter centred and with spread 1, so that the Hessian's diagonal is about 1, while the
function is the same: ``f(D v, d c - mu · D v)``. Only p-vectors change; results are reported for w, b.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Loss, Params, Tree
from agd.gradient.blocks import Blocks, backward
from agd.gradient.objective import LinearObjective, largest

__all__ = ["Rescaled", "Scaling", "column_scaling", "relative"]

TEMPORARY = 64 * 2**20  # bytes: the largest block for passes that make a copy of their block


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

    def to_user(self, v: Params) -> Params:
        """Return (w, b) for (v, c)."""
        coef = self.scale * v.coef
        if v.intercept is None:
            return Params(coef, None)
        return Params(coef, self.intercept_scale * v.intercept - _dot(self.shift, coef))

    def from_user(self, params: Params) -> Params:
        """Return (v, c) for (w, b)."""
        coef = params.coef / self.scale
        if params.intercept is None:
            return Params(coef, None)
        centred = params.intercept + _dot(self.shift, params.coef)
        return Params(coef, centred / self.intercept_scale)

    def pull_back(self, g: Params) -> Params:
        """Return the gradient with respect to (v, c) for that with respect to (w, b)."""
        if g.intercept is None:
            return Params(self.scale * g.coef, None)
        coef = self.scale * (g.coef - self.shift * g.intercept[..., None])
        return Params(coef, self.intercept_scale * g.intercept)

    def push_forward(self, g: Params) -> Params:
        """Return the gradient with respect to (w, b) for that with respect to (v, c)."""
        if g.intercept is None:
            return Params(g.coef / self.scale, None)
        intercept = g.intercept / self.intercept_scale
        return Params(g.coef / self.scale + self.shift * intercept[..., None], intercept)

    def relative_norm(self, pulled: Params) -> Array:
        """Return the largest entry of a gradient in (v, c), as a share of `unit`."""
        return largest(pulled) / self.unit


def _dot(a: Array, b: Array) -> Array:
    return backends.namespace(a, b).sum(a * b, axis=-1)


def _first_moments(X: Array, y: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Sum the columns of a block, and their absolute values; count its rows."""
    xp = backends.namespace(X)
    rows = xp.asarray(float(X.shape[-2]), dtype=X.dtype, device=backends.device(X))
    return xp.sum(X, axis=-2), xp.sum(xp.abs(X), axis=-2), rows


def _second_moments(
    shift: Array, size: Array, X: Array, y: Array, weight: Array | None
) -> tuple[Array, Array]:
    """Sum d and d² with the rows' weights, where d = (X - shift) / size."""
    xp = backends.namespace(X)
    d = (X - shift[..., None, :]) / size[..., None, :]
    if weight is None:
        return xp.sum(d, axis=-2), xp.sum(d * d, axis=-2)
    return backward(d, weight), backward(d * d, weight)


def _spread(blocks: Blocks, intercept: bool) -> tuple[Array, Array]:
    """Return the columns' weighted means and spreads: about the mean, or about 0.

    Two passes: the second is about the plain mean and in units of the mean size, so that neither a
    column far from zero nor one of extreme size loses its spread to rounding.
    """
    sums, sizes, rows = blocks.sum(_first_moments, limit=TEMPORARY)
    xp = backends.namespace(sums)
    size = sizes / rows
    size = xp.where(size > 0.0, size, xp.ones_like(size))
    shift = sums / rows if intercept else xp.zeros_like(sums)
    moments = functools.partial(_second_moments, shift, size)
    first, second = blocks.sum(moments, limit=TEMPORARY)
    total = blocks.total[..., None]
    first, second = first / total, second / total
    if not intercept:
        return shift, size * xp.sqrt(second)
    variance = xp.clip(second - first * first, min=0.0)
    mean = shift + size * first
    # Below this a column is constant but for the rounding of its mean.
    noise = 64.0 * xp.finfo(variance.dtype).eps
    spread = xp.where(variance > noise * noise, xp.sqrt(variance), xp.zeros_like(variance))
    return mean, size * spread


def _null_intercept(blocks: Blocks, loss: Loss) -> Array:
    """Return the constant z that predicts the weighted mean of y, shape (...); 0 where none does."""
    total = blocks.sum(_weighted_targets)
    mean = total / blocks.total
    xp = backends.namespace(mean)
    z = loss.link(mean)  # infinite at the end of the range
    return xp.where(xp.isfinite(z), z, xp.zeros_like(z))


def _weighted_targets(X: Array, y: Array, weight: Array | None) -> Array:
    xp = backends.namespace(y)
    return xp.sum(y if weight is None else y * weight, axis=-1)


def _null_slopes(
    loss: Loss, z: Array, h: float, X: Array, y: Array, weight: Array | None
) -> tuple[Array, Array]:
    """Sum the squared slope at a constant z, and the slope's change from z - h to z + h."""
    xp = backends.namespace(y)
    at = xp.zeros_like(y) + z[..., None]
    squares = loss.slope(at, y) ** 2
    change = loss.slope(at + h, y) - loss.slope(at - h, y)
    if weight is not None:
        squares, change = squares * weight, change * weight
    return xp.sum(squares, axis=-1), xp.sum(change, axis=-1)


def column_scaling(objective: LinearObjective) -> Scaling:
    """Measure the columns and the null model, and return the coordinates that even them out.

    D_j = 1 / sqrt(kappa var_j + a), where kappa is the loss's curvature (its bound, or for a loss
    without one its mean at the best constant model) and a the penalty's: the Hessian's diagonal
    becomes about 1.

    Parameters
    ----------
    objective : LinearObjective
        Loss, data and penalty.

    Returns
    -------
    Scaling
        The coordinates.
    """
    with np.errstate(all="ignore"):  # an overflow leaves coordinates that no run calls finite
        return _column_scaling(objective)


def _column_scaling(objective: LinearObjective) -> Scaling:
    blocks, loss = objective.blocks, objective.loss
    mean, spread = _spread(blocks, objective.intercept)
    xp = backends.namespace(mean)
    eps = float(xp.finfo(mean.dtype).eps)
    null = _null_intercept(blocks, loss) if objective.intercept else _zero(objective)
    h = eps ** (1 / 3)
    squares, change = blocks.sum(functools.partial(_null_slopes, loss, null, h))
    # In the targets' own units rounding leaves eps |null|; a gradient below that means nothing.
    noise = 2.0 * eps / relative(mean) * xp.abs(null)
    rms = xp.maximum(xp.sqrt(squares / blocks.total), noise)
    kappa = change / (2.0 * h * blocks.total)
    if loss.curvature is not None:
        kappa = xp.ones_like(kappa) * loss.curvature
    kappa = xp.where(kappa > 0.0, kappa, xp.ones_like(kappa))
    penalty = objective.penalty.curvature if objective.penalty is not None else None
    root = xp.hypot(
        xp.sqrt(kappa)[..., None] * spread, xp.zeros_like(spread) + (penalty or 0.0) ** 0.5
    )
    constant = xp.where(mean == 0.0, xp.ones_like(mean), xp.abs(mean))
    unit = rms / xp.sqrt(kappa)
    return Scaling(
        shift=mean,
        scale=1.0 / xp.where(root > 0.0, root, constant),
        intercept_scale=1.0 / xp.sqrt(kappa),
        unit=xp.where(unit > 0.0, unit, xp.ones_like(unit)),
        null=null,
    )


def _zero(objective: LinearObjective) -> Array:
    coef = objective.zeros().coef
    return backends.namespace(coef).sum(coef, axis=-1)


def relative(like: Array) -> float:
    """Return the default tolerance of a relative gradient in the dtype of `like`: eps^(2/3)."""
    eps = float(backends.namespace(like).finfo(like.dtype).eps)
    return math.exp(math.log(eps) * 2 / 3)


@dataclass(frozen=True)
class Rescaled:
    """A linear objective in the coordinates of a `Scaling`.

    Attributes
    ----------
    base : LinearObjective
        The objective of (w, b).
    scaling : Scaling
        The coordinates.

    Examples
    --------
    >>> import numpy as np
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0], [4.0]]), np.asarray([1.0, 2.0, 6.0]))
    >>> there = Rescaled(base, column_scaling(base))
    >>> params, _ = there.report(there.zeros(), there.zeros())
    >>> bool(there.value_and_grad(there.zeros())[0] == base.value_and_grad(params)[0])
    True
    """

    base: LinearObjective
    scaling: Scaling

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
        value, grad = self.base.value_and_grad(self.scaling.to_user(v))
        return value, self.scaling.pull_back(grad)

    def bound_product(self, v: Params) -> Params:
        """Multiply by the matrix that bounds the Hessian in these coordinates."""
        return self.scaling.pull_back(self.base.bound_product(self.scaling.to_user(v)))

    def grad_norm(self, grads: Params, params: Params) -> Array:
        """Return the gradient's size: relative here, or absolute in (w, b), as the base measures it."""
        if self.base.measure is not None:
            return self.scaling.relative_norm(grads)
        return largest(self.scaling.push_forward(grads))

    def report(self, v: Params, grads: Params) -> tuple[Params, Params]:
        """Return parameters and gradient in the user's coordinates."""
        return self.scaling.to_user(v), self.scaling.push_forward(grads)

    def arrays(self) -> Tree:
        """Return the arrays that a compiled step takes."""
        return self.base.arrays(), self.scaling

    def with_arrays(self, arrays: Any) -> "Rescaled":
        """Return the same objective over other arrays."""
        base, scaling = (None, None) if arrays is None else arrays
        known: Any = scaling
        return replace(self, base=self.base.with_arrays(base), scaling=known)
