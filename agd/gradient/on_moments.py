"""The squared loss of a linear model as its moments have it, so that a step needs no pass over the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agd import backends
from agd._typing import Array, Params, Tree
from agd.gradient.moments import Moments
from agd.gradient.objective import LinearObjective

__all__ = ["OnMoments"]


@dataclass(frozen=True)
class OnMoments(LinearObjective):
    r"""A `LinearObjective` of the squared loss that is evaluated from moments of its data.

    ::

        value(w, b) = (w'Gw - 2 c'w + yy + r²) / 2 + lean · (w, b),    r = mean · w + b - mean_y

    Moments lose digits of badly conditioned columns. `lean` makes up for that: the difference of the
    gradient of the data to that of the moments at one point, with which a minimum here near that point is
    one of the data.

    Attributes
    ----------
    moments : Moments
        Those of the data.
    lean : Params, optional
        What to add to the gradient.

    Notes
    -----
    The correction is that of iterative refinement: Björck (1967), "Iterative refinement of linear least
    squares solutions".

    Examples
    --------
    >>> import numpy as np
    >>> base = LinearObjective.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
    >>> quick = OnMoments.of_data(base, Moments.from_blocks(base.blocks))
    >>> value, grad = quick.value_and_grad(quick.zeros())
    >>> float(value), grad.coef, float(grad.intercept)
    (2.5, array([-3.5]), -2.0)
    """

    moments: Any = None
    lean: Params | None = None
    compilable = None  # many short steps, and no host read saved by compiling them

    @classmethod
    def of_data(cls, base: LinearObjective, moments: Moments) -> OnMoments:
        """Return the objective of the same data that is evaluated from their moments."""
        return cls(base.blocks, base.loss, base.penalty, base.intercept, base.measure, moments)

    def from_data(self, params: Params) -> tuple[Array, Params]:
        """Return value and gradient from one pass over the data."""
        return super().value_and_grad(params)

    def corrected(self, params: Params, grad: Params) -> OnMoments:
        """Return the objective whose gradient at `params` is `grad`, that of the data there."""
        _, ours = replace(self, lean=None).value_and_grad(params)
        lean = (g if g is None else g - o for g, o in zip(grad, ours, strict=True))
        return replace(self, lean=Params(*lean))

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return the value and the gradient, as the moments have them."""
        value, grad = self.moments.value_and_grad(params)
        if self.lean is None:
            return value, grad
        xp = backends.namespace(params.coef)
        value = value + xp.sum(self.lean.coef * params.coef, axis=-1)
        coef = grad.coef + self.lean.coef
        if params.intercept is None:
            return value, Params(coef, None)
        value = value + self.lean.intercept * params.intercept
        return value, Params(coef, grad.intercept + self.lean.intercept)

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
        off = mean - shift
        H = G + off[..., :, None] * off[..., None, :]
        H = H * scale[..., :, None] * scale[..., None, :]
        if self.intercept:
            side = (off * scale * unit[..., None] + xp.zeros_like(H[..., 0]))[..., None]
            corner = (unit * unit)[..., None, None] + xp.zeros_like(side[..., :1, :])
            right = xp.concat([side, corner], axis=-2)
            H = xp.concat([H, xp.matrix_transpose(side)], axis=-2)
            H = xp.concat([H, right], axis=-1)
        return H

    def arrays(self) -> Tree:
        """Return None: it is not compiled."""
        return None

    def with_arrays(self, arrays: Tree) -> OnMoments:  # noqa: ARG002
        """Return the objective as it is."""
        return self
