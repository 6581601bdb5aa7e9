"""A second-order summary of rows that are no longer there, for fits to rows that come in batches.

`agd.Online` minimises the loss of the current rows plus this summary of all earlier ones, as in recursive
least squares: value, gradient and Hessian at one point.

>>> import numpy as np
>>> from agd.gradient import LinearObjective
>>> X, y = np.asarray([[0.0], [1.0], [2.0], [4.0]]), np.asarray([1.0, 3.0, 5.0, 9.0])
>>> first, second = LinearObjective.of(X[:2], y[:2]), LinearObjective.of(X[2:], y[2:])
>>> past = QuadraticSummary.of(first, first.zeros())
>>> whole = LinearObjective.of(X, y)
>>> both = OnlineObjective.of(second, past)
>>> params = whole.zeros()._replace(coef=np.asarray([0.5]))
>>> bool(np.allclose(both.value_and_grad(params)[0], whole.value_and_grad(params)[0]))
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agd import backends
from agd._tree import tree_add, tree_axpy, tree_dot, tree_scale, tree_subtract
from agd._typing import Array, Loss, NativeArray, Params
from agd.gradient.linear import LinearObjective, row_curvatures
from agd.gradient.moments import Moments
from agd.loss import BaseLoss

__all__ = ["OnlineObjective", "QuadraticSummary"]


@dataclass(frozen=True, eq=False)
class QuadraticSummary:
    r"""A sum of losses over rows, to second order about a point.

    ::

        L(u) = value + g · (u - u0) + (u - u0)' H (u - u0) / 2

    with H = Σ_i s_i l''_i [x_i 1]' [x_i 1]. Of the squared loss that is all there is to it.

    Attributes
    ----------
    at : Params
        The point u0.
    value : array, shape (...)
        The sum there.
    grad : Params
        Its gradient there.
    curved : Moments
        Those of the rows with weights s_i l''_i, which give H.
    total : array, shape () or (...)
        Σ_i s_i.
    """

    at: Params
    value: Array
    grad: Params
    curved: Moments
    total: Array

    @classmethod
    def of(
        cls, objective: LinearObjective, params: Params, limit: float | None = None
    ) -> QuadraticSummary:
        """Remember rows by their loss at `params`, without its penalty: two passes.

        Parameters
        ----------
        objective : LinearObjective
            Loss and rows.
        params : Params
            The point.
        limit : float, optional
            Where a row's predictor z is larger, its loss is taken for the parabola that touches it at
            `limit`: the loss of a row that is far on the right side is flat, and would be forgotten.

        Returns
        -------
        QuadraticSummary
            About `params`.
        """
        loss: Any = objective.loss if limit is None else QuadraticTail(objective.loss, limit)
        bare: Any = LinearObjective(objective.blocks, loss, None, objective.intercept)
        value, grad = bare.value_and_grad(params)
        total = bare.blocks.total
        blocks = bare.blocks
        weight = row_curvatures(loss, params, blocks.X, blocks.y, blocks.weight)
        curved = Moments.from_blocks(blocks.replace(weight=weight, passes=[0]))
        return cls(params, value * total, tree_scale(total, grad), curved, total)

    def moved(self, params: Params) -> QuadraticSummary:
        """Return the same function, expanded about another point."""
        value, grad = self.value_and_grad(params)
        return replace(self, at=params, value=value, grad=grad)

    def __add__(self, other: QuadraticSummary) -> QuadraticSummary:
        """Return the sum over the rows of both, about the point of `other`."""
        mine = self.moved(other.at)
        return QuadraticSummary(
            other.at,
            mine.value + other.value,
            tree_add(mine.grad, other.grad),
            mine.curved + other.curved,
            mine.total + other.total,
        )

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return the sum and its gradient."""
        d = tree_subtract(params, self.at)
        product = self.curvature_product(d)
        batch = d.coef.ndim - 1
        value = self.value + tree_dot(self.grad, d, batch) + 0.5 * tree_dot(product, d, batch)
        return value, tree_add(self.grad, product)

    def curvature_product(self, params: Params) -> Params:
        """Multiply by H."""
        total = backends.namespace(self.curved.G).astype(self.curved.total, params.coef.dtype)
        product: Params = tree_scale(total, self.curved.curvature_product(params))
        return product


@dataclass(frozen=True)
class OnlineObjective(LinearObjective):
    """The mean loss over rows that are here and rows that are remembered, plus a penalty.

    Attributes
    ----------
    past : QuadraticSummary or None
        The rows that are gone; None while all are here.
    """

    past: Any = None

    @property
    def worth_compiling(self) -> bool:
        """Whether a compiled step would be faster: a batch takes a few steps, less than to compile one."""
        return False

    @classmethod
    def of(cls, here: LinearObjective, past: QuadraticSummary | None) -> OnlineObjective:  # type: ignore[override]
        """Return the objective over both."""
        return cls(
            here.blocks, here.loss, here.penalty, here.intercept, here.convergence_norm, past
        )

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return the value and the gradient; a smooth penalty's among them."""
        if self.past is None:
            return super().value_and_grad(params)
        bare = LinearObjective(self.blocks, self.loss, None, self.intercept)
        value, grad = bare.value_and_grad(params)
        total = self.blocks.total
        before, slope = self.past.value_and_grad(params)
        whole = total + self.past.total
        value = (value * total + before) / whole
        grad = tree_scale(1.0 / whole, tree_add(tree_scale(total, grad), slope))
        if self.penalty is None or not self.penalty.smooth:
            return value, grad
        coef = grad.coef + self.penalty.gradient(params.coef)
        return value + self.penalty.value(params.coef), Params(coef, grad.intercept)

    def curvature_product(self, params: Params) -> Params:
        """Multiply by what bounds the curvature, but for the loss's: [X 1]' diag(s) [X 1] / m."""
        if self.past is None:
            return super().curvature_product(params)
        bound = self.loss.curvature_bound if self.loss.curvature_bound is not None else 1.0
        here = tree_scale(self.blocks.total, super().curvature_product(params))
        # `bound_product` multiplies both by the loss's bound: what is remembered has its curvature in it.
        there = self.past.curvature_product(params)
        total = self.blocks.total + self.past.total
        product: Params = tree_axpy(1.0 / total, here, tree_scale(1.0 / (bound * total), there))
        return product


@dataclass(frozen=True)
class QuadraticTail(BaseLoss):
    """A loss that is continued as a parabola where |z| is beyond a limit."""

    base: Loss
    limit: float

    def _quadratic_parts(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        near = backends.clip(z, low=-self.limit, high=self.limit)
        return near, z - near, backends.clip(self.base.hessian(near, y), low=0.0)

    def value(self, z: Array, y: Array) -> NativeArray:
        near, d, bend = self._quadratic_parts(z, y)
        return self.base.value(near, y) + (self.base.gradient(near, y) + 0.5 * bend * d) * d

    def gradient(self, z: Array, y: Array) -> NativeArray:
        near, d, bend = self._quadratic_parts(z, y)
        return self.base.gradient(near, y) + bend * d

    def hessian(self, z: Array, y: Array) -> Array:
        return self._quadratic_parts(z, y)[2]
