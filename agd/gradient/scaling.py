"""Centre and scale as a linear change of coordinates of w: never a copy of X.

Descent is slow along columns of small spread beside columns of large spread, or far from zero. In the
coordinates ::

    w = D v,    b = d c - mu · w

the columns of X enter centred and with spread 1, so that the Hessian's diagonal is about 1, while the
function is the same: ``f(D v, d c - mu · D v)``. Only p-vectors change; results are reported for w, b.
"""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Loss, Params, Penalty, Tree
from agd.gradient.objective import LinearObjective, largest, minus, trailing

__all__ = ["Rescaled", "Scaling"]


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
        return Params(coef, constant - _dot(self.shift, coef))

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
            pulled = minus(v, self.prox(minus(v, pulled), 1.0, penalty))
        return largest(pulled) / self.unit


def _dot(a: Array, b: Array) -> Array:
    return backends.namespace(a, b).sum(a * b, axis=-1)


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

    def halved(self) -> "Rescaled | None":
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

    def with_arrays(self, arrays: Any) -> "Rescaled":
        """Return the same objective over other arrays."""
        base, scaling = (None, None) if arrays is None else arrays
        known: Any = scaling
        return replace(self, base=self.base.with_arrays(base), scaling=known)
