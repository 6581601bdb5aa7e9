"""Mini-batch steps without their noise: variance reduction by a full gradient now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import optree

from agd import backends
from agd._typing import Array, Tree
from agd._validation import count, positive
from agd.gradient.rows import take_rows
from agd.update._minibatch import (
    check_sampling,
    curvature_seen,
    drawn_rows,
    finite,
    mini_batches,
    nonsmooth,
    whole,
)
from agd.update._rule import AUTO
from agd.update._vector import flatten, largest, over
from agd.update.descent import aligned, choose

__all__ = ["SVRG"]

GROWTH = 1.25  # of the step after a round that went well,
LONGEST = 1e15  # up to this: at the minimum itself every round goes well


def _plus(params: Tree, v: Tree, factor: Array) -> Tree:
    return optree.tree_map(lambda x, u: x + aligned(factor, x) * u, params, v)


class SVRGState(NamedTuple):
    """Value and gradient at the params, the moving point, its step, and the counts."""

    value: Array
    grad: Tree
    point: Tree
    rate: Array
    iterations: Array
    evaluations: Array
    moved: Array


@dataclass(frozen=True)
class SVRG:
    r"""Stochastic variance-reduced gradient: mini-batch steps that converge with a constant step.

    From x, the params, whose full gradient is known, y_0 = x and ::

        v_k = g_B(y_k) - g_B(x) + g(x),    y_{k+1} = prox(y_k - eta v_k, eta)

    over the mini-batches B of `passes` epochs; the last y is the next x. v has the full gradient's mean,
    and its noise dies out as y and x approach the minimum. Every x is reported with its full value and
    gradient, which the next round needs anyway, and a run that ends within a round returns the last x.
    A run counts rounds: ``nit`` and ``Stop.max_iter`` are those that were not undone.

    A rate of ``"auto"`` begins with eta = 1 / (4 L_b), with L_b the expected smoothness of mini-batches:
    bounded where the loss's curvature is, measured on a few of them at the start elsewhere. That is safe
    for all mini-batches, and mostly far too short; so eta grows by a quarter after every round, and a
    round after which the value is higher is undone and eta halved.

    Parameters
    ----------
    batch_size : int, optional
        b; by default 32, or n / 500 where that is more. More than there are rows means all of them.
    learning_rate : float or "auto"
        eta; a number is kept to, whatever becomes of the value.
    passes : int
        Epochs between two full gradients, 1 or more.
    seed : int
        What the permutations are drawn from, 0 or more.
    rescaled : bool
        Whether ``agd.fit`` runs it in centred and scaled coordinates.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range; in `init` for an objective without rows.

    Notes
    -----
    Johnson and Zhang (2013), "Accelerating stochastic gradient descent using predictive variance
    reduction", with their option I; Xiao and Zhang (2014), "A proximal stochastic gradient method with
    progressive variance reduction", for the prox; Gower et al. (2019) for L_b.

    Examples
    --------
    >>> from agd.update import SVRG
    >>> SVRG(batch_size=10).name
    'SVRG (2 passes a round), centred and scaled'
    """

    batch_size: int | None = None
    learning_rate: float | str = AUTO
    passes: int = 2
    seed: int = 0
    rescaled: bool = True

    proximal: ClassVar[bool] = True
    evaluations: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Refuse a batch, a seed or a rate that makes no sense."""
        check_sampling(self.batch_size, self.seed)
        count("passes", self.passes)
        if self.learning_rate != AUTO:
            if isinstance(self.learning_rate, str):
                raise ValueError(
                    f"learning_rate must be a number or 'auto', got {self.learning_rate!r}"
                )
            positive("learning_rate", self.learning_rate)

    @property
    def name(self) -> str:
        """What a result calls it."""
        passes = f"{self.passes} pass{'es' if self.passes > 1 else ''}"
        return f"SVRG ({passes} a round){', centred and scaled' if self.rescaled else ''}"

    def period(self, objective: Any) -> int:
        """Return the steps of a round: how often a run calls `refresh`, and looks."""
        return self.passes * mini_batches(objective, self.batch_size, "SVRG")[1]

    def draw(self, objective: Any, first: int, n: int) -> Array:
        """Return the rows of the steps from `first` on, shape (n, b), beside the objective's arrays."""
        size, batches = mini_batches(objective, self.batch_size, "SVRG")
        return drawn_rows(objective, size, batches, self.seed, first, n)

    def init(self, objective: Any, params: Tree) -> SVRGState:
        """Evaluate the whole objective at the first point, and find the step."""
        size, batches = mini_batches(objective, self.batch_size, "SVRG")
        value, grad = whole(objective, params)
        xp = backends.namespace(value)
        zero = xp.zeros_like(value)
        if self.learning_rate == AUTO:
            rate = 0.25 / curvature_seen(objective, params, size, batches, self.seed)
        else:
            rate = zero + float(self.learning_rate)
        return SVRGState(value, grad, params, rate, zero, zero + 1.0, zero)

    def step(
        self, objective: Any, params: Tree, state: SVRGState, drawn: Array
    ) -> tuple[Tree, SVRGState]:
        """Move the point by one mini-batch; the params stay until the round is over."""
        batches = mini_batches(objective, self.batch_size, "SVRG")[1]
        part = take_rows(objective, drawn)
        _, here = part.value_and_grad(state.point)
        _, there = part.value_and_grad(params)
        v = optree.tree_map(lambda a, b, g: a - b + g, here, there, state.grad)
        point = _plus(state.point, v, -state.rate)
        if nonsmooth(objective):
            point = objective.prox(point, state.rate)
        return params, state._replace(point=point, evaluations=state.evaluations + 2.0 / batches)

    def refresh(self, objective: Any, params: Tree, state: SVRGState) -> tuple[Tree, SVRGState]:
        """End a round: take the point with its full value and gradient, or go back with half the step."""
        value, grad = whole(objective, state.point)
        xp = backends.namespace(value)
        batch, rate = value.ndim, state.rate
        evaluations = state.evaluations + 1.0
        new, old = flatten(state.point, batch)[0], flatten(params, batch)[0]
        moved = over(largest(new - old), largest(new))
        if self.learning_rate != AUTO:
            return state.point, state._replace(
                value=value,
                grad=grad,
                moved=moved,
                iterations=state.iterations + 1.0,
                evaluations=evaluations,
            )
        noise = 16.0 * float(xp.finfo(value.dtype).eps) * xp.abs(state.value)
        # Near the minimum rounding hides the fall of the value; that of the gradient still shows.
        smaller = objective.grad_norm(grad, state.point) <= objective.grad_norm(state.grad, params)
        good = (value < state.value - noise) | ((value <= state.value + noise) & smaller)
        good = good & finite(grad, batch)
        taken = choose(good, state.point, params)
        rate = backends.clip(xp.where(good, GROWTH * rate, 0.5 * rate), high=LONGEST)
        return taken, state._replace(
            value=xp.where(good, value, state.value),
            grad=choose(good, grad, state.grad),
            point=taken,
            rate=rate,
            moved=xp.where(good, moved, state.moved),
            iterations=state.iterations + xp.astype(good, value.dtype),
            evaluations=evaluations,
        )
