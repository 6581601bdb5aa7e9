"""Losses for counts and other nonnegative targets; by default the log link makes the prediction exp(z)."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any

from agd._typing import Array
from agd._validation import as_positive, as_real
from agd.backends import namespace
from agd.loss._stable import as_link, log_gamma, logistic_terms, times_log
from agd.loss.base import JointTermsLoss

__all__ = ["Gamma", "InverseGaussian", "NegativeBinomial", "Poisson", "Tweedie"]


class MeanFamily(JointTermsLoss):
    """The negative log likelihood of a distribution by its mean, which a link makes of z.

    A subclass defines `_log_link_terms`, where the mean is exp(z), and `_mean_terms`, the loss and its derivatives
    in the mean. With every other link the mean is above 0 where z is, and elsewhere the loss is infinite: a fit begins
    at the best constant model, or at an `init` with such predictors.

    Attributes
    ----------
    link : Link
        The link: ``"log"``, ``"identity"``, ``"sqrt"`` or ``"inverse"``.
    convex_links : tuple of str
        The links with which the loss is convex in z. With any other a fit uses no Hessian.
    """

    has_deviance = True
    link: Any
    convex_links: tuple[str, ...] = ("log",)

    def _adopt_link(self) -> None:
        """Take the link by its name, and what follows from it."""
        link = as_link(self.link)
        # Where a mean of 0 is infinitely far away, the loss of y = 0 falls for ever on the way.
        recession = self.has_recession_direction and link == "log"
        vars(self).update(
            link=link,
            log_link=link == "log",
            positive_predictor=link != "log",
            convex=link in self.convex_links,
            has_recession_direction=recession,
        )

    def __post_init__(self) -> None:
        """Refuse a link of another name."""
        self._adopt_link()

    @abc.abstractmethod
    def _log_link_terms(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return the loss, its gradient and its second derivative in z, for the mean exp(z)."""

    @abc.abstractmethod
    def _mean_terms(self, mean: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return the loss and its first and second derivative in the mean."""

    def value_gradient_and_hessian(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return all three, from the same terms; where the mean would not be above 0 the loss is infinite."""
        if self.log_link:
            return self._log_link_terms(z, y)
        xp, above = namespace(z), z > 0.0
        mean, slope, bend = self.link.derivatives(xp.where(above, z, xp.ones_like(z)))
        value, first, second = self._mean_terms(mean, y)
        parts = (value, first * slope, second * slope * slope + first * bend)
        outside = (math.inf, math.nan, math.nan)
        value, first, second = (
            xp.where(above, part, xp.zeros_like(part) + limit)
            for part, limit in zip(parts, outside, strict=True)
        )
        return value, first, second

    def inverse_link(self, z: Array) -> Array:
        """Return the mean."""
        mean: Array = self.link.inverse(z)
        return mean


@dataclass(frozen=True)
class Poisson(MeanFamily):
    r"""Poisson loss, with the log link l(z, y) = exp(z) - y z.

    With the mean μ it is μ - y log μ: half the Poisson deviance, and the negative log likelihood, without the
    terms that depend on y alone. With the log link the gradient is exp(z) - y. The second derivative exp(z) has no
    bound, so no fixed step is stable everywhere; ``curvature_bound`` is None.

    Parameters
    ----------
    link : str
        ``"log"``, ``"identity"``, ``"sqrt"`` or ``"inverse"``; with the last it is not convex.

    Notes
    -----
    Nelder and Wedderburn (1972), "Generalized linear models", JRSS A 135.

    Examples
    --------
    >>> import numpy as np
    >>> Poisson().gradient(np.asarray([0.0]), np.asarray([3.0]))
    array([-2.])
    >>> Poisson(link="identity").gradient(np.asarray([2.0]), np.asarray([3.0]))
    array([-0.5])
    """

    name = "poisson"
    has_recession_direction = True
    convex_links = ("log", "identity", "sqrt")
    fixed_dispersion = True
    domain = "0 or more"

    link: Any = "log"

    def _log_link_terms(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        mean = namespace(z).exp(z)
        return mean - y * z, mean - y, mean

    def _mean_terms(self, mean: Array, y: Array) -> tuple[Array, Array, Array]:
        share = y / mean
        return mean - y * namespace(mean).log(mean), 1.0 - share, share / mean

    def least_value(self, y: Array) -> Array:
        """Return y - y log(y), which is 0 for y = 0."""
        return y - times_log(y, y)

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:
        """Return precision (y log(y) - y - log(y!)), with 0 log(0) = 0."""
        return precision * (times_log(y, y) - y - log_gamma(y + 1.0))

    def outside(self, y: Array) -> Array:
        """Return where y is negative."""
        return y < 0.0


@dataclass(frozen=True)
class Gamma(MeanFamily):
    r"""Gamma loss, with the log link l(z, y) = z + y exp(-z), for targets above 0.

    With the mean μ it is log μ + y / μ, half the gamma deviance without the terms that depend on y alone: errors
    count in proportion to the mean. With the log link the gradient is 1 - y exp(-z), and the second derivative
    y exp(-z), which has no bound.

    Parameters
    ----------
    link : str
        ``"log"``, ``"inverse"`` (the canonical one), ``"identity"`` or ``"sqrt"``; with the last two it is not
        convex.

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
    convex_links = ("log", "inverse")
    domain = "above 0"

    link: Any = "log"

    def _log_link_terms(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        share = y * namespace(z).exp(-z)
        return z + share, 1.0 - share, share

    def _mean_terms(self, mean: Array, y: Array) -> tuple[Array, Array, Array]:
        share = y / mean
        return (
            namespace(mean).log(mean) + share,
            (1.0 - share) / mean,
            (2.0 * share - 1.0) / mean**2,
        )

    def least_value(self, y: Array) -> Array:
        """Return log(y) + 1."""
        return namespace(y).log(y) + 1.0

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:
        """Return v log(v) - v - log Γ(v) - log(y) for a shape v, the precision."""
        log = namespace(y).log
        return precision * (log(precision) - 1.0) - log_gamma(precision) - log(y)

    def outside(self, y: Array) -> Array:
        """Return where y is not above 0."""
        return ~(y > 0.0)


class PowerVariance(MeanFamily):
    """The loss of `Tweedie` for a power that the subclass gives."""

    power: float

    def _log_link_terms(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        xp, a, b = namespace(z), 2.0 - self.power, 1.0 - self.power
        first, second = xp.exp(a * z), y * xp.exp(b * z)
        value = (first / a if a else z) - (second / b if b else y * z)
        return value, first - second, a * first - b * second

    def _mean_terms(self, mean: Array, y: Array) -> tuple[Array, Array, Array]:
        p, xp = self.power, namespace(mean)
        scale, logarithm = mean ** (1.0 - p), xp.log(mean)
        first = mean * scale / (2.0 - p) if p != 2.0 else logarithm
        second = y * scale / (1.0 - p) if p != 1.0 else y * logarithm
        slope = (1.0 - y / mean) * scale
        return first - second, slope, (scale - p * slope) / mean

    def least_value(self, y: Array) -> Array:
        """Return the loss where the mean is y, and its limit 0 where that cannot be, for y of 0 or less."""
        xp, positive = namespace(y), y > 0.0
        value = self._mean_terms(xp.where(positive, y, xp.ones_like(y)), y)[0]
        return xp.where(positive, value, xp.zeros_like(y))

    def outside(self, y: Array) -> Array:
        """Return where y is no number that the distribution can have."""
        if self.power <= 0.0:
            return namespace(y).isnan(y)
        return ~(y >= 0.0) if self.power < 2.0 else ~(y > 0.0)


@dataclass(frozen=True)
class Tweedie(PowerVariance):
    r"""Tweedie loss, for targets whose variance is proportional to mean^power.

    With the power p and the log link, it is half the deviance without the terms that depend on y alone::

        l(z, y) = exp((2 - p) z) / (2 - p) - y exp((1 - p) z) / (1 - p)

    where the first term is z for p = 2, and the second y z for p = 1. Gradient
    exp((2 - p) z) - y exp((1 - p) z). Powers between 1 and 2 fit amounts that are often exactly 0, such as
    claims and rainfall. With the log link the loss is convex in z for powers from 1 to 2, with the link
    ``"inverse"`` for powers from 2 to 3.

    Parameters
    ----------
    power : float
        The power p: 0 or less for any real target, from 1 to 2 for targets of 0 or more, and from 2 on for
        targets above 0. There is no such distribution for a power between 0 and 1.
    link : str
        ``"log"``, ``"identity"``, ``"sqrt"`` or ``"inverse"``.

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
    link: Any = "log"

    def __post_init__(self) -> None:
        """Refuse a power that no distribution has, and say what y may be."""
        p = as_real("power", self.power, "a number")
        if 0.0 < p < 1.0 or not math.isfinite(p):
            raise ValueError(f"power must be 0 or less, or 1 or more, got {self.power!r}")
        domain = "any number" if p <= 0.0 else "0 or more" if p < 2.0 else "above 0"
        powers = {
            "log": (1.0, 2.0),
            "identity": (1.0, 1.0),
            "sqrt": (1.0, 1.5),
            "inverse": (2.0, 3.0),
        }
        convex = tuple(link for link, (low, high) in powers.items() if low <= p <= high)
        # Where y = 0 may be, its loss falls for ever as z goes to minus infinity.
        vars(self).update(
            domain=domain, convex_links=convex, has_recession_direction=1.0 <= p < 2.0
        )
        self._adopt_link()


@dataclass(frozen=True)
class InverseGaussian(PowerVariance):
    r"""Inverse Gaussian loss, with the log link l(z, y) = y exp(-2 z) / 2 - exp(-z), for targets above 0.

    It is `Tweedie` of power 3: the variance grows with the cube of the mean. With the log link it is not convex in
    z, since it levels off where the prediction is far above the target.

    Parameters
    ----------
    link : str
        ``"log"``, ``"inverse"`` (the only one with which it is convex), ``"identity"`` or ``"sqrt"``.

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
    convex_links = ("inverse",)
    domain = "above 0"
    power = 3.0

    link: Any = "log"

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:
        """Return log(precision / (2π y³)) / 2."""
        return 0.5 * namespace(y).log(precision / (2.0 * math.pi * y**3))


@dataclass(frozen=True)
class NegativeBinomial(MeanFamily):
    r"""Negative binomial loss, for counts that vary more than Poisson's.

    The variance is mean + alpha mean². Without the terms that depend on y alone the negative log likelihood
    with the log link is::

        l(z, y) = (y + 1 / alpha) log(1 + alpha exp(z)) - y z

    Gradient (exp(z) - y) / (1 + alpha exp(z)). It is convex in z with the log link alone.

    Parameters
    ----------
    alpha : float
        How much more the counts vary, above 0; `Poisson` is its limit at 0.
    link : str
        ``"log"``, ``"identity"``, ``"sqrt"`` or ``"inverse"``.

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
    fixed_dispersion = True
    domain = "0 or more"

    alpha: float = 1.0
    link: Any = "log"

    def __post_init__(self) -> None:
        """Refuse a dispersion that is not a positive number."""
        as_positive("alpha", self.alpha)
        self._adopt_link()

    def _log_link_terms(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return the terms from one exponential that does not overflow.

        With t = z + log(alpha) and s the logistic function, the gradient is s(t) / alpha - y s(-t), in which
        no digit cancels but where it is near 0.
        """
        r, shift = 1.0 / self.alpha, math.log(self.alpha)
        (above, below), (up, down) = logistic_terms(z + shift)
        value = r * above + y * (below + shift)
        return value, r * up - y * down, (r + y) * up * down

    def _mean_terms(self, mean: Array, y: Array) -> tuple[Array, Array, Array]:
        xp, a = namespace(mean), self.alpha
        spread, share = 1.0 + a * mean, y / mean
        value = (y + 1.0 / a) * xp.log1p(a * mean) - y * xp.log(mean)
        return value, (1.0 - share) / spread, share / mean - (a * y + 1.0) * a / spread**2

    def least_value(self, y: Array) -> Array:
        """Return (y + 1 / alpha) log(1 + alpha y) - y log(y), which is 0 for y = 0."""
        return (y + 1.0 / self.alpha) * namespace(y).log1p(self.alpha * y) - times_log(y, y)

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:
        """Return precision times the log probability of y where the mean is y."""
        r = 1.0 / self.alpha
        zero = 0.0 * y
        counts = log_gamma(y + r) - log_gamma(zero + r) - log_gamma(y + 1.0)
        return precision * (counts + math.log(self.alpha) * y - self.least_value(y))

    def outside(self, y: Array) -> Array:
        """Return where y is negative."""
        return ~(y >= 0.0)
