"""Losses for two classes; y is 0 for the first and 1 for the second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agd._typing import Array
from agd.backends import namespace
from agd.loss._kinks import parts

__all__ = ["Logistic"]


@dataclass(frozen=True)
class Logistic:
    r"""Logistic loss, the negative log likelihood of a class whose log odds are z.

    For y in {0, 1}: l(z, y) = log(1 + exp(z)) - y z. With s = z for the first class and -z for the
    second this is log(1 + exp(s)) = max(s, 0) + log1p(exp(-|s|)), which neither overflows nor cancels.

    Slope 1 / (1 + exp(-z)) - y; second derivative at most 1/4.

    Notes
    -----
    Cox (1958), "The regression analysis of binary sequences", JRSS B 20.

    Examples
    --------
    >>> import numpy as np
    >>> Logistic().value(np.asarray([-1000.0, 0.0]), np.asarray([0.0, 1.0]))
    array([0.        , 0.69314718])
    """

    name: ClassVar[str] = "log_loss"
    curvature: ClassVar[float | None] = 0.25
    classes: ClassVar[int | None] = 2
    domain: ClassVar[str] = "0 or 1"

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_slope(z, y)[0]

    def slope(self, z: Array, y: Array) -> Array:
        """Return sigmoid(z) - y, element by element, without cancellation."""
        return self.value_and_slope(z, y)[1]

    def value_and_slope(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both; with s = p + m, max(s, 0) and min(s, 0), neither exponential overflows."""
        side = 1.0 - 2.0 * y
        p, m, log = _parts_and_log(side * z)
        return log + p, side * namespace(z).exp(m - log)

    def link(self, mean: Array) -> Array:
        """Return the log odds of a share `mean` of the second class."""
        xp = namespace(mean)
        return xp.log(mean) - xp.log1p(-mean)

    def predict(self, z: Array) -> Array:
        """Return the probability of the second class, 1 / (1 + exp(-z))."""
        _, m, log = _parts_and_log(z)
        return namespace(z).exp(m - log)

    def outside(self, y: Array) -> Array:
        """Return where y is neither 0 nor 1."""
        return (y != 0.0) & (y != 1.0)


def _parts_and_log(s: Array) -> tuple[Array, Array, Array]:
    """Return p = max(s, 0), m = min(s, 0) and l = log1p(exp(-|s|)).

    The loss is log(1 + exp(s)) = p + l, and its slope 1 / (1 + exp(-s)) = exp(m - l).
    """
    xp = namespace(s)
    p, m = parts(s)
    return p, m, xp.log1p(xp.exp(m - p))
