"""Convex constraints on the coefficients, as penalties that are 0 on a set and infinite outside it.

The prox of such an indicator function is the projection onto the set, whatever the step; `project` is its
other name. A solver that uses the prox produces feasible points only, and so `value` tolerates no more
than rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array
from agd._validation import as_positive
from agd.loss._stable import safe_sqrt
from agd.loss.base import BasePenalty, as_entries, entries_like, take_entries

__all__ = ["Box", "L2Ball", "NonNegative", "Simplex"]

# A point that rounding has moved out of the set by this many units of eps still counts as inside.
MAX_ROUNDING_EPS = 8.0


class ConvexSet(BasePenalty):
    """The indicator function of a convex set: 0 inside, infinite outside."""

    def strengthened(self, factor: float) -> BasePenalty:  # noqa: ARG002 - a set has no strength
        """Return the set itself."""
        return self

    def of_scaled(self, scale: Any) -> BasePenalty:  # noqa: ARG002 - bounds are in the data's units
        """Return the set itself: its bounds stay in the units of w."""
        return self

    def inside(self, w: Array) -> Array:
        """Return whether w lies in the set but for rounding, shape (...)."""
        raise NotImplementedError

    def project(self, w: Array) -> Array:
        """Return the nearest point of the set, shape (..., p)."""
        raise NotImplementedError

    def value(self, w: Array) -> Array:
        """Return 0 where w lies in the set but for rounding, else infinity, shape (...)."""
        inside = self.inside(w)
        xp = backends.namespace(w)
        zero = xp.zeros_like(inside, dtype=w.dtype)
        return xp.where(inside, zero, xp.full_like(zero, math.inf))

    def prox(self, w: Array, step: float | Array) -> Array:  # noqa: ARG002 - the same for every step
        """Return the nearest point of the set, shape (..., p); `step` does not matter."""
        return self.project(w)


def rounding_slack(w: Array) -> float:
    return MAX_ROUNDING_EPS * float(backends.namespace(w).finfo(w.dtype).eps)


@dataclass(frozen=True)
class NonNegative(ConvexSet):
    r"""No coefficient below 0; project(w) = max(w, 0).

    Notes
    -----
    Lawson and Hanson (1974), *Solving Least Squares Problems*, chapter 23.

    Examples
    --------
    >>> import numpy as np
    >>> NonNegative().project(np.asarray([1.0, -2.0]))
    array([1., 0.])
    """

    separable = True
    interval = True
    prox_follows_l1 = True

    def inside(self, w: Array) -> Array:
        """Return whether no coefficient is below 0, shape (...)."""
        return backends.namespace(w).all(w >= 0.0, axis=-1)

    def project(self, w: Array) -> Array:
        """Return max(w, 0)."""
        return backends.clip(w, low=0.0)


@dataclass(frozen=True)
class Box(ConvexSet):
    r"""Every coefficient between two bounds; project(w) = min(max(w, low), high).

    Parameters
    ----------
    low, high : float, sequence or array
        The bounds: one number for all coefficients, or one for each; -inf and inf leave a side open.
        Sequences and NumPy arrays are kept as tuples, moved to w's library when used; arrays of
        another library must be of w's, and are not checked, as that would read them.

    Raises
    ------
    ValueError
        If a bound is NaN, or the bounds cross; when it is used, if their shapes do not fit w.
    TypeError
        If a bound is no number.

    Notes
    -----
    Parikh and Boyd (2014), "Proximal algorithms", section 6.2.

    Examples
    --------
    >>> import numpy as np
    >>> Box(-1.0, [1.0, 2.0]).project(np.asarray([3.0, -3.0]))
    array([ 1., -1.])
    """

    separable = True
    interval = True
    prox_follows_l1 = True

    low: Any = -math.inf
    high: Any = math.inf

    def __post_init__(self) -> None:
        """Refuse bounds that cross, and store host bounds as tuples, which can be hashed."""
        given = {"low": self.low, "high": self.high}
        # Arrays of other libraries are left where they are: to check them would be a read.
        foreign = [
            name
            for name, x in given.items()
            if backends.is_array(x) and not isinstance(x, np.ndarray | np.generic)
        ]
        bounds = [x if name in foreign else as_entries(name, x) for name, x in given.items()]
        vars(self).update(low=bounds[0], high=bounds[1])
        if foreign:
            return
        low, high = np.broadcast_arrays(*(np.asarray(bound) for bound in bounds))
        crossed = (low > high) | (low == math.inf) | (high == -math.inf)
        if crossed.any():
            first = tuple(int(i) for i in np.argwhere(crossed)[0])
            raise ValueError(
                f"low must be at most high, and neither may exclude every number: got low "
                f"{float(low[first])}, high {float(high[first])}"
                + (f" at {list(first)}" if first else "")
            )

    def of_columns(self, columns: Any) -> BasePenalty:
        """Return the bounds of some of the coefficients alone."""
        return Box(take_entries(self.low, columns), take_entries(self.high, columns))

    def _bounds_for(self, w: Array) -> list[Array]:
        """Return both bounds in w's library, on its device; refuse shapes that do not broadcast to w."""
        bounds: dict[str, Any] = {"low": self.low, "high": self.high}
        arrays: list[Any] = [entries_like(name, bound, w) for name, bound in bounds.items()]
        return [backends.to_device_of(x, w) if isinstance(x, float) else x for x in arrays]

    def inside(self, w: Array) -> Array:
        """Return whether all coefficients are within the bounds but for rounding, shape (...)."""
        xp, slack = backends.namespace(w), rounding_slack(w)
        low, high = self._bounds_for(w)
        above = w >= low - slack * xp.abs(low)
        return xp.all(above & (w <= high + slack * xp.abs(high)), axis=-1)

    def project(self, w: Array) -> Array:
        """Return min(max(w, low), high)."""
        xp = backends.namespace(w)
        low, high = self._bounds_for(w)
        return xp.minimum(xp.maximum(w, low), high)


@dataclass(frozen=True)
class L2Ball(ConvexSet):
    r"""A Euclidean length of at most `radius`; project(w) = w min(1, radius / |w|).

    Parameters
    ----------
    radius : float
        Above 0.

    Raises
    ------
    ValueError
        If `radius` is not above 0, or not finite.

    Notes
    -----
    Parikh and Boyd (2014), "Proximal algorithms", section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> L2Ball(1.0).project(np.asarray([3.0, 4.0]))
    array([0.6, 0.8])
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a radius that is not a positive number."""
        as_positive("radius", self.radius)

    def inside(self, w: Array) -> Array:
        """Return whether |w| is at most the radius but for rounding, shape (...)."""
        return _euclidean_norm(w)[..., 0] <= self.radius * (
            1.0 + rounding_slack(w) * math.sqrt(w.shape[-1])
        )

    def project(self, w: Array) -> Array:
        """Return w min(1, radius / |w|)."""
        xp = backends.namespace(w)
        length = _euclidean_norm(w)
        outside = length > self.radius
        # Where w lies inside, the unused quotient is kept finite, so that no warning comes of it.
        unit = w / xp.where(outside, length, xp.ones_like(length))
        return xp.where(outside, self.radius * unit, w)


def _euclidean_norm(w: Array) -> Array:
    """Return |w|, shape (..., 1), scaled so that no square overflows."""
    xp = backends.namespace(w)
    largest = xp.max(xp.abs(w), axis=-1, keepdims=True)
    unit = xp.where(largest > 0.0, largest, xp.ones_like(largest))
    return unit * safe_sqrt(xp.sum((w / unit) ** 2, axis=-1, keepdims=True))


@dataclass(frozen=True)
class Simplex(ConvexSet):
    r"""Coefficients of 0 or more that add up to `total`: shares, probabilities, portfolios.

    ::

        project(w) = max(w - theta, 0),    theta = max_k (w_(1) + ... + w_(k) - total) / k

    with w_(1) >= w_(2) >= ... the coefficients in order: theta is where the projection adds up to
    `total`, and the largest of these p quotients is it, so that no index has to be looked up.

    Parameters
    ----------
    total : float
        Above 0.

    Raises
    ------
    ValueError
        If `total` is not above 0, or not finite.

    Notes
    -----
    Held, Wolfe and Crowder (1974), "Validation of subgradient optimization"; Duchi, Shalev-Shwartz,
    Singer and Chandra (2008), "Efficient projections onto the l1-ball for learning in high dimensions".

    Examples
    --------
    >>> import numpy as np
    >>> Simplex().project(np.asarray([0.75, 0.25, -1.0]) + 5.0)
    array([0.75, 0.25, 0.  ])
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a total that is not a positive number."""
        as_positive("total", self.total)

    def inside(self, w: Array) -> Array:
        """Return whether w >= 0 adds up to the total but for rounding, shape (...)."""
        xp = backends.namespace(w)
        slack = self.total * rounding_slack(w) * max(1, w.shape[-1])
        off = xp.abs(xp.sum(w, axis=-1) - self.total)
        return xp.all(w >= 0.0, axis=-1) & (off <= slack)

    def project(self, w: Array) -> Array:
        """Return max(w - theta, 0)."""
        xp = backends.namespace(w)
        # The projection is invariant to adding a constant to w; after subtracting the largest entry
        # the entries that stay positive are at most `total`, and no digits cancel.
        w = w - xp.max(w, axis=-1, keepdims=True)
        sums = xp.cumulative_sum(xp.sort(w, axis=-1, descending=True), axis=-1) - self.total
        k = xp.arange(1, w.shape[-1] + 1, dtype=w.dtype, device=backends.device(w))
        theta = xp.max(sums / k, axis=-1, keepdims=True)
        return backends.clip(w - theta, low=0.0)
