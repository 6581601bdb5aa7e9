"""Functions with a kink, as the losses need them: fast where arrays are plain, right where they are traced.

NumPy's ``where`` takes a branch at every entry, which costs five times what a maximum does when the
signs are mixed. A library that differentiates gives a maximum's two sides half the slope each at a tie,
which is wrong one derivative later: there a side is chosen.
"""

from __future__ import annotations

from agd import backends
from agd._typing import Array

__all__ = ["between", "one_above", "parts"]


def parts(s: Array) -> tuple[Array, Array]:
    """Return max(s, 0) and min(s, 0), differentiated at 0 as from below.

    Examples
    --------
    >>> import numpy as np
    >>> parts(np.asarray([2.0, -3.0]))
    (array([2., 0.]), array([ 0., -3.]))
    """
    xp = backends.namespace(s)
    if backends.of(s).autodiff is None:
        return xp.maximum(s, 0.0), xp.minimum(s, 0.0)
    above, zero = s > 0.0, xp.zeros_like(s)
    return xp.where(above, s, zero), xp.where(above, zero, s)


def between(x: Array, low: float, high: float) -> Array:
    """Return x clipped to [low, high].

    Examples
    --------
    >>> import numpy as np
    >>> between(np.asarray([0.5, 3.0]), -1.0, 1.0)
    array([0.5, 1. ])
    """
    xp = backends.namespace(x)
    if backends.of(x).autodiff is None:  # the namespace's clip looks for NaN in its limits
        return xp.minimum(xp.maximum(x, low), high)
    return backends.clip(x, low, high)


def one_above(s: Array, below: Array) -> Array:
    """Return 1 where s is above 0, and `below`, which is at most 1, elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> one_above(np.asarray([2.0, -3.0]), np.asarray([0.5, 0.5]))
    array([1. , 0.5])
    """
    xp = backends.namespace(s)
    if backends.of(s).autodiff is None:
        return xp.maximum(below, xp.astype(s > 0.0, below.dtype))
    return xp.where(s > 0.0, xp.ones_like(below), below)
