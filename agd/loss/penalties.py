"""Penalties on the coefficients, added to the mean loss without rescaling; the intercept is not penalised.

`L1`, `L2` and `ElasticNet` act coefficient by coefficient; `GroupL1` couples the coefficients of a group
and `NuclearNorm` those of a matrix. Sets that the coefficients must lie in are in ``constraints.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from agd import backends
from agd._typing import Array, HostArray, Namespace, Penalty
from agd._validation import as_count, as_nonnegative
from agd.backends import namespace
from agd.loss._stable import safe_sqrt, soft_threshold
from agd.loss.base import BasePenalty, as_entries, as_penalty, entries_like, take_entries

__all__ = ["L1", "L2", "ElasticNet", "GroupL1", "NuclearNorm"]


class StrengthPenalty(BasePenalty):
    """A penalty with a strength `alpha` among its fields, which is what a path of penalties varies."""

    alpha: float

    def __repr__(self) -> str:
        """Return the fields that were given."""
        given = (f"{k}={v!r}" for k, v in self.parameters.items() if v is not None)
        return f"{type(self).__name__}({', '.join(given)})"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the penalty holds, by name: its strength, its weights."""
        return {field.name: vars(self)[field.name] for field in fields(self)}  # type: ignore[arg-type]

    def strengthened(self, factor: float) -> BasePenalty:
        """Return the penalty with its strength multiplied by a factor."""
        return replace(self, alpha=factor * self.alpha)  # type: ignore[type-var]


class WeightedPenalty(StrengthPenalty):
    """A sum over the coefficients, in which each may have a weight of its own."""

    weights: Any

    def __post_init__(self) -> None:
        """Refuse a negative strength and negative weights; store weights as a tuple, which hashes."""
        as_nonnegative("alpha", self.alpha)
        if self.weights is None:
            return
        weights = as_entries("weights", self.weights)
        host = np.asarray(weights)
        if not ((host >= 0.0) & np.isfinite(host)).all():
            raise ValueError(f"weights must be finite and 0 or more, got {self.weights!r}")
        vars(self).update(weights=weights)

    @functools.cached_property
    def _host_strengths(self) -> HostArray:
        """The strength times the weights, on the host."""
        return self.alpha * np.asarray(self.weights)

    @property
    def _host_strength(self) -> Any:
        """alpha, or alpha times the weights, on the host."""
        return self.alpha if self.weights is None else self._host_strengths

    def _strength_like(self, w: Array) -> float | Array:
        """Return alpha, or alpha times the weights where w is."""
        return (
            self.alpha if self.weights is None else entries_like("weights", self._host_strengths, w)
        )

    def of_columns(self, columns: Any) -> BasePenalty:
        """Return the penalty of some of the coefficients alone."""
        if self.weights is None:
            return self
        return replace(self, weights=take_entries(self.weights, columns))  # type: ignore[type-var]

    def _with_weights(self, scale: Any) -> BasePenalty:
        """Return the penalty with its weights multiplied by a scale."""
        host = np.asarray(scale) * (1.0 if self.weights is None else np.asarray(self.weights))
        weighted: BasePenalty = replace(self, weights=host)  # type: ignore[type-var]
        return weighted


@dataclass(frozen=True, repr=False)
class L1(WeightedPenalty):
    r"""The lasso's penalty, value(w) = alpha Σ |w|; coefficients that explain little become exactly 0.

    ::

        prox(w, step) = sign(w) max(|w| - step alpha, 0)

    Parameters
    ----------
    alpha : float
        The strength; 0 or more. In scikit-learn's terms: Lasso's alpha, and 1 / (C n) of
        LogisticRegression.
    weights : float, sequence or array, shape (p,), optional
        What alpha is multiplied by for each coefficient: Σ weights |w|; 0 spares it. Read by the host.

    Raises
    ------
    ValueError
        If `alpha` or a weight is negative or not finite; when it is used, if the weights do not fit w.

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

    separable = True

    alpha: float = 1.0
    weights: Any = None

    def __add__(self, other: Any) -> BasePenalty:
        """Return the sum with another penalty; of two lassos it is a lasso."""
        alike = type(other) is L1 and self.weights == other.weights
        return replace(self, alpha=self.alpha + other.alpha) if alike else super().__add__(other)

    @property
    def elastic_parts(self) -> tuple[Any, Any]:
        """The strengths of absolute values and of squares: alpha and 0."""
        return self._host_strength, 0.0

    def of_scaled(self, scale: Any) -> BasePenalty:
        """Return the penalty of scale * w: the weights times the scale."""
        return self._with_weights(scale)

    def value(self, w: Array) -> Array:
        """Return alpha Σ |w| over the last axis."""
        xp = namespace(w)
        if self.weights is not None:
            return xp.sum(self._strength_like(w) * xp.abs(w), axis=-1)
        return self.alpha * xp.sum(xp.abs(w), axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u alpha Σ |u| + |u - w|² / (2 step): w moved towards 0 by step alpha."""
        return soft_threshold(w, step * self._strength_like(w))


@dataclass(frozen=True, repr=False)
class L2(WeightedPenalty):
    r"""Half the squared norm, value(w) = alpha / 2 Σ w².

    Gradient alpha w; prox(w, step) = w / (1 + step alpha).

    Parameters
    ----------
    alpha : float
        The strength; 0 or more. In scikit-learn's terms: Ridge's alpha over the number of rows,
        PoissonRegressor's alpha, and 1 / (C n) of LogisticRegression.
    weights : float, sequence or array, shape (p,), optional
        What alpha is multiplied by for each coefficient: Σ weights w² / 2; 0 spares it. Read by the host.

    Raises
    ------
    ValueError
        If `alpha` or a weight is negative or not finite; when it is used, if the weights do not fit w.

    Notes
    -----
    Hoerl and Kennard (1970), "Ridge regression", Technometrics 12.

    Examples
    --------
    >>> import numpy as np
    >>> L2(0.5).value(np.asarray([1.0, 2.0]))
    np.float64(1.25)
    """

    smooth = True
    separable = True
    quadratic = True

    alpha: float = 1.0
    weights: Any = None

    def __post_init__(self) -> None:
        """Refuse negative numbers; with weights the curvature is not the same for all coefficients."""
        super().__post_init__()
        vars(self).update(quadratic=self.weights is None)

    @property
    def curvature_bound(self) -> float | None:
        """The largest second derivative: alpha, times the largest weight."""
        return self.alpha if self.weights is None else float(self._host_strengths.max())

    def __add__(self, other: Any) -> BasePenalty:
        """Return the sum with another penalty; of two ridges it is a ridge."""
        alike = type(other) is L2 and self.weights == other.weights
        return replace(self, alpha=self.alpha + other.alpha) if alike else super().__add__(other)

    @property
    def elastic_parts(self) -> tuple[Any, Any]:
        """The strengths of absolute values and of squares: 0 and alpha."""
        return 0.0, self._host_strength

    def of_scaled(self, scale: Any) -> BasePenalty:
        """Return the penalty of scale * w: the weights times the square of the scale."""
        return self._with_weights(np.asarray(scale) ** 2)

    def value(self, w: Array) -> Array:
        """Return alpha / 2 Σ w² over the last axis."""
        if self.weights is not None:
            return 0.5 * namespace(w).sum(self._strength_like(w) * w * w, axis=-1)
        return (0.5 * self.alpha) * namespace(w).sum(w * w, axis=-1)

    def gradient(self, w: Array) -> Array:
        """Return alpha w."""
        return self._strength_like(w) * w

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u alpha / 2 Σ u² + |u - w|² / (2 step) = w / (1 + step alpha)."""
        return w / (1.0 + step * self._strength_like(w))


@dataclass(frozen=True, repr=False)
class ElasticNet(WeightedPenalty):
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
    weights : float, sequence or array, shape (p,), optional
        What alpha is multiplied by for each coefficient; 0 spares it. Read by the host.

    Raises
    ------
    ValueError
        If `alpha` or a weight is negative or not finite, or `l1_ratio` is outside of [0, 1]; when it is used, if
        the weights do not fit w.

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

    separable = True

    alpha: float = 1.0
    l1_ratio: float = 0.5
    weights: Any = None

    def __post_init__(self) -> None:
        """Refuse a negative strength or weight, and a share outside [0, 1]."""
        super().__post_init__()
        if as_nonnegative("l1_ratio", self.l1_ratio) > 1.0:
            raise ValueError(f"l1_ratio must be a number from 0 to 1, got {self.l1_ratio!r}")

    @property
    def elastic_parts(self) -> tuple[Any, Any]:
        """The strengths of absolute values and of squares."""
        strength = self._host_strength
        return strength * self.l1_ratio, strength * (1.0 - self.l1_ratio)

    def of_scaled(self, scale: Any) -> BasePenalty:
        """Return the penalty of scale * w: a lasso and a ridge, whose weights differ."""
        alphas = self.alpha * self.l1_ratio, self.alpha * (1.0 - self.l1_ratio)
        lasso, ridge = L1(alphas[0], self.weights), L2(alphas[1], self.weights)
        return lasso.of_scaled(scale) + ridge.of_scaled(scale)

    def value(self, w: Array) -> Array:
        """Return alpha (l1_ratio Σ |w| + (1 - l1_ratio) / 2 Σ w²) over the last axis."""
        xp = namespace(w)
        terms = self.l1_ratio * xp.abs(w) + (0.5 * (1.0 - self.l1_ratio)) * w * w
        if self.weights is not None:
            return xp.sum(self._strength_like(w) * terms, axis=-1)
        return self.alpha * xp.sum(terms, axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step): the lasso's, then the ridge's."""
        alpha = self._strength_like(w)
        shrunk = soft_threshold(w, step * (alpha * self.l1_ratio))
        return shrunk / (1.0 + step * (alpha * (1.0 - self.l1_ratio)))


@dataclass(frozen=True, repr=False)
class GroupL1(StrengthPenalty):
    r"""The group lasso's penalty; the coefficients of a group become 0 together, or none does.

    ::

        value(w) = alpha Σ_g sqrt(n_g) |w_g|
        prox(w, step)_g = max(0, 1 - step alpha sqrt(n_g) / |w_g|) w_g

    with w_g the n_g coefficients of group g, and Euclidean length.

    Parameters
    ----------
    alpha : float
        The strength; 0 or more.
    groups : sequence of int
        For each coefficient the number of its group, such as (0, 0, 1, 1, 1).

    Raises
    ------
    ValueError
        If `alpha` is negative or not finite, or `groups` is empty or has a negative number; when it is
        used, if w has another number of coefficients.
    TypeError
        If a group is no whole number.

    Notes
    -----
    Yuan and Lin (2006), "Model selection and estimation in regression with grouped variables", Journal
    of the Royal Statistical Society B 68.

    Examples
    --------
    >>> import numpy as np
    >>> GroupL1(1.0, groups=(0, 0, 1)).prox(np.asarray([0.6, 0.8, 3.0]), 1.0)
    array([0., 0., 2.])
    """

    prox_follows_l1 = True

    alpha: float
    groups: Sequence[int]

    def __post_init__(self) -> None:
        """Refuse a negative strength and invalid group numbers; store the groups as a tuple, which hashes."""
        as_nonnegative("alpha", self.alpha)
        numbers = tuple(as_count(f"groups[{i}]", g, 0) for i, g in enumerate(self.groups))
        if not numbers:
            raise ValueError("groups must name a group for each coefficient, got none")
        object.__setattr__(self, "groups", numbers)

    @functools.cached_property
    def _membership(self) -> Any:
        """The 0-1 matrix, shape (p, G), of which coefficient is in which group."""
        numbers = np.asarray(self.groups)
        return (numbers[:, None] == np.unique(numbers)[None, :]).astype(float)

    def _group_norms(self, w: Array) -> tuple[Array, Array, Array]:
        """Return the membership matrix, each group's |w_g| and sqrt(n_g): (p, G), (..., G), (G,)."""
        if w.shape[-1] != len(self.groups):
            raise ValueError(
                f"groups must name a group for each of the {w.shape[-1]} coefficients, got "
                f"{len(self.groups)}"
            )
        members = backends.to_device_of(self._membership, w)
        # The Array API has no scatter-add: a product with a 0-1 matrix sums over each group.
        return (
            members,
            safe_sqrt((w * w) @ members),
            backends.to_device_of(self._membership.sum(axis=0) ** 0.5, w),
        )

    def value(self, w: Array) -> Array:
        """Return alpha Σ_g sqrt(n_g) |w_g|, the groups along the last axis."""
        _, lengths, roots = self._group_norms(w)
        return self.alpha * namespace(w).sum(roots * lengths, axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step); `step` is the same along the last axis."""
        xp = namespace(w)
        members, lengths, roots = self._group_norms(w)
        shrunk = backends.clip(lengths - (step * self.alpha) * roots, low=0.0)
        share = shrunk / xp.where(lengths > 0.0, lengths, xp.ones_like(lengths))
        return w * (share @ xp.matrix_transpose(members))


@dataclass(frozen=True, repr=False)
class NuclearNorm(StrengthPenalty):
    r"""The sum of a matrix's singular values; it makes matrices of low rank.

    ::

        value(W) = alpha Σ_i s_i,    W = U diag(s) V'
        prox(W, step) = U diag(max(s - step alpha, 0)) V'

    The last two axes are the matrix, any others a batch.

    Parameters
    ----------
    alpha : float
        The strength; 0 or more.

    Raises
    ------
    ValueError
        If `alpha` is negative or not finite; when it is used, if w has fewer than two axes.
    NotImplementedError
        When it is used, for an array in chunks (Dask), whose singular values would need all of them.

    Notes
    -----
    Fazel (2002), *Matrix Rank Minimization with Applications*; Cai, Candès and Shen (2010), "A singular
    value thresholding algorithm for matrix completion", for the prox. It needs the standard's linear
    algebra extension. Automatic differentiation cannot follow the prox where two singular values are
    equal: their vectors are not determined there.

    Examples
    --------
    >>> import numpy as np
    >>> NuclearNorm(1.0).prox(np.diag([3.0, 0.5]), 1.0).round(6) + 0.0
    array([[2., 0.],
           [0., 0.]])
    """

    couples_targets = True

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        as_nonnegative("alpha", self.alpha)

    def value(self, w: Array) -> Array:
        """Return alpha times the sum of the singular values of the last two axes, shape (...)."""
        xp = _with_singular_values(w)
        return self.alpha * xp.sum(xp.linalg.svdvals(w), axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_U value(U) + |U - w|² / (2 step); `step` is the same along the last two axes."""
        xp = _with_singular_values(w)
        if isinstance(step, int | float) and step == 0:
            return w
        u, s, vh = xp.linalg.svd(w, full_matrices=False)
        threshold = step if isinstance(step, int | float) or step.ndim == 0 else step[..., 0]
        shrunk = backends.clip(s - threshold * self.alpha, low=0.0)
        return (u * shrunk[..., None, :]) @ vh


def _with_singular_values(w: Array) -> Namespace:
    """Return the namespace of w, or say why its singular values cannot be had."""
    if w.ndim < 2:
        raise ValueError(
            f"NuclearNorm is a norm of matrices: w must have 2 axes or more, got shape {tuple(w.shape)}"
        )
    if not backends.of(w).factors_batches:
        raise NotImplementedError(
            "NuclearNorm needs the singular values of w, which an array in chunks cannot give: compute "
            "w first"
        )
    return namespace(w)


def as_target_penalty(penalty: Any, where: str = "fit") -> Penalty | None:
    """Return what can stand as the penalty of a linear model: one that acts on each target by itself.

    Raises
    ------
    TypeError
        If it is no penalty.
    ValueError
        If it couples the coefficients of several targets.
    """
    checked = as_penalty(penalty)
    if checked is not None and checked.couples_targets:
        raise ValueError(
            f"penalty {penalty!r} couples the coefficients of several targets, which {where} keeps "
            f"apart: minimise a function of the matrix of coefficients by agd.minimize(fun, x0, "
            f"penalty=...)"
        )
    return checked


def ridge_curvatures(penalty: Penalty | None) -> Any:
    """Return the curvatures of a ridge: a number, or where the ridge has weights a NumPy array of one for each."""
    parts = None if penalty is None else penalty.elastic_parts
    return 0.0 if parts is None else parts[1]


def ridge_like(penalty: Penalty | None, w: Array) -> Any:
    """Return the same as a number, or as an array where w is."""
    return entries_like("weights", ridge_curvatures(penalty), w)


def ridge_strength(penalty: Penalty | None) -> float:
    """Return the largest curvature that a ridge adds along a coefficient; 0.0 of any other penalty.

    The `curvature_bound` of a smooth penalty is only a bound: it may have no curvature where a coefficient is.
    """
    if penalty is None or not penalty.smooth:
        return 0.0
    return float(np.max(ridge_curvatures(penalty)))
