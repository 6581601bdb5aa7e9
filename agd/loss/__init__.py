"""Room one: WHAT is minimised. Losses of the linear predictor z, and penalties on the weights.

A loss knows nothing of X: it maps z = X @ w + b and y, element by element, to l(z, y) and its slope.
A class in one of the files' ``__all__`` is found by its name here, with nothing more to register.

>>> import numpy as np
>>> from agd.loss import Huber
>>> Huber(delta=1.0).value(np.asarray([0.5, 3.0]), np.asarray([0.0, 0.0]))
array([0.125, 2.5  ])
"""

from __future__ import annotations

from typing import Any

from agd._typing import Array, Loss
from agd._validation import choice
from agd.backends import namespace
from agd.loss import classification, constraints, counts, penalties, regression
from agd.loss.classification import *
from agd.loss.constraints import *
from agd.loss.counts import *
from agd.loss.penalties import *
from agd.loss.regression import *

__all__ = ["LOSSES", "get", "sum_and_slope", "value_and_slope"]
__all__ += classification.__all__
__all__ += counts.__all__
__all__ += penalties.__all__
__all__ += regression.__all__
__all__ += constraints.__all__

LOSSES: dict[str, Any] = {
    getattr(module, name).name: getattr(module, name)
    for module in (regression, classification, counts)
    for name in module.__all__
}
"""Losses by the names that scikit-learn gives them."""


def get(loss: str | Loss) -> Loss:
    """Return the loss of this name, with its default parameters; a loss passes through.

    Parameters
    ----------
    loss : str or Loss
        ``"squared_error"``, ``"huber"``, ``"log_loss"``, ``"poisson"`` or another key of `LOSSES`, or
        an object that follows the protocol.

    Returns
    -------
    Loss
        The loss.

    Raises
    ------
    ValueError
        If no loss has this name; the message has the nearest one.
    TypeError
        If `loss` is neither a name nor a loss.

    Examples
    --------
    >>> get("huber")
    Huber(delta=1.35)
    """
    if isinstance(loss, str):
        known = loss if loss in LOSSES else choice("loss", loss, tuple(LOSSES))
        found: Loss = LOSSES[known]()
        return found
    methods = (getattr(loss, name, None) for name in ("value", "slope"))
    if isinstance(loss, type) or not all(map(callable, methods)):
        raise TypeError(
            f"loss must be a name or an object such as agd.loss.Huber(delta=1.35), got {loss!r}"
        )
    return loss


def value_and_slope(loss: Loss, z: Array, y: Array) -> tuple[Array, Array]:
    """Return l(z, y) and dl/dz, element by element, together where the loss can.

    Parameters
    ----------
    loss : Loss
        One with ``value_and_slope``, or with ``value`` and ``slope`` alone.
    z : array, shape (..., n)
        The linear predictor.
    y : array, shape (..., n)
        The targets.

    Returns
    -------
    value, slope : array, shape (..., n)
        Both.

    Examples
    --------
    >>> import numpy as np
    >>> value_and_slope(get("squared_error"), np.asarray([3.0]), np.asarray([1.0]))
    (array([2.]), array([2.]))
    """
    both = getattr(loss, "value_and_slope", None)
    if both is None:
        return loss.value(z, y), loss.slope(z, y)
    found: tuple[Array, Array] = both(z, y)
    return found


def sum_and_slope(loss: Loss, z: Array, y: Array) -> tuple[Array, Array]:
    """Return the sum of l(z, y) over the rows, which are the last axis, and dl/dz of each.

    Parameters
    ----------
    loss : Loss
        One with ``sum_and_slope``, where the sum costs less than its terms; else see `value_and_slope`.
    z : array, shape (..., n)
        The linear predictor.
    y : array, shape (..., n)
        The targets.

    Returns
    -------
    sum : array, shape (...)
        The sum.
    slope : array, shape (..., n)
        The slopes.

    Examples
    --------
    >>> import numpy as np
    >>> total, slope = sum_and_slope(get("squared_error"), np.asarray([3.0, 2.0]), np.ones(2))
    >>> float(total), slope
    (2.5, array([2., 1.]))
    """
    together = getattr(loss, "sum_and_slope", None)
    if together is None:
        value, slope = value_and_slope(loss, z, y)
        return namespace(value).sum(value, axis=-1), slope
    found: tuple[Array, Array] = together(z, y)
    return found
