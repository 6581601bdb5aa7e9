"""What one pass over the data sums over the rows of a block: the loss and its gradient, and X'X products."""

from __future__ import annotations

from agd import backends
from agd._typing import Array, Loss, Params
from agd.gradient.blocks import backward, forward

__all__ = ["curved_block", "flat_block", "mean_block"]


def mean_block(
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
    z = _predictor(params, X)
    if weight is None:
        total, slope = loss.sum_and_gradient(z, y)
        return total, _pull_back(params, X, slope)
    value, slope = loss.value_and_gradient(z, y)
    return _row_sum(value * weight), _pull_back(params, X, slope * weight)


def flat_block(
    loss: Loss,
    X: Array,
    y: Array,
    weight: Array | None,
    coef: Array,
    intercept: Array | None = None,
    shift: Array | None = None,
) -> tuple[Array, ...]:
    """Return the same as a flat tuple, of the problems whose parameters these are."""
    value, grad = mean_block(loss, Params(coef, intercept), X, y, weight, shift)
    return (value, grad.coef) if grad.intercept is None else (value, *grad)


def curved_block(params: Params, X: Array, y: Array, weight: Array | None) -> Params:
    """Sum [X 1]' diag(weight) [X 1] params over the rows of one block."""
    z = _predictor(params, X)
    return _pull_back(params, X, z if weight is None else z * weight)


def _predictor(params: Params, X: Array) -> Array:
    z = forward(X, params.coef)
    return z if params.intercept is None else z + params.intercept[..., None]


def _pull_back(params: Params, X: Array, slope: Array) -> Params:
    return Params(backward(X, slope), None if params.intercept is None else _row_sum(slope))


def _row_sum(x: Array) -> Array:
    return backends.namespace(x).sum(x, axis=-1)
