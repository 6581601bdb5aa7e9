"""Losses for two classes; y is 0 for the first class and 1 for the second."""

from __future__ import annotations

from dataclasses import dataclass

from agd._typing import Array
from agd.backends import namespace
from agd.loss._stable import log1p, one_if_positive, positive_and_negative_part, sum_of_log1p
from agd.loss.base import BaseLoss

__all__ = ["Logistic"]


@dataclass(frozen=True)
class Logistic(BaseLoss):
    r"""Logistic loss, the negative log likelihood of a class whose log odds are z.

    For y in {0, 1}: l(z, y) = log(1 + exp(z)) - y z. With s = z for the first class and -z for the
    second this is log(1 + exp(s)) = max(s, 0) + log1p(exp(-|s|)), which neither overflows nor cancels.

    Gradient 1 / (1 + exp(-z)) - y; second derivative at most 1/4.

    Notes
    -----
    Cox (1958), "The regression analysis of binary sequences", JRSS B 20.

    Examples
    --------
    >>> import numpy as np
    >>> Logistic().value(np.asarray([-1000.0, 0.0]), np.asarray([0.0, 1.0]))
    array([0.        , 0.69314718])
    """

    name = "log_loss"
    curvature_bound = 0.25
    classes = 2
    has_recession_direction = True
    domain = "0 or 1"

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return sigmoid(z) - y, element by element, without cancellation."""
        side = 1.0 - 2.0 * y
        return side * _sigmoid(side * z)

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002 - the same for both classes
        """Return p (1 - p) with p = sigmoid(z), as e / (1 + e)² with e = exp(-|z|): no digit cancels."""
        xp = namespace(z)
        e = xp.exp(-xp.abs(z))
        return e / (1.0 + e) ** 2

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one exponential that does not overflow."""
        side = 1.0 - 2.0 * y
        above, e, share = _stable_terms(side * z)
        return above + log1p(e), side * share

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from one exponential that does not overflow."""
        side = 1.0 - 2.0 * y
        above, e, share = _stable_terms(side * z)
        return above + log1p(e), side * share, e / (1.0 + e) ** 2

    def sum_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return the sum of the losses over the last axis, and the gradients."""
        side = 1.0 - 2.0 * y
        above, e, share = _stable_terms(side * z)
        return namespace(z).sum(above, axis=-1) + sum_of_log1p(e), side * share

    def link(self, mean: Array) -> Array:
        """Return the log odds of a share `mean` of the second class."""
        xp = namespace(mean)
        return xp.log(mean) - xp.log1p(-mean)

    def inverse_link(self, z: Array) -> Array:
        """Return the probability of the second class, 1 / (1 + exp(-z))."""
        return _sigmoid(z)

    def outside(self, y: Array) -> Array:
        """Return where y is neither 0 nor 1."""
        return (y != 0.0) & (y != 1.0)


def _stable_terms(s: Array) -> tuple[Array, Array, Array]:
    """Return max(s, 0), e = exp(-|s|) and 1 / (1 + exp(-s)).

    The last is 1 / (1 + e) or e / (1 + e) as s is above 0 or below, and log(1 + exp(s)) is
    max(s, 0) + log(1 + e): nothing overflows or cancels.
    """
    above, below = positive_and_negative_part(s)
    e = namespace(s).exp(below - above)
    return above, e, one_if_positive(s, e) / (1.0 + e)


def _sigmoid(s: Array) -> Array:
    """Return 1 / (1 + exp(-s)), without overflow."""
    return _stable_terms(s)[2]
