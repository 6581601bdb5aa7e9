"""Projected gradient descent, with steps of Barzilai and Borwein and a safeguard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from agd import backends
from agd._typing import Array, Tree
from agd._validation import count
from agd.update._composite import Composite, Point, rounding
from agd.update._curvature import first_curvature, looks
from agd.update._spectral import DECREASE, GROWTH, filled, latest, nothing, seen, spectral
from agd.update._vector import dot, over
from agd.update.descent import choose

__all__ = ["ProjectedGradient"]


class ProjectedState(NamedTuple):
    """Value and gradient at the params, the search that goes on from there, and what was seen."""

    value: Array
    grad: Tree
    target: Array
    fall: Array
    share: Array
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
class ProjectedGradient:
    r"""Spectral projected gradient descent: a smooth f over a set, or plus any penalty h with a prox.

    ::

        d = prox_{a h}(x_k - a g_k) - x_k,    x_{k+1} = x_k + t d,    0 < t <= 1

    The prox of a set is the projection onto it, and does not depend on a, which is the step of Barzilai
    and Borwein, s · s / s · y. One projection serves all trials of t, which starts from 1 and is
    shortened until ::

        F(x_{k+1}) <= max(F(x_k), ..., F(x_{k-memory+1})) + 1e-4 t (g_k · d + h(x_k + d) - h(x_k))

    by the parabola through the values, within [t/10, t/2]. All points are within the set. Each step
    evaluates once, at a trial.

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
    Birgin, Martínez and Raydan (2000), "Nonmonotone spectral projected gradient methods on convex sets",
    their SPG2; Tseng and Yun (2009), "A coordinate gradient descent method for nonsmooth separable
    minimization", for the decrease with a penalty.

    Examples
    --------
    >>> import numpy as np
    >>> from agd.gradient import LinearObjective
    >>> from agd.loss import Simplex
    >>> from agd.run import Stop, run
    >>> X, y = np.eye(2), np.asarray([3.0, 2.5])
    >>> objective = LinearObjective.of(X, y, penalty=Simplex(), intercept=False)
    >>> x0 = objective.prox(objective.zeros(), 0.0)
    >>> run(ProjectedGradient(), objective, x0, Stop(grad_tol=1e-10)).x.coef.round(6)
    array([0.75, 0.25])
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
        return f"spectral projected gradient (memory {self.memory})"

    def init(self, objective: Any, params: Tree) -> ProjectedState:
        """Evaluate the objective at the first point, and project the first step."""
        smooth, grad = objective.value_and_grad(params)
        both = Composite(objective, params, grad)
        value = smooth + both.penalty(both.x)
        xp = backends.namespace(value)
        step = 1.0 / first_curvature(objective, params, grad)
        target, fall = _aim(both, Point(both.x, both.g, smooth, value), step)
        recent, one = filled(value, self.memory), xp.ones_like(value)
        return ProjectedState(
            value, grad, target, fall, one, step, recent, *nothing(value, 1 + looks(objective))
        )

    def step(
        self, objective: Any, params: Tree, state: ProjectedState
    ) -> tuple[Tree, ProjectedState]:
        """Evaluate a trial; take it and project the next step, or go less far."""
        xp = backends.namespace(state.value)
        both = Composite(objective, params, state.grad)
        old, t = both.here(state.value), state.share
        part = old.x + t[..., None] * (state.target - old.x)
        new = both.at(choose(t == 1.0, state.target, part))
        limit = xp.max(state.recent, axis=-1) + DECREASE * t * state.fall
        finite = xp.isfinite(new.value)
        taken = finite & (new.value <= limit + rounding(new.value, old.value))
        bend = new.value - old.value - t * state.fall
        shorter = xp.where(finite & (bend > 0.0), over(-0.5 * t * t * state.fall, bend), 0.1 * t)
        shorter = backends.clip(shorter, low=0.1 * t, high=0.5 * t)
        a = spectral(new.x - old.x, new.g - old.g, GROWTH * state.step)
        a = xp.where(taken, a, state.step)
        now = choose(taken, new, old)
        target, fall = _aim(both, now, a)
        stuck = xp.all(new.x == old.x, axis=-1)
        after = ProjectedState(
            value=now.value,
            grad=both.as_grad(now.g),
            target=choose(taken, target, state.target),
            fall=xp.where(taken, fall, state.fall),
            share=xp.where(taken, xp.ones_like(t), shorter),
            step=a,
            recent=choose(taken, latest(state.recent, new.value), state.recent),
            **seen(state, old, new, taken, stuck),
        )
        return both.restore(now.x), after


def _aim(both: Composite, at: Point, step: Array) -> tuple[Array, Array]:
    """Return where a step leads, and by how much the value falls on the way there, to first order."""
    target = both.forward(at, step)
    change = dot(at.g, target - at.x)
    return target, change + both.penalty(target) - (at.value - at.smooth)
