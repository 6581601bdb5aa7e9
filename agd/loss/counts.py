"""Losses for counts and other nonnegative targets; the log link makes the prediction exp(z)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agd._typing import Array
from agd._validation import as_positive, as_real
from agd.backends import namespace
from agd.loss._stable import logistic_terms
from agd.loss.base import BaseLoss

__all__ = ["Gamma", "InverseGaussian", "NegativeBinomial", "Poisson", "Tweedie"]


class LogLink(BaseLoss):
    """The negative log likelihood of a distribution whose mean is exp(z)."""

    has_deviance = True
    log_link = True

    def link(self, mean: Array) -> Array:
        """Return log(mean)."""
        return namespace(mean).log(mean)

    def inverse_link(self, z: Array) -> Array:
        """Return exp(z)."""
        return namespace(z).exp(z)


@dataclass(frozen=True)
class Poisson(LogLink):
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

    def least_value(self, y: Array) -> Array:
        """Return y - y log(y), which is 0 for y = 0."""
        return y - _times_log(y, y)

    def outside(self, y: Array) -> Array:
        """Return where y is negative."""
        return y < 0.0


def _times_log(a: Array, b: Array) -> Array:
    """Return a log(b), and 0 where a is 0."""
    xp = namespace(a)
    one = xp.ones_like(a)
    return a * xp.log(xp.where(a == 0.0, one, b))


@dataclass(frozen=True)
class Gamma(LogLink):
    r"""Gamma loss with the log link, l(z, y) = z + y exp(-z), for targets above 0.

    It is half the gamma deviance without the terms that depend on y alone: errors count in proportion to
    the mean. Gradient 1 - y exp(-z), second derivative y exp(-z), which has no bound.

    Notes
    -----
    McCullagh and Nelder (1989), *Generalized Linear Models*, chapter 8.

    Examples
    --------
    >>> import numpy as np
    >>> Gamma().gradient(np.asarray([0.0]), np.asarray([3.0]))
    array([-2.])
    """

    name = "gamma"
    domain = "above 0"

    def value(self, z: Array, y: Array) -> Array:
        """Return z + y exp(-z), element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return 1 - y exp(-z), element by element."""
        return self.value_and_gradient(z, y)[1]

    def hessian(self, z: Array, y: Array) -> Array:
        """Return y exp(-z), element by element."""
        return y * namespace(z).exp(-z)

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one exponential."""
        share = self.hessian(z, y)
        return z + share, 1.0 - share

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from one exponential."""
        share = self.hessian(z, y)
        return z + share, 1.0 - share, share

    def least_value(self, y: Array) -> Array:
        """Return log(y) + 1."""
        return namespace(y).log(y) + 1.0

    def outside(self, y: Array) -> Array:
        """Return where y is not above 0."""
        return ~(y > 0.0)


class PowerVariance(LogLink):
    """The loss of `Tweedie` for a power that the subclass gives."""

    power: float

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return exp((2 - p) z) - y exp((1 - p) z), element by element."""
        first, second = self._terms(z, y)
        return first - second

    def hessian(self, z: Array, y: Array) -> Array:
        """Return (2 - p) exp((2 - p) z) + (p - 1) y exp((1 - p) z), element by element."""
        first, second = self._terms(z, y)
        return (2.0 - self.power) * first + (self.power - 1.0) * second

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from two exponentials."""
        return self.value_gradient_and_hessian(z, y)[:2]

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from two exponentials."""
        first, second = self._terms(z, y)
        a, b = 2.0 - self.power, 1.0 - self.power
        value = (first / a if a else z) - (second / b if b else y * z)
        return value, first - second, a * first - b * second

    def _terms(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return exp((2 - p) z) and y exp((1 - p) z)."""
        xp = namespace(z)
        return xp.exp((2.0 - self.power) * z), y * xp.exp((1.0 - self.power) * z)

    def least_value(self, y: Array) -> Array:
        """Return the loss at exp(z) = y, and its limit 0 where no such z exists, for y of 0 or less."""
        xp, positive = namespace(y), y > 0.0
        logarithm = xp.log(xp.where(positive, y, xp.ones_like(y)))
        return xp.where(positive, self.value(logarithm, y), xp.zeros_like(y))

    def outside(self, y: Array) -> Array:
        """Return where y is no number that the distribution can have."""
        if self.power <= 0.0:
            return namespace(y).isnan(y)
        return ~(y >= 0.0) if self.power < 2.0 else ~(y > 0.0)


@dataclass(frozen=True)
class Tweedie(PowerVariance):
    r"""Tweedie loss with the log link, for targets whose variance is proportional to mean^power.

    With the power p, it is half the deviance without the terms that depend on y alone::

        l(z, y) = exp((2 - p) z) / (2 - p) - y exp((1 - p) z) / (1 - p)

    where the first term is z for p = 2, and the second y z for p = 1. Gradient
    exp((2 - p) z) - y exp((1 - p) z). Powers between 1 and 2 fit amounts that are often exactly 0, such as
    claims and rainfall. The loss is convex in z for powers from 1 to 2.

    Parameters
    ----------
    power : float
        The power p: 0 or less for any real target, from 1 to 2 for targets of 0 or more, and from 2 on for
        targets above 0. There is no such distribution for a power between 0 and 1.

    Raises
    ------
    ValueError
        If `power` is not finite, or between 0 and 1.

    Notes
    -----
    Jørgensen (1987), "Exponential dispersion models", JRSS B 49.

    Examples
    --------
    >>> import numpy as np
    >>> Tweedie(1.5).value(np.asarray([0.0]), np.asarray([3.0]))
    array([8.])
    """

    name = "tweedie"

    power: float = 1.5

    def __post_init__(self) -> None:
        """Refuse a power that no distribution has, and say what y may be."""
        p = as_real("power", self.power, "a number")
        if 0.0 < p < 1.0 or not math.isfinite(p):
            raise ValueError(f"power must be 0 or less, or 1 or more, got {self.power!r}")
        domain = "any number" if p <= 0.0 else "0 or more" if p < 2.0 else "above 0"
        # Where y = 0 may be, its loss falls for ever as z goes to minus infinity.
        recession = 1.0 <= p < 2.0
        vars(self).update(domain=domain, convex=1.0 <= p <= 2.0, has_recession_direction=recession)


@dataclass(frozen=True)
class InverseGaussian(PowerVariance):
    r"""Inverse Gaussian loss with the log link, l(z, y) = y exp(-2 z) / 2 - exp(-z), for targets above 0.

    It is `Tweedie` of power 3: the variance grows with the cube of the mean. In z it is not convex, since
    it levels off where the prediction is far above the target.

    Notes
    -----
    Tweedie (1957), "Statistical properties of inverse Gaussian distributions", Annals of Mathematical
    Statistics 28.

    Examples
    --------
    >>> import numpy as np
    >>> InverseGaussian().gradient(np.asarray([0.0]), np.asarray([3.0]))
    array([-2.])
    """

    name = "inverse_gaussian"
    convex = False
    domain = "above 0"
    power = 3.0


@dataclass(frozen=True)
class NegativeBinomial(LogLink):
    r"""Negative binomial loss with the log link, for counts that vary more than Poisson's.

    The variance is mean + alpha mean². Without the terms that depend on y alone the negative log likelihood
    is::

        l(z, y) = (y + 1 / alpha) log(1 + alpha exp(z)) - y z

    Gradient (exp(z) - y) / (1 + alpha exp(z)); convex in z.

    Parameters
    ----------
    alpha : float
        How much more the counts vary, above 0; `Poisson` is its limit at 0.

    Raises
    ------
    ValueError
        If `alpha` is not above 0 and finite.

    Notes
    -----
    Hilbe (2011), *Negative Binomial Regression*, has this form as NB2.

    Examples
    --------
    >>> import numpy as np
    >>> NegativeBinomial(1.0).gradient(np.asarray([0.0]), np.asarray([3.0]))
    array([-1.])
    """

    name = "negative_binomial"
    has_recession_direction = True
    domain = "0 or more"

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a dispersion that is not a positive number."""
        as_positive("alpha", self.alpha)

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return (exp(z) - y) / (1 + alpha exp(z)), element by element."""
        return self.value_and_gradient(z, y)[1]

    def hessian(self, z: Array, y: Array) -> Array:
        """Return (1 + alpha y) exp(z) / (1 + alpha exp(z))², element by element."""
        return self.value_gradient_and_hessian(z, y)[2]

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one exponential that does not overflow."""
        return self.value_gradient_and_hessian(z, y)[:2]

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from one exponential that does not overflow.

        With t = z + log(alpha) and s the logistic function, the gradient is s(t) / alpha - y s(-t), in which
        no digit cancels but where it is near 0.
        """
        r, shift = 1.0 / self.alpha, math.log(self.alpha)
        (above, below), (up, down) = logistic_terms(z + shift)
        value = r * above + y * (below + shift)
        return value, r * up - y * down, (r + y) * up * down

    def least_value(self, y: Array) -> Array:
        """Return (y + 1 / alpha) log(1 + alpha y) - y log(y), which is 0 for y = 0."""
        return (y + 1.0 / self.alpha) * namespace(y).log1p(self.alpha * y) - _times_log(y, y)

    def outside(self, y: Array) -> Array:
        """Return where y is negative."""
        return ~(y >= 0.0)
