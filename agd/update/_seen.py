"""A run in closed form as a loop would have seen it: its last step, and what the data say of it."""

# Annotations are not deferred here: of a deferred one in a NamedTuple, pdoc cannot find the names.

from typing import Any, NamedTuple

from agd import backends
from agd._typing import Array, Params
from agd.gradient.blocks import backward
from agd.update._epochs import along, evaluated, times
from agd.update._powers import Steps, what_is_left
from agd.update._spectrum import Form, Spectrum, inverse

__all__ = ["Through", "corrected", "seen"]


class Through(NamedTuple):
    """What a run is seen through; a compiled function's constant."""

    form: Form
    function: Any
    constant: Any


def seen(through: Through, arrays: Any, parts: Spectrum, steps: Steps) -> Any:
    """Return the function of the path and of the last step."""
    form = through.form
    left, gone = what_is_left(form.beta, form.ahead, parts.tau, steps)
    share = _last_step(form, parts, steps, left, gone)
    path, (moved,) = along(form, parts, left, gone, share)
    xp = backends.namespace(moved)
    return through.function(through.constant, arrays, path, xp.max(xp.abs(moved), axis=-1))


def _last_step(form: Form, parts: Spectrum, steps: Steps, left: Array, gone: Array) -> Array:
    """Return how much of the first distance the k-th step went, 0 for k = 0; parameters as in `along`.

    It is not the difference of two points, in which a small step drowns.
    """
    xp = backends.namespace(steps.k)
    none = steps.k == 0.0
    before = Steps(xp.where(none, steps.k, steps.k - 1.0), ~steps.odd & ~none)
    more, less = what_is_left(form.beta, form.ahead, parts.tau, before)
    if form.beta == 0.0:
        share = parts.tau * more
    else:
        share = xp.where(xp.abs(left) < 0.5, more - left, gone - less)
    return xp.where(none, xp.zeros_like(share), share)


def corrected(form: Form, parts: Spectrum, steps: Steps, value: Array, grad: Params) -> Spectrum:
    """Return the problem whose loss and gradient are these where the run is after k steps.

    What the moments lost is a gradient that is off by a constant near there, and it is put right.

    Parameters
    ----------
    form, parts, steps
        As in `evaluated`; k of shape (..., 1).
    value : array, shape (...)
        The loss there, with the penalty.
    grad : Params
        Its gradient.

    Returns
    -------
    Spectrum
        The same problem, but for `residual` and `rest`.
    """
    left, _ = what_is_left(form.beta, form.ahead, parts.tau, steps)
    xp, path = backends.namespace(left), evaluated(form, parts, steps)
    off = grad.coef - path.grad.coef
    if grad.intercept is not None:
        off = xp.concat([off, (grad.intercept - path.grad[1])[..., None]], axis=-1)
    lean = backward(parts.V, off) * inverse(parts.s)
    there = times(left, parts.residual) + lean
    rest = 2.0 * value - xp.sum(there * there, axis=-1)
    return parts._replace(residual=parts.residual + lean, rest=backends.clip(rest, low=0.0))
