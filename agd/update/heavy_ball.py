"""Heavy-ball momentum that finds its step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from agd import backends
from agd._typing import Array, Tree
from agd._validation import positive
from agd.update._curvature import first_curvature, looks
from agd.update._vector import dot, flatten, largest, over
from agd.update.descent import choose

__all__ = ["HeavyBall"]


class HeavyBallState(NamedTuple):
    """Value and gradient at the params, the velocity, and the curvature in use."""

    value: Array
    grad: Tree
    velocity: Array
    curvature: Array
    iterations: Array
    evaluations: Array
    failed: Array
    walled: Array
    moved: Array


@dataclass(frozen=True)
class HeavyBall:
    r"""Heavy-ball momentum with the step 1/L, where L is learned on the way.

    ::

        v := beta v - g / L
        x := x + v

    L is raised to twice itself, and the step not taken, where the curvature seen along it, (g(x + v) -
    g(x)) · v / v · v, exceeds L or the value is not finite; it falls by a fiftieth otherwise. The
    velocity starts anew at 0 after a step that is not taken and where it points uphill, g · v > 0.

    Parameters
    ----------
    beta : float
        The share of the velocity that a step keeps, in (0, 1).

    Raises
    ------
    ValueError, TypeError
        If `beta` is out of range.

    Notes
    -----
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods"; O'Donoghue and
    Candès (2015), "Adaptive restart for accelerated gradient schemes".

    Examples
    --------
    >>> from agd.update import HeavyBall
    >>> HeavyBall().name
    'heavy ball (beta=0.9), step 1/L by backtracking'
    """

    beta: float = 0.9

    rescaled: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse a share that is not below 1."""
        if positive("beta", self.beta) >= 1.0:
            raise ValueError(f"beta must be below 1, got {self.beta!r}")

    @property
    def name(self) -> str:
        """What a result calls it."""
        return f"heavy ball (beta={self.beta!r}), step 1/L by backtracking"

    def init(self, objective: Any, params: Tree) -> HeavyBallState:
        """Evaluate the objective at the first point, and guess L."""
        value, grad = objective.value_and_grad(params)
        xp = backends.namespace(value)
        g, _ = flatten(grad, value.ndim)
        zero, no = xp.zeros_like(value), xp.zeros_like(value, dtype=xp.bool)
        curvature = first_curvature(objective, params, grad)
        calls = zero + 1.0 + looks(objective)
        return HeavyBallState(value, grad, xp.zeros_like(g), curvature, zero, calls, no, no, zero)

    def step(
        self, objective: Any, params: Tree, state: HeavyBallState
    ) -> tuple[Tree, HeavyBallState]:
        """Move with the velocity; where the step is refused, the params stay and L grows."""
        xp = backends.namespace(state.value)
        x, restore = flatten(params, state.value.ndim)
        g, as_grad = flatten(state.grad, state.value.ndim)
        uphill = (dot(g, state.velocity) > 0.0)[..., None]
        kept = xp.where(uphill, xp.zeros_like(g), self.beta * state.velocity)
        v = kept - g / state.curvature[..., None]
        value, grad = objective.value_and_grad(restore(x + v))
        there, _ = flatten(grad, state.value.ndim)
        bend = dot(there - g, v)
        accept = xp.isfinite(value) & (bend <= state.curvature * dot(v, v))
        tiny = largest(v) <= float(xp.finfo(x.dtype).eps) * largest(x)
        raised = xp.where(accept, xp.full_like(value, 0.98), xp.full_like(value, 2.0))
        new_x = choose(accept, x + v, x)
        return restore(new_x), HeavyBallState(
            value=xp.where(accept, value, state.value),
            grad=as_grad(choose(accept, there, g)),
            velocity=choose(accept, v, xp.zeros_like(v)),
            curvature=state.curvature * raised,
            iterations=state.iterations + xp.astype(accept, value.dtype),
            evaluations=state.evaluations + 1.0,
            failed=state.failed | (~accept & tiny),
            walled=~accept & (state.walled | ~xp.isfinite(value) | ~xp.isfinite(bend)),
            moved=xp.where(accept, over(largest(v), largest(new_x)), state.moved),
        )
