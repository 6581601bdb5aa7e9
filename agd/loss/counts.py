"""Losses for counts and other nonnegative targets; the log link makes the prediction exp(z)."""

from __future__ import annotations

from dataclasses import dataclass

from agd._typing import Array
from agd.backends import namespace
from agd.loss.base import BaseLoss

__all__ = ["Poisson"]


@dataclass(frozen=True)
class Poisson(BaseLoss):
    r"""Poisson loss with the log link, l(z, y) = exp(z) - y z.

    It is half the Poisson deviance, and the negative log likelihood, without the terms that depend
    on y alone. Gradient exp(z) - y. The second derivative exp(z) has no bound, so no fixed step is
    stable everywhere; ``curvature_bound`` is None.

    Notes
    -----
    Nelder and Wedderburn (1972), "Generalized linear models", JRSS A 135.

    Examples
    --------
    >>> import numpy as np
    >>> Poisson().gradient(np.asarray([0.0]), np.asarray([3.0]))
    array([-2.])
    """

    name = "poisson"
    has_recession_direction = True
    domain = "0 or more"

    def value(self, z: Array, y: Array) -> Array:
        """Return exp(z) - y z, element by element."""
        return namespace(z).exp(z) - y * z

    def gradient(self, z: Array, y: Array) -> Array:
        """Return exp(z) - y, element by element."""
        return namespace(z).exp(z) - y

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002 - the same for every y
        """Return exp(z), element by element."""
        return namespace(z).exp(z)

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one exponential."""
        mean = namespace(z).exp(z)
        return mean - y * z, mean - y

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from one exponential."""
        mean = namespace(z).exp(z)
        return mean - y * z, mean - y, mean

    def link(self, mean: Array) -> Array:
        """Return log(mean)."""
        return namespace(mean).log(mean)

    def inverse_link(self, z: Array) -> Array:
        """Return exp(z)."""
        return namespace(z).exp(z)

    def outside(self, y: Array) -> Array:
        """Return where y is negative."""
        return y < 0.0
