"""Proximal gradient descent, with steps of Barzilai and Borwein and a safeguard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from agd import backends
from agd._typing import Array, Tree
from agd._validation import count
from agd.update._composite import Composite, rounding
from agd.update._curvature import first_curvature, looks
from agd.update._spectral import DECREASE, GROWTH, filled, latest, nothing, seen, spectral
from agd.update._vector import dot, over
from agd.update.descent import choose

__all__ = ["ProximalGradient"]


class ProximalState(NamedTuple):
    """Value and gradient at the params, the step to try next, the last values, and what was seen."""

    value: Array
    grad: Tree
    step: Array
    recent: Array
    iterations: Array
    evaluations: Array
    failed: Array
    moved: Array
    curvature: Array
    least_curvature: Array
    walled: Array


@dataclass(frozen=True)
class ProximalGradient:
    r"""Proximal gradient descent: a smooth f plus a penalty h that has a prox.

    ::

        x_{k+1} = prox_{a h}(x_k - a g_k),    F = f + h

    The first trial of a is the step of Barzilai and Borwein, s · s / s · y with s and y the last changes
    of the point and of the gradient. It is taken if ::

        F(x_{k+1}) <= max(F(x_k), ..., F(x_{k-memory+1})) - 1e-4 / (2 a) |x_{k+1} - x_k|²

    and shortened otherwise, to where the curvature just seen says, within [a/10, a/2]. Each step
    evaluates once, at a trial; the points are exactly sparse, or within the set.

    Parameters
    ----------
    memory : int
        How many of the last values the safeguard looks back on, 1 or more; 1 makes every step descend.

    Raises
    ------
    ValueError, TypeError
        If `memory` is no whole number above 0.

    Notes
    -----
    Wright, Nowak and Figueiredo (2009), "Sparse reconstruction by separable approximation"; Barzilai and
    Borwein (1988), "Two-point step size gradient methods".

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.loss import NonNegative
    >>> from agd.run import Stop, run
    >>> X, y = np.eye(2), np.asarray([3.0, -6.0])
    >>> objective = LinearObjective.of(X, y, penalty=NonNegative(), intercept=False)
    >>> run(ProximalGradient(), objective, objective.zeros(), Stop(grad_tol=1e-10)).x.coef.round(6)
    array([3., 0.])
    """

    memory: int = 10

    evaluations: ClassVar[int] = 1
    rescaled: ClassVar[bool] = True
    proximal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a memory of nothing."""
        count("memory", self.memory)

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"proximal gradient (Barzilai-Borwein, memory {self.memory})"

    def init(self, objective: Any, params: Tree) -> ProximalState:
        """Evaluate the objective at the first point."""
        smooth, grad = objective.value_and_grad(params)
        both = Composite(objective, params, grad)
        value = smooth + both.penalty(both.x)
        step = 1.0 / first_curvature(objective, params, grad)
        return ProximalState(
            value, grad, step, filled(value, self.memory), *nothing(value, 1 + looks(objective))
        )

    def step(
        self, objective: Any, params: Tree, state: ProximalState
    ) -> tuple[Tree, ProximalState]:
        """Evaluate where the step leads; take it, or shorten the step."""
        xp = backends.namespace(state.value)
        both = Composite(objective, params, state.grad)
        old, a = both.here(state.value), state.step
        new = both.at(both.forward(old, a))
        s = new.x - old.x
        square = dot(s, s)
        limit = xp.max(state.recent, axis=-1) - 0.5 * DECREASE * square / a
        finite = xp.isfinite(new.value)
        taken = finite & (new.value <= limit + rounding(new.value, old.value))
        bend = 2.0 * (new.smooth - old.smooth - dot(old.g, s))
        shorter = xp.where(finite & (bend > 0.0), over(square, bend), 0.1 * a)
        shorter = backends.clip(shorter, low=0.1 * a, high=0.5 * a)
        longer = spectral(s, new.g - old.g, GROWTH * a)
        now = choose(taken, new, old)
        after = ProximalState(
            value=now.value,
            grad=both.as_grad(now.g),
            step=xp.where(taken, longer, shorter),
            recent=choose(taken, latest(state.recent, new.value), state.recent),
            **seen(state, old, new, taken, xp.all(s == 0.0, axis=-1)),
        )
        return both.restore(now.x), after
