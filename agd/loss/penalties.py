"""Penalties on the coefficients, added to the mean loss as they are; the intercept is never penalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agd._typing import Array
from agd._validation import not_negative
from agd.backends import namespace

__all__ = ["L2"]


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
