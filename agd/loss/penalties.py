"""Penalties on the coefficients, added to the mean loss as they are; the intercept is never penalised.

Each acts coefficient by coefficient; norms of groups and of matrices are in ``norms.py``, sets in
``sets.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agd._typing import Array
from agd._validation import not_negative
from agd.backends import namespace
from agd.loss._proximal import NonSmooth, soft_threshold

__all__ = ["L1", "L2", "ElasticNet"]


@dataclass(frozen=True)
class L1(NonSmooth):
    r"""The lasso's penalty, value(w) = alpha Σ |w|; coefficients that explain little become exactly 0.

    ::

        prox(w, step) = sign(w) max(|w| - step alpha, 0)

    Parameters
    ----------
    alpha : float
        The strength; 0 or more. In scikit-learn's terms: Lasso's alpha, and 1 / (C n) of
        LogisticRegression.

    Raises
    ------
    ValueError
        If `alpha` is negative or not finite.

    Notes
    -----
    Tibshirani (1996), "Regression shrinkage and selection via the lasso", Journal of the Royal
    Statistical Society B 58; for the prox, Parikh and Boyd (2014), "Proximal algorithms", section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> L1(0.5).prox(np.asarray([3.0, -0.5, 1.0]), 1.0)
    array([2.5, 0. , 0.5])
    """

    separable: ClassVar[bool] = True

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        not_negative("alpha", self.alpha)

    def value(self, w: Array) -> Array:
        """Return alpha Σ |w| over the last axis."""
        xp = namespace(w)
        return self.alpha * xp.sum(xp.abs(w), axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u alpha Σ |u| + |u - w|² / (2 step): w moved towards 0 by step alpha."""
        return soft_threshold(w, step * self.alpha)


@dataclass(frozen=True)
class L2:
    r"""Half the squared norm, value(w) = alpha / 2 Σ w².

    Gradient alpha w; prox(w, step) = w / (1 + step alpha).

    Parameters
    ----------
    alpha : float
        The strength; 0 or more. In scikit-learn's terms: Ridge's alpha over the number of rows,
        PoissonRegressor's alpha, and 1 / (C n) of LogisticRegression.

    Raises
    ------
    ValueError
        If `alpha` is negative or not finite.

    Notes
    -----
    Hoerl and Kennard (1970), "Ridge regression", Technometrics 12.

    Examples
    --------
    >>> import numpy as np
    >>> L2(0.5).value(np.asarray([1.0, 2.0]))
    np.float64(1.25)
    """

    smooth: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        not_negative("alpha", self.alpha)

    @property
    def curvature(self) -> float | None:
        """The second derivative, alpha."""
        return self.alpha

    def value(self, w: Array) -> Array:
        """Return alpha / 2 Σ w² over the last axis."""
        return (0.5 * self.alpha) * namespace(w).sum(w * w, axis=-1)

    def grad(self, w: Array) -> Array:
        """Return alpha w."""
        return self.alpha * w

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u alpha / 2 Σ u² + |u - w|² / (2 step) = w / (1 + step alpha)."""
        return w / (1.0 + step * self.alpha)


@dataclass(frozen=True)
class ElasticNet(NonSmooth):
    r"""A mixture of the lasso's penalty and the ridge's, in scikit-learn's terms.

    ::

        value(w) = alpha (l1_ratio Σ |w| + (1 - l1_ratio) / 2 Σ w²)
        prox(w, step) = sign(w) max(|w| - step alpha l1_ratio, 0) / (1 + step alpha (1 - l1_ratio))

    Parameters
    ----------
    alpha : float
        The strength; 0 or more.
    l1_ratio : float
        The lasso's share, from 0 to 1.

    Raises
    ------
    ValueError
        If `alpha` is negative or not finite, or `l1_ratio` is outside of [0, 1].

    Notes
    -----
    Zou and Hastie (2005), "Regularization and variable selection via the elastic net", Journal of the
    Royal Statistical Society B 67.

    Examples
    --------
    >>> import numpy as np
    >>> ElasticNet(1.0, l1_ratio=0.5).value(np.asarray([2.0, -2.0]))
    np.float64(4.0)
    """

    separable: ClassVar[bool] = True

    alpha: float = 1.0
    l1_ratio: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a negative strength, and a share that is none."""
        not_negative("alpha", self.alpha)
        if not_negative("l1_ratio", self.l1_ratio) > 1.0:
            raise ValueError(f"l1_ratio must be a number from 0 to 1, got {self.l1_ratio!r}")

    def value(self, w: Array) -> Array:
        """Return alpha (l1_ratio Σ |w| + (1 - l1_ratio) / 2 Σ w²) over the last axis."""
        xp = namespace(w)
        ridge = (0.5 * (1.0 - self.l1_ratio)) * w * w
        return self.alpha * xp.sum(self.l1_ratio * xp.abs(w) + ridge, axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step): the lasso's, then the ridge's."""
        near = soft_threshold(w, step * (self.alpha * self.l1_ratio))
        return near / (1.0 + step * (self.alpha * (1.0 - self.l1_ratio)))
