"""The tests for convergence: of the gradient, of the step, of the value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optree

from agd._typing import Tree
from agd._validation import not_negative
from agd.run.criteria import Criterion, Seen, Test
from agd.run.row import Row

__all__ = ["GCV", "GradTol", "StepTol", "ValueTol"]

_ZERO: Any = 0.0
_NUMBER = optree.tree_structure(_ZERO)  # the structure of a single number


def _limit(atol: Any, rtol: float, size: Any) -> Any:
    """Return the larger of the absolute and the relative limit; an unknown size has none."""
    return np.fmax(atol, rtol * size) if rtol else atol


@dataclass(frozen=True, repr=False)
class GradTol(Test):
    """Converged when the gradient is small: |g| <= max(atol, rtol |g_0|).

    |g| is the largest absolute partial derivative, and g_0 that at the first point. With a penalty that
    is not smooth, or bounds, g is x - prox(x - g): what stands between x and a stationary point.

    Parameters
    ----------
    atol : float or tree of float
        The absolute limit. A tree in the structure of the parameters (or the top of it) gives a limit
        for each leaf, and all have to hold; ``math.inf`` asks nothing of a leaf.
    rtol : float
        The limit as a share of the gradient at the first point, leaf by leaf if `atol` is a tree.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no number of 0 or more; when a run begins, for a tree that does not fit.

    Examples
    --------
    >>> GradTol({"w": 1e-8, "b": 1e-3}) | GradTol(0.0, rtol=1e-6)
    GradTol({'w': 1e-08, 'b': 0.001}) | GradTol(0.0, rtol=1e-06)
    """

    atol: Tree = field(compare=False)
    rtol: float = 0.0
    _limits: tuple[float, ...] = field(init=False)
    _structure: Any = field(init=False)

    def __post_init__(self) -> None:
        """Refuse limits that are no numbers; keep them in a form that can be hashed."""
        not_negative("rtol", self.rtol)
        limits, structure = optree.tree_flatten(self.atol)
        if not isinstance(self.atol, dict | list | tuple):
            not_negative("atol", self.atol)
        for limit in limits:
            if not (isinstance(limit, float) and limit == math.inf):
                not_negative("atol", limit)
        object.__setattr__(self, "_limits", tuple(map(float, limits)))
        object.__setattr__(self, "_structure", structure)

    @property
    def per_leaf(self) -> bool:
        """Whether each leaf has a limit of its own."""
        return bool(self._structure != _NUMBER)

    def resolved(self, x: Tree) -> Criterion:
        """Return the test with a limit for every leaf of `x`, or say that its tree does not fit."""
        if not self.per_leaf:
            return self
        try:
            limits = optree.broadcast_prefix(self.atol, x)
        except ValueError as reason:
            raise ValueError(
                f"GradTol's atol must be a number or a tree in the structure of the parameters, "
                f"{optree.tree_structure(x)}, got {self.atol!r}"
            ) from reason
        return GradTol(limits, self.rtol)

    def holds(self, seen: Seen) -> Any:
        """Return where the gradient is within its limit."""
        if not self.per_leaf:
            return seen.row.grad_norm <= self.limit(seen.first)
        inside = True
        for limit, now, first in zip(self._limits, seen.row.leaves, seen.first.leaves, strict=True):
            inside = inside & (now <= _limit(limit, self.rtol, first))
        return inside

    def limit(self, first: Row) -> Any:
        """Return what the size of the gradient is held against; the limits given, if by leaf."""
        return self.atol if self.per_leaf else _limit(self.atol, self.rtol, first.grad_norm)

    def __repr__(self) -> str:
        return f"GradTol({self.atol!r}{f', rtol={self.rtol!r}' if self.rtol else ''})"


@dataclass(frozen=True, repr=False)
class _Change(Test):
    rtol: float
    atol: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that are no numbers."""
        not_negative("rtol", self.rtol)
        not_negative("atol", self.atol)

    def __repr__(self) -> str:
        more = f", atol={self.atol!r}" if self.atol else ""
        return f"{type(self).__name__}({self.rtol!r}{more})"


class StepTol(_Change):
    """Converged when the step is small: max |x_k - x_{k-1}| <= max(atol, rtol max |x_k|).

    Parameters
    ----------
    rtol : float
        The limit as a share of the largest parameter.
    atol : float
        The absolute limit.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no finite number of 0 or more.

    Examples
    --------
    >>> StepTol(1e-9)
    StepTol(1e-09)
    """

    def holds(self, seen: Seen) -> Any:
        """Return where the last step that was taken is within its limit."""
        size = np.where(seen.row.size > 0.0, seen.row.size, 1.0)
        moved = seen.row.moved * size
        return seen.advanced & (moved <= _limit(self.atol, self.rtol, size))


class ValueTol(_Change):
    """Converged when the value stands still: |f - f_before| <= max(atol, rtol |f|).

    f_before is the value at the last look, ``check_every`` steps ago. A look at which no step was taken
    since, as when a line search has yet to find its point, says nothing.

    Parameters
    ----------
    rtol : float
        The limit as a share of the value.
    atol : float
        The absolute limit.

    Raises
    ------
    TypeError, ValueError
        For a limit that is no finite number of 0 or more.

    Examples
    --------
    >>> ValueTol(1e-12, atol=1e-300)
    ValueTol(1e-12, atol=1e-300)
    """

    def holds(self, seen: Seen) -> Any:
        """Return where the change since the last look is within its limit."""
        change = np.abs(seen.row.value - seen.last.value)
        return seen.advanced & (change <= _limit(self.atol, self.rtol, np.abs(seen.row.value)))


@dataclass(frozen=True)
class GCV(Test):
    """Converged at the step whose generalised cross-validation is the smallest: early stopping.

    That step is known where the whole run is, in closed form: of gradient descent, ``momentum`` or
    ``nesterov`` with a constant learning rate, on the squared loss with no penalty or `L2`. In
    ``agd.fit`` it is also spelt ``stop="gcv"``. See ``agd.update.Trajectory.gcv``.

    Raises
    ------
    ValueError
        By any other run.

    Examples
    --------
    >>> GCV()
    GCV()
    """

    def holds(self, seen: Seen) -> Any:  # noqa: ARG002 - whatever was seen
        """Refuse: a loop knows only the steps that it took."""
        raise ValueError(
            "stop='gcv' needs the whole run in closed form: the squared loss with no penalty or L2, "
            "method 'gd', 'momentum' or 'nesterov' with a constant learning rate, no callback, and no "
            "other test beside it"
        )
