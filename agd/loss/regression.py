"""Losses for a real-valued target; with the identity link the prediction is z itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from agd._typing import Array
from agd._validation import as_choice, as_nonnegative, as_positive
from agd.backends import namespace, of
from agd.loss._stable import (
    as_link,
    clip_between,
    one_if_positive,
    positive_and_negative_part,
)
from agd.loss.base import BaseLoss

__all__ = [
    "AbsoluteError",
    "Cauchy",
    "EpsilonInsensitive",
    "Huber",
    "Quantile",
    "SoftL1",
    "Squared",
    "SquaredEpsilonInsensitive",
    "Tukey",
]


# Spreads of the residuals beyond which Huber's loss is linear: 95 % of the efficiency of least squares.
EFFICIENT_SPREADS = 1.35


@dataclass(frozen=True)
class Squared(BaseLoss):
    r"""Half the squared error, l(z, y) = (z - y)² / 2.

    Gradient z - y; second derivative 1. The mean of this loss is 1/(2m) Σ (z - y)², as in the article. With another
    link than the identity it is (μ - y)² / 2 of the mean μ that the link makes of z, and not convex.

    Parameters
    ----------
    link : str
        ``"identity"``, ``"log"``, ``"sqrt"`` or ``"inverse"``.

    Notes
    -----
    Gauss (1809), *Theoria motus corporum coelestium*, book 2, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> Squared().gradient(np.asarray([3.0]), np.asarray([1.0]))
    array([2.])
    >>> Squared(link="log").gradient(np.asarray([0.0]), np.asarray([3.0]))
    array([-2.])
    """

    name = "squared_error"
    residual = True
    curvature_bound = 1.0
    quadratic = True
    has_deviance = True

    link: Any = "identity"

    def __post_init__(self) -> None:
        """Refuse a link of another name; with another than the identity little of the loss stays."""
        link = as_link(self.link)
        vars(self).update(link=link)
        if link != "identity":
            vars(self).update(quadratic=False, residual=False, convex=False, log_link=link == "log")
            vars(self).update(curvature_bound=None, curvature=None)

    def _mean_terms(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return the loss, and its derivatives in z, of another link than the identity."""
        mean, slope, bend = self.link.derivatives(z)
        r = mean - y
        return 0.5 * r * r, r * slope, slope * slope + r * bend

    def value(self, z: Array, y: Array) -> Array:
        """Return (z - y)² / 2, element by element."""
        return 0.5 * (z - y) ** 2 if self.quadratic else self._mean_terms(z, y)[0]

    def saturated_log_likelihood(self, y: Array, precision: Array) -> Array:
        """Return log(precision / 2π) / 2, of the normal distribution."""
        return 0.5 * namespace(y).log(precision / (2.0 * math.pi)) + 0.0 * y

    def gradient(self, z: Array, y: Array) -> Array:
        """Return z - y, element by element."""
        return z - y if self.quadratic else self._mean_terms(z, y)[1]

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 1, element by element."""
        return namespace(z).ones_like(z) if self.quadratic else self._mean_terms(z, y)[2]

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one residual."""
        if not self.quadratic:
            return self._mean_terms(z, y)[:2]
        r = z - y
        return 0.5 * r**2, r

    def sum_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return the sum of the losses over the last axis, and the gradients."""
        if not self.quadratic:
            value, gradient = self.value_and_gradient(z, y)
            return namespace(z).sum(value, axis=-1), gradient
        xp, r = namespace(z), z - y
        # Torch's namespace moves axes for an inner product, which its vmap cannot.
        total = xp.vecdot(r, r) if of(r).threaded else xp.sum(r * r, axis=-1)
        return 0.5 * total, r

    def inverse_link(self, z: Array) -> Array:
        """Return the mean."""
        mean: Array = self.link.inverse(z)
        return mean


@dataclass(frozen=True)
class Huber(BaseLoss):
    r"""Huber's loss: squared near the target, linear away from it, so that outliers pull less.

    With r = z - y::

        l(r) = r² / 2                      if |r| <= delta
               delta (|r| - delta / 2)     elsewhere

    Gradient clip(r, -delta, delta); second derivative 1 where |r| <= delta, 0 elsewhere.

    Parameters
    ----------
    delta : float or str
        Where the loss turns linear, in the units of y; above 0. The default 1.35 keeps 95 % of the
        efficiency of least squares when the noise is normal with unit variance. With ``"auto"`` ``agd.fit``
        estimates the spread σ of the residuals along with the coefficients, as scikit-learn's
        HuberRegressor does, and delta is 1.35 σ: ``result.loss`` has the number. σ² is the mean square
        of the residuals, each clipped to ±1.35 σ.

    Raises
    ------
    ValueError
        If `delta` is neither ``"auto"`` nor a number above 0 and finite.

    Notes
    -----
    Huber (1964), "Robust estimation of a location parameter", Annals of Mathematical Statistics 35. Owen
    (2007), "A robust hybrid of lasso and ridge regression", Contemporary Mathematics 443, has the spread as a
    further variable of a convex function.

    Examples
    --------
    >>> import numpy as np
    >>> Huber(delta=1.0).gradient(np.asarray([0.5, 3.0]), np.asarray([0.0, 0.0]))
    array([0.5, 1. ])
    """

    name = "huber"
    residual = True
    _threshold: ClassVar[float]
    curvature_bound = 1.0

    delta: Any = 1.35

    def __post_init__(self) -> None:
        """Refuse a threshold that is not a positive number; before a spread is known, it is taken for 1."""
        automatic = isinstance(self.delta, str)
        if automatic:
            as_choice("delta", self.delta, ("auto",))
        threshold = EFFICIENT_SPREADS if automatic else as_positive("delta", self.delta)
        vars(self).update(estimates_scale=automatic, _threshold=threshold)

    def with_scale(self, scale: float) -> Huber:
        """Return the loss for residuals of this spread."""
        return Huber(EFFICIENT_SPREADS * scale) if self.estimates_scale else self

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return the residual clipped to [-delta, delta], element by element."""
        return clip_between(z - y, -self._threshold, self._threshold)

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 1 where |z - y| <= delta and 0 elsewhere."""
        xp = namespace(z)
        return xp.astype(xp.abs(z - y) <= self._threshold, z.dtype)

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both; with s the clipped residual the loss is s (r - s / 2), without a branch."""
        r = z - y
        s = clip_between(r, -self._threshold, self._threshold)
        return s * (r - 0.5 * s), s


@dataclass(frozen=True)
class Quantile(BaseLoss):
    r"""The pinball loss, whose best constant model is a quantile of the targets; it is not smooth.

    With r = z - y and the quantile q::

        l(r) = (1 - q) r    if r > 0, where the prediction is too high
               -q r         elsewhere

    Gradient 1 - q or -q; at the kink, z = y, it is -q, one of the subgradients. With q = 0.5 it is half
    the absolute error, as in scikit-learn.

    Parameters
    ----------
    quantile : float
        The quantile q that the model predicts, above 0 and below 1.

    Raises
    ------
    ValueError
        If `quantile` is not between 0 and 1.

    Notes
    -----
    Koenker and Bassett (1978), "Regression quantiles", Econometrica 46.

    Examples
    --------
    >>> import numpy as np
    >>> Quantile(0.9).value(np.asarray([1.0, 3.0]), np.asarray([2.0, 2.0])).round(6)
    array([0.9, 0.1])
    >>> Quantile(0.9).prox(np.asarray([1.0, 2.05, 3.0]), np.asarray([2.0, 2.0, 2.0]), 1.0)
    array([1.9, 2. , 2.9])
    """

    name = "quantile"
    residual = True
    smooth = False
    piecewise_linear = True

    quantile: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a quantile that is not strictly between 0 and 1."""
        if not as_positive("quantile", self.quantile) < 1.0:
            raise ValueError(f"quantile must be below 1, got {self.quantile!r}")

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        above, below = positive_and_negative_part(z - y)
        return (1.0 - self.quantile) * above - self.quantile * below

    def gradient(self, z: Array, y: Array) -> Array:
        """Return 1 - q where z > y and -q elsewhere."""
        r = z - y
        return one_if_positive(r, namespace(r).zeros_like(r)) - self.quantile

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 0, which holds everywhere but at the kink."""
        return namespace(z).zeros_like(z - y)

    def prox(self, z: Array, y: Array, step: float) -> Array:
        """Return z moved towards y by step times the slope, and no further than to y."""
        return z - clip_between(z - y, -self.quantile * step, (1.0 - self.quantile) * step)


@dataclass(frozen=True)
class AbsoluteError(BaseLoss):
    r"""The absolute error, l(z, y) = |z - y|, whose best constant model is the median; it is not smooth.

    It is twice `Quantile` of 0.5. Gradient 1 where z > y and -1 elsewhere.

    Notes
    -----
    Boscovich (1757); Bloomfield and Steiger (1983), *Least Absolute Deviations*.

    Examples
    --------
    >>> import numpy as np
    >>> AbsoluteError().prox(np.asarray([1.0, 2.5, 4.0]), np.asarray([2.0, 2.0, 2.0]), 1.0)
    array([2., 2., 3.])
    """

    name = "absolute_error"
    residual = True
    smooth = False
    piecewise_linear = True

    def value(self, z: Array, y: Array) -> Array:
        """Return |z - y|, element by element."""
        above, below = positive_and_negative_part(z - y)
        return above - below

    def gradient(self, z: Array, y: Array) -> Array:
        """Return 1 where z > y and -1 elsewhere."""
        r = z - y
        return 2.0 * one_if_positive(r, namespace(r).zeros_like(r)) - 1.0

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 0, which holds everywhere but at the kink."""
        return namespace(z).zeros_like(z - y)

    def prox(self, z: Array, y: Array, step: float) -> Array:
        """Return z moved towards y by step, and no further than to y."""
        return z - clip_between(z - y, -step, step)


@dataclass(frozen=True)
class EpsilonInsensitive(BaseLoss):
    r"""The absolute error beyond a tolerance, l(z, y) = max(|z - y| - epsilon, 0); it is not smooth.

    It is the loss of support vector regression. Gradient 1 or -1 beyond the tolerance, 0 within.

    Parameters
    ----------
    epsilon : float
        The tolerance, in the units of y; 0 or more.

    Raises
    ------
    ValueError
        If `epsilon` is negative or not finite.

    Notes
    -----
    Vapnik (1995), *The Nature of Statistical Learning Theory*, chapter 6.

    Examples
    --------
    >>> import numpy as np
    >>> EpsilonInsensitive(0.5).value(np.asarray([1.2, 3.0]), np.asarray([1.0, 1.0]))
    array([0. , 1.5])
    """

    name = "epsilon_insensitive"
    residual = True
    smooth = False
    piecewise_linear = True

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a tolerance below 0."""
        as_nonnegative("epsilon", self.epsilon)

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return namespace(z).abs(_excess(z - y, self.epsilon))

    def gradient(self, z: Array, y: Array) -> Array:
        """Return the sign of what exceeds the tolerance."""
        r = _excess(z - y, self.epsilon)
        zero = namespace(r).zeros_like(r)
        return one_if_positive(r, zero) - one_if_positive(-r, zero)

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 0, which holds everywhere but at the kinks."""
        return namespace(z).zeros_like(z - y)

    def kinks(self, y: Array) -> list[tuple[Array, Any, Any]]:
        """Return the kinks at both ends of the tolerance, which are one without a tolerance."""
        if self.epsilon == 0.0:
            return [(y, -1.0, 1.0)]
        return [(y - self.epsilon, -1.0, 0.0), (y + self.epsilon, 0.0, 1.0)]

    def prox(self, z: Array, y: Array, step: float) -> Array:
        """Return z moved towards y by step, and no further than to the tolerance."""
        return z - clip_between(_excess(z - y, self.epsilon), -step, step)


@dataclass(frozen=True)
class SquaredEpsilonInsensitive(BaseLoss):
    r"""The squared error beyond a tolerance, l(z, y) = max(|z - y| - epsilon, 0)².

    Gradient 2 (r - clip(r, -epsilon, epsilon)) with r = z - y; second derivative 2 beyond the tolerance and 0
    within.

    Parameters
    ----------
    epsilon : float
        The tolerance, in the units of y; 0 or more.

    Raises
    ------
    ValueError
        If `epsilon` is negative or not finite.

    Notes
    -----
    Ho and Lin (2012), "Large-scale linear support vector regression", JMLR 13.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredEpsilonInsensitive(0.5).value(np.asarray([1.2, 3.0]), np.asarray([1.0, 1.0]))
    array([0.  , 2.25])
    """

    name = "squared_epsilon_insensitive"
    residual = True
    curvature_bound = 2.0

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a tolerance below 0."""
        as_nonnegative("epsilon", self.epsilon)

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return _excess(z - y, self.epsilon) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        """Return twice what exceeds the tolerance, with its sign."""
        return 2.0 * _excess(z - y, self.epsilon)

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 2 beyond the tolerance and 0 within."""
        xp = namespace(z)
        return 2.0 * xp.astype(xp.abs(z - y) > self.epsilon, z.dtype)


def _excess(r: Array, epsilon: float) -> Array:
    """Return how far r is outside [-epsilon, epsilon], with its sign."""
    return r - clip_between(r, -epsilon, epsilon)


@dataclass(frozen=True)
class SoftL1(BaseLoss):
    r"""A smooth absolute error, l(r) = c² (sqrt(1 + (r / c)²) - 1) with r = z - y and the scale c.

    Squared near the target and linear away from it, as `Huber`, with continuous derivatives of all orders.
    Gradient r / sqrt(1 + (r / c)²).

    Parameters
    ----------
    scale : float
        Where the loss turns linear, in the units of y; above 0.

    Raises
    ------
    ValueError
        If `scale` is not above 0 and finite.

    Notes
    -----
    Charbonnier, Blanc-Féraud, Aubert and Barlaud (1997), "Deterministic edge-preserving regularization in
    computed imaging", IEEE Transactions on Image Processing 6. SciPy's ``soft_l1``, times c² / 2.

    Examples
    --------
    >>> import numpy as np
    >>> SoftL1(3.0).value(np.asarray([4.0]), np.asarray([0.0]))
    array([6.])
    """

    name = "soft_l1"
    residual = True
    curvature_bound = 1.0

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a scale that is not a positive number."""
        as_positive("scale", self.scale)

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return r / sqrt(1 + (r / c)²), element by element."""
        return self.value_and_gradient(z, y)[1]

    def hessian(self, z: Array, y: Array) -> Array:
        """Return (1 + (r / c)²)^(-3/2), element by element."""
        return self._root(z - y) ** -3.0

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one root; r² / (1 + root) is the value without cancellation or overflow."""
        r = z - y
        root = self._root(r)
        return r * (r / (1.0 + root)), r / root

    def _root(self, r: Array) -> Array:
        xp = namespace(r)
        return xp.hypot(xp.ones_like(r), r / self.scale)


class RedescendingLoss(BaseLoss):
    """A loss whose pull falls for outliers, so that it is not convex: a fit starts from Huber's minimum.

    Attributes
    ----------
    scale : float
        A length in the units of y, which the subclass gives a meaning.
    efficient_scale : float
        The scale that keeps 95 % of the efficiency of least squares; Huber's is 1.345.
    """

    curvature_bound = 1.0
    convex = False
    scale: float
    efficient_scale: float

    def __post_init__(self) -> None:
        """Refuse a scale that is not a positive number; a fit starts from Huber's loss of the same efficiency."""
        delta = 1.345 / self.efficient_scale * as_positive("scale", self.scale)
        vars(self).update(starting_loss=Huber(delta))


@dataclass(frozen=True)
class Cauchy(RedescendingLoss):
    r"""Cauchy's loss, l(r) = c² / 2 log(1 + (r / c)²) with r = z - y and the scale c; it is not convex.

    The pull of an outlier falls with its distance: gradient r / (1 + (r / c)²). Several minima are possible:
    ``agd.fit`` begins at the fit of `Huber`, and the result says so.

    Parameters
    ----------
    scale : float
        Where the pull is strongest, in the units of y; above 0. The default 2.385 keeps 95 % of the efficiency
        of least squares when the noise is normal with unit variance.

    Raises
    ------
    ValueError
        If `scale` is not above 0 and finite.

    Notes
    -----
    Holland and Welsch (1977), "Robust regression using iteratively reweighted least-squares", Communications
    in Statistics A 6, has the constants of this loss and of `Tukey`.

    Examples
    --------
    >>> import numpy as np
    >>> Cauchy(2.0).gradient(np.asarray([0.0, 2.0, 6.0]), np.asarray([0.0, 0.0, 0.0]))
    array([0. , 1. , 0.6])
    """

    name = "cauchy"
    residual = True
    efficient_scale = 2.385

    scale: float = 2.385

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return 0.5 * self.scale**2 * namespace(z).log1p(((z - y) / self.scale) ** 2)

    def gradient(self, z: Array, y: Array) -> Array:
        """Return r / (1 + (r / c)²), element by element."""
        r = z - y
        return r / (1.0 + (r / self.scale) ** 2)

    def hessian(self, z: Array, y: Array) -> Array:
        """Return (1 - q) / (1 + q)² with q = (r / c)², element by element."""
        q = ((z - y) / self.scale) ** 2
        return (1.0 - q) / (1.0 + q) ** 2


@dataclass(frozen=True)
class Tukey(RedescendingLoss):
    r"""Tukey's biweight, which is constant beyond a distance, so that far outliers count for nothing.

    With r = z - y and the scale c::

        l(r) = c² / 6 (1 - (1 - (r / c)²)³)    if |r| <= c
               c² / 6                          elsewhere

    Gradient r (1 - (r / c)²)² within the scale and 0 beyond it. It is not convex: ``agd.fit`` begins at the
    fit of `Huber`, and the result says so.

    Parameters
    ----------
    scale : float
        Beyond which distance a row counts for nothing, in the units of y; above 0. The default 4.685 keeps
        95 % of the efficiency of least squares when the noise is normal with unit variance.

    Raises
    ------
    ValueError
        If `scale` is not above 0 and finite.

    Notes
    -----
    Beaton and Tukey (1974), "The fitting of power series, meaning polynomials, illustrated on
    band-spectroscopic data", Technometrics 16.

    Examples
    --------
    >>> import numpy as np
    >>> Tukey(2.0).gradient(np.asarray([0.0, 1.0, 6.0]), np.asarray([0.0, 0.0, 0.0]))
    array([0.    , 0.5625, 0.    ])
    """

    name = "tukey"
    residual = True
    efficient_scale = 4.685

    scale: float = 4.685

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element; 1 - u³ is (1 - u) (1 + u + u²), which does not cancel."""
        q = clip_between(((z - y) / self.scale) ** 2, 0.0, 1.0)
        u = 1.0 - q
        return self.scale**2 / 6.0 * q * (1.0 + u * (1.0 + u))

    def gradient(self, z: Array, y: Array) -> Array:
        """Return r (1 - q)² with q = min((r / c)², 1), element by element."""
        r = z - y
        return r * (1.0 - clip_between((r / self.scale) ** 2, 0.0, 1.0)) ** 2

    def hessian(self, z: Array, y: Array) -> Array:
        """Return (1 - q) (1 - 5 q) with q = min((r / c)², 1), element by element."""
        q = clip_between(((z - y) / self.scale) ** 2, 0.0, 1.0)
        return (1.0 - q) * (1.0 - 5.0 * q)
