"""Losses for a real-valued target; with the identity link the prediction is z itself."""

from __future__ import annotations

from dataclasses import dataclass

from agd._typing import Array
from agd._validation import as_positive
from agd.backends import namespace, of
from agd.loss._stable import clip_between, one_if_positive, positive_and_negative_part
from agd.loss.base import BaseLoss

__all__ = ["Huber", "Quantile", "Squared"]


@dataclass(frozen=True)
class Squared(BaseLoss):
    r"""Half the squared error, l(z, y) = (z - y)² / 2.

    Gradient z - y; second derivative 1. The mean of this loss is 1/(2m) Σ (z - y)², as in the article.

    Notes
    -----
    Gauss (1809), *Theoria motus corporum coelestium*, book 2, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> Squared().gradient(np.asarray([3.0]), np.asarray([1.0]))
    array([2.])
    """

    name = "squared_error"
    curvature_bound = 1.0
    quadratic = True

    def value(self, z: Array, y: Array) -> Array:
        """Return (z - y)² / 2, element by element."""
        return 0.5 * (z - y) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        """Return z - y, element by element."""
        return z - y

    def hessian(self, z: Array, y: Array) -> Array:  # noqa: ARG002 - the same for every y
        """Return 1, element by element."""
        return namespace(z).ones_like(z)

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both, from one residual."""
        r = z - y
        return 0.5 * r**2, r

    def sum_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return the sum of the losses over the last axis, and the gradients."""
        xp, r = namespace(z), z - y
        # Torch's namespace moves axes for an inner product, which its vmap cannot.
        total = xp.vecdot(r, r) if of(r).threaded else xp.sum(r * r, axis=-1)
        return 0.5 * total, r


@dataclass(frozen=True)
class Huber(BaseLoss):
    r"""Huber's loss: squared near the target, linear away from it, so that outliers pull less.

    With r = z - y::

        l(r) = r² / 2                      if |r| <= delta
               delta (|r| - delta / 2)     elsewhere

    Gradient clip(r, -delta, delta); second derivative 1 where |r| <= delta, 0 elsewhere.

    Parameters
    ----------
    delta : float
        Where the loss turns linear, in the units of y; above 0. The default 1.35 keeps 95 % of the
        efficiency of least squares when the noise is normal with unit variance. Unlike
        scikit-learn's HuberRegressor, which estimates the noise's scale as well, delta is used as
        it is.

    Raises
    ------
    ValueError
        If `delta` is not above 0 and finite.

    Notes
    -----
    Huber (1964), "Robust estimation of a location parameter", Annals of Mathematical Statistics 35.

    Examples
    --------
    >>> import numpy as np
    >>> Huber(delta=1.0).gradient(np.asarray([0.5, 3.0]), np.asarray([0.0, 0.0]))
    array([0.5, 1. ])
    """

    name = "huber"
    curvature_bound = 1.0

    delta: float = 1.35

    def __post_init__(self) -> None:
        """Refuse a threshold that is not a positive number."""
        as_positive("delta", self.delta)

    def value(self, z: Array, y: Array) -> Array:
        """Return the loss, element by element."""
        return self.value_and_gradient(z, y)[0]

    def gradient(self, z: Array, y: Array) -> Array:
        """Return the residual clipped to [-delta, delta], element by element."""
        return clip_between(z - y, -self.delta, self.delta)

    def hessian(self, z: Array, y: Array) -> Array:
        """Return 1 where |z - y| <= delta and 0 elsewhere."""
        xp = namespace(z)
        return xp.astype(xp.abs(z - y) <= self.delta, z.dtype)

    def value_and_gradient(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Return both; with s the clipped residual the loss is s (r - s / 2), without a branch."""
        r = z - y
        s = clip_between(r, -self.delta, self.delta)
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
