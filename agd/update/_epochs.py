"""A run in closed form after k steps: the points, the loss and its gradient, the score of stopping there."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import math
from typing import NamedTuple

from agd import backends
from agd._typing import Array, Params
from agd.gradient.blocks import forward
from agd.update._powers import Steps, what_is_left
from agd.update._spectrum import Form, Spectrum, inverse

__all__ = ["Path", "along", "evaluated", "score", "times"]


class Path(NamedTuple):
    """A run at K epochs; without the first axis where one was asked for.

    Attributes
    ----------
    coef : array, shape (K, ..., p)
        The coefficients.
    intercept : array, shape (K, ...), or None
        The constant terms.
    value : array, shape (K, ...)
        The loss, with the penalty.
    grad : Params
        Its gradient with respect to both.
    grad_norm : array, shape (K, ...)
        The gradient's largest absolute entry.
    """

    coef: Array
    intercept: Array | None
    value: Array
    grad: Params
    grad_norm: Array


def evaluated(form: Form, parts: Spectrum, steps: Steps) -> Path:
    """Return the run after k steps.

    Parameters
    ----------
    form : Form
        The rule and the model.
    parts : Spectrum
        The problem.
    steps : Steps
        k, shape (K, ..., 1).

    Returns
    -------
    Path
        The points, the loss and its gradient there.
    """
    left, gone = what_is_left(form.beta, form.ahead, parts.tau, steps)
    return along(form, parts, left, gone)[0]


def along(
    form: Form, parts: Spectrum, left: Array, gone: Array, *shares: Array
) -> tuple[Path, list[Array]]:
    """Return the run where so much is left of the first distance, and gone; and moves by shares of it.

    Parameters
    ----------
    form, parts
        As in `evaluated`.
    left, gone, *shares : array, shape (K, ..., r)
        q_k, 1 - q_k, and what else is made into a move of the parameters.

    Returns
    -------
    path : Path
        The points, the loss and its gradient there.
    moves : list of array, shape (K, ..., d)
        What each of the shares moves.
    """
    xp = backends.namespace(left)
    residual, first = times(left, parts.residual), parts.residual * inverse(parts.s)
    lengths = [residual * parts.s, *(times(share, first) for share in (gone, *shares))]
    slope, moved, *moves = combined(parts.V, *lengths)
    point = parts.start - moved
    value = 0.5 * (xp.sum(residual * residual, axis=-1) + parts.rest)
    norm = xp.max(xp.abs(slope), axis=-1)
    grad, where = _split(form, slope), _split(form, point)
    return Path(where.coef, where.intercept, value, grad, norm), moves


def _split(form: Form, t: Array) -> Params:
    return Params(t[..., :-1], t[..., -1]) if form.intercept else Params(t, None)


def times(factor: Array, x: Array) -> Array:
    """Return their product, and 0 where x is 0: what stands at the minimum stays, however others grow."""
    xp = backends.namespace(x)
    product = factor * x
    return xp.where(x == 0.0, xp.zeros_like(product), product)


def combined(V: Array, *parts: Array) -> list[Array]:
    """Return V x for each part x, infinite where it is beyond the floats, never the NaN of two infinities."""
    xp = backends.namespace(V)
    x = xp.stack(parts)
    largest = float(xp.finfo(x.dtype).max)
    bound = largest / (4.0 * V.shape[-1])
    if backends.of(x).host_accessible and not (xp.abs(x) > bound).any():
        return list(_product(V, x))
    total = _product(V, backends.clip(x, low=-bound, high=bound))
    beyond = xp.any(xp.abs(x) > bound, axis=-1, keepdims=True) & (
        xp.abs(total) > math.sqrt(largest)
    )
    total = xp.where(beyond, xp.sign(total) * math.inf, total)
    return [total[i, ...] for i in range(len(parts))]


def _product(V: Array, x: Array) -> Array:
    """Return V x for x of more axes than the problems have: one product for all of a problem's vectors."""
    xp, more = backends.namespace(x), x.ndim - V.ndim + 1
    if V.ndim == 2 or more == 0:
        return forward(V, x)
    shape, axes = tuple(x.shape), tuple(range(x.ndim))
    behind = xp.permute_dims(x, axes[more:] + axes[:more])
    flat = xp.reshape(behind, (*shape[more:], math.prod(shape[:more])))
    found = xp.reshape(xp.matmul(V, flat), (*shape[more:-1], V.shape[-2], *shape[:more]))
    return xp.permute_dims(found, axes[x.ndim - more :] + axes[: x.ndim - more])


def score(form: Form, parts: Spectrum, steps: Steps) -> Array:
    """Return the generalised cross-validation score after k steps; parameters as in `evaluated`."""
    left, gone = what_is_left(form.beta, form.ahead, parts.tau, steps)
    path, _ = along(form, parts, left, gone)
    xp = backends.namespace(left)
    # The trace of the hat matrix Σ (1 - q_k) v'Hv / s², H the Hessian without the penalty's part.
    width = parts.V.shape[-2] - form.intercept
    ridge = form.alpha * xp.sum(parts.V[..., :width, :] ** 2, axis=-2)
    share = 1.0 - ridge * inverse(parts.s) ** 2
    dof = xp.sum(gone * share, axis=-1)
    error = 2.0 * path.value - form.alpha * xp.sum(path.coef * path.coef, axis=-1)
    free = 1.0 - dof / parts.rows
    sound = (free > 64.0 * float(xp.finfo(free.dtype).eps)) & xp.isfinite(error)
    result = error / xp.where(sound, free * free, xp.ones_like(free))
    return xp.where(sound, result, xp.full_like(result, math.inf))
