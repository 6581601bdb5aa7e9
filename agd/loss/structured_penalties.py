"""Penalties that tell more of the coefficients than their sizes: their order, their neighbours, that some are large.

`FusedL1` and `Monotone` look at neighbours, `Slope` at the order of the sizes; their proxes go through the coefficients
one after the other, on the host (``prox_on_host``). `MCP` and `SCAD` leave large coefficients unshrunken. They are not
convex: a fit starts from the lasso and minimises lassos that touch them from above (`agd.run.linear_solvers`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, HostArray
from agd._validation import as_flag, as_nonnegative, as_real
from agd.backends import namespace
from agd.loss._stable import soft_threshold
from agd.loss.base import BasePenalty, as_entries
from agd.loss.constraints import ConvexSet, rounding_slack
from agd.loss.penalties import L1, StrengthPenalty, WeightedPenalty

__all__ = ["MCP", "SCAD", "FusedL1", "Monotone", "Slope"]


def _map_rows(f: Callable[..., HostArray], w: Array, *others: Any) -> Array:
    """Return f of each row of w (..., p) and of the same row of others, computed on the host and moved back."""
    host = np.asarray(backends.to_numpy(w), dtype=float)
    rows = host.reshape(-1, host.shape[-1])
    shaped = [np.broadcast_to(_host(x), host.shape).reshape(rows.shape) for x in others]
    parts = [f(*row) for row in zip(rows, *shaped, strict=True)]
    return backends.to_device_of(np.asarray(parts).reshape(host.shape), w)


def _host(x: Any) -> HostArray:
    return np.asarray(backends.to_numpy(x) if backends.is_array(x) else x, dtype=float)


def nondecreasing(x: HostArray) -> HostArray:
    """Return the nearest vector whose entries do not decrease, by pooling adjacent violators.

    Examples
    --------
    >>> import numpy as np
    >>> nondecreasing(np.asarray([1.0, 3.0, 2.0, 4.0]))
    array([1. , 2.5, 2.5, 4. ])
    """
    means, counts = list[float](), list[int]()
    for value in x.tolist():
        mean, count = value, 1
        while means and means[-1] >= mean:
            before, size = means.pop(), counts.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        means.append(mean)
        counts.append(count)
    return np.repeat(means, counts)


def total_variation_prox(x: HostArray, strength: float) -> HostArray:
    r"""Return argmin_u Σ (u_j - x_j)² / 2 + strength Σ |u_(j+1) - u_j|.

    The derivative of the minimum over the first entries, as a function of the next one, is piecewise linear and
    increasing. It is kept as its breaks, cut off at ± strength, and the entries follow from where it was cut.

    Notes
    -----
    Johnson (2013), "A dynamic programming algorithm for the fused lasso and L0-segmentation", Journal of Computational
    and Graphical Statistics 22.

    Examples
    --------
    >>> import numpy as np
    >>> total_variation_prox(np.asarray([0.0, 0.0, 6.0, 6.0]), 1.0)
    array([0.5, 0.5, 5.5, 5.5])
    """
    if len(x) < 2 or not strength > 0.0:
        return x.copy()
    values, low, high = x.tolist(), list[float](), list[float]()
    breaks = deque[
        tuple[float, float, float]
    ]()  # position, and by how much slope and constant change there
    left = right = 1.0, -values[0]
    for value in values[1:]:
        low.append(_cut(breaks, left, -strength, from_left=True))
        high.append(_cut(breaks, right, strength, from_left=False))
        left, right = (1.0, -strength - value), (1.0, strength - value)
    slope, constant = left
    while breaks and slope * breaks[0][0] + constant < 0.0:
        _, steeper, lift = breaks.popleft()
        slope, constant = slope + steeper, constant + lift
    result = [-constant / slope]
    for lowest, highest in zip(reversed(low), reversed(high), strict=True):
        result.append(min(max(result[-1], lowest), highest))
    return np.asarray(result[::-1])


def _cut(
    breaks: deque[tuple[float, float, float]],
    end: tuple[float, float],
    level: float,
    *,
    from_left: bool,
) -> float:
    """Cut the line off where it reaches a level, coming from one of its ends; return where that is."""
    (slope, constant), side = end, 0 if from_left else -1
    sign = 1.0 if from_left else -1.0
    while breaks and sign * (slope * breaks[side][0] + constant - level) < 0.0:
        _, steeper, lift = breaks.popleft() if from_left else breaks.pop()
        slope, constant = slope + sign * steeper, constant + sign * lift
    position = (level - constant) / slope
    change = position, sign * slope, sign * (constant - level)
    (breaks.appendleft if from_left else breaks.append)(change)
    return position


@dataclass(frozen=True, repr=False)
class FusedL1(StrengthPenalty):
    r"""Total variation in one dimension: neighbouring coefficients become equal, value(w) = alpha Σ |w_(j+1) - w_j|.

    ``FusedL1(a) + L1(b)`` is the fused lasso, which sets some to 0 as well.

    Parameters
    ----------
    alpha : float
        The strength; 0 or more.

    Raises
    ------
    ValueError
        If `alpha` is negative or not finite.

    Notes
    -----
    Tibshirani, Saunders, Rosset, Zhu and Knight (2005), "Sparsity and smoothness via the fused lasso", Journal of the
    Royal Statistical Society B 67; for the sum with `L1`, Friedman, Hastie, Höfling and Tibshirani (2007), "Pathwise
    coordinate optimization", Annals of Applied Statistics 1. The prox is exact, by Johnson's dynamic programme, and
    computed on the host.

    Examples
    --------
    >>> import numpy as np
    >>> FusedL1(1.0).prox(np.asarray([0.0, 0.0, 6.0, 6.0]), 1.0)
    array([0.5, 0.5, 5.5, 5.5])
    """

    prox_on_host = True
    l1_follows_prox = True

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        as_nonnegative("alpha", self.alpha)

    def value(self, w: Array) -> Array:
        """Return alpha Σ |w_(j+1) - w_j| over the last axis."""
        xp = namespace(w)
        return self.alpha * xp.sum(xp.abs(w[..., 1:] - w[..., :-1]), axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step); `step` is the same along the last axis."""
        strengths = self.alpha * _host(step)
        return _map_rows(lambda x, s: total_variation_prox(x, float(s[0])), w, strengths)


@dataclass(frozen=True)
class Monotone(ConvexSet):
    r"""Coefficients that do not decrease from one to the next, or do not increase.

    Parameters
    ----------
    increasing : bool
        Whether they do not decrease; else they do not increase.

    Raises
    ------
    TypeError
        If `increasing` is neither True nor False.

    Notes
    -----
    Ayer, Brunk, Ewing, Reid and Silverman (1955), "An empirical distribution function for sampling with incomplete
    information", Annals of Mathematical Statistics 26: the nearest such vector, by pooling adjacent violators. It is
    computed on the host.

    Examples
    --------
    >>> import numpy as np
    >>> Monotone().project(np.asarray([1.0, 3.0, 2.0, 4.0]))
    array([1. , 2.5, 2.5, 4. ])
    """

    prox_on_host = True

    increasing: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no flag."""
        as_flag("increasing", self.increasing)

    def inside(self, w: Array) -> Array:
        """Return whether the coefficients are in order but for rounding, shape (...)."""
        xp, sign = namespace(w), 1.0 if self.increasing else -1.0
        slack = rounding_slack(w) * (xp.abs(w[..., 1:]) + xp.abs(w[..., :-1]))
        return xp.all(sign * (w[..., 1:] - w[..., :-1]) >= -slack, axis=-1)

    def project(self, w: Array) -> Array:
        """Return the nearest coefficients that are in order."""
        if self.increasing:
            return _map_rows(nondecreasing, w)
        return _map_rows(lambda x: nondecreasing(x[::-1])[::-1], w)


@dataclass(frozen=True, repr=False)
class Slope(StrengthPenalty):
    r"""Sorted L1: the largest coefficients are shrunken most, and some become equal in size.

    ::

        value(w) = alpha Σ_j weights_j |w|_(j),    |w|_(1) >= |w|_(2) >= ...

    Parameters
    ----------
    alpha : float
        The strength; 0 or more.
    weights : sequence or array, shape (p,)
        0 or more, none larger than the one before. Equal ones make the lasso.

    Raises
    ------
    ValueError
        If `alpha` or a weight is negative or not finite, or the weights increase; when it is used, if there is not one
        for each coefficient.

    Notes
    -----
    Bogdan, van den Berg, Sabatti, Su and Candès (2015), "SLOPE: adaptive variable selection via convex optimization",
    Annals of Applied Statistics 9. The prox pools adjacent violators, on the host.

    Examples
    --------
    >>> import numpy as np
    >>> Slope(1.0, weights=[2.0, 1.0]).prox(np.asarray([-3.0, 2.5]), 1.0)
    array([-1.25,  1.25])
    """

    prox_on_host = True

    alpha: float
    weights: Any

    def __post_init__(self) -> None:
        """Refuse weights that are negative, or increase; store them as a tuple, which hashes."""
        as_nonnegative("alpha", self.alpha)
        weights = as_entries("weights", self.weights)
        host = np.asarray(weights)
        if (
            host.ndim != 1
            or not ((host >= 0.0) & np.isfinite(host)).all()
            or (np.diff(host) > 0.0).any()
        ):
            raise ValueError(
                f"weights must be finite, 0 or more, one for each coefficient and none larger than the one before, got "
                f"{self.weights!r}"
            )
        vars(self).update(weights=weights)

    def _check_size(self, w: Array) -> None:
        if w.shape[-1] != len(self.weights):
            raise ValueError(
                f"weights must be one for each of the {w.shape[-1]} coefficients, got {len(self.weights)}"
            )

    def value(self, w: Array) -> Array:
        """Return alpha Σ weights_j |w|_(j) over the last axis."""
        self._check_size(w)
        xp = namespace(w)
        weights = backends.to_device_of(self.weights, w)
        return self.alpha * xp.sum(weights * xp.sort(xp.abs(w), axis=-1, descending=True), axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step); `step` is the same along the last axis."""
        self._check_size(w)
        return _map_rows(self._prox_of_row, w, self.alpha * _host(step))

    def _prox_of_row(self, x: HostArray, strength: HostArray) -> HostArray:
        order = np.argsort(-np.abs(x), kind="stable")
        shrunk = np.abs(x)[order] - strength * np.asarray(self.weights)
        result = np.empty_like(x)
        result[order] = np.maximum(-nondecreasing(-shrunk), 0.0)
        return np.copysign(result, x)


class FoldedConcavePenalty(WeightedPenalty):
    """A sum over the coefficients that is as steep as a lasso at 0, and flat from some size on: not convex.

    It lies below the lasso that touches it at any point, so that minima of lassos with the weights of `linearised`
    lead downhill.

    Notes
    -----
    Zou and Li (2008), "One-step sparse estimates in nonconcave penalized likelihood models", Annals of Statistics 36.
    """

    separable = True
    convex = False

    gamma: float
    LEAST_GAMMA = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative strength, and a gamma that leaves no room between steep and flat."""
        super().__post_init__()
        if (
            not as_real("gamma", self.gamma, f"a number above {self.LEAST_GAMMA:g}")
            > self.LEAST_GAMMA
        ):
            raise ValueError(f"gamma must be above {self.LEAST_GAMMA:g}, got {self.gamma!r}")
        if not math.isfinite(self.gamma):
            raise ValueError(f"gamma must be finite, got {self.gamma!r}")

    def slope(self, size: Any, strength: Any) -> Any:
        """Return the derivative at |w| of this size, entry by entry."""
        raise NotImplementedError

    def entries(self, size: Any, strength: Any) -> Any:
        """Return the penalty of |w| of this size, entry by entry."""
        raise NotImplementedError

    def starting_penalty(self) -> BasePenalty:
        """Return the lasso that is as steep at 0."""
        return L1(self.alpha, self.weights)

    def linearised(self, w: HostArray) -> BasePenalty:
        """Return the lasso that touches the penalty at w, but for a constant."""
        return L1(1.0, weights=self.slope(np.abs(w), self._host_strength))

    def of_scaled(self, scale: Any) -> BasePenalty:
        """Return the penalty of scale * w."""
        return BasePenalty.of_scaled(self, scale)

    def value(self, w: Array) -> Array:
        """Return the sum over the last axis."""
        xp = namespace(w)
        return xp.sum(self.entries(xp.abs(w), self._strength_like(w)), axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step), entry by entry: the better of a small and a large u."""
        xp, strength, size = namespace(w), self._strength_like(w), namespace(w).abs(w)
        small = self._small_candidate(size, step, strength)
        large = xp.maximum(size, self.gamma * strength + 0.0 * size)
        values = [self.entries(u, strength) * step + 0.5 * (u - size) ** 2 for u in (small, large)]
        near = xp.where(values[1] < values[0], large, small)
        near = xp.where(strength + 0.0 * size > 0.0, near, size)
        return xp.where(w < 0.0, -near, near)

    def _small_candidate(self, size: Array, step: Any, strength: Any) -> Array:
        """Return the minimum over |u| <= gamma alpha."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class MCP(FoldedConcavePenalty):
    r"""The minimax concave penalty: a lasso for small coefficients that leaves large ones as they are; not convex.

    ::

        value(w) = Σ alpha |w| - w² / (2 gamma)  where |w| <= gamma alpha,  gamma alpha² / 2 beyond

    A fit starts from the lasso and ends at a point where no small change is lower; another minimum may be lower still.

    Parameters
    ----------
    alpha : float
        The strength, which is the slope at 0; 0 or more.
    gamma : float
        Above 1; a coefficient of gamma alpha is not shrunken. Infinity would be the lasso.
    weights : float, sequence or array, shape (p,), optional
        What alpha is multiplied by for each coefficient; 0 spares it. Read by the host.

    Raises
    ------
    ValueError
        If `alpha` or a weight is negative or not finite, or `gamma` not above 1.

    Notes
    -----
    Zhang (2010), "Nearly unbiased variable selection under minimax concave penalty", Annals of Statistics 38.

    Examples
    --------
    >>> import numpy as np
    >>> MCP(1.0, gamma=3.0).prox(np.asarray([0.5, 2.0, -4.0]), 1.0)
    array([ 0. ,  1.5, -4. ])
    """

    alpha: float = 1.0
    gamma: float = 3.0
    weights: Any = None

    def slope(self, size: Any, strength: Any) -> Any:
        """Return alpha - |w| / gamma, or 0 beyond gamma alpha."""
        return backends.clip(strength - size / self.gamma, low=0.0)

    def entries(self, size: Any, strength: Any) -> Any:
        """Return the penalty of |w| of this size, entry by entry."""
        xp = namespace(size)
        near = xp.minimum(size, self.gamma * strength + 0.0 * size)
        return strength * near - 0.5 * near * near / self.gamma

    def _small_candidate(self, size: Array, step: Any, strength: Any) -> Array:
        xp, step = namespace(size), step + 0.0 * size
        curvature = 1.0 - step / self.gamma
        convex = curvature > 0.0
        shrunk = soft_threshold(size, step * strength) / xp.where(
            convex, curvature, 1.0 + 0.0 * size
        )
        return xp.where(convex, xp.minimum(shrunk, self.gamma * strength + 0.0 * size), 0.0 * size)


@dataclass(frozen=True, repr=False)
class SCAD(FoldedConcavePenalty):
    r"""Smoothly clipped absolute deviation: a lasso near 0, then ever flatter, and flat for large coefficients.

    ::

        d value / d|w| = alpha                               where |w| <= alpha,
                         (gamma alpha - |w|) / (gamma - 1)   up to gamma alpha,    0 beyond

    It is not convex: a fit starts from the lasso and ends at a point where no small change is lower; another minimum
    may be lower still.

    Parameters
    ----------
    alpha : float
        The strength, which is the slope at 0; 0 or more.
    gamma : float
        Above 2; a coefficient of gamma alpha is not shrunken.
    weights : float, sequence or array, shape (p,), optional
        What alpha is multiplied by for each coefficient; 0 spares it. Read by the host.

    Raises
    ------
    ValueError
        If `alpha` or a weight is negative or not finite, or `gamma` not above 2.

    Notes
    -----
    Fan and Li (2001), "Variable selection via nonconcave penalized likelihood and its oracle properties", Journal of
    the American Statistical Association 96.

    Examples
    --------
    >>> import numpy as np
    >>> SCAD(1.0, gamma=3.0).prox(np.asarray([0.5, 1.5, -2.5, 4.0]), 1.0)
    array([ 0. ,  0.5, -2. ,  4. ])
    """

    LEAST_GAMMA = 2.0

    alpha: float = 1.0
    gamma: float = 3.7
    weights: Any = None

    def slope(self, size: Any, strength: Any) -> Any:
        """Return the derivative at |w| of this size."""
        falling = (self.gamma * strength - size) / (self.gamma - 1.0)
        return namespace(size).minimum(backends.clip(falling, low=0.0), strength + 0.0 * size)

    def entries(self, size: Any, strength: Any) -> Any:
        """Return the penalty of |w| of this size, entry by entry."""
        xp = namespace(size)
        near = xp.minimum(size, strength + 0.0 * size)
        far = backends.clip(
            xp.minimum(size, self.gamma * strength + 0.0 * size) - strength, low=0.0
        )
        return strength * (near + far) - 0.5 * far * far / (self.gamma - 1.0)

    def _small_candidate(self, size: Array, step: Any, strength: Any) -> Array:
        xp, step = namespace(size), step + 0.0 * size
        strength, most = strength + 0.0 * size, self.gamma - 1.0
        lasso = xp.minimum(soft_threshold(size, step * strength), strength)
        convex = (step < most) & (size > strength * (1.0 + step))
        room = xp.where(step < most, most - step, 1.0 + 0.0 * size)
        clipped = (most * size - step * self.gamma * strength) / room
        clipped = xp.minimum(xp.maximum(clipped, strength), self.gamma * strength)
        return xp.where(convex, clipped, lasso)
