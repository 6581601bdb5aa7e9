"""The squared loss in its singular directions, and the point of a run there after k steps."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agd import backends
from agd._typing import Array, Params
from agd.gradient._workers import over_problems
from agd.gradient.blocks import backward, forward
from agd.gradient.moments import Moments
from agd.update._powers import Steps, what_is_left

__all__ = [
    "Form",
    "Path",
    "Spectrum",
    "combined",
    "evaluated",
    "inverse",
    "score",
    "spectrum",
    "times",
]

# What rounding leaves of an eigenvalue 0 of p columns' correlation is below 0.7 p eps in rows by the million.
ROUNDING = 4.0
FACTORED = 512  # matrices that a thread factors at a time
EVEN = 1e4  # condition of a Hessian up to which it is taken for its root


class Form(NamedTuple):
    """What is no array: a compiled evaluation's constant.

    Attributes
    ----------
    beta : float
        The share of the velocity that a step keeps; 0 for gradient descent.
    ahead : bool
        Whether the step looks ahead along the velocity.
    intercept : bool
        Whether the last direction is the constant term's.
    alpha : float
        The penalty's strength.
    """

    beta: float
    ahead: bool
    intercept: bool
    alpha: float


class Spectrum(NamedTuple):
    """The least-squares problem |A t - a|² / 2 + rest / 2 in its singular directions.

    Attributes
    ----------
    s : array, shape (..., r)
        A's singular values, 0 where rounding is all there is.
    V : array, shape (..., d, r)
        Its right singular vectors.
    residual : array, shape (..., r)
        U'(A t_0 - a) at the first point.
    rest : array, shape (...)
        Twice the loss that no t can change.
    start : array, shape (..., d)
        The first point t_0.
    tau : array, shape (..., r)
        Learning rate times s².
    rows : array, shape () or (...)
        The number of rows of the data.
    """

    s: Array
    V: Array
    residual: Array
    rest: Array
    start: Array
    tau: Array
    rows: Array


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


def _known(x: Array, unit: float) -> Array:
    """Return x, 0 or more, and 0 where it is below rounding at the size of its largest entry."""
    xp = backends.namespace(x)
    least = unit * xp.max(x, axis=-1, keepdims=True)
    return xp.where(x > least, x, xp.zeros_like(x))


def inverse(x: Array) -> Array:
    """Return 1 / x, and 0 where x is 0."""
    xp = backends.namespace(x)
    some = x > 0.0
    return xp.where(some, 1.0 / xp.where(some, x, xp.ones_like(x)), xp.zeros_like(x))


def _many(A: Array) -> bool:
    """Return whether these are matrices on the host, one for each of many problems."""
    return backends.of(A).threaded and A.ndim == 3


def _shared(factor: Callable[[Array], Any], A: Array) -> Any:
    """Return factors of matrices; of many on the host, threads share them."""
    if not _many(A):
        return factor(A)
    return over_problems(factor, A, size=FACTORED)


def _root(moments: Moments, form: Form) -> tuple[Array, Array, Array]:
    """Return A, a and the rest of the least-squares problem that has the same loss.

    G is decomposed as a correlation matrix, so that a column of small spread beside one of large is not
    taken for rounding.
    """
    G, c, mean, mean_y = moments.G, moments.c, moments.mean, moments.mean_y
    xp, p = backends.namespace(G), G.shape[-1]
    like = {"dtype": G.dtype, "device": backends.device(G)}
    spread = xp.sqrt(backends.clip(xp.linalg.diagonal(G), low=0.0))
    unit = inverse(spread)
    e, Q = _shared(xp.linalg.eigh, G * unit[..., :, None] * unit[..., None, :])
    root = xp.sqrt(_known(e, ROUNDING * p * float(xp.finfo(G.dtype).eps)))
    Qt = xp.matrix_transpose(Q)
    a = inverse(root) * forward(Qt, c * unit)
    rest = backends.clip(moments.yy - xp.sum(a * a, axis=-1), low=0.0)
    rows = [root[..., :, None] * (Qt * spread[..., None, :])]
    goals = [a]
    if form.alpha:
        eye = math.sqrt(form.alpha) * xp.eye(p, **like)
        rows.append(eye + xp.zeros_like(G))
        goals.append(xp.zeros_like(c))
    rows.append(mean[..., None, :])
    goals.append(mean_y[..., None])
    A = xp.concat(rows, axis=-2)
    if form.intercept:
        constant = xp.concat(
            [xp.zeros_like(A[..., :-1, :1]), xp.ones_like(A[..., -1:, :1])], axis=-2
        )
        A = xp.concat([A, constant], axis=-1)
    return A, xp.concat(goals, axis=-1), rest


def spectrum(moments: Moments, form: Form, first: Params, rate: Any) -> Spectrum:
    """Decompose the problem, and place the first point in it.

    Parameters
    ----------
    moments : Moments
        Of the data.
    form : Form
        The rule and the model.
    first : Params
        The first point.
    rate : float or array, shape () or (..., 1)
        The learning rate.

    Returns
    -------
    Spectrum
        What an evaluation needs.
    """
    start = first.coef
    if first.intercept is not None:
        start = backends.namespace(start).concat([start, first.intercept[..., None]], axis=-1)
    found = _of_hessian(moments, form, start) if _many(moments.G) else None
    s, V, along, rest = found or _of_root(moments, form, start)
    return Spectrum(
        s=s, V=V, residual=along, rest=rest, start=start, tau=rate * (s * s), rows=moments.rows
    )


def _of_root(moments: Moments, form: Form, start: Array) -> tuple[Array, ...]:
    A, a, rest = _root(moments, form)
    xp = backends.namespace(A)
    U, s, Vt = _shared(functools.partial(xp.linalg.svd, full_matrices=False), A)
    s = _known(s, A.shape[-1] * float(xp.finfo(A.dtype).eps))
    residual = forward(A, start) - a
    along = backward(U, residual)
    across = residual - forward(U, along)
    return s, xp.matrix_transpose(Vt), along, rest + xp.sum(across * across, axis=-1)


def _of_hessian(moments: Moments, form: Form, start: Array) -> tuple[Array, ...] | None:
    """Return the same from the Hessian A'A, in a third of the time; None where a digit would be missed.

    An eigenvalue has the error of the largest one: of those within `EVEN` of one another, as the columns of
    thousands of problems often are, none loses more than four digits of the sixteen.
    """
    mean, mean_y, p = moments.mean, moments.mean_y, moments.G.shape[-1]
    second, cross = moments.quadratic(intercept=False)  # about 0, as the run has it
    H = np.empty((len(second), p + form.intercept, p + form.intercept), dtype=second.dtype)
    H[:, :p, :p] = second + form.alpha * np.eye(p)
    goal = np.empty_like(H[:, :, 0])
    goal[:, :p] = cross
    if form.intercept:
        H[:, p, :p] = H[:, :p, p] = mean
        H[:, p, p], goal[:, p] = 1.0, mean_y
    e, V = _shared(np.linalg.eigh, H)
    if not (e[:, 0] * EVEN > e[:, -1]).all():
        return None
    s = np.sqrt(e)
    slope = forward(H, start) - goal
    along = backward(V, slope) / s
    twice = moments.yy + mean_y * mean_y + np.vecdot(start, slope - goal)  # the loss at the start
    return s, V, along, np.clip(twice - np.vecdot(along, along), 0.0, None)


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
    return _path(form, parts, left, gone)


def _path(form: Form, parts: Spectrum, left: Array, gone: Array) -> Path:
    xp = backends.namespace(left)
    residual = times(left, parts.residual)
    moved = times(gone, parts.residual * inverse(parts.s))
    point = parts.start - combined(parts.V, moved)
    slope = combined(parts.V, residual * parts.s)
    value = 0.5 * (xp.sum(residual * residual, axis=-1) + parts.rest)
    norm = xp.max(xp.abs(slope), axis=-1)
    grad, where = _split(form, slope), _split(form, point)
    return Path(where.coef, where.intercept, value, grad, norm)


def _split(form: Form, t: Array) -> Params:
    return Params(t[..., :-1], t[..., -1]) if form.intercept else Params(t, None)


def times(factor: Array, x: Array) -> Array:
    """Return their product, and 0 where x is 0: what stands at the minimum stays, however others grow."""
    xp = backends.namespace(x)
    product = factor * x
    return xp.where(x == 0.0, xp.zeros_like(product), product)


def combined(V: Array, x: Array) -> Array:
    """Return V x, infinite where it is beyond the floats, never the NaN of two infinities."""
    xp = backends.namespace(x)
    largest = float(xp.finfo(x.dtype).max)
    bound = largest / (4.0 * V.shape[-1])
    total = forward(V, backends.clip(x, low=-bound, high=bound))
    beyond = xp.any(xp.abs(x) > bound, axis=-1, keepdims=True) & (
        xp.abs(total) > math.sqrt(largest)
    )
    return xp.where(beyond, xp.sign(total) * math.inf, total)


def score(form: Form, parts: Spectrum, steps: Steps) -> Array:
    """Return the generalised cross-validation score after k steps; parameters as in `evaluated`."""
    left, gone = what_is_left(form.beta, form.ahead, parts.tau, steps)
    path = _path(form, parts, left, gone)
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
