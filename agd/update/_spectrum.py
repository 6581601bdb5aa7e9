"""The squared loss in its singular directions."""

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

__all__ = ["Form", "Spectrum", "inverse", "spectrum"]

# What rounding leaves of an eigenvalue 0 of p columns' correlation is below 0.7 p eps in rows by the million.
ROUNDING = 4.0
FACTORED = 2048  # matrices that a thread factors at a time: of fewer, threads wait for one another
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
