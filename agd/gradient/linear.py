"""The objective of a linear model: mean loss over row blocks plus a penalty, with gradient and curvature.

Every evaluation is one pass over the data: the functions here sum over the rows of one block, and the data
room adds the blocks up, wherever they are. All other objectives of linear models are built on this one.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._tree import tree_divide, tree_max_abs, tree_subtract
from agd._typing import Array, Batches, Loss, Matrix, Params, Penalty, Tree
from agd.data import as_data
from agd.data.arrays import are_small_problems, map_small_problems
from agd.data.base import BaseData
from agd.data.matrix import backward, forward
from agd.gradient.objective import BaseObjective, largest_curvature
from agd.loss import Squared
from agd.loss.base import as_loss, as_penalty

__all__ = [
    "LinearObjective",
    "flat_loss_block",
    "hessian_product_block",
    "largest_curvature",
    "linear_predictor",
    "loss_block",
    "row_curvatures",
    "zero_params",
]


def loss_block(
    loss: Loss,
    params: Params,
    X: Array,
    y: Array,
    weight: Array | None,
    shift: Array | None = None,
) -> tuple[Array, Params]:
    """Sum the loss and its gradient over the rows of one block, less a shift where there is one."""
    if shift is not None:
        X = X - shift[..., None, :]
    outputs = loss.outputs is not None
    z = linear_predictor(params, X, outputs=outputs)
    if weight is None:
        total, slope = loss.sum_and_gradient(z, y)
        return total, _predictor_adjoint(params, X, slope, outputs=outputs)
    value, slope = loss.value_and_gradient(z, y)
    slope = slope * (weight[..., None] if outputs else weight)
    return _row_sum(value * weight), _predictor_adjoint(params, X, slope, outputs=outputs)


def flat_loss_block(
    loss: Loss,
    X: Array,
    y: Array,
    weight: Array | None,
    coef: Array,
    intercept: Array | None = None,
    shift: Array | None = None,
) -> tuple[Array, ...]:
    """Return the same as a flat tuple, of the problems whose parameters these are."""
    value, grad = loss_block(loss, Params(coef, intercept), X, y, weight, shift)
    return (value, *(part for part in grad if part is not None))


def hessian_product_block(
    params: Params, X: Array, y: Array, weight: Array | None, *, outputs: bool = False
) -> Params:
    """Sum [X 1]' diag(weight) [X 1] params over the rows of one block."""
    z = linear_predictor(params, X, outputs=outputs)
    if weight is not None:
        z = z * (weight[..., None] if outputs else weight)
    return _predictor_adjoint(params, X, z, outputs=outputs)


def linear_predictor(params: Params, X: Array, *, outputs: bool = False) -> Array:
    """Return z = X w + b, shape (..., n); with several outputs (..., n, k)."""
    z = forward(X, params.coef, outputs=outputs)
    z = z if params.intercept is None else z + params.intercept[..., None]
    return backends.namespace(z).matrix_transpose(z) if outputs else z


def row_curvatures(loss: Loss, params: Params, X: Array, y: Array, weight: Array | None) -> Array:
    """Return s_i l''(z_i, y_i) of each row, shape (..., n); 0 where the loss is not convex."""
    if loss.quadratic:  # without the product X w
        curvature = backends.namespace(y).ones_like(y)
    else:
        curvature = backends.clip(loss.hessian(linear_predictor(params, X), y), low=0.0)
    return curvature if weight is None else curvature * weight


def _predictor_adjoint(params: Params, X: Array, slope: Array, *, outputs: bool) -> Params:
    """Return the gradient with respect to (w, b) for that with respect to z."""
    if outputs:  # rows on the last axis, as in the product that z comes from
        slope = backends.namespace(slope).matrix_transpose(slope)
    coef = backward(X, slope, outputs=outputs)
    return Params(coef, None if params.intercept is None else _row_sum(slope))


def _row_sum(x: Array) -> Array:
    return backends.namespace(x).sum(x, axis=-1)


# The largest block for a pass that makes a copy of its block.
MAX_COPIED_BLOCK_BYTES = 64 * 2**20


class _DataArrays(NamedTuple):
    X: Matrix | None
    y: Array | None
    weight: Array | None
    total: Array | None
    convergence_norm: Any


@dataclass(frozen=True)
class LinearObjective(BaseObjective):
    r"""Mean loss of a linear model over data, plus a penalty on its coefficients.

    ::

        value(w, b) = 1/m Σ_i s_i l(x_i · w + b, y_i) + penalty(w),    m = Σ_i s_i

    with weights s_i of 1 unless given. The gradient is X' (s ∘ l') / m + penalty'(w) for w and
    Σ s_i l'_i / m for b. Where the loss declares k outputs, w is (k, p) and b (k,), and the penalty is
    summed over the outputs. A pure function of its parameters: `value_and_grad` runs inside ``jax.jit``,
    ``jax.vmap`` and ``jax.lax.scan``.

    Attributes
    ----------
    blocks : BaseData
        X, y and the weights.
    loss : Loss
        The loss of one row.
    penalty : Penalty or None
        What is added to the mean loss.
    intercept : bool
        Whether the model has a constant term.
    convergence_norm : Scaling or None
        Coordinates whose relative gradient the stopping test measures; None for the largest
        absolute partial derivative.

    Notes
    -----
    The constructor checks nothing, so that it runs under a trace; ``agd.fit`` checks its data first.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> objective = LinearObjective.of(np.asarray([[1.0], [2.0]]), np.asarray([1.0, 3.0]))
    >>> value, grad = objective.value_and_grad(objective.zeros())
    >>> float(value), grad.coef, float(grad.intercept)
    (2.5, array([-3.5]), -2.0)
    """

    blocks: BaseData
    loss: Loss
    penalty: Penalty | None = None
    intercept: bool = True
    convergence_norm: Any = None

    @classmethod
    def of(
        cls,
        X: Any,
        y: Any,
        *,
        loss: Loss | None = None,
        penalty: Penalty | None = None,
        sample_weight: Any = None,
        intercept: bool = True,
    ) -> LinearObjective:
        """Make the objective of arrays that share a library, a device and a dtype.

        Parameters
        ----------
        X : array, shape (n, p) or (..., n, p), or Stream
            The rows; a stream brings y and the weights along.
        y : array, shape (n,) or (..., n), or None
            The targets, with rows last; None beside a stream.
        loss : Loss, optional
            `Squared` by default.
        penalty : Penalty, optional
            None by default.
        sample_weight : array, shape (n,) or (..., n), optional
            The weights of the rows.
        intercept : bool
            Whether the model has a constant term.

        Returns
        -------
        LinearObjective
            The objective.

        Raises
        ------
        ValueError
            If y is missing, or given beside a stream.
        """
        if y is None or isinstance(X, Batches):
            X, y, sample_weight = as_data(X, y, sample_weight)
        blocks = BaseData.of(X, y, sample_weight)
        chosen = Squared() if loss is None else as_loss(loss)
        return cls(blocks, chosen, as_penalty(penalty), intercept)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the value: () for one problem."""
        return self.blocks.batch_shape

    @property
    def outputs(self) -> float | None:
        """How many outputs the predictor has, as the loss says: an axis of coef before the last; or None."""
        return self.loss.outputs

    @property
    def worth_compiling(self) -> bool:
        """Whether a compiled step would be faster: not one that goes through chunks, nor one that the host takes part in."""
        on_host = self.penalty is not None and self.penalty.prox_on_host
        return not (self.blocks.lazy or on_host)

    @property
    def linear_objective(self) -> LinearObjective:
        """The objective itself."""
        return self

    @property
    def has_bound_product(self) -> bool:
        """Whether there is a matrix like the Hessian: there is for every loss."""
        return True

    @property
    def curvature_is_bounded(self) -> bool:
        """Whether the loss bounds its second derivative, and `bound_product` therefore the Hessian."""
        return self.loss.curvature_bound is not None

    @property
    def row_count(self) -> int | None:
        """The number of rows; None where they are read or computed chunk by chunk."""
        return None if self.blocks.lazy else int(self.blocks.X.shape[-2])

    def take_rows(self, rows: Array) -> LinearObjective:
        """Return the mean over some rows, the same of every problem, and the whole penalty.

        With weights the sum over the rows is divided by k/n of all weights, not by the weights of these
        rows, which would bias it.

        Parameters
        ----------
        rows : array of int, shape (k,)
            Which.

        Returns
        -------
        LinearObjective
            An unbiased estimate of this one.
        """
        return replace(self, blocks=self.blocks.take(rows))

    def with_smaller_blocks(self) -> LinearObjective | None:
        """Return the same objective in blocks of half the rows; None where these are few already."""
        blocks = self.blocks
        if not blocks.halve_blocks():
            return None
        return replace(self, blocks=blocks.replace(rows=blocks.max_block_rows[0]))

    def zeros(self) -> Params:
        """Return the parameters at zero, where the data (or its chunks) are."""
        return zero_params(self.blocks, self.intercept, self.outputs)

    def value_and_grad(self, params: Params) -> tuple[Array, Params]:
        """Return the value and the gradient, from one pass over the data.

        Parameters
        ----------
        params : Params
            coef (..., p) and intercept (...), or None for a model without one.

        Returns
        -------
        value : array, shape (...)
            The objective.
        grad : Params
            Its gradient.
        """
        return self._evaluate(params, None)

    def value_and_grad_centred(self, shift: Array, params: Params) -> tuple[Array, Params]:
        """Return the same of columns less a shift (..., p), and of the intercept beside such columns."""
        return self._evaluate(params, shift)

    def _evaluate(self, params: Params, shift: Array | None) -> tuple[Array, Params]:
        value, grad = self._sum_rows(params, shift)
        total = self.blocks.total
        value, grad = value / total, tree_divide(grad, total)
        if self.penalty is None or not self.penalty.smooth:
            return value, grad
        coef = grad.coef + self.penalty.gradient(params.coef)
        return value + self._sum_outputs(self.penalty.value(params.coef)), Params(
            coef, grad.intercept
        )

    def _sum_outputs(self, value: Array) -> Array:
        """Return the penalty of each problem, shape (...), for that of each of its outputs."""
        return value if self.outputs is None else backends.namespace(value).sum(value, axis=-1)

    def _sum_rows(self, params: Params, shift: Array | None) -> tuple[Array, Params]:
        entry_axes = 1 if self.outputs is None else 2
        alike = tuple(params.coef.shape)[:-entry_axes] == self.batch_shape
        if not alike or not are_small_problems(self.blocks):
            found: tuple[Array, Params] = self.blocks.sum(
                functools.partial(loss_block, self.loss, params, shift=shift),
                limit=None if shift is None else MAX_COPIED_BLOCK_BYTES,
            )
            return found
        f = functools.partial(flat_loss_block, self.loss)
        more = [part for part in (*params, shift) if part is not None]
        value, *grad = map_small_problems(f, self.blocks, more=more)
        return value, Params(grad[0], grad[1] if len(grad) > 1 else None)

    def curvature_product(self, params: Params) -> Params:
        """Multiply by [X 1]' diag(s) [X 1] / m: the Hessian of the squared loss."""
        outputs = self.outputs is not None
        block_product = functools.partial(hessian_product_block, params, outputs=outputs)
        product: Params = self.blocks.sum(block_product)
        divided: Params = tree_divide(product, self.blocks.total)
        return divided

    def bound_product(self, params: Params) -> Params:
        """Multiply by the matrix that bounds the Hessian everywhere: curvature X'X/m + penalty's.

        For a loss whose curvature has no bound it is that of a loss with curvature 1.
        """
        bound = self.loss.curvature_bound if self.loss.curvature_bound is not None else 1.0
        coef, intercept = self.curvature_product(params)
        coef = bound * coef
        if self.penalty is not None and self.penalty.curvature_bound is not None:
            coef = coef + self.penalty.curvature_bound * params.coef
        return Params(coef, None if intercept is None else bound * intercept)

    @property
    def nonsmooth(self) -> bool:
        """Whether the penalty is left to `prox`."""
        return self.penalty is not None and not self.penalty.smooth

    @property
    def quadratic(self) -> bool:
        """Whether the smooth part is a quadratic, so that its gradient is linear in the params."""
        return self.loss.quadratic

    def penalty_value(self, params: Params) -> Array:
        """Return the part of the objective that is left to `prox`, shape (...); else 0."""
        if self.penalty is not None and not self.penalty.smooth:
            return self._sum_outputs(self.penalty.value(params.coef))
        return super().penalty_value(params)

    def prox(self, params: Params, step: float | Array) -> Params:
        """Return argmin_u penalty(u) + |u - params|² / (2 step); the intercept stays.

        Parameters
        ----------
        params : Params
            The point.
        step : float or array, shape (...)
            The step; with 0 it is the nearest point that the penalty allows.

        Returns
        -------
        Params
            The point itself, where the penalty is smooth or there is none.
        """
        if self.penalty is None or self.penalty.smooth:
            return params
        step = expand_step(step, outputs=self.outputs is not None)
        return Params(self.penalty.prox(params.coef, step), params.intercept)

    def report(self, params: Params, grads: Params) -> tuple[Params, Params]:
        """Return parameters and gradient as a result has them: the shortest of the parameters that are equal.

        Where a constant added to all outputs changes nothing, that is the one whose intercepts, and without
        a penalty also the coefficients of each column, have mean 0 over the outputs.
        """
        if not self.loss.shift_invariant:
            return params, grads
        xp, (coef, intercept) = backends.namespace(params.coef), params
        if self.penalty is None:
            coef = coef - xp.mean(coef, axis=-2, keepdims=True)
        if intercept is not None:
            intercept = intercept - xp.mean(intercept, axis=-1, keepdims=True)
        return Params(coef, intercept), grads

    def grad_norm(self, grads: Params, params: Params) -> Array:
        """Return how far the params are from stationary, as `convergence_norm` says, shape (...).

        That is the largest entry of the gradient; with a penalty that has a prox, of
        params - prox(params - grads, 1).
        """
        if self.convergence_norm is not None:
            size: Array = self.convergence_norm.relative_residual(
                self.convergence_norm.transform_gradient(grads), params, self.penalty
            )
            return size
        if self.nonsmooth:
            grads = tree_subtract(params, self.prox(tree_subtract(params, grads), 1.0))
        return tree_max_abs(grads, grads.coef.ndim - (1 if self.outputs is None else 2))

    def arrays(self) -> Tree:
        """Return the data's arrays: what a compiled step takes as its argument."""
        blocks = self.blocks
        if not self.worth_compiling:  # chunks are no arrays: what is compiled has to do without
            return _DataArrays(None, None, None, blocks.total, self.convergence_norm)
        return _DataArrays(blocks.X, blocks.y, blocks.weight, blocks.total, self.convergence_norm)

    def with_arrays(self, arrays: Any) -> LinearObjective:
        """Return the same objective over other arrays; with None, what is left is hashable."""
        new = _DataArrays(None, None, None, None, None) if arrays is None else _DataArrays(*arrays)
        blocks = self.blocks.replace(X=new.X, y=new.y, weight=new.weight, total=new.total)
        return replace(self, blocks=blocks, convergence_norm=new.convergence_norm)


def zero_params(blocks: BaseData, intercept: bool, outputs: float | None = None) -> Params:
    """Return parameters at zero, of the dtype and on the device of the data.

    Parameters
    ----------
    blocks : BaseData
        The data.
    intercept : bool
        Whether there is a constant term.
    outputs : int, optional
        How many outputs the predictor has, where it has an axis of these.

    Returns
    -------
    Params
        coef (..., p) and intercept (...), or None; with outputs (..., k, p) and (..., k).

    Raises
    ------
    ValueError
        If the number of outputs is that of the classes, which are not known yet.
    """
    if outputs == math.inf:
        raise ValueError(
            "the number of classes must be known, as of loss.with_classes(3), got none"
        )
    like = blocks.resident
    xp, where = backends.namespace(like), backends.device(like)
    shape = blocks.batch_shape if outputs is None else (*blocks.batch_shape, int(outputs))
    coef = xp.zeros((*shape, blocks.X.shape[-1]), dtype=like.dtype, device=where)
    return Params(coef, xp.zeros(shape, dtype=like.dtype, device=where) if intercept else None)


def expand_step(step: Any, *, outputs: bool = False) -> Any:
    """Give a step for each problem axes that stand for the coefficients, and for the outputs."""
    if not np.ndim(step):
        return step
    return step[..., None, None] if outputs else step[..., None]
