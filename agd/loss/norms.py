"""Norms that couple coefficients: of groups of them, and of matrices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from agd import backends
from agd._typing import Array
from agd._validation import count, not_negative
from agd.loss._proximal import NonSmooth, beside, root

__all__ = ["GroupL1", "NuclearNorm"]


@dataclass(frozen=True)
class GroupL1(NonSmooth):
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

    separable: ClassVar[bool] = False

    alpha: float
    groups: Sequence[int]

    def __post_init__(self) -> None:
        """Refuse a negative strength and what is no group; keep the groups so that they hash."""
        not_negative("alpha", self.alpha)
        numbers = tuple(count(f"groups[{i}]", g, 0) for i, g in enumerate(self.groups))
        if not numbers:
            raise ValueError("groups must name a group for each coefficient, got none")
        object.__setattr__(self, "groups", numbers)

    @functools.cached_property
    def _members(self) -> Any:
        """Which coefficient is in which group: 0 and 1, shape (p, groups)."""
        numbers = np.asarray(self.groups)
        return (numbers[:, None] == np.unique(numbers)[None, :]).astype(float)

    def _lengths(self, w: Array) -> tuple[Array, Array, Array]:
        """Return the membership, and each group's |w_g| and sqrt(n_g), shapes (p, G), (..., G), (G,)."""
        if w.shape[-1] != len(self.groups):
            raise ValueError(
                f"groups must name a group for each of the {w.shape[-1]} coefficients, got "
                f"{len(self.groups)}"
            )
        members = beside(self._members, w)
        # Products with 0 and 1 in place of a scatter, which the standard does not have.
        return members, root((w * w) @ members), beside(self._members.sum(axis=0) ** 0.5, w)

    def value(self, w: Array) -> Array:
        """Return alpha Σ_g sqrt(n_g) |w_g|, the groups along the last axis."""
        _, lengths, roots = self._lengths(w)
        return self.alpha * backends.namespace(w).sum(roots * lengths, axis=-1)

    def prox(self, w: Array, step: float | Array) -> Array:
        """Return argmin_u value(u) + |u - w|² / (2 step); `step` is the same along the last axis."""
        xp = backends.namespace(w)
        members, lengths, roots = self._lengths(w)
        left = backends.clip(lengths - (step * self.alpha) * roots, low=0.0)
        share = left / xp.where(lengths > 0.0, lengths, xp.ones_like(lengths))
        return w * (share @ xp.matrix_transpose(members))


@dataclass(frozen=True)
class NuclearNorm(NonSmooth):
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

    separable: ClassVar[bool] = False

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        not_negative("alpha", self.alpha)

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
        threshold: Any = step
        if getattr(step, "ndim", 0):
            threshold = threshold[..., 0]
        left = backends.clip(s - threshold * self.alpha, low=0.0)
        return (u * left[..., None, :]) @ vh


def _with_singular_values(w: Array) -> Any:
    if w.ndim < 2:
        raise ValueError(
            f"NuclearNorm is a norm of matrices: w must have 2 axes or more, got shape {tuple(w.shape)}"
        )
    if backends.of(w).chunked:
        raise NotImplementedError(
            "NuclearNorm needs the singular values of w, which an array in chunks cannot give: compute "
            "w first"
        )
    return backends.namespace(w)
